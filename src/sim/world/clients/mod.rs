//! The simulated clients: what they ask which replica, when they time out, and what they were told.
//! `state` carries their messages.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::machine::{Kv, KvCommand, KvOutput, StateMachine as _, decode, encode};
use crate::sim::checks::{Content, content};
use crate::sim::plan::{Plan, Stream, Workload, stream};
use crate::sim::report::{Counter, Counters};
use crate::types::{ClientId, Command, Era, Footprint, ReplicaId, RequestId, Time};

mod told;
mod twins;

/// A client's command and the replica that it is sent to.
pub(in crate::sim) type Ask = (ReplicaId, Command);

/// A command that a client waits for.
#[derive(Debug)]
struct Pending {
    command: KvCommand,
    footprint: Footprint,
    payload: Bytes,
    /// Its index in the log.
    entry: usize,
}

/// A client. It keeps one session until it gives up a command.
#[derive(Debug)]
struct Client {
    session: ClientId,
    home: ReplicaId,
    sequence: u64,
    /// The era that the client knows.
    era: Era,
    started: u64,
    pending: BTreeMap<u64, Pending>,
    burst: u64,
}

/// One command and its result.
#[derive(Clone, Debug)]
struct Entry {
    request: RequestId,
    command: KvCommand,
    called: Time,
    answer: Option<(Time, KvOutput)>,
    /// The command as first sent.
    sent: Option<Command>,
    /// How often it was sent.
    asked: u32,
    /// Refused because of its age at its first sending, so it has no effect.
    failed: bool,
}

impl Client {
    fn next_sequence(&self) -> u64 {
        (self.sequence + 1).max(self.era.first_sequence())
    }

    /// A session with commands of unknown outcome is never used again.
    fn renew(&mut self) {
        self.pending.clear();
        self.session = ClientId(self.session.0 + GENERATION);
        self.sequence = 0;
    }
}

/// All clients of a world.
///
/// Invariants:
///
/// 1. Every written value is written by one command only.
/// 2. A request id is used for one command only, except for twins: a client that misuses ids sends
///    a second command under the id of the first, and does not wait for it.
#[derive(Debug)]
pub(in crate::sim) struct Clients {
    workload: Workload,
    n: usize,
    rng: ChaCha8Rng,
    /// The randomness of twins. It is separate, so that worlds without twins are unchanged.
    twin_rng: ChaCha8Rng,
    clients: Vec<Client>,
    log: Vec<Entry>,
    /// A recent value of each key, for commands that expect one.
    lately: BTreeMap<Bytes, Bytes>,
    closing: bool,
    /// The number of keys used for duels.
    fresh: u64,
    /// Replicas to retry at. Clients of real replicas notice eventually that one is gone.
    reachable: Vec<ReplicaId>,
    answered: u64,
}

/// The longest wait of a client after the unrest.
const IMPATIENT: Duration = Duration::from_secs(2);

/// The distance between two sessions of one client.
const GENERATION: u64 = 1 << 16;

impl Clients {
    pub(in crate::sim) fn new(plan: &Plan) -> Clients {
        let workload = plan.workload.clone();
        // Every replica has a client of its own, if there are enough.
        let client = |index: usize| Client {
            session: ClientId(index as u64),
            home: ReplicaId::from_index(index % plan.replicas),
            sequence: 0,
            era: Era::FIRST,
            started: 0,
            pending: BTreeMap::new(),
            burst: 0,
        };
        Clients {
            n: plan.replicas,
            rng: stream(plan.seed, Stream::Clients),
            twin_rng: stream(plan.seed, Stream::Twins),
            clients: (0..workload.clients).map(client).collect(),
            log: Vec::new(),
            lately: BTreeMap::new(),
            closing: false,
            fresh: 0,
            reachable: ReplicaId::all(plan.replicas).collect(),
            answered: 0,
            workload,
        }
    }

    pub(in crate::sim) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Stops new commands, and retries only at live replicas. Returns the requests still waiting.
    pub(in crate::sim) fn close(&mut self, live: Vec<ReplicaId>) -> Vec<RequestId> {
        self.reachable = live;
        self.closing = true;
        let waiting = |client: &Client| {
            let session = client.session;
            let sequences: Vec<u64> = client.pending.keys().copied().collect();
            sequences.into_iter().map(move |sequence| RequestId::new(session, sequence))
        };
        self.clients.iter().flat_map(waiting).collect()
    }

    /// The number of answered commands.
    pub(in crate::sim) fn answered(&self) -> u64 {
        self.answered
    }

    /// The longest wait for an answer.
    pub(in crate::sim) fn slowest(&self) -> Duration {
        let waited = |entry: &Entry| Some(entry.answer.as_ref()?.0.since(entry.called));
        self.log.iter().filter_map(waited).max().unwrap_or_default()
    }

    /// A command that a client waits for, if any.
    pub(in crate::sim) fn waiting(&self) -> Option<Content> {
        self.clients.iter().find_map(|client| {
            let (sequence, pending) = client.pending.first_key_value()?;
            Some(content(RequestId::new(client.session, *sequence), &pending.payload))
        })
    }

