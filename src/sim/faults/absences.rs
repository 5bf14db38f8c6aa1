//! Long absences of members (PROTOCOL.md §8a). Meanwhile the others continue, take snapshots, agree
//! on a cut and drop what it covers. The members then return and need a snapshot.
//! `world::snapshots` carries out the rest.
//!
//! Chance alone seldom brings this about, so it is brought about here, together with what may
//! interfere. Chunks are lost, replicas stop during a transfer between them, and commands are left
//! undecided just before.

use rand::RngExt;

use crate::sim::report::Counter;
use crate::sim::subject::{Kind, Subject};
use crate::sim::world::agenda::{Event, SnapshotEvent};
use crate::sim::world::network::Rule;
use crate::sim::world::state::World;
use crate::types::{Quorums, ReplicaSet};

/// How often the others work during one absence.
const SPELLS: u32 = 6;
/// How many pieces are lost out of 65,536, when any are.
const LOST: std::ops::Range<u32> = 10_000..50_000;

impl<P: Subject> World<'_, P> {
    /// One or two members are unreachable or down for a long time.
    pub(super) fn absence(&mut self) {
        let f = Quorums::new(self.plan.replicas).expect("a supported size").f;
        let gone = self.hosts.iter().filter(|host| host.is_gone()).count();
        if gone >= f {
            return;
        }
        let first = self.any();
        let mut away = ReplicaSet::from_iter([first]);
        if gone + 1 < f && self.rng.random_ratio(1, 3) {
            away.insert(self.any());
        }
        self.counters.hit(Counter::Absence);
        let timing = &self.plan.timing;
        let shortest = timing.patience * 2 + timing.suspect * 3;
        let long = shortest.mul_f64(1.0 + self.rng.random::<f64>());
        let until = self.now + long;
        let everybody = ReplicaSet::all(self.plan.replicas);
        let rest: ReplicaSet = everybody.iter().filter(|it| !away.contains(*it)).collect();
        if self.rng.random_ratio(1, 2) {
            // Their own proposals are left undecided.
            self.quarrel(everybody);
        }
        let since = self.now + self.plan.timing.suspect.mul_f64(0.2 * self.rng.random::<f64>());
        for (from, to) in [(away, rest), (rest, away)] {
            let counter = Counter::Isolated;
            let always = 65536;
            let kind = Kind::Any;
            self.network.add(Rule {
                kind,
                from,
                to,
                loss: always,
                until,
                flap: None,
                since,
                counter,
            });
        }
        for spell in 1..=SPELLS {
            self.later(long * spell / (SPELLS + 1), Event::Absent(away, false));
        }
        self.later(long, Event::Absent(away, true));
    }

    /// The others do something, or the absent members are back.
    pub(in crate::sim) fn be_absent(&mut self, away: ReplicaSet, back: bool) {
        if self.calm_since.is_some() {
            return;
        }
        let everybody = ReplicaSet::all(self.plan.replicas);
        if back {
            return self.welcome(away);
        }
        let rest: ReplicaSet = everybody.iter().filter(|it| !away.contains(*it)).collect();
        self.quarrel(rest);
        for me in rest.iter().filter(|_| self.rng.random_ratio(1, 2)).collect::<Vec<_>>() {
            self.later(
                self.plan.timing.suspect / 2,
                Event::Snapshot(SnapshotEvent::Begin(me, false)),
            );
        }
    }

    /// Each of these replicas writes something that conflicts and something that does not.
    fn quarrel(&mut self, all: ReplicaSet) {
        for me in all.iter() {
            let keys = [self.rng.random_range(0..3), self.clients.fresh_key()];
            for key in keys {
                let asks = self.clients.duel(me, key, self.now, &mut self.counters);
                self.ask_all(asks, 0);
            }
        }
    }

    /// The absent members are back, while something is under way.
    fn welcome(&mut self, away: ReplicaSet) {
        let everybody = ReplicaSet::all(self.plan.replicas);
        if self.rng.random_ratio(1, 2) {
            self.quarrel(everybody);
        }
        if self.rng.random_ratio(1, 2) {
            let loss = self.rng.random_range(LOST);
            let until = self.now + self.spell();
            let (kind, counter) = (Kind::Transfer, Counter::LostTransfer);
            let (from, to) = (everybody, everybody);
            let (flap, since) = (None, self.now);
            self.network.add(Rule { kind, from, to, loss, until, flap, since, counter });
        }
        if self.rng.random_ratio(1, 4) {
            // Before they have heard of anything.
            for me in away.iter() {
                let life = self.hosts[me.index()].life;
                self.later(self.plan.timing.tick, Event::Stop(me, life));
            }
        }
    }
}
