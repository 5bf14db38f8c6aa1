//! Bugs on purpose in the protocols that agree on one sequence, each of which the checks have to
//! notice: by what replicas execute and answer alone.

use super::plan::Overrides;
use super::report::{Broken, Violation};
use super::runner::run_sabotaged;
use super::subject::Plant;
use super::world::Sabotage;
use crate::protocol::ProtocolKind;
use crate::protocol::multipaxos;

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

/// The first seed, from 0, whose world notices, of at most `seeds`.
fn hunt(seeds: u64, plant: Plant, restarts: bool) -> Option<(u64, Violation)> {
    let protocol = match plant {
        Plant::EPaxos(_) => ProtocolKind::EPaxos,
        Plant::MultiPaxos(_) => ProtocolKind::MultiPaxos,
    };
    let overrides = Overrides { protocol, restarts, ..Overrides::default() };
    let sabotage = Sabotage { plant: Some(plant), ..Sabotage::default() };
    (0..seeds).find_map(|seed| {
        let verdict = run_sabotaged(seed, &overrides, sabotage, None);
        let violation = verdict.violation.filter(|it| UNSAFE.contains(&it.broken));
        violation.map(|violation| (seed, violation))
    })
}

/// How many seeds each takes, for whoever changes the simulator: minutes in release.
#[test]
#[ignore = "a measurement"]
fn survey() {
    use multipaxos::Plant as Bug;
    let bugs = [
        (Bug::EarlyVote, true),
        (Bug::EarlyPromise, true),
        (Bug::EarlyPrepare, true),
        (Bug::IgnoreAccepted, false),
        (Bug::CommitAnyBallot, false),
        (Bug::LeaseFromReceipt, false),
        (Bug::ForgetGrants, true),
        (Bug::NoBarrier, false),
    ];
    let mut lines = Vec::new();
    for (bug, restarts) in bugs {
        let found = hunt(300, Plant::MultiPaxos(bug), restarts);
        let found = found.map(|(seed, violation)| (seed, violation.to_string()));
        lines.push(format!("{bug:?}: {found:?}"));
    }
    panic!("{}", lines.join("\n"));
}
