//! The end of a world, after the faults. Everything pending must finish, and then everything must
//! be right. This gives a seed's verdict.

use std::time::Duration;

use rand::RngExt;

use crate::sim::linearizability::{BUDGET, Verdict as Explained, check};
use crate::sim::plan::Disk;
use crate::sim::report::{Breach, Broken, Counter};
use crate::sim::subject::Subject;
use crate::sim::world::agenda::Event;
use crate::sim::world::state::World;
use crate::types::{ReplicaId, Time};

/// The slowest flush after the unrest.
const FLUSH: Duration = Duration::from_millis(5);

impl<P: Subject> World<'_, P> {
    /// Ends the faults. Replicas that are down come back, crashed ones stay dead, and clocks stay
    /// as they are.
    pub(super) fn calm(&mut self) {
        self.trace.say(self.now, || "the faults end".to_owned());
        self.calm_since = Some(self.now);
        self.network.heal();
        let live = self.live().collect();
        for request in self.clients.close(live) {
            let soon = self.clients.timeout(0).mul_f64(self.rng.random::<f64>());
            self.later(soon, Event::Overdue(request, 0));
        }
        for me in ReplicaId::all(self.plan.replicas) {
            let host = &mut self.hosts[me.index()];
            host.doom = None;
            host.again = 0;
            if let Some(room) = &mut host.room {
                room.leave_room(None);
            }
            if host.returning {
                let life = host.life;
                self.later(Duration::ZERO, Event::Return(me, life));
            }
            let host = &mut self.hosts[me.index()];
            host.deaf_until = Time::ZERO;
            if let Disk::Takes(mean) = &mut host.disk {
                *mean = (*mean).min(FLUSH);
            }
            host.free_at = host.free_at.min(self.now);
            self.later(Duration::ZERO, Event::Wake(me));
        }
        self.later(Duration::ZERO, Event::Look);
    }

    /// The replicas that did not crash for good.
    fn live(&self) -> impl Iterator<Item = ReplicaId> + Clone + '_ {
        ReplicaId::all(self.plan.replicas).filter(|me| {
            let host = &self.hosts[me.index()];
            host.alive || host.returning
        })
    }

    /// Whether everything has finished; an error if it takes too long.
    pub(super) fn look(&mut self) -> Result<bool, Breach> {
        let Some(since) = self.calm_since else { return Ok(false) };
        let waited = self.now.since(since);
        let pending = self.pending();
        if let Some(pending) = pending {
            return if waited > self.plan.patience {
                Err((Broken::Liveness, format!("{waited:?} after the faults, {pending}")))
            } else {
                Ok(false)
            };
        }
        // With a dead member, no replica can know that all have executed something.
        if self.live().count() < self.plan.replicas {
            return Ok(true);
        }
        if !self.plan.retention::<P>().volatile && !self.plan.has_snapshots() {
            // Nothing is ever safe enough to be forgotten.
            return Ok(true);
        }
        let Some(kept) = self.kept() else {
            self.counters.hit(Counter::QuietTrim);
            return Ok(true);
        };
        if waited > self.plan.patience * 2 {
            return Err((Broken::Memory, format!("all is executed everywhere, and {kept}")));
        }
        self.last_snapshots();
        Ok(false)
    }

    /// Something that has not finished, if anything.
    fn pending(&self) -> Option<String> {
        if let Some(request) = self.clients.waiting() {
            let where_to = self.checks.applied_at(request);
            let request = request.0;
            return Some(format!("{request:?} is not answered, applied at {where_to} replicas"));
        }
        let first = self.live().next().expect("at most f replicas crash");
        let executed = self.hosts[first.index()].core.status().executed;
        for me in self.live() {
            if self.hosts[me.index()].returning {
                return Some(format!("{me} has not come back"));
            }
            let core = &self.hosts[me.index()].core;
            let status = core.status();
            if let Some(id) = self.checks.open(me) {
                return Some(format!("{id} is open at {me}: {}", core.protocol().explain(id)));
            }
            if status.unexecuted > 0 || status.waiting > 0 || status.in_flight > 0 {
                return Some(format!("{me} is not done: {status:?}"));
            }
            if status.executed != executed {
                let behind = status.executed;
                return Some(format!("{first} has executed {executed:?}, {me} {behind:?}"));
            }
        }
        None
    }

    /// Something that a replica should have forgotten, if anything.
    fn kept(&self) -> Option<String> {
        self.live().find_map(|me| {
            let kept = self.hosts[me.index()].core.protocol().kept();
            kept.map(|kept| format!("{me} keeps {kept}"))
        })
    }

    /// Everything has finished: checks that it was right.
    pub(super) fn judge(&mut self) -> Result<(), Breach> {
        for host in &self.hosts {
            let largest = host.core.status().largest_component;
            self.largest_component = self.largest_component.max(largest);
        }
        let first = self.live().next().expect("at most f replicas crash");
        let digest = self.hosts[first.index()].applier.digest();
        self.trace.mix(digest);
        for me in self.live() {
            if !self.checks.executed_alike(first, me) {
                let detail = format!("{first} and {me} have executed different instances");
                return Err((Broken::Divergence, detail));
            }
            if self.hosts[me.index()].applier.digest() != digest {
                let detail = format!("{first} and {me} executed the same, to different states");
                return Err((Broken::Divergence, detail));
            }
        }
        self.judge_clients(first)
    }

    fn judge_clients(&self, first: ReplicaId) -> Result<(), Breach> {
        for asked in self.clients.answered_contents() {
            if !self.checks.has_applied(first, asked) && !self.checks.was_read(asked) {
                let detail = format!("{asked:?} was answered, and {first} has not executed it");
                return Err((Broken::Once, detail));
            }
        }
        for asked in self.clients.failed_contents() {
            if self.checks.has_applied(first, asked) {
                let detail = format!("{asked:?} was refused, and {first} has executed it");
                return Err((Broken::Once, detail));
            }
        }
        match check(&self.clients.history(), BUDGET) {
            Explained::Linearizable => Ok(()),
            Explained::TooHard { key } => {
                Err((Broken::Linearizability, format!("nobody knows about {key:?}: too hard")))
            }
            Explained::Violation(found) => Err((Broken::Linearizability, found.to_string())),
        }
    }
}
