//! Reclaim: deletes what every member, or enough of them, has executed (PROTOCOL.md §8a). `marks`
//! holds each member's reports of its own progress. `cuts` agrees on what to drop without absent
//! members. `truncate` drops and forgets.

mod cuts;
mod marks;
mod truncate;

pub(super) use marks::Marks;

use super::step::Step;
use super::{Message, Record};
use crate::protocol::epaxos::Path;
use crate::types::{Deps, InstanceId, ReplicaId, Slot};

use cuts::Cuts;
use truncate::Sweep;

/// The limits up to which records may be dropped or forgotten, and the progress of doing so.
#[derive(Debug)]
pub(super) struct Reclaim {
    marks: Marks,
    cuts: Cuts,
    sweep: Sweep,
}

impl Reclaim {
    pub(super) fn new(n: usize) -> Reclaim {
        Reclaim { marks: Marks::new(n), cuts: Cuts::new(n), sweep: Sweep::new(n) }
    }

    /// The members' reports of their own progress.
    pub(super) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The highest established cut known here (C).
    pub(super) fn established(&self) -> &Deps {
        self.cuts.established()
    }

    /// The record of the last cut agreed to, if there is one.
    pub(super) fn record(&self) -> Option<Record> {
        self.cuts.record()
    }

    /// Restores an agreement of an earlier life.
    pub(super) fn restore(&mut self, cut: &Deps) {
        self.cuts.restore(cut);
    }

    /// Starts from this replica's own snapshot: it was forgotten up to `floor`, and `cut` was
    /// established.
    pub(super) fn restore_floors(&mut self, floor: &Deps, cut: &Deps) {
        self.marks.restore_forgotten(floor);
        self.cuts.note_established(cut);
        self.sweep.again();
    }

    /// Everything up to `executed` is in this replica's own durable snapshot.
    pub(super) fn on_snapshot(&mut self, me: ReplicaId, executed: &Deps) {
        self.cuts.note_saved(executed);
        self.marks.executed_here(me, executed);
    }

    /// Everything up to `executed` is durably executed here.
    pub(super) fn on_executed(&mut self, me: ReplicaId, executed: &Deps) {
        self.marks.executed_here(me, executed);
    }

    /// Another replica's snapshot was installed; `cut` is the highest established cut it knew.
    pub(super) fn on_install(&mut self, s: &Step<'_>, cut: &Deps) {
        self.cuts.note_established(cut);
        self.sweep.again();
        self.marks.gossip_at(s.view.now);
    }

    /// Reports this replica's progress to the others; it has proposed up to `proposed`.
    pub(super) fn gossip(&mut self, s: &mut Step<'_>, proposed: Slot) {
        if !self.marks.is_gossip_due(s.cx, s.view.now) {
            return;
        }
        let me = s.cx.me();
        self.marks.note_own(me, proposed, s.store.forgotten());
        let executed = self.marks.executed_at(me).clone();
        let (known, cut) = (s.store.known(), self.cuts.established().clone());
        let by_all = Box::new(self.marks.free_to_cover().clone());
        let marks = Message::Marks { proposed, known, executed, by_all, cut };
        // The others forget what all have reported as executed, so it must never be lost here.
        let after = s.fx.everything();
        s.fx.send(after, s.cx.others(), marks);
        self.marks.watch_floor(s.cx, s.store, s.view);
        self.cuts.drive(s, &self.marks);
    }

    /// A member's report of its own progress.
    pub(super) fn on_marks(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        proposed: Slot,
        known: &Deps,
        executed: &Deps,
    ) {
        self.marks.heard(from, proposed, known, executed);
        for (owner, slot) in known.iter() {
            s.store.see(owner, slot);
        }
    }

    /// A member's report about all: every member has executed everything up to `by_all`, and `cut`
    /// is established.
    pub(super) fn on_word_of_all(&mut self, s: &Step<'_>, by_all: &Deps, cut: &Deps) {
        if s.cx.rules.word_of_all_is_believed() {
            self.marks.told_of_all(s.cx.me(), by_all);
        }
        self.cuts.note_established(cut);
    }

    /// A member proposes a cut.
    pub(super) fn on_cut(&mut self, s: &mut Step<'_>, from: ReplicaId, cut: &Deps) {
        self.cuts.on_cut(s, from, cut);
    }

    /// A member tells which cut it has agreed to last.
    pub(super) fn on_cut_ok(&mut self, s: &mut Step<'_>, from: ReplicaId, cut: &Deps) {
        if self.cuts.on_cut_ok(s, from, cut) {
            // The next gossip tells the others; make it soon.
            self.marks.gossip_at(s.view.now);
        }
    }

    /// An instance that is undecided here is executed and dropped elsewhere, so no message will
    /// tell the decision: a snapshot is needed. It must hold this instance and all that this
    /// replica has durably executed. Not more: a larger request would grow with the ongoing
    /// traffic. Returns whether a snapshot is needed; then a recovery of the instance can find no
    /// quorum.
    pub(super) fn on_truncated(&self, s: &mut Step<'_>, id: InstanceId) -> bool {
        if s.store.instances.is_committed(id) {
            return false;
        }
        s.fx.hit(Path::NeedsSnapshot);
        s.store.see(id.replica, id.slot);
        let mut needed = s.fx.needs_snapshot.take().unwrap_or_else(|| Deps::none(s.cx.n()));
        needed.merge(self.marks.executed_at(s.cx.me()));
        needed.merge(self.cuts.established());
        // Some established cut holds it, so there are replicas with such a snapshot.
        needed.raise(id.replica, id.slot);
        s.fx.needs_snapshot = Some(needed);
        // If the snapshot gets lost, a later recovery asks for it again.
        let pause = s.cx.timing().patience;
        if let Some(instance) = s.store.instances.get_mut(id) {
            instance.not_before = instance.not_before.max(s.view.now + pause);
        }
        true
    }

    /// Proposes a cut without a need, if this replica may agree to it.
    #[cfg(test)]
    pub(super) fn cut_unasked(&mut self, s: &mut Step<'_>, cut: Deps) {
        if self.cuts.may_agree(s.cx, &cut) {
            self.cuts.start(s, cut);
        }
    }
}
