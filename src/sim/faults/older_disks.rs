//! Replicas that come back with an older copy of their disk, and what the others remember of them.
//! Beside `restarts`; the replicas judge each other as real ones do when they connect
//! (`replica::Chain`, `replica::Memory`).
//!
//! What is true is known here from numbers that no two records share: a replica lacks what another
//! has heard of it if the record at that position is another one, or none.
//!
//! One thing nobody can find, and it is left out: that records are lost of which nobody has heard
//! who can be reached. A replica is given a copy only if somebody has heard more and is up, or if
//! nothing was said or executed that rests on what the copy lacks; and whoever is down and will be
//! back could have heard more, so nobody may be down then. A replica that lacks something is gone
//! for good once that is found, so it counts among those that may be.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::replica::{Input, Memory, Record};
use crate::sim::checks::Breach;
use crate::sim::plan::{Stream, stream};
use crate::sim::report::{Broken, Counter};
use crate::sim::subject::Subject;
use crate::sim::world::state::World;
use crate::types::{Chain, Known, LogPosition, Presence, ReplicaId};

/// The most copies of one disk.
const COPIES: usize = 6;
/// The most records that a copy writes before it is found.
const ALONE: u64 = 40;

/// What is left out, of what keeps older copies of disks out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "only tests leave something out"))]
pub(in crate::sim) enum Forget {
    /// What was heard of others is not written in front of what rests on it.
    Heard,
    /// It is not in snapshots.
    InSnapshots,
    /// Only lives are compared.
    Position,
    /// Only positions are compared.
    Life,
    /// Frames say how far the log was appended to, not how far it is durable.
    Durable,
    /// Where lives began is not written.
    Began,
    /// What two remember of a third is not compared.
    Third,
}

#[cfg(test)]
impl Forget {
    pub(in crate::sim) const ALL: [Forget; 7] = [
        Forget::Heard,
        Forget::InSnapshots,
        Forget::Position,
        Forget::Life,
        Forget::Durable,
        Forget::Began,
        Forget::Third,
    ];
}

/// What all copies of a world have in common.
pub(in crate::sim) struct Older {
    rng: ChaCha8Rng,
    /// Lives and records so far, of all replicas: no two have the same number.
    lives: u64,
    records: u64,
}

impl Older {
    pub(in crate::sim) fn new(seed: u64) -> Older {
        Older { rng: stream(seed, Stream::OlderDisks), lives: 0, records: 0 }
    }
}

/// How far a replica was heard to be, and the number of the last record there.
pub(in crate::sim) type Heard = Option<(u64, u64)>;

/// What a frame says of its sender.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Said {
    life: u64,
    held: u64,
    /// The number of the last record that is held.
    record: u64,
}

/// What a replica knows of itself and of the others, and what of it is true.
pub(in crate::sim) struct Freshness<P: Subject> {
    pub(in crate::sim) directory: u64,
    pub(in crate::sim) chain: Chain,
    /// What it remembers of the others, by what has arrived.
    pub(in crate::sim) register: Memory,
    /// As what the others have shown themselves.
    shown: Vec<Option<Known>>,
    /// Its disk is a copy that was put back, and nobody has judged it yet.
    is_copy: bool,
    /// A number for each record of its log.
    records: Vec<u64>,
    /// How far each of the others was heard to be: by what has arrived, and by what was acted on.
    pub(in crate::sim) heard: Vec<Heard>,
    acted: Vec<Heard>,
    /// The latter as it was behind some of its records.
    rests: Vec<(u64, Vec<Heard>)>,
    /// How much was durable when something was said or executed last.
    spoken: u64,
    pub(in crate::sim) copies: Vec<Copy<P>>,
}

/// A copy of a disk.
pub(in crate::sim) struct Copy<P: Subject> {
    chain: Chain,
    log: Vec<Record<P::Record>>,
    pub(in crate::sim) records: Vec<u64>,
    rests: Vec<(u64, Vec<Heard>)>,
    snapshot: Option<usize>,
    files: Option<BTreeMap<String, Vec<u8>>>,
}

impl<P: Subject> Clone for Copy<P> {
    fn clone(&self) -> Copy<P> {
        Copy {
            chain: self.chain.clone(),
            log: self.log.clone(),
            records: self.records.clone(),
            rests: self.rests.clone(),
            snapshot: self.snapshot,
            files: self.files.clone(),
        }
    }
}

