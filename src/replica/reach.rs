//! Whether a quorum is reachable, and which replicas are silent for how long. Without a quorum new
//! commands are rejected at once, so callers can ask another replica.

use std::fmt;
use std::time::Duration;

use crate::types::{MemberId, Quorums, ReplicaId, ReplicaSet, Time};

/// Which replicas this one can reach.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Reach {
    /// The number of replicas in the cluster.
    pub replicas: usize,
    /// The size of a quorum.
    pub quorum: usize,
    /// The other members that cannot be reached, and why.
    pub silent: Vec<(MemberId, Silence)>,
}

/// Why a replica counts as unreachable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Silence {
    /// It has not been heard since this replica started.
    SinceStart,
    /// It has not been heard for this long.
    For(Duration),
    /// It is heard but does not answer: it does not hear this replica.
    Deaf,
}

impl Reach {
    /// The number of reachable replicas, this one included.
    pub fn reachable(&self) -> usize {
        self.replicas - self.silent.len()
    }

    /// Whether the reachable replicas are a quorum.
    pub fn has_quorum(&self) -> bool {
        self.reachable() >= self.quorum
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let no = if self.has_quorum() { "" } else { "no " };
        write!(f, "{no}quorum: {} of {} reachable", self.reachable(), self.replicas)?;
        for (index, (id, silence)) in self.silent.iter().enumerate() {
            let before = if index == 0 { " (" } else { ", " };
            write!(f, "{before}{id} {silence}")?;
        }
        if self.silent.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Silence::SinceStart => f.write_str("not heard since the start"),
            Silence::For(time) => write!(f, "silent for {} s", time.as_secs()),
            Silence::Deaf => f.write_str("heard, but it does not answer"),
        }
    }
}

/// Tracks which replicas are reachable.
#[derive(Debug)]
pub(super) struct Watch {
    quorums: Quorums,
    /// How long a quorum has to be missing before commands are rejected.
    grace: Duration,
    /// The replicas that were unreachable at the last check.
    silent: ReplicaSet,
    /// Since when there has been no quorum.
    lost: Option<Time>,
}

impl Watch {
    pub(super) fn new(quorums: Quorums, grace: Duration) -> Watch {
        Watch { quorums, grace, silent: ReplicaSet::EMPTY, lost: None }
    }

    /// Updates which replicas are unreachable.
    pub(super) fn look(&mut self, now: Time, suspected: ReplicaSet) {
        self.silent = suspected;
        let missing = self.quorums.n - suspected.len() < self.quorums.slow();
        self.lost = missing.then(|| self.lost.unwrap_or(now));
    }

    /// Whether a quorum has been missing for so long that new commands are rejected. A short gap
    /// does not count: the cluster may be starting, or the network slow.
    pub(super) fn is_lost(&self, now: Time) -> bool {
        self.lost.is_some_and(|since| now.since(since) >= self.grace)
    }

    /// The reachable replicas, by their numbers in the first epoch; `silence` tells why each of the
    /// others is not.
    pub(super) fn reach(&self, silence: impl Fn(ReplicaId) -> Silence) -> Reach {
        let silent = self.silent.iter().map(|at| (MemberId::of(at), silence(at))).collect();
        Reach { replicas: self.quorums.n, quorum: self.quorums.slow(), silent }
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
        let reach = |watch: &Watch| watch.reach(|_| Silence::For(Duration::from_secs(12)));
        watch.look(at(1000), ReplicaSet::from_iter([two]));
        assert!(!watch.is_lost(at(9000)), "two of three are a quorum");
        let said = "quorum: 2 of 3 reachable (r2 silent for 12 s)";
        assert_eq!(reach(&watch).to_string(), said);
        watch.look(at(10_000), ReplicaSet::from_iter([two, three]));
        assert!(!watch.is_lost(at(10_599)) && watch.is_lost(at(10_600)));
        let silence = |id| if id == two { Silence::SinceStart } else { Silence::Deaf };
        let said = "no quorum: 1 of 3 reachable (r2 not heard since the start, r3 heard, but it \
                    does not answer)";
        assert_eq!(watch.reach(silence).to_string(), said);
        watch.look(at(14_000), ReplicaSet::from_iter([three]));
        assert!(!watch.is_lost(at(20_000)) && reach(&watch).has_quorum());
    }
}
