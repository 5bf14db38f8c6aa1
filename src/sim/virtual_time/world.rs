//! The world of a measurement: replicas, the delays between them, and clients, on one heap of
//! events.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use bytes::BytesMut;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustc_hash::FxHashMap;

use super::super::subject::with_protocol;
use super::machine::Machine;
use super::measured::{Counting, Measured, Pending, Traffic};
use super::{Asking, Crash, HEAD_START, Load, PATIENCE, SETTLING, Setup};
use crate::protocol::{Protocol, ProtocolKind};
use crate::replica::{Execution, Input, Output, PeerMessage};
use crate::types::{ClientId, Command, ReplicaId, RequestId, Settings, Time, Timing};
use crate::wire::{Wire, encode_peer};

/// In an open loop, the commands of a site count as those of this many clients in turn.
const OPEN_CLIENTS: u32 = 1_000;

/// Each replica starts this much later than the one before, so that they do not act in lockstep.
const APART: Duration = Duration::from_micros(317);

/// Runs a cluster of the replicas that `make` returns.
///
/// # Panics
/// If the number of sites is unsupported, if a named site does not exist, or if a rate is not
/// positive.
pub fn measure<P: Protocol>(
    setup: &Setup,
    make: fn(Settings) -> P,
    asking: &mut dyn Asking,
) -> Measured
where
    P::Message: Wire,
{
    let mut world = World::new(setup, make, asking);
    world.prepare();
    world.run()
}

/// As [`measure`], for a protocol given by its kind.
///
/// # Panics
/// As [`measure`].
pub fn measure_kind(kind: ProtocolKind, setup: &Setup, asking: &mut dyn Asking) -> Measured {
    with_protocol!(kind, P => measure::<P>(setup, P::new, asking))
}

/// An event, with the life it is meant for.
enum Event<M> {
    Message {
        from: ReplicaId,
        to: usize,
        message: PeerMessage<M>,
    },
    /// A replica is free again.
    Free(usize, u32),
    Tick(usize, u32),
    Wake(usize, u32),
    Flushed(usize, u32, u64),
    /// A client sends a command.
    Ask(usize, u32, u32),
    /// In an open loop, the next command arrives.
    Arrival(usize),
    Stop(usize),
    Return(usize),
}

struct Entry<M> {
    at: Time,
    number: u64,
    event: Event<M>,
}

impl<M> PartialEq for Entry<M> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl<M> Eq for Entry<M> {}
impl<M> PartialOrd for Entry<M> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<M> Ord for Entry<M> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

struct World<'a, P: Protocol> {
    setup: &'a Setup,
    asking: &'a mut dyn Asking,
    now: Time,
    heap: BinaryHeap<Reverse<Entry<P::Message>>>,
    scheduled: u64,
    machines: Vec<Machine<P>>,
    rng: ChaCha8Rng,
    /// When the last message of each link arrives.
    last: Vec<Vec<Time>>,
    pending: FxHashMap<RequestId, Pending>,
    /// How many commands each client has sent.
    asked: FxHashMap<u32, u64>,
    /// In an open loop, the next client at each site.
    arrived: Vec<u32>,
    counting: Counting,
    /// The replica at which components are counted.
    observer: usize,
    out: Output<P::Message, P::Record>,
    frame: BytesMut,
}

