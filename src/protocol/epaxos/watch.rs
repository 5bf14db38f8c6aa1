//! What is watched: own proposals are sent again until answered, gaps in what is decided are
//! fetched, and what does not move is recovered (protocol.md §4, §5).
//!
//! Everything unfinished shows as a frontier that stands still, so nothing is scanned: only the
//! instances just above a frontier are ever looked at.

use std::cmp::Reverse;
use std::time::Duration;

use rand::RngExt;

use super::instances::Instance;
use super::{EPaxos, Fx, Message, Phase};
use crate::protocol::{Path, View};
use crate::types::{Ballot, InstanceId, ReplicaId, ReplicaSet, Slot, Time};

/// How many times over patience with a live owner doubles.
const LONGSUFFERING: u32 = 3;

/// How many instances above a frontier are recovered at a time.
const WINDOW: Slot = 256;

/// How far one owner's instances are known to be decided.
#[derive(Debug, Default)]
pub(super) struct Frontier {
    /// Since when K stands where it stood then, with something above it.
    stalled: Option<(Slot, Time)>,
    /// Since when the owner is suspected.
    suspected: Option<Time>,
    pub(super) next_fetch: Time,
    /// The last slot asked for, while the answer is under way; 0 otherwise.
    pub(super) asked: Slot,
    /// How often a decision was asked for in vain: whom to ask next.
    pub(super) in_vain: usize,
    /// How much later than its Commit a payload of the owner comes.
    pub(super) lag: Duration,
    next_recovery: Time,
    /// How often the owner's instances were recovered though nobody suspected it, since one of them
    /// was decided with its commands.
    pub(super) hasty: u32,
}

impl Frontier {
    /// A payload came so long after its Commit: quick to believe a delay, slow to forget it.
    pub(super) fn note_lag(&mut self, lag: Duration) {
        self.lag = lag.max(self.lag * 7 / 8);
    }
}

impl EPaxos {
    /// Looks at an own instance again when an answer is overdue; `round` counts the looks.
    pub(super) fn look_again(&mut self, view: &View, id: InstanceId, round: u32) {
        let when = view.now + self.cx.resend_after(view, round);
        self.timers.push(Reverse((when, id, round, view.now)));
    }

    /// Sends own proposals again to those who have not answered.
    pub(super) fn retransmit_own(&mut self, view: &View, fx: &mut Fx) {
        while let Some(Reverse((when, id, round, sent))) = self.timers.peek().copied() {
            if when > view.now {
                break;
            }
            self.timers.pop();
            if self.store.is_stale(id) || !self.leads_at_owner_ballot(id) {
                continue;
            }
            let before = self.store.instances.entry(id).phase;
            self.decide_path(view, id, true, fx);
            if self.store.instances.entry(id).phase == before {
                // It may take longer now than it did when it was sent.
                let due = sent + self.cx.resend_after(view, round);
                if due > view.now {
                    self.timers.push(Reverse((due, id, round, sent)));
                    continue;
                }
                self.send_again(id, fx);
            }
            if self.leads_at_owner_ballot(id) {
                self.look_again(view, id, round + 1);
            }
        }
    }

    fn leads_at_owner_ballot(&self, id: InstanceId) -> bool {
        let instance = self.store.instances.get(id);
        instance.is_some_and(|i| i.ballot.is_owner() && !i.is_committed())
    }

    pub(super) fn send_again(&mut self, id: InstanceId, fx: &mut Fx) {
        let others = self.cx.others();
        let Some(instance) = self.store.instances.get(id) else { return };
        let without = |answered: ReplicaSet| -> ReplicaSet {
            others.iter().filter(|r| !answered.contains(*r)).collect()
        };
        let written = instance.written;
        match (instance.phase, &instance.tally, &instance.value) {
            (Phase::PreAccepted, Some(tally), _) => {
                let (batch, deps) = instance.initial.clone().expect("an owner knows its proposal");
                let to = without(tally.voters);
                fx.hit(Path::Retransmit);
                fx.send(written, to, Message::PreAccept { id, batch, deps });
            }
            (Phase::Accepted, _, Some(value)) => {
                let to = without(instance.votes.1);
                let (value, deps) = (value.clone(), instance.deps.clone());
                let ballot = Ballot::OWNER;
                fx.hit(Path::Retransmit);
                fx.send(written, to, Message::Accept { id, ballot, value, deps });
            }
            _ => {}
        }
    }

