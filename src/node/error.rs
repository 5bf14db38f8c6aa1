//! Errors between a caller and its replica, ordered by what the caller may conclude.

use std::time::Duration;

use super::poison::PoisonedCommand;
use crate::machine;
use crate::mesh::{MeshError, Refusal};
use crate::replica::{Reach, Rejection};
use crate::storage::{Durability, StorageError};
use crate::types::{ClientId, Era, MemberId, Membership, RequestId, UnsupportedSize};

/// A command got no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This attempt had no effect and never will. (An earlier attempt under the same session and
    /// sequence that ended as `Unknown` still may.)
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The command may have been executed, or may be executed later. Retrying under the same
    /// session and sequence is safe, at any replica. Sending it as a new command is not.
    #[error("the outcome is unknown: {0}")]
    Unknown(#[from] Unknown),
    /// The command was executed (or, if it only reads, answered), but its output is longer than
    /// [`MAX_ANSWER`](machine::MAX_ANSWER). This is the same at every replica: ask for less at a
    /// time.
    #[error("executed, but its answer of {bytes} bytes is over the limit of {limit}")]
    AnswerTooLarge {
        /// The length of the output's encoding.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The replica has stopped because of a fault in it or in the state machine. The command's
    /// outcome is unknown, too.
    #[error("the replica has failed: {0}")]
    Fatal(String),
}

/// Why no snapshot was taken.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The replica keeps everything in memory and has no place for a snapshot.
    #[error("the replica keeps everything in memory, so there is nowhere to put a snapshot")]
    InMemory,
    /// The snapshot could not be written. Nothing else is lost.
    #[error("the snapshot could not be written: {0}")]
    Failed(#[from] StorageError),
    /// The state machine's [view](crate::machine::View) failed or panicked while its state was
    /// written. The replica tries again later, with a new view.
    #[error("the state machine did not write its state: {0}")]
    State(String),
    /// The replica waits to be made a member, or for the state of the cluster.
    #[error("the replica has no state of the cluster yet")]
    NoState,
    /// As many backups are being fetched from the replica as it allows, or a copy of its state is
    /// being written for another replica.
    #[error(
        "two backups are being fetched from this replica, or its state is being copied for \
         another: try again later, or use another"
    )]
    Busy,
    /// The state machine keeps its state on disk itself, and no copy of the state could be written.
    #[error("no copy of the state could be written: the replica's log says why")]
    NoCopy,
    /// The replica stopped before the snapshot was complete.
    #[error("the replica has stopped")]
    Stopped,
}

/// Why an attempt had no effect and never will.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// Too many commands are waiting: slow down and retry.
    #[error("the replica has too much waiting; slow down and try again")]
    Overloaded,
    /// Commands that some member of the cluster has not executed fill the memory allowed for them
    /// (`Limits::kept_bytes`): bring that member back, or raise the limit.
    #[error("{}", Rejection::Full)]
    Full,
    /// The disk has no room for the replica's log: free some space. The replica then continues by
    /// itself.
    #[error("the replica's disk is full; make room on it, and it goes on by itself")]
    DiskFull,
    /// The replica has not reached a quorum for a while, so it proposed nothing. Use another
    /// replica, or retry later.
    #[error("not proposed: {0}")]
    NoQuorum(Reach),
    /// The replica is shutting down or has shut down: use another.
    #[error("the replica is shutting down")]
    Stopping,
    /// The replica was removed from the cluster, or waits to be made a member: use one that is,
    /// under the same session.
    #[error("the replica is no member of the cluster: ask one that is")]
    NoMember,
    /// The replica is an observer: it answers local reads, and nothing else. Use a member, under
    /// the same session.
    #[error("the replica is an observer and has no vote: ask a member, or read locally")]
    Observes,
    /// The command may write, so it cannot be a read: propose it instead.
    #[error("the command may write, so it cannot be a read")]
    Writes,
    /// The session has finished this sequence already.
    #[error("the session has finished its command {0} already")]
    Finished(u64),
    /// The session has expired, because nothing was proposed under it for the builder's
    /// `session_idle`, or has already finished this sequence. A new session, or the next command of
    /// this one, gets the current era automatically.
    #[error("the session has expired: it is {0} now")]
    Expired(Era),
    /// A different command with the same request id is under way here. (A retry must be the same
    /// command; another command needs an id of its own.)
    #[error("this request id is in use for another command")]
    InUse,
    /// A network client used a session that does not belong to its certificate: see [`ClientId`].
    #[error("session {session:?} is not one of client {client:?}: take an id of its own share")]
    ForeignSession {
        /// The session.
        session: ClientId,
        /// The name in the client's certificate.
        client: String,
    },
    /// The client's certificate uses as many sessions as allowed (`Limits::client_sessions`), or
    /// there are as many in all as allowed (`Limits::sessions`): use one session for many commands,
    /// or wait until some expire.
    #[error("no more sessions are taken here for now; use one session for many commands")]
    TooManySessions,
    /// The command's encoding is larger than `Limits::command_bytes`.
    #[error("a command of {bytes} bytes, where {limit} is the limit")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The command's footprint names more keys than a message can hold.
    #[error("a command that touches {keys} keys, where {limit} is the limit")]
    TooManyKeys {
        /// Their number.
        keys: usize,
        /// The limit.
        limit: usize,
    },
    /// The bytes are not a command of this state machine, the machine refuses the command, or its
    /// footprint does not cover all keys that it touches.
    #[error("{0}")]
    BadCommand(String),
}

