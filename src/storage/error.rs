//! Errors of `storage`, by blame: the operator, the disk or the caller.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use crate::types::{MemberId, Membership};

/// Why an operation on storage failed. Cheap to clone, because a poisoned log answers every call
/// with the error that poisoned it.
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
        /// The owner.
        found: String,
        /// The replica that tried to open it.
        asked: String,
    },
    /// The directory was written under another protocol.
    #[error(
        "this directory belongs to a replica that runs the protocol {found:?}, not {asked:?}: set \
         `protocol = {found:?}`, or begin a new cluster in new directories"
    )]
    OtherProtocol {
        /// The directory's protocol.
        found: String,
        /// The protocol that the replica was to run.
        asked: String,
    },
    /// The directory belongs to a cluster with other members.
    #[error(
        "this directory belongs to a cluster of the replicas {}, and the list of replicas names \
         {}: the list differs, the directory is sound",
        numbers(.found), numbers(.asked)
    )]
    OtherMembers {
        /// The directory's members.
        found: BTreeSet<MemberId>,
        /// The members in the configuration.
        asked: BTreeSet<MemberId>,
    },
    /// The state is not in the snapshot, and who reads it has no such state machine.
    #[error(
        "{file}: the state is not here: it is checkpoint {number} of a state machine that keeps it \
         on disk itself"
    )]
    StateOnDisk {
        /// The snapshot's file.
        file: String,
        /// The checkpoint.
        number: u64,
    },
    /// The other replicas have refused this directory for good.
    #[error("the other replicas have refused this directory for good, and will again")]
    Outcast,
    /// The replica was removed from the cluster.
    #[error(
        "this replica was removed from the cluster, whose members are {list} since epoch {}: its \
         number is used up, and the directory can be deleted",
        list.epoch()
    )]
    Removed {
        /// The list by which it was removed.
        list: Membership,
    },
    /// The file's format is unknown to this version.
    #[error("{file}: format version {found}, where version {known} is known here")]
    Format {
        /// The file's name.
        file: String,
        /// The file's version.
        found: u32,
        /// The only version known here.
        known: u32,
    },
    /// The bytes differ from what was written. They are never guessed at and never skipped.
    #[error("{file}, byte {offset}: {what}")]
    Damaged {
        /// The file's name.
        file: String,
        /// Where in the file the damage was noticed.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A required file or part is missing.
    #[error("{what}")]
    Missing {
        /// What is missing and how that is known.
        what: String,
    },
    /// The disk has no room or cannot create more files. Everything acknowledged is safe. A failed
    /// flush is never reported like this: see [`StorageError::Io`].
    #[error("the disk is full: {action} {file}")]
    Full {
        /// The operation.
        action: &'static str,
        /// The file's name.
        file: String,
    },
    /// The operating system failed an operation.
    #[error("{action} {file}: {error}")]
    Io {
        /// The operation.
        action: &'static str,
        /// The file's name.
        file: String,
        /// The system's error.
        error: Arc<io::Error>,
    },
    /// The record is too long for any segment.
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
    /// A failed operation on a file.
    pub(super) fn io(action: &'static str, file: &str, error: io::Error) -> StorageError {
        let file = file.to_owned();
        if is_full(&error) {
            StorageError::Full { action, file }
        } else {
            StorageError::Io { action, file, error: Arc::new(error) }
        }
    }

    /// The state machine's own disk has failed.
    pub(crate) fn of_machine(action: &'static str, error: io::Error) -> StorageError {
        StorageError::io(action, "the state machine's own state", error)
    }

    /// A failed flush, for any reason. What it was to write is in doubt, even if there is room
    /// later.
    pub(super) fn flush(file: &str, error: io::Error) -> StorageError {
        StorageError::Io { action: "flushing", file: file.to_owned(), error: Arc::new(error) }
    }

    /// Bytes that differ from what was written.
    pub(super) fn damaged(file: &str, offset: u64, what: impl Into<String>) -> StorageError {
        StorageError::Damaged { file: file.to_owned(), offset, what: what.into() }
    }

    /// A required part that is missing.
    pub(super) fn missing(what: impl Into<String>) -> StorageError {
        StorageError::Missing { what: what.into() }
    }

    /// Whether the disk was full. That is not a broken disk: the operation can be retried.
    pub fn is_full(&self) -> bool {
        matches!(self, StorageError::Full { .. })
    }
}

/// Whether the system ran out of space or files, or the user's quota of either.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn numbers(members: &BTreeSet<MemberId>) -> String {
    let numbers: Vec<String> = members.iter().map(|it| it.number().to_string()).collect();
    numbers.join(", ")
}

fn holder(process: Option<u32>) -> String {
    process.map_or_else(|| "another process".to_owned(), |number| format!("process {number}"))
}
