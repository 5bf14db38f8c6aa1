//! Backups: the state of one replica in one file, and new data directories made from that. Beside
//! the running replica, and without any of its threads: `take` reads a directory as a replica would
//! that starts from it, `file` is what the bytes mean.
//!
//! A restored cluster is a new one. Why its members may begin with what the file says stands in the
//! protocol's `found`; that all of them do is seen to by the *origin*, a number drawn for each
//! backup: it is in the identity of every directory restored from it and in every hello, and
//! replicas of different origins, the old cluster's with none among them, refuse each other. Two
//! directories that were restored for one replica from the same backup are told apart as ever: by
//! the numbers of the directories.

mod error;
mod file;
mod take;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

pub use error::BackupError;

use super::EPOCH;
use crate::machine::{Applier, StateMachine, sessions_in};
use crate::protocol::ProtocolKind;
use crate::replica::{Checkpoint, Record};
use crate::storage::{FileDisk, LogOptions, SnapshotOptions, Store, StoreOptions};
use crate::types::{Era, Executed, LogPosition, ReplicaId, ReplicaSet, RequestId};
use crate::wire::encode_snapshot;
use file::Contents;
use take::{Taken, take};

/// What a backup was made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Source {
    /// All that the directory of a stopped replica holds: its newest snapshot and the log after.
    Stopped,
    /// The newest snapshot of a replica that was running.
    Snapshot,
}

/// What a backup is, without the state.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Backup {
    /// Its own number: what the directories restored from it have for their origin.
    pub id: u64,
    /// The cluster's name.
    pub cluster: String,
    /// The replica whose directory it was made of.
    pub replica: ReplicaId,
    /// The size of the cluster.
    pub replicas: usize,
    /// What it was made of.
    pub source: Source,
    /// It stands for all records of that replica before this position.
    pub position: LogPosition,
    /// What the replica had executed: all that is in the state.
    pub executed: Executed,
    /// How many instances the replica knew of and had not executed. They are left out: whoever
    /// waits for one of their commands has to try it again.
    pub left_out: u64,
    /// The era of the sessions.
    pub era: Era,
    /// How many sessions there are.
    pub sessions: usize,
    /// The length of the state, sessions included, in bytes.
    pub state_bytes: u64,
}

/// How a backup is made.
///
/// To be filled from its default: `BackupOptions { overwrite: true, ..BackupOptions::default() }`.
/// That is why it is not `#[non_exhaustive]`; a release may add a field, and gives it a default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BackupOptions {
    /// A file of that name may be replaced.
    pub overwrite: bool,
    /// Requests in the log that are not executed, beside those that the replica skips: see
    /// [`ReplicaBuilder::skip`](super::ReplicaBuilder::skip).
    pub skip: BTreeSet<RequestId>,
}

/// Writes a backup of a replica's data directory to `file`: of all that is in it if the replica is
/// stopped, else of its newest snapshot. `machine` is the state that the cluster began with. The
/// directory is not changed, and no replica can start from it meanwhile.
///
/// # Errors
/// [`BackupError::Exists`] if there is such a file and it is not to be overwritten;
/// [`BackupError::Poisoned`] if the state machine panics at a command in the log;
/// [`BackupError::Protocol`] if the replica does not run EPaxos*; otherwise if
/// the directory is not sound, or holds nothing, or the file cannot be written. No part of it is
/// there then, and what was there before still is.
pub fn backup<S: StateMachine>(
    machine: S,
    directory: impl AsRef<Path>,
    file: impl AsRef<Path>,
    options: &BackupOptions,
) -> Result<Backup, BackupError> {
    let (directory, file) = (directory.as_ref(), file.as_ref());
    let overwrite = options.overwrite;
    file::check_name(file, overwrite)?;
    let Taken { cluster, replica, replicas, source, position, checkpoint, state } =
        take(machine, directory, &options.skip)?;
    let sessions = sessions_in(&state).map_err(BackupError::State)?;
    let mut left_out: Vec<_> =
        checkpoint.own.iter().filter_map(|it| it.protocol()?.instance()).collect();
    left_out.sort_unstable();
    left_out.dedup();
    let backup = Backup {
        // 0 stands for a cluster that was not restored.
        id: rand::random_range(1..=u64::MAX),
        cluster,
        replica,
        replicas,
        source,
        position,
        executed: checkpoint.executed.clone(),
        left_out: left_out.len() as u64,
        era: sessions.era(),
        sessions: sessions.len(),
        state_bytes: state.len() as u64,
    };
    let Checkpoint { executed, shared, own, .. } = checkpoint;
    let own: Vec<_> = own.into_iter().filter_map(|it| it.protocol().cloned()).collect();
    let (shared, executed) = shared.bootstrap(replica, &executed, &own);
    let own = Vec::<Record<crate::protocol::epaxos::Record>>::new();
    let founded = Checkpoint { position, executed, shared, own };
    file::write(file, overwrite, &backup, |write| {
        encode_snapshot(EPOCH, &backup.cluster, &founded, &state, write).map(drop)
    })?;
    Ok(backup)
}

/// Makes a new data directory for `replica` from a backup, once every byte of that was checked. All
/// replicas of a cluster have to be restored from the same backup, into directories of their own,
/// before any of them starts.
///
/// # Errors
/// [`BackupError::NotEmpty`] if there is anything in the directory; [`BackupError::Damaged`] if the
/// backup is not what was written; otherwise if the directory cannot be made: what was begun of it
/// is removed.
pub fn restore<S: StateMachine>(
    file: impl AsRef<Path>,
    directory: impl AsRef<Path>,
    replica: ReplicaId,
) -> Result<Backup, BackupError> {
    let (file, directory) = (file.as_ref(), directory.as_ref());
    let Contents { backup, snapshot, state } = file::read(file)?;
    Applier::<S>::restore(&state).map_err(BackupError::State)?;
    if replica.index() >= backup.replicas {
        return Err(BackupError::NoSuchReplica { replica, replicas: backup.replicas });
    }
    let before = empty(directory)?;
    let options = StoreOptions {
        cluster: backup.cluster.clone(),
        replica,
        protocol: ProtocolKind::EPaxos.to_string(),
        members: ReplicaSet::all(backup.replicas),
        log: LogOptions::default(),
        snapshots: SnapshotOptions::default(),
    };
    let name = directory.display().to_string();
    let failed = |error| BackupError::Storage { directory: name.clone(), error };
    let made = FileDisk::open(directory).and_then(|disk| {
        Store::restore(Arc::new(disk), &options, backup.id, |writer| writer.write(&snapshot))
    });
    if let Err(error) = made {
        clear(directory, before);
        return Err(failed(error));
    }
    Ok(backup)
}

/// Whether the directory is there; if it is, nothing may be in it.
fn empty(directory: &Path) -> Result<bool, BackupError> {
    let name = || directory.display().to_string();
    match fs::read_dir(directory).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(true),
        Ok(false) => Err(BackupError::NotEmpty(name())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BackupError::io("read", directory, error)),
    }
}

/// Removes what was begun in a directory that was empty, or not there, before.
fn clear(directory: &Path, keep: bool) {
    // Whatever cannot be removed keeps the directory from being used: the safe side.
    let _ = match keep {
        false => fs::remove_dir_all(directory),
        true => fs::read_dir(directory).map(|entries| {
            for entry in entries.flatten() {
                let _ = fs::remove_file(entry.path());
            }
        }),
    };
}
