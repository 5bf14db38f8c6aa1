//! Reserved slots: PreAccept leaves while the owner's record is being flushed (PROTOCOL.md §7).
//! Used by `proposer`, which then waits for less, and by `restore`, `acceptor` and `recovery`,
//! which pay for it.
//!
//! The record that an owner has to have flushed before PreAccept does two things: the slot is not
//! used again, and the owner's own vote is not forgotten. The first can be had beforehand, for many
//! slots at once. The second is needed only when the vote is counted, and there it is waited for.
//!
//! So a crash may lose what others know: a reserved slot without a record is *lost*. Its owner has
//! no idea of the payload, so it conflicts with everything at its owner, for good: an owner's vote
//! is trusted to have counted its own earlier instances, those that became `Nop` too (§3, §5.5).
//! No more than the end of the reserved range has to be kept for that: until every member has
//! executed so far, a vote that counts one slot too many goes the slow path, and that is all.
//!
//! Each lost slot costs a recovery. Two things bound that: a block has at most
//! [`Optimisations::RESERVED_AT_ONCE`] slots, whatever the setting says; and the owner recovers no
//! more than the longest block at a time, lowest first. Many lives that ended before theirs were
//! decided leave more of them, and all their messages at once would fill the others' queues, be
//! lost, and be sent again, at higher ballots each time.
//!
//! Nor need it be the slow path once the lost slots are decided. An owner covers of its own accord
//! what ended as `Nop` and was never seen by it (`unseen`), up to what it knows to be decided (K).
//! That is harmless:
//!
//! - D0 need not be what conflicts, but hold it; that holds for more, too. Votes only become more
//!   alike: `Dq` holds D0, and so, less often, anything beyond.
//! - What D0 covers is not reported to a recovery (§5.4). All that is covered for this reason alone
//!   is decided: `Nop`, or a command that is known here and does not conflict, or it would be
//!   covered anyway. None of it could ever have spoken against.
//! - A recovery of what is covered finds the decision, or its acceptance by `n - f`; what covers it
//!   is not asked any more.
//! - Execution waits for what is covered only until it is known not to conflict, and it is decided,
//!   so it can be had.
//!
//! Votes don't cover more: what an owner has not covered is for voters to add only if it conflicts.
//!
//! A lost slot is no orphan, whatever `early_commit` says of an owner's other instances: its
//! owner's own vote was never durable, hence never counted, hence the owner never committed it.
//! That it has not done so is all that §5.3.3 asks of an owner, so it does answer recoveries, leads
//! one at once, and they end in `Nop`. Records of a later life (a promise, a payload seen in
//! Validate) change nothing of this; only PreAccepted can make an orphan, and a lost slot is never
//! proposed in again.

use std::collections::{BTreeSet, VecDeque};

use super::Context;
use super::instances::Instance;
use super::store::Store;
use super::{Fx, Phase, Record};
use crate::protocol::Path;
use crate::types::{Deps, Footprint, InstanceId, Optimisations, Slot, Written};

/// How many lost slots are recovered at a time. It does not depend on the setting: each recovery
/// takes two round trips, so what a short block would allow at a time takes far replicas very long
/// after many restarts, and whatever the lost slots may speak against waits for all of them.
const LOST_AT_ONCE: Slot = Optimisations::RESERVED_AT_ONCE;

/// What this replica has reserved of its own slots.
#[derive(Debug, Default)]
pub(super) struct Reservation {
    /// Reserved up to here, in this life or before.
    up_to: Slot,
    /// Reserved up to here when this life began: everything below that has no record is lost.
    earlier: Slot,
    /// Of those, what lies below has had its recovery begun.
    next_lost: Slot,
    /// The lost slots whose recoveries are led here.
    under_way: BTreeSet<Slot>,
    /// This life's blocks that still hold slots to use, ascending: where each ends, and its record.
    blocks: VecDeque<(Slot, Written)>,
}

impl Reservation {
    /// A record of an earlier life.
    pub(super) fn restore(&mut self, up_to: Slot) {
        self.up_to = self.up_to.max(up_to);
        self.earlier = self.up_to;
    }

    /// The record of it, if anything is reserved.
    pub(super) fn record(&self) -> Option<Record> {
        (self.up_to > 0).then_some(Record::Reserved { up_to: self.up_to })
    }

