//! The replica, still sans-IO: a protocol with admission, execution order and failure detection.
//! The simulator and the node both drive this code unchanged.
//!
//! The path of a command: `step` → `admission` → the protocol → its messages and decisions wait
//! until their records are durable → the executor → `Output::execute`. Some reads take a shorter
//! path: `reads` → `Output::reads`.
//!
//! The way back: a command whose proposal came to nothing (`Effects::returned`), that may be in an
//! installed snapshot, or that was ordered after the end of its epoch goes to the front of
//! `admission` again. The session table answers it if it was executed after all.
//!
//! Read in this order: `freshness`, `reach`, `detector`, `large` and `peers` (what is known of the
//! others); `held`, `reads`, `admission`, `commands` and `transfer` (parts with a state of their
//! own); `io` (the inputs and outputs of a step); `executions`; then this file, which joins them.
//! `snapshot`, `status` and `epochs` use what it joins.

mod admission;
mod commands;
#[cfg(test)]
mod core_tests;
mod detector;
pub mod epochs;
mod executions;
mod freshness;
#[cfg(test)]
mod heard_tests;
mod held;
#[cfg(test)]
mod install_tests;
mod io;
mod large;
#[cfg(test)]
mod large_tests;
#[cfg(test)]
mod latency_tests;
mod limits;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod members_tests;
mod peers;
mod reach;
mod reads;
#[cfg(test)]
mod restart_tests;
mod snapshot;
mod status;
#[cfg(test)]
mod stories;
mod transfer;
#[cfg(test)]
mod truncation_tests;

pub use freshness::{Heard, Memory, Record, Since};
pub use io::{Checkpoint, Committed, Execution, Input, Output, PeerMessage, Rejection};
pub use limits::{Limits, MAX_CHUNK};
pub use reach::{Reach, Silence};
pub use status::ReplicaStatus;
pub use transfer::{Arrival, OwnSnapshot, Receiving, SnapshotId, SnapshotRead, Transfer};

use crate::execute::AnyExecutor;
use crate::protocol::{Effects, Outgoing, Protocol, View};
use crate::types::{
    Command, Decision, Durable, Executed, ExecutionOrder, InstanceId, Known, LogPosition,
    Membership, ReplicaId, ReplicaSet, Settings, Slot, Time,
};

use commands::Commands;
use executions::execute;
use held::HeldBack;
use peers::Peers;
use transfer::Transfers;

/// A replica of protocol `P`.
///
/// Invariant: nothing leaves through [`Output`] before the records it depends on are durable.
pub struct Core<P: Protocol> {
    settings: Settings,
    limits: Limits,
    protocol: P,
    fx: Effects<P::Message, P::Record>,
    executor: AnyExecutor,
    commands: Commands,
    peers: Peers,
    /// What is remembered of the others, to recognise one that restarts from an older copy.
    memory: Memory,
    /// The index in this step's records for the record of what was heard.
    heard_at: Option<usize>,
    view: View,
    started: bool,
    durable: Durable,
    messages: HeldBack<Outgoing<P::Message>>,
    decisions: HeldBack<Decision>,
    /// Whether a `Nop` was decided and the protocol has not yet been told that it counts as
    /// executed.
    nop_decided: bool,
    transfers: Transfers,
    /// How many snapshots of other replicas were installed.
    installed: u64,
    /// The epoch that it runs in.
    epoch: u32,
    /// The list of members that follows, once the command that ends the epoch is executed. Nothing
    /// is executed after it.
    ended: Option<Membership>,
    /// No own snapshot of this epoch is durable, and the log does not lead to a state of it: this
    /// replica says nothing of its protocol yet.
    joining: bool,
    /// What was installed last, until a durable own snapshot holds it.
    unsaved_install: Option<Executed>,
    /// Own commands that were proposed may be executed in a state that was installed.
    unsure: bool,
}

impl<P: Protocol> Core<P> {
    /// A replica that runs `protocol`, which must have been created with the same `settings`.
    pub fn new(settings: Settings, limits: Limits, protocol: P) -> Core<P> {
        let n = settings.quorums.n;
        Core {
            protocol,
            fx: Effects::new(P::paths()),
            executor: AnyExecutor::new(P::ORDER, n),
            commands: Commands::new(P::ORDER, settings.me, limits),
            peers: Peers::new(&settings),
            memory: Memory::default(),
            heard_at: None,
            view: View::new(n),
            started: false,
            durable: Durable::flushed(LogPosition::default()),
            messages: HeldBack::default(),
            decisions: HeldBack::default(),
            nop_decided: false,
            transfers: Transfers::new(others(&settings), &limits),
            installed: 0,
            epoch: 0,
            ended: None,
            joining: false,
            unsaved_install: None,
            unsure: false,
            settings,
            limits,
        }
    }

