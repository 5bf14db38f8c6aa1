//! Snapshots in a world (PROTOCOL.md §8a): taken at odd moments into the real storage room while
//! the replica goes on, cut short by crashes, put in place of the log before them, and given to
//! who needs one. Beside `restarts`, which starts from the newest that is sound.
//!
//! A file holds the state machine's bytes after a number. What the protocol adds to them, and what
//! the checks had seen by then, stands under that number on a shelf of the world.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;

use super::room::Room;
use super::state::{Event, World};
use crate::machine::Applier;
use crate::replica::{Arrival, Checkpoint, Input, Output, OwnSnapshot, SnapshotId, SnapshotRead};
use crate::sim::checks::{Breach, Shown};
use crate::sim::faults::older_disks::Forget;
use crate::sim::report::{Broken, Counter};
use crate::sim::subject::Subject;
use crate::types::ReplicaId;

/// Operations within which finishing a snapshot may be cut short.
const WITHIN: u64 = 12;
/// Between two looks at whether the log is durable as far as a snapshot reaches.
const SOON: Duration = Duration::from_millis(1);
/// The bytes in front of the state.
const NUMBER: usize = 8;

/// Something that happens to a snapshot.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) enum Moment {
    /// Time for one; and for another later, if that is said.
    Begin(ReplicaId, bool),
    /// All but the end is written, if the replica still lives that life.
    Finish(ReplicaId, u32),
    /// A part was read for another replica.
    Read(ReplicaId, u32, SnapshotRead),
    /// One from another replica is complete.
    Install(ReplicaId, u32),
}

/// What a snapshot stands for.
pub(in crate::sim) struct Shelved<P: Subject> {
    pub(in crate::sim) checkpoint: Checkpoint<P::Shared, P::Record>,
    shown: Shown,
    /// What its file holds: number and state.
    bytes: Bytes,
}

impl<P: Subject> Shelved<P> {
    fn own(&self, number: usize) -> OwnSnapshot {
        OwnSnapshot {
            id: SnapshotId(number as u64),
            executed: self.checkpoint.executed.clone(),
            bytes: self.bytes.len() as u64,
        }
    }
}

