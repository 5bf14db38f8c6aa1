//! Store: the state of every instance known here, the conflict index, and each owner's frontier.
//! Every part uses it; it uses none of them.

use std::sync::Arc;

use super::conflicts::{ConflictIndex, DroppedIndex};
use super::instances::{Instance, Instances};
use super::{CommitValue, ExecutedDecision, Fx, Message, Path, Phase};
use crate::types::{
    Batch, Decision, Deps, Executed, Footprint, InstanceId, KeyHash, ReplicaId, Slot, Value,
    Written,
};

/// Roughly how many bytes of memory an instance with this payload takes.
fn weight(batch: &Batch) -> usize {
    let keys: usize =
        batch.commands().iter().map(|c| c.footprint.keys().map_or(0, <[_]>::len)).sum();
    512 + batch.bytes() + size_of_val(batch.commands()) + keys * 32
}

/// How far one owner's instances are known.
#[derive(Clone, Copy, Debug, Default)]
struct Frontier {
    /// K: every decision up to here is known.
    known: Slot,
    /// The highest slot known to exist.
    highest: Slot,
}

/// Everything known here about instances.
///
/// Invariants:
///
/// 1. Every payload in `instances` is in `index`, and counted in `kept_bytes`.
/// 2. Everything in `dropped` is also in `index`.
/// 3. `frontiers[r].known` is the highest slot of `r` up to which every decision is known.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) instances: Instances,
    index: ConflictIndex,
    /// The conflicts that dropped instances leave.
    dropped: DroppedIndex,
    frontiers: Vec<Frontier>,
    /// Per owner, the highest slot decided as `Nop` whose payload was never seen here. Most likely
    /// its owner lost it in a restart.
    unseen: Deps,
    /// Roughly how many bytes the instances take.
    kept_bytes: usize,
}

impl Store {
    pub(super) fn new(n: usize) -> Store {
        Store {
            instances: Instances::new(n),
            index: ConflictIndex::new(n),
            dropped: DroppedIndex::new(n),
            frontiers: vec![Frontier::default(); n],
            unseen: Deps::none(n),
            kept_bytes: 0,
        }
    }

