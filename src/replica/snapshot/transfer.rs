//! Snapshot transfers, the core's side: passes messages and time to `replica::transfer`, which
//! decides what is requested, offered and sent.

use crate::protocol::Protocol;
use crate::replica::{Core, SnapshotId, Transfer};
use crate::types::{ReplicaId, Time};

impl<P: Protocol> Core<P> {
    /// The complete snapshot of another replica is unusable, for example damaged or of another
    /// cluster. The transfer starts again, from another replica if possible.
    pub fn reject_snapshot(&mut self, now: Time) {
        self.receiver.rejected(now);
    }

    /// Whether others may still read this snapshot of this replica. As long as they may, keep its
    /// file readable, even if there are newer ones. The answer changes with time and messages.
    pub fn serves(&self, snapshot: SnapshotId) -> bool {
        self.server.serves(snapshot)
    }

    /// A peer's message about snapshots.
    pub(in crate::replica) fn on_transfer(&mut self, from: ReplicaId, message: Transfer) {
        let (now, wish) = (self.view.now, &mut self.wishes);
        match message {
            Transfer::Request { at_least, part_of } => {
                let here = self.executor.executed();
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

    /// Time passed for both sides of transfers.
    pub(in crate::replica) fn tick_transfers(&mut self) {
        let wish = &mut self.wishes;
        self.server.let_go(self.view.now);
        // Without a state of its epoch it needs one, whatever that holds.
        if !self.joining && self.receiver.executed(self.executor.executed(), wish) {
            // No snapshot is needed any more: the progress that was held back counts now.
            self.protocol.on_executed(self.executor.executed());
            if let Some(saved) = self.saved_meanwhile.take() {
                self.protocol.on_snapshot(&saved);
            }
        }
        self.receiver.tick(&self.view, &mut self.wishes);
    }
}
