//! A session's sequence numbers, and the floor sent with them.

use std::collections::{BTreeMap, BTreeSet};

/// Hands out sequences from 1, and tracks the floor: the lowest sequence that is not finished.
///
/// Invariants:
///
/// 1. Everything below `floor` is finished; `floor` itself is not.
/// 2. `finished` holds the finished sequences above `floor`.
/// 3. `gaps` holds the ranges above `floor` never handed out: the first, and the one after the
///    last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Numbering {
    next: u64,
    floor: u64,
    finished: BTreeSet<u64>,
    gaps: BTreeMap<u64, u64>,
}

impl Default for Numbering {
    fn default() -> Numbering {
        Numbering::starting_at(1)
    }
}

impl Numbering {
    /// The numbering of a session that has finished all sequences below `next`.
    pub fn starting_at(next: u64) -> Numbering {
        let next = next.max(1);
        Numbering { next, floor: next, finished: BTreeSet::new(), gaps: BTreeMap::new() }
    }

    /// Skips all sequences below `first` that have not been handed out.
    pub fn skip_to(&mut self, first: u64) {
        if first <= self.next {
            return;
        }
        if self.floor == self.next {
            self.floor = first;
        } else {
            self.gaps.insert(self.next, first);
        }
        self.next = first;
    }

    /// Returns a sequence never handed out before, and the floor to send with it.
    ///
    /// # Panics
    /// If all 2^64 sequences have been handed out.
    pub fn start(&mut self) -> (u64, u64) {
        let sequence = self.next;
        self.next = sequence.checked_add(1).expect("a session has fewer than 2^64 commands");
        (sequence, self.floor)
    }

    /// The floor to send with a retry of `sequence`; `sequence` and all below count as handed out.
    /// `None` if it is finished: its result may be gone.
    pub fn restart(&mut self, sequence: u64) -> Option<u64> {
        self.next = self.next.max(sequence.saturating_add(1));
        (sequence >= self.floor && !self.finished.contains(&sequence)).then_some(self.floor)
    }

    /// The caller has the answer to `sequence`, or will never ask for it again.
    pub fn finish(&mut self, sequence: u64) {
        if sequence > self.floor {
            self.finished.insert(sequence);
        } else if sequence == self.floor {
            self.floor += 1;
            loop {
                if self.finished.remove(&self.floor) {
                    self.floor += 1;
                } else if let Some(behind) = self.gaps.remove(&self.floor) {
                    self.floor = behind;
                } else {
                    return;
                }
            }
        }
    }

    /// The lowest sequence that is not finished.
    pub fn floor(&self) -> u64 {
        self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_lowest_unfinished() {
        let mut numbers = Numbering::default();
        assert_eq!([numbers.start(), numbers.start(), numbers.start()], [(1, 1), (2, 1), (3, 1)]);
        numbers.finish(2);
        assert_eq!((numbers.start(), numbers.floor()), ((4, 1), 1));
        numbers.finish(1);
        assert_eq!(numbers.floor(), 3);
        numbers.finish(1);
        numbers.finish(4);
        numbers.finish(3);
        assert_eq!((numbers.start(), numbers.floor()), ((5, 5), 5));
    }

    #[test]
    fn what_is_skipped_is_no_hole_in_the_floor() {
        let mut numbers = Numbering::default();
        numbers.skip_to(100);
        assert_eq!((numbers.start(), numbers.start()), ((100, 100), (101, 100)));
        numbers.skip_to(200);
        numbers.skip_to(150);
        assert_eq!(numbers.start(), (200, 100));
        numbers.finish(200);
        numbers.finish(101);
        assert_eq!(numbers.floor(), 100);
        numbers.finish(100);
        assert_eq!((numbers.floor(), numbers.start()), (201, (201, 201)));
    }

    #[test]
    fn a_sequence_is_tried_again_until_it_is_finished() {
        let mut numbers = Numbering::starting_at(7);
        assert_eq!(numbers.restart(9), Some(7));
        assert_eq!(numbers.start(), (10, 7), "never handed out twice");
        numbers.finish(9);
        assert_eq!(
            (numbers.restart(9), numbers.restart(6), numbers.restart(7)),
            (None, None, Some(7))
        );
    }
}
