//! Replicas that stop and come back as what their flushed records make them (PROTOCOL.md §7). After
//! `faults`, which says when; `checks` carry over to the next life what outlives a crash.
//!
//! A crash keeps what was flushed and any part of what was appended after it, in order: which, the
//! real storage room says where there is one (`disk_faults`), chance elsewhere. Messages under way
//! still arrive, at whoever is there by then.

use std::time::Duration;

use rand::RngExt;

use super::state::{Event, World};
use crate::replica::PeerMessage;
use crate::sim::checks::Breach;
use crate::sim::faults::Fault;
use crate::sim::report::Counter;
use crate::sim::subject::Subject;
use crate::types::{Durable, LogPosition, ReplicaId, ReplicaSet};

/// What a replica is about to say when it dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sim) enum Moment {
    Proposing,
    Voting,
    Recovering,
}

/// A replica dies in the middle of saying something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sim) struct Doom {
    pub(in crate::sim) moment: Moment,
    /// Whether it comes back.
    pub(in crate::sim) returns: bool,
}

impl Doom {
    /// Whether this message is what it dies of.
    pub(in crate::sim) fn comes_with<P: Subject>(self, message: &PeerMessage<P::Message>) -> bool {
        match message {
            PeerMessage::Protocol(message) => P::comes_at(message, self.moment),
            _ => false,
        }
    }
}

