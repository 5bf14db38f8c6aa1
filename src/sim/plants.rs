//! Deliberate bugs, each of which the checks must notice (PROTOCOL.md §9). The number of seeds that
//! this takes was measured. Each test allows several times as many, because other changes shuffle
//! the seeds.
//!
//! Some bugs need a long chain of coincidences and thousands of seeds. Stories in `replica/stories`
//! cover these: no index entry at Validate, yielding too early, forgetting early, and a Commit that
//! takes what was accepted.

use super::plan::Overrides;
use super::report::{Broken, Violation};
use super::run::run_sabotaged;
use super::subject;
use super::world::sabotage::Sabotage;
use crate::protocol::epaxos::Plant;

/// The first of `seeds` seeds, from 0, whose world shows the bug.
fn hunt(replicas: usize, seeds: u64, sabotage: Sabotage) -> Option<(u64, Violation)> {
    let overrides = Overrides { replicas: Some(replicas), ..Overrides::default() };
    (0..seeds).find_map(|seed| {
        let verdict = run_sabotaged(seed, &overrides, sabotage, None);
        verdict.violation.map(|violation| (seed, violation))
    })
}

fn planted(plant: Plant) -> Sabotage {
    Sabotage { plant: Some(subject::Plant::EPaxos(plant)), ..Sabotage::default() }
}

#[track_caller]
fn caught(replicas: usize, seeds: u64, sabotage: Sabotage, as_any: &[Broken]) {
    let found = hunt(replicas, seeds, sabotage);
    let (seed, violation) = found.expect("the checks notice");
    assert!(as_any.contains(&violation.broken), "seed {seed} says {violation}");
}

/// Promises that break when replicas decide wrongly.
const UNSAFE: &[Broken] = &[
    Broken::Agreement,
    Broken::Visibility,
    Broken::Order,
    Broken::Divergence,
    Broken::Linearizability,
    Broken::Panic,
];

#[test]
fn one_ballot_where_two_are_needed() {
    caught(5, 100, planted(Plant::SingleBallot), UNSAFE);
}

#[test]
fn a_fast_quorum_one_too_small() {
    caught(3, 50, planted(Plant::SmallFastQuorum), UNSAFE);
}

#[test]
fn recovery_without_validation() {
    caught(5, 100, planted(Plant::NoValidate), UNSAFE);
}

#[test]
fn a_late_vote_that_changes_what_was_proposed() {
    caught(3, 50, planted(Plant::LateVote), UNSAFE);
}

#[test]
fn a_nop_that_no_longer_counts() {
    caught(5, 100, planted(Plant::ForgetNop), UNSAFE);
    caught(5, 100, planted(Plant::NopHidesPayload), UNSAFE);
}

#[test]
fn a_gap_that_nobody_recovers() {
    caught(3, 200, planted(Plant::GapsStay), &[Broken::Liveness]);
}

#[test]
fn an_answer_at_commit() {
    let sabotage = Sabotage { answer_at_commit: true, ..Sabotage::default() };
    caught(3, 400, sabotage, &[Broken::Linearizability]);
}

/// Clients that misuse ids make replicas diverge, in worlds that have such clients.
#[test]
fn one_id_for_all_that_a_client_sends_under_it() {
    let sabotage = Sabotage { one_content: true, ..Sabotage::default() };
    let seen = [UNSAFE, &[Broken::Once]].concat();
    caught(3, 100, sabotage, &seen);
}

/// How many seeds each bug takes, for changes of the simulator; takes minutes in release.
#[test]
#[ignore = "a measurement"]
fn survey() {
    let mut lines = Vec::new();
    let at_commit = Sabotage { answer_at_commit: true, ..Sabotage::default() };
    let plants = Plant::ALL.iter().map(|plant| (format!("{plant:?}"), planted(*plant)));
    for (name, sabotage) in plants.chain([("AnswerAtCommit".to_owned(), at_commit)]) {
        for replicas in [3, 5] {
            let found = hunt(replicas, 1000, sabotage);
            let found = found.map(|(seed, violation)| (seed, violation.to_string()));
            lines.push(format!("{name}, {replicas} replicas: {found:?}"));
        }
    }
    panic!("{}", lines.join("\n"));
}
