//! The real storage room in a world: what its disk does wrong, and what follows for the replica and
//! for the checks. Beside `restarts`, which stops replicas and brings them back.
//!
//! What a crash must not have lost is said by the room's own marks: every record below the last
//! one has to be there, in order, and after them nothing but a front part of the others.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;

use crate::replica::Record;
use crate::sim::checks::Breach;
use crate::sim::faults::Fault;
use crate::sim::report::{Broken, Counter};
use crate::sim::subject::Subject;
use crate::sim::world::room::{Ending, Opened, Survey};
use crate::sim::world::snapshots::number;
use crate::sim::world::state::{Event, World};
use crate::storage::{Operation, StorageError};
use crate::types::{Durable, LogPosition, ReplicaId};

/// Operations that a flush, or a start, may die within.
const WITHIN: u64 = 12;
/// How often it is looked whether a full disk has room again.
const FULL: Duration = Duration::from_millis(20);

impl<P: Subject> World<'_, P> {
    /// A disk fails.
    pub(in crate::sim) fn strike_disk(&mut self, fault: Fault) -> Result<(), Breach> {
        let me = self.any();
        let host = &mut self.hosts[me.index()];
        let (alive, returning) = (host.alive, host.returning);
        let Some(room) = &mut host.room else { return Ok(()) };
        match fault {
            Fault::TornFlush if alive && host.flushing => {
                host.torn = true;
                self.stop_soon(me)
            }
            Fault::FlushFails if alive => {
                room.fail_next(Operation::Sync);
                Ok(())
            }
            Fault::WriteFails if alive => {
                room.fail_next(Operation::Write);
                Ok(())
            }
            Fault::ReadFails if alive || returning => {
                self.stop_soon(me)?;
                let room = self.hosts[me.index()].room.as_mut().expect("it was there just now");
                room.fail_start();
                Ok(())
            }
            Fault::DiskFull => {
                let segments = self.plan.storage.map_or(0, |storage| storage.segment_bytes as u64);
                let full = self.room_rng.random_ratio(1, 3);
                let left = if full { 0 } else { self.room_rng.random_range(0..=segments * 2) };
                room.leave_room(Some(left));
                self.counters.hit(Counter::DiskFull);
                let spell = self.spell();
                self.later(spell, Event::Freed(me));
                if full { self.stop_soon(me) } else { Ok(()) }
            }
            Fault::BitFlip if self.may_be_lost(me) => self.flip_bit(me),
            Fault::Wipe if self.may_be_lost(me) => {
                self.power_down(me)?;
                let host = &mut self.hosts[me.index()];
                host.condemned = true;
                host.room.iter_mut().for_each(crate::sim::world::room::Room::wipe);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn may_be_lost(&self, me: ReplicaId) -> bool {
        let host = &self.hosts[me.index()];
        (host.alive || host.returning) && !host.is_gone() && self.may_lose_one()
    }

    fn stop_soon(&mut self, me: ReplicaId) -> Result<(), Breach> {
        let pause = self.draw_pause();
        self.stop(me, pause)
    }

    /// Stops, and what its disk holds then does not change any more by itself.
    fn power_down(&mut self, me: ReplicaId) -> Result<(), Breach> {
        self.stop_soon(me)?;
        self.lose_power(me)
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

    /// A life ends, one way or the other: how many records are left.
    pub(in crate::sim) fn end_in_room(&mut self, me: ReplicaId) -> Result<usize, Breach> {
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

    /// How many records can be read. They have to be those that were appended, and all that were
    /// durable.
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

    /// A bit turns over while the replica is down. Whether that is noticed is seen when it starts.
    fn flip_bit(&mut self, me: ReplicaId) -> Result<(), Breach> {
        self.power_down(me)?;
        let host = &mut self.hosts[me.index()];
        let room = host.room.as_mut().expect("a disk fails where there is one");
        let Ok(before) = room.survey() else { return Ok(()) };
        let flip = room.flip(&mut self.room_rng);
        let other = |after: Survey<Record<P::Record>>| {
            (after.first, &after.records) != (before.first, &before.records)
        };
        let unnoticed = room.survey().is_ok_and(other);
        if unnoticed && before.sealed {
            return Err(storage(me, &format!("{flip:?} is not noticed")));
        }
        if unnoticed {
            // The last group before a power failure, with nothing after it: see `storage::log`.
            room.turn(&flip);
            self.counters.hit(Counter::FlipUnsealed);
            return Ok(());
        }
        host.condemned = true;
        self.trace.say(self.now, || format!("{me}: {flip:?}"));
        host.flip = Some(flip);
        Ok(())
    }

    /// A flush is done, or not: how far the log is durable then.
    pub(in crate::sim) fn finish_flush(
        &mut self,
        me: ReplicaId,
        position: u64,
    ) -> Result<Option<Durable>, Breach> {
        let host = &mut self.hosts[me.index()];
        let flushed = match &mut host.room {
            None => Ok(Durable::flushed(LogPosition::new(position))),
            Some(room) => room.flush(),
        };
        match flushed {
            Ok(durable) if durable.position().records() == position => {
                host.flushed = position;
                if std::mem::take(&mut host.full) {
                    self.counters.hit(Counter::WentOnFull);
                    self.trace.say(self.now, || format!("{me} has room again and goes on"));
                }
                self.copy_disk(me);
                Ok(Some(durable))
            }
            Err(error) if error.is_full() => {
                self.stand_still(me, position);
                Ok(None)
            }
            Ok(durable) => Err(storage(me, &format!("{durable:?} behind record {position}"))),
            Err(error) => self.fence(me, &error).map(|()| None),
        }
    }

    /// There is no room for what is to be flushed up to `position`: a replica takes no step before
    /// there is, and tries again.
    pub(in crate::sim) fn stand_still(&mut self, me: ReplicaId, position: u64) {
        let host = &mut self.hosts[me.index()];
        (host.flushing, host.full) = (true, true);
        let life = host.life;
        self.counters.hit(Counter::StoodStill);
        self.trace.say(self.now, || format!("{me} has no room for its records"));
        self.later(FULL, Event::Flushed(me, position, life));
    }

    /// What is not urgent, after a flush.
    pub(in crate::sim) fn maintain_log(&mut self, me: ReplicaId) -> Result<(), Breach> {
        let host = &mut self.hosts[me.index()];
        let (true, false, Some(room)) = (host.alive, host.flushing, &mut host.room) else {
            return Ok(());
        };
        if self.room_rng.random_ratio(1, 4) {
            return Ok(());
        }
        match room.maintain() {
            Ok(()) => Ok(()),
            Err(error) => self.fence(me, &error),
        }
    }

    /// A replica whose log has failed says nothing more, and has to be started again.
    pub(in crate::sim) fn fence(
        &mut self,
        me: ReplicaId,
        error: &StorageError,
    ) -> Result<(), Breach> {
        self.trace.say(self.now, || format!("{me} stops: {error}"));
        self.counters.hit(match error {
            StorageError::Io { action: "flushing", .. } => Counter::FlushFailed,
            StorageError::Io { .. } => Counter::WriteFailed,
            other => return Err(storage(me, &format!("the log fails with {other}"))),
        });
        if std::mem::take(&mut self.one_mains) {
            return self.strike_down(Fault::PowerFailure);
        }
        self.stop_soon(me)
    }

    /// Opens the directory of a replica that comes back, if it does: its newest snapshot.
    pub(in crate::sim) fn open_room(
        &mut self,
        me: ReplicaId,
    ) -> Result<Option<Option<Bytes>>, Breach> {
        let stops = self.plan.faults.iter().any(|(fault, _)| *fault == Fault::StopStarting);
        let host = &mut self.hosts[me.index()];
        let stops = stops && self.calm_since.is_none() && !host.condemned;
        let within = stops && self.room_rng.random_ratio(1, 3);
        let within = within.then(|| self.room_rng.random_range(0..WITHIN));
        let room = host.room.as_mut().expect("only a room is opened");
        let opened = room.open(within).map_err(|detail| storage(me, &detail))?;
        let condemned = host.condemned;
        match opened {
            Opened::Ready { snapshot, records, durable } => {
                let behind = self.log_behind(snapshot.as_ref());
                let host = &self.hosts[me.index()];
                let end = durable.position().records();
                if host.log.get(behind..) != Some(&records[..]) || end != host.log.len() as u64 {
                    let (found, known) = (records.len(), host.log.len());
                    let detail = format!("{found} records behind {behind}, {known} were there");
                    return Err(storage(me, &detail));
                }
                let older = snapshot.as_deref().map(number) < host.snapshot;
                self.mend(me);
                match (condemned, older) {
                    (true, true) => self.counters.hit(Counter::FlipOlder),
                    (true, false) => self.counters.hit(Counter::FlipHarmless),
                    (false, true) => {
                        return Err(storage(me, "a snapshot is lost that it had spoken of"));
                    }
                    (false, false) => {}
                }
                Ok(Some(snapshot))
            }
            Opened::Later(error) => self.open_later(me, &error).map(|()| None),
            Opened::Refused(error) if condemned => {
                self.counters.hit(Counter::FlipRefused);
                self.stays_away(me, &error.to_string());
                Ok(None)
            }
            Opened::Stranger if condemned => {
                self.counters.hit(Counter::Wiped);
                self.stays_away(me, "its disk is empty");
                Ok(None)
            }
            Opened::Refused(error) => Err(storage(me, &format!("refuses to start: {error}"))),
            Opened::Stranger => Err(storage(me, "has lost its directory")),
        }
    }

    /// What was damaged was not needed, and is not to be taken for something that the storage has
    /// done when it is looked at later.
    fn mend(&mut self, me: ReplicaId) {
        let host = &mut self.hosts[me.index()];
        if let (Some(flip), Some(room)) = (host.flip.take(), &mut host.room) {
            room.mend(&flip);
        }
    }

    /// It could not start now.
    fn open_later(&mut self, me: ReplicaId, error: &StorageError) -> Result<(), Breach> {
        self.trace.say(self.now, || format!("{me} cannot start: {error}"));
        let host = &mut self.hosts[me.index()];
        let life = host.life;
        let room = host.room.as_mut().expect("only a room is opened");
        let died = room.is_dead();
        room.end(Ending::Killed, None);
        self.counters.hit(match error {
            _ if died => Counter::StopStarting,
            _ => Counter::ReadFailed,
        });
        if died && self.room_rng.random_ratio(1, 2) {
            self.lose_power(me)?;
        }
        let pause = self.draw_pause();
        self.later(pause, Event::Return(me, life));
        Ok(())
    }

    /// A replica is gone for good. What it has promised stays promised: it is silent, not free.
    pub(in crate::sim) fn stays_away(&mut self, me: ReplicaId, why: &str) {
        self.trace.say(self.now, || format!("{me} stays away: {why}"));
        self.hosts[me.index()].returning = false;
    }
}

fn storage(me: ReplicaId, detail: &str) -> Breach {
    (Broken::Storage, format!("{me}: {detail}"))
}
