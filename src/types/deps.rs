//! Dependency vectors: for each owner, the slot up to which its instances are covered.

use std::fmt;

use smallvec::SmallVec;

use super::{InstanceId, ReplicaId, Slot};

/// A vector with one slot per owner (PROTOCOL.md §2). Covers every instance `(r, s)` with
/// `1 <= s <= self[r]`. Also used for other watermarks per owner.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Deps(SmallVec<[Slot; 5]>);

impl Deps {
    /// Covers nothing, in a cluster of `n`.
    pub fn none(n: usize) -> Deps {
        Deps(SmallVec::from_elem(0, n))
    }

    /// One slot per owner, in the owners' order.
    pub fn from_slots(slots: impl IntoIterator<Item = Slot>) -> Deps {
        Deps(slots.into_iter().collect())
    }

    /// The number of owners.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no owners. A cluster always has some.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The highest covered slot of `replica`; 0 if none is covered.
    pub fn slot(&self, replica: ReplicaId) -> Slot {
        self.0[replica.index()]
    }

    /// Covers `replica` up to exactly `slot`.
    pub fn set(&mut self, replica: ReplicaId, slot: Slot) {
        self.0[replica.index()] = slot;
    }

    /// Covers `replica` at least up to `slot`. Returns whether that changed anything.
    pub fn raise(&mut self, replica: ReplicaId, slot: Slot) -> bool {
        let mine = &mut self.0[replica.index()];
        let higher = slot > *mine;
        if higher {
            *mine = slot;
        }
        higher
    }

    /// Whether `id` is covered.
    pub fn covers(&self, id: InstanceId) -> bool {
        id.slot <= self.slot(id.replica)
    }

    /// Whether everything that `other` covers is covered.
    pub fn includes(&self, other: &Deps) -> bool {
        self.0.iter().zip(&other.0).all(|(mine, theirs)| mine >= theirs)
    }

    /// The union: the pointwise maximum (⊔).
    pub fn merge(&mut self, other: &Deps) {
        assert_eq!(self.len(), other.len(), "vectors of one cluster have one length");
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// The pointwise minimum.
    pub fn meet(&mut self, other: &Deps) {
        assert_eq!(self.len(), other.len(), "vectors of one cluster have one length");
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).min(*theirs);
        }
    }

    /// Each owner with its slot, in the owners' order.
    pub fn iter(&self) -> impl Iterator<Item = (ReplicaId, Slot)> + '_ {
        self.0.iter().enumerate().map(|(index, slot)| (ReplicaId::from_index(index), *slot))
    }

    /// The slots, in the owners' order.
    pub fn as_slots(&self) -> &[Slot] {
        &self.0
    }
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deps<const N: usize>(slots: [Slot; N]) -> Deps {
        Deps::from_slots(slots)
    }

    #[test]
    fn covers_a_prefix_of_each_owner() {
        let d = deps([0, 3, 1]);
        let id = |r, s| InstanceId::new(ReplicaId::from_index(r), s);
        assert!(d.covers(id(1, 3)) && d.covers(id(1, 1)) && d.covers(id(2, 1)));
        assert!(!d.covers(id(1, 4)) && !d.covers(id(0, 1)));
    }

    #[test]
    fn union_and_minimum_are_pointwise() {
        let mut d = deps([1, 5, 0]);
        d.merge(&deps([2, 4, 0]));
        assert_eq!(d, deps([2, 5, 0]));
        d.meet(&deps([9, 1, 9]));
        assert_eq!(d, deps([2, 1, 0]));
        assert!(d.includes(&deps([2, 0, 0])) && !d.includes(&deps([0, 2, 0])));
    }
}
