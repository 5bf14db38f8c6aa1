//! A stage: a few replicas with disks, clocks of their own, and a network under the test's control.
//!
//! Every step checks three things. No slot is decided twice. No name stands for two proposals. And
//! no replica that answers reads alone knows less than another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::{Fx, Message, MultiPaxos, Plant, ProtocolSnapshot, Record, Role};
use crate::protocol::{Outgoing, Paths, Protocol, View};
use crate::types::{
    Batch, ClientId, Command, Decision, Deps, Durable, Executed, Footprint, Held, InstanceId,
    LogPosition, Optimisations, Quorums, ReplicaId, RequestId, Retention, Settings, Slot, Time,
    Timing, Value,
};

/// A snapshot of this replica, and the position at which the log continues.
#[derive(Clone, Debug)]
struct Snapshot {
    shared: ProtocolSnapshot,
    executed: Slot,
    own: Vec<Record>,
    position: usize,
}

/// A replica, its disk and its clock.
pub(super) struct Node {
    settings: Settings,
    pub(super) protocol: MultiPaxos,
    fx: Fx,
    pub(super) view: View,
    /// All records ever appended; the first `durable` of them are durable.
    records: Vec<Record>,
    durable: usize,
    snapshot: Option<Snapshot>,
    held: Vec<Held<Outgoing<Message>>>,
    decided: BTreeMap<Slot, Decision>,
    pub(super) executed: Slot,
    pub(super) up: bool,
    /// The rate of its clock.
    pub(super) rate: f64,
    next_tick: Time,
    pub(super) needs: Option<Slot>,
    /// The names of this life's proposals since the last install.
    pub(super) proposed: Vec<InstanceId>,
    pub(super) own_commits: Vec<(InstanceId, bool)>,
}

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Flying {
    pub(super) at: Time,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) message: Message,
}

pub(super) struct Stage {
    pub(super) now: Time,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Vec<Flying>,
    /// The one-way delay.
    pub(super) delay: Duration,
    /// The decision of each slot, at any replica in any life.
    pub(super) truth: BTreeMap<Slot, (InstanceId, Value)>,
    names: BTreeMap<InstanceId, Value>,
    next_command: u64,
    plant: Option<Plant>,
    /// The paths of lives that have ended.
    pub(super) paths: Paths,
    /// How often a replica could answer reads alone.
    pub(super) leases: usize,
    pub(super) broken: Option<String>,
    /// Whether an install need not be followed at once by a snapshot of this replica.
    pub(super) saves_late: bool,
    /// The replicas that are cut off while time runs.
    pub(super) cut: BTreeSet<usize>,
}

pub(super) fn replica(index: usize) -> ReplicaId {
    ReplicaId::from_index(index)
}

pub(super) fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn up_to(n: usize, slot: Slot) -> Executed {
    let mut executed = Deps::none(n);
    executed.set(InstanceId::LOG, slot);
    Executed::up_to(executed)
}

const KEEP: Retention = Retention { volatile: false, keep: 1 << 20 };

/// A cluster led by its first replica, with a planted bug if one is given.
pub(super) fn led_with(n: usize, plant: Option<Plant>) -> Stage {
    let mut stage = Stage::with(n, 1, KEEP, plant);
    assert!(stage.run_until(|s| s.leader() == Some(0)), "somebody is elected");
    stage.run(millis(200));
    stage
}

pub(super) fn led(n: usize) -> Stage {
    led_with(n, None)
}

impl Node {
    fn new(n: usize, index: usize, seed: u64, retention: Retention, plant: Option<Plant>) -> Node {
        let settings = Settings {
            me: replica(index),
            quorums: Quorums::new(n).expect("a supported size"),
            seed: seed.wrapping_mul(64) + index as u64,
            timing: Timing::default(),
            optimisations: Optimisations::NONE,
            retention,
            leases: true,
        };
        let mut protocol = MultiPaxos::new(settings.clone());
        plant.into_iter().for_each(|plant| protocol.plant(plant));
        Node {
            protocol,
            settings,
            fx: Fx::default(),
            view: View::new(n),
            records: Vec::new(),
            durable: 0,
            snapshot: None,
            held: Vec::new(),
            decided: BTreeMap::new(),
            executed: 0,
            up: true,
            rate: 1.0,
            next_tick: Time::ZERO,
            needs: None,
            proposed: Vec::new(),
            own_commits: Vec::new(),
        }
    }

