//! Whose command is next. Certificates take turns, and so do the connections of each. The one that
//! has received least is next, counted from when it began to wait. So idle connections save up no
//! turns, and light users wait little (start-time fair queueing: Goyal, Vin, Cheng, 1996).

use std::collections::{BTreeSet, VecDeque};

use rustc_hash::FxHashMap;

/// A connection: the number of its certificate and its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Line {
    pub(super) account: u64,
    pub(super) number: u64,
}

/// The waiting items with their costs.
pub(super) struct Rota<T> {
    accounts: Ring,
    lines: FxHashMap<u64, Ring>,
    waiting: FxHashMap<Line, VecDeque<(u64, T)>>,
    len: usize,
}

/// One level of the hierarchy: its members, ordered by how much each has received.
#[derive(Default)]
struct Ring {
    /// The level's virtual time: the start tag of the item served last.
    now: u64,
    given: FxHashMap<u64, u64>,
    waiting: BTreeSet<(u64, u64)>,
}

impl Ring {
    /// `id` starts to wait.
    fn join(&mut self, id: u64) {
        let given = self.given.entry(id).or_default();
        *given = (*given).max(self.now);
        self.waiting.insert((*given, id));
    }

    fn first(&self) -> Option<u64> {
        self.waiting.first().map(|(_, id)| *id)
    }

    /// `id` receives something of this cost; `waits` says whether it waits for more.
    fn serve(&mut self, id: u64, cost: u64, waits: bool) {
        let given = self.given.entry(id).or_default();
        if !self.waiting.remove(&(*given, id)) {
            *given = (*given).max(self.now);
        }
        // Service out of turn says nothing about the others' progress, so virtual time stays.
        if self.waiting.first().is_none_or(|(first, _)| *first >= *given) {
            self.now = self.now.max(*given);
        }
        *given += cost;
        if waits {
            self.waiting.insert((*given, id));
        }
    }

    fn leave(&mut self, id: u64) {
        if let Some(given) = self.given.remove(&id) {
            self.waiting.remove(&(given, id));
        }
    }
}

