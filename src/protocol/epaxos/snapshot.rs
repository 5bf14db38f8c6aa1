//! Snapshots: the protocol's part of a snapshot, how a replica starts from its own, and how it
//! installs another's (PROTOCOL.md §7, §8a). `restore` handles the records.
//!
//! Deviation: PROTOCOL.md §8a sends snapshots to others without any record of an instance. Here
//! they include the executed decisions that the sender has not dropped. So after an install only
//! instances inside an established cut lack a record. Otherwise: two replicas install the snapshots
//! of two others, which then stop. Each may lack an instance that only the other executed. Neither
//! can tell the other (it has no record), and neither may install the other's snapshot (it lacks
//! what was dropped). Cuts form a chain; the sets executed at arbitrary moments do not.

use super::{EPaxos, ExecutedDecision, ExecutedValue, Fx, Path, ProtocolSnapshot, Record};
use crate::protocol::View;
use crate::types::{Decision, Executed, ReplicaId, Value};

impl EPaxos {
    /// The first part is for all replicas: what is executed. The second is for this replica alone:
    /// every other instance that is kept (promises, votes, proposals, decisions not yet executed),
    /// and what it may not do again.
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

    /// Starts from this replica's own snapshot; its own records follow.
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

    /// Whether the snapshot may be installed. It must include all that this replica announced as
    /// durably executed and all whose records are dropped here, and something not executed here.
    pub(super) fn may_take(&self, executed: &Executed, here: &Executed) -> bool {
        let told = self.reclaim.marks().executed_at(self.core.cx.me());
        let dropped = Executed::up_to(self.core.store.instances.trimmed().clone());
        executed.floor().includes(told) && executed.includes(&dropped) && !here.includes(executed)
    }

    /// Installs another replica's snapshot. Everything in it is decided, whatever this replica
    /// promised, voted or proposed about it. Every promise, vote and proposal outside it stays.
    /// Decisions outside it, executed here or not, appear in the effects again.
    ///
    /// What the sender has forgotten is not forgotten here: the sender had seen decided every
    /// instance that might need it as a conflict, and this replica may not have. Nothing is missing
    /// because of that: all members had executed it, this one included.
    pub(super) fn install_snapshot(
        &mut self,
        view: &View,
        shared: ProtocolSnapshot,
        executed: &Executed,
        fx: &mut Fx,
    ) {
        fx.hit(Path::Installed);
        let ProtocolSnapshot { cut, mut dropped, index, decisions, .. } = shared;
        // The bound must not exceed the executed set: the sender's claim is no proof.
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

    /// Everything in `executed` is decided: advances the frontiers past it, and never uses a slot
    /// of this replica in it again.
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
