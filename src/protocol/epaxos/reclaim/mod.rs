//! Reclaim: what every member, or enough of them, has executed need not be kept (PROTOCOL.md §8a).
//! `marks` has what the members say of themselves, `cuts` what they agree to drop without those who
//! are away, and `truncate` drops and forgets.

mod cuts;
mod marks;
mod truncate;

pub(super) use marks::Marks;

use super::step::Step;
use super::{Message, Record};
use crate::protocol::Path;
use crate::types::{Deps, InstanceId, ReplicaId, Slot};

use cuts::Cuts;
use truncate::Sweep;

/// What may go, and what is left of it.
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

    /// What the members have said of themselves.
    pub(super) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The highest cut known here to be established (C).
    pub(super) fn established(&self) -> &Deps {
        self.cuts.established()
    }

    /// The record of the last cut agreed to, if there was any.
    pub(super) fn record(&self) -> Option<Record> {
        self.cuts.record()
    }

    /// An agreement of an earlier life.
    pub(super) fn restore(&mut self, cut: &Deps) {
        self.cuts.restore(cut);
    }

    /// Starts from an own snapshot: it was forgotten up to `floor`, and `cut` was established.
    pub(super) fn restore_floors(&mut self, floor: &Deps, cut: &Deps) {
        self.marks.restore_forgotten(floor);
        self.cuts.note_established(cut);
        self.sweep.again();
    }

    /// Everything up to `executed` is in a durable own snapshot.
    pub(super) fn on_snapshot(&mut self, me: ReplicaId, executed: &Deps) {
        self.cuts.note_saved(executed);
        self.marks.executed_here(me, executed);
    }

    /// Everything up to `executed` is executed here for good.
    pub(super) fn on_executed(&mut self, me: ReplicaId, executed: &Deps) {
        self.marks.executed_here(me, executed);
    }

    /// Another replica's snapshot was installed, with the highest cut that it knows.
    pub(super) fn on_install(&mut self, s: &Step<'_>, cut: &Deps) {
        self.cuts.note_established(cut);
        self.sweep.again();
        self.marks.gossip_at(s.view.now);
    }

    /// Tells the others how far this replica is: it has proposed up to `proposed`.
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
        // Others forget what all say they have executed: so it may not be lost here any more.
        let after = s.fx.everything();
        s.fx.send(after, s.cx.others(), marks);
        self.marks.watch_floor(s.cx, s.store, s.view);
        self.cuts.drive(s, &self.marks);
    }

    /// What a member says of itself.
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

    /// What a member knows of all: everything up to `by_all` is executed by all, and `cut` is
    /// established.
    pub(super) fn on_word_of_all(&mut self, s: &Step<'_>, by_all: &Deps, cut: &Deps) {
        if s.cx.rules.word_of_all_is_believed() {
            self.marks.told_of_all(s.cx.me(), by_all);
        }
        self.cuts.note_established(cut);
    }

    /// A cut is proposed.
    pub(super) fn on_cut(&mut self, s: &mut Step<'_>, from: ReplicaId, cut: &Deps) {
        self.cuts.on_cut(s, from, cut);
    }

    /// A member says what it has agreed to last.
    pub(super) fn on_cut_ok(&mut self, s: &mut Step<'_>, from: ReplicaId, cut: &Deps) {
        if self.cuts.on_cut_ok(s, from, cut) {
            // Told with the marks, soon.
            self.marks.gossip_at(s.view.now);
        }
    }

    /// What is undecided here is executed and dropped elsewhere: no message will ever tell how it
    /// was decided. A snapshot will, of a replica that has executed it, and what this one has for
    /// good: no more, or what is asked for grows with all that goes on meanwhile. Whether it is so:
    /// then a recovery of it can find no quorum.
    pub(super) fn on_truncated(&self, s: &mut Step<'_>, id: InstanceId) -> bool {
        if s.store.instances.is_committed(id) {
            return false;
        }
        s.fx.hit(Path::NeedsSnapshot);
        s.store.see(id.replica, id.slot);
        let mut needed = s.fx.needs_snapshot.take().unwrap_or_else(|| Deps::none(s.cx.n()));
        needed.merge(self.marks.executed_at(s.cx.me()));
        needed.merge(self.cuts.established());
        // Some cut that is established holds it, so there are such replicas.
        needed.raise(id.replica, id.slot);
        s.fx.needs_snapshot = Some(needed);
        // To begin another recovery later asks for the snapshot again, should that get lost.
        let pause = s.cx.timing().patience;
        if let Some(instance) = s.store.instances.get_mut(id) {
            instance.not_before = instance.not_before.max(s.view.now + pause);
        }
        true
    }

    /// Proposes a cut that nothing asked for, if it may be agreed to here.
    #[cfg(test)]
    pub(super) fn cut_unasked(&mut self, s: &mut Step<'_>, cut: Deps) {
        if self.cuts.may_agree(s.cx, &cut) {
            self.cuts.start(s, cut);
        }
    }
}
