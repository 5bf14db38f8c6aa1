//! What a replica counts about its work.

use std::time::Duration;

use super::latency::Latency;
use crate::protocol::Paths;
use crate::storage::Durability;
use crate::types::ReplicaId;

/// How many took one round trip and how many more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct FastSlow {
    /// Committed after one round trip.
    pub fast: u64,
    /// Not on the fast path: a conflict, silence, or a recovery.
    pub slow: u64,
}

impl FastSlow {
    pub(super) fn count(&mut self, fast: bool, by: u64) {
        *(if fast { &mut self.fast } else { &mut self.slow }) += by;
    }

    /// Both.
    pub fn total(self) -> u64 {
        self.fast + self.slow
    }

    /// The fast ones among all, from 0 to 1; 1 when there are none.
    pub fn fast_share(self) -> f64 {
        if self.total() == 0 { 1.0 } else { self.fast as f64 / self.total() as f64 }
    }
}

/// Latencies of those commands alone that took one path.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PathLatency {
    /// From the call at this replica to the commit of its instance.
    pub commit: Latency,
    /// From the call at this replica to the answer.
    pub execute: Latency,
}

/// What one replica has done since its start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Commands handed to the core here.
    pub proposed: u64,
    /// Commands executed here, whoever proposed them; at its start, what its log had decided.
    pub executed: u64,
    /// Of the commands that came up for execution here, those that had been executed before.
    pub repeated: u64,
    /// Reads answered from the local state.
    pub local_reads: u64,
    /// Linearizable reads answered here without being proposed, as the protocol may allow.
    pub unproposed_reads: u64,
    /// From the call at this replica to the commit of its instance, for each command.
    pub commit: Latency,
    /// From the call at this replica to the answer, for each command.
    pub execute: Latency,
    /// The same of those committed after one round trip. What was answered without a commit of this
    /// replica's, as a linearizable read may be, is on neither path.
    pub fast: PathLatency,
    /// The same of those that took more than one.
    pub slow: PathLatency,
    /// This replica's own commands.
    pub commands: FastSlow,
    /// This replica's own instances; a batch of commands is one.
    pub instances: FastSlow,
    /// Recoveries begun here.
    pub recoveries: u64,
    /// Commands proposed again because their instance ended as a `Nop`.
    pub resubmitted: u64,
    /// Who leads, as far as is known here, where one replica does.
    pub leader: Option<ReplicaId>,
    /// Instances in the largest component executed here.
    pub largest_component: usize,
    /// Callers turned away because too much was waiting.
    pub overloaded: u64,
    /// Frames received from peers.
    pub frames_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Frames sent to peers.
    pub frames_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Frames that could not be sent to a peer; whatever mattered is sent again.
    pub frames_dropped: u64,
    /// Frames of peers that made no sense.
    pub wrong_frames: u64,
    /// Requests of clients that made no sense.
    pub bad_requests: u64,
    /// Turns of the core: how often it looked at what had arrived.
    pub turns: u64,
    /// How often each path of the protocol was taken.
    pub paths: Paths,
    /// What became of its records.
    pub log: LogMetrics,
    /// What became of its snapshots.
    pub snapshots: SnapshotMetrics,
}

/// What a replica has done about snapshots since its start.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SnapshotMetrics {
    /// Own ones taken.
    pub taken: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Whether one is being taken.
    pub is_being_taken: bool,
    /// How many records the newest stands for; 0 if there is none.
    pub position: u64,
    /// The newest one's length in bytes.
    pub bytes: u64,
    /// From the beginning of one until it is durable.
    pub took: Latency,
    /// How long the core stood still for one.
    pub core_stall: Latency,
    /// How long the state machine stood still for one.
    pub apply_stall: Latency,
    /// Snapshots of other replicas that took the place of the state here.
    pub installed: u64,
    /// Their bytes.
    pub installed_bytes: u64,
    /// What checking and building them took, beside everything else.
    pub building: Latency,
    /// About how many bytes of memory are taken by what some member has not executed for good.
    pub kept_bytes: usize,
    /// The first record that the log still has.
    pub log_start: u64,
}

/// What a replica's log has done since its start. With [`Durability::Memory`], nothing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogMetrics {
    /// What a record has to survive.
    pub durability: Durability,
    /// How often records were written and, with [`Durability::Fsync`], flushed.
    pub flushes: u64,
    /// Records that were.
    pub records: u64,
    /// Their bytes, with what the log adds.
    pub bytes: u64,
    /// Bytes of records that wait at the moment.
    pub unflushed_bytes: usize,
    /// From a record to the news that it is durable, for all records of a step together.
    pub latency: Latency,
    /// Whether the disk is too full for anything new to be proposed here.
    pub space_low: bool,
    /// What it brought back at its start.
    pub restored: Restored,
}

impl LogMetrics {
    /// Bytes for each flush, in the mean; 0 if there was none.
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

/// What a replica brought back from its directory at its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Restored {
    /// The bytes of the snapshot that it began with; 0 if there was none.
    pub snapshot_bytes: u64,
    /// Records after that.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took, the execution of what they decided included.
    pub took: Duration,
}

impl Metrics {
    /// Own instances that did not commit on the fast path.
    pub fn conflicts(&self) -> u64 {
        self.instances.slow
    }
}
