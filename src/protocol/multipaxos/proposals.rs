//! Own proposals: their names, and their batches until they are known to be decided (§L2).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::message::Proposal;
use super::{Context, Fx, Record};
use crate::protocol::View;
use crate::types::{Ballot, Batch, InstanceId, ReplicaId, Slot, Time, Written};

/// How many names are reserved at a time. Only the first proposal of each block waits for a flush.
const NAMES: Slot = 1 << 16;

/// A proposal that is not known to be decided.
#[derive(Debug)]
struct Pending {
    batch: Arc<Batch>,
    /// When it was last forwarded.
    sent: Time,
    tries: u32,
    /// The ballot of the last Accept that showed it.
    seen: Ballot,
}

impl Pending {
    /// When to forward it again if no Accept shows it.
    fn due(&self, cx: &Context, view: &View) -> Time {
        self.sent + cx.resend_after(view, self.tries)
    }
}

/// The proposals of this life.
///
/// Invariants:
///
/// 1. Names up to `reserved` may be used, and no later life uses them again.
/// 2. `pending` holds, by number, the proposals not known to be decided here. After an install it
///    does not hold the earlier ones: the snapshot may hold them.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    last: Slot,
    reserved: Slot,
    /// The record of the reservation.
    written: Written,
    pending: BTreeMap<Slot, Pending>,
    /// No proposal is due before this time.
    next_due: Time,
}

impl Proposals {
    /// A name that no proposal of this replica has had, in any life.
    pub(super) fn new_name(&mut self, me: ReplicaId, fx: &mut Fx) -> InstanceId {
        if self.last == self.reserved {
            self.reserved += NAMES;
            self.written = fx.append(Record::Named { up_to: self.reserved });
        }
        self.last += 1;
        InstanceId::new(me, self.last)
    }

    /// Adds a new proposal; the caller forwards it.
    pub(super) fn add(
        &mut self,
        cx: &Context,
        view: &View,
        batch: Arc<Batch>,
        fx: &mut Fx,
    ) -> Proposal {
        let name = self.new_name(cx.me(), fx);
        let (sent, seen) = (view.now, Ballot::OWNER);
        let pending = Pending { batch: batch.clone(), sent, tries: 0, seen };
        self.next_due = self.next_due.min(pending.due(cx, view));
        self.pending.insert(name.slot, pending);
        Proposal { name, batch }
    }

    /// The record that a message with own names waits for.
    pub(super) fn written(&self) -> Written {
        self.written
    }

    /// How many proposals are not known to be decided.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// All undecided proposals, by name: for the queue of a new leader.
    pub(super) fn waiting(&self, me: ReplicaId) -> Vec<Proposal> {
        let waiting = self.pending.iter().map(|(count, pending)| Proposal {
            name: InstanceId::new(me, *count),
            batch: pending.batch.clone(),
        });
        waiting.collect()
    }

    /// The leader of the promised ballot has it: it will be decided, or a new leader gets it.
    pub(super) fn note_proposed(&mut self, me: ReplicaId, name: InstanceId, promised: Ballot) {
        if name.replica == me
            && let Some(pending) = self.pending.get_mut(&name.slot)
        {
            pending.seen = promised;
            pending.tries = 0;
        }
    }

    /// This replica's proposal with this number is decided. Returns whether that is new.
    pub(super) fn end(&mut self, count: Slot) -> bool {
        self.pending.remove(&count).is_some()
    }

    /// Removes all undecided proposals: they are proposed again under other names.
    pub(super) fn forget_all(&mut self) {
        self.pending.clear();
    }

    /// An earlier life may have used names up to here.
    pub(super) fn restore_names(&mut self, up_to: Slot) {
        self.last = self.last.max(up_to);
        self.reserved = self.last;
    }

    /// The record for a snapshot of this replica.
    pub(super) fn record(&self) -> Option<Record> {
        (self.reserved > 0).then_some(Record::Named { up_to: self.reserved })
    }

    /// The proposals that no Accept of the promised ballot has shown, by number.
    fn unseen(&self, promised: Ballot) -> impl Iterator<Item = (&Slot, &Pending)> {
        self.pending.iter().filter(move |(_, pending)| pending.seen != promised)
    }

    /// Their numbers.
    pub(super) fn unseen_counts(&self, promised: Ballot) -> Vec<Slot> {
        self.unseen(promised).map(|(count, _)| *count).collect()
    }

    /// Those of them that are due to be forwarded again; `None` before it is time to check.
    pub(super) fn overdue(&self, cx: &Context, view: &View, promised: Ballot) -> Option<Vec<Slot>> {
        if view.now < self.next_due || self.pending.is_empty() {
            return None;
        }
        let unseen = self.unseen(promised);
        let overdue = unseen.filter(|(_, pending)| pending.due(cx, view) <= view.now);
        Some(overdue.map(|(count, _)| *count).collect())
    }

    /// Schedules the next check.
    pub(super) fn look_again(&mut self, cx: &Context, view: &View, promised: Ballot) {
        let soon = view.now + cx.resend_after(view, 0) / 2;
        let due = self.unseen(promised).map(|(_, pending)| pending.due(cx, view));
        self.next_due = due.min().unwrap_or(soon).max(soon);
    }

    /// Returns a proposal to forward, and notes the time.
    pub(super) fn forward(&mut self, me: ReplicaId, count: Slot, now: Time) -> Proposal {
        let pending = self.pending.get_mut(&count).expect("it was found there");
        pending.tries += 1;
        pending.sent = now;
        Proposal { name: InstanceId::new(me, count), batch: pending.batch.clone() }
    }
}
