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
//! Read in this order: `freshness`, `reach`, `detector` and `large` (what is known of the others);
//! `held`, `reads`, `transfer` and `admission` (parts with a state of their own); `io` (the inputs
//! and outputs of a step); `status`; then this file, which joins them, with `propose` and
//! `snapshot`, which continue its `impl`.

mod admission;
#[cfg(test)]
mod core_tests;
mod detector;
pub mod epochs;
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
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod members_tests;
mod propose;
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
pub use reach::{Reach, Silence};
pub use status::ReplicaStatus;
pub use transfer::{
    Arrival, MAX_CHUNK, OwnSnapshot, Receiving, SnapshotId, SnapshotRead, Transfer,
};

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::execute::{AnyExecutor, InLog};
use crate::protocol::{Effects, Outgoing, Protocol, View};
use crate::types::{
    Batch, Decision, Durable, Executed, ExecutionOrder, InstanceId, Known, LogPosition, Membership,
    ReplicaId, ReplicaSet, Settings, Time, Value,
};

use admission::Admission;
use detector::Detector;
use held::HeldBack;
use large::LargeLanes;
use reads::Reads;
use transfer::{Receiver, Server, Wishes};

/// How much may wait inside a replica before it rejects clients' commands.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Commands that are queued or proposed and not yet executed.
    pub commands: usize,
    /// Payload bytes of queued commands.
    pub bytes: usize,
    /// Roughly how many bytes of memory instances may take that some member has not executed. If a
    /// member stops for good, this grows until the replica accepts no more proposals.
    pub kept_bytes: usize,
    /// The longest snapshot of another replica, in bytes, that is accepted.
    pub snapshot_bytes: u64,
    /// The bytes of a snapshot to request at a time: from 1 to [`MAX_CHUNK`].
    pub chunk_bytes: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        let (kept_bytes, snapshot_bytes) = (4 << 30, 64 << 30);
        let chunk_bytes = MAX_CHUNK;
        Limits { commands: 100_000, bytes: 64 << 20, kept_bytes, snapshot_bytes, chunk_bytes }
    }
}