    /// The client that a session belongs to.
    fn of(session: ClientId) -> usize {
        usize::try_from(session.0 % GENERATION).expect("fewer clients than a generation")
    }

    /// A client's next command, if it may send one, and its pause after that.
    pub(in crate::sim) fn next(
        &mut self,
        index: usize,
        now: Time,
        counters: &mut Counters,
    ) -> (Vec<Ask>, Option<Duration>) {
        let workload = &self.workload;
        let client = &mut self.clients[index];
        if self.closing || client.started >= workload.commands {
            return (Vec::new(), None);
        }
        let asks = if client.pending.len() < workload.window {
            let (command, everything) = self.draw(index);
            self.start(index, now, command, everything, counters)
        } else {
            Vec::new()
        };
        let client = &mut self.clients[index];
        client.burst += 1;
        let pause = if client.burst.is_multiple_of(self.workload.burst) {
            self.workload.think.mul_f64(2.0 * self.rng.random::<f64>())
        } else {
            self.workload.think / 50
        };
        (asks, Some(pause))
    }

    /// An unused key.
    pub(in crate::sim) fn fresh_key(&mut self) -> u64 {
        self.fresh += 1;
        self.workload.keys + self.fresh
    }

    /// A client at this replica writes a key at once, whatever else it does.
    pub(in crate::sim) fn duel(
        &mut self,
        at: ReplicaId,
        contended: u64,
        now: Time,
        counters: &mut Counters,
    ) -> Vec<Ask> {
        let Some(index) = self.clients.iter().position(|client| client.home == at) else {
            return Vec::new();
        };
        if self.closing || self.clients[index].pending.len() > 16 {
            return Vec::new();
        }
        let client = &self.clients[index];
        let value = value(client.session, client.next_sequence(), 0);
        let command = KvCommand::Put { key: key(contended), value };
        self.start(index, now, command, false, counters)
    }

    fn start(
        &mut self,
        index: usize,
        now: Time,
        command: KvCommand,
        everything: bool,
        counters: &mut Counters,
    ) -> Vec<Ask> {
        let client = &mut self.clients[index];
        client.started += 1;
        client.sequence = client.next_sequence();
        let footprint = if everything { Footprint::Everything } else { Kv::footprint(&command) };
        let payload = encode(&command).expect("keys and values have an encoding");
        let entry = self.log.len();
        self.log.push(Entry {
            request: RequestId::new(client.session, client.sequence),
            command: command.clone(),
            called: now,
            answer: None,
            sent: None,
            asked: 0,
            failed: false,
        });
        let sequence = client.sequence;
        client.pending.insert(sequence, Pending { command, footprint, payload, entry });
        let mut asks = vec![self.ask(index, sequence, self.clients[index].home)];
        if self.rng.random_range(0..256) < u32::from(self.workload.double) {
            counters.hit(Counter::Doubled);
            let second = ReplicaId::from_index(self.rng.random_range(0..self.n));
            asks.push(self.ask(index, sequence, second));
        }
        let entry = &mut self.log[entry];
        entry.sent = Some(asks[0].1.clone());
        entry.asked = if asks.len() > 1 { 2 } else { 1 };
        if self.twin_rng.random_range(0..256) < u32::from(self.workload.twins) {
            counters.hit(Counter::Twin);
            let twin = self.twin(&asks[0].1, now);
            asks.push(twin);
        }
        asks
    }

    fn ask(&self, index: usize, sequence: u64, to: ReplicaId) -> Ask {
        let client = &self.clients[index];
        let pending = &client.pending[&sequence];
        let floor = client.pending.first_key_value().map_or(sequence, |(lowest, _)| *lowest);
        let command = Command {
            request: RequestId::new(client.session, sequence),
            floor,
            origin: to,
            footprint: pending.footprint.clone(),
            payload: pending.payload.clone(),
        };
        (to, command)
    }

    /// How long a client waits before its `attempt`-th retry.
    pub(in crate::sim) fn timeout(&self, attempt: u32) -> Duration {
        let longest = if self.closing { IMPATIENT } else { Duration::MAX };
        (self.workload.timeout * (1 << attempt.min(3))).min(longest)
    }

    /// A client has waited long enough: it asks another replica or gives up.
    pub(in crate::sim) fn overdue(
        &mut self,
        request: RequestId,
        counters: &mut Counters,
    ) -> Option<Ask> {
        if request.client == ClientId::CLUSTER {
            return None;
        }
        let index = Clients::of(request.client);
        let client = &mut self.clients[index];
        if client.session != request.client || !client.pending.contains_key(&request.sequence) {
            return None;
        }
        if !self.closing && self.rng.random_range(0..256) < u32::from(self.workload.give_up) {
            counters.hit(Counter::GaveUp);
            client.renew();
            return None;
        }
        counters.hit(Counter::Retried);
        self.log[client.pending[&request.sequence].entry].asked += 1;
        let to = self.reachable[self.rng.random_range(0..self.reachable.len())];
        Some(self.ask(index, request.sequence, to))
    }

