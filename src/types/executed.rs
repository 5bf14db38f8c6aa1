//! The set of instances that a replica's state machine has executed.

use super::{Deps, InstanceId, ReplicaId, Slot};

/// A set of executed instances, including those decided `Nop`. Per owner: a prefix of its slots,
/// and ranges after it.
///
/// Invariants, for each owner: the ranges ascend, are not empty, leave a gap between each other,
/// and the first begins at least two after the prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Executed {
    floor: Deps,
    above: Vec<Vec<(Slot, Slot)>>,
}

impl Executed {
    /// The empty set, for a cluster of `n`.
    pub fn none(n: usize) -> Executed {
        Executed::up_to(Deps::none(n))
    }

    /// Everything up to `floor`, and nothing else.
    pub fn up_to(floor: Deps) -> Executed {
        let above = vec![Vec::new(); floor.len()];
        Executed { floor, above }
    }

    /// Adds the slots from `first` to `last`, both included, which must lie after all that the set
    /// holds of this owner. Returns `false` without a change if they do not, so untrusted ranges
    /// can be passed.
    pub fn extend(&mut self, owner: ReplicaId, first: Slot, last: Slot) -> bool {
        let ranges = &mut self.above[owner.index()];
        let end = ranges.last().map_or(self.floor.slot(owner), |(_, last)| *last);
        if first <= end || last < first {
            return false;
        }
        match ranges.last_mut() {
            _ if first > end + 1 => ranges.push((first, last)),
            Some((_, end)) => *end = last,
            None => self.floor.set(owner, last),
        }
        true
    }

    /// Adds an instance. Returns whether it was not in the set.
    pub fn insert(&mut self, id: InstanceId) -> bool {
        if self.contains(id) {
            return false;
        }
        let ranges = &mut self.above[id.replica.index()];
        let at = ranges.partition_point(|(_, last)| *last < id.slot);
        let follows = at > 0 && ranges[at - 1].1 + 1 == id.slot;
        let precedes = ranges.get(at).is_some_and(|(first, _)| id.slot + 1 == *first);
        match (follows, precedes) {
            (true, true) => ranges[at - 1].1 = ranges.remove(at).1,
            (true, false) => ranges[at - 1].1 = id.slot,
            (false, true) => ranges[at].0 = id.slot,
            (false, false) => ranges.insert(at, (id.slot, id.slot)),
        }
        self.settle(id.replica);
        true
    }

    /// Adds everything up to `floor`.
    pub fn raise(&mut self, floor: &Deps) {
        for (owner, slot) in floor.iter() {
            if self.floor.raise(owner, slot) {
                self.settle(owner);
            }
        }
    }

    /// Per owner, the highest slot in the set: a prefix that includes this includes the set.
    pub fn ends(&self) -> Deps {
        let end = |(owner, floor): (ReplicaId, Slot)| {
            self.above(owner).last().map_or(floor, |(_, last)| *last)
        };
        Deps::from_slots(self.floor.iter().map(end))
    }

    /// Joins the prefix of an owner with the ranges that it reaches.
    fn settle(&mut self, owner: ReplicaId) {
        let ranges = &mut self.above[owner.index()];
        let mut floor = self.floor.slot(owner);
        let reached = ranges.iter().take_while(|(first, last)| {
            let reaches = *first <= floor + 1;
            floor = if reaches { floor.max(*last) } else { floor };
            reaches
        });
        let reached = reached.count();
        ranges.drain(..reached);
        self.floor.set(owner, floor);
    }

    /// Per owner, the slot up to which every instance is in the set.
    pub fn floor(&self) -> &Deps {
        &self.floor
    }

    /// The ranges after the prefix of one owner, ascending, both ends included.
    pub fn above(&self, owner: ReplicaId) -> &[(Slot, Slot)] {
        &self.above[owner.index()]
    }

    /// Whether `id` is in the set.
    pub fn contains(&self, id: InstanceId) -> bool {
        if self.floor.covers(id) {
            return true;
        }
        let ranges = &self.above[id.replica.index()];
        let at = ranges.partition_point(|(_, last)| *last < id.slot);
        ranges.get(at).is_some_and(|(first, _)| *first <= id.slot)
    }

