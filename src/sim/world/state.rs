//! The whole world: replicas, network, disks, clients and future events, with a clock of its own.
//! The other files of this folder define how a replica runs in it, and `run` when.

use std::io::Write;
use std::time::Duration;

use bytes::BytesMut;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::agenda::{Agenda, Event, Letter};
use super::clients::{Ask, Clients};
use super::freshness::Older;
use super::host::Host;
use super::network::Network;
use super::sabotage::Sabotage;
use super::shelf::Shelved;
use super::trace::Trace;
use crate::replica::Output;
use crate::sim::checks::Checks;
use crate::sim::plan::{Plan, Stream, stream};
use crate::sim::report::{Breach, Broken, Counters};
use crate::sim::subject::Subject;
use crate::types::{Quorums, ReplicaId, ReplicaSet, Time};

/// The rates of clocks, out of 1024, that a protocol with leases must tolerate: one may run twice
/// as fast as another.
const NEARLY: (u64, u64) = (700, 1400);

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
    agenda: Agenda<P::Message>,
    pub(in crate::sim) out: Output<P::Message, P::Record>,
    pub(in crate::sim) sabotage: Sabotage,
    /// Whether all share one power supply: when the first disk dies, the power fails everywhere.
    pub(in crate::sim) one_mains: bool,
    /// When the unrest ended, if it has.
    pub(in crate::sim) calm_since: Option<Time>,
    pub(in crate::sim) largest_component: usize,
    /// A buffer for encoding.
    pub(in crate::sim) frame: BytesMut,
}

impl<'a, P: Subject> World<'a, P> {
    /// A world in which no event is scheduled.
    pub(in crate::sim) fn at_rest(
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
        World {
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
            agenda: Agenda::new(),
            out: Output::default(),
            frame: BytesMut::new(),
            sabotage,
            one_mains: false,
            calm_since: None,
            largest_component: 0,
            plan,
        }
    }
}

impl<P: Subject> World<'_, P> {
    /// Advances to the next event.
    pub(in crate::sim) fn next_event(&mut self) -> Result<Event, Breach> {
        let Some((at, event)) = self.agenda.next_event() else {
            return Err((Broken::Liveness, "the replicas never come to rest".to_owned()));
        };
        self.now = at;
        Ok(event)
    }

    /// The message that an arrival event refers to.
    pub(in crate::sim) fn arrived(&mut self, place: u32) -> Letter<P::Message> {
        self.agenda.arrived(place)
    }

    /// Schedules an event after a while.
    pub(in crate::sim) fn later(&mut self, after: Duration, event: Event) {
        self.at(self.now + after, event);
    }

    /// Schedules an event at this time.
    pub(in crate::sim) fn at(&mut self, at: Time, event: Event) {
        self.agenda.add(at, event);
    }

    /// Schedules a message's arrival.
    pub(super) fn post(&mut self, at: Time, letter: Letter<P::Message>) {
        self.agenda.post(at, letter);
    }

    /// A random replica.
    pub(in crate::sim) fn any(&mut self) -> ReplicaId {
        ReplicaId::from_index(self.rng.random_range(0..self.plan.replicas))
    }

    /// A random subset of the replicas.
    pub(in crate::sim) fn some(&mut self) -> ReplicaSet {
        let mask = self.rng.random::<u64>();
        let chosen = ReplicaId::all(self.plan.replicas);
        chosen.filter(|replica| mask >> replica.index() & 1 == 1).collect()
    }

    pub(in crate::sim) fn everybody(&self) -> ReplicaSet {
        ReplicaSet::all(self.plan.replicas)
    }

    pub(in crate::sim) fn quorums(&self) -> Quorums {
        Quorums::new(self.plan.replicas).expect("a supported size")
    }

    /// How long a fault lasts: often less than the suspicion timeout, sometimes much longer.
    pub(in crate::sim) fn spell(&mut self) -> Duration {
        let spread = self.rng.random::<f64>();
        self.plan.timing.suspect.mul_f64(0.1 * 80f64.powf(spread))
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
}