/// A replica of protocol `P`.
///
/// Invariants:
///
/// 1. Nothing leaves through [`Output`] before the records it depends on are durable.
/// 2. `own` holds, by id, the proposals of this replica that are neither executed nor returned.
pub struct Core<P: Protocol> {
    settings: Settings,
    limits: Limits,
    protocol: P,
    fx: Effects<P::Message, P::Record>,
    executor: AnyExecutor,
    admission: Admission,
    reads: Reads,
    detector: Detector,
    large: LargeLanes,
    watch: reach::Watch,
    /// What is remembered of the others, to recognise one that restarts from an older copy.
    memory: Memory,
    /// The index in this step's records for the record of what was heard.
    heard_at: Option<usize>,
    view: View,
    started: bool,
    durable: Durable,
    messages: HeldBack<Outgoing<P::Message>>,
    decisions: HeldBack<Decision>,
    own: FxHashMap<InstanceId, (Time, Arc<Batch>)>,
    own_commands: usize,
    /// Whether a `Nop` was decided and the protocol has not yet been told that it counts as
    /// executed.
    nop_decided: bool,
    server: Server,
    receiver: Receiver,
    wishes: Wishes,
    /// What the newest snapshot of this replica holds, if the protocol was not told of it because
    /// another replica's snapshot is needed.
    saved_meanwhile: Option<Executed>,
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
            admission: Admission::new(P::ORDER, settings.me),
            reads: Reads::default(),
            detector: Detector::new(&settings),
            large: LargeLanes::new(n, &settings.timing),
            watch: reach::Watch::new(settings.quorums, settings.timing.suspect),
            memory: Memory::default(),
            heard_at: None,
            view: View::new(n),
            started: false,
            durable: Durable::flushed(LogPosition::default()),
            messages: HeldBack::default(),
            decisions: HeldBack::default(),
            own: FxHashMap::default(),
            own_commands: 0,
            nop_decided: false,
            server: Server::default(),
            receiver: Receiver::new(others(&settings), &limits),
            wishes: Wishes::default(),
            saved_meanwhile: None,
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
            self.detector.stirred(now, now.since(self.view.now));
        } else {
            self.start(now);
        }
        self.view.now = now;
        for input in inputs {
            match input {
                Input::Propose(command) => self.on_propose(command, out),
                Input::Heard { peer, known } => self.on_heard(peer, known),
                Input::Peer { from, message } => self.on_peer(from, message, out),
                Input::SentLarge(to) => self.large.sent(to),
                Input::Durable(durable) => self.on_durable(durable, out),
                Input::Snapshot(own) => {
                    self.note_saved(&own.executed);
                    self.server.on_own(&own, now, &mut self.wishes);
                }
                Input::SnapshotRead { read, bytes } => {
                    self.server.on_read(read, bytes, &mut self.wishes);
                }
                Input::Tick => self.on_tick(out),
            }
        }
        self.propose_batches(out);
        self.write_heard(out);
        out.add_wishes(&mut self.wishes);
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
        self.admission.wake()
    }

    /// Whether no quorum has been reachable for so long that new commands are rejected.
    pub fn has_lost_quorum(&self) -> bool {
        self.watch.is_lost(self.view.now)
    }

    /// Which replicas this one can reach, by their numbers in the first epoch.
    pub fn reach(&self) -> Reach {
        self.watch.reach(|id| self.detector.silence(id, self.view.now))
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
        self.detector.heard(from, self.view.now);
        match message {
            PeerMessage::Ping { sent } => {
                let to = ReplicaSet::from_iter([from]);
                out.messages.push((to, PeerMessage::Pong { echo: sent }));
            }
            PeerMessage::Pong { echo } => self.detector.answered(from, echo, self.view.now),
            PeerMessage::Probe { sent } => {
                let to = ReplicaSet::from_iter([from]);
                out.messages.push((to, PeerMessage::Probed { echo: sent }));
            }
            PeerMessage::Probed { echo } => self.large.answered(from, echo, self.view.now),
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
        let now = self.view.now;
        self.view.suspected = self.detector.suspected(now);
        self.view.deaf = self.detector.deaf(now);
        self.view.round_trips.clear();
        self.view.round_trips.extend(self.detector.round_trips());
        self.watch.look(now, self.view.suspected);
        if self.has_lost_quorum() {
            // Proposed commands may still be decided, so only those never proposed are rejected.
            let fresh = self.admission.take_fresh().into_iter();
            out.rejected.extend(fresh.map(|request| (request, Rejection::NoQuorum)));
        }
        let probed = self.large.probes(now, self.view.suspected);
        if !probed.is_empty() {
            out.messages.push((probed, PeerMessage::Probe { sent: now }));
        }
        self.view.large_trips.clear();
        self.view.large_trips.extend(self.large.trips(now));
        if self.detector.ping_due(now) {
            out.messages.push((others(&self.settings), PeerMessage::Ping { sent: now }));
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
                self.admission.learned(id, &batch);
                self.executor.on_learned(id, &batch);
            }
            for (id, fast) in std::mem::take(&mut self.fx.own_commits) {
                self.note_own_commit(id, fast, out);
            }
            for held in std::mem::take(&mut self.fx.decisions) {
                if let Some(decision) = self.decisions.pass(held, self.durable) {
                    self.on_decision(decision);
                }
            }
            let returned = std::mem::take(&mut self.fx.returned);
            self.take_back(returned);
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
            self.receiver.need(&at_least, self.view.now);
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

    fn note_own_commit(
        &mut self,
        id: InstanceId,
        fast: bool,
        out: &mut Output<P::Message, P::Record>,
    ) {
        if let Some((proposed, batch)) = self.own.get(&id) {
            let took = self.view.now.since(*proposed);
            out.committed.push(Committed { id, batch: batch.clone(), fast, took });
        }
    }

    fn on_decision(&mut self, decision: Decision) {
        if P::ORDER == ExecutionOrder::Dependencies && decision.value.is_nop() {
            self.nop_decided = true;
            self.forget_own(decision.id);
            self.admission.finished(decision.id);
        }
        self.executor.on_committed(decision);
    }

    fn forget_own(&mut self, id: InstanceId) {
        if let Some((_, batch)) = self.own.remove(&id) {
            self.own_commands -= batch.commands().len();
        }
    }

    /// Puts out everything that may be executed.
    fn execute(&mut self, out: &mut Output<P::Message, P::Record>) {
        if self.ended.is_some() {
            return;
        }
        let me = self.settings.me;
        // A `Nop` counts as executed, and the next command to execute may be long in coming.
        let mut any = std::mem::take(&mut self.nop_decided);
        while let Some(component) = self.executor.next_component() {
            any = true;
            let last = component.instances.len() - 1;
            for (index, (id, batch)) in component.instances.into_iter().enumerate() {
                self.admission.finished(id);
                self.forget_own(id);
                self.ended = self.list_after(&batch);
                let ends_component = index == last || self.ended.is_some();
                out.execute.push(Execution { id, batch, ends_component, me });
                if self.ended.is_some() {
                    return;
                }
            }
        }
        while let Some(InLog { id, proposal, value }) = self.executor.next_slot() {
            any = true;
            if proposal.replica == self.settings.me {
                self.forget_own(proposal);
            }
            if let Value::Batch(batch) = value {
                self.ended = self.list_after(&batch);
                out.execute.push(Execution { id, batch, ends_component: true, me });
                if self.ended.is_some() {
                    return;
                }
            }
        }
        if any {
            self.note_executed();
            self.serve_reads(out);
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