impl<'a, P: Protocol> World<'a, P>
where
    P::Message: Wire,
{
    fn new(setup: &'a Setup, make: fn(Settings) -> P, asking: &'a mut dyn Asking) -> Self {
        let n = setup.one_way.len();
        let measured = Measured {
            protocol: P::NAME,
            samples: Vec::new(),
            time: setup.time,
            answered: 0,
            traffic: vec![Traffic::default(); n],
            components: BTreeMap::new(),
            over_time: Vec::new(),
            unanswered: 0,
            refused: 0,
        };
        World {
            setup,
            asking,
            now: Time::ZERO,
            heap: BinaryHeap::new(),
            scheduled: 0,
            machines: ReplicaId::all(n).map(|me| Machine::new(setup, me, make)).collect(),
            rng: ChaCha8Rng::seed_from_u64(setup.seed),
            last: vec![vec![Time::ZERO; n]; n],
            pending: FxHashMap::default(),
            asked: FxHashMap::default(),
            arrived: vec![0; n],
            counting: Counting::new(measured, Time::ZERO + SETTLING, setup.warm_up),
            observer: usize::from(n > 1 && setup.crash.is_some_and(|crash| crash.site == 0)),
            out: Output::default(),
            frame: BytesMut::new(),
        }
    }

    fn prepare(&mut self) {
        for site in 0..self.machines.len() {
            let late = self.setup.first.is_some_and(|first| first != site);
            let start = if late { HEAD_START } else { Duration::ZERO };
            let apart = APART * u32::try_from(site).expect("few sites");
            self.later(start + apart, Event::Tick(site, 0));
            match self.setup.load {
                Load::Closed { clients, .. } => {
                    for client in 0..clients {
                        self.first_ask(site, client, SETTLING);
                    }
                }
                Load::Open { .. } => self.next_arrival(site, SETTLING),
            }
        }
        if let Some(Crash { site, at, back }) = self.setup.crash {
            self.later(SETTLING + at, Event::Stop(site));
            back.into_iter().for_each(|back| self.later(SETTLING + back, Event::Return(site)));
        }
    }

    /// Clients start at different times, or they would keep sending at the same time.
    fn first_ask(&mut self, site: usize, client: u32, after: Duration) {
        let apart = Duration::from_millis(100).mul_f64(self.rng.random::<f64>());
        let life = self.machines[site].life;
        self.later(after + apart, Event::Ask(site, life, client));
    }

    fn next_arrival(&mut self, site: usize, after: Duration) {
        let Load::Open { rate, poisson } = self.setup.load else { return };
        let draw = if poisson { -(1.0 - self.rng.random::<f64>()).ln() } else { 1.0 };
        self.later(after + Duration::from_secs_f64(draw / rate), Event::Arrival(site));
    }

    fn later(&mut self, after: Duration, event: Event<P::Message>) {
        self.at(self.now + after, event);
    }

    fn at(&mut self, at: Time, event: Event<P::Message>) {
        self.scheduled += 1;
        self.heap.push(Reverse(Entry { at, number: self.scheduled, event }));
    }

    fn run(mut self) -> Measured {
        while let Some(Reverse(entry)) = self.heap.pop() {
            self.now = entry.at;
            let over = self.now >= self.counting.to;
            if over && (self.pending.is_empty() || self.now >= self.counting.to + PATIENCE) {
                break;
            }
            self.happen(entry.event);
        }
        let mut measured = self.counting.measured;
        measured.unanswered += self.pending.len() as u64;
        measured
    }

    fn happen(&mut self, event: Event<P::Message>) {
        let lives = |machines: &[Machine<P>], site: usize, life: u32| machines[site].life == life;
        match event {
            Event::Message { from, to, message } if self.machines[to].alive => {
                if self.counting.counts(self.now) {
                    self.counting.measured.traffic[to].received += 1;
                }
                self.give(to, Input::Peer { from, message });
            }
            Event::Free(site, life) if lives(&self.machines, site, life) => self.step(site),
            Event::Tick(site, life) if lives(&self.machines, site, life) => {
                self.give(site, Input::Tick);
                self.later(Timing::default().tick, Event::Tick(site, life));
            }
            Event::Wake(site, life) if lives(&self.machines, site, life) => {
                self.machines[site].wake_at = None;
                self.call(site);
            }
            Event::Flushed(site, life, position) if lives(&self.machines, site, life) => {
                self.machines[site].flushing = false;
                let input = self.machines[site].flushed(position);
                self.give(site, input);
                self.flush(site);
            }
            Event::Ask(site, life, client) if lives(&self.machines, site, life) => {
                self.ask(site, client);
            }
            Event::Arrival(site) => self.arrive(site),
            Event::Stop(site) => self.stop(site),
            Event::Return(site) => self.come_back(site),
            // The event was for a life that has ended.
            _ => {}
        }
    }

    fn arrive(&mut self, site: usize) {
        if self.now >= self.counting.to {
            return;
        }
        self.next_arrival(site, Duration::ZERO);
        if self.machines[site].alive {
            let turn = self.arrived[site];
            self.arrived[site] = (turn + 1) % OPEN_CLIENTS;
            self.ask(site, turn);
        } else {
            self.counting.measured.refused += 1;
        }
    }

    /// A client sends a command to the replica at its site.
    fn ask(&mut self, site: usize, client: u32) {
        if self.now >= self.counting.to {
            return;
        }
        let each = match self.setup.load {
            Load::Closed { clients, .. } => clients,
            Load::Open { .. } => OPEN_CLIENTS,
        };
        let name = u32::try_from(site).expect("few sites") * each + client;
        let sequence = self.asked.entry(name).or_default();
        *sequence += 1;
        let request = RequestId::new(ClientId(u64::from(name) + 1), *sequence);
        let (footprint, payload) = self.asking.next(name, self.now.since(self.counting.zero));
        let origin = ReplicaId::from_index(site);
        let pending = Pending { site, client, asked: self.now, committed: None };
        self.pending.insert(request, pending);
        let command = Command { request, floor: 0, origin, footprint, payload };
        self.give(site, Input::Propose(command));
    }

    fn give(&mut self, site: usize, input: Input<P::Message>) {
        self.machines[site].inbox.push(input);
        self.call(site);
    }

    /// Schedules a step of a replica, as soon as it is free.
    fn call(&mut self, site: usize) {
        let machine = &mut self.machines[site];
        if machine.alive && !std::mem::replace(&mut machine.called, true) {
            let (at, life) = (machine.free_at.max(self.now), machine.life);
            self.at(at, Event::Free(site, life));
        }
    }

    fn step(&mut self, site: usize) {
        let machine = &mut self.machines[site];
        machine.called = false;
        let inputs = std::mem::take(&mut machine.inbox);
        let costly = |input: &&Input<_>| matches!(input, Input::Peer { .. } | Input::Propose(_));
        let taken = inputs.iter().filter(costly).count();
        let mut out = std::mem::take(&mut self.out);
        machine.core.step(self.now, inputs, &mut out);
        machine.append(&mut out.records);
        let said: usize = out.messages.iter().map(|(to, _)| to.len()).sum();
        let work = self.setup.cpu * u32::try_from(taken + said).expect("far fewer in one step");
        machine.free_at = self.now + work;
        if self.counting.counts(self.now) {
            self.counting.measured.traffic[site].busy += work;
        }
        self.flush(site);
        self.heed(site, work, &mut out);
        out.clear();
        self.out = out;
        self.set_wake(site);
    }

    fn set_wake(&mut self, site: usize) {
        let machine = &mut self.machines[site];
        let Some(wake) = machine.core.wake() else { return };
        if machine.wake_at.is_none_or(|at| wake < at) {
            machine.wake_at = Some(wake);
            let life = machine.life;
            self.at(wake.max(self.now), Event::Wake(site, life));
        }
    }

    /// Applies a step's output when the replica has finished the work.
    fn heed(&mut self, site: usize, work: Duration, out: &mut Output<P::Message, P::Record>) {
        let then = self.now + work;
        for (to, message) in out.messages.drain(..) {
            self.frame.clear();
            encode_peer(0, self.machines[site].held(), &message, &mut self.frame);
            if self.counting.counts(self.now) {
                let traffic = &mut self.counting.measured.traffic[site];
                traffic.messages += to.len() as u64;
                traffic.bytes += (to.len() * self.frame.len()) as u64;
            }
            for to in to.iter() {
                let at = self.arrival(then, site, to.index());
                let (from, to) = (ReplicaId::from_index(site), to.index());
                self.at(at, Event::Message { from, to, message: message.clone() });
            }
        }
        for committed in out.committed.drain(..) {
            for command in committed.batch.commands() {
                if let Some(pending) = self.pending.get_mut(&command.request) {
                    pending.committed.get_or_insert((then, committed.fast));
                }
            }
        }
        for execution in out.execute.drain(..) {
            self.executed(site, then, &execution);
        }
        for command in out.reads.drain(..) {
            self.answered(then, command.request);
        }
        for (request, _) in out.rejected.drain(..) {
            self.counting.measured.refused += 1;
            if let Some(pending) = self.pending.remove(&request) {
                self.go_on(&pending, then + Timing::default().tick);
            }
        }
    }

    fn executed(&mut self, site: usize, then: Time, execution: &Execution) {
        if site == self.observer {
            self.counting.executed(then, execution.ends_component);
        }
        for command in execution.batch.commands() {
            if command.origin.index() == site {
                self.answered(then, command.request);
            }
        }
    }

    fn answered(&mut self, then: Time, request: RequestId) {
        let Some(pending) = self.pending.remove(&request) else { return };
        self.counting.answered(then, &pending);
        let think = match self.setup.load {
            Load::Closed { think, .. } => think,
            Load::Open { .. } => Duration::ZERO,
        };
        self.go_on(&pending, then + think);
    }

    /// A client of a closed loop sends its next command.
    fn go_on(&mut self, pending: &Pending, at: Time) {
        if let Load::Closed { .. } = self.setup.load {
            let life = self.machines[pending.site].life;
            self.at(at, Event::Ask(pending.site, life, pending.client));
        }
    }

    /// Starts a flush, unless one is under way or there is nothing to flush.
    fn flush(&mut self, site: usize) {
        let flush = self.setup.flush;
        let machine = &mut self.machines[site];
        if machine.is_durable() || std::mem::replace(&mut machine.flushing, true) {
            return;
        }
        let (life, position) = (machine.life, machine.appended);
        self.later(flush, Event::Flushed(site, life, position));
    }

    /// When a message that leaves now arrives.
    fn arrival(&mut self, leaves: Time, from: usize, to: usize) -> Time {
        let mut at = leaves + self.setup.one_way[from][to];
        if !self.setup.jitter.is_zero() {
            at = at + self.setup.jitter.mul_f64(self.rng.random::<f64>());
        }
        let last = &mut self.last[from][to];
        *last = at.max(*last);
        *last
    }

    fn stop(&mut self, site: usize) {
        self.machines[site].stop();
        let before = self.pending.len();
        self.pending.retain(|_, pending| pending.site != site);
        self.counting.measured.unanswered += (before - self.pending.len()) as u64;
    }

    fn come_back(&mut self, site: usize) {
        let mut out = std::mem::take(&mut self.out);
        let machine = &mut self.machines[site];
        machine.come_back(self.now, &mut out);
        machine.append(&mut out.records);
        let life = machine.life;
        self.flush(site);
        self.heed(site, Duration::ZERO, &mut out);
        out.clear();
        self.out = out;
        self.later(Duration::ZERO, Event::Tick(site, life));
        if let Load::Closed { clients, .. } = self.setup.load {
            (0..clients).for_each(|client| self.first_ask(site, client, Duration::ZERO));
        }
    }
}