    /// Takes one step over all `inputs`. Commands that arrive together are proposed together. `now`
    /// never moves back.
    pub fn step(
        &mut self,
        now: Time,
        inputs: impl IntoIterator<Item = Input<P::Message>>,
        out: &mut Output<P::Message, P::Record>,
    ) {
        assert!(now >= self.view.now, "a replica's clock never moves back");
        if self.started {
            self.peers.stirred(now, now.since(self.view.now));
        } else {
            self.start(now);
        }
        self.view.now = now;
        for input in inputs {
            match input {
                Input::Propose(command) => self.on_propose(command, out),
                Input::Heard { peer, known } => self.on_heard(peer, known),
                Input::Peer { from, message } => self.on_peer(from, message, out),
                Input::SentLarge(to) => self.peers.sent_large(to),
                Input::Durable(durable) => self.on_durable(durable, out),
                Input::Snapshot(own) => self.on_own_snapshot(&own),
                Input::Lent(own) => self.transfers.on_lent(&own, now),
                Input::SnapshotRead { read, bytes } => self.transfers.on_read(read, bytes),
                Input::Tick => self.on_tick(out),
            }
        }
        self.propose_batches(out);
        self.write_heard(out);
        out.add_wishes(self.transfers.wishes());
    }

    /// The first step, or the end of a restart.
    fn start(&mut self, now: Time) {
        self.started = true;
        self.peers.start(now);
        if self.memory.is_ahead() {
            // Brought from an earlier epoch: the first record of this one may rest on it.
            self.fx.put_in_front();
        }
    }

    fn on_propose(&mut self, command: Command, out: &mut Output<P::Message, P::Record>) {
        if let Some(rejection) = self.commands.has_no_room_for(&command) {
            out.rejected.push((command.request, rejection));
            return;
        }
        if self.ended.is_some() {
            // It is proposed in the next epoch. A read of this one's state may be stale by then.
            return self.commands.push_back(command);
        }
        if let Some(point) = self.read_point(&command) {
            self.commands.wait(point, command);
            return self.serve_reads(out);
        }
        if self.has_lost_quorum() {
            out.rejected.push((command.request, Rejection::NoQuorum));
            return;
        }
        if self.protocol.kept_bytes() >= self.limits.kept_bytes {
            out.rejected.push((command.request, Rejection::Full));
            return;
        }
        self.commands.push_back(command);
    }

    /// The slot up to which the log has to be executed so that this command can be answered without
    /// a proposal; `None` if it has to be proposed.
    fn read_point(&self, command: &Command) -> Option<Slot> {
        let may = P::ORDER == ExecutionOrder::Log && command.footprint.is_read_only();
        if may { self.protocol.read_point(&self.view) } else { None }
    }

    /// Puts out the reads that may be answered now.
    fn serve_reads(&mut self, out: &mut Output<P::Message, P::Record>) {
        self.commands.release_reads(self.executor.executed().slot(InstanceId::LOG), &mut out.reads);
    }

    /// Proposes what admission allows.
    fn propose_batches(&mut self, out: &mut Output<P::Message, P::Record>) {
        while self.ended.is_none() && !self.joining {
            let batches = self.commands.batches(self.view.now);
            if batches.is_empty() {
                return;
            }
            for batch in batches {
                let id = self.protocol.propose(&self.view, batch.clone(), &mut self.fx);
                self.commands.proposed(id, self.view.now, batch);
            }
            self.apply_effects(out);
        }
    }

