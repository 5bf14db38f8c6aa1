//! Where a replica keeps snapshots, and the room there.

use std::sync::Arc;

use crate::storage::{Disk, Snapshots, StorageError};

/// Where snapshots are stored.
#[derive(Clone)]
pub(in crate::node) enum SnapshotStore {
    /// In memory, only for other replicas.
    Memory,
    /// In the data directory. `leave_free` bytes of the disk are reserved for the log, until the
    /// log has used them up.
    Disk { snapshots: Snapshots, disk: Arc<dyn Disk>, leave_free: u64 },
}

/// The cluster that the worker takes snapshots for, and where it stores them.
pub(in crate::node) struct Where {
    pub(in crate::node) cluster: String,
    pub(in crate::node) replicas: usize,
    pub(in crate::node) store: SnapshotStore,
    /// The number of the next checkpoint of the state machine.
    pub(in crate::node) next: u64,
}

impl SnapshotStore {
    /// The snapshots in the data directory, if there is one.
    pub(super) fn on_disk(&self) -> Option<Snapshots> {
        match self {
            SnapshotStore::Memory => None,
            SnapshotStore::Disk { snapshots, .. } => Some(snapshots.clone()),
        }
    }

    /// Whether there is room for this many bytes beside what the log needs.
    pub(super) fn has_room(&self, bytes: u64) -> Result<(), StorageError> {
        match self {
            SnapshotStore::Memory => Ok(()),
            SnapshotStore::Disk { disk, leave_free, .. } => {
                spare(&**disk, leave_free.saturating_add(bytes))
            }
        }
    }
}

/// Whether the disk has this much room.
pub(super) fn spare(disk: &dyn Disk, bytes: u64) -> Result<(), StorageError> {
    match disk.free_space() {
        Ok(free) if free < bytes => {
            let (action, file) = ("leaving room for the log behind", "a snapshot".to_owned());
            Err(StorageError::Full { action, file })
        }
        // If the free space is unknown, the write itself will tell.
        _ => Ok(()),
    }
}
