//! Watch: fetches missing decisions, and recovers instances that make no progress (PROTOCOL.md §4,
//! §5).
//!
//! Every unfinished instance holds up its owner's frontier. So only the instances just above a
//! frontier are examined, and nothing is scanned.

use std::time::Duration;

use rand::RngExt;

use super::Message;
use super::commit::FETCH_AT_MOST;
use super::instances::Instance;
use super::reclaim::Marks;
use super::recovery::Recoveries;
use super::step::Step;
use super::{Context, Path};
use crate::protocol::View;
use crate::types::{InstanceId, ReplicaId, Slot, Time, Written};

/// How many times the patience with a live owner may double.
const LONGSUFFERING: u32 = 3;

/// How many instances above a frontier are recovered at a time.
const WINDOW: Slot = 256;

/// How long one owner's frontier has stood still, and what was done about it.
#[derive(Debug, Default)]
struct Stall {
    /// K, and since when it has stood there with an instance above it.
    since: Option<(Slot, Time)>,
    /// Since when the owner has been suspected.
    suspected: Option<Time>,
    next_fetch: Time,
    /// The last slot asked for, while the answer is under way; 0 otherwise.
    asked: Slot,
    /// How many requests went unanswered: selects the next replica to ask.
    in_vain: usize,
    /// How long after its Commit a payload of this owner arrives.
    lag: Duration,
    next_recovery: Time,
    /// How often instances of this owner were recovered although it was not suspected, since one of
    /// them was last decided as a command.
    hasty: u32,
}

/// The watch over every owner's frontier.
#[derive(Debug)]
pub(super) struct Watch {
    owners: Vec<Stall>,
}

impl Watch {
    pub(super) fn new(n: usize) -> Watch {
        Watch { owners: (0..n).map(|_| Stall::default()).collect() }
    }

    /// A payload came this long after its Commit. The estimate rises at once and falls slowly.
    pub(super) fn note_lag(&mut self, owner: ReplicaId, lag: Duration) {
        let stall = &mut self.owners[owner.index()];
        stall.lag = lag.max(stall.lag * 7 / 8);
    }

    /// An instance of the owner was decided as a command.
    pub(super) fn note_commands(&mut self, owner: ReplicaId) {
        self.owners[owner.index()].hasty = 0;
    }

    /// A snapshot brought what had been requested.
    pub(super) fn note_snapshot(&mut self, owner: ReplicaId) {
        let stall = &mut self.owners[owner.index()];
        stall.asked = 0;
        stall.in_vain = 0;
    }

    /// Examines an owner's frontier. If it stands still, fetches what is missing and returns the
    /// instances just above it to recover now. Call [`Watch::rest`] after that.
    pub(super) fn look(
        &mut self,
        s: &mut Step<'_>,
        marks: &Marks,
        recoveries: &Recoveries,
        owner: ReplicaId,
    ) -> Option<Vec<InstanceId>> {
        let suspected = s.view.suspected.contains(owner);
        let fetch_after = self.fetch_after(s.cx, s.view, owner);
        let known = s.store.known_of(owner);
        let stall = &mut self.owners[owner.index()];
        stall.suspected = suspected.then(|| stall.suspected.unwrap_or(s.view.now));
        if known >= s.store.highest_of(owner) {
            stall.since = None;
            return None;
        }
        let since = match stall.since {
            Some((slot, since)) if slot == known => since,
            _ => {
                stall.since = Some((known, s.view.now));
                stall.next_fetch = stall.next_fetch.max(s.view.now + fetch_after);
                return None;
            }
        };
        let suspected_since = stall.suspected;
        let overdue = stall.next_recovery <= s.view.now;
        if stall.next_fetch <= s.view.now {
            stall.next_fetch = s.view.now + fetch_after;
            self.fetch(s, marks, owner);
        }
        if !overdue {
            return None;
        }
        let from = match suspected_since {
            // The first in rank continues as soon as its last recoveries are done. A deaf owner may
            // still propose, so its newest proposals get a little time.
            Some(_) if s.cx.rank(s.view) == 0 && s.view.deaf.contains(owner) => since,
            Some(suspected) if s.cx.rank(s.view) == 0 => suspected,
            Some(suspected) => suspected.max(since),
            None => since,
        };
        let starving = from + self.recover_after(s.cx, s.view, owner) <= s.view.now;
        let next = InstanceId::new(owner, known + 1);
        let due = starving || is_abandoned(s, recoveries, next);
        due.then(|| self.window(s, recoveries, owner, starving))
    }

