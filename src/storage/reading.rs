//! Reads a directory without changing it: the state that a replica would start from. Beside
//! `store`, which opens a directory to continue from it.

use std::sync::Arc;

use super::StorageError;
use super::disk::Disk;
use super::identity::Identity;
use super::log::{self, Visit};
use super::snapshot::{self, SnapshotReader, Survey};
use crate::types::LogPosition;

/// What a replica would start from. Nothing is changed, not even the incarnation.
#[derive(Debug)]
pub struct Reading {
    /// The directory's identity, from its last life.
    pub identity: Identity,
    /// The newest sound snapshot, with every byte checked; `None` if the log holds everything.
    pub snapshot: Option<SnapshotReader>,
    /// Damaged snapshots, newest first.
    pub damaged: Vec<StorageError>,
    disk: Arc<dyn Disk>,
}

impl Reading {
    /// Reads a directory; `None` if it was never used. A replica may be writing to it. Files may
    /// then disappear or be incomplete, and the reading fails.
    ///
    /// # Errors
    /// If a replica could not start from it, as far as that is known without reading the log.
    pub fn of(disk: Arc<dyn Disk>) -> Result<Option<Reading>, StorageError> {
        let Some(identity) = Identity::read(&*disk)? else { return Ok(None) };
        let Some(start) = log::first_position(&*disk, identity.directory)? else {
            return Err(StorageError::missing("the log is gone: not one segment is in use"));
        };
        let survey = snapshot::survey(&*disk, identity.directory, LogPosition::new(start))?;
        let Survey { newest: snapshot, damaged, .. } = survey;
        Ok(Some(Reading { identity, snapshot, damaged, disk }))
    }

    /// Calls `visit` with every record after the snapshot, or with all records if there is none, in
    /// order and with positions. Returns the log's end. No process may be writing to the directory.
    ///
    /// # Errors
    /// As [`Log::open`](super::Log::open).
    pub fn replay(&self, visit: &mut Visit<'_>) -> Result<LogPosition, StorageError> {
        let snapshot = self.snapshot.as_ref();
        let from = snapshot.map_or(LogPosition::default(), |snapshot| snapshot.info().position);
        log::read_only(&*self.disk, self.identity.directory, from, visit)
    }
}
