//! The demo as a scenario: a cluster in this process, clients that send all kinds of commands at
//! once, a replica that stops half-way for good, and a check of every answer.

use std::time::Duration;

use super::faults::{Fault, Who};
use super::{LocalTarget, Scenario, Target};
use crate::load::driver::Plan;
use crate::load::workload::Workload;
use crate::types::ReplicaId;

/// The number of operations recorded for the check, 56 bytes each; if there are more, only those of
/// some keys are.
const RECORD: usize = 1_000_000;

/// The shortest interval of the series and the largest number of them; they show progress.
const LEAST_INTERVAL: Duration = Duration::from_millis(250);
const INTERVALS: u32 = 1_000;

impl Scenario {
    /// The demo on this cluster: a checked workload and `clients` clients at each replica. If a
    /// replica is named, it crashes half-way.
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
