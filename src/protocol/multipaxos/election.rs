//! When this replica stands for election: after hearing no leader for long enough (§M5).

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::lease::{Grant, election_timeout};
use super::promised::Promised;
use super::step::Step;
use super::{Context, Path};
use crate::protocol::View;
use crate::types::{Ballot, ReplicaId, Time};

/// When to stand for election, and at which ballot.
#[derive(Debug)]
pub(super) struct Election {
    rng: ChaCha8Rng,
    /// The time; `None` before the first tick.
    deadline: Option<Time>,
    /// The highest ballot seen, promised or not.
    highest: Ballot,
}

impl Election {
    pub(super) fn new(seed: u64) -> Election {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Election { rng, deadline: None, highest: Ballot::OWNER }
    }

    /// Notes a ballot that was seen.
    pub(super) fn note(&mut self, ballot: Ballot) {
        self.highest = self.highest.max(ballot);
    }

    /// A ballot of this replica above all seen.
    pub(super) fn next_ballot(&self, me: ReplicaId, promised: &Promised) -> Ballot {
        promised.ballot().max(self.highest).next_for(me)
    }

    /// A leader was heard, or another replica stands for election: this replica waits.
    pub(super) fn postpone(&mut self, cx: &Context, view: &View) {
        let least = election_timeout(cx, view);
        let drawn = self.rng.random::<f64>();
        let jitter = least.mul_f64(cx.timing().patience_to_stand(cx.me(), drawn));
        self.deadline = Some(view.now + least + jitter);
    }

    /// In a new cluster without a leader, the preferred leader goes first, or else the first
    /// replica; the others follow in order.
    fn first_deadline(&mut self, cx: &Context, view: &View) -> Time {
        let (timing, me) = (cx.timing(), cx.me());
        let rank = u32::try_from(me.index()).expect("a replica's number is small");
        let spread = match timing.leader {
            Some(leader) if leader == me => Duration::ZERO,
            _ => timing.suspect / 2 * rank + timing.head_start(me),
        };
        let jitter = timing.tick.mul_f64(self.rng.random::<f64>());
        if cx.n() == 1 { view.now } else { view.now + timing.gossip + spread + jitter }
    }

    /// Whether it is time to stand for election; call it at each tick while not leading. It is not
    /// before this replica's lease to a leader has ended.
    pub(super) fn is_due(&mut self, s: &mut Step<'_>, grant: &Grant) -> bool {
        let deadline = match self.deadline {
            Some(deadline) => deadline,
            None => self.first_deadline(s.cx, s.view),
        };
        self.deadline = Some(deadline);
        if deadline > s.view.now {
            return false;
        }
        self.postpone(s.cx, s.view);
        let free = grant.free_for(s.cx.me());
        if free > s.view.now {
            s.fx.hit(Path::WaitedOut);
            self.deadline = Some(free);
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::log::tests::stage::{replica, settings};
    use crate::protocol::multipaxos::Fx;
    use crate::protocol::multipaxos::lease::Asked;
    use crate::protocol::multipaxos::step::Core;
    use crate::types::Retention;

    #[test]
    fn a_replica_stands_for_election_only_once_it_is_free_of_its_word() {
        let mut core = Core::new(settings(2, 3, Retention::default()));
        let (mut view, mut fx) = (View::new(3), Fx::default());
        let (mut election, mut grant) = (Election::new(1), Grant::default());
        election.postpone(&core.cx, &view);
        let due = election.deadline.expect("it was set");
        assert!(!election.is_due(&mut core.step(&view, &mut fx), &grant), "it was just postponed");
        let lease = due.since(view.now) * 2;
        let asked = Asked { sent: view.now, lease };
        grant.on_heartbeat(&mut core.step(&view, &mut fx), replica(1), asked, 0);
        view.now = due;
        assert!(!election.is_due(&mut core.step(&view, &mut fx), &grant), "the lease holds");
        assert_eq!(election.deadline, Some(grant.free_for(replica(2))));
        view.now = grant.free_for(replica(2));
        assert!(election.is_due(&mut core.step(&view, &mut fx), &grant));
        assert!(!election.is_due(&mut core.step(&view, &mut fx), &grant), "once");
    }
}
