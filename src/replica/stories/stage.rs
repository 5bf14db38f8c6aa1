//! A stage for stories: real replicas, and a network in which every message waits until the story
//! delivers or loses it. Disks are instant unless the story stalls them, and replicas receive their
//! own messages at once.

mod chance;
mod snapshots;

pub(super) use snapshots::Snapshot;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::execute::Executor;
use crate::protocol::epaxos::{EPaxos, Inspection, Message, Plant, Record};
use crate::protocol::{Effects, Outgoing, Protocol, View};
use crate::types::{
    Ballot, Batch, ClientId, Command, Decision, Deps, Durable, Footprint, Held, InstanceId,
    LogPosition, Optimisations, Quorums, ReplicaId, RequestId, Retention, Settings, Slot, Timing,
    Value,
};

/// One replica with its executor.
struct Actor {
    protocol: EPaxos,
    fx: Effects<Message, Record>,
    view: View,
    executor: Executor,
    decided: Vec<Decision>,
    executed: Vec<InstanceId>,
    returned: Vec<Command>,
    /// What it has proposed in this life.
    own: BTreeMap<InstanceId, Arc<Batch>>,
    /// What it has appended in all its lives, and how much of it is durable.
    log: Vec<Record>,
    flushed: usize,
    /// While set, nothing becomes durable.
    stalled: bool,
    /// The messages that wait for their records to become durable.
    held: Vec<Held<Outgoing<Message>>>,
    held_decisions: Vec<Held<Decision>>,
}

impl Actor {
    /// A replica without history.
    fn new(me: ReplicaId, n: usize, optimisations: Optimisations, retention: Retention) -> Actor {
        let settings = Settings {
            me,
            quorums: Quorums::new(n).expect("a supported size"),
            seed: u64::from(me.number()),
            timing: Timing::default(),
            optimisations,
            retention,
            leases: true,
        };
        Actor {
            protocol: EPaxos::new(settings),
            fx: Effects::default(),
            view: View::new(n),
            executor: Executor::new(n),
            decided: Vec::new(),
            executed: Vec::new(),
            returned: Vec::new(),
            own: BTreeMap::new(),
            log: Vec::new(),
            flushed: 0,
            stalled: false,
            held: Vec::new(),
            held_decisions: Vec::new(),
        }
    }
}

pub(super) struct Stage {
    actors: Vec<Actor>,
    optimisations: Optimisations,
    retention: Retention,
    plant: Option<Plant>,
    post: Vec<(usize, usize, Message)>,
    requests: u64,
}

/// The instance `slot` of replica `owner`, both from 1.
pub(super) fn id(owner: usize, slot: Slot) -> InstanceId {
    InstanceId::new(replica(owner), slot)
}

pub(super) fn deps<const N: usize>(slots: [Slot; N]) -> Deps {
    Deps::from_slots(slots)
}

fn replica(number: usize) -> ReplicaId {
    ReplicaId::from_index(number - 1)
}

/// A message's name in the paper.
fn name(message: &Message) -> &'static str {
    match message {
        Message::PreAccept { .. } => "PreAccept",
        Message::PreAcceptOk { .. } => "PreAcceptOk",
        Message::Accept { .. } => "Accept",
        Message::AcceptOk { .. } => "AcceptOk",
        Message::Commit { .. } => "Commit",
        Message::Recover { .. } => "Recover",
        Message::RecoverOk { .. } => "RecoverOk",
        Message::Validate { .. } => "Validate",
        Message::ValidateOk { .. } => "ValidateOk",
        Message::Waiting { .. } => "Waiting",
        Message::Reject { .. } => "Reject",
        Message::Marks { .. } => "Marks",
        Message::Fetch { .. } => "Fetch",
        Message::Truncated { .. } => "Truncated",
        Message::Cut { .. } => "Cut",
        Message::CutOk { .. } => "CutOk",
    }
}

/// Removes and returns the items that need not wait any longer.
fn release<T>(held: &mut Vec<Held<T>>, durable: Durable) -> Vec<T> {
    let mut released = Vec::new();
    for one in std::mem::take(held) {
        match one.release(durable) {
            Ok(item) => released.push(item),
            Err(early) => held.push(early),
        }
    }
    released
}

/// Replicas are numbered from 1, as in the transcripts.
impl Stage {
    pub(super) fn new(n: usize) -> Stage {
        Stage::optimised(n, Optimisations::NONE)
    }

    /// Replicas with these optimisations.
    pub(super) fn optimised(n: usize, optimisations: Optimisations) -> Stage {
        Stage::keeping(n, optimisations, Retention::default())
    }

