//! The unexecuted instances by key and owner, in slot order.
//!
//! `graph` looks up an instance's edges here. An entry exists from the moment the payload is known
//! until the instance is executed or decided `Nop`, so the index is as large as the unexecuted
//! backlog.

use std::collections::BTreeMap;
use std::ops::Bound;

use smallvec::{SmallVec, smallvec};

use super::node::Node;
use crate::types::{Access, Footprint, InstanceId, KeyHash, KeyedMap, ReplicaId, ReplicaSet, Slot};

/// A longer list becomes a tree, so that inserting in the middle stays cheap.
const FEW: usize = 64;

/// Instances of one owner in slot order.
#[derive(Debug)]
pub(super) enum SlotList {
    /// Sorted.
    Few(SmallVec<[(Slot, Node); 1]>),
    /// Has been longer than [`FEW`]; removed when it is empty.
    Many(BTreeMap<Slot, Node>),
}

impl Default for SlotList {
    fn default() -> SlotList {
        SlotList::Few(SmallVec::new())
    }
}

impl SlotList {
    fn is_empty(&self) -> bool {
        match self {
            SlotList::Few(few) => few.is_empty(),
            SlotList::Many(many) => many.is_empty(),
        }
    }

    fn insert(&mut self, slot: Slot, node: Node) {
        match self {
            SlotList::Few(few) if few.len() < FEW => {
                few.insert(few.partition_point(|(other, _)| *other < slot), (slot, node));
            }
            SlotList::Few(few) => {
                let mut many: BTreeMap<_, _> = few.drain(..).collect();
                many.insert(slot, node);
                *self = SlotList::Many(many);
            }
            SlotList::Many(many) => {
                many.insert(slot, node);
            }
        }
    }

    fn remove(&mut self, slot: Slot) {
        match self {
            SlotList::Few(few) => {
                let at = few.partition_point(|(other, _)| *other < slot);
                assert!(few.get(at).is_some_and(|(s, _)| *s == slot), "it was indexed once");
                few.remove(at);
            }
            SlotList::Many(many) => {
                assert!(many.remove(&slot).is_some(), "it was indexed once");
                if many.is_empty() {
                    *self = SlotList::default();
                }
            }
        }
    }

    /// The highest slot at or below `bound`.
    pub(super) fn last_until(&self, bound: Slot) -> Option<(Slot, Node)> {
        match self {
            SlotList::Few(few) => {
                let at = few.partition_point(|(slot, _)| *slot <= bound);
                at.checked_sub(1).map(|at| few[at])
            }
            SlotList::Many(many) => {
                many.range(..=bound).next_back().map(|(slot, node)| (*slot, *node))
            }
        }
    }

    /// The lowest slot above `after` and at or below `bound`.
    pub(super) fn first_between(&self, after: Slot, bound: Slot) -> Option<(Slot, Node)> {
        if after >= bound {
            return None;
        }
        match self {
            SlotList::Few(few) => {
                let at = few.partition_point(|(slot, _)| *slot <= after);
                few.get(at).copied().filter(|(slot, _)| *slot <= bound)
            }
            SlotList::Many(many) => many
                .range((Bound::Excluded(after), Bound::Included(bound)))
                .next()
                .map(|(slot, node)| (*slot, *node)),
        }
    }
}

/// One owner's instances on one key.
#[derive(Debug, Default)]
pub(super) struct OwnerLists {
    pub(super) writes: SlotList,
    pub(super) reads: SlotList,
}

impl OwnerLists {
    fn list(&mut self, access: Access) -> &mut SlotList {
        match access {
            Access::Read => &mut self.reads,
            Access::Write => &mut self.writes,
        }
    }
}

/// The unexecuted instances on one key. Never empty.
#[derive(Debug)]
pub(super) struct KeyEntry(SmallVec<[(ReplicaId, OwnerLists); 1]>);

impl KeyEntry {
    /// The owners with an instance on the key.
    pub(super) fn owners(&self) -> ReplicaSet {
        self.0.iter().map(|(owner, _)| *owner).collect()
    }

    pub(super) fn owner(&self, owner: ReplicaId) -> Option<&OwnerLists> {
        self.0.iter().find(|(other, _)| *other == owner).map(|(_, lists)| lists)
    }

