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

use super::{Limits, MAX_CHUNK};
use crate::protocol::View;
use crate::types::{Deps, Executed, ReplicaId, ReplicaSet, Time};

pub(super) use receive::Receiver;

pub(super) use serve::Server;

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
    /// The length in bytes of the part that others get; 0 if others cannot read it, because it
    /// refers to a state that the machine keeps on disk itself. A copy for others then has a name
    /// of its own.
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

/// Both sides of a replica's transfers.
pub(super) struct Transfers {
    server: Server,
    receiver: Receiver,
    wishes: Wishes,
    /// What the newest snapshot of this replica holds, if the protocol was not told of it because
    /// another replica's snapshot is needed.
    saved_meanwhile: Option<Executed>,
}

impl Transfers {
    pub(super) fn new(others: ReplicaSet, limits: &Limits) -> Transfers {
        Transfers {
            server: Server::default(),
            receiver: Receiver::new(others, limits),
            wishes: Wishes::default(),
            saved_meanwhile: None,
        }
    }

    /// A peer's message about snapshots. `here` is executed here.
    pub(super) fn on_message(
        &mut self,
        from: ReplicaId,
        message: Transfer,
        here: &Deps,
        now: Time,
    ) {
        let wish = &mut self.wishes;
        match message {
            Transfer::Request { at_least, part_of } => {
                self.server.on_request(from, at_least, part_of, here, now, wish);
            }
            Transfer::Fetch { snapshot, offset, bytes } => {
                self.server.on_fetch(from, snapshot, (offset, bytes), now, wish);
            }
            Transfer::Offer { snapshot, executed, bytes } => {
                self.receiver.on_offer(from, snapshot, (&executed, bytes), now, wish);
            }
            Transfer::Chunk { snapshot, offset, bytes } => {
                self.receiver.on_chunk(snapshot, offset, bytes, now, wish);
            }
            Transfer::Gone { snapshot } => self.receiver.on_gone(from, snapshot, now, wish),
        }
    }

    /// A snapshot of this replica is durable. Returns whether the protocol may be told of it now;
    /// if not, [`Transfers::take_saved`] returns it later.
    #[must_use]
    pub(super) fn on_own(&mut self, own: &OwnSnapshot, now: Time) -> bool {
        self.server.on_own(own, now, &mut self.wishes);
        let may = !self.needs_any();
        if !may {
            self.saved_meanwhile = Some(own.executed.clone());
        }
        may
    }

    /// A copy of an own snapshot was made for others.
    pub(super) fn on_lent(&mut self, own: &OwnSnapshot, now: Time) {
        self.server.on_lent(own, now, &mut self.wishes);
    }

    /// The bytes that were to be read of an own snapshot.
    pub(super) fn on_read(&mut self, read: SnapshotRead, bytes: Option<Bytes>) {
        self.server.on_read(read, bytes, &mut self.wishes);
    }

    /// Time passed. `here` is executed here, if it may be enough. Returns whether it has become
    /// enough, so that no snapshot is needed any more.
    #[must_use]
    pub(super) fn tick(&mut self, view: &View, here: Option<&Deps>) -> bool {
        self.server.let_go(view.now);
        let wish = &mut self.wishes;
        let is_enough = here.is_some_and(|here| self.receiver.executed(here, wish));
        self.receiver.tick(view, wish);
        is_enough
    }

    /// What was held back while a snapshot was needed.
    pub(super) fn take_saved(&mut self) -> Option<Executed> {
        self.saved_meanwhile.take()
    }

    /// Another replica's snapshot is needed that holds at least this.
    pub(super) fn need(&mut self, at_least: &Deps, now: Time) {
        self.receiver.need(at_least, now);
    }

    /// Whether another replica's snapshot is needed.
    pub(super) fn needs_any(&self) -> bool {
        self.receiver.needs_any()
    }

    /// The snapshot that is being received.
    pub(super) fn receiving(&self) -> Option<Receiving> {
        self.receiver.receiving()
    }

    /// The received snapshot was installed; so much is executed now.
    pub(super) fn installed(&mut self, executed: &Deps, now: Time) {
        // A snapshot from before the install does not hold the state that is here now.
        self.saved_meanwhile = None;
        self.receiver.installed(executed, now);
    }

    /// The received snapshot was not new enough: so much is executed here.
    pub(super) fn refused(&mut self, executed: &Deps, now: Time) {
        self.receiver.refused(executed, now);
    }

    /// The received snapshot is unusable.
    pub(super) fn rejected(&mut self, now: Time) {
        self.receiver.rejected(now);
    }

    /// Whether others may still read this snapshot of this replica.
    pub(super) fn serves(&self, snapshot: SnapshotId) -> bool {
        self.server.serves(snapshot)
    }

    /// What both sides want done.
    pub(super) fn wishes(&mut self) -> &mut Wishes {
        &mut self.wishes
    }
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
