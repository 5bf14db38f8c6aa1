//! Where a replica begins: restarts from its own snapshot and records (PROTOCOL.md §7).

use crate::protocol::Protocol;
use crate::replica::{Core, Output, Record};
use crate::types::{Durable, Executed, Time};

impl<P: Protocol> Core<P> {
    /// Begins to make a new replica what it was: with its newest snapshot, whose state the state
    /// machine starts from. The snapshot's own records come next, then those of the log after it,
    /// through [`Core::restore`].
    ///
    /// # Panics
    /// If it has taken a step or restored a record already.
    pub fn restore_snapshot(&mut self, shared: P::Snapshot, executed: &Executed) {
        assert!(!self.started, "a replica is restored before it does anything");
        self.protocol.restore_snapshot(shared, executed);
        self.executor.start_again(executed);
        self.protocol.on_executed(self.executor.executed());
    }

    /// Takes in one record of an earlier life, in the order in which they were appended. What is
    /// decided by it is executed again: `out.execute` may be taken after each.
    ///
    /// # Panics
    /// If it has taken a step already, or the records contradict each other.
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
        assert!(out.records.is_empty() && out.messages.is_empty(), "the past says nothing new");
    }

    /// Everything is restored, and the log, all of it durable, goes on at `end`. Clients' commands
    /// that were not decided may or may not be executed yet.
    ///
    /// # Panics
    /// If it has taken a step already.
    pub fn resume(&mut self, now: Time, end: Durable, out: &mut Output<P::Message, P::Record>) {
        assert!(!self.started, "a replica is restored before it does anything");
        self.started = true;
        self.view.now = now;
        self.detector.start(now);
        self.fx.start_at(end.position());
        self.durable = end;
        self.protocol.resume(&self.view, &mut self.fx);
        self.apply_effects(out);
        self.write_heard(out);
    }
}
