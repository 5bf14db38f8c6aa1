//! Faults of a cluster under load and when they happen: `kill 1 at 5s`. This is the grammar, with
//! errors that point at the word; `local` carries the faults out.
//!
//! ```text
//! kill R at T                      replica R crashes
//! kill leader at T                 the current leader crashes
//! restart R at T                   it starts again from its directory
//! pause R at T [for D]             it pauses; `leader` is possible, too
//! resume R at T                    it continues
//! partition R.. from R.. at T      no packet passes between the two groups
//! slow R by D at T                 all packets from and to it take D longer
//! link R-R by D [loss P%] at T     the same for one link, with packet loss
//! heal at T                        ends partitions, slowness and changes of links
//! ```
//!
//! `R` is a replica's number; separate several by commas or spaces. `T` and `D` are times such as
//! `5s`, `250ms`, `1.5s`; `T` counts from the end of the warm-up. Under a leaderless protocol,
//! `leader` means the replica that would lead under the others, so one schedule works for all
//! protocols.

use std::str::FromStr;
use std::time::Duration;

use super::span::parse_time;

/// A scheduled fault.
#[derive(Clone, PartialEq, Debug)]
pub struct Fault {
    /// When: after the end of the warm-up as written, after the start in a scenario.
    pub at: Duration,
    /// What happens.
    pub action: Action,
    /// The text of the fault.
    pub(in crate::load) text: String,
}

/// The target of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// The replica with this number.
    Replica(u8),
    /// The leader at that time.
    Leader,
}

impl Who {
    /// The replica's number, if given.
    pub fn number(self) -> Option<u8> {
        match self {
            Who::Replica(number) => Some(number),
            Who::Leader => None,
        }
    }
}

/// What a fault does.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// The replica crashes.
    Kill(Who),
    /// The replica starts again.
    Restart(u8),
    /// The replica pauses until it is resumed, or for this long.
    Pause(Who, Option<Duration>),
    /// The replica continues.
    Resume(u8),
    /// No packet passes between the two groups.
    Partition(Vec<u8>, Vec<u8>),
    /// All packets take this much longer, one way.
    Slow(u8, Duration),
    /// Packets between two replicas take this much longer, one way, and this share of them is lost,
    /// from 0 to 1.
    Link(u8, u8, Duration, f64),
    /// Restores the network.
    Heal,
}

impl Fault {
    /// A crash of a replica.
    pub(in crate::load) fn kill(who: Who, at: Duration) -> Fault {
        let name = who.number().map_or("leader".to_owned(), |number| number.to_string());
        Fault { at, action: Action::Kill(who), text: format!("kill {name} at {at:?}") }
    }

    /// The end of a pause.
    pub(in crate::load) fn resume(one: u8, at: Duration) -> Fault {
        Fault { at, action: Action::Resume(one), text: format!("resume {one}") }
    }

    /// A restart of a replica.
    pub(in crate::load) fn restart(one: u8, at: Duration) -> Fault {
        Fault { at, action: Action::Restart(one), text: format!("restart {one} at {at:?}") }
    }
}

impl Action {
    /// The replicas that it names.
    pub fn replicas(&self) -> Vec<u8> {
        match self {
            Action::Kill(one) | Action::Pause(one, _) => one.number().into_iter().collect(),
            Action::Restart(one) | Action::Resume(one) | Action::Slow(one, _) => vec![*one],
            Action::Link(one, other, ..) => vec![*one, *other],
            Action::Partition(these, those) => these.iter().chain(those).copied().collect(),
            Action::Heal => Vec::new(),
        }
    }

    /// Whether it targets the current leader.
    pub fn is_about_the_leader(&self) -> bool {
        matches!(self, Action::Kill(Who::Leader) | Action::Pause(Who::Leader, _))
    }

    /// The same action with the leader replaced by this replica.
    pub(in crate::load) fn about(self, leader: u8) -> Action {
        match self {
            Action::Kill(Who::Leader) => Action::Kill(Who::Replica(leader)),
            Action::Pause(Who::Leader, time) => Action::Pause(Who::Replica(leader), time),
            other => other,
        }
    }

