//! Reserved slots: PreAccept leaves while the owner's record is being flushed (protocol.md §7).
//! Used by `propose`, which then waits for less, and by `restore`, `validate` and `waiting`, which
//! pay for it.
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
//! more than a block of them at a time, lowest first. Many lives that ended before theirs were
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
//! A lost slot is no orphan, whatever `orphans` says of an owner's other instances: its owner's own
//! vote was never durable, hence never counted, hence the owner never committed it. That it has not
//! done so is all that §5.3.3 asks of an owner, so it does answer recoveries, leads one at once,
//! and they end in `Nop`. Records of a later life (a promise, a payload seen in Validate) change
//! nothing of this; only PreAccepted can make an orphan, and a lost slot is never proposed in
//! again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::instances::Instance;
use super::message::Standing;
use super::{EPaxos, Fx, Phase, Record};
use crate::protocol::{Path, View};
use crate::types::{Batch, Deps, Footprint, InstanceId, Optimisations, Slot, Written};

/// What this replica has reserved of its own slots.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    /// Reserved up to here, in this life or before.
    up_to: Slot,
    /// Reserved up to here when this life began: everything below that has no record is lost.
    pub(super) earlier: Slot,
    /// Of those, what lies below has had its recovery begun.
    next_lost: Slot,
    /// The lost slots whose recoveries are led here.
    under_way: BTreeSet<Slot>,
    /// This life's blocks that still hold slots to use, ascending: where each ends, and its record.
    blocks: VecDeque<(Slot, Written)>,
}

impl Reserve {
    /// A record of an earlier life.
    pub(super) fn restore(&mut self, up_to: Slot) {
        self.up_to = self.up_to.max(up_to);
        self.earlier = self.up_to;
    }
}

impl EPaxos {
    /// Own slots up to here are reserved: they may be in use though no other record shows it.
    pub fn reserved(&self) -> Slot {
        self.reserve.up_to
    }

    /// What has to be durable so that the slot cannot be used again. The next block is asked for
    /// while at least one more is left, so this is durable already but for the first ones.
    pub(super) fn reserve_for(&mut self, slot: Slot, fx: &mut Fx) -> Written {
        let asked = self.cx.settings.optimisations.reserved_slots;
        let block = asked.clamp(1, Optimisations::RESERVED_AT_ONCE);
        let reserve = &mut self.reserve;
        if reserve.up_to < slot.saturating_add(block) {
            reserve.up_to = slot.saturating_add(block.saturating_mul(2)) - 1;
            let written = fx.append(Record::Reserved { up_to: reserve.up_to });
            reserve.blocks.push_back((reserve.up_to, written));
        }
        while reserve.blocks.front().is_some_and(|(end, _)| *end < slot) {
            reserve.blocks.pop_front();
        }
        let (_, written) = reserve.blocks.front().expect("a block that holds it was just made");
        *written
    }

    /// Whether it is an own slot that was reserved in an earlier life, of which no record shows
    /// that it was used, and that is undecided: who knows what others were told.
    pub(super) fn is_lost(&self, id: InstanceId) -> bool {
        let inherited = id.replica == self.cx.me() && id.slot <= self.reserve.earlier;
        let unused = |instance: &Instance| instance.phase == Phase::Initial;
        inherited
            && !self.store.instances.is_committed(id)
            && self.store.instances.get(id).is_none_or(unused)
    }

    /// Recovers lost slots, as many as may be under way at a time. Each ends by itself: this
    /// replica is in its quorum, so nothing is waited for but promises.
    pub(super) fn recover_lost(&mut self, view: &View, fx: &mut Fx) {
        if self.reserve.next_lost > self.reserve.earlier {
            return;
        }
        // What another ballot took over is left to that.
        let (me, recoveries) = (self.cx.settings.me, &self.recoveries);
        let is_led = |slot: &Slot| recoveries.contains_key(&InstanceId::new(me, *slot));
        self.reserve.under_way.retain(is_led);
        self.begin_lost(view, fx);
    }

