//! Where a replica's records go before anything is said that depends on them. This room moves
//! bytes and counts them; what an instance is, it never learns. Before `node`, which appends what a
//! step asks for and hands the marks back to the replica.
//!
//! From the bottom up: [`Disk`] is what all of this stands on, a real directory or one that fails
//! on purpose. [`Log`] makes records durable, [`Snapshots`] keeps what replaces them, an
//! [`Identity`] says whose they are. [`Store`] opens the three together, in the one order that is
//! safe. [`LogThread`] runs a log beside the replica; [`Reading`] and [`verify`] look at a
//! directory without touching it. A [`Trail`] says which command a life ended in, and
//! [`read_skipped`] what the operator has said must not be executed. [`MemoryLog`] keeps nothing: a
//! replica that has crashed must not come back under its id then.

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
    Cut, Lineage, MAX_CHUNK_BYTES, SnapshotInfo, SnapshotOptions, SnapshotReader, SnapshotWriter,
    Snapshots,
};
pub use store::{Opening, Store, StoreOptions};
pub use thread::{LogEvent, LogThread};
pub use trail::{LastCommand, Trail};
pub use verify::{Report, verify};

use crate::types::{Durable, LogPosition};

/// What has to have happened to a record before the replica speaks of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Durability {
    /// It was flushed: it survives the loss of power.
    #[default]
    Fsync,
    /// The operating system has it: it survives the end of the process, and no more than that.
    /// After a loss of power the log may have lost its end without anyone noticing.
    Os,
    /// Nothing: records live as long as the process. Up to `f` of `2f + 1` replicas may crash in
    /// the life of a cluster, and none of them comes back.
    Memory,
}

/// The log of a replica that keeps its state in memory alone: every record is as durable as it will
/// ever be when it is appended, so only their number matters.
#[derive(Debug, Default)]
pub struct MemoryLog {
    records: u64,
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> MemoryLog {
        MemoryLog::default()
    }

    /// Takes note of this many more records.
    pub fn append(&mut self, records: usize) {
        self.records += records as u64;
    }

    /// How far the log is durable: all of it.
    pub fn durable(&self) -> Durable {
        Durable::flushed(LogPosition::new(self.records))
    }
}

#[cfg(test)]
mod tests;
