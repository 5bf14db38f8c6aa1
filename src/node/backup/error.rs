//! Errors of a backup and of a restore.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::machine::RestoreError;
use crate::node::error::{ProposeError, SnapshotError};
use crate::node::poison::PoisonedCommand;
use crate::storage::StorageError;
use crate::types::{MemberId, RequestId, UnsupportedSize};

/// Why a backup was not made, or a directory not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The data directory cannot be used.
    #[error("{directory}: {error}")]
    Storage {
        /// The directory.
        directory: String,
        /// What is wrong.
        error: StorageError,
    },
    /// The directory holds no record of a cluster.
    #[error("{0} holds nothing to back up: no replica has kept anything there")]
    Nothing(String),
    /// The replica is running and has no snapshot yet. Only a snapshot can be backed up then.
    #[error(
        "{0} is in use, and its replica has no snapshot yet: stop it first, or have it \
         write one (`isonomy snapshot`)"
    )]
    NoSnapshot(String),
    /// The directory is of a protocol that this version does not know.
    #[error("{directory}: the replica runs {protocol:?}, which this version does not know")]
    Protocol {
        /// The directory.
        directory: String,
        /// The protocol that the replica runs.
        protocol: String,
    },
    /// A file of that name exists already.
    #[error("{0} is there already")]
    Exists(String),
    /// The directory is not empty.
    #[error("{0} is not empty: restore into a new directory")]
    NotEmpty(String),
    /// The replica is none of the members of the new cluster.
    #[error(
        "replica {} is none of the new cluster's members, which are {}: name all of them with \
         `--members`",
        .replica.number(), numbers(.members)
    )]
    NoSuchReplica {
        /// The replica asked for.
        replica: MemberId,
        /// The members of the new cluster.
        members: BTreeSet<MemberId>,
    },
    /// A cluster cannot have this many members.
    #[error(transparent)]
    Size(#[from] UnsupportedSize),
    /// The running replica could not take a snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The cluster did not answer, so it is not known whether the replica lacks something that was
    /// answered elsewhere.
    #[error("the cluster has to agree before a replica is backed up: {0}")]
    NotAgreed(ProposeError),
    /// The state machine panicked at a command in the log.
    #[error("{directory}: {command}")]
    Poisoned {
        /// The directory that holds the log.
        directory: String,
        /// The command.
        command: PoisonedCommand,
    },
    /// A request cannot be skipped, because the snapshot before the log already contains its
    /// effect.
    #[error(
        "{directory}: request {request} is executed in the snapshot there: it cannot be skipped"
    )]
    TooLateToSkip {
        /// The directory that holds the snapshot.
        directory: String,
        /// The request.
        request: RequestId,
    },
    /// The backup differs from what was written.
    #[error("{file} is no sound backup: {what}")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// The backup was written by another version.
    #[error(
        "{file}: backups of version {found} cannot be read, only those up to version {known}: use \
         the release that wrote it, or a later one"
    )]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The latest version that can be read here.
        known: u32,
    },
    /// The state does not belong to this state machine.
    #[error("the state cannot be used: {0}")]
    State(RestoreError),
    /// The operating system failed an operation on a file.
    #[error("cannot {action} {file}: {error}")]
    Io {
        /// What could not be done.
        action: &'static str,
        /// The file.
        file: String,
        /// The system's error.
        error: io::Error,
    },
}

impl BackupError {
    pub(super) fn io(action: &'static str, file: &Path, error: io::Error) -> BackupError {
        BackupError::Io { action, file: file.display().to_string(), error }
    }
}

fn numbers(members: &BTreeSet<MemberId>) -> String {
    members.iter().map(|it| it.number().to_string()).collect::<Vec<_>>().join(", ")
}