    /// An own slot is decided: if it was lost, another one has its turn.
    pub(super) fn settle_lost(&mut self, view: &View, slot: Slot, fx: &mut Fx) {
        if self.reserve.under_way.remove(&slot) {
            self.begin_lost(view, fx);
        }
    }

    fn begin_lost(&mut self, view: &View, fx: &mut Fx) {
        let (me, earlier) = (self.cx.me(), self.reserve.earlier);
        let most = match self.cx.settings.optimisations.reserved_slots {
            0 => Optimisations::RESERVED_AT_ONCE,
            block => block.min(Optimisations::RESERVED_AT_ONCE),
        };
        let mut next = self.reserve.next_lost.max(self.store.known_of(me) + 1);
        while next <= earlier && (self.reserve.under_way.len() as Slot) < most {
            let id = InstanceId::new(me, next);
            if self.is_lost(id) && !self.recoveries.contains_key(&id) {
                fx.hit(Path::LostSlot);
                self.reserve.under_way.insert(next);
                self.start_recovery(view, id, fx);
            }
            next += 1;
        }
        self.reserve.next_lost = next;
    }

    /// For each owner, the highest slot known here that conflicts with `footprint`; lost slots
    /// conflict with all.
    pub(super) fn conflicts(&self, footprint: &Footprint) -> Deps {
        let mut deps = self.store.index.conflicts(footprint);
        #[cfg(test)]
        if self.counts_no_lost_if_planted() {
            return deps;
        }
        deps.raise(self.cx.me(), self.reserve.earlier);
        deps
    }

    /// The lost slots that `deps` do not cover and of which nothing is known here, not even a
    /// ballot: their recovery has not begun. They are reported all the same (§5.4).
    pub(super) fn lost_without_trace(&self, deps: &Deps) -> impl Iterator<Item = InstanceId> {
        let me = self.cx.me();
        let first = self.store.known_of(me).max(deps.slot(me)) + 1;
        let inherited = (first..=self.reserve.earlier).map(move |slot| InstanceId::new(me, slot));
        inherited.filter(|id| self.store.instances.get(*id).is_none() && self.is_lost(*id))
    }

    /// Whether an undecided instance has to be reported as one of unknown payload (§5.4).
    pub(super) fn is_unknown(&self, id: InstanceId, instance: &Instance) -> bool {
        instance.payload.is_none() && self.is_lost(id)
    }

    /// Of the instances reported as of unknown payload, those that are known here either speak
    /// against `id` with `batch` like any other, or not at all.
    pub(super) fn sift(
        &self,
        id: InstanceId,
        batch: &Batch,
        interfering: &mut BTreeMap<InstanceId, Standing>,
        fx: &mut Fx,
    ) {
        interfering.retain(|other, standing| {
            if *standing != Standing::Unknown {
                return true;
            }
            fx.hit(Path::UnknownReported);
            let speaks = speaks_against(id, batch, self.store.instances.get(*other));
            #[cfg(test)]
            let speaks = speaks.map(|speaks| {
                speaks || self.speaks_though_covering_if_planted(*other, batch.footprint())
            });
            match speaks {
                Some(false) => {
                    fx.hit(Path::UnknownHarmless);
                    return false;
                }
                Some(true) => *standing = Standing::Open,
                None => {}
            }
            true
        });
    }
}

/// Whether an instance reported as of unknown payload was proposed without covering `id` with
/// `batch`, which it conflicts with: what anybody else would have reported it for (§5.4). `None`
/// while nobody here knows.
pub(super) fn speaks_against(
    id: InstanceId,
    batch: &Batch,
    instance: Option<&Instance>,
) -> Option<bool> {
    let instance = instance?;
    if !instance.payload.as_ref()?.footprint().conflicts(batch.footprint()) {
        return Some(false);
    }
    // Its owner may have voted for `id` first, and covered it then: so another recovery's votes
    // for it say nothing against `id`.
    let (_, covered) = instance.initial.as_ref()?;
    Some(!covered.covers(id))
}
