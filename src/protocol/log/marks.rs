//! Marks: the members' reports of their own progress, and whom to ask for missing decisions (§L5).

use std::cmp::Reverse;

use crate::protocol::View;
use crate::types::{ReplicaId, Slot, Time};

/// The members' reports, and the timing of this replica's requests.
#[derive(Debug)]
pub(super) struct Marks {
    /// Hints: a restarted member may know less.
    known: Vec<Slot>,
    saved: Vec<Slot>,
    pub(super) next_gossip: Time,
    /// The end of the decided prefix, and since when it has not grown although later slots are in
    /// use.
    pub(super) stuck: (Slot, Time),
    pub(super) next_fetch: Time,
    /// The last slot requested, until it is known.
    pub(super) asked: Slot,
    pub(super) in_vain: usize,
}

impl Marks {
    pub(super) fn new(n: usize) -> Marks {
        Marks {
            known: vec![0; n],
            saved: vec![0; n],
            next_gossip: Time::ZERO,
            stuck: (0, Time::ZERO),
            next_fetch: Time::ZERO,
            asked: 0,
            in_vain: 0,
        }
    }

    pub(super) fn start(&mut self, now: Time) {
        self.stuck.1 = now;
    }

    pub(super) fn gossip_now(&mut self) {
        self.next_gossip = Time::ZERO;
    }

    pub(super) fn note(&mut self, who: ReplicaId, known: Slot, saved: Slot) {
        let at = who.index();
        self.known[at] = self.known[at].max(known);
        self.saved[at] = self.saved[at].max(saved);
    }

    pub(super) fn known_at(&self, who: ReplicaId) -> Slot {
        self.known[who.index()]
    }

    pub(super) fn saved_at(&self, who: ReplicaId) -> Slot {
        self.saved[who.index()]
    }

    /// The slot up to which at least `quorum` members have durably executed.
    pub(super) fn saved_by(&self, quorum: usize) -> Slot {
        let mut saved = self.saved.clone();
        saved.sort_unstable_by_key(|slot| Reverse(*slot));
        saved[quorum - 1]
    }

    /// A member that knows more than `known`, and how much. Prefers unsuspected members that know
    /// most; unanswered requests select the next one.
    pub(super) fn who_knows(&self, known: Slot, view: &View) -> Option<(ReplicaId, Slot)> {
        let claims = ReplicaId::all(self.known.len()).zip(self.known.iter().copied());
        let mut claims: Vec<_> = claims.filter(|(_, theirs)| *theirs > known).collect();
        claims.sort_by_key(|(who, theirs)| (view.suspected.contains(*who), Reverse(*theirs)));
        claims.get(self.in_vain % claims.len().max(1)).copied()
    }
}
