//! One simulated world: replicas, network, disks and clients on one heap of events, in one thread,
//! with no clock but its own. A seed's plan in, a verdict out.
//!
//! First unrest: faults, while clients ask. Then calm: what is cut heals, who is paused goes on
//! (who crashed stays dead), and everything pending has to finish.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write;
use std::time::Duration;

use bytes::BytesMut;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::clients::{Ask, Clients};
use super::host::Host;
use super::network::Network;
use super::room::Room;
use super::sabotage::Sabotage;
use super::snapshots::{Moment, Shelved};
use super::trace::Trace;
use crate::machine::{Outcome, Refusal};
use crate::protocol::Paths;
use crate::replica::{Input, Output, PeerMessage};
use crate::sim::checks::{Breach, Checks};
use crate::sim::faults::older_disks::{Older, Said};
use crate::sim::plan::{Disk, Plan, Stream, stream};
use crate::sim::report::{Broken, Counter, Counters, Verdict, Violation};
use crate::sim::subject::Subject;
use crate::types::{Optimisations, ReplicaId, ReplicaSet, RequestId, Time};

/// Between two looks at whether everything is done.
const LOOK: Duration = Duration::from_millis(100);
/// More events than any sound world needs: a replica talks to itself.
const MOST_EVENTS: u64 = 200_000_000;

/// Rates of clocks, out of 1024, that a protocol with leases has to live with: one may go twice as
/// fast as another.
const NEARLY: (u64, u64) = (700, 1400);

/// Something that will happen.
#[derive(Debug)]
pub(in crate::sim) enum Event {
    /// A message arrives: its place in `World::messages`.
    Message(u32),
    /// A replica is free again.
    Free(ReplicaId),
    Tick(ReplicaId),
    /// The moment that `Core::wake` named.
    Wake(ReplicaId),
    /// A flush is done, up to a position, if the replica still lives that life.
    Flushed(ReplicaId, u64, u32),
    /// Something happens to a snapshot.
    Snapshot(Moment),
    /// There is room on a disk again.
    Freed(ReplicaId),
    /// A replica stops and will come back, if it still lives that life.
    Stop(ReplicaId, u32),
    /// A replica comes back from that life.
    Return(ReplicaId, u32),
    /// A client's command reaches a replica.
    Request(Box<Ask>),
    /// An answer reaches a client.
    Reply(Box<(RequestId, Outcome)>),
    /// A client was turned away.
    Refused(RequestId),
    /// A client has time for another command.
    Next(usize),
    /// A client has waited for long, for the so-many-th time.
    Overdue(RequestId, u32),
    /// The next fault of one kind, by its place in the plan.
    Fault(usize),
    /// In the absence of some the others do something; or they are back.
    Absent(ReplicaSet, bool),
    /// The unrest is over.
    Calm,
    Look,
}

#[derive(Debug)]
struct Entry {
    at: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.number == other.number
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A message under way.
#[derive(Debug)]
struct Letter<M> {
    from: ReplicaId,
    to: ReplicaId,
    said: Option<Said>,
    message: PeerMessage<M>,
}

/// A world.
pub(in crate::sim) struct World<'a, P: Subject> {
    pub(in crate::sim) plan: Plan,
    pub(in crate::sim) now: Time,
    pub(in crate::sim) hosts: Vec<Host<P>>,
    pub(in crate::sim) network: Network,
    pub(in crate::sim) clients: Clients,
    pub(in crate::sim) counters: Counters,
    pub(in crate::sim) trace: Trace<'a>,
    pub(in crate::sim) rng: ChaCha8Rng,
    pub(in crate::sim) disk_rng: ChaCha8Rng,
    pub(in crate::sim) room_rng: ChaCha8Rng,
    pub(in crate::sim) close_rng: ChaCha8Rng,
    pub(in crate::sim) older: Older,
    pub(in crate::sim) checks: Checks,
    /// All snapshots ever begun.
    pub(in crate::sim) shelf: Vec<Shelved<P>>,
    heap: BinaryHeap<Reverse<Entry>>,
    scheduled: u64,
    events: u64,
    messages: Vec<Option<Letter<P::Message>>>,
    unused: Vec<u32>,
    pub(in crate::sim) out: Output<P::Message, P::Record>,
    pub(in crate::sim) sabotage: Sabotage,
    /// One mains for all: when the first disk dies, everybody's power fails.
    pub(in crate::sim) one_mains: bool,
    /// Since when the unrest is over.
    pub(in crate::sim) calm_since: Option<Time>,
    pub(in crate::sim) largest_component: usize,
    /// Room to encode in.
    pub(in crate::sim) frame: BytesMut,
}

