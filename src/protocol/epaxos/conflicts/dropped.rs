//! The index of dropped instances: it keeps executed instances as conflicts after their records are
//! gone, until every member has executed them (PROTOCOL.md §8a). `store` fills it, `acceptor` and
//! `recovery` query it, and every snapshot includes it.
//!
//! The highest slot per key and owner is enough. A recovery asks whether there is an executed,
//! conflicting command that its instance does not cover; if there is any, the highest is one. A
//! command executed while the recovered instance is undecided cannot cover that instance, or it
//! would have waited for it.

use std::collections::BTreeMap;
use std::ops::Bound;

use smallvec::SmallVec;

use crate::types::{Access, Deps, Footprint, InstanceId, KeyHash, ReplicaId, Slot};

/// The highest slots of one key: `n` of readers, then `n` of writers.
pub type KeySlots = SmallVec<[Slot; 10]>;

/// Adds an instance that accesses the key.
pub(super) fn raise_slot(slots: &mut KeySlots, id: InstanceId, access: Access) {
    let side = if access == Access::Write { slots.len() / 2 } else { 0 };
    let slot = &mut slots[side + id.replica.index()];
    *slot = (*slot).max(id.slot);
}

/// Raises `deps` to cover every slot that conflicts with this access to the key.
pub(super) fn cover_slots(slots: &KeySlots, access: Access, deps: &mut Deps) {
    let (reads, writes) = slots.split_at(slots.len() / 2);
    for (index, owner) in ReplicaId::all(writes.len()).enumerate() {
        deps.raise(owner, writes[index]);
        if access == Access::Write {
            deps.raise(owner, reads[index]);
        }
    }
}

/// Takes the higher of each pair of slots.
pub(super) fn join_slots(mine: &mut KeySlots, others: &KeySlots) {
    mine.iter_mut().zip(others).for_each(|(mine, slot)| *mine = (*mine).max(*slot));
}

/// Whether a key has no slot above `floor`.
pub(super) fn are_below(slots: &KeySlots, floor: &Deps) -> bool {
    let floor = floor.as_slots();
    slots.iter().zip(floor.iter().chain(floor)).all(|(slot, floor)| slot <= floor)
}

/// The conflicts that dropped instances leave.
#[derive(Clone, PartialEq, Debug)]
pub struct DroppedIndex {
    /// Instances executed as commands.
    pub commands: SlotIndex,
    /// Instances decided `Nop`, under the payload that was proposed. After an install, this also
    /// holds slots whose decision this replica never saw: it knows only that they are conflicts.
    pub nops: SlotIndex,
}

impl DroppedIndex {
    /// Empty, for a cluster of `n`.
    pub fn new(n: usize) -> DroppedIndex {
        DroppedIndex { commands: SlotIndex::new(n), nops: SlotIndex::new(n) }
    }

    /// Adds the content of another index.
    pub(crate) fn join(&mut self, other: &DroppedIndex) {
        self.commands.join(&other.commands);
        self.nops.join(&other.nops);
    }

    /// Roughly how many bytes it takes, including those of the same keys in the conflict index.
    pub(crate) fn bytes(&self) -> usize {
        self.commands.bytes() + self.nops.bytes()
    }
}

/// The highest slots per key, owner and access mode.
#[derive(Clone, PartialEq, Debug)]
pub struct SlotIndex {
    keys: BTreeMap<KeyHash, KeySlots>,
    /// The highest slot of any command, per owner.
    any: Deps,
    /// The highest slot of a command that conflicts with everything, per owner.
    everything: Deps,
}

impl SlotIndex {
    /// Empty, for a cluster of `n`.
    pub fn new(n: usize) -> SlotIndex {
        SlotIndex { keys: BTreeMap::new(), any: Deps::none(n), everything: Deps::none(n) }
    }

    /// Builds it from its parts; `None` unless each key has `2n` slots.
    pub fn from_parts(
        any: Deps,
        everything: Deps,
        keys: BTreeMap<KeyHash, KeySlots>,
    ) -> Option<SlotIndex> {
        let sound = keys.values().all(|slots| slots.len() == 2 * any.len());
        (sound && everything.len() == any.len()).then_some(SlotIndex { keys, any, everything })
    }

    /// The highest slots of any command, and of commands that conflict with everything.
    pub fn overall(&self) -> (&Deps, &Deps) {
        (&self.any, &self.everything)
    }

