//! A replica's settings: its cluster, its timing and its optimisations.

use std::time::Duration;

use super::{Quorums, ReplicaId, Slot};

/// The settings that every protocol is created with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This replica.
    pub me: ReplicaId,
    /// The quorum sizes of the cluster.
    pub quorums: Quorums,
    /// Seeds the random back-off. Give each replica a different one.
    pub seed: u64,
    /// How long to wait for what.
    pub timing: Timing,
    /// Optimisations of latency.
    pub optimisations: Optimisations,
    /// What it keeps for members that lag behind.
    pub retention: Retention,
    /// Whether it may answer reads alone as a leader that holds a lease (Multi-Paxos).
    ///
    /// Correct only if clocks measure time: the leader's clock may run at half the rate of
    /// another's, but must not stop while others elect a new leader. Without leases, reads are
    /// proposed like writes, and nothing depends on clocks. Each replica may choose for itself.
    pub leases: bool,
}

/// What a replica keeps for members that have not yet executed it (PROTOCOL.md §8a).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Whether a replica that stops never returns under its identity. Then everything it has
    /// executed counts at once; otherwise it counts once it is in a durable snapshot.
    pub volatile: bool,
    /// Roughly how many bytes of decided instances are kept for a member that makes no progress.
    /// Beyond that, the others agree to drop them, and the member needs a snapshot. Each replica
    /// may choose for itself.
    pub keep: usize,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { volatile: true, keep: 64 << 20 }
    }
}

/// Two ways to wait for the disk less often before a command is answered (PROTOCOL.md §7). Each
/// concerns this replica alone; the others need not do the same. Each may be switched on or off at
/// any restart.
///
/// By default slots are reserved, and there are no silent orphans.
///
/// Construct it with `..` from its default, [`Optimisations::NONE`] or [`Optimisations::ALL`]. So
/// it is not `#[non_exhaustive]`: a release may add a field with a default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Optimisations {
    /// A fast-path commit is announced, executed and answered before it is durable.
    ///
    /// Trade-off: after a restart this replica cannot vouch for commands it had in flight; for
    /// those it counts as one of the `f` failures until they are decided. Two such replicas count
    /// as two if their commands conflict. So if one of three replicas is gone for good and another
    /// restarts, the commands it had in flight stay undecided, and their keys blocked, until the
    /// third returns. No effect if `f` is 0.
    ///
    /// After it is switched off, the trade-off still applies to commands proposed before, until
    /// they are decided.
    pub silent_orphans: bool,
    /// How many slots are reserved at a time, so that PreAccept can leave while the owner's record
    /// is being flushed; 0 for none, at most [`Optimisations::RESERVED_AT_ONCE`].
    ///
    /// Trade-off: after a restart up to twice as many instances have to be decided as `Nop`, which
    /// takes a few round trips in all.
    pub reserved_slots: Slot,
}

impl Optimisations {
    /// The default number of slots to reserve at a time. It is enough for the proposals of some
    /// flushes, and so few that they are recovered in a few round trips after a restart.
    pub const RESERVED_BLOCK: Slot = 128;

    /// The most slots that are reserved at a time, whatever the setting. After a restart every slot
    /// of two blocks may cost a recovery; this bounds that work. More would bring nothing: a block
    /// has to last for one flush only, and one record for so many proposals costs little.
    pub const RESERVED_AT_ONCE: Slot = 1 << 10;

    /// The highest value that the setting accepts.
    pub const MOST_RESERVED: Slot = 1 << 16;

    /// No message leaves before everything it rests on is durable.
    pub const NONE: Optimisations = Optimisations { silent_orphans: false, reserved_slots: 0 };

    /// Both optimisations.
    pub const ALL: Optimisations =
        Optimisations { silent_orphans: true, reserved_slots: Optimisations::RESERVED_BLOCK };
}

impl Default for Optimisations {
    fn default() -> Optimisations {
        Optimisations { silent_orphans: false, reserved_slots: Optimisations::RESERVED_BLOCK }
    }
}

/// How long to wait for what. Safety does not depend on any of it.
///
/// Construct it from its default: `Timing { suspect, ..Timing::default() }`. So it is not
/// `#[non_exhaustive]`: a release may add a field with a default.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How often a replica checks its clock.
    pub tick: Duration,
    /// How often replicas exchange their progress and pings.
    pub gossip: Duration,
    /// A message is resent after this time or twice the round trip, whichever is longer.
    pub retransmit: Duration,
    /// A replica is suspected if it is silent or does not answer for this time, or for four round
    /// trips and two gossip intervals, whichever is longer.
    pub suspect: Duration,
    /// An instance of an unsuspected owner is recovered after this time at the earliest.
    pub patience: Duration,
    /// The preferred leader, in protocols with one. The others wait longer before they stand for
    /// election. It is only a preference: a live leader is never replaced because of it, and a
    /// majority may elect any replica. Set the same at all replicas.
    pub leader: Option<ReplicaId>,
}

impl Timing {
    /// How much longer than usual the others wait before the first election of a new cluster, so
    /// that the preferred leader can find them first.
    pub fn head_start(&self, me: ReplicaId) -> Duration {
        match self.leader {
            Some(leader) if leader != me => self.suspect * 4,
            _ => Duration::ZERO,
        }
    }

    /// The share of an election's random time-out that `me` waits, from 0 to 1; `drawn` is random
    /// in that range. The preferred leader waits at most a quarter, the others at least a quarter.
    pub fn patience_to_stand(&self, me: ReplicaId, drawn: f64) -> f64 {
        match self.leader {
            None => drawn,
            Some(leader) if leader == me => drawn / 4.0,
            Some(_) => 0.25 + drawn * 0.75,
        }
    }
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            tick: Duration::from_millis(10),
            gossip: Duration::from_millis(50),
            retransmit: Duration::from_millis(100),
            suspect: Duration::from_millis(600),
            patience: Duration::from_secs(3),
            leader: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_wished_for_as_leader_stands_before_all_others_and_nobody_waits_longer_than_ever() {
        let [one, two] = [1, 2].map(|number| ReplicaId::new(number).expect("a number"));
        let timing = Timing { leader: Some(two), ..Timing::default() };
        for drawn in [0.0, 0.3, 1.0] {
            assert_eq!(Timing::default().patience_to_stand(one, drawn), drawn);
            let (wished, other) =
                (timing.patience_to_stand(two, drawn), timing.patience_to_stand(one, drawn));
            assert!((0.0..=0.25).contains(&wished) && (0.25..=1.0).contains(&other));
        }
        assert_eq!((timing.head_start(two), Timing::default().head_start(one)), Default::default());
        assert!(timing.head_start(one) > timing.suspect);
    }
}