impl<'a, P: Subject> World<'a, P> {
    pub(in crate::sim) fn new(
        mut plan: Plan,
        sabotage: Sabotage,
        transcript: Option<&'a mut dyn Write>,
    ) -> World<'a, P> {
        if let Some(storage) = &mut plan.storage {
            storage.lies = sabotage.unflushed_store;
        }
        if P::HAS_LEASES && plan.leases {
            for clock in &mut plan.clocks {
                clock.rate = clock.rate.clamp(NEARLY.0, NEARLY.1);
            }
        }
        #[cfg_attr(not(test), expect(unused_mut, reason = "tests break rules"))]
        let mut hosts: Vec<Host<P>> =
            ReplicaId::all(plan.replicas).map(|me| Host::new(&plan, me)).collect();
        #[cfg(test)]
        if sabotage.one_content {
            hosts.iter_mut().for_each(Host::tell_no_contents_apart);
        }
        let mut world = World {
            now: Time::ZERO,
            hosts,
            network: Network::new(&plan),
            clients: Clients::new(&plan),
            counters: Counters::default(),
            trace: Trace::new(transcript),
            rng: stream(plan.seed, Stream::Faults),
            disk_rng: stream(plan.seed, Stream::Disks),
            checks: Checks::new(plan.replicas, P::ORDER).of(plan.optimisations),
            room_rng: stream(plan.seed, Stream::Rooms),
            close_rng: stream(plan.seed, Stream::Closes),
            older: Older::new(plan.seed),
            shelf: Vec::new(),
            heap: BinaryHeap::new(),
            scheduled: 0,
            events: 0,
            messages: Vec::new(),
            unused: Vec::new(),
            out: Output::default(),
            frame: BytesMut::new(),
            sabotage,
            one_mains: false,
            calm_since: None,
            largest_component: 0,
            plan,
        };
        world.prepare();
        world
    }

    fn prepare(&mut self) {
        #[cfg(test)]
        ReplicaId::all(self.plan.replicas).for_each(|me| self.plant(me));
        let tick = self.plan.timing.tick;
        for me in ReplicaId::all(self.plan.replicas) {
            // Apart, so that the replicas do not act in step.
            let first = tick.mul_f64(self.rng.random::<f64>());
            self.later(first, Event::Tick(me));
            if self.plan.clocks[me.index()].rate != 1024 {
                self.counters.hit(Counter::Skewed);
            }
        }
        for client in 0..self.clients.len() {
            let first = self.plan.workload.think.mul_f64(self.rng.random::<f64>());
            self.later(first, Event::Next(client));
        }
        for index in 0..self.plan.faults.len() {
            self.schedule_fault(index);
        }
        self.prepare_snapshots();
        self.prepare_freshness();
        self.later(self.plan.unrest, Event::Calm);
        let Optimisations { silent_orphans, reserved_slots } = self.plan.optimisations;
        self.counters.hit(match (silent_orphans, reserved_slots > 0) {
            (false, false) => Counter::PlainWorld,
            (true, false) => Counter::SilentWorld,
            (false, true) => Counter::ReservingWorld,
            (true, true) => Counter::QuickWorld,
        });
    }

    /// Lets the world run to its end.
    pub(in crate::sim) fn run(mut self) -> Verdict {
        let violation = self.turn().err().map(|(broken, detail)| {
            self.trace.say(self.now, || format!("{broken:?}: {detail}"));
            Violation { broken, detail, at: self.now }
        });
        let mut paths = Paths::default();
        for host in &self.hosts {
            paths.add(&host.paths);
            paths.add(host.core.paths());
        }
        Verdict {
            seed: self.plan.seed,
            trace: self.trace.hash(),
            simulated: self.now.since(Time::ZERO),
            operations: self.clients.answered(),
            slowest: self.clients.slowest(),
            violation,
            paths,
            counters: self.counters,
            largest_component: self.largest_component,
        }
    }

    fn turn(&mut self) -> Result<(), Breach> {
        loop {
            let Reverse(entry) = self.heap.pop().expect("a world without end has a next event");
            self.now = entry.at;
            self.events += 1;
            if self.events > MOST_EVENTS {
                return Err((Broken::Liveness, "the replicas never come to rest".to_owned()));
            }
            if matches!(entry.event, Event::Look) {
                if self.look()? {
                    return self.judge();
                }
                self.later(LOOK, Event::Look);
                continue;
            }
            self.happen(entry.event)?;
        }
    }

    /// Something happens after a while.
    pub(in crate::sim) fn later(&mut self, after: Duration, event: Event) {
        self.at(self.now + after, event);
    }

    pub(in crate::sim) fn at(&mut self, at: Time, event: Event) {
        // Numbers make the order of what happens at one moment that of its causes.
        self.scheduled += 1;
        self.heap.push(Reverse(Entry { at, number: self.scheduled, event }));
    }

    fn happen(&mut self, event: Event) -> Result<(), Breach> {
        match event {
            Event::Message(place) => {
                let letter = self.messages[place as usize].take().expect("it arrives once");
                self.unused.push(place);
                let Letter { from, to, said, message } = letter;
                if self.hosts[to.index()].deaf_until > self.now {
                    return Ok(());
                }
                if let Some(said) = said {
                    self.hear_of(to, from, said)?;
                }
                self.input(to, Input::Peer { from, message })
            }
            Event::Free(replica) => {
                self.hosts[replica.index()].called = false;
                self.take_step(replica)
            }
            Event::Tick(replica) => {
                let clock = self.hosts[replica.index()].clock;
                self.later(clock.takes(self.plan.timing.tick), Event::Tick(replica));
                self.input(replica, Input::Tick)
            }
            Event::Wake(replica) => {
                self.hosts[replica.index()].wake_at = None;
                self.take_step(replica)
            }
            Event::Flushed(replica, position, life) => {
                let host = &mut self.hosts[replica.index()];
                if host.life != life || !host.alive {
                    return Ok(());
                }
                host.flushing = false;
                let Some(durable) = self.finish_flush(replica, position)? else { return Ok(()) };
                self.input(replica, Input::Durable(durable))?;
                self.maintain_log(replica)?;
                self.flush(replica)
            }
            Event::Request(ask) => {
                let (to, command) = *ask;
                if self.hosts[to.index()].deaf_until > self.now {
                    return Ok(());
                }
                if self.hosts[to.index()].room.as_ref().is_some_and(Room::space_low) {
                    self.counters.hit(Counter::RefusedFull);
                    self.later(Duration::from_micros(100), Event::Refused(command.request));
                    return Ok(());
                }
                if self.plan.restarts && self.hosts[to.index()].alive {
                    self.hosts[to.index()].waiting.insert(command.request);
                }
                self.input(to, Input::Propose(command))
            }
            Event::Stop(replica, life) => {
                let comes_back = self.plan.restarts && self.calm_since.is_none();
                if self.hosts[replica.index()].life == life && comes_back {
                    let pause = self.draw_pause();
                    self.stop(replica, pause)?;
                }
                Ok(())
            }
            Event::Return(replica, life) => self.come_back(replica, life),
            Event::Snapshot(moment) => self.happen_to_snapshots(moment),
            Event::Freed(replica) => {
                self.hosts[replica.index()].room.iter_mut().for_each(|room| room.leave_room(None));
                Ok(())
            }
            other => self.happen_to_clients(other),
        }
    }

    fn happen_to_clients(&mut self, event: Event) -> Result<(), Breach> {
        match event {
            Event::Reply(reply) => return self.hear(&reply.0, reply.1),
            Event::Refused(request) => {
                let pause = self.clients.timeout(0);
                self.later(pause, Event::Overdue(request, 0));
            }
            Event::Next(client) => {
                let (asks, pause) = self.clients.next(client, self.now, &mut self.counters);
                self.ask_all(asks, 0);
                if let Some(pause) = pause {
                    self.later(pause, Event::Next(client));
                }
            }
            Event::Overdue(request, attempt) => {
                if let Some(ask) = self.clients.overdue(request, &mut self.counters) {
                    self.ask_all(vec![ask], attempt + 1);
                }
            }
            Event::Fault(index) => {
                if self.calm_since.is_none() {
                    self.strike(self.plan.faults[index].0)?;
                    self.schedule_fault(index);
                }
            }
            Event::Absent(away, back) => self.be_absent(away, back),
            Event::Calm => self.calm(),
            _ => unreachable!("the others happen to replicas"),
        }
        Ok(())
    }

    /// Clients send their commands.
    pub(in crate::sim) fn ask_all(&mut self, asks: Vec<Ask>, attempt: u32) {
        for (number, (to, command)) in asks.into_iter().enumerate() {
            self.checks.asked(&command);
            self.trace.mix(command.request.client.0 << 32 ^ command.request.sequence);
            self.trace.say(self.now, || format!("{:?} asks {to}", command.request));
            if number == 0 {
                let patience = self.clients.timeout(attempt);
                self.later(patience, Event::Overdue(command.request, attempt));
            }
            if let Some(at) = self.network.send_client(self.now, &mut self.counters) {
                self.at(at, Event::Request(Box::new((to, command))));
            }
        }
    }

    fn hear(&mut self, request: &RequestId, outcome: Outcome) -> Result<(), Breach> {
        let output = match outcome {
            Outcome::Output(output) => output,
            Outcome::Refused(Refusal::Expired { era }) => return self.expire(*request, era),
            other if self.clients.is_waiting(*request) => {
                return Err((Broken::Once, format!("{request:?} is answered with {other:?}")));
            }
            _ => return Ok(()),
        };
        if self.clients.answered_by(*request, self.now, &output) {
            self.trace.say(self.now, || format!("{request:?} has its answer"));
        }
        Ok(())
    }

    /// A message is on its way.
    pub(in crate::sim) fn post(
        &mut self,
        at: Time,
        from: ReplicaId,
        to: ReplicaId,
        message: PeerMessage<P::Message>,
    ) {
        let said = if self.plan.older_disks { self.says(from) } else { None };
        let letter = Some(Letter { from, to, said, message });
        let place = match self.unused.pop() {
            Some(place) => {
                self.messages[place as usize] = letter;
                place
            }
            None => {
                self.messages.push(letter);
                u32::try_from(self.messages.len() - 1).expect("fewer messages than 2^32")
            }
        };
        self.at(at, Event::Message(place));
    }

    /// Something reaches a replica.
    pub(in crate::sim) fn input(
        &mut self,
        replica: ReplicaId,
        input: Input<P::Message>,
    ) -> Result<(), Breach> {
        let host = &mut self.hosts[replica.index()];
        // Time goes on for who stands still, and nothing is done about it.
        if !host.alive || host.full && matches!(input, Input::Tick) {
            return Ok(());
        }
        host.inbox.push(input);
        self.take_step(replica)
    }

    /// A replica takes a step over its inbox, or will when it is free.
    pub(in crate::sim) fn take_step(&mut self, replica: ReplicaId) -> Result<(), Breach> {
        let host = &mut self.hosts[replica.index()];
        if !host.alive || host.full {
            return Ok(());
        }
        if host.free_at > self.now {
            if !host.called {
                host.called = true;
                let at = host.free_at;
                self.at(at, Event::Free(replica));
            }
            return Ok(());
        }
        let mut inputs = std::mem::take(&mut host.inbox);
        host.free_at = self.now + self.plan.step;
        if inputs.len() > 1 {
            self.counters.hit(Counter::Batched);
        }
        loop {
            self.step(replica, &mut inputs)?;
            let host = &mut self.hosts[replica.index()];
            if !host.alive || host.disk != Disk::Instant || host.flushing {
                break;
            }
            // Until nothing is left to be made durable at once.
            if host.durable == host.appended {
                break;
            }
            host.hand_over();
            let position = host.durable;
            let Some(durable) = self.finish_flush(replica, position)? else { break };
            inputs.push(Input::Durable(durable));
        }
        let host = &mut self.hosts[replica.index()];
        host.inbox = inputs;
        Ok(())
    }
}
