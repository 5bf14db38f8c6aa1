//! Snapshots: what one holds of the protocol, how a replica starts from its own, and how it goes on
//! from another's (protocol.md §7, §8a). Beside `restore`, which takes in records.
//!
//! Deviation: protocol.md §8a sends snapshots to others without any record of an instance. Here the
//! executed decisions that the sender has not dropped go with it, so that only what lies in an
//! established cut is ever without a record at whoever installs. Otherwise two replicas that
//! installed the snapshots of two others, which then stop, may each lack what only the other one
//! executed: neither can tell it (no record), and neither may install the other's snapshot (it
//! lacks what was dropped). Cuts form a chain; what is executed at some moment does not.

use super::{EPaxos, Fx, Phase, Record, Settled, SettledValue, Shared};
use crate::protocol::{Path, View};
use crate::types::{Decision, Executed, ReplicaId, Value, Written};

impl EPaxos {
    /// For all: what is executed. For this replica alone: every other instance that is kept (its
    /// promises, votes, proposals and decisions not executed yet), and what it may not do again.
    pub(super) fn take_snapshot(&self, executed: &Executed) -> (Shared, Vec<Record>) {
        let mut settled = Vec::new();
        let reserved = (self.reserved() > 0).then(|| Record::Reserved { up_to: self.reserved() });
        let silent = (self.silent > 0).then_some(Record::Silent { up_to: self.silent });
        let own = reserved.into_iter().chain(silent).chain(self.cuts.record());
        let mut own: Vec<Record> = own.collect();
        for (id, instance) in self.store.instances.iter() {
            match instance.decision() {
                Some((value, deps)) if executed.contains(id) => {
                    let value = match (value, &instance.payload) {
                        (Value::Batch(batch), _) => SettledValue::Batch(batch.clone()),
                        (Value::Nop, Some(batch)) => SettledValue::NopOf(batch.clone()),
                        (Value::Nop, None) => SettledValue::Nop,
                    };
                    settled.push(Settled { id, value, deps: deps.clone() });
                }
                _ => own.extend(instance.records(id)),
            }
        }
        let shared = Shared {
            floor: self.store.index.floor().clone(),
            cut: self.cuts.established.clone(),
            dropped: self.store.instances.trimmed().clone(),
            index: self.store.dropped.clone(),
            settled,
        };
        (shared, own)
    }

    /// Starts from an own snapshot; its own records come next.
    pub(super) fn restore_snapshot(&mut self, shared: Shared, executed: &Executed) {
        let Shared { floor, cut, dropped, index, settled } = shared;
        assert!(executed.floor().includes(&dropped), "only what is executed is dropped");
        assert!(dropped.includes(&floor), "what is forgotten has no record");
        self.store.instances.trim(&dropped);
        self.store.index.forget(&floor, std::iter::empty());
        self.marks.restore_forgotten(&floor);
        self.cuts.established.merge(&cut);
        self.store.join_dropped(&index);
        self.sweep.again();
        let me = self.cx.me();
        self.marks.executed_here(me, executed.floor());
        self.saved.merge(executed.floor());
        settled.into_iter().for_each(|settled| self.settle_executed(settled));
        self.skip_to(executed);
    }

    /// Whether it may: the snapshot has all that this replica said it has executed for good, and
    /// all of which it has no record any more; and something that is not executed here.
    pub(super) fn may_take(&self, executed: &Executed, here: &Executed) -> bool {
        let told = self.marks.executed_at(self.cx.me());
        let dropped = Executed::up_to(self.store.instances.trimmed().clone());
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
        shared: Shared,
        executed: &Executed,
        fx: &mut Fx,
    ) {
        fx.hit(Path::Installed);
        let Shared { cut, mut dropped, index, settled, .. } = shared;
        // The bounds it has to keep to by its own rules; another replica's word is no proof.
        dropped.meet(executed.floor());
        self.recoveries.clear();
        self.waiters.stop_all(executed);
        #[cfg(test)]
        self.drop_promises_if_planted();
        for (id, instance) in self.store.instances.trim(&dropped) {
            self.store.keep_as_dropped(id, &instance);
        }
        self.store.join_dropped(&index);
        self.sweep.again();
        self.cuts.established.merge(&cut);
        settled.into_iter().for_each(|settled| self.settle_executed(settled));
        self.store.index.settle_wildcards(executed);
        self.skip_to(executed);
        self.marks.gossip_at(view.now);
        let outside = self.store.instances.iter().filter(|(id, _)| !executed.contains(*id));
        for (id, instance) in outside {
            if let Some(batch) = &instance.payload {
                fx.learned.push((id, batch.clone()));
            }
            if let Some((value, deps)) = instance.decision() {
                let (value, deps) = (value.clone(), deps.clone());
                fx.decide(instance.written, Decision::owned(id, value, deps));
            }
        }
        let open = self.store.instances.iter().find(|(id, instance)| {
            let decided = instance.is_committed();
            !decided && executed.contains(*id)
        });
        assert!(open.is_none(), "a snapshot tells of all it has executed: {open:?}");
    }

    /// Takes in a decision that is executed already: nothing follows from it.
    fn settle_executed(&mut self, settled: Settled) {
        let Settled { id, value, deps } = settled;
        if self.store.is_stale(id) {
            return;
        }
        if let Some(batch) = value.payload() {
            self.store.note_payload(id, batch);
        }
        let instance = self.store.instances.entry(id);
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
        // It was executed elsewhere, so it was durable before.
        instance.written = Written::default();
        if is_unknown {
            self.store.note_unseen(id);
        }
    }

    /// Everything in `executed` is decided: looks for what is not only behind it.
    fn skip_to(&mut self, executed: &Executed) {
        for owner in ReplicaId::all(self.cx.n()) {
            self.store.skip_dropped(owner);
            let frontier = &mut self.frontiers[owner.index()];
            frontier.asked = 0;
            frontier.in_vain = 0;
            let floor = executed.floor().slot(owner);
            let last = executed.above(owner).last().map_or(floor, |(_, last)| *last);
            self.store.see(owner, last);
            self.store.advance_known(owner);
            if owner == self.cx.me() {
                self.next_slot = self.next_slot.max(last + 1);
            }
        }
    }
}
