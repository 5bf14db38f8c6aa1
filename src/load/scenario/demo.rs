//! The demo as a scenario: a cluster in this process, clients that ask all sorts of things of it at
//! once, a replica that stops half-way and for good, and a check of everything that was answered.

use std::time::Duration;

use super::faults::{Fault, Who};
use super::{LocalTarget, Scenario, Target};
use crate::load::driver::Plan;
use crate::load::workload::{BadWorkload, Workload};
use crate::types::{Quorums, UnsupportedSize};

/// So many operations are recorded for the check, 56 bytes each; of more, some keys' are.
const RECORD: usize = 1_000_000;

/// The shortest interval of the series, and the most of them: it is there to show progress.
const LEAST_INTERVAL: Duration = Duration::from_millis(250);
const INTERVALS: u32 = 1_000;

/// A demo that cannot be held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadDemo {
    /// The workload.
    #[error(transparent)]
    Workload(#[from] BadWorkload),
    /// No clients, or more than can be numbered.
    #[error("{0} clients at each replica: take between 1 and 10000")]
    Clients(u32),
    /// No time.
    #[error("{0:?} is no time to run for: take between 0.1 and 86400 seconds")]
    Time(Duration),
    /// The number of replicas.
    #[error(transparent)]
    Size(#[from] UnsupportedSize),
    /// More replicas than sites.
    #[error("{replicas} replicas, but the wide area has {sites} sites: take fewer, or add sites")]
    Sites {
        /// The replicas.
        replicas: usize,
        /// The sites.
        sites: usize,
    },
}

impl Scenario {
    /// The demo on this cluster, with so many clients at each replica, for so long. With `crash`,
    /// the last replica is crashed half-way, unless there are so few that none can be spared.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn demo(
        cluster: LocalTarget,
        workload: Workload,
        clients: u32,
        time: Duration,
        crash: bool,
    ) -> Result<Scenario, BadDemo> {
        workload.check()?;
        if !(1..=10_000).contains(&clients) {
            return Err(BadDemo::Clients(clients));
        }
        if !(0.1..=86_400.0).contains(&time.as_secs_f64()) {
            return Err(BadDemo::Time(time));
        }
        let replicas = cluster.replicas;
        if let Some(area) = &cluster.area
            && area.sites.len() < replicas
        {
            return Err(BadDemo::Sites { replicas, sites: area.sites.len() });
        }
        let spare = Quorums::new(replicas)?.f > 0;
        let last = Who::Replica(u8::try_from(replicas).expect("a checked number of replicas"));
        let faults = (crash && spare).then(|| Fault::kill(last, time / 2));
        Ok(Scenario {
            duration: Some(time),
            interval: LEAST_INTERVAL.max(time / INTERVALS),
            verify: true,
            faults: faults.into_iter().collect(),
            must_answer: true,
            keeps_record: true,
            ..Scenario::plain(Target::Local(cluster), Plan::closed(workload, clients, RECORD))
        })
    }
}
