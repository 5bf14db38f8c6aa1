//! Concurrent conflicting proposals whose messages are lost in unusual patterns. After `links`.

use std::time::Duration;

use rand::RngExt;

use super::links::ALWAYS;
use crate::sim::report::Counter;
use crate::sim::subject::{Kind, Subject};
use crate::sim::world::network::Rule;
use crate::sim::world::state::World;
use crate::types::{ReplicaId, ReplicaSet};

impl<P: Subject> World<'_, P> {
    /// Concurrent proposals on one key, each of which reaches only some replicas. Then some of the
    /// owners become unreachable, so that the others recover what they know.
    pub(super) fn duel(&mut self) {
        self.counters.hit(Counter::Duel);
        if self.plan.replicas > 4 && self.rng.random_ratio(1, 3) {
            return self.duel_of_two();
        }
        let proposers = self.some();
        let spell = self.plan.timing.suspect.mul_f64(1.5 + 4.0 * self.rng.random::<f64>());
        let brief = self.now + spell / 8;
        for proposer in proposers.iter() {
            let from = ReplicaSet::from_iter([proposer]);
            let missing = self.some();
            let rule = self.rule(Kind::PreAccept, from, missing, Counter::LostPreAccept);
            self.network.add(Rule { until: brief, ..rule });
            if self.rng.random_ratio(1, 2) {
                let to = self.some();
                let rule = self.rule(Kind::Commit, from, to, Counter::LostCommit);
                self.network.add(Rule { until: self.now + spell / 2, ..rule });
            }
        }
        let key = if self.rng.random_ratio(1, 2) { self.clients.fresh_key() } else { 0 };
        for proposer in proposers.iter() {
            let asks = self.clients.duel(proposer, key, self.now, &mut self.counters);
            self.ask_all(asks, 0);
        }
        if self.rng.random_ratio(1, 2) {
            self.deafen(proposers);
        } else {
            self.seclude(spell);
        }
    }

    /// Two replicas propose. Some replicas hear only of the first proposal, the rest only of the
    /// second. The first owner is cut off, and the others recover its instance before the second
    /// owner has its votes. So that recovery waits, and then sees the second one decided
    /// (PROTOCOL.md §5.5).
    fn duel_of_two(&mut self) {
        self.counters.hit(Counter::DuelOfTwo);
        let (n, e) = (self.plan.replicas, self.quorums().e);
        let everybody = self.everybody();
        let turn = self.rng.random_range(0..n);
        let order: Vec<_> = (0..n).map(|at| ReplicaId::from_index((at + turn) % n)).collect();
        let hears_first = self.quorums().slow() - e;
        let first = ReplicaSet::from_iter([order[0]]);
        let second = ReplicaSet::from_iter([order[1]]);
        let near_first: ReplicaSet = order[2..2 + hears_first].iter().copied().collect();
        let near_second: ReplicaSet = order[2 + hears_first..].iter().copied().collect();
        // With these unreachable, the second owner is among those that the recovery asks.
        let quiet = order[3 + hears_first..].iter().copied().collect();
        let suspect = self.plan.timing.suspect;
        let until = self.now + suspect.mul_f64(5.0 + 2.0 * self.rng.random::<f64>());
        let heard = self.now + suspect.mul_f64(1.5 + 2.5 * self.rng.random::<f64>());
        let gone = self.now + suspect / 4;
        let lost = |kind, from, to, since, until, counter| Rule {
            kind,
            from,
            to,
            loss: ALWAYS,
            until,
            flap: None,
            since,
            counter,
        };
        for rule in [
            lost(Kind::PreAccept, first, near_second, self.now, until, Counter::LostPreAccept),
            lost(Kind::PreAccept, first, second, self.now, until, Counter::LostPreAccept),
            lost(Kind::PreAccept, second, near_first, self.now, until, Counter::LostPreAccept),
            lost(Kind::PreAccept, second, first, self.now, until, Counter::LostPreAccept),
            lost(Kind::Votes, everybody, second, self.now, heard, Counter::LostVote),
            lost(Kind::Any, quiet, near_first, gone, until, Counter::OneWay),
            lost(Kind::Any, first, everybody, gone, until, Counter::Isolated),
            lost(Kind::Any, everybody, first, gone, until, Counter::Isolated),
        ] {
            self.network.add(rule);
        }
        let key = self.clients.fresh_key();
        for proposer in [order[0], order[1]] {
            let asks = self.clients.duel(proposer, key, self.now, &mut self.counters);
            self.ask_all(asks, 0);
        }
    }

    /// Owners receive neither votes nor recoveries of their own instances, but take part in those
    /// of others. So recoveries must wait for each other (PROTOCOL.md §5.5). Each owner receives
    /// again after a while, and may still decide what another recovery waits for.
    fn deafen(&mut self, owners: ReplicaSet) {
        self.counters.hit(Counter::Deafened);
        let everybody = self.everybody();
        let long = self.plan.timing.suspect.max(self.plan.timing.patience);
        for owner in owners.iter() {
            let owner = ReplicaSet::from_iter([owner]);
            let until = self.now + long.mul_f64(0.7 + 2.5 * self.rng.random::<f64>());
            for kind in [Kind::Votes, Kind::RecoverToOwner] {
                let rule = self.rule(kind, everybody, owner, Counter::LostVote);
                self.network.add(Rule { until, ..rule });
            }
        }
    }

    /// Some replicas are unreachable, and owners receive no Recover.
    fn seclude(&mut self, spell: Duration) {
        let f = self.quorums().f;
        let gone: ReplicaSet = self.some().iter().take(f).collect();
        let everybody = self.everybody();
        let since = self.now + self.plan.timing.suspect.mul_f64(0.2 * self.rng.random::<f64>());
        let rule = self.rule(Kind::Any, gone, everybody, Counter::Isolated);
        let rule = Rule { until: self.now + spell, since, ..rule };
        self.network.add(Rule { from: everybody, to: gone, ..rule.clone() });
        self.network.add(rule);
        if self.rng.random_ratio(1, 2) {
            let rule = self.rule(Kind::RecoverToOwner, everybody, everybody, Counter::KeptRecover);
            self.network.add(Rule { until: self.now + spell * 2, ..rule });
        }
    }
}
