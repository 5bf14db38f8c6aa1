//! What can go wrong between a caller and its replica, by what the caller may conclude from it.

use std::time::Duration;

use super::poison::PoisonedCommand;
use crate::machine;
use crate::mesh::{MeshError, Refusal};
use crate::replica::{Reach, Rejection};
use crate::storage::{Durability, StorageError};
use crate::types::{ClientId, Era, ReplicaId, RequestId, UnsupportedSize};

/// A command without an answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This attempt surely had no effect and never will. (An earlier attempt under the same
    /// session and sequence that ended as `Unknown` still may.)
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// It may or may not have been, or yet be, executed. To try again under the same session and
    /// sequence, at any replica, is safe; as a new command it is not.
    #[error("the outcome is unknown: {0}")]
    Unknown(#[from] Unknown),
    /// It was executed (or, if it only reads, answered), but its output is longer than
    /// [`MAX_ANSWER`](machine::MAX_ANSWER), at every replica alike: ask for less at a time.
    #[error("executed, but its answer of {bytes} bytes is over the limit of {limit}")]
    AnswerTooLarge {
        /// The length of the output's encoding.
        bytes: usize,
        /// The most allowed.
        limit: usize,
    },
    /// The replica has stopped because of a fault in it or in the state machine. What became of
    /// the command is unknown as well.
    #[error("the replica has failed: {0}")]
    Fatal(String),
}

/// Why there is no snapshot.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The replica keeps everything in memory.
    #[error("the replica keeps everything in memory, so there is nowhere to put a snapshot")]
    InMemory,
    /// It could not be written. Nothing else is lost by that.
    #[error("the snapshot could not be written: {0}")]
    Failed(#[from] StorageError),
    /// The replica stopped before the snapshot was there.
    #[error("the replica has stopped")]
    Stopped,
}

/// Why an attempt surely had no effect.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// As much is waiting as is allowed: slow down and try again.
    #[error("the replica has too much waiting; slow down and try again")]
    Overloaded,
    /// As much memory is taken as is allowed (`Limits::kept_bytes`) by what some member of the
    /// cluster has not executed: bring it back, or allow more.
    #[error("{}", Rejection::Full)]
    Full,
    /// The disk is too full for the replica's log: make room, and it goes on by itself.
    #[error("the replica's disk is full; make room on it, and it goes on by itself")]
    DiskFull,
    /// The replica has not reached a quorum for a while: nothing was proposed. Go to another, or
    /// try again later.
    #[error("not proposed: {0}")]
    NoQuorum(Reach),
    /// The replica is shutting down, or has: go to another.
    #[error("the replica is shutting down")]
    Stopping,
    /// A read that may write: propose it instead.
    #[error("the command may write, so it cannot be a read")]
    Writes,
    /// The session has finished this sequence already.
    #[error("the session has finished its command {0} already")]
    Finished(u64),
    /// The session has expired (nothing was proposed under it for as long as the builder's
    /// `session_idle`), or was finished with this sequence. A new session, or the next command of
    /// this one, is numbered in the present era by itself.
    #[error("the session has expired: it is {0} now")]
    Expired(Era),
    /// Another command is under way here under the same request id. (A retry is the same command
    /// again; another command needs an id of its own.)
    #[error("this request id is in use for another command")]
    InUse,
    /// A client on the network used a session that is not its certificate's: see [`ClientId`].
    #[error("session {session:?} is not one of client {client:?}: take an id of its own share")]
    ForeignSession {
        /// The session.
        session: ClientId,
        /// The name in the client's certificate.
        client: String,
    },
    /// The client's certificate uses as many sessions as is allowed (`Limits::client_sessions`), or
    /// there are as many in all (`Limits::sessions`): use one session for many commands, or wait
    /// until some have expired.
    #[error("no more sessions are taken here for now; use one session for many commands")]
    TooManySessions,
    /// The command's encoding is larger than `Limits::command_bytes`.
    #[error("a command of {bytes} bytes, where {limit} is the limit")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The most allowed.
        limit: usize,
    },
    /// The command's footprint names more keys than a message can hold.
    #[error("a command that touches {keys} keys, where {limit} is the limit")]
    TooManyKeys {
        /// Their number.
        keys: usize,
        /// The most allowed.
        limit: usize,
    },
    /// It is not a command of this state machine, the machine refuses it, or its footprint does not
    /// cover what it touches.
    #[error("{0}")]
    BadCommand(String),
}

/// Why nobody knows what became of a command.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unknown {
    /// No answer within the time set by the builder's `propose_timeout`: perhaps no majority can be
    /// reached.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// No answer within that time, and by now no quorum can be reached.
    #[error("no answer within {0:?}; {1}")]
    NoQuorum(Duration, Reach),
    /// The replica stopped before the answer was there.
    #[error("the replica stopped before it could answer")]
    Stopped,
    /// It was executed, once, but its output isn't kept any more: the session's floor has passed
    /// it, or the bounds on what a session keeps. It has had its effect.
    #[error("it was executed, but its output is not kept any more")]
    Forgotten,
    /// This replica took in another's state, in which the command may have been executed in a
    /// session that has expired there.
    #[error("the session expired while the replica was away; it may or may not have been executed")]
    Expired,
    /// The output cannot be read as the machine's output type. It has had its effect.
    #[error("it was executed, but {0}")]
    BadOutput(String),
}