/// In a quarter of the worlds with restarts the mean time between two copies that are put back.
pub(in crate::sim) fn draw_older(seed: u64, unit: Duration) -> Option<Duration> {
    let mut rng = stream(seed, Stream::OlderDisks);
    rng.random_ratio(1, 4).then(|| unit.mul_f64(1.0 + 8.0 * rng.random::<f64>()))
}

impl<P: Subject> Freshness<P> {
    pub(in crate::sim) fn new(n: usize, me: ReplicaId) -> Freshness<P> {
        Freshness {
            directory: u64::from(me.number()),
            chain: Chain::default(),
            register: Memory::default(),
            shown: vec![None; n],
            is_copy: false,
            records: Vec::new(),
            heard: vec![None; n],
            acted: vec![None; n],
            rests: Vec::new(),
            spoken: 0,
            copies: Vec::new(),
        }
    }

    /// What it shows of itself, with so many records durable.
    fn presence(&self, held: u64) -> Presence {
        let began = self.chain.present().expect("it lives");
        let held = LogPosition::new(held);
        Presence { directory: self.directory, life: began.life, began: began.at, held }
    }

    /// Takes a step over all that has arrived.
    pub(in crate::sim) fn acts(&mut self) {
        self.acted.clone_from(&self.heard);
    }

    /// So many records are left of its log.
    pub(in crate::sim) fn keep(&mut self, kept: usize) {
        self.records.truncate(kept);
        self.rests.retain(|(position, _)| *position <= kept as u64);
        self.acted = self.rests.last().map_or(vec![None; self.heard.len()], |it| it.1.clone());
        self.heard.clone_from(&self.acted);
    }
}

/// Whether these are the records of a replica that was heard to be so far.
pub(in crate::sim) fn has(records: &[u64], heard: Heard) -> bool {
    let Some((held, record)) = heard else { return true };
    let last = usize::try_from(held).expect("what is in memory can be counted") - 1;
    records.get(last) == Some(&record)
}

