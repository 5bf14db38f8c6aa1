//! A command that a state machine does not survive: which one, in words that an operator can act
//! on. Every replica executes it, and each again after a restart, until all of them skip it.

use crate::types::{Command, InstanceId, RequestId};

/// A command at which a state machine panicked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the state machine panicked at request {request} in instance {instance}, a payload of {bytes} \
     bytes with XXH3-64 {digest:016x}: {panic}"
)]
#[non_exhaustive]
pub struct PoisonedCommand {
    /// Names it at every replica: to be skipped, see
    /// [`ReplicaBuilder::skip`](super::ReplicaBuilder::skip).
    pub request: RequestId,
    /// Where it was to be executed. A client that tries again has the same request in others.
    pub instance: InstanceId,
    /// The length of its payload.
    pub bytes: usize,
    /// XXH3-64 of its payload.
    pub digest: u64,
    /// What the panic said.
    pub panic: String,
}

impl PoisonedCommand {
    pub(super) fn new(instance: InstanceId, command: &Command, panic: String) -> PoisonedCommand {
        PoisonedCommand {
            request: command.request,
            instance,
            bytes: command.payload.len(),
            digest: digest(command),
            panic,
        }
    }
}

/// What tells one payload from another.
pub(super) fn digest(command: &Command) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&command.payload)
}
