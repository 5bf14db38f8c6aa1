//! Bugs on purpose, each of which the checks have to notice (protocol.md §9).

use std::num::NonZeroUsize;

use super::plan::Overrides;
use super::report::{Broken, Violation};
use super::runner::run_sabotaged;
use super::world::Sabotage;
use crate::protocol::epaxos::Plant;

/// The first seed, from 0, whose world notices, of at most `seeds`.
fn hunt(replicas: usize, seeds: u64, sabotage: Sabotage) -> Option<(u64, Violation)> {
    let overrides = Overrides { replicas: Some(replicas), ..Overrides::default() };
    (0..seeds).find_map(|seed| {
        let verdict = run_sabotaged(seed, &overrides, sabotage, None);
        verdict.violation.map(|violation| (seed, violation))
    })
}

fn planted(plant: Plant) -> Sabotage {
    Sabotage { plant: Some(plant), ..Sabotage::default() }
}

#[test]
#[ignore]
fn survey() {
    for plant in Plant::ALL {
        for n in [3, 4, 5, 7] {
            let began = std::time::Instant::now();
            let found = hunt(n, 3000, planted(plant));
            eprintln!("{plant:?} n = {n}: {found:?} {:?}", began.elapsed());
        }
    }
    for n in [3, 5] {
        let sabotage = Sabotage { answer_at_commit: true, ..Sabotage::default() };
        eprintln!("answer at commit n = {n}: {:?}", hunt(n, 1500, sabotage));
    }
}