    pub(super) fn leads(&self) -> bool {
        self.up && matches!(self.protocol.role, Role::Leader(_))
    }

    /// The number of records that are not durable.
    pub(super) fn unflushed(&self) -> usize {
        self.records.len() - self.durable
    }
}

impl Stage {
    pub(super) fn new(n: usize, seed: u64) -> Stage {
        Stage::with(n, seed, Retention { volatile: false, keep: 1 << 20 }, None)
    }

    pub(super) fn with(n: usize, seed: u64, keep: Retention, plant: Option<Plant>) -> Stage {
        Stage {
            now: Time::ZERO,
            nodes: (0..n).map(|index| Node::new(n, index, seed, keep, plant)).collect(),
            network: Vec::new(),
            delay: millis(5),
            truth: BTreeMap::new(),
            names: BTreeMap::new(),
            next_command: 0,
            plant,
            paths: Paths::default(),
            leases: 0,
            broken: None,
            saves_late: false,
            cut: BTreeSet::new(),
        }
    }

    /// A new cluster in which all prefer the same leader.
    pub(super) fn wishing(n: usize, seed: u64, leader: usize) -> Stage {
        let mut stage = Stage::new(n, seed);
        for node in &mut stage.nodes {
            node.settings.timing.leader = Some(replica(leader));
            node.protocol = MultiPaxos::new(node.settings.clone());
        }
        stage
    }

    fn n(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn leader(&self) -> Option<usize> {
        let leaders = (0..self.n()).filter(|at| self.nodes[*at].leads());
        leaders.max_by_key(|at| self.nodes[*at].protocol.standing().ballot)
    }

    /// Time passes.
    pub(super) fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
        for node in &mut self.nodes {
            node.view.now = node.view.now + by.mul_f64(node.rate);
        }
    }

    /// Calls a replica that is up, and carries out the effects.
    pub(super) fn act<T>(
        &mut self,
        at: usize,
        what: impl FnOnce(&mut MultiPaxos, &View, &mut Fx) -> T,
    ) -> T {
        let node = &mut self.nodes[at];
        let done = what(&mut node.protocol, &node.view, &mut node.fx);
        self.apply_effects(at);
        done
    }

    pub(super) fn propose(&mut self, at: usize) -> InstanceId {
        self.next_command += 1;
        let batch = Batch::new(vec![Command {
            request: RequestId::new(ClientId(7), self.next_command),
            floor: 0,
            origin: replica(at),
            footprint: Footprint::write(b"key"),
            payload: Bytes::from(vec![b'x'; 100]),
        }]);
        self.propose_batch(at, &batch)
    }

    pub(super) fn propose_batch(&mut self, at: usize, batch: &Arc<Batch>) -> InstanceId {
        let name = self.act(at, |it, view, fx| it.propose(view, batch.clone(), fx));
        // A name that no other replica heard of before a crash may be given again.
        self.names.insert(name, Value::Batch(batch.clone()));
        self.nodes[at].proposed.push(name);
        name
    }

    pub(super) fn deliver(&mut self, flying: Flying) {
        let Flying { from, to, message, .. } = flying;
        if self.nodes[to].up {
            self.act(to, |it, view, fx| it.on_message(view, replica(from), message, fx));
        }
    }

    /// Delivers all messages that are due, in order.
    pub(super) fn deliver_due(&mut self) {
        let (due, later) = std::mem::take(&mut self.network)
            .into_iter()
            .partition::<Vec<_>, _>(|flying| flying.at <= self.now);
        self.network = later;
        for flying in due {
            if !self.cut.contains(&flying.from) && !self.cut.contains(&flying.to) {
                self.deliver(flying);
            }
        }
    }

    pub(super) fn tick(&mut self, at: usize) {
        if self.nodes[at].up && self.nodes[at].next_tick <= self.now {
            self.nodes[at].next_tick = self.now + self.nodes[at].settings.timing.tick;
            self.act(at, |it, view, fx| it.on_tick(view, fx));
        }
    }

