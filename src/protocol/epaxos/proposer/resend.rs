//! Resends own proposals until they are answered. After a time-out it gives up the fast path for
//! the slow one (PROTOCOL.md §4.3).

use std::cmp::Reverse;

use super::{Proposer, Way, decide_way};
use crate::protocol::epaxos::instances::Instance;
use crate::protocol::epaxos::step::Step;
use crate::protocol::epaxos::{Message, Path, Phase};
use crate::types::{Ballot, InstanceId, ReplicaSet, Time};

/// When to check one of this replica's undecided instances again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Timer {
    when: Time,
    id: InstanceId,
    /// How many checks there were before this one.
    round: u32,
    /// When the instance was last sent.
    sent: Time,
}

impl Proposer {
    /// Schedules a check of an instance for when its answers are overdue; `round` counts checks.
    pub(super) fn look_again(&mut self, s: &Step<'_>, id: InstanceId, round: u32) {
        let when = s.view.now + s.cx.resend_after(s.view, round);
        self.timers.push(Reverse(Timer { when, id, round, sent: s.view.now }));
    }

    /// The next own instance whose answers are overdue, with the path it takes now that it has
    /// timed out. Instances that cannot take a path yet are resent.
    pub(crate) fn next_overdue(&mut self, s: &mut Step<'_>) -> Option<(InstanceId, Way)> {
        while self.timers.peek().is_some_and(|Reverse(timer)| timer.when <= s.view.now) {
            let Reverse(timer) = self.timers.pop()?;
            let Timer { id, round, sent, .. } = timer;
            if s.store.is_stale(id) || !is_led_here(s, id) {
                continue;
            }
            if let Some(way) = decide_way(s, id, true) {
                if matches!(way, Way::Slow(_)) {
                    self.look_again(s, id, round + 1);
                }
                return Some((id, way));
            }
            // Trips may have become slower since it was sent: then wait longer.
            let due = sent + s.cx.resend_after(s.view, round);
            if due > s.view.now {
                self.timers.push(Reverse(Timer { when: due, ..timer }));
                continue;
            }
            send_again(s, id);
            self.look_again(s, id, round + 1);
        }
        None
    }
}

/// Whether it is undecided and still at the owner's ballot.
fn is_led_here(s: &Step<'_>, id: InstanceId) -> bool {
    let undecided = |instance: &Instance| instance.ballot.is_owner() && !instance.is_committed();
    s.store.instances.get(id).is_some_and(undecided)
}

/// Resends a proposal to the replicas that have not answered.
pub(super) fn send_again(s: &mut Step<'_>, id: InstanceId) {
    let others = s.cx.others();
    let Some(instance) = s.store.instances.get(id) else { return };
    let without = |answered: ReplicaSet| -> ReplicaSet {
        others.iter().filter(|r| !answered.contains(*r)).collect()
    };
    let written = instance.written;
    match (instance.phase, &instance.tally, &instance.value) {
        (Phase::PreAccepted, Some(tally), _) => {
            let (batch, deps) = instance.initial.clone().expect("an owner knows its proposal");
            let to = without(tally.voters);
            s.fx.hit(Path::Retransmit);
            s.fx.send(written, to, Message::PreAccept { id, batch, deps });
        }
        (Phase::Accepted, _, Some(value)) => {
            let to = without(instance.votes.1);
            let (value, deps) = (value.clone(), instance.deps.clone());
            let ballot = Ballot::OWNER;
            s.fx.hit(Path::Retransmit);
            s.fx.send(written, to, Message::Accept { id, ballot, value, deps });
        }
        _ => {}
    }
}
