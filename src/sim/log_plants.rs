//! Deliberate bugs in the log-based protocols. The checks must notice each of them, using only what
//! replicas execute and answer.
//!
//! Some bugs need a long chain of coincidences, and 500 to 1500 worlds did not show them. Stories
//! in `protocol/multipaxos/tests/breaches` cover these: a promise sent too early, a lease that
//! counts from its receipt, forgotten grants, and reads before the barrier.
//! `protocol/paxos/tests/chaos` finds Paxos' promise that is sent too early.

use std::io::{self, Write as _};
use std::ops::Range;

use super::plan::Overrides;
use super::report::{Broken, Violation};
use super::run::run_sabotaged;
use super::subject::Plant;
use super::world::sabotage::Sabotage;
use crate::protocol::{ProtocolKind, fast_paxos, multipaxos, paxos};

/// How a bug shows that makes replicas decide, forget or answer wrongly.
const UNSAFE: &[Broken] = &[
    Broken::Agreement,
    Broken::Order,
    Broken::Once,
    Broken::Divergence,
    Broken::Linearizability,
    Broken::Ballot,
    Broken::Panic,
];

/// All bugs, and whether each needs restarts to show.
const ALL: &[(Plant, bool)] = &[
    (Plant::MultiPaxos(multipaxos::Plant::EarlyVote), true),
    (Plant::MultiPaxos(multipaxos::Plant::EarlyPromise), true),
    (Plant::MultiPaxos(multipaxos::Plant::EarlyPrepare), true),
    (Plant::MultiPaxos(multipaxos::Plant::IgnoreAccepted), false),
    (Plant::MultiPaxos(multipaxos::Plant::CommitAnyBallot), false),
    (Plant::MultiPaxos(multipaxos::Plant::LeaseFromReceipt), false),
    (Plant::MultiPaxos(multipaxos::Plant::ForgetGrants), true),
    (Plant::MultiPaxos(multipaxos::Plant::NoBarrier), false),
    (Plant::MultiPaxos(multipaxos::Plant::NoHole), true),
    (Plant::MultiPaxos(multipaxos::Plant::SmallQuorum), false),
    (Plant::MultiPaxos(multipaxos::Plant::ExpiredLease), false),
    (Plant::FastPaxos(fast_paxos::Plant::SmallFastQuorum), false),
    (Plant::FastPaxos(fast_paxos::Plant::IgnoreForced), false),
    (Plant::FastPaxos(fast_paxos::Plant::IgnoreFound), false),
    (Plant::FastPaxos(fast_paxos::Plant::EarlyPromise), true),
    (Plant::FastPaxos(fast_paxos::Plant::EarlyVote), true),
    (Plant::FastPaxos(fast_paxos::Plant::EarlyBallot), true),
    (Plant::Paxos(paxos::Plant::IgnoreFound), false),
    (Plant::Paxos(paxos::Plant::EarlyPromise), true),
    (Plant::Paxos(paxos::Plant::EarlyVote), true),
    (Plant::Paxos(paxos::Plant::EarlyBallot), true),
    (Plant::Paxos(paxos::Plant::SmallQuorum), false),
];

/// The first of these seeds whose world shows the bug.
fn hunt(mut seeds: Range<u64>, plant: Plant, restarts: bool) -> Option<(u64, Violation)> {
    let protocol = match plant {
        Plant::EPaxos(_) => ProtocolKind::EPaxos,
        Plant::MultiPaxos(_) => ProtocolKind::MultiPaxos,
        Plant::FastPaxos(_) => ProtocolKind::FastPaxos,
        Plant::Paxos(_) => ProtocolKind::Paxos,
    };
    let overrides = Overrides { protocol, restarts, ..Overrides::default() };
    let sabotage = Sabotage { plant: Some(plant), ..Sabotage::default() };
    seeds.find_map(|seed| {
        let verdict = run_sabotaged(seed, &overrides, sabotage, None);
        let violation = verdict.violation.filter(|it| UNSAFE.contains(&it.broken));
        violation.map(|violation| (seed, violation))
    })
}

