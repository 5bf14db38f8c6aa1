//! Snapshots: what one holds of the protocol, how a replica starts from its own, and how it goes on
//! from another's (PROTOCOL.md §7, §8a). `restore` takes in the records.
//!
//! Deviation: PROTOCOL.md §8a sends snapshots to others without any record of an instance. Here the
//! executed decisions that the sender has not dropped go with it, so that only what lies in an
//! established cut is ever without a record at whoever installs. Otherwise two replicas that
//! installed the snapshots of two others, which then stop, may each lack what only the other one
//! executed: neither can tell it (no record), and neither may install the other's snapshot (it
//! lacks what was dropped). Cuts form a chain; what is executed at some moment does not.

use super::{EPaxos, ExecutedDecision, ExecutedValue, Fx, ProtocolSnapshot, Record};
use crate::protocol::{Path, View};
use crate::types::{Decision, Executed, ReplicaId, Value};

impl EPaxos {
    /// For all: what is executed. For this replica alone: every other instance that is kept (its
    /// promises, votes, proposals and decisions not executed yet), and what it may not do again.
    pub(super) fn take_snapshot(&self, executed: &Executed) -> (ProtocolSnapshot, Vec<Record>) {
        let store = &self.core.store;
        let mut decisions = Vec::new();
        let (reserved, announced) = (self.reservation.record(), self.early.record());
        let own = reserved.into_iter().chain(announced).chain(self.reclaim.record());
        let mut own: Vec<Record> = own.collect();
        for (id, instance) in store.instances.iter() {
            match instance.decision() {
                Some((value, deps)) if executed.contains(id) => {
                    let value = match (value, &instance.payload) {
                        (Value::Batch(batch), _) => ExecutedValue::Batch(batch.clone()),
                        (Value::Nop, Some(batch)) => ExecutedValue::NopOf(batch.clone()),
                        (Value::Nop, None) => ExecutedValue::Nop,
                    };
                    decisions.push(ExecutedDecision { id, value, deps: deps.clone() });
                }
                _ => own.extend(instance.records(id)),
            }
        }
        let shared = ProtocolSnapshot {
            floor: store.forgotten().clone(),
            cut: self.reclaim.established().clone(),
            dropped: store.instances.trimmed().clone(),
            index: store.dropped().clone(),
            decisions,
        };
        (shared, own)
    }

    /// Starts from an own snapshot; its own records come next.
    pub(super) fn restore_snapshot(&mut self, shared: ProtocolSnapshot, executed: &Executed) {
        let ProtocolSnapshot { floor, cut, dropped, index, decisions } = shared;
        assert!(executed.floor().includes(&dropped), "only what is executed is dropped");
        assert!(dropped.includes(&floor), "what is forgotten has no record");
        self.core.store.restore_floors(&dropped, &floor);
        self.core.store.join_dropped(&index);
        self.reclaim.restore_floors(&floor, &cut);
        self.reclaim.on_snapshot(self.core.cx.me(), executed.floor());
        decisions.into_iter().for_each(|decision| self.core.store.note_executed(decision));
        self.skip_to(executed);
    }

    /// Whether it may: the snapshot has all that this replica said it has executed for good, and
    /// all of which it has no record any more; and something that is not executed here.
    pub(super) fn may_take(&self, executed: &Executed, here: &Executed) -> bool {
        let told = self.reclaim.marks().executed_at(self.core.cx.me());
        let dropped = Executed::up_to(self.core.store.instances.trimmed().clone());
        executed.floor().includes(told) && executed.includes(&dropped) && !here.includes(executed)
    }

    /// Goes on from another replica's snapshot. What is in it is decided, whatever this replica
    /// promised or voted or proposed about it; every promise, vote and proposal outside stays.
    /// Decisions outside of it, executed here or not, are put out once more.
    ///
    /// What the other one has forgotten is not forgotten here because of that: it had seen
    /// decided what that might speak against, and this one may not have. Nor is anything missing
    /// here of it: all members had executed it, this one among them.
    pub(super) fn install_snapshot(
        &mut self,
        view: &View,
        shared: ProtocolSnapshot,
        executed: &Executed,
        fx: &mut Fx,
    ) {
        fx.hit(Path::Installed);
        let ProtocolSnapshot { cut, mut dropped, index, decisions, .. } = shared;
        // The bounds it has to keep to by its own rules; another replica's word is no proof.
        dropped.meet(executed.floor());
        self.recovery.end_all(executed);
        let s = &mut self.core.step(view, fx);
        s.cx.rules.installing(s.store);
        s.store.drop_records(&dropped);
        s.store.join_dropped(&index);
        decisions.into_iter().for_each(|decision| s.store.note_executed(decision));
        s.store.drop_wildcards(executed);
        self.reclaim.on_install(s, &cut);
        self.skip_to(executed);
        let instances = &self.core.store.instances;
        for (id, instance) in instances.iter().filter(|(id, _)| !executed.contains(*id)) {
            if let Some(batch) = &instance.payload {
                fx.learned.push((id, batch.clone()));
            }
            if let Some((value, deps)) = instance.decision() {
                let (value, deps) = (value.clone(), deps.clone());
                fx.decide(instance.written, Decision::owned(id, value, deps));
            }
        }
        let open = instances.iter().find(|(id, instance)| {
            let decided = instance.is_committed();
            !decided && executed.contains(*id)
        });
        assert!(open.is_none(), "a snapshot tells of all it has executed: {open:?}");
    }

    /// Everything in `executed` is decided: the frontiers move past it, and no own slot in it is
    /// used again.
    fn skip_to(&mut self, executed: &Executed) {
        for owner in ReplicaId::all(self.core.cx.n()) {
            let last = self.core.store.skip_to(executed, owner);
            self.watch.note_snapshot(owner);
            if owner == self.core.cx.me() {
                self.proposer.skip_to(last);
            }
        }
    }
}