    /// Whether all of `other` is in the set.
    pub fn includes(&self, other: &Executed) -> bool {
        ReplicaId::all(self.floor.len()).all(|owner| {
            let whole = |(first, last): (Slot, Slot)| {
                let ranges = &self.above[owner.index()];
                let first = first.max(self.floor.slot(owner) + 1);
                let at = ranges.partition_point(|(_, end)| *end < first);
                first > last || ranges.get(at).is_some_and(|r| r.0 <= first && last <= r.1)
            };
            let prefix = (1, other.floor.slot(owner));
            std::iter::once(prefix).chain(other.above(owner).iter().copied()).all(whole)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R1: usize = 0;
    const R2: usize = 1;

    fn owner(index: usize) -> ReplicaId {
        ReplicaId::from_index(index)
    }

    fn set(ranges: &[(usize, Slot, Slot)]) -> Executed {
        let mut set = Executed::none(2);
        assert!(ranges.iter().all(|(r, first, last)| set.extend(owner(*r), *first, *last)));
        set
    }

    #[test]
    fn ranges_join_and_are_found() {
        let set = set(&[(R1, 1, 3), (R1, 4, 4), (R1, 6, 7), (R1, 8, 8), (R2, 2, 2)]);
        assert_eq!(set.floor(), &Deps::from_slots([4, 0]));
        assert_eq!((set.above(owner(R1)), set.above(owner(R2))), (&[(6, 8)][..], &[(2, 2)][..]));
        for (slot, within) in [(1, true), (4, true), (5, false), (6, true), (8, true), (9, false)] {
            assert_eq!(set.contains(InstanceId::new(owner(R1), slot)), within, "{slot}");
        }
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        let mut set = set(&[(R1, 1, 3), (R1, 6, 7)]);
        let before = set.clone();
        for (first, last) in [(2, 4), (7, 9), (5, 5), (9, 8), (0, 0)] {
            assert!(!set.extend(owner(R1), first, last), "{first} to {last}");
        }
        assert_eq!(set, before);
    }

    #[test]
    fn inclusion_looks_at_every_slot() {
        let small = set(&[(R1, 1, 3), (R1, 6, 7)]);
        assert!(small.includes(&small) && small.includes(&Executed::none(2)));
        for larger in [set(&[(R1, 1, 9)]), set(&[(R1, 1, 4), (R1, 6, 8), (R2, 1, 1)])] {
            assert!(larger.includes(&small) && !small.includes(&larger));
        }
        let other = set(&[(R1, 1, 5), (R1, 7, 9)]);
        assert!(!other.includes(&small) && !small.includes(&other));
    }

    #[test]
    fn what_is_inserted_in_any_order_is_what_was_extended_in_order() {
        let slots = [3, 1, 7, 9, 8, 2, 5, 12, 4];
        let mut inserted = Executed::none(2);
        for (count, slot) in slots.into_iter().enumerate() {
            let id = InstanceId::new(owner(R1), slot);
            assert!(inserted.insert(id) && !inserted.insert(id) && inserted.contains(id));
            let mut sorted = slots[..=count].to_vec();
            sorted.sort_unstable();
            let ranges: Vec<_> = sorted.into_iter().map(|slot| (R1, slot, slot)).collect();
            assert_eq!(inserted, set(&ranges), "{slot}");
        }
        assert_eq!(inserted.ends(), Deps::from_slots([12, 0]));
        inserted.raise(&Deps::from_slots([8, 3]));
        assert_eq!(inserted, set(&[(R1, 1, 9), (R1, 12, 12), (R2, 1, 3)]));
        inserted.raise(&Deps::from_slots([11, 0]));
        assert_eq!(inserted, set(&[(R1, 1, 12), (R2, 1, 3)]));
        inserted.raise(&Deps::from_slots([2, 2]));
        assert_eq!(inserted, set(&[(R1, 1, 12), (R2, 1, 3)]));
    }
}
