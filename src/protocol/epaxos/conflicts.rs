//! The conflict index: for a footprint, which instances known here conflict with it.
//!
//! Used by the owner for D0 and by voters for theirs (protocol.md §3, §4). It keeps the highest
//! slot per key, owner and access mode, so its size depends on the keys in use, not on the
//! contention on them.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::types::{Access, Deps, Footprint, InstanceId, KeyHash, Slot};

/// Highest slots of one key: `n` of readers, then `n` of writers.
type KeySlots = SmallVec<[Slot; 10]>;

/// What conflicts with what, of all that is known here.
///
/// Invariants:
///
/// 1. Every instance whose payload was ever known here and that is not below `floor` counts, those
///    decided `Nop` too: a vote may rest on them (protocol.md §3, †).
/// 2. Every instance accepted as `Nop` whose payload is unknown here is in `wildcards`.
#[derive(Clone, PartialEq, Debug)]
pub struct ConflictIndex {
    n: usize,
    keys: FxHashMap<KeyHash, KeySlots>,
    /// The highest slot of any command, per owner.
    any: Deps,
    /// The highest slot of a command that conflicts with everything, per owner.
    everything: Deps,
    /// Instances that conflict with everything for as long as nobody here knows better.
    wildcards: BTreeSet<InstanceId>,
    /// Everything up to here was executed by every member and is forgotten; it counts as covered.
    floor: Deps,
}

/// A [`ConflictIndex`] laid open, for snapshots.
#[derive(Clone, PartialEq, Debug)]
pub struct SavedIndex {
    /// Everything up to here counts as covered.
    pub floor: Deps,
    /// The highest slot of any command, per owner.
    pub any: Deps,
    /// The highest slot of a command that conflicts with everything, per owner.
    pub everything: Deps,
    /// Instances of unknown payload, ascending.
    pub wildcards: Vec<InstanceId>,
    /// Keys, ascending: of each owner the highest slot of readers, then likewise of writers.
    pub keys: Vec<(KeyHash, Vec<Slot>)>,
}

impl ConflictIndex {
    /// Nothing known yet, in a cluster of `n`.
    pub fn new(n: usize) -> ConflictIndex {
        ConflictIndex {
            n,
            keys: FxHashMap::default(),
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
                    self.merge_key(*key, *access, &mut deps);
                }
            }
        }
        for id in &self.wildcards {
            deps.raise(id.replica, id.slot);
        }
        deps
    }

    fn merge_key(&self, key: KeyHash, access: Access, deps: &mut Deps) {
        let Some(slots) = self.keys.get(&key) else { return };
        let (reads, writes) = slots.split_at(self.n);
        for (index, owner) in crate::types::ReplicaId::all(self.n).enumerate() {
            deps.raise(owner, writes[index]);
            if access == Access::Write {
                deps.raise(owner, reads[index]);
            }
        }
    }

    /// Takes note of an instance's real payload, whatever it may be accepted as.
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
            let side = if *access == Access::Write { n } else { 0 };
            let slot = &mut slots[side + id.replica.index()];
            *slot = (*slot).max(id.slot);
        }
    }

    /// An instance was accepted as `Nop` and nobody here knows its payload.
    pub fn insert_wildcard(&mut self, id: InstanceId) {
        self.wildcards.insert(id);
    }

    /// An instance of unknown payload was decided: a `Nop` nobody here ever knew more about.
    pub fn remove_wildcard(&mut self, id: InstanceId) {
        self.wildcards.remove(&id);
    }

    /// Everything up to `floor` was executed by every member; `footprints` are those of what goes.
    pub fn forget<'a>(&mut self, floor: &Deps, footprints: impl Iterator<Item = &'a Footprint>) {
        self.floor.merge(floor);
        for footprint in footprints {
            for (key, _) in footprint.keys().unwrap_or_default() {
                let Some(slots) = self.keys.get(key) else { continue };
                let floor = self.floor.as_slots();
                if slots.iter().zip(floor.iter().chain(floor)).all(|(slot, floor)| slot <= floor) {
                    self.keys.remove(key);
                }
            }
        }
    }

    /// A rule broken on purpose: see `plant`.
    #[cfg(test)]
    pub(super) fn forget_one(&mut self, id: InstanceId) {
        let n = self.n;
        for slots in self.keys.values_mut() {
            for slot in [id.replica.index(), n + id.replica.index()] {
                if slots[slot] == id.slot {
                    slots[slot] = 0;
                }
            }
        }
    }

    /// All of it, in a form with one spelling.
    pub fn to_saved(&self) -> SavedIndex {
        let keys = self.keys.iter().map(|(key, slots)| (*key, slots.to_vec()));
        let mut keys: Vec<_> = keys.collect();
        keys.sort_unstable_by_key(|(key, _)| *key);
        SavedIndex {
            floor: self.floor.clone(),
            any: self.any.clone(),
            everything: self.everything.clone(),
            wildcards: self.wildcards.iter().copied().collect(),
            keys,
        }
    }

    /// The inverse of [`ConflictIndex::to_saved`].
    pub fn from_saved(saved: SavedIndex) -> ConflictIndex {
        ConflictIndex {
            n: saved.floor.len(),
            keys: saved.keys.into_iter().map(|(key, slots)| (key, slots.into())).collect(),
            any: saved.any,
            everything: saved.everything,
            wildcards: saved.wildcards.into_iter().collect(),
            floor: saved.floor,
        }
    }

    /// The number of keys it remembers.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ReplicaId;

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
