//! Durable storage of a replica's records, which come here before anything that depends on them is
//! sent. This room handles bytes only and knows nothing about instances. It sits before `node`,
//! which appends each step's records and reports to the replica which are durable.
//!
//! From the bottom up: [`Disk`] is the basis, a real directory or one that fails on purpose.
//! [`Log`] makes records durable. [`Snapshots`] replace old records. An [`Identity`] says which
//! replica owns them. [`Store`] opens all three in the only safe order. [`LogThread`] runs a log
//! beside the replica. [`Reading`] and [`verify`] read a directory without changing it. A [`Trail`]
//! tells at which command a process ended. [`read_skipped`] returns the requests that the operator
//! has excluded from execution. [`MemoryLog`] keeps nothing: a replica that uses it must not return
//! under its id after a crash.

mod disk;
mod error;
mod identity;
mod log;
mod reading;
mod skipped;
mod snapshot;
mod store;
mod thread;
mod trail;
mod verify;

pub use disk::{Disk, DiskFile, Faults, FaultyDisk, FileDisk, Mode, Operation, Privacy};
pub use error::StorageError;
pub use identity::{Identity, Met};
pub use log::{
    FoundEnd, Log, LogCounts, LogOptions, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, SegmentState, Visit,
};
pub use reading::Reading;
pub use skipped::{add_skipped, read_skipped};
pub use snapshot::{
    Cut, Incoming, Lineage, MAX_CHUNK_BYTES, PreparedSnapshot, SnapshotInfo, SnapshotOptions,
    SnapshotReader, SnapshotWriter, Snapshots,
};
pub use store::{Opening, Store, StoreOptions};
pub use thread::{LogEvent, LogThread};
pub use trail::{LastCommand, Trail};
pub use verify::{Report, verify};

use crate::types::{Durable, LogPosition};

/// How durable a record must be before the replica sends anything that depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Flushed: it survives a power failure.
    #[default]
    Fsync,
    /// Handed to the operating system: it survives the end of the process only. After a power
    /// failure the log may have lost its end without a sign of it.
    Os,
    /// Not stored: records live as long as the process. Up to `f` of `2f + 1` replicas may crash in
    /// the life of a cluster, and none of them may come back.
    Memory,
}

/// The log of a replica that keeps its state in memory. A record never becomes more durable than
/// when it is appended, so only the number of records matters.
#[derive(Debug, Default)]
pub struct MemoryLog {
    records: u64,
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> MemoryLog {
        MemoryLog::default()
    }

    /// Counts this many more records.
    pub fn append(&mut self, records: usize) {
        self.records += records as u64;
    }

    /// How much of the log is durable: all of it.
    pub fn durable(&self) -> Durable {
        Durable::flushed(LogPosition::new(self.records))
    }
}

#[cfg(test)]
mod tests;