/// For bugs that a few worlds show. If the first such seed is far from 0, the search starts shortly
/// before it.
#[track_caller]
fn caught(seeds: Range<u64>, plant: Plant) {
    let (_, restarts) = ALL.iter().find(|(bug, _)| *bug == plant).expect("it is one of them");
    assert!(hunt(seeds, plant, *restarts).is_some(), "{plant:?} goes unnoticed");
}

#[test]
fn multi_paxos_that_takes_too_few_for_a_majority() {
    caught(0..40, Plant::MultiPaxos(multipaxos::Plant::SmallQuorum));
}

#[test]
fn multi_paxos_that_says_what_is_not_durable() {
    caught(45..105, Plant::MultiPaxos(multipaxos::Plant::EarlyVote));
    caught(60..120, Plant::MultiPaxos(multipaxos::Plant::EarlyPrepare));
    caught(80..140, Plant::MultiPaxos(multipaxos::Plant::NoHole));
}

#[test]
fn multi_paxos_whose_leader_overlooks_votes() {
    caught(195..255, Plant::MultiPaxos(multipaxos::Plant::IgnoreAccepted));
    caught(0..60, Plant::MultiPaxos(multipaxos::Plant::CommitAnyBallot));
}

#[test]
fn multi_paxos_that_reads_after_its_lease() {
    caught(380..440, Plant::MultiPaxos(multipaxos::Plant::ExpiredLease));
}

#[test]
fn fast_paxos_that_takes_too_few_for_a_fast_quorum() {
    caught(0..20, Plant::FastPaxos(fast_paxos::Plant::SmallFastQuorum));
}

#[test]
fn fast_paxos_whose_coordinator_overlooks_what_may_be_chosen() {
    caught(0..20, Plant::FastPaxos(fast_paxos::Plant::IgnoreForced));
    caught(0..40, Plant::FastPaxos(fast_paxos::Plant::IgnoreFound));
}

#[test]
fn fast_paxos_that_says_what_is_not_durable() {
    caught(50..110, Plant::FastPaxos(fast_paxos::Plant::EarlyVote));
    caught(710..770, Plant::FastPaxos(fast_paxos::Plant::EarlyPromise));
    caught(0..20, Plant::FastPaxos(fast_paxos::Plant::EarlyBallot));
}

#[test]
fn paxos_whose_proposer_overlooks_what_it_found() {
    caught(0..40, Plant::Paxos(paxos::Plant::IgnoreFound));
}

#[test]
fn paxos_that_takes_too_few_for_a_majority() {
    caught(0..20, Plant::Paxos(paxos::Plant::SmallQuorum));
}

#[test]
fn paxos_that_says_what_is_not_durable() {
    caught(125..185, Plant::Paxos(paxos::Plant::EarlyVote));
    caught(0..20, Plant::Paxos(paxos::Plant::EarlyBallot));
}

/// How many seeds each bug takes, for changes of the simulator; takes minutes in release.
fn survey(seeds: u64, of: impl Fn(Plant) -> bool) {
    for (bug, restarts) in ALL.iter().filter(|(bug, _)| of(*bug)) {
        let found = hunt(0..seeds, *bug, *restarts);
        let found = found.map(|(seed, violation)| (seed, violation.to_string()));
        // Print each result at once, because the survey takes long.
        let line = writeln!(io::stderr(), "{bug:?}: {found:?}");
        line.expect("standard error can be written to");
    }
}

#[test]
#[ignore = "a measurement"]
fn survey_multi_paxos() {
    survey(5000, |bug| matches!(bug, Plant::MultiPaxos(_)));
}

#[test]
#[ignore = "a measurement"]
fn survey_fast_paxos() {
    survey(5000, |bug| matches!(bug, Plant::FastPaxos(_)));
}

#[test]
#[ignore = "a measurement"]
fn survey_paxos() {
    survey(5000, |bug| matches!(bug, Plant::Paxos(_)));
}
