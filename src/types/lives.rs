//! Detects a replica that restarts from an older copy of its data directory (PROTOCOL.md §7a). A
//! directory can be restored from an older copy, or lose the end of its log. Then votes are gone
//! that others have acted on. The directory cannot tell, but the replicas that heard those votes
//! can. Pure; the node and the simulator call it at each connection.
//!
//! Each start of a replica is a *life* with a random name, and its directory keeps the chain of its
//! lives. Each frame carries the position up to which the sender's log is durable. A replica
//! remembers of each other the last life it heard and the furthest position. If two copies of a
//! directory both continue, they differ in a life, or one ends earlier. So at least one of them
//! lacks what is remembered.
//!
//! A loss is not found if no reachable replica heard of it. It is found when one that did connects;
//! then the copy that lacks it is refused.
//!
//! By then a third replica may have acted on what the older copy said. So replicas also compare
//! what they remember of all others ([`Known::agrees`]). Two replicas that acted on different
//! histories of a third must not form a quorum.

use super::LogPosition;

/// The most lives that a directory remembers. A peer that missed more restarts than this is
/// refused, which is safe.
pub const MAX_LIVES: usize = 4096;

/// Where a life of a directory began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Began {
    /// A random name, drawn when the replica was started.
    pub life: u64,
    /// How many records the log held at that moment.
    pub at: LogPosition,
}

/// The lives of a directory.
///
/// Invariants:
///
/// 1. Oldest first; no life occurs twice, and none begins before the previous one.
/// 2. At most [`MAX_LIVES`]; the oldest are dropped first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chain {
    lives: Vec<Began>,
}

/// What a replica remembers of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// The number of its data directory.
    pub directory: u64,
    /// The last life in which it was heard.
    pub life: u64,
    /// Where that life began; `None` if an earlier version noted it, which did not record this.
    pub began: Option<LogPosition>,
    /// The furthest position up to which its log is known to be durable.
    pub held: LogPosition,
}

/// What a replica tells about itself when it connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Presence {
    /// The number of its data directory; 0 if it keeps its records in memory.
    pub directory: u64,
    /// Its present life.
    pub life: u64,
    /// Where that life began.
    pub began: LogPosition,
    /// The position up to which its log is durable now.
    pub held: LogPosition,
}

impl Chain {
    /// Restores a chain from its lives; `None` if they break the first invariant or are too many.
    pub fn restored(lives: Vec<Began>) -> Option<Chain> {
        let rises = lives.windows(2).all(|pair| pair[0].at <= pair[1].at);
        let mut names: Vec<u64> = lives.iter().map(|began| began.life).collect();
        names.sort_unstable();
        names.dedup();
        let sound = rises && names.len() == lives.len() && lives.len() <= MAX_LIVES;
        sound.then_some(Chain { lives })
    }

    /// Begins the next life; `at` is the end of the log.
    ///
    /// # Panics
    /// If the log is shorter than when the previous life began.
    pub fn begin(&mut self, life: u64, at: LogPosition) {
        let before = self.lives.last().map_or(LogPosition::default(), |began| began.at);
        assert!(before <= at, "a log only grows: an open log holds what earlier lives held");
        if self.lives.len() == MAX_LIVES {
            self.lives.remove(0);
        }
        self.lives.push(Began { life, at });
    }

    /// All lives, oldest first.
    pub fn lives(&self) -> &[Began] {
        &self.lives
    }

    /// The present life.
    pub fn present(&self) -> Option<Began> {
        self.lives.last().copied()
    }

    /// How much of what the directory held in `life` is still in a log that ends at `end`. `None`
    /// if that life is not in the chain.
    pub fn keeps(&self, life: u64, end: LogPosition) -> Option<LogPosition> {
        let place = self.lives.iter().position(|began| began.life == life)?;
        Some(self.lives.get(place + 1).map_or(end, |next| next.at))
    }

    /// Whether a log that ends at `end` holds everything that `known` says of it.
    pub fn holds(&self, known: Known, end: LogPosition) -> bool {
        self.keeps(known.life, end).is_some_and(|kept| kept >= known.held)
    }
}

impl Known {
    /// What is remembered of a replica once it is known to be as `now` says, which contradicts
    /// nothing remembered `before`.
    #[must_use]
    pub fn or_later(before: Option<Known>, now: Known) -> Known {
        match before {
            Some(known) if (known.directory, known.life) == (now.directory, now.life) => {
                let (began, held) = (known.began.or(now.began), known.held.max(now.held));
                Known { began, held, ..known }
            }
            _ => now,
        }
    }

