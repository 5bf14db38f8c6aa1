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
//! The paper requires that any two quorums meet, and that a majority meets the common part of any
//! two fast quorums (`majority + 2 fast > 2n`). So from a majority's votes at most one of two
//! values can look chosen.

use std::cmp::Reverse;

use crate::types::{Ballot, InstanceId};

/// A round of one slot. Every ballot of the log has two. In the first, if the ballot is fast,
/// acceptors vote for what proposers send them; in the second, for what the coordinator sends them.
/// So the coordinator recovers from a collision without another phase 1: no round lies between the
/// two, and an acceptor that voted in the first has thereby promised to vote for nothing else in it
/// (§3.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Round {
    /// The ballot.
    pub ballot: Ballot,
    /// Whether it is the second round, which is coordinated.
    pub is_coordinated: bool,
}

impl Round {
    /// The first round of a ballot, in which any replica may propose.
    pub const fn anybodys(ballot: Ballot) -> Round {
        Round { ballot, is_coordinated: false }
    }

    /// The second round of a ballot, in which the coordinator proposes.
    pub const fn coordinated(ballot: Ballot) -> Round {
        Round { ballot, is_coordinated: true }
    }
}

/// The quorum sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sizes {
    pub(super) n: usize,
    /// The quorum of phase 1, and of a coordinated round.
    pub(super) classic: usize,
    /// The quorum of a round in which any replica may propose.
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

/// What the votes of phase 1, or of a fast round, leave for the coordinator to pick.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Pick {
    /// This value may have been chosen, so it must be picked.
    Forced(InstanceId),
    /// No value can have been chosen. The candidates, most votes first.
    Free(Vec<InstanceId>),
}

/// The rule. Of the last votes of a quorum of `asked` acceptors, only those of the highest round
/// count. In a coordinated round there was only one value. In a fast round, a value may have been
/// chosen if enough of those asked voted for it: all but `n - fast`, since a fast quorum leaves out
/// that many acceptors at most.
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
