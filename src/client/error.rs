//! What can go wrong between a client and its cluster, by what the caller may conclude from it.

use std::time::Duration;

use crate::mesh::MeshError;
use crate::wire::{NoAnswer, Refusal};

/// A command without an answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// It surely had no effect, and never will.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// It may or may not have been, or yet be, executed: at least one replica was asked and did not
    /// say. As a new command it must not be tried again.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// It was executed, and no replica has an answer to it: there is nothing to try again.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

/// Why a command surely had no effect.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// No replica took it in time, and this is what the last one said.
    #[error("no replica took it within {patience:?}; the last said: {last}")]
    Refused {
        /// How long it was tried.
        patience: Duration,
        /// What the last one said.
        last: Refusal,
    },
    /// No replica could be reached in time.
    #[error("no replica could be reached within {0:?}")]
    Unreachable(Duration),
    /// It makes no sense to the replicas, or can't be encoded.
    #[error("{0}")]
    BadCommand(String),
    /// A read that may write: execute it instead.
    #[error("the command may write, so it cannot be a read")]
    Writes,
    /// Its encoding is larger than what is sent.
    #[error("a command of {bytes} bytes, where {limit} is the limit")]
    TooLarge {
        /// The length of the request.
        bytes: usize,
        /// The most allowed.
        limit: usize,
    },
}

/// A client that can't connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No replica was named.
    #[error("no replica to connect to")]
    NoReplicas,
    /// Names, certificates or the local address.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// Answers of the longest kind would not be taken in.
    #[error(
        "`network.limits.client_frame_bytes` is {bytes}, and a client needs {least}: answers may \
         be as long as that"
    )]
    Frames {
        /// What is set.
        bytes: usize,
        /// The least that will do.
        least: usize,
    },
    /// No replica answered; what the last failure of each was.
    #[error("no replica could be reached: {0}")]
    Unreachable(String),
    /// At least one replica answered, and none let the client in; the same of each.
    #[error("no replica has let this client in: {0}")]
    Refused(String),
}
