//! The conflict index: which instances known here conflict with a footprint.
//!
//! The owner uses it for D0, and voters for their dependencies (PROTOCOL.md §3, §4). It keeps the
//! highest slot per key, owner and access mode. So its size depends on the number of keys in use,
//! not on their contention.

mod dropped;

pub use dropped::{DroppedIndex, KeySlots, SlotIndex};

use std::collections::BTreeSet;

use smallvec::SmallVec;

use crate::types::{Deps, Executed, Footprint, InstanceId, KeyHash, KeyedMap};
use dropped::{are_below, cover_slots, join_slots, raise_slot};

/// The conflicts among all instances known here.
///
/// Invariants:
///
/// 1. Every instance above `floor` whose payload was ever known here counts, even if it is decided
///    `Nop`: a vote may rest on it (PROTOCOL.md §3, †).
/// 2. Every instance accepted as `Nop` whose payload is unknown here is in `wildcards`.
#[derive(PartialEq, Debug)]
pub struct ConflictIndex {
    n: usize,
    keys: KeyedMap<KeyHash, KeySlots>,
    /// The highest slot of any command, per owner.
    any: Deps,
    /// The highest slot of a command that conflicts with everything, per owner.
    everything: Deps,
    /// Instances of unknown payload: they conflict with everything until their payload is known.
    wildcards: BTreeSet<InstanceId>,
    /// Everything up to here was executed by every member and is forgotten. It counts as covered.
    floor: Deps,
}

impl ConflictIndex {
    /// Empty, for a cluster of `n`.
    pub fn new(n: usize) -> ConflictIndex {
        ConflictIndex {
            n,
            keys: KeyedMap::default(),
            any: Deps::none(n),
            everything: Deps::none(n),
            wildcards: BTreeSet::new(),
            floor: Deps::none(n),
        }
    }

    /// For each owner, the highest slot known here that conflicts with `footprint`.
    pub fn conflicts(&self, footprint: &Footprint) -> Deps {
        let mut deps = self.floor.clone();
        deps.merge(&self.everything);
        match footprint.keys() {
            None => deps.merge(&self.any),
            Some(keys) => {
                for (key, access) in keys {
                    if let Some(slots) = self.keys.get(key) {
                        cover_slots(slots, *access, &mut deps);
                    }
                }
            }
        }
        for id in &self.wildcards {
            deps.raise(id.replica, id.slot);
        }
        deps
    }

    /// Adds an instance under its real payload, even if it is accepted as `Nop`.
    pub fn insert(&mut self, id: InstanceId, footprint: &Footprint) {
        self.wildcards.remove(&id);
        self.any.raise(id.replica, id.slot);
        let Some(keys) = footprint.keys() else {
            self.everything.raise(id.replica, id.slot);
            return;
        };
        let n = self.n;
        for (key, access) in keys {
            let slots = self.keys.entry(*key).or_insert_with(|| SmallVec::from_elem(0, 2 * n));
            raise_slot(slots, id, *access);
        }
    }

    /// An instance was accepted as `Nop`, and its payload is unknown here.
    pub fn insert_wildcard(&mut self, id: InstanceId) {
        self.wildcards.insert(id);
    }

    /// An instance of unknown payload was decided: a `Nop` whose payload was never seen here.
    pub fn remove_wildcard(&mut self, id: InstanceId) {
        self.wildcards.remove(&id);
    }

    /// These are decided, so their payload is known or no longer matters.
    pub(super) fn drop_wildcards(&mut self, decided: &Executed) {
        self.wildcards.retain(|id| !decided.contains(*id));
    }

    /// Everything up to here is forgotten, and counts as covered.
    pub fn floor(&self) -> &Deps {
        &self.floor
    }

    /// Adds the content of `other`.
    pub(super) fn join(&mut self, other: &SlotIndex) {
        let (any, everything) = other.overall();
        self.any.merge(any);
        self.everything.merge(everything);
        for (key, slots) in other.keys() {
            match self.keys.get_mut(&key) {
                Some(mine) => join_slots(mine, slots),
                None => {
                    self.keys.insert(key, slots.clone());
                }
            }
        }
    }

