//! Whether a quorum can be reached, and who is silent, for how long. Without a quorum nothing new
//! is proposed: callers are told at once, and can ask elsewhere.

use std::fmt;
use std::time::Duration;

use crate::types::{Quorums, ReplicaId, ReplicaSet, Time};

/// Which replicas this one can reach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reach {
    /// How many replicas the cluster has.
    pub replicas: usize,
    /// How many of them a quorum takes.
    pub quorum: usize,
    /// The others that say nothing, and for how long that has been noticed.
    pub silent: Vec<(ReplicaId, Duration)>,
}

impl Reach {
    /// How many replicas can be reached, this one included.
    pub fn reachable(&self) -> usize {
        self.replicas - self.silent.len()
    }

    /// Whether those are enough to decide anything.
    pub fn has_quorum(&self) -> bool {
        self.reachable() >= self.quorum
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let no = if self.has_quorum() { "" } else { "no " };
        write!(f, "{no}quorum: {} of {} reachable", self.reachable(), self.replicas)?;
        for (index, (id, time)) in self.silent.iter().enumerate() {
            let before = if index == 0 { " (" } else { ", " };
            write!(f, "{before}{id} silent for {} s", time.as_secs())?;
        }
        if self.silent.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

/// Follows it.
#[derive(Debug)]
pub(super) struct Watch {
    quorums: Quorums,
    /// How long a quorum has to be missing before commands are turned away.
    grace: Duration,
    /// Since when each replica has been silent.
    silent: Vec<Option<Time>>,
    /// Since when there has been no quorum.
    lost: Option<Time>,
}

impl Watch {
    pub(super) fn new(quorums: Quorums, grace: Duration) -> Watch {
        Watch { quorums, grace, silent: vec![None; quorums.n], lost: None }
    }

    /// These are silent now.
    pub(super) fn look(&mut self, now: Time, suspected: ReplicaSet) {
        for (id, since) in ReplicaId::all(self.quorums.n).zip(&mut self.silent) {
            *since = suspected.contains(id).then(|| since.unwrap_or(now));
        }
        let missing = self.quorums.n - suspected.len() < self.quorums.slow();
        self.lost = missing.then(|| self.lost.unwrap_or(now));
    }

    /// Whether no quorum has been reached for so long that nothing new is to be proposed. A moment
    /// without one is none: a start, a slow network.
    pub(super) fn is_lost(&self, now: Time) -> bool {
        self.lost.is_some_and(|since| now.since(since) >= self.grace)
    }

    pub(super) fn reach(&self, now: Time) -> Reach {
        let silent = ReplicaId::all(self.quorums.n).zip(&self.silent);
        let silent = silent.filter_map(|(id, since)| since.map(|since| (id, now.since(since))));
        Reach { replicas: self.quorums.n, quorum: self.quorums.slow(), silent: silent.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn who_is_silent_is_named_and_a_short_silence_is_none() {
        let mut watch = Watch::new(Quorums::new(3).expect("a size"), Duration::from_millis(600));
        let [two, three] = [1, 2].map(ReplicaId::from_index);
        watch.look(at(1000), ReplicaSet::from_iter([two]));
        assert!(!watch.is_lost(at(9000)), "two of three are a quorum");
        assert_eq!(
            watch.reach(at(3000)).to_string(),
            "quorum: 2 of 3 reachable (r2 silent for 2 s)"
        );
        watch.look(at(10_000), ReplicaSet::from_iter([two, three]));
        assert!(!watch.is_lost(at(10_599)) && watch.is_lost(at(10_600)));
        let said = "no quorum: 1 of 3 reachable (r2 silent for 12 s, r3 silent for 3 s)";
        assert_eq!(watch.reach(at(13_000)).to_string(), said);
        watch.look(at(14_000), ReplicaSet::from_iter([three]));
        assert!(!watch.is_lost(at(20_000)) && watch.reach(at(14_000)).has_quorum());
    }
}