/// Why a command's outcome is unknown.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unknown {
    /// No answer came within the builder's `propose_timeout`. Perhaps no majority is reachable.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// No answer came within that time, and no quorum is reachable now.
    #[error("no answer within {0:?}; {1}")]
    NoQuorum(Duration, Reach),
    /// The replica stopped before the answer was ready.
    #[error("the replica stopped before it could answer")]
    Stopped,
    /// The replica was removed from the cluster before the answer was ready: ask a member, under
    /// the same session and sequence.
    #[error("the replica was removed from the cluster before it could answer")]
    Removed,
    /// The command was executed once and had its effect, but its output is no longer kept: the
    /// session's floor has passed it, or it exceeded the bounds on what a session keeps.
    #[error("it was executed, but its output is not kept any more")]
    Forgotten,
    /// This replica installed another's state. The command may have been executed there, in a
    /// session that has expired since.
    #[error("the session expired while the replica was away; it may or may not have been executed")]
    Expired,
    /// The output cannot be decoded as the machine's output type. The command had its effect.
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
    /// For an output of that many bytes.
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
    /// No answer came in time. If no quorum is reachable, that is the reason.
    pub(super) fn late(patience: Duration, lacks: Option<Reach>) -> Unknown {
        match lacks {
            Some(reach) => Unknown::NoQuorum(patience, reach),
            None => Unknown::TimedOut(patience),
        }
    }
}

impl Rejected {
    /// Converts the core's rejection. `reach` tells which replicas are reachable.
    pub(super) fn of(rejection: Rejection, reach: Option<Reach>) -> Rejected {
        match rejection {
            Rejection::Overloaded => Rejected::Overloaded,
            Rejection::Full => Rejected::Full,
            Rejection::NoQuorum => reach.map_or(Rejected::Overloaded, Rejected::NoQuorum),
            Rejection::TooLarge => Rejected::BadCommand(rejection.to_string()),
        }
    }
}

/// Why a replica has failed. A failed replica is fenced: it sends nothing more, and its callers get
/// only this error.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A broken invariant here, or a panic of the state machine: a bug.
    #[error("{0}")]
    Bug(String),
    /// The state machine panicked at a command, and will at every replica that executes it.
    #[error(transparent)]
    Poisoned(#[from] PoisonedCommand),
    /// The disk failed, or had no room left at all. Everything answered before is safe.
    #[error("its storage failed: {0}")]
    Storage(StorageError),
    /// Another replica has refused this one for good, because it has lost its votes or may have.
    #[error("{peer} has refused it for good; {why}")]
    Outcast {
        /// The replica that refused it.
        peer: MemberId,
        /// That replica's reason.
        why: String,
    },
    /// Another process runs as this replica and is connected with another replica.
    #[error("{peer} is connected with another process that runs as this replica; {why}")]
    Clone {
        /// The replica that is connected with it.
        peer: MemberId,
        /// That replica's reason.
        why: String,
    },
    /// Two replicas remember different histories of a connected one: its directory was copied, and
    /// both copies have been in use.
    #[error("{0}")]
    Contradiction(Refusal),
    /// The replica was removed from the cluster, and the others need nothing of it any more.
    #[error(
        "it was removed from the cluster, whose members are now {list} (epoch {}). Its number is \
         used up, and its data directory can be deleted",
        list.epoch()
    )]
    Removed {
        /// The members that the cluster has now.
        list: Membership,
    },
    /// The replica is configured as a member and never was one.
    #[error(
        "it is no member of the cluster, whose members are {list} (epoch {}). To make it one, set \
         `join = true` in its file, delete its data directory, start it again, and run `isonomy \
         member add` or `isonomy member replace`",
        list.epoch()
    )]
    NoMember {
        /// The members of the cluster.
        list: Membership,
    },
    /// Another replica of the cluster has a different list of members, and this one has not found a
    /// majority that shares its own list. They would disagree on what a quorum is. Nothing was
    /// decided.
    #[error("the lists of replicas differ, at {peer} and here; {why}")]
    OtherList {
        /// The replica with the other list.
        peer: MemberId,
        /// How the lists differ.
        why: String,
    },
}

/// A replica could not start. The configuration or the machine is to blame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Something that has to be set is missing.
    #[error("`{0}` has to be set")]
    Missing(&'static str),
    /// More replicas than are supported.
    #[error(transparent)]
    Size(#[from] UnsupportedSize),
    /// A limit of 0, or one that contradicts another.
    #[error("limits: {0}")]
    Limits(&'static str),
    /// The network setup: names, certificates, addresses.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// The threads or their event loop could not be started.
    #[error("cannot start the replica's threads: {0}")]
    Threads(#[from] std::io::Error),
    /// Records are to be kept, but no directory is set.
    #[error("`data_dir` has to be set for `Durability::{0:?}`; `Durability::Memory` needs none")]
    NoDataDir(Durability),
    /// A directory is set, but no records are to be kept.
    #[error("`data_dir` is set, but `Durability::Memory` keeps nothing: leave out one of them")]
    UnusedDataDir,
    /// The state machine keeps its state on disk itself, but no records are to be kept.
    #[error(
        "the state machine keeps its state on disk itself, which `Durability::Memory` does not"
    )]
    UnusedSource,
    /// The data directory cannot be used.
    #[error("{directory}: {error}")]
    Storage {
        /// The directory.
        directory: String,
        /// What is wrong.
        error: StorageError,
    },
    /// The replica failed while it restored its records.
    #[error("it failed while it was restored: {0}")]
    Restore(Fault),
    /// A request cannot be skipped: the state that the replica starts from already contains its
    /// effect.
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
    /// The temporary certificates of a local cluster could not be made.
    #[error(transparent)]
    Credentials(#[from] crate::mesh::CredentialsError),
    /// The replicas of a local cluster did not connect with each other.
    #[error("the replicas did not connect within {0:?}")]
    NotConnected(Duration),
}
