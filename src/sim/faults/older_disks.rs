//! Replicas that come back with an older copy of their disk. `world::meetings` knows what the
//! others remember of them, and judges.
//!
//! One case is undetectable and left out: the lost records are known to no replica that is
//! reachable. So a replica gets a copy only if a replica that is up has heard more, or if nothing
//! that depends on the missing records was sent or executed. No replica may be down then, because
//! one that is down and will be back could have heard more. Once the loss is found, the replica is
//! gone for good, so it counts against the number of expendable ones.

use std::time::Duration;

use rand::RngExt;

use crate::replica::Record;
use crate::sim::report::{Breach, Counter};
use crate::sim::subject::Subject;
use crate::sim::world::freshness::Copy;
use crate::sim::world::state::World;
use crate::types::LogPosition;

/// The most records that a copy writes before it is found.
const ALONE: u64 = 40;

impl<P: Subject> World<'_, P> {
    /// A replica stops, and comes back with a copy of its disk.
    pub(super) fn older_disk(&mut self) -> Result<(), Breach> {
        let me = self.any();
        self.would_be_told_apart(me)?;
        let host = &self.hosts[me.index()];
        let copies = &host.fresh.copies;
        let away = self.hosts.iter().any(|host| host.returning);
        if !host.alive || host.is_gone() || away || copies.is_empty() || !self.may_lose_one() {
            return Ok(());
        }
        // Sometimes a copy of this moment, which lacks nothing.
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
            // As if the end had never been flushed: nothing that depends on it was announced.
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

    /// The copy was started earlier, where it could reach no other replica, and wrote something.
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
}