    /// Removes a key that has no slot above the floor.
    pub(super) fn forget_key(&mut self, key: KeyHash) {
        if self.keys.get(&key).is_some_and(|slots| are_below(slots, &self.floor)) {
            self.keys.remove(&key);
        }
    }

    /// Every member executed everything up to `floor`; `footprints` are those of the removed
    /// instances.
    pub fn forget<'a>(&mut self, floor: &Deps, footprints: impl Iterator<Item = &'a Footprint>) {
        self.floor.merge(floor);
        for footprint in footprints {
            for (key, _) in footprint.keys().unwrap_or_default() {
                self.forget_key(*key);
            }
        }
    }

    /// Breaks a rule on purpose: see `plant`.
    #[cfg(test)]
    pub(super) fn forget_one(&mut self, id: InstanceId) {
        let n = self.n;
        for (_, slots) in self.keys.unordered_mut() {
            for slot in [id.replica.index(), n + id.replica.index()] {
                if slots[slot] == id.slot {
                    slots[slot] = 0;
                }
            }
        }
    }

    /// The number of keys in the index.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ReplicaId, Slot};

    fn id(replica: usize, slot: Slot) -> InstanceId {
        InstanceId::new(ReplicaId::from_index(replica), slot)
    }

    #[test]
    fn reads_see_writes_and_writes_see_both() {
        let mut index = ConflictIndex::new(3);
        index.insert(id(0, 4), &Footprint::read(b"k"));
        index.insert(id(1, 2), &Footprint::write(b"k"));
        index.insert(id(2, 9), &Footprint::write(b"other"));
        assert_eq!(index.conflicts(&Footprint::read(b"k")), Deps::from_slots([0, 2, 0]));
        assert_eq!(index.conflicts(&Footprint::write(b"k")), Deps::from_slots([4, 2, 0]));
        assert_eq!(index.conflicts(&Footprint::Everything), Deps::from_slots([4, 2, 9]));
    }

    #[test]
    fn everything_conflicts_with_all() {
        let mut index = ConflictIndex::new(3);
        index.insert(id(1, 7), &Footprint::Everything);
        index.insert(id(1, 3), &Footprint::write(b"k"));
        assert_eq!(index.conflicts(&Footprint::read(b"x")), Deps::from_slots([0, 7, 0]));
    }

    #[test]
    fn an_unknown_payload_conflicts_with_everything_until_it_is_known() {
        let mut index = ConflictIndex::new(3);
        index.insert_wildcard(id(2, 5));
        assert_eq!(index.conflicts(&Footprint::read(b"x")), Deps::from_slots([0, 0, 5]));
        index.insert(id(2, 5), &Footprint::write(b"k"));
        assert_eq!(index.conflicts(&Footprint::read(b"x")), Deps::from_slots([0, 0, 0]));
        assert_eq!(index.conflicts(&Footprint::read(b"k")), Deps::from_slots([0, 0, 5]));
        index.insert_wildcard(id(2, 6));
        index.remove_wildcard(id(2, 6));
        assert_eq!(index.conflicts(&Footprint::read(b"x")), Deps::from_slots([0, 0, 0]));
    }

    #[test]
    fn what_every_member_executed_is_forgotten_but_covered() {
        let mut index = ConflictIndex::new(3);
        let (old, new) = (Footprint::write(b"old"), Footprint::write(b"new"));
        index.insert(id(0, 1), &old);
        index.insert(id(0, 2), &new);
        index.insert(id(1, 1), &new);
        let floor = Deps::from_slots([2, 0, 0]);
        index.forget(&floor, [&old, &new].into_iter());
        assert_eq!(index.keys(), 1, "`new` is still in use by the second owner");
        assert_eq!(index.conflicts(&old), floor);
        assert_eq!(index.conflicts(&new), Deps::from_slots([2, 1, 0]));
    }
}
