//! Replicas stop for good, or restart later from their flushed records (PROTOCOL.md §7). `checks`
//! carry what survives a crash over to the next life.
//!
//! A crash keeps what was flushed and any prefix of what was appended after it. The real storage
//! decides which prefix if it is used; otherwise chance does. Messages under way still arrive, at
//! whichever life runs by then.
//!
//! The storage's own marks say what a crash must not lose: every record before the last mark must
//! be there in order, followed only by a prefix of the others.

use std::time::Duration;

use rand::RngExt;

use super::agenda::Event;
use super::host::Doom;
use super::room::Ending;
use super::state::World;
use crate::sim::report::{Breach, Broken, Counter};
use crate::sim::subject::{Moment, Subject};
use crate::storage::StorageError;
use crate::types::{ReplicaId, ReplicaSet};

/// The number of operations within which a flush or a start may crash.
pub(in crate::sim) const WITHIN: u64 = 12;

impl<P: Subject> World<'_, P> {
    /// How long a replica stays away: not at all, too short for others to notice, or long.
    pub(in crate::sim) fn draw_pause(&mut self) -> Duration {
        match self.rng.random_range(0..3) {
            0 => Duration::ZERO,
            1 => self.plan.timing.suspect.mul_f64(0.3 * self.rng.random::<f64>()),
            _ => self.spell(),
        }
    }

    /// A replica dies for good.
    pub(in crate::sim) fn crash(&mut self, victim: ReplicaId) {
        self.trace.say(self.now, || format!("{victim} dies"));
        self.hosts[victim.index()].go_down();
    }

    /// A replica has sent the message at which it was to die.
    pub(super) fn meet(&mut self, me: ReplicaId, doom: Doom) -> Result<(), Breach> {
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

    pub(in crate::sim) fn stop_soon(&mut self, me: ReplicaId) -> Result<(), Breach> {
        let pause = self.draw_pause();
        self.stop(me, pause)
    }

    pub(in crate::sim) fn stop_all(&mut self, replicas: ReplicaSet) -> Result<(), Breach> {
        // Half of the time they all come back together, as after a power failure.
        let together = self.rng.random_ratio(1, 2).then(|| self.draw_pause());
        for replica in replicas.iter() {
            let pause = together.unwrap_or_else(|| self.draw_pause());
            self.stop(replica, pause)?;
        }
        Ok(())
    }

    /// Ends a life. Returns how many records the crash leaves.
    fn end_life(&mut self, me: ReplicaId) -> Result<usize, Breach> {
        let host = &self.hosts[me.index()];
        if host.room.is_some() {
            return self.end_in_room(me);
        }
        let safe = usize::try_from(host.flushed).expect("what is in memory can be counted");
        let all = host.log.len();
        // The extremes are the interesting cases.
        Ok(match self.rng.random_range(0..4) {
            0 => all,
            1 => self.rng.random_range(safe..=all),
            _ => safe,
        })
    }

    /// Keeps `kept` records of a replica that is down.
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

    /// The power fails everywhere.
    pub(in crate::sim) fn power_fails(&mut self) -> Result<(), Breach> {
        self.counters.hit(Counter::RestartAll);
        let all = ReplicaSet::all(self.plan.replicas);
        self.stop_all(all)?;
        all.iter().try_for_each(|me| self.lose_power(me))
    }

    /// The power of a replica that is down fails.
    pub(in crate::sim) fn lose_power(&mut self, me: ReplicaId) -> Result<(), Breach> {
        let os = self.plan.storage.is_some_and(|storage| storage.os);
        let host = &mut self.hosts[me.index()];
        let Some(room) = &mut host.room else { return Ok(()) };
        if os || host.alive || !host.returning || host.condemned {
            return Ok(());
        }
        room.end(Ending::Power, None);
        self.counters.hit(Counter::PowerLost);
        let kept = self.survey(me)?;
        if kept < self.hosts[me.index()].log.len() {
            self.keep(me, kept);
        }
        Ok(())
    }

    /// Ends a life, by a kill or a power failure. Returns how many records are left.
    fn end_in_room(&mut self, me: ReplicaId) -> Result<usize, Breach> {
        let os = self.plan.storage.is_some_and(|storage| storage.os);
        let power = !os && self.room_rng.random_ratio(1, 2);
        let ending = if power { Ending::Power } else { Ending::Killed };
        let host = &mut self.hosts[me.index()];
        let torn = std::mem::take(&mut host.torn) || self.room_rng.random_ratio(1, 2);
        let within = (host.flushing && torn).then(|| self.room_rng.random_range(0..WITHIN));
        if let Some(room) = &mut host.room {
            room.end(ending, within);
        }
        let flushed = host.flushed;
        self.counters.hit(if power { Counter::PowerLost } else { Counter::Killed });
        if within.is_some() {
            self.counters.hit(Counter::TornFlush);
        }
        let kept = self.survey(me)?;
        if kept as u64 > flushed {
            self.counters.hit(Counter::Untold);
        }
        Ok(kept)
    }

    /// Returns how many records can be read. They must be those appended, and include all durable
    /// ones.
    fn survey(&mut self, me: ReplicaId) -> Result<usize, Breach> {
        let host = &self.hosts[me.index()];
        let room = host.room.as_ref().expect("only a room is surveyed");
        let survey = room.survey().map_err(|error| storage(me, &error.to_string()))?;
        let kept = survey.first + survey.records.len();
        if (kept as u64) < host.flushed {
            let detail = format!("{kept} records are left, {} were durable", host.flushed);
            return Err(storage(me, &detail));
        }
        if host.log.get(survey.first..kept) != Some(&survey.records[..]) {
            return Err(storage(me, "other records are left than were appended"));
        }
        Ok(kept)
    }

    /// A replica whose log has failed sends nothing more and must be restarted.
    pub(super) fn fence(&mut self, me: ReplicaId, error: &StorageError) -> Result<(), Breach> {
        self.trace.say(self.now, || format!("{me} stops: {error}"));
        self.counters.hit(match error {
            StorageError::Io { action: "flushing", .. } => Counter::FlushFailed,
            StorageError::Io { .. } => Counter::WriteFailed,
            other => return Err(storage(me, &format!("the log fails with {other}"))),
        });
        if std::mem::take(&mut self.one_mains) {
            return self.power_fails();
        }
        self.stop_soon(me)
    }
}

/// The storage room has broken a promise.
pub(in crate::sim) fn storage(me: ReplicaId, detail: &str) -> Breach {
    (Broken::Storage, format!("{me}: {detail}"))
}
