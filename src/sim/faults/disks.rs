//! Disk failures of the real storage on a faulty disk. `world::stops`, `world::flushes` and
//! `world::restarts` handle the consequences for the replica and the checks.

use rand::RngExt;

use crate::replica::Record;
use crate::sim::plan::Fault;
use crate::sim::report::{Breach, Counter};
use crate::sim::subject::Subject;
use crate::sim::world::agenda::Event;
use crate::sim::world::room::{Room, Survey};
use crate::sim::world::state::World;
use crate::sim::world::stops::storage;
use crate::storage::Operation;
use crate::types::ReplicaId;

impl<P: Subject> World<'_, P> {
    /// A disk fails.
    pub(super) fn strike_disk(&mut self, fault: Fault) -> Result<(), Breach> {
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
                host.room.iter_mut().for_each(Room::wipe);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn may_be_lost(&self, me: ReplicaId) -> bool {
        let host = &self.hosts[me.index()];
        (host.alive || host.returning) && !host.is_gone() && self.may_lose_one()
    }

    /// Stops the replica, so that its disk does not change any more.
    fn power_down(&mut self, me: ReplicaId) -> Result<(), Breach> {
        self.stop_soon(me)?;
        self.lose_power(me)
    }

    /// A bit flips while the replica is down. The next start shows whether that is noticed.
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
}
