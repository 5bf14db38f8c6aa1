//! A replica's directory as a whole: identity, snapshots and log, opened in the only safe order.
//! After `identity`, `snapshot` and `log`.
//!
//! The identity is written last when a directory is made. Once it exists, everything else must
//! exist, too; anything missing was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::StorageError;
use super::disk::{self, Disk};
use super::identity::Identity;
use super::log::{self, Log, LogOptions, Visit};
use super::snapshot::{self, Found, SnapshotOptions, SnapshotReader, SnapshotWriter, Snapshots};
use crate::types::{Chain, LogPosition, MemberId};

/// Which directory to open, and how to store records in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreOptions {
    /// The cluster's name, at most 1024 bytes.
    pub cluster: String,
    /// The replica's number in the cluster.
    pub replica: MemberId,
    /// The protocol that the replica runs, at most 255 bytes.
    pub protocol: String,
    /// The members of the cluster, or for a replica that joins those that it is to connect with.
    pub members: BTreeSet<MemberId>,
    /// Whether the replica of a new directory joins a cluster that runs.
    pub joins: bool,
    /// How the log is kept.
    pub log: LogOptions,
    /// How snapshots are kept.
    pub snapshots: SnapshotOptions,
}

/// An open directory.
#[derive(Debug)]
pub struct Store {
    /// The directory's identity in its new life, which is durable.
    pub identity: Identity,
    /// The log, open for appending.
    pub log: Log,
    /// The snapshots.
    pub snapshots: Snapshots,
}

/// A directory being opened: first read the snapshot, then the log after it.
#[derive(Debug)]
pub struct Opening {
    /// The directory's identity in its last life; not yet written if there was none.
    pub identity: Identity,
    /// The newest sound snapshot, with every byte checked; `None` if the log holds everything.
    pub snapshot: Option<SnapshotReader>,
    /// Damaged snapshots, newest first, to report to the operator.
    pub damaged: Vec<StorageError>,
    snapshots: Snapshots,
    disk: Arc<dyn Disk>,
    options: LogOptions,
}

/// Where the log starts in a directory made from a snapshot. If it started at 0, the loss of that
/// snapshot would look like a directory that never had one.
const RESTORED: LogPosition = LogPosition::new(1);

impl Store {
    /// Opens a directory, or creates it if it is empty. Then read [`Opening::snapshot`], and
    /// continue with [`Opening::replay`], which begins the next life. A start that stops before
    /// that leaves no trace that would stop a later one.
    ///
    /// # Errors [`StorageError::Foreign`] if it belongs to another replica;
    /// [`StorageError::Outcast`] if the other replicas have refused it for good;
    /// [`StorageError::Removed`] if the replica was removed from the cluster;
    /// [`StorageError::OtherProtocol`] if it holds records written under another protocol;
    /// otherwise if any part of it is not as it was left, or if the disk fails or is full. Whether
    /// the members are right is for the caller to say, once the epoch is known:
    /// [`Identity::check_members`].
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
        if is_blank(&*disk)? {
            // No vote was cast under the first terms, so nothing is lost with them.
            identity.protocol.clone_from(&options.protocol);
            identity.members.clone_from(&options.members);
            identity.joins = options.joins;
        }
        identity.check_protocol(&options.protocol)?;
        if identity.members.is_empty() {
            identity.members.clone_from(&options.members);
        }
        let Some(start) = log::first_position(&*disk, identity.directory)? else {
            return Err(StorageError::missing("the log is gone: not one segment is in use"));
        };
        let (directory, start) = (identity.directory, LogPosition::new(start));
        let found = Snapshots::open(disk.clone(), directory, options.snapshots, start)?;
        let Found { snapshots, newest: snapshot, damaged } = found;
        Ok(Opening { identity, snapshot, damaged, snapshots, disk, options: options.log })
    }

    /// Makes a directory from another replica's snapshot, which `contents` writes. `origin` is the
    /// number of the backup that it came from. The new directory has not been started, so its
    /// incarnation is 0.
    ///
    /// # Errors
    /// [`StorageError::Foreign`] if the directory is in use already; the error of `contents`; or if
    /// the disk fails or is full. After an error, empty the directory before you retry.
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
        // The log needs this snapshot, which does not exist yet, so pretend that it starts at 0.
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
    /// The checkpoints of the state machine that snapshots wait for, oldest first: each snapshot is
    /// durable, and its checkpoint may be.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn prepared(&self) -> Result<Vec<u64>, StorageError> {
        self.snapshots.prepared()
    }

    /// Completes the snapshot that waits for this checkpoint, because the machine has it. It is the
    /// newest from then on.
    ///
    /// # Errors
    /// If that snapshot is damaged. No other can be used then: the machine has moved on.
    pub fn adopt(&mut self, number: u64) -> Result<(), StorageError> {
        self.snapshots.adopt_prepared(number)?;
        self.snapshot = self.snapshots.newest()?;
        Ok(())
    }

    /// Calls `visit` with every record after the snapshot, or with all records if there is none, in
    /// order and with positions. Then opens the log for appending, and begins the directory's next
    /// life at the log's end. If an earlier life crashed between a snapshot and the cut after it,
    /// the cut is made now.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn replay(self, visit: &mut Visit<'_>) -> Result<Store, StorageError> {
        let Opening { mut identity, snapshot, snapshots, disk, options, .. } = self;
        // The state was opened without those that are left.
        snapshots.discard_prepared()?;
        let from =
            snapshot.as_ref().map_or(LogPosition::default(), |newest| newest.info().position);
        let mut log = Log::open(disk.clone(), options, identity.directory, from, visit)?;
        // A segment that begins at the snapshot's position may mean an installed state. Then
        // nothing older may replace the snapshot: see `Lineage`.
        let first = snapshot.is_some() && log.divides_at(from);
        log.truncate(if first { from } else { snapshots.log_floor() })?;
        let known = |life: &u64| identity.chain.lives().iter().any(|began| began.life == *life);
        let life = std::iter::repeat_with(|| disk.entropy()).find(|life| !known(life));
        let life = life.expect("of so many numbers one is new");
        identity.begin(&*disk, life, log.durable().position())?;
        Ok(Store { identity, log, snapshots })
    }
}

/// The identity of a new directory, if the directory holds nothing that would be lost.
fn found(disk: &dyn Disk, options: &StoreOptions) -> Result<Identity, StorageError> {
    if !is_blank(disk)? {
        let what = "the identity is missing, and snapshots or records are there: this directory \
                    was in use, or was not restored to the end";
        return Err(StorageError::missing(what));
    }
    Ok(Identity {
        cluster: options.cluster.clone(),
        protocol: options.protocol.clone(),
        members: options.members.clone(),
        joins: options.joins,
        removed: None,
        replica: options.replica,
        incarnation: 0,
        // 0 means no directory.
        directory: disk.entropy().max(1),
        origin: 0,
        outcast: false,
        chain: Chain::default(),
        met: BTreeMap::new(),
    })
}

/// Whether a directory holds neither records nor snapshots. The replica has promised nothing then.
fn is_blank(disk: &dyn Disk) -> Result<bool, StorageError> {
    let names = disk::list(disk)?;
    let snapshot = names.iter().any(|name| snapshot::is_snapshot(name));
    Ok(!snapshot && !log::holds_records(disk, &names)?)
}
