//! Snapshots from one replica to another (PROTOCOL.md §8a), sans-IO: what is said, by whom, when
//! again, and how much at a time. Whoever drives the replica keeps the bytes.
//!
//! A replica that needs a snapshot asks all the others (`receive`). Those that have executed enough
//! offer theirs, or take one and offer it then (`serve`). The one that needs it fetches the first
//! that is offered, piece by piece and in order.
//!
//! A snapshot goes by its contents ([`SnapshotId`]): so what was received of it goes on after a
//! break, from another replica too if it has the same, and pieces of two are never mixed.

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
/// How many chunks are asked for before the first has come.
const WINDOW: usize = 8;

/// A snapshot, named by its contents: a hash of the bytes that other replicas get.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SnapshotId(pub u64);

/// What replicas say to each other about snapshots.
#[derive(Clone, PartialEq, Debug)]
pub enum Transfer {
    /// "I need a snapshot." Answered, sooner or later, by [`Transfer::Offer`] or not at all.
    Request {
        /// It has to stand for at least this.
        at_least: Deps,
        /// The snapshot of which the sender has a part already: it would rather go on with it.
        part_of: Option<SnapshotId>,
    },
    /// "I have one."
    Offer {
        /// Which.
        snapshot: SnapshotId,
        /// Per owner, everything up to here is executed in it.
        executed: Deps,
        /// Its length, above zero.
        bytes: u64,
    },
    /// "Send me these bytes of it." Answered by [`Transfer::Chunk`] or [`Transfer::Gone`].
    Fetch {
        /// Of which.
        snapshot: SnapshotId,
        /// From where.
        offset: u64,
        /// How many: from 1 to [`MAX_CHUNK`].
        bytes: u32,
    },
    /// The bytes asked for.
    Chunk {
        /// Of which.
        snapshot: SnapshotId,
        /// From where.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// "I do not have that one (any more)."
    Gone {
        /// Which.
        snapshot: SnapshotId,
    },
}

/// An own snapshot that is durable.
#[derive(Clone, PartialEq, Debug)]
pub struct OwnSnapshot {
    /// Its name.
    pub id: SnapshotId,
    /// What its state stands for.
    pub executed: Executed,
    /// How long the part is that others get, in bytes.
    pub bytes: u64,
}

/// A part of an own snapshot that another replica wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotRead {
    /// Who.
    pub to: ReplicaId,
    /// Of which.
    pub snapshot: SnapshotId,
    /// From where, in the part that others get.
    pub offset: u64,
    /// How many bytes, at most [`MAX_CHUNK`]. They are all there.
    pub bytes: u32,
}

/// What came of another replica's snapshot. A transfer is `Begins`, then `Bytes` in order, then
/// `Complete`; or `GivenUp` at any point, or a new `Begins`.
#[derive(Clone, PartialEq, Debug)]
pub enum Arrival {
    /// A transfer begins: whatever was received before is of no more use.
    Begins {
        /// Which.
        snapshot: SnapshotId,
        /// How long it is.
        bytes: u64,
    },
    /// The next bytes.
    Bytes(Bytes),
    /// That was all. Answer with [`Core::install`](super::Core::install) or
    /// [`Core::reject_snapshot`](super::Core::reject_snapshot).
    Complete,
    /// No more will come, and what came is of no use.
    GivenUp,
}

/// How far the transfer of another replica's snapshot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Receiving {
    /// Who sends it.
    pub from: ReplicaId,
    /// How many bytes have come.
    pub received: u64,
    /// How many there are.
    pub bytes: u64,
}

/// What either side wants done: the core hands it on (`Output::add_wishes`).
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) messages: Vec<(ReplicaSet, Transfer)>,
    pub(super) reads: Vec<SnapshotRead>,
    pub(super) received: Vec<Arrival>,
    /// A snapshot is to be taken.
    pub(super) wanted: bool,
}

impl Wishes {
    fn say(&mut self, to: ReplicaId, message: Transfer) {
        self.messages.push((ReplicaSet::from_iter([to]), message));
    }
}

/// A wait that doubles with every time it was in vain.
fn doubled(first: Duration, in_vain: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << in_vain.min(16)).min(longest)
}