pub(in crate::sim) fn breach(detail: String) -> Breach {
    (Broken::Freshness, detail)
}

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

    /// The next life of a replica begins where its log ends.
    fn begin_life(&mut self, me: ReplicaId, end: u64) {
        self.older.lives += 1;
        let (life, host) = (self.older.lives, &mut self.hosts[me.index()]);
        match &host.room {
            Some(room) => (host.fresh.directory, host.fresh.chain) = room.lives(),
            None => host.fresh.chain.begin(life, LogPosition::new(end)),
        }
    }

    /// A replica is connected with all others that are up.
    fn meet_all(&mut self, me: ReplicaId) {
        let others = ReplicaId::all(self.plan.replicas).filter(|other| *other != me);
        for other in others.filter(|other| self.hosts[other.index()].alive).collect::<Vec<_>>() {
            self.meet_one(me, other);
            self.meet_one(other, me);
        }
    }

    /// One is connected with the other, and remembers it from its first frame on.
    fn meet_one(&mut self, me: ReplicaId, other: ReplicaId) {
        let shown = &self.hosts[other.index()];
        let known = shown.fresh.presence(shown.flushed).known();
        self.hosts[me.index()].fresh.shown[other.index()] = Some(known);
    }

    /// What a frame of a replica says of it.
    pub(in crate::sim) fn says(&self, me: ReplicaId) -> Option<Said> {
        let host = &self.hosts[me.index()];
        let life = host.fresh.chain.present()?.life;
        let early = self.sabotage.forget == Some(Forget::Durable);
        let held = if early { host.appended } else { host.flushed };
        let last = usize::try_from(held).expect("what is in memory can be counted");
        let record = last.checked_sub(1).map_or(0, |last| host.fresh.records[last]);
        Some(Said { life, held, record })
    }

    /// A frame arrives: first what it says of its sender. In a world where frames may overtake a
    /// new connection, those of an earlier life say nothing new.
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

    /// A replica appends records, the last `count` of its log, and says or executes something.
    pub(in crate::sim) fn note_records(&mut self, me: ReplicaId, count: usize, speaks: bool) {
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

    /// Something rests on what is durable by now.
    pub(in crate::sim) fn spoke(&mut self, me: ReplicaId) {
        let host = &mut self.hosts[me.index()];
        host.fresh.spoken = host.flushed;
    }

    /// Now and then somebody copies a disk.
    pub(in crate::sim) fn copy_disk(&mut self, me: ReplicaId) {
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

    /// A disk as it is.
    fn copy_of(&self, me: ReplicaId) -> Copy<P> {
        let host = &self.hosts[me.index()];
        let kept = usize::try_from(host.flushed).expect("what is in memory can be counted");
        let rests = host.fresh.rests.iter().filter(|(position, _)| *position <= host.flushed);
        Copy {
            chain: host.fresh.chain.clone(),
            log: host.log[..kept].to_vec(),
            records: host.fresh.records[..kept].to_vec(),
            rests: rests.cloned().collect(),
            snapshot: host.snapshot,
            files: host.room.as_ref().map(crate::sim::world::room::Room::files),
        }
    }

    /// A replica stops, and comes back with a copy of its disk.
    pub(in crate::sim) fn older_disk(&mut self) -> Result<(), Breach> {
        let me = self.any();
        self.would_be_told_apart(me)?;
        let host = &self.hosts[me.index()];
        let copies = &host.fresh.copies;
        let away = self.hosts.iter().any(|host| host.returning);
        if !host.alive || host.is_gone() || away || copies.is_empty() || !self.may_lose_one() {
            return Ok(());
        }
        // Now and then one of this moment, which lacks nothing.
        let mut copy = match self.older.rng.random_ratio(1, 8) {
            true => self.copy_of(me),
            false => copies[self.older.rng.random_range(0..copies.len())].clone(),
        };
        let went_on = copy.files.is_none() && self.older.rng.random_ratio(1, 3);
        let is_prefix = host.fresh.records.starts_with(&copy.records);
        let harmless = is_prefix && !went_on && copy.records.len() as u64 >= host.fresh.spoken;
        let found = self.others_remember(me, &copy.records);
        if !harmless && !found {
            self.counters.hit(Counter::OlderUnknown);
            return Ok(());
        }
        let life = host.life;
        self.trace.say(self.now, || {
            format!("{me} gets a copy of {} records, harmless: {harmless}", copy.records.len())
        });
        self.stop(me, Duration::ZERO)?;
        if harmless {
            // As if the end had never been flushed: nobody was told of anything that rests on it.
            self.keep(me, copy.log.len());
        } else if went_on {
            self.go_on_alone(&mut copy);
        }
        let seed = self.older.rng.random();
        let host = &mut self.hosts[me.index()];
        if let (Some(room), Some(files)) = (&mut host.room, &copy.files) {
            room.put_back(files, seed);
        }
        let end = copy.log.len() as u64;
        (host.appended, host.durable, host.flushed) = (end, end, end);
        (host.log, host.snapshot) = (copy.log, copy.snapshot);
        (host.fresh.chain, host.fresh.records) = (copy.chain, copy.records);
        host.fresh.rests = copy.rests;
        host.fresh.is_copy = true;
        self.come_back(me, life)
    }

    /// Whether somebody who is up has heard more of a replica than it holds.
    fn others_remember(&self, me: ReplicaId, records: &[u64]) -> bool {
        let up = self.hosts.iter().enumerate().filter(|(at, host)| *at != me.index() && host.alive);
        up.into_iter().any(|(_, host)| !has(records, host.fresh.heard[me.index()]))
    }

    /// The copy was started before, where it could reach nobody, and wrote something.
    fn go_on_alone(&mut self, copy: &mut Copy<P>) {
        self.counters.hit(Counter::OlderWentOn);
        self.older.lives += 1;
        copy.chain.begin(self.older.lives, LogPosition::new(copy.log.len() as u64));
        for _ in 0..self.older.rng.random_range(1..ALONE) {
            self.older.records += 1;
            copy.records.push(self.older.records);
            copy.log.push(Record::Heard(Vec::new()));
        }
    }

    /// A replica has opened its directory and connects with all that are up: whether it may.
    pub(in crate::sim) fn may_return(&mut self, me: ReplicaId) -> Result<bool, Breach> {
        if !self.plan.older_disks {
            return Ok(true);
        }
        let end = self.hosts[me.index()].log.len() as u64;
        self.begin_life(me, end);
        let host = &self.hosts[me.index()];
        let is_copy = host.fresh.is_copy;
        if is_copy && self.hosts.iter().filter(|host| host.returning).count() > 1 {
            // It took so long to start that somebody is down by now who may know better.
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

    /// A replica has restored what it remembers. That is all that its records rest on, and none of
    /// those that are up lacks any of it.
    pub(in crate::sim) fn remembers(&mut self, me: ReplicaId) -> Result<(), Breach> {
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

    /// Everybody who is up hears of a replica that is back.
    pub(in crate::sim) fn is_met(&mut self, me: ReplicaId) {
        if self.plan.older_disks {
            self.meet_all(me);
        }
    }
}
