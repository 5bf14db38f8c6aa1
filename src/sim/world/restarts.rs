//! Replicas come back from what their last life has left: the newest sound snapshot and the records
//! after it (PROTOCOL.md §7). After `stops`, which takes them down.

use bytes::Bytes;
use rand::RngExt;

use super::agenda::Event;
use super::room::{Ending, Opened};
use super::shelf::number;
use super::state::World;
use super::stops::{WITHIN, storage};
use crate::machine::Applier;
use crate::replica::{Checkpoint, Input, Output};
use crate::sim::plan::Fault;
use crate::sim::report::{Breach, Broken, Counter};
use crate::sim::subject::Subject;
use crate::storage::StorageError;
use crate::types::{Durable, LogPosition, ReplicaId};

impl<P: Subject> World<'_, P> {
    /// A replica comes back from this life, unless it has already.
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

    /// Opens a replica's directory, if the start succeeds. Returns its newest snapshot.
    pub(super) fn open_room(&mut self, me: ReplicaId) -> Result<Option<Option<Bytes>>, Breach> {
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

    /// The start failed for now.
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

    /// The damaged part was not needed. Undo the damage, so that a later check does not take it for
    /// a bug of the storage.
    fn mend(&mut self, me: ReplicaId) {
        let host = &mut self.hosts[me.index()];
        if let (Some(flip), Some(room)) = (host.flip.take(), &mut host.room) {
            room.mend(&flip);
        }
    }

    /// A replica is gone for good. Its promises remain: it is silent, not free of them.
    fn stays_away(&mut self, me: ReplicaId, why: &str) {
        self.trace.say(self.now, || format!("{me} stays away: {why}"));
        self.hosts[me.index()].returning = false;
    }

    /// A new life starts from this snapshot, if any. Returns where it continues in the log.
    pub(in crate::sim) fn start_from(
        &mut self,
        me: ReplicaId,
        found: Option<&Bytes>,
        out: &mut Output<P::Message, P::Record>,
    ) -> Result<usize, Breach> {
        let host = &mut self.hosts[me.index()];
        // Also none if the whole log replaces a damaged snapshot.
        host.snapshot = found.map(|bytes| number(bytes));
        let Some(bytes) = found else { return Ok(0) };
        let number = number(bytes);
        let Some(shelved) = self.shelf.get(number).filter(|it| it.bytes == *bytes) else {
            return Err((Broken::Storage, format!("{me} starts from a snapshot of nobody's")));
        };
        self.counters.hit(Counter::SnapshotStart);
        self.trace.say(self.now, || format!("{me} starts from snapshot {number}"));
        let state = shelved.state();
        host.applier = Applier::restore(state).expect("what was written is read");
        let Checkpoint { executed, shared, own, .. } = &shelved.checkpoint;
        host.core.restore_snapshot(shared.clone(), executed);
        own.iter().for_each(|record| host.core.restore(record.clone(), out));
        host.inbox.push(Input::Snapshot(shelved.own(number)));
        // It may have become durable at the moment when the last life ended.
        self.checks.is_safe(me, executed.floor());
        self.checks.reads::<P>(me, own);
        self.checks.start_from(me, &shelved.shown, executed);
        Ok(self.log_behind(found))
    }

    /// Where the log continues after a snapshot.
    fn log_behind(&self, found: Option<&Bytes>) -> usize {
        let shelved = found.and_then(|bytes| self.shelf.get(number(bytes)));
        let records = shelved.map_or(0, |shelved| shelved.checkpoint.position.records());
        usize::try_from(records).expect("what is in memory can be counted")
    }

    /// Plants the world's bug, if it has one, in this replica.
    #[cfg(test)]
    pub(in crate::sim) fn plant(&mut self, me: ReplicaId) {
        if let Some(plant) = self.sabotage.plant {
            self.hosts[me.index()].core.protocol_mut().plant(plant);
        }
    }
}
