//! Restarts a replica from its own snapshot and records (PROTOCOL.md §7).

use crate::protocol::Protocol;
use crate::replica::{Core, Output, Record};
use crate::types::{Durable, Executed, Time};

impl<P: Protocol> Core<P> {
    /// Starts from this replica's newest snapshot, whose state the state machine starts from. Next,
    /// pass to [`Core::restore`] the snapshot's own records and then those of the log after it.
    /// # Panics
    /// If it has already taken a step or restored a record.
    pub fn restore_snapshot(&mut self, shared: P::Snapshot, executed: &Executed) {
        assert!(!self.started, "a replica is restored before it does anything");
        self.protocol.restore_snapshot(shared, executed);
        self.executor.start_again(executed);
        self.protocol.on_executed(self.executor.executed());
    }

    /// Restores one record of an earlier life; call it in the order in which they were appended.
    /// The decisions are executed again: `out.execute` may be taken after each call.
    ///
    /// # Panics
    /// If it has already taken a step, or the records contradict each other.
    pub fn restore(
        &mut self,
        record: impl Into<Record<P::Record>>,
        out: &mut Output<P::Message, P::Record>,
    ) {
        assert!(!self.started, "a replica is restored before it does anything");
        match record.into() {
            Record::Heard(news) => self.memory.restore(&news),
            Record::Protocol(record) => self.protocol.restore(record, &mut self.fx),
        }
        self.apply_effects(out);
        assert!(out.records.is_empty() && out.messages.is_empty(), "restoring has no output");
    }

    /// All records are restored; the log, all of it durable, ends at `end`. Clients' commands that
    /// were not decided may or may not be executed later.
    ///
    /// # Panics
    /// If it has already taken a step.
    pub fn resume(&mut self, now: Time, end: Durable, out: &mut Output<P::Message, P::Record>) {
        assert!(!self.started, "a replica is restored before it does anything");
        self.view.now = now;
        self.start(now);
        self.fx.start_at(end.position());
        self.durable = end;
        self.protocol.resume(&self.view, &mut self.fx);
        self.apply_effects(out);
        self.write_heard(out);
    }
}