    /// Whether it needs an emulated network.
    pub fn is_about_the_network(&self) -> bool {
        matches!(self, Action::Partition(..) | Action::Slow(..) | Action::Link(..) | Action::Heal)
    }
}

/// A fault that cannot be parsed: what is wrong, and at which word.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}\n  {text}\n  {:>at$}", "^", at = at + 1)]
pub struct BadFault {
    text: String,
    /// Position in characters.
    at: usize,
    what: String,
}

impl FromStr for Fault {
    type Err = BadFault;

    fn from_str(text: &str) -> Result<Fault, BadFault> {
        let mut words = Words::of(text);
        let action = action(&mut words)?;
        words.keyword("at")?;
        let at = words.time()?;
        let action = match action {
            Action::Pause(one, _) if words.peek() == Some("for") => {
                words.keyword("for")?;
                Action::Pause(one, Some(words.time()?))
            }
            other => other,
        };
        match words.peek() {
            Some(_) => Err(words.flaw("this is too much: the fault ends before it")),
            None => Ok(Fault { at, action, text: text.trim().to_owned() }),
        }
    }
}

fn action(words: &mut Words<'_>) -> Result<Action, BadFault> {
    const VERBS: &str = "kill, restart, pause, resume, partition, slow, link or heal";
    let verb = words.peek().unwrap_or_default();
    words.next += 1;
    Ok(match verb {
        "kill" => Action::Kill(words.who()?),
        "restart" => Action::Restart(words.replica()?),
        "pause" => Action::Pause(words.who()?, None),
        "resume" => Action::Resume(words.replica()?),
        "partition" => {
            let these = words.replicas("from")?;
            words.keyword("from")?;
            let here = words.next;
            let those = words.replicas("at")?;
            if these.iter().any(|one| those.contains(one)) {
                words.next = here;
                return Err(words.flaw("a replica cannot be on both sides"));
            }
            Action::Partition(these, those)
        }
        "slow" => {
            let replica = words.replica()?;
            words.keyword("by")?;
            Action::Slow(replica, words.time()?)
        }
        "link" => {
            let (one, other) = words.pair()?;
            words.keyword("by")?;
            let late = words.time()?;
            let mut loss = 0.0;
            if words.peek() == Some("loss") {
                words.next += 1;
                loss = words.percentage()?;
            }
            Action::Link(one, other, late, loss)
        }
        "heal" => Action::Heal,
        _ => {
            words.next -= 1;
            return Err(words.flaw(&format!("a fault begins with {VERBS}")));
        }
    })
}

/// The words of a fault, and how many have been read.
struct Words<'a> {
    text: &'a str,
    /// Each word with its start in bytes.
    words: Vec<(usize, &'a str)>,
    next: usize,
}

impl<'a> Words<'a> {
    fn of(text: &'a str) -> Words<'a> {
        let is_gap = |c: char| c.is_whitespace() || c == ',';
        let split = text.split(is_gap).filter(|word| !word.is_empty());
        let start = text.as_ptr() as usize;
        let words = split.map(|word| (word.as_ptr() as usize - start, word)).collect();
        Words { text, words, next: 0 }
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).map(|(_, word)| *word)
    }

    /// The error that the next word is wrong or missing.
    fn flaw(&self, what: &str) -> BadFault {
        let at = self.words.get(self.next).map_or(self.text.len(), |(at, _)| *at);
        let at = self.text[..at].chars().count();
        BadFault { text: self.text.to_owned(), at, what: what.to_owned() }
    }

