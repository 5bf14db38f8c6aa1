//! A replica's directory as a whole: identity, snapshots and log, opened in the one order that is
//! safe. After `identity`, `snapshot` and `log`.
//!
//! A directory counts from the moment its identity is there, which is written last when it is made.
//! Whatever is missing afterwards was lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::StorageError;
use super::disk::{self, Disk};
use super::identity::Identity;
use super::log::{self, Log, LogOptions, Visit};
use super::snapshot::{self, Found, SnapshotOptions, SnapshotReader, SnapshotWriter, Snapshots};
use crate::types::{Chain, LogPosition, ReplicaId, ReplicaSet};

/// Whose directory is to be opened, and how it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreOptions {
    /// The cluster's name, at most 1024 bytes.
    pub cluster: String,
    /// The replica's number in it.
    pub replica: ReplicaId,
    /// The protocol that the replica runs, at most 255 bytes.
    pub protocol: String,
    /// The members of the cluster.
    pub members: ReplicaSet,
    /// How the log is kept.
    pub log: LogOptions,
    /// How snapshots are kept.
    pub snapshots: SnapshotOptions,
}

/// A directory that was opened.
#[derive(Debug)]
pub struct Store {
    /// Whose it is, in its new life, which is durable.
    pub identity: Identity,
    /// The log, open for appending.
    pub log: Log,
    /// The snapshots.
    pub snapshots: Snapshots,
}

/// A directory that is being opened: the snapshot has to be read, then the log after it.
#[derive(Debug)]
pub struct Opening {
    /// Whose it is, in its last life; one that never lived is not written yet.
    pub identity: Identity,
    /// The newest snapshot that is sound, checked to the last byte; `None` if the log holds
    /// everything.
    pub snapshot: Option<SnapshotReader>,
    /// Snapshots that are not sound, newest first: to be told to the operator.
    pub damaged: Vec<StorageError>,
    snapshots: Snapshots,
    disk: Arc<dyn Disk>,
    options: LogOptions,
}

/// Where the log of a directory starts that was made from a snapshot: not at 0, or the loss of that
/// snapshot would look like a directory that never had one.
const RESTORED: LogPosition = LogPosition::new(1);

impl Store {
    /// Opens a directory, or makes it if there is nothing in it. Read [`Opening::snapshot`] then,
    /// and go on with [`Opening::replay`], which begins its next life. Before that it is nobody's:
    /// a start that goes no further leaves nothing behind that a later one would mind.
    ///
    /// # Errors
    /// [`StorageError::Foreign`] if it belongs to another replica, [`StorageError::Outcast`] if the
    /// other replicas have refused it for good; [`StorageError::OtherProtocol`] and
    /// [`StorageError::OtherMembers`] if there is anything in it that was written for those;
    /// otherwise if any part of it is not as it was left, or the disk fails or is
    /// full.
    ///
    /// # Panics
    /// If the options are out of bounds.
    pub fn open(disk: Arc<dyn Disk>, options: &StoreOptions) -> Result<Opening, StorageError> {
        let mut identity = match Identity::read(&*disk)? {
            Some(identity) => identity,
            None => {
                let fresh = found(&*disk, options)?;
                Log::create(disk.clone(), options.log, fresh.directory, LogPosition::default())?;
                fresh
            }
        };
        identity.check(&options.cluster, options.replica)?;
        if let Err(other) = identity.check_terms(&options.protocol, options.members) {
            // Nothing was voted for under what it was begun with, so nothing is lost with it.
            if !is_blank(&*disk)? {
                return Err(other);
            }
            identity.protocol.clone_from(&options.protocol);
        }
        identity.members = options.members;
        let Some(start) = log::first_position(&*disk, identity.directory)? else {
            return Err(StorageError::missing("the log is gone: not one segment is in use"));
        };
        let (directory, start) = (identity.directory, LogPosition::new(start));
        let found = Snapshots::open(disk.clone(), directory, options.snapshots, start)?;
        let Found { snapshots, newest: snapshot, damaged } = found;
        Ok(Opening { identity, snapshot, damaged, snapshots, disk, options: options.log })
    }

