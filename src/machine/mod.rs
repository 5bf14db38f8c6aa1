//! What is replicated: a deterministic state machine, the sessions that make each command happen
//! once, and a built-in key-value store.
//!
//! Behind `execute`, which says in which order, and before whoever answers the client. This is the
//! only room that looks inside a command's payload.

mod applier;
mod codec;
#[cfg(test)]
mod golden;
mod kv;
mod sessions;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use codec::{CodecError, decode, encode};
pub use kv::{Kv, KvCommand, KvOutput};
#[cfg(test)]
#[cfg(feature = "sim")]
pub(crate) use sessions::BLIND;

// For the engine, its benchmarks and its tests: no part of the public API.
#[doc(hidden)]
pub use self::{
    applier::{Applied, Applier, Outcome, ReadError, Refusal, sessions_in},
    codec::encoded_len,
    sessions::{ContentKey, RESULT_BYTES, RESULTS, Sessions},
};

use crate::types::{Command, Footprint};

/// The longest answer to a command, in bytes of the output's encoding. As long as the longest
/// command, so that what one command stores another can read. It is part of what all replicas
/// agree on, and no setting.
pub const MAX_ANSWER: usize = Command::MAX_BYTES;

/// What a cluster replicates.
///
/// Every replica applies the same commands, and conflicting ones in the same order. Those that do
/// not conflict it may apply in an order of its own, so an implementation keeps these promises:
///
/// 1. `apply` is deterministic: state and command alone decide the output and the next state. No
///    clock, no randomness, no iteration order of a hash map.
/// 2. Two commands whose footprints do not conflict commute: in either order both give the same
///    outputs and the same state. So a footprint names every key that `apply` looks at.
/// 3. A command whose footprint writes nothing leaves the state as it is. It is applied only where
///    somebody waits for its output: not at other replicas, and not when a log is read again.
/// 4. Equal states give equal snapshots, and a snapshot restores to an equal state.
///
/// [`check_footprint`](crate::testkit::check_footprint) looks for breaches of all four.
pub trait StateMachine: Send + 'static {
    /// A typed command. Encoded with [`encode`] where a client hands it in, so a change of this
    /// type is a change of the format that logs and peers hold.
    type Command: Serialize + DeserializeOwned + Send + 'static;

    /// What a command answers; errors of the application included.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// What `command` reads and writes. It has no `self`: a client without any state calls it too,
    /// and every replica must come to the same result.
    fn footprint(command: &Self::Command) -> Footprint;

    /// Whether a command may be proposed: asked where a caller hands it in, before anything is
    /// agreed on. Bound here what one command may make every replica do, beyond
    /// [`Command::MAX_BYTES`] and [`Command::MAX_KEYS`]. `apply` may still meet a command that is
    /// refused here: the log may hold it from a time when it was not. The default takes all.
    ///
    /// # Errors
    /// Why the command is refused, in words. The caller gets them as
    /// [`Rejected::BadCommand`](crate::node::Rejected::BadCommand).
    fn check(command: &Self::Command) -> Result<(), String> {
        let _ = command;
        Ok(())
    }

    /// Executes a command. It cannot fail: what a caller did wrong is an output.
    ///
    /// An output whose encoding is longer than [`MAX_ANSWER`] is not sent: the caller is told that
    /// the command was executed and its answer is too large, and the same at every replica. Where a
    /// short command may have a long output, find out its length ([`encoded_len`] does not make the
    /// bytes) before anything is copied, and answer with a short output that says so, as [`Kv`]
    /// does. Memory taken here is taken at every replica, and again whenever the log is read.
    ///
    /// A panic here happens at every replica alike and stops the cluster. The way out is
    /// [`ReplicaBuilder::skip`](crate::node::ReplicaBuilder::skip).
    fn apply(&mut self, command: Self::Command) -> Self::Output;

    /// The state as bytes; equal states give equal bytes.
    fn snapshot(&self) -> Vec<u8>;

    /// The state that `snapshot` holds.
    ///
    /// # Errors
    /// When the bytes are not a snapshot of this machine. They may come from a peer: never panic.
    fn restore(snapshot: &[u8]) -> Result<Self, RestoreError>
    where
        Self: Sized;

    /// A hash of the state, equal where the state is equal. Called rarely. The default hashes the
    /// snapshot; override it where that is too slow.
    fn digest(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.snapshot())
    }
}

/// Bytes that are not a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a usable snapshot: {0}")]
pub struct RestoreError(String);

impl RestoreError {
    /// With what is wrong about the bytes, in words that complete "not a usable snapshot: …".
    pub fn new(reason: impl Into<String>) -> RestoreError {
        RestoreError(reason.into())
    }
}

impl From<CodecError> for RestoreError {
    fn from(error: CodecError) -> RestoreError {
        RestoreError::new(error.to_string())
    }
}