    fn keeping(n: usize, optimisations: Optimisations, retention: Retention) -> Stage {
        let actor = |me| Actor::new(me, n, optimisations, retention);
        let (actors, post) = (ReplicaId::all(n).map(actor).collect(), Vec::new());
        Stage { actors, optimisations, retention, plant: None, post, requests: 0 }
    }

    /// Breaks a rule at all replicas, if one is given.
    pub(super) fn with(mut self, plant: Option<Plant>) -> Stage {
        self.plant = plant;
        for actor in &mut self.actors {
            plant.iter().for_each(|plant| actor.protocol.plant(*plant));
        }
        self
    }

    /// Replicas that restart from now on use these optimisations.
    pub(super) fn switch(&mut self, optimisations: Optimisations) {
        self.optimisations = optimisations;
    }

    /// `at` proposes a write of the key.
    pub(super) fn propose(&mut self, at: usize, key: &'static str) -> InstanceId {
        self.requests += 1;
        let command = Command {
            request: RequestId::new(ClientId(1), self.requests),
            floor: 0,
            origin: replica(at),
            footprint: Footprint::write(key.as_bytes()),
            payload: Bytes::from_static(key.as_bytes()),
        };
        self.propose_batch(at, Batch::new(vec![command]))
    }

    /// `at` proposes the commands again that were returned after a `Nop`.
    pub(super) fn propose_again(&mut self, at: usize) -> InstanceId {
        let returned = std::mem::take(&mut self.actors[at - 1].returned);
        self.propose_batch(at, Batch::new(returned))
    }

    fn propose_batch(&mut self, at: usize, batch: Arc<Batch>) -> InstanceId {
        let actor = &mut self.actors[at - 1];
        let id = actor.protocol.propose(&actor.view, batch.clone(), &mut actor.fx);
        actor.own.insert(id, batch);
        self.apply_effects(at);
        id
    }

    /// `at` recovers an instance.
    pub(super) fn recover(&mut self, at: usize, id: InstanceId) {
        let actor = &mut self.actors[at - 1];
        actor.protocol.recover_unasked(&actor.view, id, &mut actor.fx);
        self.apply_effects(at);
    }

    /// Delivers the oldest message of this name about `id`, and nothing that follows from it.
    #[track_caller]
    pub(super) fn deliver(&mut self, kind: &str, id: InstanceId, from: usize, to: usize) {
        let found = self.post.iter().position(|(sender, receiver, message)| {
            let about = message.instance() == Some(id);
            (*sender, *receiver) == (from, to) && about && name(message) == kind
        });
        let found = found.unwrap_or_else(|| {
            panic!("no {kind} of {id} from r{from} to r{to} among {:?}", self.post)
        });
        let (_, _, message) = self.post.remove(found);
        self.hear(from, to, message);
    }

    /// Delivers all messages between these replicas, and all that follow from them.
    pub(super) fn deliver_among(&mut self, replicas: &[usize]) {
        let among = |(from, to, _): &(usize, usize, Message)| {
            replicas.contains(from) && replicas.contains(to)
        };
        while let Some(found) = self.post.iter().position(among) {
            let (from, to, message) = self.post.remove(found);
            self.hear(from, to, message);
        }
    }

    /// Loses all messages on their way.
    pub(super) fn lose_all(&mut self) {
        self.post.clear();
    }

    /// From now on these replicas suspect the other.
    pub(super) fn suspect(&mut self, by: &[usize], dead: usize) {
        for at in by {
            self.actors[at - 1].view.suspected.insert(replica(dead));
        }
    }

    /// Time passes for these replicas, and they receive each other's messages.
    pub(super) fn pass(&mut self, replicas: &[usize], time: Duration) {
        let tick = Timing::default().tick;
        for _ in 0..time.as_nanos() / tick.as_nanos() {
            for at in replicas {
                let actor = &mut self.actors[at - 1];
                actor.view.now = actor.view.now + tick;
                actor.protocol.on_tick(&actor.view, &mut actor.fx);
                self.apply_effects(*at);
            }
            self.deliver_among(replicas);
        }
    }

    /// These replicas gossip; no other message of theirs arrives.
    pub(super) fn gossip(&mut self, replicas: &[usize]) {
        for at in replicas {
            let actor = &mut self.actors[at - 1];
            actor.view.now = actor.view.now + Timing::default().gossip;
            actor.protocol.on_tick(&actor.view, &mut actor.fx);
            self.apply_effects(*at);
        }
        self.post.retain(|(_, _, message)| name(message) == "Marks");
        self.deliver_among(replicas);
        self.lose_all();
    }

    fn hear(&mut self, from: usize, to: usize, message: Message) {
        let actor = &mut self.actors[to - 1];
        actor.protocol.on_message(&actor.view, replica(from), message, &mut actor.fx);
        self.apply_effects(to);
    }