    /// Makes a directory from a snapshot that came from elsewhere, out of the backup `origin`:
    /// `contents` writes it. What is made here has not been started yet: its incarnation is 0.
    ///
    /// # Errors
    /// [`StorageError::Foreign`] if the directory is in use already; whatever `contents` fails
    /// with, or if the disk fails or is full: empty the directory then and begin again.
    pub fn restore(
        disk: Arc<dyn Disk>,
        options: &StoreOptions,
        origin: u64,
        contents: impl FnOnce(&mut SnapshotWriter) -> Result<(), StorageError>,
    ) -> Result<Identity, StorageError> {
        if let Some(there) = Identity::read(&*disk)? {
            let found = format!("replica {} of {:?}", there.replica.number(), there.cluster);
            return Err(StorageError::Foreign { found, asked: "a replica to be restored".into() });
        }
        let identity = Identity { origin, ..found(&*disk, options)? };
        Log::create(disk.clone(), options.log, identity.directory, RESTORED)?;
        // The log needs the snapshot that is yet to come.
        let start = LogPosition::default();
        let found = Snapshots::open(disk.clone(), identity.directory, options.snapshots, start)?;
        let mut writer = found.snapshots.begin(RESTORED)?;
        contents(&mut writer)?;
        writer.finish()?;
        identity.write(&*disk)?;
        Ok(identity)
    }
}

impl Opening {
    /// Shows `visit` every record after the snapshot, or after nothing if there is none, in order
    /// and with its position, opens the log for appending, and begins the directory's next life
    /// where the log ends. An earlier life may have died between a snapshot and the cut after it:
    /// that is made up for.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn replay(self, visit: &mut Visit<'_>) -> Result<Store, StorageError> {
        let Opening { mut identity, snapshot, snapshots, disk, options, .. } = self;
        let from =
            snapshot.as_ref().map_or(LogPosition::default(), |newest| newest.info().position);
        let mut log = Log::open(disk.clone(), options, identity.directory, from, visit)?;
        // Where a segment begins with a snapshot, that may be the first after a state that came
        // from elsewhere, and nothing older may stand in for it: see `Lineage`.
        let first = snapshot.is_some() && log.divides_at(from);
        log.truncate(if first { from } else { snapshots.log_floor() })?;
        let known = |life: &u64| identity.chain.lives().iter().any(|began| began.life == *life);
        let life = std::iter::repeat_with(|| disk.entropy()).find(|life| !known(life));
        let life = life.expect("of so many numbers one is new");
        identity.begin(&*disk, life, log.durable().position())?;
        Ok(Store { identity, log, snapshots })
    }
}

/// The identity of a directory that is to be made, if there is nothing in it that would be lost.
fn found(disk: &dyn Disk, options: &StoreOptions) -> Result<Identity, StorageError> {
    if !is_blank(disk)? {
        let what = "the identity is missing, and snapshots or records are there: this directory \
                    was in use, or was not restored to the end";
        return Err(StorageError::missing(what));
    }
    Ok(Identity {
        cluster: options.cluster.clone(),
        protocol: options.protocol.clone(),
        members: options.members,
        replica: options.replica,
        incarnation: 0,
        // 0 stands for no directory.
        directory: disk.entropy().max(1),
        origin: 0,
        outcast: false,
        chain: Chain::default(),
        met: BTreeMap::new(),
    })
}

/// Whether a directory holds neither records nor snapshots: nothing was ever promised from it.
fn is_blank(disk: &dyn Disk) -> Result<bool, StorageError> {
    let names = disk::list(disk)?;
    let snapshot = names.iter().any(|name| snapshot::is_snapshot(name));
    Ok(!snapshot && !log::holds_records(disk, &names)?)
}
