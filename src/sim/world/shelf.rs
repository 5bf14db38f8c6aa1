//! The snapshots of a world. A snapshot's file contains a number and the state machine's bytes.
//! Under that number, a shelf of the world keeps what the protocol adds and what the checks had
//! seen by then.

use bytes::Bytes;

use crate::replica::{Checkpoint, OwnSnapshot, SnapshotId};
use crate::sim::checks::Shown;
use crate::sim::subject::Subject;

/// The length of the number before the state.
const NUMBER: usize = 8;

/// What a snapshot contains and covers.
pub(in crate::sim) struct Shelved<P: Subject> {
    pub(in crate::sim) checkpoint: Checkpoint<P::Snapshot, P::Record>,
    pub(in crate::sim) shown: Shown,
    /// The contents of its file: number and state.
    pub(in crate::sim) bytes: Bytes,
}

impl<P: Subject> Shelved<P> {
    /// The description with which its replica offers it to others.
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

/// The number before a snapshot's state.
pub(in crate::sim) fn number(bytes: &[u8]) -> usize {
    let front = bytes.first_chunk::<NUMBER>().map_or(u64::MAX, |front| u64::from_le_bytes(*front));
    usize::try_from(front).unwrap_or(usize::MAX)
}
