//! Own proposals: their names, and how they come to the leader and come back (§L2, §M2).
//!
//! A proposal is kept here until it is known decided: forwarded to each new leader, and again to
//! the same one while it is not seen in an Accept of its. The leader knows by its name what it has
//! in its log already. What comes twice nevertheless, because the first one is forgotten there, is
//! decided twice and happens once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::message::{Proposal, take_run, weight};
use super::{Fx, Message, MultiPaxos, Record, Role};
use crate::protocol::{Path, View};
use crate::types::{
    Ballot, Batch, Decision, Deps, InstanceId, ReplicaId, Slot, Time, Value, Written,
};

/// How many names are reserved at a time: the first proposal of each block waits for a flush, and
/// no others.
const NAMES: Slot = 1 << 16;

/// A proposal that is not known decided yet.
#[derive(Debug)]
struct Pending {
    batch: Arc<Batch>,
    /// When it was last forwarded.
    sent: Time,
    tries: u32,
    /// The ballot at which it was last seen proposed.
    seen: Ballot,
}

/// The proposals of this life.
///
/// Invariants:
///
/// 1. Names up to `reserved` may be used, and no later life uses them again.
/// 2. `pending` holds, by its count, what was proposed and is not known decided here.
#[derive(Debug, Default)]
pub(super) struct Own {
    last: Slot,
    reserved: Slot,
    /// Of the record that reserves.
    written: Written,
    pending: BTreeMap<Slot, Pending>,
    /// No proposal is due before.
    next_due: Time,
}

impl Own {
    /// A former life may have used names up to here.
    pub(super) fn restore_names(&mut self, up_to: Slot) {
        self.last = self.last.max(up_to);
        self.reserved = self.last;
    }

    pub(super) fn record(&self) -> Option<Record> {
        (self.reserved > 0).then_some(Record::Named { up_to: self.reserved })
    }

    /// What a message with own names waits for.
    pub(super) fn written(&self) -> Written {
        self.written
    }

    /// What is not known decided is proposed anew, under other names.
    pub(super) fn forget_all(&mut self) {
        self.pending.clear();
    }
}

impl MultiPaxos {
    /// How many of its proposals are not known decided yet.
    pub fn pending(&self) -> usize {
        self.own.pending.len()
    }

    /// A name that no proposal of this replica, in whatever life, has had.
    pub(super) fn new_name(&mut self, fx: &mut Fx) -> InstanceId {
        if self.own.last == self.own.reserved {
            self.own.reserved += NAMES;
            self.own.written = fx.append(Record::Named { up_to: self.own.reserved });
        }
        self.own.last += 1;
        InstanceId::new(self.me(), self.own.last)
    }

    pub(super) fn start_proposal(
        &mut self,
        view: &View,
        batch: Arc<Batch>,
        fx: &mut Fx,
    ) -> InstanceId {
        let name = self.new_name(fx);
        let due = view.now + self.resend_after(view, 0);
        self.own.next_due = self.own.next_due.min(due);
        let sent = view.now;
        let pending = Pending { batch: batch.clone(), sent, tries: 0, seen: Ballot::OWNER };
        self.own.pending.insert(name.slot, pending);
        match (&self.role, self.leader) {
            (Role::Leader(_), _) => {
                self.enqueue(Proposal { name, batch }, fx);
                self.pump(view, fx);
            }
            (_, Some(leader)) => {
                fx.hit(Path::MpForwarded);
                let proposals = vec![Proposal { name, batch }];
                fx.answer(self.own.written, leader, Message::Forward { proposals });
            }
            // Who leads will be heard.
            (_, None) => {}
        }
        name
    }

    /// Own proposals that this ballot's leader has not been seen to have, by name.
    fn unseen(&self) -> impl Iterator<Item = (&Slot, &Pending)> {
        self.own.pending.iter().filter(|(_, pending)| pending.seen != self.promised)
    }

