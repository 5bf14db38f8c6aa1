//! What can be wrong with received bytes. Nothing else in this room fails.

/// Bytes that were refused: where, and why.
///
/// The blame is the sender's (or the disk's), with one exception: [`Flaw::Version`] says that both
/// sides are sound but of different versions.
///
/// One word wide, so that the decoders return their numbers in registers.
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

    /// The offset, from the start of the frame, of the first byte that could not be accepted, or
    /// of the start of the item that contradicts itself.
    pub fn offset(&self) -> usize {
        self.0.offset
    }

    /// What was wrong there.
    pub fn flaw(&self) -> Flaw {
        self.0.flaw
    }
}

/// What was wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// The sender speaks another version of the format.
    #[error("format version {found}, where {known} is spoken here")]
    Version {
        /// The version found.
        found: u8,
        /// The only version known here.
        known: u8,
    },
    /// A kind byte that stands for nothing.
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
    /// The frame goes on after its last item.
    #[error("{bytes} bytes too many")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A number in more bytes than it needs, or of more than 64 bits.
    #[error("a number that is not in its shortest form")]
    Overlong,
    /// More of something than the limit.
    #[error("{found} is too many for {what}: the limit is {limit}")]
    TooMany {
        /// What was counted.
        what: &'static str,
        /// The number found.
        found: u64,
        /// The largest number allowed.
        limit: u64,
    },
    /// A replica that is none of the cluster.
    #[error("there is no replica {number} in a cluster of {replicas}")]
    Replica {
        /// The number found.
        number: u8,
        /// The size of the cluster.
        replicas: usize,
    },
    /// A vector that has not one entry a replica.
    #[error("a vector of {found} entries in a cluster of {replicas}")]
    VectorLength {
        /// The number of entries found.
        found: u64,
        /// The size of the cluster.
        replicas: usize,
    },
    /// Keys out of order, or one named twice.
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
    /// A message of a recovery at the owner's ballot.
    #[error("the owner's ballot where a recovery's is due")]
    OwnersBallot,
    /// A report that is not one of an undecided instance: Committed, or a vote without a value.
    #[error("a report that contradicts itself")]
    Report,
    /// A range that ends before it starts.
    #[error("an empty range of slots")]
    EmptyRange,
    /// Bytes that do not begin as a snapshot does.
    #[error("this is not a snapshot")]
    NotASnapshot,
    /// A text that is not UTF-8.
    #[error("a text that is not UTF-8")]
    Text,
}