    /// From now on nothing that `at` writes becomes durable.
    pub(super) fn stall(&mut self, at: usize) {
        self.actors[at - 1].stalled = true;
    }

    /// Everything that `at` has written becomes durable.
    pub(super) fn flush(&mut self, at: usize) {
        self.actors[at - 1].stalled = false;
        self.apply_effects(at);
    }

    /// `at` stops, and restarts at once from what was durable.
    pub(super) fn restart(&mut self, at: usize) {
        let n = self.actors.len();
        let actor = &mut self.actors[at - 1];
        let mut log = std::mem::take(&mut actor.log);
        log.truncate(actor.flushed);
        let view = actor.view.clone();
        *actor = Actor { view, ..Actor::new(replica(at), n, self.optimisations, self.retention) };
        self.plant.iter().for_each(|plant| actor.protocol.plant(*plant));
        for record in log.iter().cloned() {
            actor.protocol.restore(record, &mut actor.fx);
        }
        actor.fx.start_at(LogPosition::new(log.len() as u64));
        actor.log = log;
        actor.protocol.resume(&actor.view, &mut actor.fx);
        self.apply_effects(at);
    }

    /// Carries out a replica's effects, except for its messages to others.
    fn apply_effects(&mut self, at: usize) {
        let actor = &mut self.actors[at - 1];
        loop {
            actor.log.append(&mut actor.fx.records);
            if !actor.stalled {
                actor.flushed = actor.log.len();
            }
            let durable = Durable::flushed(LogPosition::new(actor.flushed as u64));
            actor.fx.own_commits.clear();
            actor.returned.append(&mut actor.fx.returned);
            for (id, batch) in actor.fx.learned.drain(..) {
                actor.executor.on_learned(id, &batch);
            }
            actor.held_decisions.append(&mut actor.fx.decisions);
            for decision in release(&mut actor.held_decisions, durable) {
                actor.executor.on_committed(decision.clone());
                actor.decided.push(decision);
            }
            while let Some(component) = actor.executor.next_ready() {
                actor.executed.extend(component.instances.iter().map(|(id, _)| *id));
            }
            actor.protocol.on_executed(actor.executor.executed());
            actor.held.append(&mut actor.fx.messages);
            let messages = release(&mut actor.held, durable);
            if messages.is_empty() {
                return;
            }
            for mut outgoing in messages {
                if outgoing.to.remove(replica(at)) {
                    let own = outgoing.message.clone();
                    actor.protocol.on_message(&actor.view, replica(at), own, &mut actor.fx);
                }
                for to in outgoing.to.iter() {
                    let to = usize::from(to.number());
                    self.post.push((at, to, outgoing.message.clone()));
                }
            }
        }
    }

    /// The ballot at which `at` asks for promises, if it does.
    pub(super) fn asks_at(&self, at: usize, id: InstanceId) -> Option<Ballot> {
        self.post.iter().find_map(|(from, _, message)| match message {
            Message::Recover { id: about, ballot } if (*from, *about) == (at, id) => Some(*ballot),
            _ => None,
        })
    }

    /// The instances that `at` reports against `id`, in slot order, if it answers.
    pub(super) fn reports(&self, at: usize, id: InstanceId) -> Option<Vec<InstanceId>> {
        let mut reported = self.post.iter().find_map(|(from, _, message)| match message {
            Message::ValidateOk { id: about, interfering, .. } if (*from, *about) == (at, id) => {
                Some(interfering.iter().map(|it| it.id).collect::<Vec<_>>())
            }
            _ => None,
        });
        reported.iter_mut().for_each(|reported| reported.sort_unstable());
        reported
    }

    /// The decision of `id` at `at`.
    pub(super) fn decision(&self, at: usize, id: InstanceId) -> Option<&Decision> {
        self.actors[at - 1].decided.iter().find(|decision| decision.id == id)
    }

    /// The decision of `id` at `at`: its dependencies, or `None` for a `Nop`.
    #[track_caller]
    pub(super) fn decided(&self, at: usize, id: InstanceId) -> Option<Deps> {
        let decision = self.decision(at, id).expect("it is decided");
        match decision.value {
            Value::Nop => None,
            Value::Batch(_) => Some(decision.deps.clone()),
        }
    }

    /// The state of an instance at `at`.
    pub(super) fn inspect(&self, at: usize, id: InstanceId) -> Option<Inspection> {
        self.actors[at - 1].protocol.inspect(id)
    }

    /// What `at` has executed, in order.
    pub(super) fn executed(&self, at: usize) -> &[InstanceId] {
        &self.actors[at - 1].executed
    }

    /// The number of instances that `at` keeps.
    pub(super) fn remembered(&self, at: usize) -> usize {
        self.actors[at - 1].protocol.footprint().instances
    }
}
