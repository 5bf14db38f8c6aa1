//! The sender's side of a transfer: offers snapshots, and reads the requested parts.

use std::time::Duration;

use bytes::Bytes;

use super::{MAX_CHUNK, OwnSnapshot, SnapshotId, SnapshotRead, Transfer, WINDOW, Wishes};
use crate::types::{Deps, ReplicaId, Time};

/// How long an older snapshot is kept after it was last offered or read. It is longer than a
/// receiver waits for a silent sender.
const LINGER: Duration = Duration::from_secs(60);

/// A snapshot of this replica that others may read.
#[derive(Debug)]
struct Kept {
    id: SnapshotId,
    executed: Deps,
    bytes: u64,
    /// When it was last offered or read.
    used: Option<Time>,
}

/// Invariants:
///
/// 1. The newest own snapshot is the last of `kept`, if others can read it.
/// 2. `waiting` has at most one entry of each replica, and `reads` at most [`WINDOW`].
#[derive(Debug, Default)]
pub(in crate::replica) struct Server {
    kept: Vec<Kept>,
    newest: Option<SnapshotId>,
    /// The replicas that wait for a snapshot, with what it has to hold.
    waiting: Vec<(ReplicaId, Deps)>,
    /// The reads that the driver is working on.
    reads: Vec<SnapshotRead>,
}

impl Server {
    /// Whether others may still read this snapshot.
    pub(in crate::replica) fn serves(&self, snapshot: SnapshotId) -> bool {
        self.kept.iter().any(|kept| kept.id == snapshot)
    }

    /// A snapshot of this replica is durable: offers it to the replicas that wait for it.
    pub(in crate::replica) fn on_own(&mut self, own: &OwnSnapshot, now: Time, wish: &mut Wishes) {
        self.newest = Some(own.id);
        if own.bytes == 0 {
            // Those that wait ask again, and then one is made for them.
            return self.let_go(now);
        }
        self.keep(own, None);
        self.let_go(now);
        self.offer_to_waiting(own, now, wish);
    }

    /// A copy of an own snapshot was made for others. It is kept only as long as one reads it.
    pub(in crate::replica) fn on_lent(&mut self, own: &OwnSnapshot, now: Time, wish: &mut Wishes) {
        self.keep(own, Some(now));
        self.offer_to_waiting(own, now, wish);
    }

    fn keep(&mut self, own: &OwnSnapshot, used: Option<Time>) {
        let executed = own.executed.floor().clone();
        self.kept.retain(|kept| kept.id != own.id);
        self.kept.push(Kept { id: own.id, executed, bytes: own.bytes, used });
    }

    /// Offers the snapshot that was kept last.
    fn offer_to_waiting(&mut self, own: &OwnSnapshot, now: Time, wish: &mut Wishes) {
        for (to, at_least) in std::mem::take(&mut self.waiting) {
            if own.executed.floor().includes(&at_least) {
                self.offer(self.kept.len() - 1, to, now, wish);
            } else {
                self.waiting.push((to, at_least));
                wish.wanted = true;
            }
        }
    }

    /// Drops older snapshots that no replica has read for a while.
    pub(in crate::replica) fn let_go(&mut self, now: Time) {
        let newest = self.newest;
        self.kept.retain(|kept| {
            Some(kept.id) == newest || kept.used.is_some_and(|used| now.since(used) < LINGER)
        });
    }

    pub(in crate::replica) fn on_request(
        &mut self,
        from: ReplicaId,
        at_least: Deps,
        part_of: Option<SnapshotId>,
        executed_here: &Deps,
        now: Time,
        wish: &mut Wishes,
    ) {
        self.waiting.retain(|(who, _)| *who != from);
        let begun = self.kept.iter().position(|kept| Some(kept.id) == part_of);
        let newest = self.kept.len().checked_sub(1);
        let newest = newest.filter(|at| self.kept[*at].executed.includes(&at_least));
        if let Some(at) = begun.or(newest) {
            self.offer(at, from, now, wish);
        } else if executed_here.includes(&at_least) {
            self.waiting.push((from, at_least));
            wish.wanted = true;
        }
    }

    fn offer(&mut self, at: usize, to: ReplicaId, now: Time, wish: &mut Wishes) {
        let kept = &mut self.kept[at];
        kept.used = Some(now);
        let (snapshot, executed, bytes) = (kept.id, kept.executed.clone(), kept.bytes);
        wish.say(to, Transfer::Offer { snapshot, executed, bytes });
    }

    pub(in crate::replica) fn on_fetch(
        &mut self,
        from: ReplicaId,
        snapshot: SnapshotId,
        (offset, bytes): (u64, u32),
        now: Time,
        wish: &mut Wishes,
    ) {
        let Some(kept) = self.kept.iter_mut().find(|kept| kept.id == snapshot) else {
            return wish.say(from, Transfer::Gone { snapshot });
        };
        kept.used = Some(now);
        let inside = offset.checked_add(bytes.into()).is_some_and(|end| end <= kept.bytes);
        let read = SnapshotRead { to: from, snapshot, offset, bytes };
        let busy = self.reads.iter().filter(|read| read.to == from).count() >= WINDOW;
        if inside && (1..=MAX_CHUNK).contains(&bytes) && !busy && !self.reads.contains(&read) {
            self.reads.push(read);
            wish.reads.push(read);
        }
    }

    /// The driver has finished a read, or failed.
    pub(in crate::replica) fn on_read(
        &mut self,
        read: SnapshotRead,
        bytes: Option<Bytes>,
        wish: &mut Wishes,
    ) {
        let Some(at) = self.reads.iter().position(|other| *other == read) else { return };
        self.reads.swap_remove(at);
        let SnapshotRead { to, snapshot, offset, .. } = read;
        match bytes.filter(|bytes| bytes.len() as u64 == u64::from(read.bytes)) {
            Some(bytes) => wish.say(to, Transfer::Chunk { snapshot, offset, bytes }),
            None => {
                self.kept.retain(|kept| kept.id != snapshot);
                wish.say(to, Transfer::Gone { snapshot });
            }
        }
    }
}
