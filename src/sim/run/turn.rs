//! Runs a world from its first event to its last: from a seed's plan to its verdict.
//!
//! First comes the unrest: faults, while clients send commands. Then comes the calm: cut links
//! heal, paused replicas continue (crashed ones stay dead), and everything pending must finish.

use std::io::Write;
use std::time::Duration;

use rand::RngExt;

use crate::machine::{Outcome, Refusal};
use crate::protocol::Paths;
use crate::replica::Input;
use crate::sim::plan::{Fault, Plan};
use crate::sim::report::{Breach, Broken, Counter, Verdict, Violation};
use crate::sim::subject::Subject;
use crate::sim::world::agenda::{Event, Letter};
use crate::sim::world::room::Room;
use crate::sim::world::sabotage::Sabotage;
use crate::sim::world::state::World;
use crate::types::{Era, Optimisations, ReplicaId, RequestId, Time};

/// The pause between two checks whether everything has finished.
const LOOK: Duration = Duration::from_millis(100);

impl<'a, P: Subject> World<'a, P> {
    /// A world that is ready to run.
    pub(in crate::sim) fn new(
        plan: Plan,
        sabotage: Sabotage,
        transcript: Option<&'a mut dyn Write>,
    ) -> World<'a, P> {
        let mut world = World::at_rest(plan, sabotage, transcript);
        world.prepare();
        world
    }
}

impl<P: Subject> World<'_, P> {
    fn prepare(&mut self) {
        #[cfg(test)]
        ReplicaId::all(self.plan.replicas).for_each(|me| self.plant(me));
        let tick = self.plan.timing.tick;
        for me in ReplicaId::all(self.plan.replicas) {
            // At different times, so that the replicas do not act in lockstep.
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

    /// Runs the world to its end.
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
            match self.next_event()? {
                Event::Look if self.look()? => return self.judge(),
                Event::Look => self.later(LOOK, Event::Look),
                event => self.happen(event)?,
            }
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Breach> {
        match event {
            Event::Message(place) => {
                let Letter { from, to, said, message } = self.arrived(place);
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

    /// A client learns that its session has expired.
    fn expire(&mut self, request: RequestId, era: Era) -> Result<(), Breach> {
        if !self.clients.is_waiting(request) {
            return Ok(());
        }
        let ends = self.plan.faults.iter().any(|(fault, _)| *fault == Fault::EndEra);
        if !ends || era <= Era::of(request.sequence) {
            let detail = format!("{request:?} is refused for its age, in {era:?}");
            return Err((Broken::Once, detail));
        }
        self.counters.hit(Counter::Expired);
        self.clients.expire(request, era);
        Ok(())
    }
}