    /// Makes everything appended so far durable.
    pub(super) fn flush(&mut self, at: usize) {
        if self.nodes[at].up {
            self.nodes[at].durable = self.nodes[at].records.len();
            self.apply_effects(at);
        }
    }

    /// A quiet period: everything arrives, is flushed, and time passes.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end && self.broken.is_none() {
            self.advance(millis(1));
            self.deliver_due();
            for at in 0..self.n() {
                self.tick(at);
                self.flush(at);
            }
            self.fetch_snapshots();
            self.check_leases();
        }
    }

    /// Runs until `holds` is true. Returns whether it became true.
    pub(super) fn run_until(&mut self, holds: impl Fn(&Stage) -> bool) -> bool {
        for _ in 0..10_000 {
            if holds(self) {
                return true;
            }
            self.run(millis(1));
        }
        false
    }

    /// Carries out a replica's effects.
    fn apply_effects(&mut self, at: usize) {
        loop {
            let node = &mut self.nodes[at];
            node.records.append(&mut node.fx.records);
            node.held.append(&mut node.fx.messages);
            assert!(node.fx.returned.is_empty(), "nothing comes to nothing");
            node.own_commits.append(&mut node.fx.own_commits);
            if let Some(needs) = node.fx.needs_snapshot.take() {
                node.needs = node.needs.max(Some(needs.slot(InstanceId::LOG)));
            }
            let durable = Durable::flushed(LogPosition::new(node.durable as u64));
            for held in std::mem::take(&mut node.fx.decisions) {
                // In this protocol decisions depend on no record.
                let decision = held.release(durable).expect("a decision waits for nothing");
                self.on_decision(at, decision);
            }
            let node = &mut self.nodes[at];
            let (mut ready, mut held) = (Vec::new(), Vec::new());
            for item in std::mem::take(&mut node.held) {
                match item.release(durable) {
                    Ok(outgoing) => ready.push(outgoing),
                    Err(item) => held.push(item),
                }
            }
            node.held = held;
            if ready.is_empty() {
                break;
            }
            for outgoing in ready {
                self.send(at, outgoing);
            }
        }
        self.execute(at);
    }

    fn send(&mut self, from: usize, outgoing: Outgoing<Message>) {
        let Outgoing { mut to, message } = outgoing;
        if to.remove(replica(from)) {
            let node = &mut self.nodes[from];
            node.protocol.on_message(&node.view, replica(from), message.clone(), &mut node.fx);
        }
        let at = self.now + self.delay;
        for to in to.iter().map(ReplicaId::index) {
            self.network.push(Flying { at, from, to, message: message.clone() });
        }
    }

    fn on_decision(&mut self, at: usize, decision: Decision) {
        let Decision { id, proposal, value, .. } = &decision;
        let decided = (*proposal, value.clone());
        if let Some(known) = self.truth.get(&id.slot).filter(|known| known.1 != decided.1) {
            self.broken = Some(format!("{id} is {known:?} and at {at} {decided:?}"));
        }
        // Only names of this life: one that no replica heard of before a crash may be given again.
        let own = &self.nodes[proposal.replica.index()].proposed;
        if let Some(called) = self.names.get(proposal).filter(|called| *called != value)
            && own.contains(proposal)
        {
            self.broken = Some(format!("{proposal} is {called:?} and {value:?}"));
        }
        self.truth.entry(id.slot).or_insert(decided);
        self.nodes[at].decided.insert(id.slot, decision);
    }

    fn execute(&mut self, at: usize) {
        let n = self.n();
        let node = &mut self.nodes[at];
        let before = node.executed;
        while node.decided.remove(&(node.executed + 1)).is_some() {
            node.executed += 1;
        }
        if node.executed > before {
            node.protocol.on_executed(up_to(n, node.executed).floor());
        }
    }

    /// Takes a snapshot of this replica, makes it durable, and drops the log before it.
    pub(super) fn save(&mut self, at: usize) {
        self.flush(at);
        let executed = up_to(self.n(), self.nodes[at].executed);
        let node = &mut self.nodes[at];
        if !node.up {
            return;
        }
        let (shared, own) = node.protocol.snapshot(&executed);
        let position = node.records.len();
        node.snapshot = Some(Snapshot { shared, executed: node.executed, own, position });
        node.protocol.on_snapshot(&executed);
    }

    /// A replica that needs a snapshot gets the best available.
    pub(super) fn fetch_snapshots(&mut self) {
        for at in 0..self.n() {
            let Some(needs) = self.nodes[at].needs.filter(|_| self.nodes[at].up) else { continue };
            let others = (0..self.n()).filter(|other| *other != at && self.nodes[*other].up);
            let offers = others.filter_map(|other| self.nodes[other].snapshot.clone());
            let Some(best) = offers.max_by_key(|snapshot| snapshot.executed) else { continue };
            if best.executed >= needs {
                self.install(at, &best.shared, best.executed);
            }
        }
    }

    fn install(&mut self, at: usize, shared: &ProtocolSnapshot, executed: Slot) {
        let n = self.n();
        let node = &mut self.nodes[at];
        node.needs = None;
        let (there, here) = (up_to(n, executed), up_to(n, node.executed));
        if !node.protocol.may_install(&there, &here) {
            return;
        }
        node.executed = executed;
        node.decided = node.decided.split_off(&(executed + 1));
        // Everything not known to be decided is proposed again, under other names.
        node.proposed.clear();
        node.protocol.install(&node.view, *shared, &there, &mut node.fx);
        self.apply_effects(at);
        if !self.saves_late {
            self.save(at);
        }
    }

    /// Stops a replica. Of the records not flushed it loses all but the first `kept`.
    pub(super) fn crash(&mut self, at: usize, kept: usize) {
        let node = &mut self.nodes[at];
        node.up = false;
        node.records.truncate(node.durable + kept.min(node.records.len() - node.durable));
        node.durable = node.records.len();
        self.paths.add(&node.fx.paths);
        node.fx = Fx::default();
        node.held.clear();
        node.decided.clear();
        node.proposed.clear();
        node.needs = None;
    }

    /// Restarts a replica: its own snapshot, then the log after it.
    pub(super) fn restart(&mut self, at: usize) {
        let n = self.n();
        let node = &mut self.nodes[at];
        assert!(!node.up, "only who stopped comes back");
        node.up = true;
        node.settings.seed += 1 << 32;
        node.protocol = MultiPaxos::new(node.settings.clone());
        if let Some(plant) = self.plant {
            node.protocol.plant(plant);
        }
        let (mut records, mut position) = (Vec::new(), 0);
        node.executed = 0;
        if let Some(Snapshot { shared, executed, own, position: end }) = node.snapshot.clone() {
            node.protocol.restore_snapshot(shared, &up_to(n, executed));
            node.executed = executed;
            (records, position) = (own, end);
        }
        records.extend_from_slice(&node.records[position..]);
        for record in records {
            node.protocol.restore(record, &mut node.fx);
        }
        assert!(node.fx.messages.is_empty() && node.fx.records.is_empty(), "the past is silent");
        node.fx.start_at(LogPosition::new(node.records.len() as u64));
        node.protocol.resume(&node.view, &mut node.fx);
        self.apply_effects(at);
    }

    /// Checks that a replica that may answer reads alone knows everything that any replica knows.
    pub(super) fn check_leases(&mut self) {
        let decided = self.truth.last_key_value().map_or(0, |(slot, _)| *slot);
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.up) {
            if let Some(point) = node.protocol.read_point(&node.view) {
                self.leases += 1;
                if point < decided {
                    self.broken = Some(format!("{at} reads at {point}, {decided} is decided"));
                }
            }
        }
    }

    /// The paths of all lives.
    pub(super) fn all_paths(&self) -> Paths {
        let mut paths = self.paths.clone();
        self.nodes.iter().for_each(|node| paths.add(&node.fx.paths));
        paths
    }

    /// Delivers all messages on their way from one to another, in order and at once. Returns their
    /// number.
    pub(super) fn pass(&mut self, from: usize, to: usize) -> usize {
        let (now, later) = std::mem::take(&mut self.network)
            .into_iter()
            .partition::<Vec<_>, _>(|flying| (flying.from, flying.to) == (from, to));
        self.network = later;
        let passed = now.len();
        now.into_iter().for_each(|flying| self.deliver(flying));
        passed
    }
}
