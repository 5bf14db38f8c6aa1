//! Errors between a client and its cluster, ordered by what the caller may conclude.

use std::time::Duration;

use crate::mesh::MeshError;
use crate::wire::{NoAnswer, Refusal};

/// A command got no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The command had no effect and never will.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The command may have been executed, or may be executed later: at least one replica was asked
    /// and did not say. Do not send it again as a new command.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The command was executed, and no replica has its answer. There is nothing to retry.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

/// Why a command had no effect and never will.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// No replica accepted it in time; the last refusal is given.
    #[error("no replica took it within {patience:?}; the last said: {last}")]
    Refused {
        /// How long the client tried.
        patience: Duration,
        /// The last replica's refusal.
        last: Refusal,
    },
    /// No replica could be reached in time.
    #[error("no replica could be reached within {0:?}")]
    Unreachable(Duration),
    /// The replicas cannot decode it, or it cannot be encoded.
    #[error("{0}")]
    BadCommand(String),
    /// The command may write, so it cannot be a read: execute it instead.
    #[error("the command may write, so it cannot be a read")]
    Writes,
    /// The members were not changed, for this reason.
    #[error("{0}")]
    NotChanged(String),
    /// Its encoding is larger than a request may be.
    #[error("a command of {bytes} bytes, where {limit} is the limit")]
    TooLarge {
        /// The length of the request.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// A client could not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The configuration names no replica.
    #[error("no replica to connect to")]
    NoReplicas,
    /// Names, certificates or the local address cannot be used.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// The longest answers would be refused as too large.
    #[error(
        "`network.limits.client_frame_bytes` is {bytes}, and a client needs {least}: answers may \
         be as long as that"
    )]
    Frames {
        /// The configured value.
        bytes: usize,
        /// The least value that works.
        least: usize,
    },
    /// No replica answered; the last failure of each is given.
    #[error("no replica could be reached: {0}")]
    Unreachable(String),
    /// At least one replica answered, and none admitted the client; the last failure of each is
    /// given.
    #[error("no replica has let this client in: {0}")]
    Refused(String),
}
