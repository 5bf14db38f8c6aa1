//! A replica's status, in numbers.

use std::time::Duration;

use super::{Core, Reach, Receiving};
use crate::protocol::{Paths, Protocol, RECOVERY};
use crate::types::{Deps, InstanceId, ReplicaSet};

impl<P: Protocol> Core<P> {
    /// How often this replica took each path.
    pub fn paths(&self) -> &Paths {
        &self.fx.paths
    }

    /// The instance that a decided instance waits for before it can be executed here.
    pub fn waits_for(&self, id: InstanceId) -> Option<InstanceId> {
        self.executor.blocker(id)
    }

    /// The blocked part of the dependency graph, in Graphviz's language.
    pub fn dot(&self) -> String {
        self.executor.dot()
    }

    /// The status of this replica.
    pub fn status(&self) -> ReplicaStatus {
        let (waiting, waiting_bytes) = self.commands.waiting();
        ReplicaStatus {
            executed: self.executor.executed().clone(),
            unexecuted: self.executor.pending(),
            largest_component: self.executor.largest_component(),
            waiting,
            waiting_bytes,
            in_flight: self.commands.in_flight(),
            suspected: self.view.suspected,
            reach: self.reach(),
            round_trips: self.view.round_trips.clone(),
            recoveries: self.fx.paths.named(RECOVERY).unwrap_or(0),
            receiving: self.transfers.receiving(),
            installed: self.installed,
        }
    }
}

/// The status of a replica, in numbers.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ReplicaStatus {
    /// Per owner, everything up to here is executed or decided `Nop`.
    pub executed: Deps,
    /// Decided instances that are not yet executed.
    pub unexecuted: usize,
    /// The largest component executed so far.
    pub largest_component: usize,
    /// Commands that wait for admission, and reads that wait for the log.
    pub waiting: usize,
    /// The payload bytes of the waiting commands.
    pub waiting_bytes: usize,
    /// Commands proposed here and not yet executed here.
    pub in_flight: usize,
    /// Replicas that have been silent for too long.
    pub suspected: ReplicaSet,
    /// The replicas it can reach, and whether they are a quorum.
    pub reach: Reach,
    /// Smoothed round trips, by replica index; zero if not measured.
    pub round_trips: Vec<Duration>,
    /// Recoveries begun here.
    pub recoveries: u64,
    /// The snapshot of another replica that is being received.
    pub receiving: Option<Receiving>,
    /// Snapshots of others installed here.
    pub installed: u64,
}