    /// What is remembered of the others.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    fn on_heard(&mut self, peer: ReplicaId, known: Known) {
        if peer.index() >= self.settings.quorums.n || peer == self.settings.me {
            return;
        }
        self.memory.met(peer, known);
        if self.heard_at.is_none() && self.memory.is_ahead() {
            self.fx.put_in_front();
        }
    }

    /// Ends a step: writes all that was heard in it as one record, in front of the step's other
    /// records. There is none if nothing was written that could rest on it.
    fn write_heard(&mut self, out: &mut Output<P::Message, P::Record>) {
        if let Some(at) = self.heard_at.take() {
            out.records[at] = Record::Heard(self.memory.write());
        }
    }

    fn take_records(&mut self, out: &mut Output<P::Message, P::Record>) {
        let front = self.fx.take_front();
        for (place, record) in self.fx.records.drain(..).enumerate() {
            if front == Some(place) {
                self.heard_at = Some(out.records.len());
                out.records.push(Record::Heard(Vec::new()));
            }
            out.records.push(Record::Protocol(record));
        }
    }

    /// The position after the last record that the replica has put out.
    pub fn log_end(&self) -> LogPosition {
        self.fx.end()
    }

    /// When the next step is due even without an input.
    pub fn wake(&self) -> Option<Time> {
        self.commands.wake()
    }

    /// Whether no quorum has been reachable for so long that new commands are rejected.
    pub fn has_lost_quorum(&self) -> bool {
        self.peers.has_lost_quorum(self.view.now)
    }

    /// Which replicas this one can reach, by their numbers in the first epoch.
    pub fn reach(&self) -> Reach {
        self.peers.reach(self.view.now)
    }

    fn on_peer(
        &mut self,
        from: ReplicaId,
        message: PeerMessage<P::Message>,
        out: &mut Output<P::Message, P::Record>,
    ) {
        if from.index() >= self.settings.quorums.n || from == self.settings.me {
            return;
        }
        self.peers.heard(from, self.view.now);
        match message {
            PeerMessage::Ping { sent } => {
                let to = ReplicaSet::from_iter([from]);
                out.messages.push((to, PeerMessage::Pong { echo: sent }));
            }
            PeerMessage::Pong { echo } => self.peers.answered(from, echo, self.view.now),
            PeerMessage::Probe { sent } => {
                let to = ReplicaSet::from_iter([from]);
                out.messages.push((to, PeerMessage::Probed { echo: sent }));
            }
            PeerMessage::Probed { echo } => self.peers.probe_answered(from, echo, self.view.now),
            PeerMessage::Transfer(message) => self.on_transfer(from, message),
            // A replica without a state of the epoch has nothing to say in it.
            PeerMessage::Protocol(_) if self.joining => {}
            PeerMessage::Protocol(message) => {
                self.protocol.on_message(&self.view, from, message, &mut self.fx);
                self.apply_effects(out);
            }
        }
    }

    fn on_durable(&mut self, durable: Durable, out: &mut Output<P::Message, P::Record>) {
        if durable.position() <= self.durable.position() {
            return;
        }
        self.durable = durable;
        for outgoing in self.messages.release(durable) {
            self.deliver(outgoing, out);
        }
        for decision in self.decisions.release(durable) {
            self.on_decision(decision);
        }
        self.apply_effects(out);
    }

    fn on_tick(&mut self, out: &mut Output<P::Message, P::Record>) {
        let sent = self.view.now;
        let due = self.peers.tick(&mut self.view);
        if self.has_lost_quorum() {
            // Proposed commands may still be decided, so only those never proposed are rejected.
            let fresh = self.commands.take_fresh().into_iter();
            out.rejected.extend(fresh.map(|request| (request, Rejection::NoQuorum)));
        }
        if !due.probes.is_empty() {
            out.messages.push((due.probes, PeerMessage::Probe { sent }));
        }
        if due.ping {
            out.messages.push((others(&self.settings), PeerMessage::Ping { sent }));
        }
        if !self.joining {
            self.protocol.on_tick(&self.view, &mut self.fx);
            self.apply_effects(out);
        }
        self.tick_transfers();
    }

    /// Carries out the effects of the protocol, until there are none left.
    fn apply_effects(&mut self, out: &mut Output<P::Message, P::Record>) {
        loop {
            self.take_records(out);
            for (id, batch) in self.fx.learned.drain(..) {
                if self.executor.is_executed(id) {
                    continue;
                }
                self.commands.learned(id, &batch);
                self.executor.on_learned(id, &batch);
            }
            for (id, fast) in std::mem::take(&mut self.fx.own_commits) {
                if let Some((proposed, batch)) = self.commands.own(id) {
                    let took = self.view.now.since(*proposed);
                    out.committed.push(Committed { id, batch: batch.clone(), fast, took });
                }
            }
            for held in std::mem::take(&mut self.fx.decisions) {
                if let Some(decision) = self.decisions.pass(held, self.durable) {
                    self.on_decision(decision);
                }
            }
            let returned = std::mem::take(&mut self.fx.returned);
            self.commands.take_back(returned);
            let messages = std::mem::take(&mut self.fx.messages);
            if messages.is_empty() {
                break;
            }
            for held in messages {
                if let Some(outgoing) = self.messages.pass(held, self.durable) {
                    self.deliver(outgoing, out);
                }
            }
        }
        if let Some(at_least) = self.fx.needs_snapshot.take() {
            self.transfers.need(&at_least, self.view.now);
        }
        self.execute(out);
    }

    /// Sends a released message. If this replica is among the receivers, it handles it at once.
    fn deliver(&mut self, outgoing: Outgoing<P::Message>, out: &mut Output<P::Message, P::Record>) {
        let Outgoing { mut to, message } = outgoing;
        let to_self = to.remove(self.settings.me);
        if to_self {
            let message = message.clone();
            self.protocol.on_message(&self.view, self.settings.me, message, &mut self.fx);
        }
        if !to.is_empty() {
            out.messages.push((to, PeerMessage::Protocol(message)));
        }
    }

    fn on_decision(&mut self, decision: Decision) {
        if P::ORDER == ExecutionOrder::Dependencies && decision.value.is_nop() {
            self.nop_decided = true;
            self.commands.finished(decision.id);
        }
        self.executor.on_committed(decision);
    }

    /// Puts out everything that may be executed.
    fn execute(&mut self, out: &mut Output<P::Message, P::Record>) {
        if self.ended.is_some() {
            return;
        }
        // A `Nop` counts as executed, and the next command to execute may be long in coming.
        let any = std::mem::take(&mut self.nop_decided);
        let (commands, me) = (&mut self.commands, self.settings.me);
        let ran = execute(&mut self.executor, commands, me, self.epoch, &mut out.execute);
        self.ended = ran.ended;
        if (any || ran.any) && self.ended.is_none() {
            self.note_executed();
            self.serve_reads(out);
        }
    }

    /// Tells the protocol what is executed here; not while another replica's snapshot is needed.
    ///
    /// A snapshot is refused unless it holds all that counts as durably executed here (PROTOCOL.md
    /// §8a). If that grew while one is on its way, no snapshot would ever be enough.
    fn note_executed(&mut self) {
        if !self.transfers.needs_any() {
            self.protocol.on_executed(self.executor.executed());
        }
    }

    /// A snapshot of this replica is durable. The same rule holds for its content.
    fn on_own_snapshot(&mut self, own: &OwnSnapshot) {
        if self.transfers.on_own(own, self.view.now) {
            self.protocol.on_snapshot(&own.executed);
        }
    }

    /// A peer's message about snapshots.
    fn on_transfer(&mut self, from: ReplicaId, message: Transfer) {
        self.transfers.on_message(from, message, self.executor.executed(), self.view.now);
    }

    /// Time passed for both sides of transfers.
    fn tick_transfers(&mut self) {
        // Without a state of its epoch it needs one, whatever that holds.
        let here = Some(self.executor.executed()).filter(|_| !self.joining);
        if self.transfers.tick(&self.view, here) {
            // No snapshot is needed any more: the progress that was held back counts now.
            self.protocol.on_executed(self.executor.executed());
            if let Some(saved) = self.transfers.take_saved() {
                self.protocol.on_snapshot(&saved);
            }
        }
    }

    /// Until when [`Output::reads`] may be answered, on the clock passed to the steps. The caller
    /// reads the clock after the state; a read that is too late must be proposed again.
    pub fn lease_end(&self) -> Time {
        self.protocol.lease_end()
    }

    /// The protocol, for inspection.
    pub fn protocol(&self) -> &P {
        &self.protocol
    }

    /// The protocol, for planting bugs.
    #[cfg(test)]
    pub(crate) fn protocol_mut(&mut self) -> &mut P {
        &mut self.protocol
    }
}

/// All replicas but this one.
fn others(settings: &Settings) -> ReplicaSet {
    let mut others = ReplicaSet::all(settings.quorums.n);
    others.remove(settings.me);
    others
}
