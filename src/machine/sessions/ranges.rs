//! Sets of sequences that take little memory if they have few holes. Used by `sessions`.

use smallvec::{SmallVec, smallvec};

/// A set of numbers as inclusive ranges, ascending and with a gap between any two. A client that
/// skips no sequence needs one range.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Ranges(SmallVec<[(u64, u64); 1]>);

impl Ranges {
    /// `None` unless the ranges ascend with gaps between them.
    pub(super) fn from_parts(parts: Vec<(u64, u64)>) -> Option<Ranges> {
        let well_formed = parts.iter().all(|(first, last)| first <= last)
            && parts.is_sorted_by(|a, b| a.1.checked_add(1).is_some_and(|next| next < b.0));
        well_formed.then(|| Ranges(SmallVec::from_vec(parts)))
    }

    /// The ranges, as pairs of first and last.
    pub(super) fn parts(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// Forgets everything below `first`.
    pub(super) fn drop_below(&mut self, first: u64) {
        let gone = self.0.partition_point(|(_, last)| *last < first);
        self.0.drain(..gone);
        if let Some(range) = self.0.first_mut() {
            range.0 = range.0.max(first);
        }
        self.0.shrink_to_fit();
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < number);
        self.0.get(at).is_some_and(|(first, _)| *first <= number)
    }

    /// Adds a number. Returns whether it was missing.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        // Usually the number directly after the last range.
        let at = match self.0.last() {
            None => {
                self.0 = smallvec![(number, number)];
                return true;
            }
            Some((_, last)) if *last < number => self.0.len(),
            Some(_) => self.0.partition_point(|(_, last)| *last < number),
        };
        if self.0.get(at).is_some_and(|(first, _)| *first <= number) {
            return false;
        }
        let joins_left = at > 0 && self.0[at - 1].1.checked_add(1) == Some(number);
        let joins_right =
            self.0.get(at).is_some_and(|(first, _)| number.checked_add(1) == Some(*first));
        match (joins_left, joins_right) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = number,
            (false, true) => self.0[at].0 = number,
            (false, false) => self.0.insert(at, (number, number)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(numbers in proptest::collection::vec(prop_oneof![
            4 => 0u64..40, 1 => u64::MAX - 5..=u64::MAX], 0..60), cut in 0u64..42) {
            let mut ranges = Ranges::default();
            let mut set = BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(ranges.insert(number), set.insert(number));
                prop_assert!(Ranges::from_parts(ranges.0.to_vec()).is_some(), "{:?}", ranges);
            }
            for number in (0..=41).chain(u64::MAX - 6..=u64::MAX) {
                prop_assert_eq!(ranges.contains(number), set.contains(&number));
            }
            ranges.drop_below(cut);
            prop_assert!(Ranges::from_parts(ranges.0.to_vec()).is_some(), "{:?}", ranges);
            for number in (0..=41).chain(u64::MAX - 6..=u64::MAX) {
                let kept = number >= cut && set.contains(&number);
                prop_assert_eq!(ranges.contains(number), kept);
            }
        }
    }
}
