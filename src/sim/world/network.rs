//! The simulated network: whether and when a message arrives. `faults` add rules to it.

use std::time::Duration;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use crate::replica::PeerMessage;
use crate::sim::plan::{Links, Plan, Stream, stream};
use crate::sim::report::{Counter, Counters};
use crate::sim::subject::{Kind, Subject};
use crate::types::{ReplicaId, ReplicaSet, Time};

/// A rule: what is lost, between which replicas, and until when.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Rule {
    pub(in crate::sim) kind: Kind,
    pub(in crate::sim) from: ReplicaSet,
    pub(in crate::sim) to: ReplicaSet,
    /// Out of 65,536; 65,536 means always.
    pub(in crate::sim) loss: u32,
    pub(in crate::sim) until: Time,
    /// If set, the rule is alternately on and off for this long.
    pub(in crate::sim) flap: Option<Duration>,
    /// The rule starts then.
    pub(in crate::sim) since: Time,
    pub(in crate::sim) counter: Counter,
}

impl Rule {
    fn is_on(&self, now: Time) -> bool {
        now >= self.since
            && now < self.until
            && self.flap.is_none_or(|turn| {
                let turns = now.since(self.since).as_nanos() / turn.as_nanos().max(1);
                turns.is_multiple_of(2)
            })
    }
}

/// Messages on their way from one replica to another.
#[derive(Debug)]
pub(in crate::sim) struct Network {
    links: Links,
    rng: ChaCha8Rng,
    rules: Vec<Rule>,
    /// When the last message of each link arrives.
    last: Vec<Vec<Time>>,
}

/// The arrival times of a message, at most two.
pub(in crate::sim) type Arrivals = [Option<Time>; 2];

impl Network {
    pub(in crate::sim) fn new(plan: &Plan) -> Network {
        let n = plan.links.delay.len();
        Network {
            links: plan.links.clone(),
            rng: stream(plan.seed, Stream::Network),
            rules: Vec::new(),
            last: vec![vec![Time::ZERO; n]; n],
        }
    }

    /// Adds a rule to those in force.
    pub(in crate::sim) fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Ends all faults of the network.
    pub(in crate::sim) fn heal(&mut self) {
        self.rules.clear();
        self.links.drop = 0;
        self.links.duplicate = 0;
        self.links.late = 0;
        self.links.client_drop = 0;
    }

    /// A message leaves.
    pub(super) fn send<P: Subject>(
        &mut self,
        now: Time,
        from: ReplicaId,
        to: ReplicaId,
        message: &PeerMessage<P::Message>,
        counters: &mut Counters,
    ) -> Arrivals {
        if let Some(counter) = self.is_cut::<P>(now, from, to, message) {
            counters.hit(counter);
            return [None; 2];
        }
        if self.happens(self.links.drop) {
            counters.hit(Counter::Dropped);
            return [None; 2];
        }
        let first = self.arrival(now, from, to, counters);
        if !self.happens(self.links.duplicate) {
            return [Some(first), None];
        }
        counters.hit(Counter::Duplicated);
        let second = self.arrival(now, from, to, counters);
        [Some(first), Some(second)]
    }

    fn is_cut<P: Subject>(
        &mut self,
        now: Time,
        from: ReplicaId,
        to: ReplicaId,
        message: &PeerMessage<P::Message>,
    ) -> Option<Counter> {
        if self.rules.is_empty() {
            return None;
        }
        self.rules.retain(|rule| now < rule.until);
        for rule in &self.rules {
            let between = rule.from.contains(from) && rule.to.contains(to);
            if between
                && rule.is_on(now)
                && rule.kind.matches::<P>(to, message)
                && (rule.loss >= 65536 || self.rng.random_range(0..65536) < rule.loss)
            {
                return Some(rule.counter);
            }
        }
        None
    }

    fn happens(&mut self, rate: u16) -> bool {
        rate > 0 && (self.rng.next_u32() & 0xffff) < u32::from(rate)
    }

    fn arrival(
        &mut self,
        now: Time,
        from: ReplicaId,
        to: ReplicaId,
        counters: &mut Counters,
    ) -> Time {
        let mut delay = self.links.delay[from.index()][to.index()];
        let jitter = u64::try_from(self.links.jitter.as_nanos()).unwrap_or(u64::MAX);
        if jitter > 0 {
            // The product of two uniform numbers: mostly small, with a long tail.
            let draw = self.rng.next_u64();
            let (a, b) = (draw >> 48, draw & 0xffff);
            delay += Duration::from_nanos(jitter * ((a * b) >> 16) / 16384);
        }
        if self.happens(self.links.late) {
            counters.hit(Counter::Late);
            delay += self.links.tail.mul_f64(self.rng.random::<f64>());
        }
        let mut at = now + delay;
        let last = &mut self.last[from.index()][to.index()];
        if self.links.fifo {
            at = at.max(*last + Duration::from_nanos(1));
        } else if at < *last {
            counters.hit(Counter::Reordered);
        }
        *last = at.max(*last);
        at
    }

    /// A client's request or answer leaves. Returns when it arrives, if it does.
    pub(super) fn send_client(&mut self, now: Time, counters: &mut Counters) -> Option<Time> {
        if self.happens(self.links.client_drop) {
            counters.hit(Counter::ClientDropped);
            return None;
        }
        Some(now + Duration::from_micros(50 + u64::from(self.rng.next_u32() & 0xff)))
    }
}
