//! The demo as a scenario: a cluster in this process, clients that ask all sorts of things of it at
//! once, a replica that stops half-way and for good, and a check of everything that was answered.

use std::time::Duration;

use super::faults::{Fault, Who};
use super::{LocalTarget, Scenario, Target};
use crate::load::driver::Plan;
use crate::load::workload::Workload;
use crate::types::ReplicaId;

/// So many operations are recorded for the check, 56 bytes each; of more, some keys' are.
const RECORD: usize = 1_000_000;

/// The shortest interval of the series, and the most of them: it is there to show progress.
const LEAST_INTERVAL: Duration = Duration::from_millis(250);
const INTERVALS: u32 = 1_000;

impl Scenario {
    /// The demo on this cluster: a checked workload, so many clients at each replica, for so long;
    /// half-way one replica is crashed, if one is named.
    pub fn demo(
        cluster: LocalTarget,
        workload: Workload,
        clients: u32,
        time: Duration,
        crash: Option<ReplicaId>,
    ) -> Scenario {
        let faults = crash.map(|id| Fault::kill(Who::Replica(id.number()), time / 2));
        Scenario {
            duration: Some(time),
            interval: LEAST_INTERVAL.max(time / INTERVALS),
            verify: true,
            faults: faults.into_iter().collect(),
            must_answer: true,
            keeps_record: true,
            ..Scenario::plain(Target::Local(cluster), Plan::closed(workload, clients, RECORD))
        }
    }
}
