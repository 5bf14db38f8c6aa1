//! Where a replica begins, and where it begins again: restarts from its own snapshot and records,
//! and goes on from another replica's snapshot (PROTOCOL.md §7, §8a).

use rustc_hash::FxHashSet;

use super::{Checkpoint, Core, Output, Record, SnapshotId, Transfer};
use crate::execute::AnyExecutor;
use crate::protocol::Protocol;
use crate::types::{Durable, Executed, InstanceId, ReplicaId, Time};

impl<P: Protocol> Core<P> {
    /// Begins to make a new replica what it was: with its newest snapshot, whose state the state
    /// machine starts from. The snapshot's own records come next, then those of the log after it,
    /// through [`Core::restore`].
    ///
    /// # Panics
    /// If it has taken a step or restored a record already.
    pub fn restore_snapshot(&mut self, shared: P::Shared, executed: &Executed) {
        assert!(!self.started, "a replica is restored before it does anything");
        self.protocol.restore_shared(shared, executed);
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

    /// What a snapshot has to hold besides the state of the state machine, once that has taken in
    /// all that was put out for execution: between two steps, never inside one.
    pub fn checkpoint(&self) -> Checkpoint<P::Shared, P::Record> {
        let executed = self.executor.done();
        let (shared, records) = self.protocol.snapshot(&executed);
        // The log that says what was heard goes with the rest of it.
        let heard = Some(self.memory.all()).filter(|heard| !heard.is_empty());
        let records = records.into_iter().map(Record::Protocol);
        let own = heard.map(Record::Heard).into_iter().chain(records).collect();
        Checkpoint { position: self.fx.end(), executed, shared, own }
    }

    /// Takes in another replica's snapshot: whether it does. If so, the state machine starts from
    /// the snapshot's state before it takes in `out.execute`: what was executed here and is not in
    /// the snapshot is executed again, the rest of it not. Take an own snapshot then. If not, no
    /// more is to be done: another one is asked for.
    ///
    /// Executed again at once, or later: what it covers has to be known again first, and of an
    /// instance that is not decided an earlier life may have known more than its records tell.
    /// Nothing that was told of as executed is among that.
    ///
    /// # Panics
    /// If `out` is not empty, or before [`Core::resume`] or the first step.
    pub fn install(
        &mut self,
        now: Time,
        shared: P::Shared,
        executed: &Executed,
        out: &mut Output<P::Message, P::Record>,
    ) -> bool {
        assert!(out.execute.is_empty(), "what is to be executed comes behind the new state");
        assert!(self.started && now >= self.view.now, "a replica's clock never moves back");
        self.view.now = now;
        let here = self.executor.done();
        if !self.protocol.may_install(executed, &here) {
            self.receiver.refused(here.floor(), now);
            return false;
        }
        let inside = self.own_inside(executed);
        self.executor.start_again(executed);
        self.admission.executed(executed);
        self.propose_again(inside);
        self.protocol.install(&self.view, shared, executed, &mut self.fx);
        self.apply_effects(out);
        // An own snapshot from before says nothing of the state that is here now.
        self.saved_meanwhile = None;
        self.protocol.on_executed(self.executor.executed());
        self.receiver.installed(self.executor.executed(), now);
        self.installed += 1;
        self.write_heard(out);
        self.wishes.flush(out);
        true
    }

    /// Tells the protocol what is executed here; not while another replica's snapshot is needed.
    ///
    /// What counts as executed for good has to be in that snapshot, or it is refused
    /// (PROTOCOL.md §8a). If that grew meanwhile, no snapshot would ever be enough.
    pub(super) fn note_executed(&mut self) {
        if !self.receiver.needs_any() {
            self.protocol.on_executed(self.executor.executed());
        }
    }

    /// An own snapshot is durable. The same holds for what is in it.
    pub(super) fn note_saved(&mut self, executed: &Executed) {
        if self.receiver.needs_any() {
            self.saved_meanwhile = Some(executed.clone());
        } else {
            self.protocol.on_snapshot(executed);
        }
    }

    /// Own proposals that are in a snapshot, or may be, and were not executed here.
    fn own_inside(&self, executed: &Executed) -> Vec<InstanceId> {
        let own = self.own.keys().copied();
        let mut inside: Vec<InstanceId> = match &self.executor {
            AnyExecutor::Graph(_) => own.filter(|id| executed.contains(*id)).collect(),
            // None has a slot before it is decided: in there may be any that is not known to be
            // decided after the snapshot.
            AnyExecutor::Log(log) => {
                let behind = log.waiting().filter(|decided| !executed.contains(decided.id));
                let behind: FxHashSet<InstanceId> = behind.map(|it| it.proposal).collect();
                own.filter(|name| !behind.contains(name)).collect()
            }
        };
        inside.sort_unstable();
        inside
    }

    /// Whether what is in a snapshot was executed as commands or as `Nop`, only the session table
    /// knows. So all of these are proposed again, before all that waits: what was executed is
    /// answered from the table, and each command happens once.
    fn propose_again(&mut self, own: Vec<InstanceId>) {
        let mut commands = Vec::new();
        for id in own {
            let (_, batch) = self.own.remove(&id).expect("it was found there");
            self.own_commands -= batch.commands().len();
            commands.extend_from_slice(batch.commands());
        }
        self.admission.push_front(commands.into_iter());
    }

    /// The snapshot that came whole from another replica is of no use: damaged, say, or of another
    /// cluster. It begins anew, with another replica if there is one.
    pub fn reject_snapshot(&mut self, now: Time) {
        self.receiver.rejected(now);
    }

    /// Whether others may still read this own snapshot: its file is to be readable for as long,
    /// even if newer ones have taken its place. Changes with time and with what is said.
    pub fn serves(&self, snapshot: SnapshotId) -> bool {
        self.server.serves(snapshot)
    }

    /// What another replica says about snapshots.
    pub(super) fn on_transfer(&mut self, from: ReplicaId, message: Transfer) {
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
    pub(super) fn tick_transfers(&mut self) {
        let wish = &mut self.wishes;
        self.server.let_go(self.view.now);
        if self.receiver.executed(self.executor.executed(), wish) {
            // No snapshot is needed any more: what was held back counts now.
            self.protocol.on_executed(self.executor.executed());
            if let Some(saved) = self.saved_meanwhile.take() {
                self.protocol.on_snapshot(&saved);
            }
        }
        self.receiver.tick(&self.view, &mut self.wishes);
    }
}
