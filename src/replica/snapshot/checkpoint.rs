//! What an own snapshot holds, and what follows once it is durable (PROTOCOL.md §8a).

use crate::protocol::Protocol;
use crate::replica::{Checkpoint, Core, Record};
use crate::types::Executed;

impl<P: Protocol> Core<P> {
    /// What a snapshot has to hold besides the state of the state machine, once that has taken in
    /// all that was put out for execution: between two steps, never inside one.
    pub fn checkpoint(&self) -> Checkpoint<P::Snapshot, P::Record> {
        let executed = self.executor.done();
        let (shared, records) = self.protocol.snapshot(&executed);
        // The log that says what was heard goes with the rest of it.
        let heard = Some(self.memory.all()).filter(|heard| !heard.is_empty());
        let records = records.into_iter().map(Record::Protocol);
        let own = heard.map(Record::Heard).into_iter().chain(records).collect();
        Checkpoint { position: self.fx.end(), executed, shared, own }
    }

    /// Tells the protocol what is executed here; not while another replica's snapshot is needed.
    ///
    /// What counts as executed for good has to be in that snapshot, or it is refused
    /// (PROTOCOL.md §8a). If that grew meanwhile, no snapshot would ever be enough.
    pub(in crate::replica) fn note_executed(&mut self) {
        if !self.receiver.needs_any() {
            self.protocol.on_executed(self.executor.executed());
        }
    }

    /// An own snapshot is durable. The same holds for what is in it.
    pub(in crate::replica) fn note_saved(&mut self, executed: &Executed) {
        if self.receiver.needs_any() {
            self.saved_meanwhile = Some(executed.clone());
        } else {
            self.protocol.on_snapshot(executed);
        }
    }
}
