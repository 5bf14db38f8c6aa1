//! Backups: one replica's state in one file, and new data directories made from such a file. `take`
//! reads a directory as a starting replica would, and `live` fetches the snapshot of a running one;
//! `file` defines the format.
//!
//! A restored cluster is a new cluster. Its members begin like those of a new epoch (PROTOCOL.md
//! §8c): with the same state, and with no slot, ballot or vote. So it may have any size, and the
//! protocol makes no difference:
//!
//! 1. *No two decisions.* No member has a record of the old cluster, and the mesh refuses messages
//!    of another origin. The slots of the two clusters have only their numbers in common.
//! 2. *No command is lost or done twice.* The state contains the sessions. What it has executed is
//!    answered from them. What it has not executed has no effect in it, and is executed once if its
//!    client tries again.
//!
//! The *origin* makes sure that all members begin with the same. It is a number drawn for each
//! backup. It is part of the identity of every directory restored from it and part of every hello,
//! and replicas of different origins refuse each other; the old cluster has none. Restored with
//! other members than those of the backup, the cluster has another origin, made from both. Two
//! directories restored for one replica from the same backup are told apart as always: by the
//! numbers of the directories.
//!
//! Backups of version 2 and before hold what a cluster of the same size begins with, slots
//! included. Earlier releases restore that, so it is restored as it is: all members have to begin
//! with the same, whichever release restores each.

mod error;
mod file;
mod live;
mod take;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

pub use error::BackupError;
pub(crate) use file::check_name;
pub(crate) use live::Fetched;

use crate::machine::{Applier, StateMachine};
use crate::node::status::{NodeProtocol, with_protocol};
use crate::protocol::ProtocolKind;
use crate::replica::{Checkpoint, Record};
use crate::storage::{
    FileDisk, LogOptions, SnapshotOptions, SnapshotWriter, StorageError, Store, StoreOptions,
};
use crate::types::{
    Era, Executed, InstanceId, LogPosition, MemberId, Quorums, RequestId, Settings,
};
use crate::wire::{WriteSnapshotError, encode_snapshot};
use file::{FOUNDED, Head, Sound, Unfinished};
use take::{Taken, take};

/// What a backup was made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Source {
    /// Everything in a stopped replica's directory: its newest snapshot and the log after it.
    Stopped,
    /// The newest snapshot of a replica that was running.
    Snapshot,
    /// A snapshot that a running replica took for it, after the whole cluster had agreed: the
    /// backup has everything that was answered before it was asked for.
    Running,
}

/// A backup's description, without the state.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Backup {
    /// The backup's number. Directories restored from it have it as their origin.
    pub id: u64,
    /// The cluster's name.
    pub cluster: String,
    /// The protocol that it runs.
    pub protocol: ProtocolKind,
    /// The replica whose state it is.
    pub replica: MemberId,
    /// The members of the cluster.
    pub members: BTreeSet<MemberId>,
    /// What it was made of.
    pub source: Source,
    /// Position in that replica's log; the backup covers all records before it.
    pub position: LogPosition,
    /// What the replica had executed; the state contains exactly this.
    pub executed: Executed,
    /// How many instances a stopped replica knew of and had not executed. They are left out. A
    /// client that waits for one of their commands has to retry it.
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

/// How directories are made from a backup. See [`BackupOptions`] for how to fill it in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RestoreOptions {
    /// The members of the new cluster: the same for each of them. If it is empty, they are those of
    /// the backup.
    pub members: BTreeSet<MemberId>,
}

/// Writes a backup of a replica's data directory to `file`. It covers everything in the directory
/// if the replica is stopped, and otherwise its newest snapshot. `machine` is the state that the
/// cluster started from. The directory is not changed. No replica can start from it meanwhile.
///
/// # Errors
/// [`BackupError::Exists`] if the file exists and may not be overwritten; [`BackupError::Poisoned`]
/// if the state machine panics at a command in the log; otherwise if the directory is damaged or
/// empty, or the file cannot be written. After an error no part of the new file remains, and an
/// existing file is unchanged.
pub fn backup<S: StateMachine>(
    machine: S,
    directory: impl AsRef<Path>,
    file: impl AsRef<Path>,
    options: &BackupOptions,
) -> Result<Backup, BackupError> {
    let (directory, file) = (directory.as_ref(), file.as_ref());
    check_name(file, options.overwrite)?;
    with_protocol!(take::protocol(directory)?, P => {
        let taken = take::<S, P>(machine, directory, &options.skip)?;
        write(taken, file, options.overwrite)
    })
}

fn write<P: NodeProtocol>(
    taken: Taken<P>,
    file: &Path,
    overwrite: bool,
) -> Result<Backup, BackupError> {
    let Taken { cluster, replica, list, source, position, checkpoint, state } = taken;
    let records = checkpoint.own.iter().filter_map(Record::protocol);
    let known: BTreeSet<InstanceId> = records.flat_map(P::named_in).collect();
    let left_out = known.iter().filter(|id| !checkpoint.executed.contains(**id)).count() as u64;
    let mut head = Head::of((&cluster, P::KIND), replica, &list, source, position);
    head.left_out = left_out;
    let mut unfinished = Unfinished::begin(file, overwrite, &head)?;
    let Checkpoint { executed, shared, .. } = checkpoint;
    let state = |to: &mut dyn io::Write| state.write_to(to);
    let own = Vec::<Record<P::Record>>::new();
    let checkpoint = Checkpoint { position, executed, shared, own };
    let written =
        encode_snapshot(Some(&list), &cluster, &checkpoint, state, |it| unfinished.put(it));
    match written {
        Ok(_) => unfinished.finish(),
        Err(WriteSnapshotError::Write(error) | WriteSnapshotError::State(error)) => {
            Err(unfinished.failed("write", error))
        }
    }
}

