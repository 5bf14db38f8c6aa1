//! Why there is no backup, or no directory from one.

use std::io;
use std::path::Path;

use crate::machine::RestoreError;
use crate::node::PoisonedCommand;
use crate::storage::StorageError;
use crate::types::{ReplicaId, RequestId};

/// Why there is no backup, or no directory from one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The data directory cannot be used.
    #[error("{directory}: {error}")]
    Storage {
        /// Where it is.
        directory: String,
        /// What is wrong.
        error: StorageError,
    },
    /// The directory holds no record of a cluster.
    #[error("{0} holds nothing to back up: no replica has kept anything there")]
    Nothing(String),
    /// The replica runs, and only a snapshot of it could be backed up.
    #[error(
        "{0} is in use, and its replica has no snapshot yet: stop it first, or have it \
         write one (`isonomy snapshot`)"
    )]
    NoSnapshot(String),
    /// The replica runs a protocol of which no backups are made.
    #[error("{directory}: the replica runs {protocol}, and backups are made of epaxos alone")]
    Protocol {
        /// Where it is.
        directory: String,
        /// What it runs.
        protocol: String,
    },
    /// There is a file of that name already.
    #[error("{0} is there already")]
    Exists(String),
    /// There is something in the directory already.
    #[error("{0} is not empty: restore into a new directory")]
    NotEmpty(String),
    /// The cluster has fewer replicas.
    #[error("the backup is of a cluster of {replicas}, which has no {replica}")]
    NoSuchReplica {
        /// The replica asked for.
        replica: ReplicaId,
        /// The size of the cluster.
        replicas: usize,
    },
    /// The state machine panicked at a command in the log.
    #[error("{directory}: {command}")]
    Poisoned {
        /// Where the log is.
        directory: String,
        /// The command.
        command: PoisonedCommand,
    },
    /// A request cannot be skipped: its effect is in the snapshot that the log goes on from.
    #[error(
        "{directory}: request {request} is executed in the snapshot there: it cannot be skipped"
    )]
    TooLateToSkip {
        /// Where the snapshot is.
        directory: String,
        /// The request.
        request: RequestId,
    },
    /// The backup is not what was written.
    #[error("{file} is no sound backup: {what}")]
    Damaged {
        /// The file.
        file: String,
        /// What does not hold.
        what: String,
    },
    /// The backup was written by another version.
    #[error("{file}: backups of version {found} cannot be read, only those of version {known}")]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The one version known here.
        known: u32,
    },
    /// The state is none of this state machine.
    #[error("the state cannot be used: {0}")]
    State(RestoreError),
    /// The operating system failed an operation on a file.
    #[error("cannot {action} {file}: {error}")]
    Io {
        /// What could not be done.
        action: &'static str,
        /// The file.
        file: String,
        /// What the system said.
        error: io::Error,
    },
}

impl BackupError {
    pub(super) fn io(action: &'static str, file: &Path, error: io::Error) -> BackupError {
        BackupError::Io { action, file: file.display().to_string(), error }
    }
}
