//! What a replica is told about its cluster and its patience.

use std::time::Duration;

use super::{Quorums, ReplicaId, Slot};

/// What every protocol needs to know at birth.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This replica.
    pub me: ReplicaId,
    /// The cluster's sizes.
    pub quorums: Quorums,
    /// Seeds the randomised back-off. Give each replica another.
    pub seed: u64,
    /// How long to wait for what.
    pub timing: Timing,
    /// What it does to be quicker.
    pub optimisations: Optimisations,
    /// What it keeps for members that are behind, and for how long.
    pub retention: Retention,
    /// Whether it may answer reads alone as a leader that holds a lease (Multi-Paxos). Correct only
    /// where clocks measure time: the leader's may run at half the rate of another's, and must not
    /// stand still while others elect a new leader. Without, reads are proposed like writes, and
    /// nothing depends on clocks. Each replica's own choice.
    pub leases: bool,
}

/// What a replica keeps for members that have not executed it yet (PROTOCOL.md §8a).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Whether a replica that stops never comes back under its name, so that what it has executed
    /// counts at once. If not, it counts once it is in a durable snapshot.
    pub volatile: bool,
    /// About how many bytes of decided instances are kept for a member that stands still, before
    /// the others agree to drop them: it needs a snapshot then. Each replica's own choice.
    pub keep: usize,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { volatile: true, keep: 64 << 20 }
    }
}

/// Two ways to wait for the disk less often before a command is answered (PROTOCOL.md §7). Each is
/// a matter of this replica alone: the others need not do the same. Each may be turned on and off
/// whenever the replica starts.
///
/// By default slots are reserved, and no orphan is silent.
///
/// To be filled from its default, [`Optimisations::NONE`] or [`Optimisations::ALL`], with `..`.
/// That is why it is not `#[non_exhaustive]`; a release may add a field, and gives it a default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Optimisations {
    /// A fast-path commit is told, executed and answered before it is durable. The price: for what
    /// this replica had proposed and not finished when it stopped, it counts as one of the `f`
    /// failures until that is decided; two that have come back like that, if what they had proposed
    /// conflicts, as two. So with one of three replicas gone for good, a restart of another leaves
    /// what it had under way undecided, and with that all keys concerned, until the third returns.
    /// Makes no difference where `f` is 0.
    ///
    /// Turned off, what was proposed while it was on keeps its price until it is decided.
    pub silent_orphans: bool,
    /// PreAccept leaves while the owner's own record is being flushed: this many slots are reserved
    /// at a time beforehand, [`Optimisations::RESERVED_AT_ONCE`] at most; none if 0. The price: up
    /// to twice as many instances to be decided as `Nop` after a restart, a few round trips in all.
    pub reserved_slots: Slot,
}

impl Optimisations {
    /// How many slots to reserve at a time: enough for the proposals of some flushes, and so few
    /// that they are recovered in a few round trips after a restart.
    pub const RESERVED_BLOCK: Slot = 128;

    /// The most slots that are reserved at a time, however many are asked for. After a restart
    /// every slot of two blocks may cost a recovery, so the work has a bound that no setting moves.
    /// More would be of no use: a block has to last for one flush, and a record for so many
    /// proposals costs nothing.
    pub const RESERVED_AT_ONCE: Slot = 1 << 10;

    /// The most slots that may be asked for.
    pub const MOST_RESERVED: Slot = 1 << 16;

    /// Nothing leaves before all of it is durable.
    pub const NONE: Optimisations = Optimisations { silent_orphans: false, reserved_slots: 0 };

    /// Both.
    pub const ALL: Optimisations =
        Optimisations { silent_orphans: true, reserved_slots: Optimisations::RESERVED_BLOCK };
}

impl Default for Optimisations {
    fn default() -> Optimisations {
        Optimisations { silent_orphans: false, reserved_slots: Optimisations::RESERVED_BLOCK }
    }
}

/// How long to wait for what. None of it matters to safety.
///
/// To be filled from its default: `Timing { suspect, ..Timing::default() }`. That is why it is not
/// `#[non_exhaustive]`; a release may add a field, and gives it a default.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How often a replica looks at its clock.
    pub tick: Duration,
    /// How often replicas tell each other what they know and that they live.
    pub gossip: Duration,
    /// A message is sent again after this at the soonest, and after twice the round trip.
    pub retransmit: Duration,
    /// A replica is suspected when it is silent, or answers nothing, for this long at the soonest,
    /// or for four round trips and two gossip intervals.
    pub suspect: Duration,
    /// An instance of an owner that is not suspected is recovered after this at the soonest.
    pub patience: Duration,
    /// Who is to lead, where one replica does: the others wait longer before they stand for
    /// election. No more than a wish: a leader that lives is never replaced for it, and any replica
    /// is elected that a majority would have. To be the same at all replicas.
    pub leader: Option<ReplicaId>,
}

impl Timing {
    /// By how long the others let the wished-for leader of a new cluster begin, beside what is
    /// usual: it must have found them first.
    pub fn head_start(&self, me: ReplicaId) -> Duration {
        match self.leader {
            Some(leader) if leader != me => self.suspect * 4,
            _ => Duration::ZERO,
        }
    }

    /// Which part of the random part of an election's time-out `me` waits, of `drawn`, from 0 to 1:
    /// the wished-for leader no more than a quarter, and the others no less.
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
