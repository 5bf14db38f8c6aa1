//! Restore: rebuilds a replica from its records after a restart (PROTOCOL.md §7).
//!
//! The replica may have known more before it stopped, but it had not announced more: each message
//! waits for its records. Recoveries that it led are over; a new one takes a fresh ballot. It
//! resumes its own proposals where their records end. It counts the votes again, and voters repeat
//! their votes. It recovers instead the instances about which it may have announced more than its
//! records show (`early_commit`, `reservation`).

use super::instances::Proposal;
use super::{EPaxos, Fx, Path, Phase, Record, acceptor};
use crate::protocol::View;
use crate::types::{Decision, InstanceId, ReplicaId, Value};

impl EPaxos {
    /// Restores one record; call it in the order in which the records were appended.
    pub(super) fn restore_record(&mut self, record: Record, fx: &mut Fx) {
        let (cx, store) = (&self.core.cx, &mut self.core.store);
        match record {
            Record::PreAccepted { id, batch, initial, deps } => {
                store.learn_payload(id, &batch, fx);
                let instance = store.instances.entry(id);
                instance.phase = Phase::PreAccepted;
                instance.value = Some(Value::Batch(batch.clone()));
                instance.deps = deps;
                instance.initial = Some((batch, initial));
            }
            Record::Accepted { id, ballot, value, deps } => {
                let proposal = Proposal { ballot, value, deps };
                acceptor::note_accepted(cx, store, id, &proposal, fx);
            }
            Record::Reserved { up_to } => self.reservation.restore(up_to),
            Record::EarlyCommit { up_to } => self.early.restore(up_to),
            Record::Agreed { cut } => self.reclaim.restore(&cut),
            Record::Learned { id, batch } => store.learn_payload(id, &batch, fx),
            Record::Joined { id, ballot } => store.instances.entry(id).join(ballot),
            Record::Validated { id, batch, initial, .. } => {
                store.learn_payload(id, &batch, fx);
                store.instances.entry(id).initial = Some((batch, initial));
            }
            Record::Committed { id, value, deps } => {
                store.restore_decision(Decision::owned(id, value, deps), fx);
            }
        }
    }

    /// All records are restored. Continues after the slots in use, and resumes own proposals. Next,
    /// recover the lost slots.
    pub(super) fn resume_own(&mut self, view: &View, fx: &mut Fx) {
        let (cx, store) = (&self.core.cx, &mut self.core.store);
        let me = cx.me();
        for owner in ReplicaId::all(cx.n()) {
            let last = store.instances.above(owner, 0).last().map_or(0, |(id, _)| id.slot);
            store.see(owner, last);
        }
        store.see(me, self.reservation.earlier());
        self.proposer.restart_after(store.highest_of(me));
        self.early.begin_life(cx, self.proposer.next_slot(), fx);
        let open = store.instances.above(me, store.known_of(me));
        let open = open.filter(|(_, instance)| !instance.is_committed());
        let open: Vec<InstanceId> = open.map(|(id, _)| id).collect();
        for id in open {
            let s = &mut self.core.step(view, fx);
            // Lost slots are recovered after this, together with those that have no state.
            if self.reservation.is_lost(s.cx, s.store, id) {
                continue;
            }
            // Only a recovery can finish an orphan, so it begins at once.
            if s.cx.rules.orphan_is_recovered() && self.early.is_orphan(s.cx, s.store, id) {
                s.fx.hit(Path::Orphan);
                self.recovery.start(s, id);
            } else if s.store.instances.get(id).is_some_and(|i| i.ballot.is_owner()) {
                self.proposer.resume(s, id);
            }
        }
    }
}
