//! A replica's counters and latencies.

use std::time::Duration;

use super::latency::Latency;
use crate::protocol::Paths;
use crate::storage::Durability;
use crate::types::MemberId;

/// How many took one round trip, and how many took more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct FastSlow {
    /// Committed after one round trip.
    pub fast: u64,
    /// Not committed on the fast path: a conflict, missing replies or a recovery.
    pub slow: u64,
}

impl FastSlow {
    pub(super) fn count(&mut self, fast: bool, by: u64) {
        *(if fast { &mut self.fast } else { &mut self.slow }) += by;
    }

    /// The sum of both.
    pub fn total(self) -> u64 {
        self.fast + self.slow
    }

    /// The share on the fast path, from 0 to 1; 1 if there are none.
    pub fn fast_share(self) -> f64 {
        if self.total() == 0 { 1.0 } else { self.fast as f64 / self.total() as f64 }
    }
}

/// Latencies of the commands on one path only.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PathLatency {
    /// From the call at this replica to the commit of its instance.
    pub commit: Latency,
    /// From the call at this replica to the answer.
    pub execute: Latency,
}

/// A replica's figures since its start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Commands that callers here handed to the core.
    pub proposed: u64,
    /// Commands executed here, whichever replica proposed them. At the start: those its log had
    /// decided.
    pub executed: u64,
    /// Commands that reached execution here but had been executed before.
    pub repeated: u64,
    /// Reads answered from the local state.
    pub local_reads: u64,
    /// Linearizable reads answered here without a proposal, where the protocol allows it.
    pub unproposed_reads: u64,
    /// From the call at this replica to the commit of its instance, for each command.
    pub commit: Latency,
    /// From the call at this replica to the answer, for each command.
    pub execute: Latency,
    /// As above, for commands committed after one round trip. An answer without a commit by this
    /// replica is on neither path; a linearizable read may be one.
    pub fast: PathLatency,
    /// As above, for commands that took more than one round trip.
    pub slow: PathLatency,
    /// This replica's own commands.
    pub commands: FastSlow,
    /// This replica's own instances; one instance holds a batch of commands.
    pub instances: FastSlow,
    /// Recoveries that this replica started.
    pub recoveries: u64,
    /// Commands proposed again because their instance was decided as a `Nop`.
    pub resubmitted: u64,
    /// The leader, if the protocol has one and it is known here.
    pub leader: Option<MemberId>,
    /// Instances in the largest component executed here.
    pub largest_component: usize,
    /// Requests refused because too many were waiting.
    pub overloaded: u64,
    /// Frames received from peers.
    pub frames_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Frames sent to peers.
    pub frames_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Frames to peers that were dropped; the protocol sends again what matters.
    pub frames_dropped: u64,
    /// Frames from peers that could not be decoded.
    pub wrong_frames: u64,
    /// Requests from clients that could not be decoded.
    pub bad_requests: u64,
    /// Turns of the core: how often it processed what had arrived.
    pub turns: u64,
    /// How often each path of the protocol was taken.
    pub paths: Paths,
    /// Figures of its log.
    pub log: LogMetrics,
    /// Figures of its snapshots.
    pub snapshots: SnapshotMetrics,
}

/// A replica's figures about snapshots since its start.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SnapshotMetrics {
    /// Own snapshots taken.
    pub taken: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Whether a snapshot is being taken.
    pub is_being_taken: bool,
    /// How many records the newest snapshot covers; 0 if there is none.
    pub position: u64,
    /// The newest snapshot's length in bytes.
    pub bytes: u64,
    /// From the start of a snapshot until it is durable.
    pub took: Latency,
    /// How long a snapshot blocked the core.
    pub core_stall: Latency,
    /// How long a snapshot blocked the state machine: the time it took to make a view of its state.
    pub apply_stall: Latency,
    /// Snapshots of other replicas that replaced the state here.
    pub installed: u64,
    /// Their bytes.
    pub installed_bytes: u64,
    /// How long checking and building them took, in the background.
    pub building: Latency,
    /// Approximate bytes of memory kept for members that have not executed everything.
    pub kept_bytes: usize,
    /// The first record that is still in the log.
    pub log_start: u64,
}

/// A replica's figures about its log since its start; all zero with [`Durability::Memory`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogMetrics {
    /// How durable a record must be.
    pub durability: Durability,
    /// How often records were written and, with [`Durability::Fsync`], flushed.
    pub flushes: u64,
    /// Records written so far.
    pub records: u64,
    /// Their bytes, including the log's framing.
    pub bytes: u64,
    /// Bytes of records that wait for a flush now.
    pub unflushed_bytes: usize,
    /// From handing records over until they are known to be durable, once per step.
    pub latency: Latency,
    /// Whether the disk is too full for anything new to be proposed here.
    pub space_low: bool,
    /// What the replica restored at its start.
    pub restored: Restored,
}

impl LogMetrics {
    /// The mean number of bytes per flush; 0 if there was none.
    pub fn bytes_per_flush(&self) -> f64 {
        if self.flushes == 0 { 0.0 } else { self.bytes as f64 / self.flushes as f64 }
    }
}

impl Default for LogMetrics {
    fn default() -> LogMetrics {
        LogMetrics {
            durability: Durability::Memory,
            flushes: 0,
            records: 0,
            bytes: 0,
            unflushed_bytes: 0,
            latency: Latency::default(),
            space_low: false,
            restored: Restored::default(),
        }
    }
}

/// What a replica restored from its directory at its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Restored {
    /// The bytes of the snapshot that it started from; 0 if there was none.
    pub snapshot_bytes: u64,
    /// Records after the snapshot.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took, including the execution of what the records decide.
    pub took: Duration,
}

impl Metrics {
    /// Own instances that did not commit on the fast path.
    pub fn conflicts(&self) -> u64 {
        self.instances.slow
    }
}