    /// How long a frontier may stand still before its instances are recovered. If the owner is
    /// suspected, the lowest live replica goes first. If it is not, only after a long time.
    fn recover_after(&self, cx: &Context, view: &View, owner: ReplicaId) -> Duration {
        let timing = cx.timing();
        let trip = view.slowest_round_trip();
        if !view.suspected.contains(owner) {
            // On a slow cluster, recovering an instance that its owner would have finished makes it
            // a `Nop`, and the owner has to start over. So each early recovery doubles the wait.
            let hasty = self.owners[owner.index()].hasty;
            return timing.patience.max(trip * 10) * (1 << hasty.min(LONGSUFFERING));
        }
        // An owner that does not hear this replica may hear others, and finish its proposals.
        let turns = cx.rank(view) + u32::from(view.deaf.contains(owner));
        timing.gossip + (trip * 3 + timing.retransmit) * turns
    }

    /// The instances just above a frontier that need a recovery and have none. `starving`: the
    /// frontier has stood still for too long.
    fn window(
        &mut self,
        s: &Step<'_>,
        recoveries: &Recoveries,
        owner: ReplicaId,
        starving: bool,
    ) -> Vec<InstanceId> {
        let suspected = s.view.suspected.contains(owner);
        let known = s.store.known_of(owner);
        let first = known + 1;
        let last = s.store.highest_of(owner).min(known.saturating_add(WINDOW));
        let mut due = Vec::new();
        for slot in first..=last {
            let id = InstanceId::new(owner, slot);
            // A live owner finishes the instances above by itself. A recovery would harm its newest
            // proposals.
            let hasty = starving && slot == first;
            let wanted = suspected || hasty || is_abandoned(s, recoveries, id);
            if wanted && may_recover(s, recoveries, id) {
                self.owners[owner.index()].hasty += u32::from(!suspected);
                due.push(id);
            }
        }
        due
    }

    /// The recoveries of an owner's window have begun. Sets when the next look is due, with jitter.
    pub(super) fn rest(&mut self, s: &mut Step<'_>, owner: ReplicaId) {
        let timing = s.cx.timing();
        let suspected = s.view.suspected.contains(owner);
        let soon = if suspected { timing.tick } else { timing.retransmit };
        let jitter = soon.mul_f64(s.rng.random::<f64>());
        self.owners[owner.index()].next_recovery = s.view.now + soon + jitter;
    }

    /// Requests decisions of `owner` that some replica has and this one lacks.
    fn fetch(&mut self, s: &mut Step<'_>, marks: &Marks, owner: ReplicaId) {
        let known = s.store.known_of(owner);
        let in_vain = self.owners[owner.index()].in_vain;
        let Some((who, up_to)) = marks.who_knows(owner, known, in_vain, s.view) else { return };
        // Do not request decisions that are already known above the gap.
        let missing = (known + 1..=up_to.min(known.saturating_add(FETCH_AT_MOST)))
            .filter(|slot| !s.store.instances.is_committed(InstanceId::new(owner, *slot)));
        let (first, last) =
            missing.fold((None, 0), |(first, _), slot| (first.or(Some(slot)), slot));
        if let Some(from) = first {
            s.fx.hit(Path::Fetch);
            let next_fetch = s.view.now + self.fetch_after(s.cx, s.view, owner);
            let stall = &mut self.owners[owner.index()];
            stall.asked = last;
            stall.in_vain += 1;
            stall.next_fetch = next_fetch;
            s.fx.answer(Written::default(), who, Message::Fetch { owner, from, to: last });
        }
    }

    /// A decision of `owner` was learned. If it was the last one requested, requests more at once:
    /// a replica that missed much need not wait for the clock.
    pub(super) fn fetch_on(&mut self, s: &mut Step<'_>, marks: &Marks, owner: ReplicaId) {
        let stall = &mut self.owners[owner.index()];
        if stall.asked > 0 && s.store.known_of(owner) >= stall.asked {
            stall.asked = 0;
            stall.in_vain = 0;
            self.fetch(s, marks, owner);
        }
    }