    fn owner_mut(&mut self, owner: ReplicaId) -> &mut OwnerLists {
        let at = match self.0.iter().position(|(other, _)| *other == owner) {
            Some(at) => at,
            None => {
                self.0.push((owner, OwnerLists::default()));
                self.0.len() - 1
            }
        };
        &mut self.0[at].1
    }
}

/// The unexecuted instances of all owners.
#[derive(Debug)]
pub(super) struct Index {
    keys: KeyedMap<KeyHash, KeyEntry>,
    /// Per owner, the instances that conflict with everything.
    everything: Vec<SlotList>,
    /// The total length of `everything`. It is mostly 0, and then lookups are skipped.
    barriers: usize,
}

impl Index {
    pub(super) fn new(n: usize) -> Index {
        let everything = (0..n).map(|_| SlotList::default()).collect();
        Index { keys: KeyedMap::default(), everything, barriers: 0 }
    }

    pub(super) fn key(&self, key: KeyHash) -> Option<&KeyEntry> {
        self.keys.get(&key)
    }

    /// The owner's instances that conflict with everything.
    pub(super) fn everything(&self, owner: ReplicaId) -> &SlotList {
        &self.everything[owner.index()]
    }

    pub(super) fn has_barriers(&self) -> bool {
        self.barriers > 0
    }

    pub(super) fn insert(&mut self, id: InstanceId, footprint: &Footprint, node: Node) {
        let Some(keys) = footprint.keys() else {
            self.everything[id.replica.index()].insert(id.slot, node);
            self.barriers += 1;
            return;
        };
        for (key, access) in keys {
            let entry = self.keys.entry(*key).or_insert_with(|| KeyEntry(smallvec![]));
            entry.owner_mut(id.replica).list(*access).insert(id.slot, node);
        }
    }

    pub(super) fn remove(&mut self, id: InstanceId, footprint: &Footprint) {
        let Some(keys) = footprint.keys() else {
            self.everything[id.replica.index()].remove(id.slot);
            self.barriers -= 1;
            return;
        };
        for (key, access) in keys {
            let entry = self.keys.get_mut(key).expect("an indexed instance's keys are indexed");
            let lists = entry.owner_mut(id.replica);
            lists.list(*access).remove(id.slot);
            if lists.reads.is_empty() && lists.writes.is_empty() {
                entry.0.retain(|(owner, _)| *owner != id.replica);
                if entry.0.is_empty() {
                    self.keys.remove(key);
                }
            }
        }
    }

    /// Whether the index is empty.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.barriers == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_answers_the_same_short_and_long() {
        for len in [3, 500] {
            let mut list = SlotList::default();
            for slot in (1..=len).rev() {
                list.insert(2 * slot, Node::try_from(slot).unwrap());
            }
            assert_eq!(list.last_until(1), None);
            assert_eq!(list.last_until(5), Some((4, 2)));
            assert_eq!(list.first_between(4, 6), Some((6, 3)));
            assert_eq!(list.first_between(4, 5), None);
            assert_eq!(list.first_between(9, 4), None);
            assert_eq!(list.last_until(Slot::MAX).map(|(slot, _)| slot), Some(2 * len));
            list.remove(4);
            assert_eq!(list.last_until(5), Some((2, 1)));
            for slot in (1..=len).filter(|slot| *slot != 2) {
                list.remove(2 * slot);
            }
            assert!(list.is_empty());
        }
    }

    #[test]
    fn an_emptied_key_leaves() {
        let mut index = Index::new(2);
        let id = |r, s| InstanceId::new(ReplicaId::from_index(r), s);
        let both = Footprint::from_keys([(KeyHash(1), Access::Read), (KeyHash(2), Access::Write)]);
        index.insert(id(0, 1), &both, 0);
        index.insert(id(1, 1), &both, 1);
        index.insert(id(1, 2), &Footprint::Everything, 2);
        index.remove(id(0, 1), &both);
        assert!(index.key(KeyHash(1)).is_some_and(|e| e.owner(id(0, 1).replica).is_none()));
        index.remove(id(1, 1), &both);
        assert!(index.key(KeyHash(1)).is_none() && index.has_barriers());
        index.remove(id(1, 2), &Footprint::Everything);
        assert!(index.is_empty());
    }
}
