//! The snapshots of a world. A file holds the state machine's bytes after a number. What the
//! protocol adds to them, and what the checks had seen by then, stands under that number on a shelf
//! of the world.

use bytes::Bytes;

use crate::replica::{Checkpoint, OwnSnapshot, SnapshotId};
use crate::sim::checks::Shown;
use crate::sim::subject::Subject;

/// The bytes in front of the state.
const NUMBER: usize = 8;

/// What a snapshot stands for.
pub(in crate::sim) struct Shelved<P: Subject> {
    pub(in crate::sim) checkpoint: Checkpoint<P::Snapshot, P::Record>,
    pub(in crate::sim) shown: Shown,
    /// What its file holds: number and state.
    pub(in crate::sim) bytes: Bytes,
}

impl<P: Subject> Shelved<P> {
    /// As its replica offers it to others.
    pub(super) fn own(&self, number: usize) -> OwnSnapshot {
        OwnSnapshot {
            id: SnapshotId(number as u64),
            executed: self.checkpoint.executed.clone(),
            bytes: self.bytes.len() as u64,
        }
    }

    /// The state machine's bytes.
    pub(super) fn state(&self) -> &[u8] {
        &self.bytes[NUMBER..]
    }
}

/// The number in front of a snapshot's bytes.
pub(in crate::sim) fn number(bytes: &[u8]) -> usize {
    let front = bytes.first_chunk::<NUMBER>().map_or(u64::MAX, |front| u64::from_le_bytes(*front));
    usize::try_from(front).unwrap_or(usize::MAX)
}