    /// Looks at what stands still, owner by owner.
    pub(super) fn watch_frontiers(&mut self, view: &View, fx: &mut Fx) {
        self.recover_lost(view, fx);
        for owner in ReplicaId::all(self.cx.n()) {
            let suspected = view.suspected.contains(owner);
            let fetch_after = self.fetch_after(view, owner);
            let frontier = &mut self.frontiers[owner.index()];
            frontier.suspected = suspected.then(|| frontier.suspected.unwrap_or(view.now));
            let known = self.store.known_of(owner);
            if known >= self.store.highest_of(owner) {
                frontier.stalled = None;
                continue;
            }
            let since = match frontier.stalled {
                Some((slot, since)) if slot == known => since,
                _ => {
                    frontier.stalled = Some((known, view.now));
                    frontier.next_fetch = frontier.next_fetch.max(view.now + fetch_after);
                    continue;
                }
            };
            let suspected_since = frontier.suspected;
            let overdue = frontier.next_recovery <= view.now;
            let next = InstanceId::new(owner, known + 1);
            if frontier.next_fetch <= view.now {
                frontier.next_fetch = view.now + fetch_after;
                self.fetch(view, owner, fx);
            }
            if !overdue {
                continue;
            }
            let from = match suspected_since {
                // The first in rank goes on as soon as its last recoveries are done. A deaf owner
                // may go on proposing: what it has just proposed gets a little time.
                Some(_) if self.cx.rank(view) == 0 && view.deaf.contains(owner) => since,
                Some(suspected) if self.cx.rank(view) == 0 => suspected,
                Some(suspected) => suspected.max(since),
                None => since,
            };
            let starving = from + self.recover_after(view, owner) <= view.now;
            if starving || self.is_abandoned(view, next) {
                self.recover_window(view, owner, starving, fx);
            }
        }
    }

    /// Whether a recovery took the instance away from its owner and then came to nothing: nobody
    /// but another recovery can finish it now, however alive its owner is.
    fn is_abandoned(&self, view: &View, id: InstanceId) -> bool {
        let taken_over = |instance: &Instance| !instance.ballot.is_owner();
        self.store.instances.get(id).is_some_and(taken_over) && self.may_recover(view, id)
    }

    /// How long a frontier may stand still before its instances are recovered: by the lowest live
    /// replica first when the owner is suspected, else only after long patience.
    fn recover_after(&self, view: &View, owner: ReplicaId) -> Duration {
        let timing = &self.cx.settings.timing;
        let trip = view.slowest_round_trip();
        if !view.suspected.contains(owner) {
            // Where everything is slower than it should be, recovering what its owner would have
            // finished makes a Nop of it, and the owner has to begin again: so more slowly each
            // time.
            let hasty = self.frontiers[owner.index()].hasty;
            return timing.patience.max(trip * 10) * (1 << hasty.min(LONGSUFFERING));
        }
        // An owner that is deaf to this replica may hear others, and finish what it proposes.
        let turns = self.cx.rank(view) + u32::from(view.deaf.contains(owner));
        timing.gossip + (trip * 3 + timing.retransmit) * turns
    }

    /// Starts recoveries just above a frontier, unless somebody is at it already. `starving`: it
    /// stood still for too long.
    fn recover_window(&mut self, view: &View, owner: ReplicaId, starving: bool, fx: &mut Fx) {
        let suspected = view.suspected.contains(owner);
        let known = self.store.known_of(owner);
        let first = known + 1;
        let last = self.store.highest_of(owner).min(known.saturating_add(WINDOW));
        for slot in first..=last {
            let id = InstanceId::new(owner, slot);
            // A live owner finishes what lies above by itself; what it proposes now is not to be
            // hurt.
            let hasty = starving && slot == first;
            if !(suspected || hasty || self.is_abandoned(view, id)) || !self.may_recover(view, id) {
                continue;
            }
            self.frontiers[owner.index()].hasty += u32::from(!suspected);
            self.start_recovery(view, id, fx);
        }
        // Those that are left alone now become due one by one.
        let timing = &self.cx.settings.timing;
        let soon = if suspected { timing.tick } else { timing.retransmit };
        let jitter = soon.mul_f64(self.rng.random::<f64>());
        self.frontiers[owner.index()].next_recovery = view.now + soon + jitter;
    }

    fn may_recover(&self, view: &View, id: InstanceId) -> bool {
        let mine = id.replica == self.cx.me();
        match self.store.instances.get(id) {
            #[cfg(test)]
            None if self.planted(super::Plant::GapsStay) => false,
            None => !mine && !self.store.instances.is_trimmed(id),
            // One's own proposal, nobody else at it: it is being sent again.
            Some(instance) if mine && instance.ballot.is_owner() => false,
            Some(instance) => {
                !instance.is_committed()
                    && instance.not_before <= view.now
                    && !self.recoveries.contains_key(&id)
            }
        }
    }
}
