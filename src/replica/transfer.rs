//! Snapshot transfers between replicas (PROTOCOL.md §8a), sans-IO: the messages, their senders,
//! retries and sizes. The driver of the replica stores the bytes.
//!
//! A replica that needs a snapshot asks all others (`receive`). A replica that has executed enough
//! offers its own, or takes one first (`serve`). The replica in need fetches the first one offered,
//! piece by piece and in order.
//!
//! A snapshot is named by its content ([`SnapshotId`]). So a transfer can continue after an
//! interruption, also from another replica with the same snapshot, and pieces of two snapshots are
//! never mixed.

mod receive;
mod serve;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;

use crate::types::{Deps, Executed, ReplicaId, ReplicaSet};

pub(super) use receive::Receiver;
pub(super) use serve::Server;

/// The most bytes of a snapshot in one message.
pub const MAX_CHUNK: u32 = 256 << 10;
/// How many chunks are requested before the first has arrived.
const WINDOW: usize = 8;

/// Names a snapshot by its content: a hash of the bytes that other replicas get.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SnapshotId(pub u64);

/// The messages about snapshots.
#[derive(Clone, PartialEq, Debug)]
pub enum Transfer {
    /// Asks for a snapshot. Answered by [`Transfer::Offer`], perhaps later, or not at all.
    Request {
        /// The snapshot has to hold at least this.
        at_least: Deps,
        /// The snapshot that the sender has a part of; it prefers to continue with it.
        part_of: Option<SnapshotId>,
    },
    /// Offers a snapshot.
    Offer {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Per owner, the slot up to which everything is executed in it.
        executed: Deps,
        /// Its length in bytes, above zero.
        bytes: u64,
    },
    /// Requests bytes of a snapshot. Answered by [`Transfer::Chunk`] or [`Transfer::Gone`].
    Fetch {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The offset of the first byte.
        offset: u64,
        /// The number of bytes: from 1 to [`MAX_CHUNK`].
        bytes: u32,
    },
    /// The requested bytes.
    Chunk {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The offset of the first byte.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// The sender does not have this snapshot, or no longer.
    Gone {
        /// The snapshot.
        snapshot: SnapshotId,
    },
}

/// A durable snapshot of this replica.
#[derive(Clone, PartialEq, Debug)]
pub struct OwnSnapshot {
    /// Its name.
    pub id: SnapshotId,
    /// The instances executed in its state.
    pub executed: Executed,
    /// The length in bytes of the part that others get.
    pub bytes: u64,
}

/// A part of a snapshot of this replica to be read for another replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotRead {
    /// The replica that requested it.
    pub to: ReplicaId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The offset, in the part that others get.
    pub offset: u64,
    /// The number of bytes, at most [`MAX_CHUNK`]; all within the snapshot.
    pub bytes: u32,
}

/// Progress of receiving another replica's snapshot. A transfer is `Begins`, then `Bytes` in order,
/// then `Complete`. At any point there may be `GivenUp` or a new `Begins`.
#[derive(Clone, PartialEq, Debug)]
pub enum Arrival {
    /// A transfer begins: discard all bytes received before.
    Begins {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Its length in bytes.
        bytes: u64,
    },
    /// The next bytes.
    Bytes(Bytes),
    /// All bytes have arrived. Answer with [`Core::install`](super::Core::install) or
    /// [`Core::reject_snapshot`](super::Core::reject_snapshot).
    Complete,
    /// The transfer is given up: discard the bytes received.
    GivenUp,
}

/// How far a transfer has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Receiving {
    /// The sender.
    pub from: ReplicaId,
    /// The bytes received so far.
    pub received: u64,
    /// The length of the snapshot in bytes.
    pub bytes: u64,
}

/// What either side wants done; the core adds it to its output (`Output::add_wishes`).
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) messages: Vec<(ReplicaSet, Transfer)>,
    pub(super) reads: Vec<SnapshotRead>,
    pub(super) received: Vec<Arrival>,
    /// Whether a snapshot should be taken.
    pub(super) wanted: bool,
}

impl Wishes {
    fn say(&mut self, to: ReplicaId, message: Transfer) {
        self.messages.push((ReplicaSet::from_iter([to]), message));
    }
}

/// A wait that doubles with each failed attempt.
fn doubled(first: Duration, in_vain: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << in_vain.min(16)).min(longest)
}