    /// Roughly how many bytes it keeps because some member may still need them.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes + self.dropped.bytes()
    }

    /// Roughly how many bytes the instances that are not dropped take.
    pub(super) fn instance_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Whether the instance needs no handling: the id is invalid, or the instance is dropped.
    pub(super) fn is_stale(&self, id: InstanceId) -> bool {
        self.is_nonsense(id) || self.instances.is_trimmed(id)
    }

    /// Whether the id is invalid: there is no such slot or owner.
    pub(super) fn is_nonsense(&self, id: InstanceId) -> bool {
        id.slot == 0 || id.replica.index() >= self.frontiers.len()
    }

    /// The conflict index.
    pub(super) fn index(&self) -> &ConflictIndex {
        &self.index
    }

    /// Both indexes, for breaking a rule on purpose.
    #[cfg(test)]
    pub(super) fn indexes(&mut self) -> (&mut ConflictIndex, &mut DroppedIndex) {
        (&mut self.index, &mut self.dropped)
    }

    /// Per owner, the highest slot known here that conflicts with `footprint`.
    pub(super) fn conflicts(&self, footprint: &Footprint) -> Deps {
        self.index.conflicts(footprint)
    }

    /// The conflicts that dropped instances leave.
    pub(super) fn dropped(&self) -> &DroppedIndex {
        &self.dropped
    }

    /// Per owner, the highest slot of a dropped command that conflicts with `footprint`.
    pub(super) fn dropped_conflicts(&self, footprint: &Footprint) -> Deps {
        self.dropped.commands.conflicts(footprint)
    }

    /// Everything up to here is forgotten: every member has durably executed it.
    pub(super) fn forgotten(&self) -> &Deps {
        self.index.floor()
    }

    /// It is accepted as `Nop`, and its payload is unknown here: it conflicts with everything.
    pub(super) fn note_wildcard(&mut self, id: InstanceId) {
        self.index.insert_wildcard(id);
    }

    /// These are decided, so their payload is known or no longer matters.
    pub(super) fn drop_wildcards(&mut self, decided: &Executed) {
        self.index.drop_wildcards(decided);
    }

    /// The owner's commands became known: from now on they count as a conflict (PROTOCOL.md §3).
    pub(super) fn learn_payload(&mut self, id: InstanceId, batch: &Arc<Batch>, fx: &mut Fx) {
        if self.note_payload(id, batch) {
            fx.learned.push((id, batch.clone()));
        }
    }

    /// Like [`Store::learn_payload`], without an effect. Returns whether the payload is new.
    pub(super) fn note_payload(&mut self, id: InstanceId, batch: &Arc<Batch>) -> bool {
        let instance = self.instances.entry(id);
        if let Some(known) = &instance.payload {
            assert!(Arc::ptr_eq(known, batch) || known == batch, "an owner proposes once: {id}");
            return false;
        }
        instance.payload = Some(batch.clone());
        self.kept_bytes += weight(batch);
        self.index.insert(id, batch.footprint());
        self.see(id.replica, id.slot);
        true
    }

    /// Notes that `owner` has used `slot`, and therefore all slots below it.
    pub(super) fn see(&mut self, owner: ReplicaId, slot: Slot) {
        let frontier = &mut self.frontiers[owner.index()];
        frontier.highest = frontier.highest.max(slot);
    }

    /// Notes that all instances covered by dependencies exist.
    pub(super) fn see_all(&mut self, deps: &Deps) {
        for (owner, slot) in deps.iter() {
            self.see(owner, slot);
        }
    }

    /// Per owner, the slot up to which every decision is known here (K).
    pub(super) fn known(&self) -> Deps {
        Deps::from_slots(self.frontiers.iter().map(|frontier| frontier.known))
    }

    /// The K of one owner.
    pub(super) fn known_of(&self, owner: ReplicaId) -> Slot {
        self.frontiers[owner.index()].known
    }

    /// The highest slot of an owner known to exist.
    pub(super) fn highest_of(&self, owner: ReplicaId) -> Slot {
        self.frontiers[owner.index()].highest
    }

    /// Advances K after an instance of `owner` was decided or dropped.
    pub(super) fn advance_known(&mut self, owner: ReplicaId) {
        let mut known = self.known_of(owner);
        while self.instances.is_committed(InstanceId::new(owner, known + 1)) {
            known += 1;
        }
        self.frontiers[owner.index()].known = known;
    }

    /// It is decided as a `Nop` whose payload was never seen here.
    pub(super) fn note_unseen(&mut self, id: InstanceId) {
        self.index.remove_wildcard(id);
        self.unseen.raise(id.replica, id.slot);
    }

    /// Slots that a proposal covers in addition to its conflicts, so that it agrees with the votes
    /// of the replicas that lost them (see `reservation`).
    pub(super) fn lost_by_others(&self) -> Deps {
        let mut lost = self.unseen.clone();
        lost.meet(&self.known());
        lost
    }

    /// Sends a decision to one replica; with its payload, unless the receiver is the owner.
    pub(super) fn answer_commit(&self, to: ReplicaId, id: InstanceId, fx: &mut Fx) {
        let Some(instance) = self.instances.get(id) else { return };
        let Some(mut commit) = self.full_commit(id) else { return };
        if let Message::Commit { value: value @ CommitValue::Batch(_), .. } = &mut commit
            && to == id.replica
        {
            *value = CommitValue::OwnersBatch;
        }
        fx.answer(instance.written, to, commit);
    }

    /// The decision as a Commit that includes the payload.
    pub(super) fn full_commit(&self, id: InstanceId) -> Option<Message> {
        let (value, deps) = self.instances.get(id)?.decision()?;
        let value = match value {
            Value::Nop => CommitValue::Nop,
            Value::Batch(batch) => CommitValue::Batch(batch.clone()),
        };
        Some(Message::Commit { id, value, deps: deps.clone() })
    }

    /// Tells one replica that an instance is dropped here.
    pub(super) fn answer_truncated(&self, to: ReplicaId, id: InstanceId, fx: &mut Fx) {
        fx.hit(Path::Truncated);
        fx.answer(Written::default(), to, Message::Truncated { id });
    }

    /// Forgets everything up to `floor`, which every member has executed. Returns what was removed.
    pub(super) fn forget(&mut self, floor: &Deps) -> Vec<(InstanceId, Instance)> {
        let gone = self.instances.trim(floor);
        let payloads = gone.iter().filter_map(|(_, instance)| instance.payload.as_ref());
        self.kept_bytes -= payloads.clone().map(|batch| weight(batch)).sum::<usize>();
        self.index.forget(floor, payloads.map(|batch| batch.footprint()));
        gone
    }

    /// Drops the records of everything up to `floor`, which is executed here, and returns them.
    pub(super) fn drop_records(&mut self, floor: &Deps) -> Vec<(InstanceId, Instance)> {
        let gone = self.instances.trim(floor);
        gone.iter().for_each(|(id, instance)| self.keep_as_dropped(*id, instance));
        gone
    }

    /// An instance's record is dropped: keeps it as a conflict for others.
    fn keep_as_dropped(&mut self, id: InstanceId, instance: &Instance) {
        let Some(payload) = &instance.payload else {
            // A payload never seen here leaves the index, as it does when it is decided.
            self.index.remove_wildcard(id);
            return;
        };
        self.kept_bytes -= weight(payload);
        let executed = instance.decision().is_some_and(|(value, _)| !value.is_nop());
        let index = if executed { &mut self.dropped.commands } else { &mut self.dropped.nops };
        index.insert(id, payload.footprint());
    }

    /// Removes some dropped commands that are forgotten: examines up to `at_most` keys after
    /// `after`. Returns the key to continue after, if there are more.
    pub(super) fn sweep_commands(
        &mut self,
        after: Option<KeyHash>,
        at_most: usize,
    ) -> Option<KeyHash> {
        let (gone, next) = self.dropped.commands.sweep(self.index.floor(), after, at_most);
        gone.into_iter().for_each(|key| self.index.forget_key(key));
        next
    }

    /// Like [`Store::sweep_commands`], for dropped `Nop`s.
    pub(super) fn sweep_nops(&mut self, after: Option<KeyHash>, at_most: usize) -> Option<KeyHash> {
        let (gone, next) = self.dropped.nops.sweep(self.index.floor(), after, at_most);
        gone.into_iter().for_each(|key| self.index.forget_key(key));
        next
    }

    /// Starts with everything up to `dropped` executed and without a record. Of that, everything up
    /// to `forgotten` is forgotten.
    pub(super) fn restore_floors(&mut self, dropped: &Deps, forgotten: &Deps) {
        self.instances.trim(dropped);
        self.index.forget(forgotten, std::iter::empty());
    }

    /// Notes a decision that is already executed: it has no effects.
    pub(super) fn note_executed(&mut self, executed: ExecutedDecision) {
        let ExecutedDecision { id, value, deps } = executed;
        if self.is_stale(id) {
            return;
        }
        if let Some(batch) = value.payload() {
            self.note_payload(id, batch);
        }
        let instance = self.instances.entry(id);
        let value = value.value();
        if let Some(decided) = instance.decision() {
            assert!(decided == (&value, &deps), "one decision an instance: {id}");
            return;
        }
        let is_unknown = instance.payload.is_none();
        instance.phase = Phase::Committed;
        instance.value = Some(value);
        instance.deps = deps;
        instance.tally = None;
        // It was executed elsewhere, so it is durable elsewhere.
        instance.written = Written::default();
        if is_unknown {
            self.note_unseen(id);
        }
    }

    /// Restores a decision from a record.
    pub(super) fn restore_decision(&mut self, decision: Decision, fx: &mut Fx) {
        let Decision { id, value, deps, .. } = decision.clone();
        match &value {
            Value::Batch(batch) => self.learn_payload(id, batch, fx),
            Value::Nop if self.instances.entry(id).payload.is_none() => self.note_unseen(id),
            Value::Nop => {}
        }
        self.see_all(&deps);
        let instance = self.instances.entry(id);
        instance.phase = Phase::Committed;
        instance.value = Some(value);
        instance.deps = deps;
        fx.decide(Written::default(), decision);
        self.advance_known(id.replica);
    }

    /// Everything in `executed` is decided: moves the frontier of `owner` past it, and returns the
    /// last slot of `owner` in it.
    pub(super) fn skip_to(&mut self, executed: &Executed, owner: ReplicaId) -> Slot {
        let frontier = &mut self.frontiers[owner.index()];
        frontier.known = frontier.known.max(self.instances.trimmed().slot(owner));
        let floor = executed.floor().slot(owner);
        let last = executed.above(owner).last().map_or(floor, |(_, last)| *last);
        self.see(owner, last);
        self.advance_known(owner);
        last
    }

    /// What others have dropped counts as a conflict here too.
    pub(super) fn join_dropped(&mut self, index: &DroppedIndex) {
        self.index.join(&index.commands);
        self.index.join(&index.nops);
        self.dropped.join(index);
        // Instances dropped by an earlier life or by another replica may include a `Nop` whose
        // payload was never seen here; no record tells.
        self.unseen.merge(self.instances.trimmed());
    }

    /// Whether a dropped instance speaks against one with this footprint that is undecided here.
    /// `None` if it is not dropped, or has been forgotten since (§5.5).
    pub(super) fn dropped_conflict(
        &self,
        other: InstanceId,
        footprint: &Footprint,
    ) -> Option<bool> {
        let dropped = self.instances.is_trimmed(other) && !self.index.floor().covers(other);
        dropped.then(|| self.dropped.commands.conflicts(footprint).covers(other))
    }
}
