//! The replicated state: a deterministic state machine, sessions that make each command happen
//! once, and a built-in key-value store.
//!
//! After `execute`, which determines the order, and before the replica that answers the client.
//! Only this room looks inside a command's payload.

mod applier;
mod checkpoint;
mod codec;
#[cfg(test)]
mod golden;
mod kv;
#[cfg(feature = "redb")]
mod redb_kv;
mod sessions;
mod state;
mod stream;
mod view;

use std::io::{self, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use checkpoint::{Checkpoint, MachineSource, disk_failed};
pub use codec::{CodecError, decode, encode};
pub use kv::{Kv, KvCommand, KvOutput};
#[cfg(feature = "redb")]
pub use redb_kv::{RedbKv, RedbOptions, RedbSource};
#[cfg(test)]
#[cfg(feature = "sim")]
pub(crate) use sessions::BLIND;
pub use view::View;

// For the engine, its benchmarks and its tests; not part of the public API.
#[doc(hidden)]
pub use self::{
    applier::{Applied, Applier, Outcome, ReadError, Refusal, Restored},
    checkpoint::{DiskFailed, Given, Machines},
    codec::encoded_len,
    sessions::{ContentKey, RESULT_BYTES, RESULTS, Sessions},
    state::{Frozen, StateView, Unrestored, sessions_in, summary_in, write_reference},
};

use crate::types::{Command, Footprint};

/// The longest answer to a command, in bytes of the encoded output. It equals the longest command,
/// so whatever one command stores, another can read. All replicas must agree on it, so it is not a
/// setting.
pub const MAX_ANSWER: usize = Command::MAX_BYTES;

/// The state that a cluster replicates.
///
/// Every replica applies the same commands, and conflicting commands in the same order. Commands
/// that do not conflict may be applied in any order. So an implementation must keep these promises:
///
/// 1. `apply` is deterministic: state and command alone determine the output and the next state. No
///    clock, no randomness, no iteration order of a hash map.
/// 2. Two commands whose footprints do not conflict commute: both orders give the same outputs and
///    the same state. So a footprint names every key that `apply` looks at.
/// 3. A command whose footprint writes nothing does not change the state. It is applied only where
///    a client waits for its output: not at other replicas, and not when a log is replayed.
/// 4. Equal states give equal snapshots, and a snapshot restores to an equal state.
/// 5. A view writes the snapshot of the moment in which it was made.
///
/// A small machine has [`snapshot`](StateMachine::snapshot) and
/// [`restore`](StateMachine::restore). One whose state is large has
/// [`view`](StateMachine::view) and [`restore_from`](StateMachine::restore_from) too, which take
/// the same bytes: a snapshot stops nothing then, and is nowhere one piece of memory. One that
/// keeps its state on disk itself has a [`MachineSource`] and [`freeze`](StateMachine::freeze): its
/// state is not written again at each snapshot.
///
/// [`check_footprint`](crate::testkit::check_footprint) tests all five.
pub trait StateMachine: Send + 'static {
    /// A typed command. A client encodes it with [`encode`], so changing this type changes the
    /// format in logs and between peers.
    type Command: Serialize + DeserializeOwned + Send + 'static;

    /// The answer to a command, including errors of the application.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// What `command` reads and writes. It takes no `self`: a client without any state calls it
    /// too, and every replica must get the same result.
    fn footprint(command: &Self::Command) -> Footprint;

    /// Whether a command may be proposed. Called where a client submits it, before agreement. Limit
    /// here what one command may make every replica do, beyond [`Command::MAX_BYTES`] and
    /// [`Command::MAX_KEYS`]. `apply` must still handle commands that this refuses: the log may
    /// hold some from a time when it did not. The default accepts all.
    ///
    /// # Errors
    /// Why the command is refused, in words. The caller gets them as
    /// [`Rejected::BadCommand`](crate::node::Rejected::BadCommand).
    fn check(command: &Self::Command) -> Result<(), String> {
        let _ = command;
        Ok(())
    }

    /// Executes a command. It cannot fail: report a caller's mistake as an output.
    ///
    /// An output whose encoding is longer than [`MAX_ANSWER`] is not sent. The caller learns that
    /// the command was executed and its answer is too large, the same at every replica. If a short
    /// command may have a long output, compute the length first ([`encoded_len`] allocates
    /// nothing), before copying anything. Then answer with a short output that says so, as [`Kv`]
    /// does. Memory used here is used at every replica, and again whenever the log is replayed.
    ///
    /// A panic here happens at every replica and stops the cluster. To recover, use
    /// [`ReplicaBuilder::skip`](crate::node::ReplicaBuilder::skip).
    fn apply(&mut self, command: Self::Command) -> Self::Output;

    /// The state as bytes; equal states give equal bytes.
    ///
    /// While this runs, nothing is applied. A machine whose state is large has a [`view`] as well.
    ///
    /// [`view`]: StateMachine::view
    fn snapshot(&self) -> Vec<u8>;

    /// Restores the state from a snapshot.
    ///
    /// # Errors
    /// If the bytes are not a snapshot of this machine. They may come from a peer: never panic.
    fn restore(snapshot: &[u8]) -> Result<Self, RestoreError>
    where
        Self: Sized;

    /// A view of the current state. Another thread writes it later, while commands are applied. It
    /// writes the bytes that [`snapshot`](StateMachine::snapshot) returns now. The default encodes
    /// the state at once and keeps the bytes.
    ///
    /// Nothing is applied while this runs, so it has to be fast: clone a map that shares its
    /// unchanged parts with the clone, or begin a read transaction.
    fn view(&self) -> View {
        self.snapshot().into()
    }

    /// Reads a state from a snapshot that may be larger than is good to hold in memory at once. All
    /// of it has to be read. The default collects the bytes and calls
    /// [`restore`](StateMachine::restore).
    ///
    /// # Errors
    /// If the bytes are not a snapshot of this machine, or if `from` fails. They may come from a
    /// peer, so do not panic, and do not reserve memory for a length before its bytes have come.
    fn restore_from(from: &mut dyn Read) -> Result<Self, RestoreError>
    where
        Self: Sized,
    {
        let mut snapshot = Vec::new();
        from.read_to_end(&mut snapshot)?;
        Self::restore(&snapshot)
    }

    /// For a machine that keeps its state on disk itself: fixes the current state as the checkpoint
    /// with this number, which another thread writes later, while commands are applied. What is
    /// applied from now on is not in it. The default, `None`, is for all other machines: the engine
    /// writes their [view](StateMachine::view).
    ///
    /// Nothing is applied while this runs, so it has to be fast. It changes nothing on disk,
    /// because the snapshot may be given up. Numbers grow, and none is used twice for one
    /// directory. The next call may come before the checkpoint is written, if that was given up or
    /// has failed. It is called only for machines that come from a [`MachineSource`].
    fn freeze(&mut self, number: u64) -> Option<Checkpoint> {
        let _ = number;
        None
    }

    /// Whether a checkpoint should be taken soon, because what is not in one takes much memory. The
    /// engine asks after every few commands.
    fn wants_checkpoint(&self) -> bool {
        false
    }

    /// A hash of the state, equal if the states are equal. Called rarely. The default hashes the
    /// snapshot; override it if that is too slow.
    fn digest(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.snapshot())
    }
}

/// The bytes are not a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a usable snapshot: {0}")]
pub struct RestoreError(String);

impl RestoreError {
    /// `reason` completes the sentence "not a usable snapshot: …".
    pub fn new(reason: impl Into<String>) -> RestoreError {
        RestoreError(reason.into())
    }
}

/// A snapshot that cannot be read or ends too early.
impl From<io::Error> for RestoreError {
    fn from(error: io::Error) -> RestoreError {
        RestoreError::new(error.to_string())
    }
}

impl From<CodecError> for RestoreError {
    fn from(error: CodecError) -> RestoreError {
        RestoreError::new(error.to_string())
    }
}