impl<P: Subject> World<'_, P> {
    /// A fault that somebody comes back from.
    pub(in crate::sim) fn strike_down(&mut self, fault: Fault) -> Result<(), Breach> {
        let one = self.any();
        match fault {
            Fault::RestartSome => {
                self.counters.hit(Counter::RestartSome);
                let some = self.some();
                self.stop_all(some)?;
            }
            Fault::PowerFailure => {
                self.counters.hit(Counter::RestartAll);
                let all = ReplicaSet::all(self.plan.replicas);
                self.stop_all(all)?;
                all.iter().try_for_each(|me| self.lose_power(me))?;
            }
            Fault::RestartAgain => {
                self.counters.hit(Counter::RestartAgain);
                self.hosts[one.index()].again = self.rng.random_range(1..5);
                self.stop_all(ReplicaSet::from_iter([one]))?;
            }
            Fault::RestartSpeaking => {
                let moments = [Moment::Proposing, Moment::Voting, Moment::Recovering];
                let moment = moments[self.rng.random_range(0..moments.len())];
                let host = &mut self.hosts[one.index()];
                if host.alive && host.doom.is_none() {
                    host.doom = Some(Doom { moment, returns: true });
                }
            }
            _ => self.stop_all(ReplicaSet::from_iter([one]))?,
        }
        Ok(())
    }

    fn stop_all(&mut self, replicas: ReplicaSet) -> Result<(), Breach> {
        // Mains that come back do so for everybody.
        let together = self.rng.random_ratio(1, 2).then(|| self.draw_pause());
        for replica in replicas.iter() {
            let pause = together.unwrap_or_else(|| self.draw_pause());
            self.stop(replica, pause)?;
        }
        Ok(())
    }

    /// How long a replica stays away: not at all, less than others notice, or long.
    pub(in crate::sim) fn draw_pause(&mut self) -> Duration {
        match self.rng.random_range(0..3) {
            0 => Duration::ZERO,
            1 => self.plan.timing.suspect.mul_f64(0.3 * self.rng.random::<f64>()),
            _ => self.spell(),
        }
    }

    /// A replica has said what it was doomed to die of.
    pub(in crate::sim) fn meet(&mut self, me: ReplicaId, doom: Doom) -> Result<(), Breach> {
        if !doom.returns {
            self.counters.hit(Counter::CrashProposing);
            self.crash(me);
            return Ok(());
        }
        self.counters.hit(match doom.moment {
            Moment::Proposing => Counter::RestartProposing,
            Moment::Voting => Counter::RestartVoting,
            Moment::Recovering => Counter::RestartRecovering,
        });
        let pause = self.draw_pause();
        self.stop(me, pause)
    }

    /// A replica stops, and comes back after a while.
    pub(in crate::sim) fn stop(&mut self, me: ReplicaId, pause: Duration) -> Result<(), Breach> {
        if !self.hosts[me.index()].alive {
            return Ok(());
        }
        let kept = self.end_life(me)?;
        let host = &mut self.hosts[me.index()];
        host.go_down();
        host.returning = true;
        let life = host.life;
        self.counters.hit(Counter::Restart);
        if pause.is_zero() {
            self.counters.hit(Counter::RestartAtOnce);
        }
        self.keep(me, kept);
        self.later(pause, Event::Return(me, life));
        Ok(())
    }

    /// How many records a crash leaves.
    fn end_life(&mut self, me: ReplicaId) -> Result<usize, Breach> {
        let host = &self.hosts[me.index()];
        if host.room.is_some() {
            return self.end_in_room(me);
        }
        let safe = usize::try_from(host.flushed).expect("what is in memory can be counted");
        let all = host.log.len();
        // The extremes are the interesting ones.
        Ok(match self.rng.random_range(0..4) {
            0 => all,
            1 => self.rng.random_range(safe..=all),
            _ => safe,
        })
    }

    /// So many records of a replica that is down are left.
    pub(in crate::sim) fn keep(&mut self, me: ReplicaId, kept: usize) {
        let lost = self.hosts[me.index()].log.split_off(kept);
        self.hosts[me.index()].fresh.keep(kept);
        self.trace.mix(kept as u64 ^ u64::from(me.number()) << 56);
        self.trace
            .say(self.now, || format!("{me} is down: {kept} records left, {} lost", lost.len()));
        if !lost.is_empty() {
            self.counters.hit(Counter::UnsyncedLost);
        }
        if self.checks.stopped::<P>(me, &self.hosts[me.index()].log, &lost) {
            self.counters.hit(Counter::CommitLost);
        }
    }

    /// A replica comes back from a life, if it has not yet.
    pub(in crate::sim) fn come_back(&mut self, me: ReplicaId, life: u32) -> Result<(), Breach> {
        let host = &mut self.hosts[me.index()];
        if !host.returning || host.life != life {
            return Ok(());
        }
        let mut snapshot = None;
        if host.room.is_some() {
            let Some(found) = self.open_room(me)? else { return Ok(()) };
            snapshot = found;
        }
        if !self.may_return(me)? {
            self.stays_away(me, "others remember more of it");
            return Ok(());
        }
        let host = &mut self.hosts[me.index()];
        let before = host.core.status().executed;
        host.begin_anew(self.now);
        self.checks.keeps_all(me);
        let volatile = self.plan.retention::<P>().volatile;
        if volatile {
            self.checks.is_safe(me, &before);
        }
        let durable = Durable::flushed(LogPosition::new(host.flushed));
        #[cfg(test)]
        self.plant(me);
        self.trace.mix(self.now.as_nanos() ^ u64::from(me.number()) << 57);
        self.trace.say(self.now, || format!("{me} comes back"));
        let mut out = std::mem::take(&mut self.out);
        let behind = self.start_from(me, snapshot.as_ref(), &mut out)?;
        let host = &mut self.hosts[me.index()];
        let now = host.clock.local(self.now);
        for record in host.log[behind..].iter().cloned() {
            host.core.restore(record, &mut out);
        }
        host.core.resume(now, durable, &mut out);
        self.remembers(me)?;
        let host = &self.hosts[me.index()];
        if !volatile {
            self.checks.is_back(me, &host.core.status().executed)?;
        }
        if self.checks.has_open_proposal(me) {
            self.counters.hit(Counter::OpenProposals);
        }
        if !out.execute.is_empty() {
            self.counters.hit(Counter::ExecutedAgain);
        }
        let followed = self.follow(me, &mut out);
        out.clear();
        self.out = out;
        followed?;
        self.arrange_wake(me);
        self.is_met(me);
        self.stop_again(me);
        self.take_step(me)
    }

    fn stop_again(&mut self, me: ReplicaId) {
        let host = &mut self.hosts[me.index()];
        if host.again > 0 {
            host.again -= 1;
            let life = host.life;
            let soon = self.plan.timing.suspect.mul_f64(self.rng.random::<f64>().powi(3));
            self.later(soon, Event::Stop(me, life));
        }
    }

    /// Breaks the world's rule, if it has one to break, at this replica.
    #[cfg(test)]
    pub(in crate::sim) fn plant(&mut self, me: ReplicaId) {
        if let Some(plant) = self.sabotage.plant {
            self.hosts[me.index()].core.protocol_mut().plant(plant);
        }
    }
}
