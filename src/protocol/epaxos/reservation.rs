//! Reserved slots: PreAccept leaves while the owner's record is being flushed (PROTOCOL.md §7).
//! `proposer` uses this to wait for less. `restore`, `acceptor` and `recovery` handle the slots
//! that a crash loses.
//!
//! Flushing the owner's record before PreAccept does two things: the slot is never used again, and
//! the owner's own vote is never forgotten. A reservation does the first beforehand, for many slots
//! at once. The second matters only when the vote is counted, so only the count waits for it.
//!
//! So a crash may lose slots that others know of: a reserved slot without a record is *lost*. Its
//! owner does not know the payload, so at the owner it conflicts with everything, for good. The
//! reason: recovery trusts that an owner's vote counted its own earlier instances, including those
//! that became `Nop` (§3, §5.5). It is enough to keep the end of the reserved range. Until every
//! member has executed that far, a vote may count one slot too many; the only cost is the slow
//! path.
//!
//! Each lost slot costs a recovery. Two limits bound that. A block has at most
//! [`Optimisations::RESERVED_AT_ONCE`] slots, whatever the setting. And the owner recovers at most
//! as many lost slots at a time, lowest first. Many short lives may leave more of them. All their
//! messages at once would overflow the others' queues, be lost, and be resent at ever higher
//! ballots.
//!
//! Once the lost slots are decided, the slow path can be avoided. A proposal covers slots that
//! ended as `Nop` and whose payload this owner never saw (`unseen`), up to what it knows to be
//! decided (K). That is safe:
//!
//! - D0 has to include the conflicts; it may include more. Votes only become more alike: `Dq`
//!   includes D0, so less often anything beyond it.
//! - What D0 covers is not reported to a recovery (§5.4). Every slot that is covered for this
//!   reason alone is decided. It is a `Nop`, or a command that is known here and does not conflict;
//!   otherwise D0 would cover it anyway. None of them could ever have spoken against the proposal.
//! - A recovery of a covered slot finds the decision, or its acceptance by `n - f`. It does not
//!   depend on the instances that cover the slot.
//! - Execution waits for a covered slot only until it is known not to conflict. The slot is
//!   decided, so the decision can be fetched.
//!
//! Votes do not cover such slots: a voter adds to the owner's dependencies only what conflicts.
//!
//! A lost slot is not an orphan, whatever `early_commit` says of the owner's other instances. The
//! owner's own vote was never durable, so it was never counted, so the owner never committed the
//! slot. That is all that §5.3.3 requires of an owner. So it answers recoveries of the slot and
//! leads one at once, and they end in `Nop`. Later records (a promise, a payload seen in Validate)
//! do not change this. Only PreAccepted makes an orphan, and a lost slot is never proposed in
//! again.

use std::collections::{BTreeSet, VecDeque};

use super::instances::Instance;
use super::store::Store;
use super::{Context, Path};
use super::{Fx, Phase, Record};
use crate::types::{Deps, Footprint, InstanceId, Optimisations, Slot, Written};

/// How many lost slots are recovered at a time. It does not depend on the setting. Each recovery
/// takes two round trips; with the limit of a short block, distant replicas would need very long
/// after many restarts, and every instance that a lost slot may conflict with would wait.
const LOST_AT_ONCE: Slot = Optimisations::RESERVED_AT_ONCE;

/// The reserved range of this replica's own slots.
#[derive(Debug, Default)]
pub(super) struct Reservation {
    /// Reserved up to here, in this life or an earlier one.
    up_to: Slot,
    /// The end of the range that earlier lives reserved. A slot below it without a record is lost.
    earlier: Slot,
    /// The next slot to examine for a lost one; the recoveries of those below it have begun.
    next_lost: Slot,
    /// The lost slots whose recoveries are led here.
    under_way: BTreeSet<Slot>,
    /// This life's blocks that still have unused slots, ascending: the end of each, and its record.
    blocks: VecDeque<(Slot, Written)>,
}

impl Reservation {
    /// A record of an earlier life.
    pub(super) fn restore(&mut self, up_to: Slot) {
        self.up_to = self.up_to.max(up_to);
        self.earlier = self.up_to;
    }

    /// The record of the reservation, if there is one.
    pub(super) fn record(&self) -> Option<Record> {
        (self.up_to > 0).then_some(Record::Reserved { up_to: self.up_to })
    }

    /// Own slots up to here are reserved. They may be in use without any other record.
    pub(super) fn up_to(&self) -> Slot {
        self.up_to
    }

    /// The end of what earlier lives reserved.
    pub(super) fn earlier(&self) -> Slot {
        self.earlier
    }

    /// Returns the record that has to be durable so that `slot` is never used again; `None` if
    /// slots are not reserved. The next block is requested while at least one more is left, so
    /// except for the first slots the record is durable already.
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

    /// Whether `id` is a slot of this replica that an earlier life reserved, that no record shows
    /// as used, and that is undecided. Other replicas may have received a proposal in it.
    pub(super) fn is_lost(&self, cx: &Context, store: &Store, id: InstanceId) -> bool {
        let inherited = id.replica == cx.me() && id.slot <= self.earlier;
        let unused = |instance: &Instance| instance.phase == Phase::Initial;
        inherited && !store.instances.is_committed(id) && store.instances.get(id).is_none_or(unused)
    }

    /// The lost slots to recover now, up to [`LOST_AT_ONCE`] in progress. This replica is in each
    /// quorum, so each recovery ends after the promises alone. `is_led`: whether this replica leads
    /// a recovery of an instance.
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
        // A recovery that lost to a higher ballot is left to that ballot.
        let me = cx.me();
        self.under_way.retain(|slot| is_led(InstanceId::new(me, *slot)));
        self.next_due(cx, store, is_led, fx)
    }

    /// A slot of this replica is decided. If it was lost, the next one is due.
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

    /// For each owner, the highest slot known here that conflicts with `footprint`. Lost slots
    /// conflict with everything.
    pub(super) fn conflicts(&self, cx: &Context, store: &Store, footprint: &Footprint) -> Deps {
        let mut deps = store.conflicts(footprint);
        let open = store.known_of(cx.me()) < self.earlier;
        if cx.rules.lost_slots_conflict() && (open || cx.rules.decided_lost_slots_conflict()) {
            deps.raise(cx.me(), self.earlier);
        }
        deps
    }

    /// The lost slots that `deps` do not cover and that have no state here, not even a ballot:
    /// their recovery has not begun. They are reported all the same (§5.4).
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
