//! One instance at one replica (the table of PROTOCOL.md §3), and the set of all instances.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::{
    Ballot, Batch, Deps, InstanceId, ReplicaId, ReplicaSet, Slot, Time, Value, Written,
};

use super::message::{Phase, Record, Report};

/// Invariants:
///
/// 1. `ballot` never moves back, and `accepted <= ballot` until the decision.
/// 2. `accepted` moves with Accept and Commit, never with Recover: the second ballot is the fix of
///    the 2013 protocol.
/// 3. Once Committed, `value` and `deps` never change.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) phase: Phase,
    /// The highest ballot joined (`bal`).
    pub(super) ballot: Ballot,
    /// The ballot at which `(value, deps)` was last accepted (`abal`).
    pub(super) accepted: Ballot,
    /// The current value (`cmd`); `None` until one is known.
    pub(super) value: Option<Value>,
    pub(super) deps: Deps,
    /// Commands and dependencies as the owner first sent them (`init_cmd`, `init_deps`).
    pub(super) initial: Option<(Arc<Batch>, Deps)>,
    /// The owner's commands, once any message has shown them.
    pub(super) payload: Option<Arc<Batch>>,
    /// The record that has to be durable before any message about this instance leaves.
    pub(super) written: Written,
    /// The highest ballot seen in an AcceptOk, and who voted at it.
    pub(super) votes: (Ballot, ReplicaSet),
    /// The owner's count of PreAcceptOk, while it is still counting.
    pub(super) tally: Option<Box<Tally>>,
    /// The dependencies of a decision whose value, the owner's commands, has not arrived, and when
    /// it was announced. In memory only, as if the Commit were still on its way.
    pub(super) announced: Option<Box<(Deps, Time)>>,
    /// How often a recovery of it began here, and when the next one may begin.
    pub(super) attempts: u32,
    pub(super) not_before: Time,
}

/// A value proposed at a ballot.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    pub(super) ballot: Ballot,
    pub(super) value: Value,
    pub(super) deps: Deps,
}

/// The owner's count of PreAcceptOk (PROTOCOL.md §4.3).
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) voters: ReplicaSet,
    /// How many of them voted for the owner's dependencies unchanged.
    pub(super) same: usize,
    pub(super) union: Deps,
}

impl Instance {
    fn new(n: usize) -> Instance {
        Instance {
            phase: Phase::Initial,
            ballot: Ballot::OWNER,
            accepted: Ballot::OWNER,
            value: None,
            deps: Deps::none(n),
            initial: None,
            payload: None,
            written: Written::default(),
            votes: (Ballot::OWNER, ReplicaSet::EMPTY),
            tally: None,
            announced: None,
            attempts: 0,
            not_before: Time::ZERO,
        }
    }

    /// Promises to take no part in any ballot below `ballot`.
    pub(super) fn join(&mut self, ballot: Ballot) {
        assert!(ballot >= self.ballot, "a promise never moves back");
        self.ballot = ballot;
        if !ballot.is_owner() {
            self.tally = None;
        }
    }

    pub(super) fn is_committed(&self) -> bool {
        self.phase == Phase::Committed
    }

    /// The decision.
    pub(super) fn decision(&self) -> Option<(&Value, &Deps)> {
        let value = self.value.as_ref().filter(|_| self.is_committed())?;
        Some((value, &self.deps))
    }

    /// Counts an AcceptOk. Votes below the highest ballot seen no longer matter.
    pub(super) fn vote(&mut self, from: ReplicaId, ballot: Ballot) {
        if ballot > self.votes.0 {
            self.votes = (ballot, ReplicaSet::EMPTY);
        }
        if ballot == self.votes.0 {
            self.votes.1.insert(from);
        }
    }

