//! Why received bytes are refused. Nothing else in this room can fail.

use crate::types::BadMembership;

/// Why bytes were refused, and where.
///
/// The sender (or the disk) is to blame, with one exception: [`Flaw::Version`] means that both
/// sides are sound but have different versions.
///
/// It is one word wide, so that decoders return their results in registers.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("byte {}: {}", .0.offset, .0.flaw)]
pub struct DecodeError(Box<Refusal>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Refusal {
    offset: usize,
    flaw: Flaw,
}

impl DecodeError {
    #[cold]
    pub(super) fn new(offset: usize, flaw: Flaw) -> DecodeError {
        DecodeError(Box::new(Refusal { offset, flaw }))
    }

    /// The offset in the frame of the first byte that was not accepted, or of the start of an item
    /// that contradicts itself.
    pub fn offset(&self) -> usize {
        self.0.offset
    }

    /// What is wrong there.
    pub fn flaw(&self) -> Flaw {
        self.0.flaw
    }
}

/// What is wrong with received bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// The sender uses another version of the format.
    #[error("format version {found}, where {known} is spoken here")]
    Version {
        /// The version found.
        found: u8,
        /// The only version known here.
        known: u8,
    },
    /// An unknown kind byte.
    #[error("{what} has no kind {kind:#04x}")]
    Kind {
        /// What was being read.
        what: &'static str,
        /// The byte found.
        kind: u8,
    },
    /// The frame ends inside an item.
    #[error("the frame ends inside {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// The frame continues after its last item.
    #[error("{bytes} bytes too many")]
    Trailing {
        /// The number of surplus bytes.
        bytes: usize,
    },
    /// A number with more bytes than necessary, or of more than 64 bits.
    #[error("a number that is not in its shortest form")]
    Overlong,
    /// A count above its limit.
    #[error("{found} is too many for {what}: the limit is {limit}")]
    TooMany {
        /// What was counted.
        what: &'static str,
        /// The count found.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A replica that does not exist in the cluster.
    #[error("there is no replica {number} in a cluster of {replicas}")]
    Replica {
        /// The number found.
        number: u8,
        /// The size of the cluster.
        replicas: usize,
    },
    /// A vector that does not have one entry for each replica.
    #[error("a vector of {found} entries in a cluster of {replicas}")]
    VectorLength {
        /// The number of entries found.
        found: u64,
        /// The size of the cluster.
        replicas: usize,
    },
    /// Keys out of order, or a key that occurs twice.
    #[error("keys that are not in order, each once")]
    Unsorted,
    /// A batch without commands.
    #[error("a batch without commands")]
    EmptyBatch,
    /// A zero where counting starts at one.
    #[error("{what} is zero")]
    Zero {
        /// What was being read.
        what: &'static str,
    },
    /// A recovery message with the owner's ballot.
    #[error("the owner's ballot where a recovery's is due")]
    OwnersBallot,
    /// A report of an undecided instance that says Committed, or that has a vote without a value.
    #[error("a report that contradicts itself")]
    Report,
    /// A range that ends before it starts.
    #[error("an empty range of slots")]
    EmptyRange,
    /// Bytes that do not start like a snapshot.
    #[error("this is not a snapshot")]
    NotASnapshot,
    /// A list of members that breaks a rule of such lists.
    #[error("{0}")]
    Members(BadMembership),
    /// A text that is not UTF-8.
    #[error("a text that is not UTF-8")]
    Text,
}