impl<T> Rota<T> {
    pub(super) fn new() -> Rota<T> {
        let (accounts, lines, waiting) =
            (Ring::default(), FxHashMap::default(), FxHashMap::default());
        Rota { accounts, lines, waiting, len: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an item at the end of `line`.
    pub(super) fn push(&mut self, line: Line, cost: u64, item: T) {
        let queue = self.waiting.entry(line).or_default();
        queue.push_back((cost, item));
        self.len += 1;
        if queue.len() == 1 {
            let lines = self.lines.entry(line.account).or_default();
            if lines.first().is_none() {
                self.accounts.join(line.account);
            }
            lines.join(line.number);
        }
    }

    /// Takes the next item, with its line and its cost.
    pub(super) fn pop(&mut self) -> Option<(Line, u64, T)> {
        let account = self.accounts.first()?;
        let number = self.lines.get(&account)?.first()?;
        let line = Line { account, number };
        self.pop_from(line).map(|(cost, item)| (line, cost, item))
    }

    /// Takes the next item of this line, even if it is another line's turn.
    pub(super) fn pop_from(&mut self, line: Line) -> Option<(u64, T)> {
        let queue = self.waiting.get_mut(&line)?;
        let (cost, item) = queue.pop_front()?;
        let waits = !queue.is_empty();
        if !waits {
            self.waiting.remove(&line);
        }
        self.len -= 1;
        let lines = self.lines.entry(line.account).or_default();
        lines.serve(line.number, cost, waits);
        let waits = lines.first().is_some();
        self.accounts.serve(line.account, cost, waits);
        Some((cost, item))
    }

    /// Charges `line`, where no item waits, for a turn given at once.
    pub(super) fn serve_at_once(&mut self, line: Line, cost: u64) {
        let lines = self.lines.entry(line.account).or_default();
        lines.serve(line.number, cost, false);
        let waits = lines.first().is_some();
        self.accounts.serve(line.account, cost, waits);
    }

    /// Removes a closed connection and everything that waits in its line.
    pub(super) fn leave(&mut self, line: Line) {
        self.len -= self.waiting.remove(&line).map_or(0, |queue| queue.len());
        let Some(lines) = self.lines.get_mut(&line.account) else { return };
        lines.leave(line.number);
        if lines.given.is_empty() {
            self.lines.remove(&line.account);
            self.accounts.leave(line.account);
        } else if lines.first().is_none() {
            let given = self.accounts.given.get(&line.account).copied().unwrap_or_default();
            self.accounts.waiting.remove(&(given, line.account));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(account: u64, number: u64) -> Line {
        Line { account, number }
    }

    /// Fills each line with `count` items, and returns how many of the next `places` each line
    /// gets.
    fn shares(lines: &[(Line, usize, u64)], places: usize) -> Vec<usize> {
        let mut rota = Rota::new();
        for (index, (line, count, cost)) in lines.iter().enumerate() {
            (0..*count).for_each(|_| rota.push(*line, *cost, index));
        }
        let mut shares = vec![0; lines.len()];
        for _ in 0..places {
            let (_, _, index) = rota.pop().unwrap();
            shares[index] += 1;
        }
        shares
    }

    #[test]
    fn connections_of_one_certificate_share_what_one_connection_of_another_has() {
        let four = [1, 2, 3, 4].map(|number| (line(1, number), 1000, 1));
        let all: Vec<_> = four.into_iter().chain([(line(2, 5), 1000, 1)]).collect();
        assert_eq!(shares(&all, 80), [10, 10, 10, 10, 40]);
    }

    #[test]
    fn what_is_dear_comes_less_often() {
        let lines = [(line(1, 1), 1000, 1), (line(2, 2), 1000, 9)];
        assert_eq!(shares(&lines, 100), [90, 10]);
    }

    #[test]
    fn whoever_asks_for_one_thing_is_next_whatever_the_others_have_waiting() {
        let mut rota = Rota::new();
        for number in 1..=4 {
            (0..1000).for_each(|_| rota.push(line(1, number), 1, "flood"));
        }
        for _ in 0..100 {
            (0..7).for_each(|_| assert_eq!(rota.pop().unwrap().2, "flood"));
            rota.push(line(2, 9), 1, "slow");
            // At most one comes before it: the one whose turn it already was.
            let next = [rota.pop(), rota.pop()].map(|next| next.unwrap().2);
            assert!(next.contains(&"slow"), "{next:?}");
        }
    }

    #[test]
    fn nobody_saves_turns_up_by_being_quiet_or_by_coming_anew() {
        let mut rota = Rota::new();
        (0..1000).for_each(|_| rota.push(line(1, 1), 1, 1));
        (0..500).for_each(|_| assert_eq!(rota.pop().unwrap().2, 1));
        (0..10).for_each(|_| rota.push(line(2, 2), 1, 2));
        let next: Vec<u64> = (0..8).map(|_| rota.pop().unwrap().2).collect();
        assert_eq!(next.iter().filter(|who| **who == 2).count(), 4, "{next:?}");
        rota.leave(line(2, 2));
        (0..10).for_each(|_| rota.push(line(2, 3), 1, 2));
        let next: Vec<u64> = (0..8).map(|_| rota.pop().unwrap().2).collect();
        assert_eq!(next.iter().filter(|who| **who == 2).count(), 4, "{next:?}");
    }

    #[test]
    fn what_was_given_without_waiting_counts() {
        let mut rota = Rota::new();
        rota.serve_at_once(line(1, 1), 4);
        for _ in 0..6 {
            rota.push(line(1, 1), 1, 1);
            rota.push(line(2, 2), 1, 2);
        }
        let next: Vec<u64> = (0..6).map(|_| rota.pop().unwrap().2).collect();
        assert_eq!(next, [2, 2, 2, 2, 1, 2]);
    }

    #[test]
    fn whoever_is_served_out_of_turn_waits_the_longer_afterwards() {
        let mut rota = Rota::new();
        for _ in 0..10 {
            rota.push(line(1, 1), 1, 1);
            rota.push(line(2, 2), 1, 2);
        }
        (0..4).for_each(|_| assert_eq!(rota.pop_from(line(2, 2)), Some((1, 2))));
        assert_eq!(rota.pop_from(line(3, 3)), None);
        let next: Vec<u64> = (0..10).map(|_| rota.pop().unwrap().2).collect();
        assert_eq!(next, [1, 1, 1, 1, 1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn whoever_leaves_takes_those_who_wait_along() {
        let mut rota = Rota::new();
        rota.push(line(1, 1), 1, 'a');
        rota.push(line(1, 1), 1, 'b');
        rota.push(line(1, 2), 1, 'c');
        rota.leave(line(1, 1));
        assert_eq!(
            (rota.pop(), rota.pop(), rota.is_empty()),
            (Some((line(1, 2), 1, 'c')), None, true)
        );
        rota.push(line(1, 2), 1, 'd');
        rota.leave(line(1, 2));
        rota.leave(line(1, 2));
        assert_eq!((rota.pop(), rota.is_empty()), (None, true));
        assert!(rota.lines.is_empty() && rota.waiting.is_empty() && rota.accounts.given.is_empty());
    }
}