impl<P: Subject> World<'_, P> {
    /// The first snapshots of all, where there are any.
    pub(in crate::sim) fn prepare_snapshots(&mut self) {
        for me in ReplicaId::all(self.plan.replicas) {
            self.next_snapshot(me);
        }
    }

    fn next_snapshot(&mut self, me: ReplicaId) {
        if let Some(mean) = self.plan.storage.and_then(|storage| storage.snapshots) {
            let wait = mean.mul_f64(-self.room_rng.random::<f64>().max(1e-6).ln());
            self.later(wait, Event::Snapshot(Moment::Begin(me, true)));
        }
    }

    /// All is executed everywhere. Who has that in no snapshot takes one now: others forget only
    /// what is in everybody's, and where nothing happens any more chance may take long.
    pub(in crate::sim) fn last_snapshots(&mut self) {
        if self.plan.storage.and_then(|storage| storage.snapshots).is_none() {
            return;
        }
        for me in ReplicaId::all(self.plan.replicas) {
            let host = &self.hosts[me.index()];
            let newest = host.snapshot.map(|number| &self.shelf[number].checkpoint.executed);
            let executed = host.core.status().executed;
            if newest.is_none_or(|newest| *newest.floor() != executed) {
                self.later(Duration::ZERO, Event::Snapshot(Moment::Begin(me, false)));
            }
        }
    }

    pub(in crate::sim) fn happen_to_snapshots(&mut self, event: Moment) -> Result<(), Breach> {
        match event {
            Moment::Begin(me, again) => {
                if again {
                    self.next_snapshot(me);
                }
                self.begin_snapshot(me)
            }
            Moment::Finish(me, life) if self.lives(me, life) => self.finish_snapshot(me),
            Moment::Read(me, life, read) if self.lives(me, life) => {
                let number = usize::try_from(read.snapshot.0).expect("it is on the shelf");
                let from = usize::try_from(read.offset).expect("it is in memory");
                let bytes = self.shelf[number].bytes.slice(from..from + read.bytes as usize);
                self.input(me, Input::SnapshotRead { read, bytes: Some(bytes) })
            }
            Moment::Install(me, life) if self.lives(me, life) => {
                if self.hosts[me.index()].full {
                    self.later(self.plan.timing.tick, Event::Snapshot(Moment::Install(me, life)));
                    return Ok(());
                }
                self.install(me)
            }
            _ => Ok(()),
        }
    }

    fn lives(&self, me: ReplicaId, life: u32) -> bool {
        let host = &self.hosts[me.index()];
        host.alive && host.life == life
    }

    /// Takes down what the state is now, and begins to write it.
    fn begin_snapshot(&mut self, me: ReplicaId) -> Result<(), Breach> {
        let host = &mut self.hosts[me.index()];
        let Some(room) = &mut host.room else { return Ok(()) };
        if !host.alive || room.is_writing() {
            return Ok(());
        }
        // Where there never was a record, the log cannot be divided: it has to begin after 0.
        if host.full || room.is_foreign() && host.appended == 0 {
            self.try_again(me);
            return Ok(());
        }
        let mut checkpoint = host.core.checkpoint();
        if self.sabotage.forget == Some(Forget::InSnapshots) {
            checkpoint.own.retain(|record| record.protocol().is_some());
        }
        assert_eq!(checkpoint.position.records(), host.appended, "positions count all lives");
        let number = self.shelf.len();
        let mut bytes = (number as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&host.applier.snapshot());
        let bytes = Bytes::from(bytes);
        let position = checkpoint.position;
        let first = match room.begin_snapshot(position, bytes.clone()) {
            Ok(first) => first,
            Err(error) => {
                self.trace.say(self.now, || format!("{me} begins no snapshot: {error}"));
                self.counters.hit(Counter::SnapshotFailed);
                self.try_again(me);
                return Ok(());
            }
        };
        let divided = if first { room.divide(position) } else { Ok(()) };
        let life = host.life;
        self.trace.say(self.now, || format!("{me} begins snapshot {number}"));
        self.shelf.push(Shelved { checkpoint, shown: self.checks.shown(me), bytes });
        match divided {
            Err(error) if error.is_full() => self.stand_still(me, position.records()),
            Err(error) => return self.fence(me, &error),
            Ok(()) => {}
        }
        let spread = self.room_rng.random::<f64>().powi(3);
        let takes = SOON + self.plan.timing.suspect.mul_f64(2.0 * spread);
        self.later(takes, Event::Snapshot(Moment::Finish(me, life)));
        Ok(())
    }

    /// Writes the rest, once the log has caught up and is divided if it has to be, and lets go of
    /// the log before it.
    fn finish_snapshot(&mut self, me: ReplicaId) -> Result<(), Breach> {
        let may_stop = self.plan.restarts && self.calm_since.is_none();
        let dies = may_stop && self.room_rng.random_ratio(1, 8);
        let within = dies.then(|| self.room_rng.random_range(0..WITHIN));
        let host = &mut self.hosts[me.index()];
        let life = host.life;
        let room = host.room.as_mut().expect("only a room has snapshots");
        let Some((position, number)) = room.writes() else { return Ok(()) };
        let waits = position.records() > host.flushed || room.divides_at().is_some();
        if waits && host.full {
            self.trace.say(self.now, || format!("{me} gives up snapshot {number}"));
            self.counters.hit(Counter::SnapshotFailed);
            room.give_up_snapshot();
            self.try_again(me);
            return Ok(());
        }
        if waits {
            self.later(SOON, Event::Snapshot(Moment::Finish(me, life)));
            return Ok(());
        }
        let finished = room.finish_snapshot(within);
        let cut = finished.as_ref().map_or(Ok(false), |cut| room.cut_log(*cut));
        if room.is_dead() {
            self.counters.hit(Counter::SnapshotCut);
            let pause = self.draw_pause();
            return self.stop(me, pause);
        }
        let first = match finished {
            Ok(cut) => cut.first,
            Err(error) => {
                self.trace.say(self.now, || format!("{me} has no snapshot: {error}"));
                self.counters.hit(Counter::SnapshotFailed);
                self.try_again(me);
                return Ok(());
            }
        };
        match cut {
            Err(error) => return self.fence(me, &error),
            Ok(true) => self.counters.hit(Counter::LogCut),
            Ok(false) => {}
        }
        // It counts from now on: nothing older can stand in for it where it must not.
        self.hosts[me.index()].snapshot = Some(number);
        self.spoke(me);
        // In memory it is for others alone: what counts is what is executed.
        if !self.plan.retention::<P>().volatile {
            self.checks.saved(me, &self.shelf[number].checkpoint.executed)?;
        }
        self.counters.hit(Counter::SnapshotTaken);
        if first {
            self.counters.hit(Counter::SnapshotFirst);
        }
        self.trace.say(self.now, || format!("{me} has snapshot {number}"));
        self.try_again(me);
        let own = self.shelf[number].own(number);
        self.input(me, Input::Snapshot(own))
    }

    /// A state that came from another replica has to get into an own snapshot.
    fn try_again(&mut self, me: ReplicaId) {
        if self.hosts[me.index()].room.as_ref().is_some_and(Room::is_foreign) {
            self.later(self.plan.timing.tick, Event::Snapshot(Moment::Begin(me, false)));
        }
    }

    /// A new life begins with this snapshot, if there is one: where in the log it goes on.
    pub(in crate::sim) fn start_from(
        &mut self,
        me: ReplicaId,
        found: Option<&Bytes>,
        out: &mut Output<P::Message, P::Record>,
    ) -> Result<usize, Breach> {
        let host = &mut self.hosts[me.index()];
        // None, too, where a damaged one is made up for by the whole log.
        host.snapshot = found.map(|bytes| number(bytes));
        let Some(bytes) = found else { return Ok(0) };
        let number = number(bytes);
        let Some(shelved) = self.shelf.get(number).filter(|it| it.bytes == *bytes) else {
            return Err((Broken::Storage, format!("{me} starts from a snapshot of nobody's")));
        };
        self.counters.hit(Counter::SnapshotStart);
        self.trace.say(self.now, || format!("{me} starts from snapshot {number}"));
        let state = &shelved.bytes[NUMBER..];
        host.applier = Applier::restore(state).expect("what was written is read");
        let Checkpoint { executed, shared, own, .. } = &shelved.checkpoint;
        host.core.restore_snapshot(shared.clone(), executed);
        own.iter().for_each(|record| host.core.restore(record.clone(), out));
        host.inbox.push(Input::Snapshot(shelved.own(number)));
        // It may have become durable in the moment in which the last life ended.
        self.checks.is_safe(me, executed.floor());
        self.checks.reads::<P>(me, own);
        self.checks.start_from(me, &shelved.shown, executed);
        Ok(self.log_behind(found))
    }

    /// Where the log after a snapshot goes on.
    pub(in crate::sim) fn log_behind(&self, found: Option<&Bytes>) -> usize {
        let shelved = found.and_then(|bytes| self.shelf.get(number(bytes)));
        let records = shelved.map_or(0, |shelved| shelved.checkpoint.position.records());
        usize::try_from(records).expect("what is in memory can be counted")
    }

    /// What a step wants of snapshots.
    pub(in crate::sim) fn follow_snapshots(
        &mut self,
        me: ReplicaId,
        out: &mut Output<P::Message, P::Record>,
    ) {
        let life = self.hosts[me.index()].life;
        if std::mem::take(&mut out.snapshot_wanted) {
            self.later(Duration::ZERO, Event::Snapshot(Moment::Begin(me, false)));
        }
        for read in out.snapshot_reads.drain(..) {
            self.later(SOON, Event::Snapshot(Moment::Read(me, life, read)));
        }
        let host = &mut self.hosts[me.index()];
        let (mut begins, mut complete) = (false, false);
        for arrival in out.snapshot_received.drain(..) {
            match arrival {
                Arrival::Begins { .. } => {
                    host.arrived.clear();
                    begins = true;
                }
                Arrival::GivenUp => host.arrived.clear(),
                Arrival::Bytes(bytes) => host.arrived.extend_from_slice(&bytes),
                Arrival::Complete => complete = true,
            }
        }
        if begins {
            self.disturb_transfer(me);
        }
        if complete {
            self.later(Duration::ZERO, Event::Snapshot(Moment::Install(me, life)));
        }
    }

    /// Looks at what a replica has dropped and forgotten by now.
    pub(in crate::sim) fn check_truncation(&mut self, me: ReplicaId) -> Result<(), Breach> {
        let protocol = self.hosts[me.index()].core.protocol();
        let Some((dropped, forgotten)) = protocol.truncation() else { return Ok(()) };
        self.checks.drops(me, dropped);
        if !self.checks.forgets(me, forgotten) {
            return Ok(());
        }
        if self.plan.retention::<P>().volatile {
            for other in ReplicaId::all(self.plan.replicas) {
                let executed = self.hosts[other.index()].core.status().executed;
                self.checks.is_safe(other, &executed);
            }
        }
        self.checks.all_have(me)
    }

    /// Another replica's snapshot takes the place of the state.
    fn install(&mut self, me: ReplicaId) -> Result<(), Breach> {
        let host = &mut self.hosts[me.index()];
        let arrived = Bytes::from(std::mem::take(&mut host.arrived));
        let number = number(&arrived);
        let Some(shelved) = self.shelf.get(number).filter(|it| it.bytes == arrived) else {
            return Err((Broken::Wire, format!("{me} receives a snapshot of nobody's")));
        };
        let Checkpoint { executed, shared, .. } = &shelved.checkpoint;
        let mut out = std::mem::take(&mut self.out);
        let now = host.clock.local(self.now);
        let recovering = host.core.protocol().is_recovering();
        if host.core.install(now, shared.clone(), executed, &mut out) {
            self.counters.hit(Counter::SnapshotInstalled);
            if recovering {
                self.counters.hit(Counter::InstalledRecovering);
            }
            if self.checks.has_open_proposal(me) {
                self.counters.hit(Counter::InstalledOpen);
            }
            self.trace.say(self.now, || format!("{me} installs snapshot {number}"));
            let state = &shelved.bytes[NUMBER..];
            host.applier = Applier::restore(state).expect("what was written is read");
            self.checks.start_from(me, &shelved.shown, executed);
            host.unsure.clone_from(&host.waiting);
            host.room.iter_mut().for_each(Room::installed);
            self.later(Duration::ZERO, Event::Snapshot(Moment::Begin(me, false)));
        } else {
            self.counters.hit(Counter::InstallRefused);
        }
        let followed = self.follow(me, &mut out);
        out.clear();
        self.out = out;
        followed
    }
}

/// The number in front of a snapshot's bytes.
pub(in crate::sim) fn number(bytes: &[u8]) -> usize {
    let front = bytes.first_chunk::<NUMBER>().map_or(u64::MAX, |front| u64::from_le_bytes(*front));
    usize::try_from(front).unwrap_or(usize::MAX)
}
