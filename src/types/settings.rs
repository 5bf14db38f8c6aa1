//! What a replica is told about its cluster and its patience.

use std::time::Duration;

use super::{Quorums, ReplicaId};

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
}

/// How long to wait for what. None of it matters to safety.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How often a replica looks at its clock.
    pub tick: Duration,
    /// How often replicas tell each other what they know and that they live.
    pub gossip: Duration,
    /// A message is sent again after this at the soonest, and after twice the round trip.
    pub retransmit: Duration,
    /// A replica is suspected after this much silence at the soonest, or after four round trips
    /// and two gossip intervals.
    pub suspect: Duration,
    /// An instance of an owner that is not suspected is recovered after this at the soonest.
    pub patience: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            tick: Duration::from_millis(10),
            gossip: Duration::from_millis(50),
            retransmit: Duration::from_millis(100),
            suspect: Duration::from_millis(600),
            patience: Duration::from_secs(3),
        }
    }
}
