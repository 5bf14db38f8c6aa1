//! Bugs on purpose in the protocols that agree on one sequence, each of which the checks have to
//! notice: by what replicas execute and answer alone.
//!
//! Those that need a long chain of coincidences, and were not noticed in 500 to 1500 worlds, are
//! told as stories in `protocol/multipaxos/tests/breaches`: a promise told too early, a lease that
//! counts from its receipt, grants forgotten, and reads before the barrier. Paxos' promise told too
//! early is found by `protocol/paxos/tests/chaos`.

use std::io::{self, Write as _};
use std::ops::Range;

use super::plan::Overrides;
use super::report::{Broken, Violation};
use super::run::run_sabotaged;
use super::subject::Plant;
use super::world::sabotage::Sabotage;
use crate::protocol::{ProtocolKind, fast_paxos, multipaxos, paxos};

/// How a bug that makes replicas decide, forget or answer wrongly shows.
const UNSAFE: &[Broken] = &[
    Broken::Agreement,
    Broken::Order,
    Broken::Once,
    Broken::Divergence,
    Broken::Linearizability,
    Broken::Ballot,
    Broken::Panic,
];

/// All of them, and whether each needs restarts to show.
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

/// The first of these seeds whose world notices.
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

/// Those that a few worlds show. Where the first one that does is far from seed 0, the hunt begins
/// shortly before it.
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

/// How many seeds each takes, for whoever changes the simulator: minutes in release.
fn survey(seeds: u64, of: impl Fn(Plant) -> bool) {
    for (bug, restarts) in ALL.iter().filter(|(bug, _)| of(*bug)) {
        let found = hunt(0..seeds, *bug, *restarts);
        let found = found.map(|(seed, violation)| (seed, violation.to_string()));
        // Each at once: somebody is waiting.
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