    /// The records from which the instance can be rebuilt, except what may be forgotten.
    pub(super) fn records(&self, id: InstanceId) -> Vec<Record> {
        let mut records = Vec::new();
        // An instance accepted or decided as a Nop stays a conflict under its payload, so the
        // payload needs a record, whichever message showed it.
        let shown = self.initial.is_some() && !self.is_committed();
        let shown = shown || self.value.as_ref().is_some_and(|value| !value.is_nop());
        if let Some(batch) = self.payload.clone().filter(|_| !shown) {
            records.push(Record::Learned { id, batch });
        }
        if let Some((value, deps)) = self.decision() {
            let (value, deps) = (value.clone(), deps.clone());
            records.push(Record::Committed { id, value, deps });
            return records;
        }
        if let Some((batch, initial)) = self.initial.clone() {
            let ballot = self.ballot;
            records.push(match self.phase {
                Phase::Initial => Record::Validated { id, ballot, batch, initial },
                _ => Record::PreAccepted { id, batch, initial, deps: self.deps.clone() },
            });
        }
        if let (Phase::Accepted, Some(value)) = (self.phase, self.value.clone()) {
            let (ballot, deps) = (self.accepted, self.deps.clone());
            records.push(Record::Accepted { id, ballot, value, deps });
        }
        if self.ballot > self.accepted {
            records.push(Record::Joined { id, ballot: self.ballot });
        }
        records
    }

    /// The content of a RecoverOk.
    pub(super) fn report(&self) -> Report {
        Report {
            phase: self.phase,
            accepted: self.accepted,
            value: self.value.clone().map(|value| (value, self.deps.clone())),
            initial: self.initial.clone(),
        }
    }
}

/// All instances that are neither forgotten nor dropped.
#[derive(Debug)]
pub(super) struct Instances {
    owners: Vec<BTreeMap<Slot, Instance>>,
    /// Everything up to here was executed here, and its records are dropped.
    trimmed: Deps,
}

impl Instances {
    pub(super) fn new(n: usize) -> Instances {
        Instances { owners: (0..n).map(|_| BTreeMap::new()).collect(), trimmed: Deps::none(n) }
    }

    pub(super) fn get(&self, id: InstanceId) -> Option<&Instance> {
        self.owners[id.replica.index()].get(&id.slot)
    }

    pub(super) fn get_mut(&mut self, id: InstanceId) -> Option<&mut Instance> {
        self.owners[id.replica.index()].get_mut(&id.slot)
    }

    /// The instance; created as Initial if there is none.
    pub(super) fn entry(&mut self, id: InstanceId) -> &mut Instance {
        assert!(!self.is_trimmed(id), "what was dropped gets no record again: {id}");
        let n = self.owners.len();
        self.owners[id.replica.index()].entry(id.slot).or_insert_with(|| Instance::new(n))
    }

    /// Whether it was executed here and its record is dropped.
    pub(super) fn is_trimmed(&self, id: InstanceId) -> bool {
        self.trimmed.covers(id)
    }

    pub(super) fn trimmed(&self) -> &Deps {
        &self.trimmed
    }

    pub(super) fn is_committed(&self, id: InstanceId) -> bool {
        self.is_trimmed(id) || self.get(id).is_some_and(Instance::is_committed)
    }

    /// The known instances of `owner` above `slot`, in order.
    pub(super) fn above(
        &self,
        owner: ReplicaId,
        slot: Slot,
    ) -> impl Iterator<Item = (InstanceId, &Instance)> {
        let range = self.owners[owner.index()].range(slot.saturating_add(1)..);
        range.map(move |(slot, instance)| (InstanceId::new(owner, *slot), instance))
    }

    /// Drops everything up to `floor` and returns it.
    pub(super) fn trim(&mut self, floor: &Deps) -> Vec<(InstanceId, Instance)> {
        let mut gone = Vec::new();
        for (owner, slot) in floor.iter().filter(|(owner, slot)| *slot > self.trimmed.slot(*owner))
        {
            let instances = &mut self.owners[owner.index()];
            while let Some(first) = instances.first_entry().filter(|first| *first.key() <= slot) {
                let id = InstanceId::new(owner, *first.key());
                gone.push((id, first.remove()));
            }
        }
        self.trimmed.merge(floor);
        gone
    }

    /// Breaks a rule on purpose: see `plant`.
    #[cfg(test)]
    pub(super) fn remove(&mut self, id: InstanceId) {
        self.owners[id.replica.index()].remove(&id.slot);
    }

    /// All instances, by owner and slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (InstanceId, &Instance)> {
        ReplicaId::all(self.owners.len()).flat_map(|owner| self.above(owner, 0))
    }

    /// The number of instances.
    pub(super) fn len(&self) -> usize {
        self.owners.iter().map(BTreeMap::len).sum()
    }
}