    /// How long a gap has to last before its messages are taken as lost. The payloads of a live
    /// owner may still be on their way, so their usual lag counts too. The lag is capped: one
    /// payload that was delayed by a partition says nothing about the next.
    fn fetch_after(&self, cx: &Context, view: &View, owner: ReplicaId) -> Duration {
        let after = cx.timing().gossip + view.slowest_trip();
        let alive = !view.suspected.contains(owner);
        let lag = self.owners[owner.index()].lag.min(cx.timing().suspect * 2);
        after + if alive { lag * 2 } else { Duration::ZERO }
    }
}

/// Whether a recovery took the instance away from its owner and then stopped. Only another recovery
/// can finish it now, even if the owner is alive.
fn is_abandoned(s: &Step<'_>, recoveries: &Recoveries, id: InstanceId) -> bool {
    let taken_over = |instance: &Instance| !instance.ballot.is_owner();
    s.store.instances.get(id).is_some_and(taken_over) && may_recover(s, recoveries, id)
}

fn may_recover(s: &Step<'_>, recoveries: &Recoveries, id: InstanceId) -> bool {
    let mine = id.replica == s.cx.me();
    match s.store.instances.get(id) {
        None => s.cx.rules.gaps_are_recovered() && !mine && !s.store.instances.is_trimmed(id),
        // This replica's proposal, not taken over by a recovery: `proposer` resends it.
        Some(instance) if mine && instance.ballot.is_owner() => false,
        Some(instance) => {
            !instance.is_committed() && instance.not_before <= s.view.now && !recoveries.is_led(id)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::epaxos::reclaim::Reclaim;
    use crate::protocol::epaxos::step::Alone;
    use crate::types::{Deps, Optimisations, ReplicaSet};

    fn replica(number: u8) -> ReplicaId {
        ReplicaId::new(number).expect("a number")
    }

    /// Replica 2 claims to know two decisions of replica 3; replica 1 knows none.
    fn behind() -> (Alone, Reclaim, Watch) {
        let (mut alone, mut reclaim) = (Alone::new(3, Optimisations::NONE), Reclaim::new(3));
        let (known, executed) = (Deps::from_slots([0, 0, 2]), Deps::none(3));
        reclaim.on_marks(&mut alone.step(), replica(2), 0, &known, &executed);
        (alone, reclaim, Watch::new(3))
    }

    /// Examines replica 3's frontier `after` the beginning. Returns the slots to recover, and
    /// whether a fetch was sent.
    fn look(
        (alone, reclaim, watch): &mut (Alone, Reclaim, Watch),
        after: Duration,
    ) -> (Option<Vec<Slot>>, bool) {
        alone.view.now = Time::ZERO + after;
        let recoveries = Recoveries::default();
        let due = watch.look(&mut alone.step(), reclaim.marks(), &recoveries, replica(3));
        if due.is_some() {
            watch.rest(&mut alone.step(), replica(3));
        }
        let fetch = Message::Fetch { owner: replica(3), from: 1, to: 2 };
        let said = alone.said();
        assert!(said.iter().all(|said| *said == (vec![2], fetch.clone())), "{said:?}");
        (due.map(|due| due.iter().map(|id| id.slot).collect()), !said.is_empty())
    }

    #[test]
    fn what_a_suspected_owner_left_is_fetched_and_recovered() {
        let mut behind = behind();
        behind.0.view.suspected = ReplicaSet::from_iter([replica(3)]);
        let gossip = behind.0.core.cx.timing().gossip;
        let short = gossip - Duration::from_millis(1);
        assert_eq!(look(&mut behind, Duration::ZERO), (None, false), "it may be under way");
        assert_eq!(look(&mut behind, short), (None, false));
        assert_eq!(look(&mut behind, gossip), (Some(vec![1, 2]), true));
        assert_eq!(look(&mut behind, gossip), (None, false), "once at a time");
    }

    #[test]
    fn a_live_owner_gets_time_and_keeps_what_it_proposes_now() {
        let mut behind = behind();
        let (gossip, patience) = {
            let timing = behind.0.core.cx.timing();
            (timing.gossip, timing.patience)
        };
        assert_eq!(look(&mut behind, Duration::ZERO), (None, false));
        assert_eq!(look(&mut behind, gossip), (None, true), "fetched, not recovered");
        let (due, _) = look(&mut behind, patience - Duration::from_millis(1));
        assert_eq!(due, None);
        let (due, _) = look(&mut behind, patience);
        assert_eq!(due, Some(vec![1]), "only what holds up the rest");
    }
}
