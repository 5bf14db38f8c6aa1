//! Snapshots in a world (PROTOCOL.md §8a). They are taken at random times into the real storage
//! while the replica runs, cut short by crashes, replace the log before them, and are sent to
//! replicas that need one. After `step`; `restarts` starts from the newest sound one.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;

use super::agenda::{Event, SnapshotEvent};
use super::room::Room;
use super::sabotage::Forget;
use super::shelf::{Shelved, number};
use super::state::World;
use crate::machine::{Applier, View};
use crate::replica::{Checkpoint, Input};
use crate::sim::report::{Breach, Broken, Counter};
use crate::sim::subject::Subject;
use crate::types::ReplicaId;

/// The number of operations within which finishing a snapshot may be cut short.
const WITHIN: u64 = 12;
/// How often to check whether the log is durable up to a snapshot's position.
const SOON: Duration = Duration::from_millis(1);

impl<P: Subject> World<'_, P> {
    /// Schedules the first snapshots, if the world has any.
    pub(in crate::sim) fn prepare_snapshots(&mut self) {
        for me in ReplicaId::all(self.plan.replicas) {
            self.next_snapshot(me);
        }
    }

    fn next_snapshot(&mut self, me: ReplicaId) {
        if let Some(mean) = self.plan.storage.and_then(|storage| storage.snapshots) {
            let wait = mean.mul_f64(-self.room_rng.random::<f64>().max(1e-6).ln());
            self.later(wait, Event::Snapshot(SnapshotEvent::Begin(me, true)));
        }
    }

    /// Everything is executed everywhere. A replica without a snapshot of that takes one now:
    /// others forget only what every replica's snapshot contains, and without events chance may
    /// take long.
    pub(in crate::sim) fn last_snapshots(&mut self) {
        if self.plan.storage.and_then(|storage| storage.snapshots).is_none() {
            return;
        }
        for me in ReplicaId::all(self.plan.replicas) {
            let host = &self.hosts[me.index()];
            let newest = host.snapshot.map(|number| &self.shelf[number].checkpoint.executed);
            let executed = host.core.status().executed;
            if newest.is_none_or(|newest| *newest.floor() != executed) {
                self.later(Duration::ZERO, Event::Snapshot(SnapshotEvent::Begin(me, false)));
            }
        }
    }

    pub(in crate::sim) fn happen_to_snapshots(
        &mut self,
        event: SnapshotEvent,
    ) -> Result<(), Breach> {
        match event {
            SnapshotEvent::Begin(me, again) => {
                if again {
                    self.next_snapshot(me);
                }
                self.begin_snapshot(me)
            }
            SnapshotEvent::Finish(me, life) if self.lives(me, life) => self.finish_snapshot(me),
            SnapshotEvent::Read(me, life, read) if self.lives(me, life) => {
                let number = usize::try_from(read.snapshot.0).expect("it is on the shelf");
                let from = usize::try_from(read.offset).expect("it is in memory");
                let bytes = self.shelf[number].bytes.slice(from..from + read.bytes as usize);
                self.input(me, Input::SnapshotRead { read, bytes: Some(bytes) })
            }
            SnapshotEvent::Install(me, life) if self.lives(me, life) => {
                if self.hosts[me.index()].full {
                    self.later(
                        self.plan.timing.tick,
                        Event::Snapshot(SnapshotEvent::Install(me, life)),
                    );
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

    /// Records the current state and begins to write it.
    fn begin_snapshot(&mut self, me: ReplicaId) -> Result<(), Breach> {
        let host = &mut self.hosts[me.index()];
        let Some(room) = &mut host.room else { return Ok(()) };
        if !host.alive || room.is_writing() {
            return Ok(());
        }
        // A log that never held a record cannot be divided, because it must begin after 0.
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
        let state = host.applier.view();
        let state = View::new(move |to| state.write_to(to));
        let first = match room.begin_snapshot(position, bytes.clone(), state) {
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
        self.later(takes, Event::Snapshot(SnapshotEvent::Finish(me, life)));
        Ok(())
    }

    /// Writes the rest, once the log has caught up and is divided if necessary, and drops the log
    /// before it.
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
            self.later(SOON, Event::Snapshot(SnapshotEvent::Finish(me, life)));
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
        // It counts from now on. If it is the first of an installed state, nothing older can
        // replace it.
        self.hosts[me.index()].snapshot = Some(number);
        self.spoke(me);
        // In memory it is only for others; only executed instances count.
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

    /// A state from another replica must get into an own snapshot.
    fn try_again(&mut self, me: ReplicaId) {
        if self.hosts[me.index()].room.as_ref().is_some_and(Room::is_foreign) {
            self.later(self.plan.timing.tick, Event::Snapshot(SnapshotEvent::Begin(me, false)));
        }
    }

    /// Installs another replica's snapshot as the state.
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
            let state = shelved.state();
            host.applier = Applier::restore(state).expect("what was written is read");
            self.checks.start_from(me, &shelved.shown, executed);
            host.unsure.clone_from(&host.waiting);
            host.room.iter_mut().for_each(Room::installed);
            self.later(Duration::ZERO, Event::Snapshot(SnapshotEvent::Begin(me, false)));
        } else {
            self.counters.hit(Counter::InstallRefused);
        }
        let followed = self.follow(me, &mut out);
        out.clear();
        self.out = out;
        followed
    }
}
