//! The executed commands of a session: their sequences and contents. Used by `session`.

use std::collections::{BTreeSet, VecDeque};

/// A command of a session: its sequence, and a keyed hash of its payload.
pub(super) type Content = (u64, u64);

/// A content is inserted in `recent` only within this many entries of its end. A client that sends
/// skipped sequences late must not make every insertion move all later entries.
const NEAR: usize = 512;

/// A set of contents, most of which arrive in the order of their sequences.
///
/// Invariants:
///
/// 1. `recent` ascends; no content is in both.
/// 2. All of `late` is below the last of `recent`.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    recent: VecDeque<Content>,
    /// Contents that arrived when more than `NEAR` higher ones were stored.
    late: BTreeSet<Content>,
}

impl Contents {
    /// `None` unless the contents ascend.
    pub(super) fn from_sorted(all: Vec<Content>) -> Option<Contents> {
        let ascend = all.is_sorted_by(|a, b| a < b);
        ascend.then(|| Contents { recent: all.into(), late: BTreeSet::new() })
    }

    /// All contents, ascending.
    pub(super) fn sorted(&self) -> Vec<Content> {
        let mut all: Vec<Content> = self.late.iter().chain(&self.recent).copied().collect();
        if !self.late.is_empty() {
            all.sort_unstable();
        }
        all
    }

    pub(super) fn len(&self) -> usize {
        self.recent.len() + self.late.len()
    }

    pub(super) fn contains(&self, content: Content) -> bool {
        self.recent.binary_search(&content).is_ok() || self.late.contains(&content)
    }

    /// Adds a content. Returns whether it was missing.
    pub(super) fn insert(&mut self, content: Content) -> bool {
        if self.recent.back().is_none_or(|last| *last < content) {
            if self.recent.capacity() == 0 {
                // Many sessions have only one command.
                self.recent.reserve_exact(1);
            }
            self.recent.push_back(content);
            return true;
        }
        let at = self.recent.partition_point(|it| *it < content);
        if self.recent[at] == content || self.late.contains(&content) {
            return false;
        }
        if self.recent.len() - at > NEAR {
            return self.late.insert(content);
        }
        self.recent.insert(at, content);
        true
    }

    /// Removes everything below a sequence.
    pub(super) fn drop_below(&mut self, sequence: u64) {
        let gone = self.recent.partition_point(|it| it.0 < sequence);
        self.recent.drain(..gone);
        self.recent.shrink_to_fit();
        self.late = self.late.split_off(&(sequence, 0));
    }

    /// The lowest sequence from which at most `most` contents are left; 0 if there are no more in
    /// all.
    pub(super) fn floor_for(&self, most: usize) -> u64 {
        let Some(first_out) = self.len().checked_sub(most + 1) else { return 0 };
        // It goes with its whole sequence: keeping some contents of one would depend on an order.
        self.sorted()[first_out].0.saturating_add(1)
    }
}

impl PartialEq for Contents {
    fn eq(&self, other: &Contents) -> bool {
        self.sorted() == other.sorted()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Mostly ascending, with holes that are filled late, and several contents per sequence.
    fn inserted() -> impl Strategy<Value = Vec<Content>> {
        let near = (0u64..8, 0u64..3);
        let one = prop_oneof![9 => near.prop_map(Some), 1 => Just(None)];
        proptest::collection::vec((one, 0u64..3000), 0..3000).prop_map(|all| {
            let place = |(at, (near, far)): (usize, (Option<Content>, u64))| match near {
                Some((back, content)) => ((at as u64 + 8 - back) * 2, content),
                None => (far, 7),
            };
            all.into_iter().enumerate().map(place).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn contents_are_a_set(all in inserted(), cut in 0u64..7000, most in 0usize..3000) {
            let (mut contents, mut set) = (Contents::default(), BTreeSet::new());
            for content in &all {
                prop_assert_eq!(contents.insert(*content), set.insert(*content));
                prop_assert!(contents.contains(*content));
            }
            prop_assert_eq!(contents.sorted(), set.iter().copied().collect::<Vec<_>>());
            let floor = contents.floor_for(most);
            let left = |floor: u64| set.iter().filter(|it| it.0 >= floor).count();
            prop_assert!(left(floor) <= most);
            prop_assert!(floor == 0 || left(floor - 1) > most);
            contents.drop_below(cut);
            set.retain(|it| it.0 >= cut);
            prop_assert_eq!(contents.sorted(), set.iter().copied().collect::<Vec<_>>());
            prop_assert!(all.iter().all(|it| contents.contains(*it) == set.contains(it)));
            prop_assert_eq!(Contents::from_sorted(contents.sorted()), Some(contents));
        }
    }

    #[test]
    fn what_comes_late_moves_little() {
        let mut contents = Contents::default();
        (0..10_000).for_each(|sequence| assert!(contents.insert((sequence * 2, 0))));
        for sequence in (0..9_000).map(|it| it * 2 + 1) {
            assert!(contents.insert((sequence, 0)) && !contents.insert((sequence, 0)));
        }
        assert!(contents.recent.len() <= 10_000 + NEAR, "{}", contents.recent.len());
        assert_eq!(contents.len(), 19_000);
    }
}