    /// Own slots up to here are reserved: they may be in use though no other record shows it.
    pub(super) fn up_to(&self) -> Slot {
        self.up_to
    }

    /// What earlier lives had reserved.
    pub(super) fn earlier(&self) -> Slot {
        self.earlier
    }

    /// What has to be durable so that the slot cannot be used again; `None` if slots are not
    /// reserved. The next block is asked for while at least one more is left, so this is durable
    /// already but for the first ones.
    pub(super) fn reserve(&mut self, cx: &Context, slot: Slot, fx: &mut Fx) -> Option<Written> {
        let asked = cx.settings.optimisations.reserved_slots;
        if asked == 0 {
            return None;
        }
        let block = asked.min(Optimisations::RESERVED_AT_ONCE);
        if self.up_to < slot.saturating_add(block) {
            self.up_to = slot.saturating_add(block.saturating_mul(2)) - 1;
            let written = fx.append(Record::Reserved { up_to: self.up_to });
            self.blocks.push_back((self.up_to, written));
        }
        while self.blocks.front().is_some_and(|(end, _)| *end < slot) {
            self.blocks.pop_front();
        }
        let (_, written) = self.blocks.front().expect("a block that holds it was just made");
        Some(*written)
    }

    /// Whether it is an own slot that was reserved in an earlier life, of which no record shows
    /// that it was used, and that is undecided: who knows what others were told.
    pub(super) fn is_lost(&self, cx: &Context, store: &Store, id: InstanceId) -> bool {
        let inherited = id.replica == cx.me() && id.slot <= self.earlier;
        let unused = |instance: &Instance| instance.phase == Phase::Initial;
        inherited && !store.instances.is_committed(id) && store.instances.get(id).is_none_or(unused)
    }

    /// The lost slots to recover now: as many as may be under way at a time. Each ends by itself:
    /// this replica is in its quorum, so nothing is waited for but promises. `is_led`: whether a
    /// recovery of it is led here.
    pub(super) fn due(
        &mut self,
        cx: &Context,
        store: &Store,
        is_led: impl Fn(InstanceId) -> bool,
        fx: &mut Fx,
    ) -> Vec<InstanceId> {
        if self.next_lost > self.earlier {
            return Vec::new();
        }
        // What another ballot took over is left to that.
        let me = cx.me();
        self.under_way.retain(|slot| is_led(InstanceId::new(me, *slot)));
        self.next_due(cx, store, is_led, fx)
    }

    /// An own slot is decided: if it was lost, another one has its turn.
    pub(super) fn on_decided(
        &mut self,
        cx: &Context,
        store: &Store,
        slot: Slot,
        is_led: impl Fn(InstanceId) -> bool,
        fx: &mut Fx,
    ) -> Vec<InstanceId> {
        match self.under_way.remove(&slot) {
            true => self.next_due(cx, store, is_led, fx),
            false => Vec::new(),
        }
    }

    fn next_due(
        &mut self,
        cx: &Context,
        store: &Store,
        is_led: impl Fn(InstanceId) -> bool,
        fx: &mut Fx,
    ) -> Vec<InstanceId> {
        let me = cx.me();
        let mut due = Vec::new();
        let mut next = self.next_lost.max(store.known_of(me) + 1);
        while next <= self.earlier && (self.under_way.len() as Slot) < LOST_AT_ONCE {
            let id = InstanceId::new(me, next);
            if self.is_lost(cx, store, id) && !is_led(id) {
                fx.hit(Path::LostSlot);
                self.under_way.insert(next);
                due.push(id);
            }
            next += 1;
        }
        self.next_lost = next;
        due
    }

    /// For each owner, the highest slot known here that conflicts with `footprint`; lost slots
    /// conflict with all.
    pub(super) fn conflicts(&self, cx: &Context, store: &Store, footprint: &Footprint) -> Deps {
        let mut deps = store.conflicts(footprint);
        let open = store.known_of(cx.me()) < self.earlier;
        if cx.rules.lost_slots_conflict() && (open || cx.rules.decided_lost_slots_conflict()) {
            deps.raise(cx.me(), self.earlier);
        }
        deps
    }