    /// Each key with its slots, in ascending order of keys.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = (KeyHash, &KeySlots)> {
        self.keys.iter().map(|(key, slots)| (*key, slots))
    }

    pub(crate) fn insert(&mut self, id: InstanceId, footprint: &Footprint) {
        self.any.raise(id.replica, id.slot);
        let Some(keys) = footprint.keys() else {
            self.everything.raise(id.replica, id.slot);
            return;
        };
        let n = self.any.len();
        for (key, access) in keys {
            let slots = self.keys.entry(*key).or_insert_with(|| SmallVec::from_elem(0, 2 * n));
            raise_slot(slots, id, *access);
        }
    }

    /// For each owner, the highest slot held here that conflicts with `footprint`.
    pub(crate) fn conflicts(&self, footprint: &Footprint) -> Deps {
        let Some(keys) = footprint.keys() else { return self.any.clone() };
        let mut deps = self.everything.clone();
        for (key, access) in keys {
            if let Some(slots) = self.keys.get(key) {
                cover_slots(slots, *access, &mut deps);
            }
        }
        deps
    }

    fn join(&mut self, other: &SlotIndex) {
        self.any.merge(&other.any);
        self.everything.merge(&other.everything);
        for (key, slots) in &other.keys {
            match self.keys.get_mut(key) {
                Some(mine) => join_slots(mine, slots),
                None => {
                    self.keys.insert(*key, slots.clone());
                }
            }
        }
    }

    /// Examines up to `at_most` keys after `after`, and removes and returns those with no slot
    /// above `floor`. Also returns the key to continue after, if there are more.
    pub(crate) fn sweep(
        &mut self,
        floor: &Deps,
        after: Option<KeyHash>,
        at_most: usize,
    ) -> (Vec<KeyHash>, Option<KeyHash>) {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut looked_at = self.keys.range((start, Bound::Unbounded)).take(at_most);
        let (mut gone, mut last, mut count) = (Vec::new(), None, 0);
        for (key, slots) in &mut looked_at {
            if are_below(slots, floor) {
                gone.push(*key);
            }
            last = Some(*key);
            count += 1;
        }
        for key in &gone {
            self.keys.remove(key);
        }
        (gone, last.filter(|_| count == at_most))
    }

    /// Breaks a rule on purpose: see `plant`.
    #[cfg(test)]
    pub(crate) fn clear(&mut self) {
        *self = SlotIndex::new(self.any.len());
    }

    fn bytes(&self) -> usize {
        // Counted twice: here, and for the same key in the conflict index.
        let key = 2 * (size_of::<(KeyHash, KeySlots)>() + 2 * self.any.len() * size_of::<Slot>());
        self.keys.len() * key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(replica: usize, slot: Slot) -> InstanceId {
        InstanceId::new(ReplicaId::from_index(replica), slot)
    }

    #[test]
    fn the_highest_conflicting_slot_is_known_by_access() {
        let mut index = SlotIndex::new(3);
        index.insert(id(0, 7), &Footprint::read(b"k"));
        index.insert(id(0, 3), &Footprint::read(b"k"));
        index.insert(id(1, 2), &Footprint::write(b"k"));
        assert_eq!(index.conflicts(&Footprint::read(b"k")), Deps::from_slots([0, 2, 0]));
        assert_eq!(index.conflicts(&Footprint::write(b"k")), Deps::from_slots([7, 2, 0]));
        index.insert(id(2, 5), &Footprint::Everything);
        assert_eq!(index.conflicts(&Footprint::read(b"x")), Deps::from_slots([0, 0, 5]));
        assert_eq!(index.conflicts(&Footprint::Everything), Deps::from_slots([7, 2, 5]));
    }

    #[test]
    fn a_sweep_goes_on_where_it_ended() {
        let mut index = SlotIndex::new(2);
        for slot in 1..=10 {
            index.insert(id(0, slot), &Footprint::write(&slot.to_le_bytes()));
        }
        let floor = Deps::from_slots([7, 9]);
        let (mut forgotten, mut after, mut rounds) = (0, None, 0);
        loop {
            let (gone, next) = index.sweep(&floor, after, 4);
            (forgotten, after, rounds) = (forgotten + gone.len(), next, rounds + 1);
            if after.is_none() {
                break;
            }
        }
        assert_eq!((forgotten, index.keys().len(), rounds), (7, 3, 3));
    }

    #[test]
    fn joining_takes_the_higher_of_each() {
        let (mut a, mut b) = (SlotIndex::new(2), SlotIndex::new(2));
        a.insert(id(0, 4), &Footprint::write(b"k"));
        b.insert(id(0, 3), &Footprint::write(b"k"));
        b.insert(id(1, 8), &Footprint::read(b"l"));
        a.join(&b);
        assert_eq!(a.conflicts(&Footprint::write(b"k")), Deps::from_slots([4, 0]));
        assert_eq!(a.conflicts(&Footprint::write(b"l")), Deps::from_slots([0, 8]));
        assert_eq!(a.conflicts(&Footprint::Everything), Deps::from_slots([4, 8]));
    }
}
