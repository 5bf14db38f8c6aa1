//! A command at which a state machine panics, described so that an operator can act on it. Every
//! replica executes it, and again after each restart, until all of them skip it.

use crate::types::{Command, InstanceId, RequestId};

/// A command at which a state machine panicked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the state machine panicked at request {request} in instance {instance}, a payload of {bytes} \
     bytes with XXH3-64 {digest:016x}: {panic}"
)]
#[non_exhaustive]
pub struct PoisonedCommand {
    /// Identifies the command at every replica. To skip it, see
    /// [`ReplicaBuilder::skip`](super::ReplicaBuilder::skip).
    pub request: RequestId,
    /// The instance in which it was executed. A client's retry puts the same request in another
    /// one.
    pub instance: InstanceId,
    /// The length of its payload.
    pub bytes: usize,
    /// XXH3-64 of its payload.
    pub digest: u64,
    /// The panic's message.
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

/// A hash that distinguishes payloads.
pub(super) fn digest(command: &Command) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&command.payload)
}