    /// A client receives the answer to a command. Returns whether it was waiting for it.
    pub(in crate::sim) fn answered_by(
        &mut self,
        request: RequestId,
        now: Time,
        output: &[u8],
    ) -> bool {
        let client = &mut self.clients[Clients::of(request.client)];
        if client.session != request.client {
            return false;
        }
        let Some(pending) = client.pending.remove(&request.sequence) else { return false };
        let output: KvOutput = decode(output).expect("the store answers with an output");
        match (&pending.command, &output) {
            (KvCommand::Put { key, value }, _) => {
                self.lately.insert(key.clone(), value.clone());
            }
            (KvCommand::Get { key }, KvOutput::Value(Some(value)))
            | (KvCommand::Cas { key, .. }, KvOutput::Mismatch(Some(value))) => {
                self.lately.insert(key.clone(), value.clone());
            }
            _ => {}
        }
        self.answered += 1;
        self.log[pending.entry].answer = Some((now, output));
        true
    }

    /// Whether a command's result may be given to the client waiting under that id; not if it waits
    /// for another command.
    pub(in crate::sim) fn may_hear(&self, request: RequestId, payload: &Bytes) -> bool {
        let client = &self.clients[Clients::of(request.client)];
        let pending = client.pending.get(&request.sequence);
        client.session != request.client || pending.is_none_or(|it| it.payload == *payload)
    }

    /// Whether a client still waits for this request.
    pub(in crate::sim) fn is_waiting(&self, request: RequestId) -> bool {
        let client = &self.clients[Clients::of(request.client)];
        client.session == request.client && client.pending.contains_key(&request.sequence)
    }

    /// Whether a client waits for this request and it is a `Put`.
    pub(super) fn is_put(&self, request: RequestId) -> bool {
        let client = &self.clients[Clients::of(request.client)];
        let pending = client.pending.get(&request.sequence);
        client.session == request.client
            && pending.is_some_and(|it| matches!(it.command, KvCommand::Put { .. }))
    }

    /// Half of the clients learn the current era.
    pub(in crate::sim) fn learn(&mut self, era: Era) {
        for client in &mut self.clients {
            if self.rng.random_ratio(1, 2) {
                client.era = client.era.max(era);
            }
        }
    }

    /// At most `most` old commands arrive again that no client waits for.
    pub(in crate::sim) fn late(&mut self, most: usize) -> Vec<Ask> {
        let mut late = Vec::new();
        for _ in 0..most.min(self.log.len()) {
            let entry = self.rng.random_range(0..self.log.len());
            let to = ReplicaId::from_index(self.rng.random_range(0..self.n));
            if !self.is_waiting(self.log[entry].request) {
                let sent = self.log[entry].sent.clone();
                late.extend(sent.map(|command| (to, Command { origin: to, ..command })));
            }
        }
        late
    }

    /// A command is refused because of its age: its client begins a new session. Whether an earlier
    /// attempt had an effect is unknown; without one there was no effect.
    pub(in crate::sim) fn expire(&mut self, request: RequestId, era: Era) {
        let client = &mut self.clients[Clients::of(request.client)];
        client.era = client.era.max(era);
        if let Some(pending) = client.pending.get(&request.sequence) {
            let entry = &mut self.log[pending.entry];
            entry.failed = entry.asked == 1;
            client.renew();
        }
    }

    fn draw(&mut self, index: usize) -> (KvCommand, bool) {
        let weights = self.workload.mix;
        let total: u16 = weights.iter().sum();
        let mut ticket = self.rng.random_range(0..total);
        let kind = weights.iter().position(|weight| {
            let here = ticket < *weight;
            ticket = ticket.wrapping_sub(*weight);
            here
        });
        let client = &self.clients[index];
        let (session, sequence) = (client.session, client.next_sequence());
        let first = self.draw_key();
        let written = |part| value(session, sequence, part);
        let command = match kind.expect("a ticket is below the total") {
            0 => KvCommand::Get { key: key(first) },
            1 | 5 => KvCommand::Put { key: key(first), value: written(0) },
            2 => {
                let key = key(first);
                let expected = self.lately.get(&key).cloned();
                KvCommand::Cas { key, expected, value: written(0) }
            }
            3 => KvCommand::Del { key: key(first) },
            _ => {
                let second = (first + 1 + self.rng.random_range(0..3)) % self.workload.keys.max(2);
                let mut keys = vec![first, second];
                keys.dedup();
                if self.rng.random_ratio(1, 2) {
                    KvCommand::GetMany { keys: keys.into_iter().map(key).collect() }
                } else {
                    let entry = |(part, it): (u8, u64)| (key(it), written(part));
                    KvCommand::PutMany { entries: (0..).zip(keys).map(entry).collect() }
                }
            }
        };
        (command, kind == Some(5))
    }

    fn draw_key(&mut self) -> u64 {
        let keys = self.workload.keys;
        if self.rng.random_range(0..256) < u32::from(self.workload.hot) {
            self.rng.random_range(0..keys.min(2))
        } else {
            self.rng.random_range(0..keys)
        }
    }
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("k{number}"))
}

/// A value that no other command writes.
fn value(session: ClientId, sequence: u64, part: u8) -> Bytes {
    Bytes::from(format!("{:x}.{sequence}.{part}", session.0))
}