    /// The next word, if it can be read.
    fn read<T>(&mut self, what: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, BadFault> {
        let value = self.peek().and_then(read).ok_or_else(|| self.flaw(what))?;
        self.next += 1;
        Ok(value)
    }

    fn keyword(&mut self, keyword: &str) -> Result<(), BadFault> {
        self.read(&format!("here belongs `{keyword}`"), |word| (word == keyword).then_some(()))
    }

    fn replica(&mut self) -> Result<u8, BadFault> {
        self.read("here belongs the number of a replica, from 1", number)
    }

    fn who(&mut self) -> Result<Who, BadFault> {
        self.read("here belongs the number of a replica, from 1, or `leader`", |word| match word {
            "leader" => Some(Who::Leader),
            other => number(other).map(Who::Replica),
        })
    }

    fn replicas(&mut self, end: &str) -> Result<Vec<u8>, BadFault> {
        let mut found = vec![self.replica()?];
        while self.peek().is_some_and(|word| word != end) {
            found.push(self.replica()?);
        }
        Ok(found)
    }

    fn pair(&mut self) -> Result<(u8, u8), BadFault> {
        self.read("here belong two replicas, as in 1-2", |word| {
            let (one, other) = word.split_once('-')?;
            let (one, other) = (number(one)?, number(other)?);
            (one != other).then_some((one, other))
        })
    }

    fn time(&mut self) -> Result<Duration, BadFault> {
        self.read("here belongs a time, such as 5s or 250ms", |word| parse_time(word).ok())
    }

    fn percentage(&mut self) -> Result<f64, BadFault> {
        self.read("here belongs a percentage, such as 5%", |word| {
            let percent: f64 = word.trim_end_matches('%').parse().ok()?;
            (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
        })
    }
}

fn number(word: &str) -> Option<u8> {
    word.parse().ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Fault {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn faults_are_understood() {
        let (second, five) = (Duration::from_secs(1), Duration::from_secs(5));
        for (text, action) in [
            ("kill 1 at 5s", Action::Kill(Who::Replica(1))),
            ("kill leader at 5s", Action::Kill(Who::Leader)),
            ("restart 12 at 5s", Action::Restart(12)),
            ("pause 2 at 5s", Action::Pause(Who::Replica(2), None)),
            ("pause leader at 5s for 1000ms", Action::Pause(Who::Leader, Some(second))),
            ("resume 2 at 5", Action::Resume(2)),
            ("partition 1,2 from 3 4 at 5s", Action::Partition(vec![1, 2], vec![3, 4])),
            ("slow 3 by 1s at 5s", Action::Slow(3, second)),
            ("link 1-3 by 1s at 5s", Action::Link(1, 3, second, 0.0)),
            ("link 1-3 by 1s loss 5% at 5s", Action::Link(1, 3, second, 0.05)),
            ("  heal at 5s ", Action::Heal),
        ] {
            let fault = parse(text);
            assert_eq!((fault.at, &fault.action), (five, &action));
            assert_eq!(fault.text, text.trim());
        }
    }

    #[test]
    fn errors_point_at_the_word() {
        for (text, at, word) in [
            ("", 0, "begins with"),
            ("kil 1 at 5s", 0, "begins with"),
            ("kill one at 5s", 5, "or `leader`"),
            ("restart leader at 5s", 8, "number of a replica"),
            ("kill 0 at 5s", 5, "number of a replica"),
            ("kill 1 in 5s", 7, "`at`"),
            ("kill 1", 6, "`at`"),
            ("kill 1 at noon", 10, "a time"),
            ("kill 1 at 5s for 1s", 13, "too much"),
            ("pause 1 at 5s for ever", 18, "a time"),
            ("partition 1 2 at 5s", 14, "number of a replica"),
            ("partition 1 2 from 2 at 5s", 19, "both sides"),
            ("link 1-1 by 5ms at 5s", 5, "two replicas"),
            ("link 1-2 by 5ms loss 200% at 5s", 21, "percentage"),
        ] {
            let error = text.parse::<Fault>().expect_err(text);
            assert_eq!(error.at, at, "{text}");
            assert!(error.what.contains(word), "{text}: {error}");
            let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
            assert_eq!(lines[2].find('^'), Some(2 + at), "{error}");
        }
    }
}