    /// The lost slots that `deps` do not cover and of which nothing is known here, not even a
    /// ballot: their recovery has not begun. They are reported all the same (§5.4).
    pub(super) fn lost_without_trace<'a>(
        &'a self,
        cx: &'a Context,
        store: &'a Store,
        deps: &Deps,
    ) -> impl Iterator<Item = InstanceId> + use<'a> {
        let me = cx.me();
        let first = store.known_of(me).max(deps.slot(me)) + 1;
        let inherited = (first..=self.earlier).map(move |slot| InstanceId::new(me, slot));
        inherited
            .filter(move |id| store.instances.get(*id).is_none() && self.is_lost(cx, store, *id))
    }

    /// Whether an undecided instance has to be reported as one of unknown payload (§5.4).
    pub(super) fn is_unknown(
        &self,
        cx: &Context,
        store: &Store,
        id: InstanceId,
        instance: &Instance,
    ) -> bool {
        instance.payload.is_none() && self.is_lost(cx, store, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::epaxos::step::Alone;
    use crate::types::ReplicaId;

    fn reserving(slots: Slot) -> Alone {
        Alone::new(3, Optimisations { silent_orphans: false, reserved_slots: slots })
    }

    fn own(slot: Slot) -> InstanceId {
        InstanceId::new(ReplicaId::from_index(0), slot)
    }

    #[test]
    fn a_block_is_asked_for_while_another_one_is_left() {
        let mut alone = reserving(4);
        let (cx, fx) = (&alone.core.cx, &mut alone.fx);
        let mut reservation = Reservation::default();
        let first = reservation.reserve(cx, 1, fx);
        assert_eq!((reservation.up_to(), fx.records.len()), (8, 1));
        for slot in 2..=4 {
            assert_eq!(reservation.reserve(cx, slot, fx), first, "slot {slot}");
        }
        assert_eq!(reservation.reserve(cx, 5, fx), first, "its own block holds it");
        assert_eq!(
            fx.records.last(),
            Some(&Record::Reserved { up_to: 12 }),
            "and the next is asked"
        );
        assert_ne!(reservation.reserve(cx, 9, fx), first);
        assert_eq!(Reservation::default().reserve(&reserving(0).core.cx, 1, fx), None);
    }

    #[test]
    fn reserved_slots_without_a_record_are_lost_reported_and_recovered() {
        let mut alone = reserving(2);
        let mut reservation = Reservation::default();
        reservation.restore(6);
        alone.core.store.instances.entry(own(2)).phase = Phase::PreAccepted;
        let (cx, store) = (&alone.core.cx, &mut alone.core.store);
        let lost: Vec<Slot> =
            (1..=7).filter(|slot| reservation.is_lost(cx, store, own(*slot))).collect();
        assert_eq!(lost, [1, 3, 4, 5, 6]);
        let covered = Deps::from_slots([3, 0, 0]);
        let reported: Vec<_> = reservation.lost_without_trace(cx, store, &covered).collect();
        assert_eq!(reported, [own(4), own(5), own(6)]);
        let conflicts = reservation.conflicts(cx, store, &Footprint::write(b"k"));
        assert_eq!(conflicts, Deps::from_slots([6, 0, 0]), "they conflict with everything");
        let due = reservation.due(cx, store, |_| false, &mut alone.fx);
        assert_eq!(due, [own(1), own(3), own(4), own(5), own(6)]);
    }

    #[test]
    fn so_many_lost_slots_are_recovered_at_a_time_however_short_a_block_is() {
        let mut alone = reserving(2);
        let mut reservation = Reservation::default();
        reservation.restore(LOST_AT_ONCE + 2);
        let (cx, store) = (&alone.core.cx, &mut alone.core.store);
        let due = reservation.due(cx, store, |_| false, &mut alone.fx);
        assert_eq!(due, (1..=LOST_AT_ONCE).map(own).collect::<Vec<_>>());
        let led = |id: InstanceId| id.slot <= LOST_AT_ONCE;
        assert_eq!(reservation.due(cx, store, led, &mut alone.fx), [], "all of them are under way");
        store.instances.entry(own(1)).phase = Phase::Committed;
        let next = own(LOST_AT_ONCE + 1);
        assert_eq!(reservation.on_decided(cx, store, 1, led, &mut alone.fx), [next]);
        assert_eq!(reservation.on_decided(cx, store, 1, led, &mut alone.fx), [], "only once");
    }
}