impl From<machine::Refusal> for Rejected {
    fn from(refusal: machine::Refusal) -> Rejected {
        match refusal {
            machine::Refusal::Expired { era } => Rejected::Expired(era),
            other => Rejected::BadCommand(other.to_string()),
        }
    }
}

impl ProposeError {
    /// Of an output of that many bytes.
    pub(super) fn too_large(bytes: usize) -> ProposeError {
        ProposeError::AnswerTooLarge { bytes, limit: machine::MAX_ANSWER }
    }
}

impl From<machine::ReadError> for ProposeError {
    fn from(error: machine::ReadError) -> ProposeError {
        match error {
            machine::ReadError::Writes => Rejected::Writes.into(),
            machine::ReadError::TooLarge { bytes } => ProposeError::too_large(bytes),
            other => Rejected::BadCommand(other.to_string()).into(),
        }
    }
}

impl Unknown {
    /// No answer came in time; where no quorum can be reached, that is why.
    pub(super) fn late(patience: Duration, lacks: Option<Reach>) -> Unknown {
        match lacks {
            Some(reach) => Unknown::NoQuorum(patience, reach),
            None => Unknown::TimedOut(patience),
        }
    }
}

impl Rejected {
    /// What the core says of a command, where this is whom it can reach.
    pub(super) fn of(rejection: Rejection, reach: impl FnOnce() -> Reach) -> Rejected {
        match rejection {
            Rejection::Overloaded => Rejected::Overloaded,
            Rejection::Full => Rejected::Full,
            Rejection::NoQuorum => Rejected::NoQuorum(reach()),
            Rejection::TooLarge => Rejected::BadCommand(rejection.to_string()),
        }
    }
}

/// What is wrong with a replica that has failed. It is fenced then: it says nothing more to anybody
/// but this.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A broken invariant here, or a panic of the state machine: a bug.
    #[error("{0}")]
    Bug(String),
    /// The state machine panicked at a command, and does so wherever that is executed.
    #[error(transparent)]
    Poisoned(#[from] PoisonedCommand),
    /// Its disk failed, or had no room left at all. What was answered before is safe.
    #[error("its storage failed: {0}")]
    Storage(StorageError),
    /// Another replica has refused it for good: it has lost what it voted for, or may have.
    #[error("{peer} has refused it for good; {why}")]
    Outcast {
        /// Who.
        peer: ReplicaId,
        /// In that one's words.
        why: String,
    },
    /// Another process runs as this replica, and is connected with another replica.
    #[error("{peer} is connected with another process that runs as this replica; {why}")]
    Clone {
        /// Who is.
        peer: ReplicaId,
        /// In that one's words.
        why: String,
    },
    /// Two replicas remember different histories of one that is connected: there are two of its
    /// directory, and both have gone on.
    #[error("{0}")]
    Contradiction(Refusal),
    /// Another replica of the cluster has another list of members, and this one has not found
    /// enough that have its own: they would not agree on what a quorum is. Nothing was decided.
    #[error("the lists of replicas differ, at {peer} and here; {why}")]
    OtherList {
        /// Who has another.
        peer: ReplicaId,
        /// In what they differ.
        why: String,
    },
}

/// A replica that can't start: the configuration or the machine is to blame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Something that has to be set is missing.
    #[error("`{0}` has to be set")]
    Missing(&'static str),
    /// Replica numbers have to be 1, 2, … n.
    #[error("replicas are numbered 1, 2, … without gaps, but there is {found:?}")]
    Numbers {
        /// The numbers found, this replica's included.
        found: Vec<u8>,
    },
    /// More replicas than are supported.
    #[error(transparent)]
    Size(#[from] UnsupportedSize),
    /// A limit of 0, or one that contradicts another.
    #[error("limits: {0}")]
    Limits(&'static str),
    /// The network side: names, certificates, addresses.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// The threads or their event loop can't be started.
    #[error("cannot start the replica's threads: {0}")]
    Threads(#[from] std::io::Error),
    /// Records are to be kept, and there is no place for them.
    #[error("`data_dir` has to be set for `Durability::{0:?}`; `Durability::Memory` needs none")]
    NoDataDir(Durability),
    /// There is a place for records, and none are to be kept.
    #[error("`data_dir` is set, but `Durability::Memory` keeps nothing: leave out one of them")]
    UnusedDataDir,
    /// The data directory can't be used.
    #[error("{directory}: {error}")]
    Storage {
        /// Where it is.
        directory: String,
        /// What is wrong.
        error: StorageError,
    },
    /// It failed while it took up where its records end.
    #[error("it failed while it was restored: {0}")]
    Restore(Fault),
    /// A request cannot be skipped: its effect is in the state that the replica starts from.
    #[error(
        "request {request} is executed in this replica's snapshot: it is too late to skip it here. \
         Skip it nowhere; a replica that cannot execute it needs this one's state"
    )]
    TooLateToSkip {
        /// The request.
        request: RequestId,
    },
    /// A request of the cluster's own session cannot be skipped.
    #[error(
        "request {request} is the cluster's own: the age of sessions rests on it, and it is never \
         skipped"
    )]
    CannotSkip {
        /// The request.
        request: RequestId,
    },
    /// The throw-away certificates of a local cluster can't be made.
    #[error(transparent)]
    Credentials(#[from] crate::mesh::CredentialsError),
    /// The replicas of a local cluster did not find each other.
    #[error("the replicas did not connect within {0:?}")]
    NotConnected(Duration),
}
