//! Errors of a backup and of a restore.

use std::io;
use std::path::Path;

use crate::machine::RestoreError;
use crate::node::PoisonedCommand;
use crate::storage::StorageError;
use crate::types::{MemberId, RequestId};

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
    /// The replica runs a protocol that backups do not support.
    #[error("{directory}: the replica runs {protocol}, and backups are made of epaxos alone")]
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
    /// The cluster has too few replicas for the number asked for.
    #[error("the backup is of a cluster of {replicas}, which has no {replica}")]
    NoSuchReplica {
        /// The replica asked for.
        replica: MemberId,
        /// The size of the cluster.
        replicas: usize,
    },
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
    #[error("{file}: backups of version {found} cannot be read, only those of version {known}")]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The only version that can be read here.
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