/// Makes a new data directory for `replica` from a backup, after checking every byte of it. Restore
/// all replicas of a cluster from the same backup, into directories of their own, before any of
/// them starts. The result describes the backup as it is restored: its members are those of the new
/// cluster, and its number is the origin of their directories.
///
/// # Errors
/// [`BackupError::NotEmpty`] if there is anything in the directory; [`BackupError::Damaged`] if the
/// backup differs from what was written; otherwise if the directory cannot be made. A half-made
/// directory is removed.
pub fn restore<S: StateMachine>(
    file: impl AsRef<Path>,
    directory: impl AsRef<Path>,
    replica: MemberId,
    options: &RestoreOptions,
) -> Result<Backup, BackupError> {
    let (file, directory) = (file.as_ref(), directory.as_ref());
    let mut sound = Sound::open(file)?;
    let mut backup = sound.check()?;
    let built = sound.read(|from| Applier::<S>::restore_from(from).map(drop))?;
    built.taken.map_err(BackupError::State)?;
    let is_as_it_was = options.members.is_empty() || options.members == backup.members;
    if !is_as_it_was {
        backup.members = options.members.clone();
        backup.id = origin(backup.id, &backup.members);
    }
    Quorums::new(backup.members.len())?;
    if !backup.members.contains(&replica) {
        return Err(BackupError::NoSuchReplica { replica, members: backup.members });
    }
    let before = empty(directory)?;
    let store = StoreOptions {
        cluster: backup.cluster.clone(),
        replica,
        protocol: backup.protocol.to_string(),
        members: backup.members.clone(),
        joins: false,
        log: LogOptions::default(),
        snapshots: SnapshotOptions::default(),
    };
    let name = directory.display().to_string();
    // What the backup's own reading says tells more than what the writer made of it.
    let mut unread = None;
    let contents = |writer: &mut SnapshotWriter| {
        let copied = match is_as_it_was && sound.version <= FOUNDED {
            true => copy(&sound, writer),
            false => with_protocol!(backup.protocol, P => found::<P>(&mut sound, &backup, writer)),
        };
        copied.map_err(|error| match error {
            NotCopied::Written(error) => error,
            NotCopied::Read(error) => {
                let what = error.to_string();
                unread = Some(error);
                StorageError::Missing { what }
            }
        })
    };
    let made = FileDisk::open(directory)
        .and_then(|disk| Store::restore(Arc::new(disk), &store, backup.id, contents));
    if let Err(error) = made {
        clear(directory, before);
        return Err(unread.unwrap_or(BackupError::Storage { directory: name, error }));
    }
    Ok(backup)
}

/// The origin of a cluster that begins with other members than those of the backup.
fn origin(backup: u64, members: &BTreeSet<MemberId>) -> u64 {
    let numbers = members.iter().flat_map(|member| member.number().to_le_bytes());
    let bytes: Vec<u8> = backup.to_le_bytes().into_iter().chain(numbers).collect();
    xxh3_64(&bytes).max(1)
}

/// Why the snapshot of a new directory was not written.
enum NotCopied {
    Read(BackupError),
    Written(StorageError),
}

/// Copies the snapshot in a backup as it is.
fn copy(sound: &Sound, writer: &mut SnapshotWriter) -> Result<(), NotCopied> {
    let mut chunks = sound.chunks();
    while let Some(chunk) = chunks().map_err(|error| NotCopied::Read(sound.unreadable(error)))? {
        writer.write(&chunk).map_err(NotCopied::Written)?;
    }
    Ok(())
}

/// Writes the snapshot that all members of a new cluster begin with: the backup's state, and
/// nothing that its protocol has decided.
fn found<P: NodeProtocol>(
    sound: &mut Sound,
    backup: &Backup,
    writer: &mut SnapshotWriter,
) -> Result<(), NotCopied> {
    let quorums = Quorums::new(backup.members.len()).expect("it was checked");
    let executed = Executed::none(quorums.n);
    let (shared, _) = P::new(Settings { quorums, ..take::settings() }).snapshot(&executed);
    let own = Vec::<Record<P::Record>>::new();
    let founded = Checkpoint { position: LogPosition::default(), executed, shared, own };
    let read = sound.read(|from| {
        let state = |to: &mut dyn io::Write| io::copy(from, to).map(drop);
        encode_snapshot(None, &backup.cluster, &founded, state, |bytes| writer.write(bytes))
    });
    match read.map_err(NotCopied::Read)?.taken {
        Ok(_) => Ok(()),
        Err(WriteSnapshotError::Write(error)) => Err(NotCopied::Written(error)),
        // The decoder has said why, unless nothing was wrong with the backup.
        Err(WriteSnapshotError::State(error)) => Err(NotCopied::Read(sound.unreadable(error))),
    }
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
