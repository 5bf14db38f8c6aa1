//! The cores of replicas in one thread, without network, disk, codec or clock. They take turns like
//! threads on one processor. In its turn, a core handles everything that has arrived so far.
//! Messages are passed by value, and the time is a number.
//!
//! This leaves out waiting, on purpose. A command that waits for other commands, for a time-out or
//! for a distant replica costs nothing extra here.

use std::time::Duration;

use isonomy::internals::protocol::Protocol;
use isonomy::internals::replica::{Core, Execution, Input, Limits, Output};
use isonomy::types::{
    Command, Durable, Optimisations, Quorums, ReplicaId, Retention, Settings, Time, Timing,
};

/// How much time passes in a replica's turn. A busy replica over a real network takes about this
/// long.
const TURN: Duration = Duration::from_micros(50);

/// A cluster of replicas that run protocol `P`.
pub struct Cores<P: Protocol> {
    seats: Vec<Seat<P>>,
    /// The index of the replica whose turn is next.
    next: usize,
    now: Time,
    tick: Duration,
    out: Output<P::Message, P::Record>,
}

struct Seat<P: Protocol> {
    core: Core<P>,
    arrived: Vec<Input<P::Message>>,
    next_tick: Time,
}

impl<P: Protocol> Cores<P> {
    pub fn new(n: usize) -> Cores<P> {
        let timing = Timing::default();
        let seat = |me: ReplicaId| {
            let settings = Settings {
                me,
                quorums: Quorums::new(n).expect("a supported size"),
                seed: u64::from(me.number()),
                timing: timing.clone(),
                optimisations: Optimisations::NONE,
                retention: Retention::default(),
                leases: true,
            };
            let core = Core::new(settings.clone(), Limits::default(), P::new(settings));
            // The replicas' ticks are spread over time.
            let next_tick = Time::ZERO + TURN * u32::from(me.number());
            Seat { core, arrived: Vec::new(), next_tick }
        };
        Cores {
            seats: ReplicaId::all(n).map(seat).collect(),
            next: 0,
            now: Time::ZERO,
            tick: timing.tick,
            out: Output::default(),
        }
    }

    pub fn now(&self) -> Time {
        self.now
    }

    /// Hands a replica a command for its next turn.
    pub fn propose(&mut self, at: ReplicaId, command: Command) {
        self.seats[at.index()].arrived.push(Input::Propose(command));
    }

    /// Lets time pass until a replica has something to do, then gives it a turn. Everything that it
    /// executes goes to `executed`.
    ///
    /// # Panics
    /// If a command is turned away.
    pub fn turn(&mut self, executed: impl FnMut(ReplicaId, Execution)) {
        let n = self.seats.len();
        let from = self.next;
        let in_turn = (0..n).map(|at| (from + at) % n);
        let now = self.now;
        let Some(index) = in_turn.clone().find(|at| self.seats[*at].has_to_act(now)) else {
            let due = self.seats.iter().map(Seat::due).min();
            self.now = due.expect("a cluster has replicas").max(self.now);
            return self.turn(executed);
        };
        self.next = (index + 1) % n;
        self.step(index, executed);
        self.now = self.now + TURN;
    }

    fn step(&mut self, index: usize, mut executed: impl FnMut(ReplicaId, Execution)) {
        let me = ReplicaId::from_index(index);
        let seat = &mut self.seats[index];
        if seat.next_tick <= self.now {
            seat.next_tick = self.now + self.tick;
            seat.arrived.push(Input::Tick);
        }
        seat.core.step(self.now, seat.arrived.drain(..), &mut self.out);
        loop {
            let written = !self.out.records.is_empty();
            for (to, message) in self.out.messages.drain(..) {
                for to in to.iter() {
                    let message = message.clone();
                    self.seats[to.index()].arrived.push(Input::Peer { from: me, message });
                }
            }
            self.out.execute.drain(..).for_each(|execution| executed(me, execution));
            assert!(self.out.rejected.is_empty(), "{}: {:?}", P::NAME, self.out.rejected);
            self.out.clear();
            if !written {
                return;
            }
            // Nothing is ever lost here, so everything that is written counts as durable.
            let core = &mut self.seats[index].core;
            let durable = Input::Durable(Durable::flushed(core.log_end()));
            core.step(self.now, [durable], &mut self.out);
        }
    }
}

impl<P: Protocol> Seat<P> {
    fn has_to_act(&self, now: Time) -> bool {
        !self.arrived.is_empty() || self.due() <= now
    }

    /// The time of its next turn if nothing arrives.
    fn due(&self) -> Time {
        self.core.wake().map_or(self.next_tick, |wake| wake.min(self.next_tick))
    }
}
