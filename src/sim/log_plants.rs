//! Bugs on purpose in the protocols that agree on one sequence, each of which the checks have to
//! notice: by what replicas execute and answer alone.

use std::io::{self, Write as _};

use super::plan::Overrides;
use super::report::{Broken, Violation};
use super::runner::run_sabotaged;
use super::subject::Plant;
use super::world::Sabotage;
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

/// The first seed, from 0, whose world notices, of at most `seeds`.
fn hunt(seeds: u64, plant: Plant, restarts: bool) -> Option<(u64, Violation)> {
    let protocol = match plant {
        Plant::EPaxos(_) => ProtocolKind::EPaxos,
        Plant::MultiPaxos(_) => ProtocolKind::MultiPaxos,
        Plant::FastPaxos(_) => ProtocolKind::FastPaxos,
        Plant::Paxos(_) => ProtocolKind::Paxos,
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
    for (bug, restarts) in ALL {
        let found = hunt(5000, *bug, *restarts);
        let found = found.map(|(seed, violation)| (seed, violation.to_string()));
        // Each at once: somebody is waiting.
        let line = writeln!(io::stderr(), "{bug:?}: {found:?}");
        line.expect("standard error can be written to");
    }
}
