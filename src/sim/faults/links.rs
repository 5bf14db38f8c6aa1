//! Links that lose messages for a while: some kinds, between some replicas, in one direction or
//! both. `world::network` handles the steady loss, duplication and delay.

use rand::RngExt;

use crate::sim::report::Counter;
use crate::sim::subject::{Kind, Subject};
use crate::sim::world::network::Rule;
use crate::sim::world::state::World;
use crate::types::{ReplicaId, ReplicaSet, Time};

/// The loss rate of a rule that loses every message.
pub(super) const ALWAYS: u32 = 65536;

impl<P: Subject> World<'_, P> {
    pub(super) fn rule(
        &mut self,
        kind: Kind,
        from: ReplicaSet,
        to: ReplicaSet,
        counter: Counter,
    ) -> Rule {
        let until = self.now + self.spell();
        Rule { kind, from, to, loss: ALWAYS, until, flap: None, since: self.now, counter }
    }

    /// Loses one kind of message between some replicas.
    pub(super) fn lose(&mut self, kind: Kind, loss: u32, counter: Counter) {
        let everybody = self.everybody();
        let from = if self.rng.random_ratio(1, 3) { everybody } else { self.some() };
        let to = if self.rng.random_ratio(1, 3) { everybody } else { self.some() };
        let rule = self.rule(kind, from, to, counter);
        self.network.add(Rule { loss, ..rule });
    }

    /// Cuts one direction of one link, or both, until the unrest ends.
    pub(super) fn cut_link(&mut self) {
        let (a, b) = (self.any(), self.any());
        let both = self.rng.random_ratio(1, 2);
        let [a, b] = [a, b].map(|one| ReplicaSet::from_iter([one]));
        let rule = self.rule(Kind::Any, a, b, Counter::LinkCut);
        let rule = Rule { until: Time::from_nanos(u64::MAX), ..rule };
        if both {
            self.network.add(Rule { from: b, to: a, ..rule.clone() });
        }
        self.network.add(rule);
    }

    pub(super) fn partition(&mut self) {
        let n = self.plan.replicas;
        let everybody = self.everybody();
        let without = |set: ReplicaSet| -> ReplicaSet {
            everybody.iter().filter(|replica| !set.contains(*replica)).collect()
        };
        let one = ReplicaSet::from_iter([self.any()]);
        let half = self.some();
        let shape = self.rng.random_range(0..6);
        let (pairs, counter) = match shape {
            0 => (vec![(half, without(half)), (without(half), half)], Counter::Halves),
            1 => (vec![(one, without(one)), (without(one), one)], Counter::Isolated),
            2 => (vec![(half, without(half))], Counter::OneWay),
            3 => {
                // Two halves that reach each other only through the bridge.
                let left: ReplicaSet = half.iter().filter(|it| !one.contains(*it)).collect();
                let right = without(left.union(one));
                (vec![(left, right), (right, left)], Counter::Bridge)
            }
            4 => {
                // Every replica sees a majority, but no two see the same one.
                let near = n / 4;
                let far = |from: ReplicaId, to: ReplicaId| {
                    let apart = from.index().abs_diff(to.index());
                    apart.min(n - apart) > near.max(1)
                };
                let sees = |from: ReplicaId| everybody.iter().filter(move |to| far(from, *to));
                let cuts = everybody.iter();
                let pairs = cuts.map(|it| (ReplicaSet::from_iter([it]), sees(it).collect()));
                (pairs.collect(), Counter::Ring)
            }
            _ => (vec![(half, without(half)), (without(half), half)], Counter::Flapping),
        };
        let until = self.now + self.spell();
        let flap = (shape == 5).then(|| self.spell() / 4);
        for (from, to) in pairs {
            let rule = self.rule(Kind::Any, from, to, counter);
            self.network.add(Rule { until, flap, ..rule });
        }
    }
}
