//! A directory that is only read: what a replica would start from, without starting it. Beside
//! `store`, which opens one to go on from.

use std::sync::Arc;

use super::StorageError;
use super::disk::Disk;
use super::identity::Identity;
use super::log::{self, Visit};
use super::snapshot::{self, SnapshotReader, Survey};
use crate::types::LogPosition;

/// What a replica would start from. Nothing is changed: its incarnation stays what it is.
#[derive(Debug)]
pub struct Reading {
    /// Whose it is, in its last incarnation.
    pub identity: Identity,
    /// The newest snapshot that is sound, checked to the last byte; `None` if the log holds
    /// everything.
    pub snapshot: Option<SnapshotReader>,
    /// Snapshots that are not sound, newest first.
    pub damaged: Vec<StorageError>,
    disk: Arc<dyn Disk>,
}

impl Reading {
    /// Looks at a directory; `None` if nothing was ever begun in it. Somebody may be writing to it:
    /// what is read of it may be gone, or half there, and the reading fail, then.
    ///
    /// # Errors
    /// If a replica could not start from it, as far as can be told without reading the log.
    pub fn of(disk: Arc<dyn Disk>) -> Result<Option<Reading>, StorageError> {
        let Some(identity) = Identity::read(&*disk)? else { return Ok(None) };
        let Some(start) = log::first_position(&*disk, identity.directory)? else {
            return Err(StorageError::missing("the log is gone: not one segment is in use"));
        };
        let survey = snapshot::survey(&*disk, identity.directory, LogPosition::new(start))?;
        let Survey { newest: snapshot, damaged, .. } = survey;
        Ok(Some(Reading { identity, snapshot, damaged, disk }))
    }

    /// Shows `visit` every record after the snapshot, or after nothing if there is none, in order
    /// and with its position: where the log ends. Nobody may be writing to it.
    ///
    /// # Errors
    /// As [`Log::open`](super::Log::open).
    pub fn replay(&self, visit: &mut Visit<'_>) -> Result<LogPosition, StorageError> {
        let snapshot = self.snapshot.as_ref();
        let from = snapshot.map_or(LogPosition::default(), |snapshot| snapshot.info().position);
        log::read_only(&*self.disk, self.identity.directory, from, visit)
    }
}
