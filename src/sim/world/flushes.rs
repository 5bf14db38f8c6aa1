//! Flushes: how much of a log becomes durable, and what a failed flush means for its replica. After
//! `stops`.

use std::time::Duration;

use rand::RngExt;

use super::agenda::Event;
use super::state::World;
use super::stops::storage;
use crate::sim::plan::Disk;
use crate::sim::report::{Breach, Counter};
use crate::sim::subject::Subject;
use crate::types::{Durable, LogPosition, ReplicaId};

/// How often to check whether a full disk has room again.
const FULL: Duration = Duration::from_millis(20);

impl<P: Subject> World<'_, P> {
    /// Starts a flush, if there is something to flush and none is under way.
    pub(in crate::sim) fn flush(&mut self, me: ReplicaId) -> Result<(), Breach> {
        let host = &mut self.hosts[me.index()];
        let Disk::Takes(mean) = host.disk else { return Ok(()) };
        if host.flushing || host.durable == host.appended || !host.alive {
            return Ok(());
        }
        host.flushing = true;
        host.hand_over();
        let position = host.durable;
        let takes = mean.mul_f64(0.5 + self.disk_rng.random::<f64>());
        self.counters.hit(Counter::SlowFlush);
        let life = self.hosts[me.index()].life;
        self.later(takes, Event::Flushed(me, position, life));
        Ok(())
    }

    /// A flush has finished or failed. Determines how much of the log is durable.
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

    /// There is no room to flush up to `position`. The replica takes no step until there is, and
    /// retries.
    pub(super) fn stand_still(&mut self, me: ReplicaId, position: u64) {
        let host = &mut self.hosts[me.index()];
        (host.flushing, host.full) = (true, true);
        let life = host.life;
        self.counters.hit(Counter::StoodStill);
        self.trace.say(self.now, || format!("{me} has no room for its records"));
        self.later(FULL, Event::Flushed(me, position, life));
    }

    /// Does maintenance that is not urgent, after a flush.
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
}
