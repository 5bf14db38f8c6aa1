//! Meetings of replicas. Each remembers what it hears of the others, and refuses a replica that has
//! lost any of it. They judge each other as real ones do when they connect. After `freshness`,
//! which is what each knows, and `witnesses`, which compares what two remember of a third.

use rand::RngExt;

use super::freshness::{Copy, Said, breach, has};
use super::room::Room;
use super::sabotage::Forget;
use super::state::World;
use crate::replica::Input;
use crate::sim::report::{Breach, Counter};
use crate::sim::subject::Subject;
use crate::types::{Known, LogPosition, ReplicaId};

/// The most copies kept of one disk.
const COPIES: usize = 6;

impl<P: Subject> World<'_, P> {
    /// All replicas meet for the first time.
    pub(in crate::sim) fn prepare_freshness(&mut self) {
        if !self.plan.older_disks {
            return;
        }
        for me in ReplicaId::all(self.plan.replicas) {
            self.begin_life(me, 0);
        }
        for me in ReplicaId::all(self.plan.replicas) {
            self.meet_all(me);
        }
    }

    /// A replica's next life begins at its log's end.
    fn begin_life(&mut self, me: ReplicaId, end: u64) {
        self.older.lives += 1;
        let (life, host) = (self.older.lives, &mut self.hosts[me.index()]);
        match &host.room {
            Some(room) => (host.fresh.directory, host.fresh.chain) = room.lives(),
            None => host.fresh.chain.begin(life, LogPosition::new(end)),
        }
    }

    /// Connects a replica with all others that are up.
    fn meet_all(&mut self, me: ReplicaId) {
        let others = ReplicaId::all(self.plan.replicas).filter(|other| *other != me);
        for other in others.filter(|other| self.hosts[other.index()].alive).collect::<Vec<_>>() {
            self.meet_one(me, other);
            self.meet_one(other, me);
        }
    }

    /// Connects one replica with another, which it remembers from the first frame on.
    fn meet_one(&mut self, me: ReplicaId, other: ReplicaId) {
        let shown = &self.hosts[other.index()];
        let known = shown.fresh.presence(shown.flushed).known();
        self.hosts[me.index()].fresh.shown[other.index()] = Some(known);
    }

    /// What a replica's frame says of it.
    pub(super) fn says(&self, me: ReplicaId) -> Option<Said> {
        let host = &self.hosts[me.index()];
        let life = host.fresh.chain.present()?.life;
        let early = self.sabotage.forget == Some(Forget::Durable);
        let held = if early { host.appended } else { host.flushed };
        let last = usize::try_from(held).expect("what is in memory can be counted");
        let record = last.checked_sub(1).map_or(0, |last| host.fresh.records[last]);
        Some(Said { life, held, record })
    }

    /// A frame arrives; its statement about the sender is handled first. Here frames may overtake a
    /// new connection. A frame of an earlier life says nothing new.
    pub(in crate::sim) fn hear_of(
        &mut self,
        me: ReplicaId,
        from: ReplicaId,
        said: Said,
    ) -> Result<(), Breach> {
        let [host, sender] = [me, from].map(|it| &self.hosts[it.index()]);
        let shown = host.fresh.shown[from.index()];
        let Some(shown) = shown.filter(|shown| host.alive && shown.life == said.life) else {
            return Ok(());
        };
        let present = sender.fresh.chain.present().map(|began| began.life);
        let lacks = !has(&sender.fresh.records, host.fresh.heard[from.index()]);
        if lacks && sender.alive && present == Some(said.life) {
            let heard = host.fresh.heard[from.index()];
            return Err(breach(format!("{me} listens to {from}, which lacks {heard:?}")));
        }
        let held = LogPosition::new(said.held);
        let before = host.fresh.register.of(from).filter(|known| known.life == said.life);
        if before.is_none_or(|known| known.held < held) {
            let known = Known { held, ..shown };
            let host = &mut self.hosts[me.index()];
            host.fresh.register.met(from, known);
            let heard = (said.held > 0).then_some((said.held, said.record));
            host.fresh.heard[from.index()] = heard.max(host.fresh.heard[from.index()]);
            host.inbox.push(Input::Heard { peer: from, known });
        }
        Ok(())
    }

    /// A replica appends records, which are the last `count` of its log. `speaks` tells whether it
    /// also sends or executes something.
    pub(super) fn note_records(&mut self, me: ReplicaId, count: usize, speaks: bool) {
        if !self.plan.older_disks {
            return;
        }
        let fresh = &mut self.hosts[me.index()].fresh;
        for _ in 0..count {
            self.older.records += 1;
            fresh.records.push(self.older.records);
        }
        if count > 0 && fresh.rests.last().is_none_or(|(_, acted)| *acted != fresh.acted) {
            fresh.rests.push((fresh.records.len() as u64, fresh.acted.clone()));
        }
        if speaks {
            self.spoke(me);
        }
    }

    /// Something now depends on the records that are durable.
    pub(super) fn spoke(&mut self, me: ReplicaId) {
        let host = &mut self.hosts[me.index()];
        host.fresh.spoken = host.flushed;
    }

    /// Sometimes copies a disk.
    pub(super) fn copy_disk(&mut self, me: ReplicaId) {
        if !self.plan.older_disks || !self.older.rng.random_ratio(1, 12) {
            return;
        }
        let copy = self.copy_of(me);
        let copies = &mut self.hosts[me.index()].fresh.copies;
        if copies.len() < COPIES {
            copies.push(copy);
        } else {
            copies[self.older.rng.random_range(0..COPIES)] = copy;
        }
    }

    /// A copy of a disk in its current state.
    pub(in crate::sim) fn copy_of(&self, me: ReplicaId) -> Copy<P> {
        let host = &self.hosts[me.index()];
        let kept = usize::try_from(host.flushed).expect("what is in memory can be counted");
        let rests = host.fresh.rests.iter().filter(|(position, _)| *position <= host.flushed);
        Copy {
            chain: host.fresh.chain.clone(),
            log: host.log[..kept].to_vec(),
            records: host.fresh.records[..kept].to_vec(),
            rests: rests.cloned().collect(),
            snapshot: host.snapshot,
            files: host.room.as_ref().map(Room::files),
        }
    }

    /// Whether a replica that is up has heard more of this one than these records.
    pub(in crate::sim) fn others_remember(&self, me: ReplicaId, records: &[u64]) -> bool {
        let up = self.hosts.iter().enumerate().filter(|(at, host)| *at != me.index() && host.alive);
        up.into_iter().any(|(_, host)| !has(records, host.fresh.heard[me.index()]))
    }

    /// A replica has opened its directory and connects with all that are up. Returns whether they
    /// accept it.
    pub(super) fn may_return(&mut self, me: ReplicaId) -> Result<bool, Breach> {
        if !self.plan.older_disks {
            return Ok(true);
        }
        let end = self.hosts[me.index()].log.len() as u64;
        self.begin_life(me, end);
        let host = &self.hosts[me.index()];
        let is_copy = host.fresh.is_copy;
        if is_copy && self.hosts.iter().filter(|host| host.returning).count() > 1 {
            // Its start took so long that a replica that may know better is down now.
            self.counters.hit(Counter::OlderUnknown);
            return Ok(false);
        }
        let shown = host.fresh.presence(end);
        let up = self.hosts.iter().enumerate().filter(|(at, it)| *at != me.index() && it.alive);
        let mut refused = None;
        for (at, other) in up {
            let Some(mut known) = other.fresh.register.of(me) else { continue };
            match self.sabotage.forget {
                Some(Forget::Position) => known.held = LogPosition::default(),
                Some(Forget::Life) => known.life = shown.life,
                _ => {}
            }
            let held = shown.held;
            if !known.may_be(&shown) || !host.fresh.chain.holds(known, held) {
                refused = Some((ReplicaId::from_index(at), known));
            }
        }
        let lacks = self.others_remember(me, &host.fresh.records);
        match refused {
            None if lacks => {
                return Err(breach(format!("{me} is let in and lacks what others have heard")));
            }
            Some((by, known)) if !is_copy => {
                let chain = &host.fresh.chain;
                let detail = format!("{by} refuses {me} for {known:?}, which is sound: {chain:?}");
                return Err(breach(detail));
            }
            Some((by, known)) => {
                self.counters.hit(Counter::OlderRefused);
                self.trace.say(self.now, || format!("{by} refuses {me} for {known:?}"));
                return Ok(false);
            }
            None if is_copy => self.counters.hit(Counter::OlderHarmless),
            None => {}
        }
        self.hosts[me.index()].fresh.is_copy = false;
        Ok(true)
    }

    /// A replica has restored its memory. It must contain everything its records depend on, and no
    /// replica that is up may lack any of it.
    pub(super) fn remembers(&mut self, me: ReplicaId) -> Result<(), Breach> {
        if !self.plan.older_disks {
            return Ok(());
        }
        let host = &self.hosts[me.index()];
        let memory = host.core.memory().clone();
        for other in ReplicaId::all(self.plan.replicas) {
            let known = memory.of(other).map_or(0, |known| known.held.records());
            if let Some((held, _)) = host.fresh.acted[other.index()]
                && known < held
            {
                let detail = format!("{me} rests on {held} records of {other}, remembers {known}");
                return Err(breach(detail));
            }
            if memory.of(other).is_some_and(|known| known.began.is_none()) {
                let detail = format!("{me} does not remember where the life of {other} began");
                return Err(breach(detail));
            }
            let there = &self.hosts[other.index()];
            if there.alive
                && let Some(known) = memory.of(other)
                && !there.fresh.chain.holds(known, LogPosition::new(there.flushed))
            {
                let detail = format!("{me} remembers {known:?} of {other}, which takes part");
                return Err(breach(detail));
            }
        }
        self.hosts[me.index()].fresh.register = memory;
        self.agrees_with_all(me)
    }

    /// All replicas that are up meet a replica that is back.
    pub(super) fn is_met(&mut self, me: ReplicaId) {
        if self.plan.older_disks {
            self.meet_all(me);
        }
    }
}
