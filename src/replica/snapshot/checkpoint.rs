//! The content of a snapshot of this replica ([`Core::checkpoint`]), and how long it is kept for
//! others (PROTOCOL.md §8a).

use crate::protocol::Protocol;
use crate::replica::{Checkpoint, Core, Record, SnapshotId};

impl<P: Protocol> Core<P> {
    /// The content of a snapshot besides the state of the state machine. Call it between two steps,
    /// once the state machine has applied all of `Output::execute`.
    pub fn checkpoint(&self) -> Checkpoint<P::Snapshot, P::Record> {
        let executed = self.executor.done();
        let (shared, records) = self.protocol.snapshot(&executed);
        // The snapshot lets the log be deleted, so it must hold what the log says of the others.
        let heard = Some(self.memory.all()).filter(|heard| !heard.is_empty());
        let records = records.into_iter().map(Record::Protocol);
        let own = heard.map(Record::Heard).into_iter().chain(records).collect();
        Checkpoint { position: self.fx.end(), executed, shared, own }
    }

    /// Whether others may still read this snapshot of this replica. As long as they may, keep its
    /// file readable, even if there are newer ones. The answer changes with time and messages.
    pub fn serves(&self, snapshot: SnapshotId) -> bool {
        self.transfers.serves(snapshot)
    }
}
