//! Backups: one replica's state in one file, and new data directories made from such a file. This
//! module works beside a running replica and starts none of a replica's threads. `take` reads a
//! directory as a starting replica would, and `file` defines the format.
//!
//! A restored cluster is a new cluster. The protocol's `found` says why its members may start from
//! the backup's state. The *origin* makes sure that all of them do. It is a number drawn for each
//! backup. It is part of the identity of every directory restored from it and part of every hello,
//! and replicas of different origins refuse each other; the old cluster has none. Two directories
//! restored for one replica from the same backup are told apart as always: by the numbers of the
//! directories.

mod error;
mod file;
mod take;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use error::BackupError;

use crate::machine::StateMachine;
use crate::protocol::ProtocolKind;
use crate::replica::{Checkpoint, Record};
use crate::storage::{FileDisk, LogOptions, SnapshotOptions, Store, StoreOptions};
use crate::types::{Era, Executed, LogPosition, MemberId, ReplicaId, RequestId};
use crate::wire::{WriteSnapshotError, encode_snapshot};
use file::Contents;
use take::{Taken, take};

/// What a backup was made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Source {
    /// Everything in a stopped replica's directory: its newest snapshot and the log after it.
    Stopped,
    /// The newest snapshot of a replica that was running.
    Snapshot,
}

/// A backup's description, without the state.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Backup {
    /// The backup's number. Directories restored from it have it as their origin.
    pub id: u64,
    /// The cluster's name.
    pub cluster: String,
    /// The replica whose directory it was made of.
    pub replica: MemberId,
    /// The number of members.
    pub replicas: usize,
    /// What it was made of.
    pub source: Source,
    /// Position in that replica's log; the backup covers all records before it.
    pub position: LogPosition,
    /// What the replica had executed; the state contains exactly this.
    pub executed: Executed,
    /// How many instances the replica knew of and had not executed. They are left out. A client
    /// that waits for one of their commands has to retry it.
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
/// Fill it in from its default: `BackupOptions { overwrite: true, ..BackupOptions::default() }`. It
/// is not `#[non_exhaustive]` for that reason. A release may add a field, and gives it a default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BackupOptions {
    /// A file of that name may be replaced.
    pub overwrite: bool,
    /// Requests in the log that the backup does not execute, besides those that the replica skips:
    /// see [`ReplicaBuilder::skip`](super::ReplicaBuilder::skip).
    pub skip: BTreeSet<RequestId>,
}

/// Writes a backup of a replica's data directory to `file`. It covers everything in the directory
/// if the replica is stopped, and otherwise its newest snapshot. `machine` is the state that the
/// cluster started from. The directory is not changed. No replica can start from it meanwhile.
///
/// # Errors
/// [`BackupError::Exists`] if the file exists and may not be overwritten; [`BackupError::Poisoned`]
/// if the state machine panics at a command in the log; [`BackupError::Protocol`] if the replica
/// does not run EPaxos*; otherwise if the directory is damaged or empty, or the file cannot be
/// written. After an error no part of the new file remains, and an existing file is unchanged.
pub fn backup<S: StateMachine>(
    machine: S,
    directory: impl AsRef<Path>,
    file: impl AsRef<Path>,
    options: &BackupOptions,
) -> Result<Backup, BackupError> {
    let (directory, file) = (directory.as_ref(), file.as_ref());
    let overwrite = options.overwrite;
    file::check_name(file, overwrite)?;
    let Taken { cluster, replica, list, source, position, checkpoint, state, sessions } =
        take(machine, directory, &options.skip)?;
    let mut left_out: Vec<_> =
        checkpoint.own.iter().filter_map(|it| it.protocol()?.instance()).collect();
    left_out.sort_unstable();
    left_out.dedup();
    let mut backup = Backup {
        // 0 means a cluster that was not restored.
        id: rand::random_range(1..=u64::MAX),
        cluster,
        replica,
        replicas: list.len(),
        source,
        position,
        executed: checkpoint.executed.clone(),
        left_out: left_out.len() as u64,
        era: sessions.0,
        sessions: sessions.1,
        // It is known once the snapshot is written.
        state_bytes: 0,
    };
    let Checkpoint { executed, shared, own, .. } = checkpoint;
    let own: Vec<_> = own.into_iter().filter_map(|it| it.protocol().cloned()).collect();
    // Of a removed replica any place is as good.
    let place = list.position(replica).unwrap_or(ReplicaId::from_index(0));
    let (shared, executed) = shared.bootstrap(place, &executed, &own);
    let own = Vec::<Record<crate::protocol::epaxos::Record>>::new();
    let founded = Checkpoint { position, executed, shared, own };
    let mut state_bytes = 0;
    file::write(file, overwrite, &backup, |write| {
        let state = |to: &mut dyn io::Write| state.write_to(to);
        match encode_snapshot(None, &backup.cluster, &founded, state, write) {
            Ok(encoded) => {
                state_bytes = encoded.state_bytes;
                Ok(())
            }
            Err(WriteSnapshotError::Write(error) | WriteSnapshotError::State(error)) => Err(error),
        }
    })?;
    backup.state_bytes = state_bytes;
    Ok(backup)
}

/// Makes a new data directory for `replica` from a backup, after checking every byte of it. Restore
/// all replicas of a cluster from the same backup, into directories of their own, before any of
/// them starts.
///
/// # Errors
/// [`BackupError::NotEmpty`] if there is anything in the directory; [`BackupError::Damaged`] if the
/// backup differs from what was written; otherwise if the directory cannot be made. A half-made
/// directory is removed.
pub fn restore<S: StateMachine>(
    file: impl AsRef<Path>,
    directory: impl AsRef<Path>,
    replica: MemberId,
) -> Result<Backup, BackupError> {
    let (file, directory) = (file.as_ref(), directory.as_ref());
    let Contents { backup, snapshot } = file::read(file)?;
    file::check_state::<S>(&snapshot, &backup).map_err(BackupError::State)?;
    if replica.position().is_none_or(|it| it.index() >= backup.replicas) {
        return Err(BackupError::NoSuchReplica { replica, replicas: backup.replicas });
    }
    let before = empty(directory)?;
    let options = StoreOptions {
        cluster: backup.cluster.clone(),
        replica,
        protocol: ProtocolKind::EPaxos.to_string(),
        members: MemberId::all(backup.replicas).collect(),
        joins: false,
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

/// Whether the directory exists. It is an error if it does and is not empty.
fn empty(directory: &Path) -> Result<bool, BackupError> {
    let name = || directory.display().to_string();
    match fs::read_dir(directory).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(true),
        Ok(false) => Err(BackupError::NotEmpty(name())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BackupError::io("read", directory, error)),
    }
}

/// Removes what was made so far. The directory was empty or missing before.
fn clear(directory: &Path, keep: bool) {
    // A file that cannot be removed keeps the directory from being used, which is safe.
    let _ = match keep {
        false => fs::remove_dir_all(directory),
        true => fs::read_dir(directory).map(|entries| {
            for entry in entries.flatten() {
                let _ = fs::remove_file(entry.path());
            }
        }),
    };
}
