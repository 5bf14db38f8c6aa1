//! The content of a snapshot of this replica ([`Core::checkpoint`]), and what follows once it is
//! durable (PROTOCOL.md §8a).

use crate::protocol::Protocol;
use crate::replica::{Checkpoint, Core, Record};
use crate::types::Executed;

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

    /// Tells the protocol what is executed here; not while another replica's snapshot is needed.
    ///
    /// A snapshot is refused unless it holds all that counts as durably executed here (PROTOCOL.md
    /// §8a). If that grew while one is on its way, no snapshot would ever be enough.
    pub(in crate::replica) fn note_executed(&mut self) {
        if !self.receiver.needs_any() {
            self.protocol.on_executed(self.executor.executed());
        }
    }

    /// A snapshot of this replica is durable. The same rule holds for its content.
    pub(in crate::replica) fn note_saved(&mut self, executed: &Executed) {
        if self.receiver.needs_any() {
            self.saved_meanwhile = Some(executed.clone());
        } else {
            self.protocol.on_snapshot(executed);
        }
    }
}
