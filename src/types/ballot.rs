//! Ballots: the right to propose a value for an instance.

use std::fmt;

use super::ReplicaId;

/// A ballot of one instance: a round, and the replica that leads it.
///
/// Round 0 belongs to the instance's owner and carries no replica, so that the owner's ballot is
/// one value for every instance; a recovery's ballot has a round of 1 or more and its leader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ballot {
    round: u32,
    /// The leader's number; 0 in round 0.
    leader: u8,
}

impl Ballot {
    /// No recovery reaches this round. Messages with a higher one are refused.
    pub const MAX_ROUND: u32 = 1 << 31;

    /// The owner's ballot.
    pub const OWNER: Ballot = Ballot { round: 0, leader: 0 };

    /// The ballot of `round` led by `leader`; `None` for round 0, which no recovery may lead.
    pub const fn new(round: u32, leader: ReplicaId) -> Option<Ballot> {
        if round == 0 { None } else { Some(Ballot { round, leader: leader.number() }) }
    }

    /// The lowest ballot of `leader` above this one.
    ///
    /// # Panics
    /// If rounds run out, after 2^32 recoveries of one instance.
    pub fn next_for(self, leader: ReplicaId) -> Ballot {
        let round =
            self.round.checked_add(1).expect("an instance is recovered less than 2^32 times");
        Ballot { round, leader: leader.number() }
    }

    /// The round: 0 for the owner's ballot.
    pub const fn round(self) -> u32 {
        self.round
    }

    /// Whether this is the owner's ballot.
    pub const fn is_owner(self) -> bool {
        self.round == 0
    }

    /// The replica that leads this ballot of an instance owned by `owner`.
    pub fn leader(self, owner: ReplicaId) -> ReplicaId {
        ReplicaId::new(self.leader).unwrap_or(owner)
    }
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_owner() { write!(f, "b0") } else { write!(f, "b{}/{}", self.round, self.leader) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_ballot_is_above_and_ones_own() {
        let [a, b] = [ReplicaId::from_index(0), ReplicaId::from_index(1)];
        let first = Ballot::OWNER.next_for(b);
        assert!(first > Ballot::OWNER);
        let second = first.next_for(a);
        assert!(second > first);
        assert_eq!((second.leader(b), second.round()), (a, 2));
        assert_eq!(Ballot::OWNER.leader(b), b);
        assert_eq!(Ballot::new(0, a), None);
    }
}