    /// Whether the replica that connects may be the one remembered, as far as can be told here. The
    /// other side has to check its own [`Chain`] too: an older copy that continued may have become
    /// longer than what is remembered.
    ///
    /// In the same life it is the same process, which has lost nothing. What it shows may be older
    /// than what it has since sent on another connection.
    pub fn may_be(&self, shown: &Presence) -> bool {
        let same_process = shown.life == self.life;
        shown.directory == self.directory && (same_process || shown.began >= self.held)
    }

    /// Whether this and another replica's memory can both be true of a directory without two
    /// histories. Then the later of the two lives began with everything that was heard of the
    /// earlier one. It does not matter when each was heard.
    ///
    /// Two histories are missed if the life heard in one of them began no earlier than the point up
    /// to which the other was heard. If it is unknown where a life began, it may have begun there.
    pub fn agrees(&self, other: &Known) -> bool {
        let follows =
            |later: &Known, earlier: &Known| later.began.is_none_or(|began| began >= earlier.held);
        self.directory == other.directory
            && (self.life == other.life || follows(self, other) || follows(other, self))
    }
}

impl Presence {
    /// What to remember of a replica that has just connected.
    pub fn known(&self) -> Known {
        let Presence { directory, life, began, held } = *self;
        Known { directory, life, began: Some(began), held }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(records: u64) -> LogPosition {
        LogPosition::new(records)
    }

    fn known(life: u64, held: u64) -> Known {
        Known { directory: 7, life, began: None, held: at(held) }
    }

    fn heard(life: u64, began: u64, held: u64) -> Known {
        Known { began: Some(at(began)), ..known(life, held) }
    }

    fn chain(lives: &[(u64, u64)]) -> Chain {
        let mut chain = Chain::default();
        lives.iter().for_each(|(life, began)| chain.begin(*life, at(*began)));
        chain
    }

    #[test]
    fn a_directory_that_only_went_on_holds_all_that_is_remembered() {
        let chain = chain(&[(1, 0), (2, 10), (3, 10), (4, 25)]);
        for (life, held) in [(1, 0), (1, 10), (2, 10), (3, 25), (4, 25), (4, 30)] {
            assert!(chain.holds(known(life, held), at(30)), "life {life}, {held} records");
        }
        for (life, held) in [(1, 11), (2, 11), (3, 26), (4, 31), (5, 0)] {
            assert!(!chain.holds(known(life, held), at(30)), "life {life}, {held} records");
        }
    }

    #[test]
    fn a_copy_that_has_become_longer_by_itself_is_found_by_its_chain() {
        // Copied at 10 records in the first life; the original was heard at 12.
        let copy = chain(&[(1, 0), (9, 10)]);
        let shown = Presence { directory: 7, life: 9, began: at(10), held: at(50) };
        assert!(!copy.holds(known(1, 12), at(50)) && !known(1, 12).may_be(&shown));
        // One life later, the peers that remember cannot tell from what it shows.
        let copy = chain(&[(1, 0), (9, 10), (10, 50)]);
        let shown = Presence { directory: 7, life: 10, began: at(50), held: at(60) };
        assert!(known(1, 12).may_be(&shown), "it began far enough");
        let earlier = Presence { held: at(55), ..shown };
        assert!(known(10, 60).may_be(&earlier), "it has said more since it said hello");
        assert!(!copy.holds(known(1, 12), at(60)), "and it knows that this is another branch");
    }

    /// A directory is started, written to, copied and restored in every combination of a few steps.
    /// Another branch holds what a peer remembers of one exactly if it continued from there.
    #[test]
    fn in_every_short_history_older_copies_and_only_those_are_refused() {
        const STEPS: u32 = 7;
        let (mut held, mut refused) = (0, 0);
        for history in 0..4u32.pow(STEPS) {
            let steps = (0..STEPS).map(|step| history / 4u32.pow(step) % 4);
            // A log lists the life that wrote each record, so two branches can be compared.
            let mut present = (Chain::default(), Vec::new());
            let mut copy = present.clone();
            let (mut next_life, mut remembered) = (1, Vec::new());
            present.0.begin(next_life, at(0));
            for step in steps {
                let (chain, log) = &mut present;
                match step {
                    0 => log.push(chain.present().expect("it began").life),
                    1 => copy = (chain.clone(), log.clone()),
                    2 => {
                        let life = chain.present().expect("it began").life;
                        let memory = known(life, log.len() as u64);
                        remembered.push((memory, log.clone()));
                    }
                    _ => {
                        std::mem::swap(&mut present, &mut copy);
                        next_life += 1;
                        present.0.begin(next_life, at(present.1.len() as u64));
                    }
                }
            }
            let (chain, log) = &present;
            for (memory, told) in &remembered {
                let whole = log.starts_with(told);
                let judged = chain.holds(*memory, at(log.len() as u64));
                // No vote rests on a life of which no record was heard.
                assert!(!judged || whole, "{history}: {memory:?} by {chain:?} of {log:?}");
                let own = chain.lives().iter().any(|began| began.life == memory.life);
                assert!(judged || !whole || !own, "{history}: {memory:?}, {chain:?}, {log:?}");
                *(if judged { &mut held } else { &mut refused }) += 1;
            }
        }
        assert!(held > 1000 && refused > 1000, "{held} held, {refused} refused");
    }

    #[test]
    fn two_memories_of_different_histories_do_not_agree() {
        // A copy of 10 records was restored after the original was heard at 12.
        for (one, other, agree) in [
            (heard(1, 0, 12), heard(9, 10, 11), false),
            (heard(1, 0, 12), heard(9, 10, 10), false),
            (heard(1, 0, 10), heard(9, 10, 11), true),
            (heard(1, 0, 12), heard(1, 0, 30), true),
            // The original was restarted when it held 30. A shorter copy may be an earlier state of
            // it.
            (heard(2, 30, 40), heard(9, 10, 30), true),
            (heard(2, 30, 40), heard(9, 10, 31), false),
            (known(1, 12), heard(9, 10, 11), true),
            (Known { directory: 8, ..heard(1, 0, 12) }, heard(1, 0, 12), false),
        ] {
            assert_eq!(one.agrees(&other), agree, "{one:?} and {other:?}");
            assert_eq!(other.agrees(&one), agree, "{other:?} and {one:?}");
        }
    }

    /// Two replicas remember something of a directory, in every short history of it and of a copy.
    /// They agree if the directory has one history. If it has two, and both replicas heard more
    /// than the two have in common, they agree only if one of them has heard a life that began
    /// after the histories separated.
    #[test]
    fn in_every_short_history_what_two_remember_agrees_unless_it_is_of_two_branches() {
        const STEPS: u32 = 8;
        let (mut linear, mut found, mut missed) = (0, 0, 0);
        for history in 0..4u32.pow(STEPS) {
            let mut present = (Chain::default(), Vec::new());
            let mut copy = present.clone();
            let (mut next_life, mut told) = (1, Vec::new());
            present.0.begin(next_life, at(0));
            for step in (0..STEPS).map(|step| history / 4u32.pow(step) % 4) {
                let (chain, log) = &mut present;
                let Began { life, at: began } = chain.present().expect("it began");
                match step {
                    0 => log.push(life),
                    1 => copy = (chain.clone(), log.clone()),
                    2 => {
                        let memory = heard(life, began.records(), log.len() as u64);
                        told.push((memory, chain.clone(), log.clone()));
                    }
                    _ => {
                        std::mem::swap(&mut present, &mut copy);
                        next_life += 1;
                        present.0.begin(next_life, at(present.1.len() as u64));
                    }
                }
            }
            for (place, (one, chain, log)) in told.iter().enumerate() {
                for (other, other_chain, other_log) in &told[..place] {
                    let end = |log: &Vec<u64>| at(log.len() as u64);
                    let went_on =
                        chain.holds(*other, end(log)) || other_chain.holds(*one, end(other_log));
                    let agree = one.agrees(other);
                    assert_eq!(agree, other.agrees(one));
                    assert!(agree || !went_on, "{history}: {one:?} and {other:?} are honest");
                    let common = log.iter().zip(other_log).take_while(|(a, b)| a == b).count();
                    let common = at(common as u64);
                    let parted = one.held > common && other.held > common;
                    let anew = one.began.max(other.began) > Some(common);
                    assert!(!agree || !parted || anew, "{history}: {one:?} and {other:?}");
                    *(match (went_on, agree) {
                        (true, _) => &mut linear,
                        (false, false) => &mut found,
                        (false, true) => &mut missed,
                    }) += 1;
                }
            }
        }
        let counts = format!("{linear} went on, {found} found, {missed} missed");
        assert!(linear > 1000 && found > 100 && missed > 0, "{counts}");
    }

    #[test]
    fn the_oldest_lives_are_forgotten_first_and_refused_then() {
        let mut chain = Chain::default();
        for life in 0..=MAX_LIVES as u64 {
            chain.begin(life, at(life));
        }
        assert_eq!(chain.lives().len(), MAX_LIVES);
        assert!(!chain.holds(known(0, 0), at(9999)) && chain.holds(known(1, 2), at(9999)));
        assert_eq!(Chain::restored(chain.lives().to_vec()), Some(chain));
    }

    #[test]
    fn a_chain_that_was_never_one_is_not_restored() {
        let began = |life, records| Began { life, at: at(records) };
        assert_eq!(Chain::restored(vec![began(1, 5), began(2, 4)]), None);
        assert_eq!(Chain::restored(vec![began(1, 5), began(1, 5)]), None);
        assert!(Chain::restored(vec![began(1, 5), began(2, 5)]).is_some());
    }
}
