//! Rounds, quorums (§F1), and what a coordinator may pick (§F4; §3.3 of the paper). Pure.
//!
//! | n | majority | fast quorum | failures with fast rounds | with classic ones |
//! |---|---|---|---|---|
//! | 1 | 1 | 1 | 0 | 0 |
//! | 2 | 2 | 2 | 0 | 0 |
//! | 3 | 2 | 3 | 0 | 1 |
//! | 4 | 3 | 3 | 1 | 1 |
//! | 5 | 3 | 4 | 1 | 2 |
//! | 6 | 4 | 5 | 1 | 2 |
//! | 7 | 4 | 6 | 1 | 3 |
//! | 9 | 5 | 7 | 2 | 4 |
//!
//! What the paper asks for: any two quorums meet, and a majority meets the common part of any two
//! fast quorums (`majority + 2 fast > 2n`), so that of two values at most one may have been chosen
//! as far as a majority can tell.

use std::cmp::Reverse;

use crate::types::{Ballot, InstanceId};

/// A round of one slot. Every ballot of the log has two: first anybody's, if the ballot is fast, in
/// which acceptors vote for what proposers send them; then the coordinator's, in which they vote
/// for what it sends them. So the coordinator recovers from a collision without another phase 1:
/// nothing lies between the two rounds, and whoever has voted in the first has thereby promised to
/// vote in it for nothing else (§3.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Round {
    /// The ballot.
    pub ballot: Ballot,
    /// Whether it is the coordinator's.
    pub is_coordinated: bool,
}

impl Round {
    /// The first round of a ballot.
    pub const fn anybodys(ballot: Ballot) -> Round {
        Round { ballot, is_coordinated: false }
    }

    /// The second round of a ballot.
    pub const fn coordinated(ballot: Ballot) -> Round {
        Round { ballot, is_coordinated: true }
    }
}

/// Quorum sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sizes {
    pub(super) n: usize,
    /// Of phase 1, and of a coordinated round.
    pub(super) classic: usize,
    /// Of a round in which anybody proposes.
    pub(super) fast: usize,
}

impl Sizes {
    pub(super) const fn new(n: usize) -> Sizes {
        Sizes { n, classic: n / 2 + 1, fast: (3 * n).div_ceil(4) }
    }

    pub(super) const fn of(&self, round: Round) -> usize {
        if round.is_coordinated { self.classic } else { self.fast }
    }
}

/// What phase 1, or the votes of a fast round, leave to the coordinator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Pick {
    /// This may have been chosen.
    Forced(InstanceId),
    /// Nothing can have been chosen: the candidates, the most voted for first.
    Free(Vec<InstanceId>),
}

/// The rule: of the votes of a quorum of `asked` acceptors, each with its last round, those of the
/// highest round count. In a coordinated round there was only one value. In a fast one a value may
/// have been chosen if all of those asked who may be in a fast quorum with it have voted for it:
/// all but `n - fast`.
pub(super) fn pick(sizes: Sizes, asked: usize, votes: &[(Round, InstanceId)]) -> Pick {
    let Some(highest) = votes.iter().map(|(round, _)| *round).max() else {
        return Pick::Free(Vec::new());
    };
    let mut counts: Vec<(usize, InstanceId)> = Vec::new();
    for (_, name) in votes.iter().filter(|(round, _)| *round == highest) {
        match counts.iter_mut().find(|(_, counted)| counted == name) {
            Some((count, _)) => *count += 1,
            None => counts.push((1, *name)),
        }
    }
    counts.sort_by_key(|(count, name)| (Reverse(*count), *name));
    let needed = match highest.is_coordinated {
        true => 1,
        false => (asked + sizes.fast).saturating_sub(sizes.n),
    };
    match counts.first() {
        Some((count, name)) if *count >= needed => Pick::Forced(*name),
        _ => Pick::Free(counts.into_iter().map(|(_, name)| name).collect()),
    }
}