    /// A leader was found: it gets what waits here.
    pub(super) fn forward_all(&mut self, view: &View, fx: &mut Fx) {
        let unseen: Vec<Slot> = self.unseen().map(|(count, _)| *count).collect();
        self.forward(view, &unseen, fx);
    }

    /// What the leader has not been seen to have for too long, it gets again.
    pub(super) fn forward_again(&mut self, view: &View, fx: &mut Fx) {
        if view.now < self.own.next_due || self.own.pending.is_empty() {
            return;
        }
        let due = |pending: &Pending| pending.sent + self.resend_after(view, pending.tries);
        let overdue = self.unseen().filter(|(_, pending)| due(pending) <= view.now);
        let overdue: Vec<Slot> = overdue.map(|(count, _)| *count).collect();
        if self.leader.is_some() && !overdue.is_empty() {
            fx.hit(Path::MpForwardedAgain);
            self.forward(view, &overdue, fx);
        }
        let soon = view.now + self.resend_after(view, 0) / 2;
        let due = |pending: &Pending| pending.sent + self.resend_after(view, pending.tries);
        let next = self.unseen().map(|(_, pending)| due(pending)).min().unwrap_or(soon);
        self.own.next_due = next.max(soon);
    }

    fn forward(&mut self, view: &View, counts: &[Slot], fx: &mut Fx) {
        let Some(leader) = self.leader.filter(|leader| *leader != self.me()) else { return };
        let me = self.me();
        let mut proposals = Vec::with_capacity(counts.len());
        for count in counts {
            let pending = self.own.pending.get_mut(count).expect("it was found there");
            pending.tries += 1;
            pending.sent = view.now;
            let name = InstanceId::new(me, *count);
            proposals.push(Proposal { name, batch: pending.batch.clone() });
        }
        let mut proposals = proposals.into_iter().peekable();
        while proposals.peek().is_some() {
            let proposals = take_run(&mut proposals, |it| weight(&Value::Batch(it.batch.clone())));
            fx.hit(Path::MpForwarded);
            fx.answer(self.own.written, leader, Message::Forward { proposals });
        }
    }

    /// The leader of the promised ballot has it: it is decided, or a new leader gets it.
    pub(super) fn note_proposed(&mut self, name: InstanceId) {
        if name.replica == self.me()
            && let Some(pending) = self.own.pending.get_mut(&name.slot)
        {
            pending.seen = self.promised;
            pending.tries = 0;
        }
    }

    /// All own proposals that wait, by name: for a new leader's own queue.
    pub(super) fn waiting(&self) -> Vec<Proposal> {
        let me = self.me();
        let waiting = self.own.pending.iter().map(|(count, pending)| Proposal {
            name: InstanceId::new(me, *count),
            batch: pending.batch.clone(),
        });
        waiting.collect()
    }

    /// The leader takes in what another replica proposes.
    pub(super) fn on_forward(
        &mut self,
        view: &View,
        from: ReplicaId,
        proposals: Vec<Proposal>,
        fx: &mut Fx,
    ) {
        if self.leading().is_none() {
            // Whoever sent it hears of the leader, and then forwards it there.
            return;
        }
        for proposal in proposals {
            if proposal.name.replica == from {
                self.enqueue(proposal, fx);
            }
        }
        self.pump(view, fx);
    }

    /// The next slot is decided, as it is in the log: that is told to whoever executes it.
    pub(super) fn decide_next(&mut self, fx: &mut Fx) -> ReplicaId {
        let leads = matches!(self.role, Role::Leader(_));
        let (me, n) = (self.me(), self.n());
        let (slot, entry) = self.log.decide_next();
        let (proposal, value) = (entry.proposal, entry.value.clone());
        if proposal.replica == me && self.own.pending.remove(&proposal.slot).is_some() {
            fx.own_commits.push((proposal, leads));
        }
        let id = InstanceId::new(InstanceId::LOG, slot);
        // A majority holds it durably: nothing here need be.
        fx.decide(Written::default(), Decision { id, proposal, value, deps: Deps::none(n) });
        proposal.replica
    }
}
