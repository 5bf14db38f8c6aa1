//! What storage can refuse, by blame: the operator's doing, the disk's, or the caller's.

use std::io;
use std::sync::Arc;

use crate::types::ReplicaSet;

/// Why storage would not do as it was asked. Cheap to clone: a poisoned log answers every call with
/// the error that poisoned it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Another process holds the directory.
    #[error("{directory} is in use by {}: its lock is taken", holder(*.process))]
    Locked {
        /// The directory.
        directory: String,
        /// The process that took the lock, if its number could be read.
        process: Option<u32>,
    },
    /// The directory was made for another cluster or another replica.
    #[error("this directory belongs to {found}, not to {asked}")]
    Foreign {
        /// Whose it is.
        found: String,
        /// Who asked.
        asked: String,
    },
    /// The directory is written in another protocol.
    #[error(
        "this directory belongs to a replica that runs the protocol {found:?}, not {asked:?}: set \
         `protocol = {found:?}`, or begin a new cluster in new directories"
    )]
    OtherProtocol {
        /// What it is written in.
        found: String,
        /// What the replica was to run.
        asked: String,
    },
    /// The directory belongs to a cluster of other members.
    #[error(
        "this directory belongs to a cluster of the replicas {}, and the list of replicas names \
         {}: the list differs, the directory is sound",
        numbers(*.found), numbers(*.asked)
    )]
    OtherMembers {
        /// The members it was begun with.
        found: ReplicaSet,
        /// The members it was to be started among.
        asked: ReplicaSet,
    },
    /// The other replicas have refused this directory for good.
    #[error("the other replicas have refused this directory for good, and will again")]
    Outcast,
    /// A file of a format that this version does not know.
    #[error("{file}: format version {found}, where version {known} is known here")]
    Format {
        /// The file's name.
        file: String,
        /// The version it says.
        found: u32,
        /// The one version known here.
        known: u32,
    },
    /// Bytes that are not what was written: never guessed at, never skipped.
    #[error("{file}, byte {offset}: {what}")]
    Damaged {
        /// The file's name.
        file: String,
        /// Where in the file the damage was noticed.
        offset: u64,
        /// What does not hold there.
        what: String,
    },
    /// Something that must be there is not.
    #[error("{what}")]
    Missing {
        /// What is missing and how that is known.
        what: String,
    },
    /// The disk has no room, or no more files. What was acknowledged is safe. A failed flush is
    /// never this: see [`StorageError::Io`].
    #[error("the disk is full: {action} {file}")]
    Full {
        /// What was being done.
        action: &'static str,
        /// The file's name.
        file: String,
    },
    /// The operating system failed an operation.
    #[error("{action} {file}: {error}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file's name.
        file: String,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// A record that no segment can hold.
    #[error("a record of {bytes} bytes, where {limit} are allowed")]
    TooLarge {
        /// The record's length in bytes.
        bytes: usize,
        /// The longest one allowed.
        limit: usize,
    },
    /// The log thread has stopped, after an error it has reported or because it was closed.
    #[error("the log is closed")]
    Closed,
}

impl StorageError {
    /// An operation that failed on a file.
    pub(super) fn io(action: &'static str, file: &str, error: io::Error) -> StorageError {
        let file = file.to_owned();
        if is_full(&error) {
            StorageError::Full { action, file }
        } else {
            StorageError::Io { action, file, error: Arc::new(error) }
        }
    }

    /// A flush that failed, for whatever reason: what it was about is in doubt, and no room that
    /// comes later changes that.
    pub(super) fn flush(file: &str, error: io::Error) -> StorageError {
        StorageError::Io { action: "flushing", file: file.to_owned(), error: Arc::new(error) }
    }

    /// Bytes that do not hold.
    pub(super) fn damaged(file: &str, offset: u64, what: impl Into<String>) -> StorageError {
        StorageError::Damaged { file: file.to_owned(), offset, what: what.into() }
    }

    /// Something that is not there.
    pub(super) fn missing(what: impl Into<String>) -> StorageError {
        StorageError::Missing { what: what.into() }
    }

    /// Whether the disk was full, which is no sign of a broken one: it can be tried again.
    pub fn is_full(&self) -> bool {
        matches!(self, StorageError::Full { .. })
    }
}

/// Whether the system ran out of space, of files, or of the user's share of either.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn numbers(members: ReplicaSet) -> String {
    let numbers: Vec<String> = members.iter().map(|it| it.number().to_string()).collect();
    numbers.join(", ")
}

fn holder(process: Option<u32>) -> String {
    process.map_or_else(|| "another process".to_owned(), |number| format!("process {number}"))
}
