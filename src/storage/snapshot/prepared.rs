//! Snapshots that refer to a checkpoint of a state machine that keeps its state on disk itself.
//! They are made durable before the machine's checkpoint, and count once the machine has it: see
//! `machine::checkpoint` for the order.
//!
//! Until then such a snapshot has a name with the checkpoint's number. Several may be there: after
//! an error nobody knows whether the machine has the checkpoint.

use super::{SnapshotInfo, SnapshotReader, Snapshots};
use crate::storage::StorageError;
use crate::storage::disk;

/// The prefix of the name of a snapshot that waits for its checkpoint.
const PREPARED: &str = "snapshot-prepared-";

/// A durable snapshot that does not count yet. If it is dropped, it stays.
#[derive(Debug)]
#[must_use = "it does not count yet"]
pub struct PreparedSnapshot {
    snapshots: Snapshots,
    info: SnapshotInfo,
}

impl PreparedSnapshot {
    /// Gives a finished file the name of a prepared one.
    pub(super) fn make(
        snapshots: &Snapshots,
        mut info: SnapshotInfo,
        number: u64,
    ) -> Result<PreparedSnapshot, StorageError> {
        let disk = &*snapshots.store.disk;
        let prepared = name(number);
        disk::rename(disk, &info.file, &prepared)?;
        disk::sync_directory(disk)?;
        info.file = prepared;
        Ok(PreparedSnapshot { snapshots: snapshots.clone(), info })
    }

    /// The machine has the checkpoint: the snapshot counts from now on, and no older one does.
    ///
    /// # Errors
    /// If the disk fails. The next start completes it.
    pub fn adopt(self) -> Result<SnapshotInfo, StorageError> {
        let info = self.snapshots.adopt(&self.info.file.clone(), self.info)?;
        self.snapshots.keep_newest()?;
        Ok(info)
    }

    /// The machine surely does not have the checkpoint, and never will.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn discard(self) -> Result<(), StorageError> {
        disk::remove(&*self.snapshots.store.disk, &self.info.file)
    }
}

impl Snapshots {
    /// The checkpoints that prepared snapshots wait for, newest last.
    ///
    /// # Errors
    /// If the disk fails.
    pub(in crate::storage) fn prepared(&self) -> Result<Vec<u64>, StorageError> {
        let names = disk::list(&*self.store.disk)?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Completes the prepared snapshot of a checkpoint that the machine has, after checking every
    /// byte of it.
    ///
    /// # Errors
    /// If it is damaged, or if the disk fails.
    pub(in crate::storage) fn adopt_prepared(&self, number: u64) -> Result<(), StorageError> {
        let name = name(number);
        let mut reader = SnapshotReader::open(&*self.store.disk, &name)?;
        if reader.directory() != self.store.directory {
            return Err(StorageError::damaged(&name, 0, "it belongs to another directory"));
        }
        reader.verify()?;
        let info = reader.info().clone();
        PreparedSnapshot { snapshots: self.clone(), info }.adopt()?;
        Ok(())
    }

    /// Removes all prepared snapshots: the state was opened without them.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn discard_prepared(&self) -> Result<(), StorageError> {
        for number in self.prepared()? {
            disk::remove(&*self.store.disk, &name(number))?;
        }
        Ok(())
    }
}

fn name(number: u64) -> String {
    format!("{PREPARED}{number:020}")
}

fn number(file: &str) -> Option<u64> {
    let number = file.strip_prefix(PREPARED)?.parse().ok()?;
    (name(number) == file).then_some(number)
}
