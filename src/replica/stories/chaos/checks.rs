//! The checks of chaos, how many schedules run, and tests that planted bugs are caught.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Tally, schedule};
use crate::protocol::PathSet;
use crate::protocol::epaxos::{Path, Plant};
use crate::types::{Decision, InstanceId, Value};

/// Everything that any replica decided in any life.
#[derive(Default)]
pub(super) struct Truth(BTreeMap<InstanceId, Decision>);

impl Truth {
    /// `at` has decided: checks that it agrees with the others and that conflicting commands see
    /// each other.
    pub(super) fn hear(&mut self, at: usize, decision: &Decision) -> Result<(), String> {
        let Decision { id, value, deps, .. } = decision;
        if let Some(before) = self.0.get(id) {
            // The dependencies of a Nop do not matter.
            let same = before.value == *value && (value.is_nop() || before.deps == *deps);
            return same.then_some(()).ok_or_else(|| {
                format!("Agreement: r{at} decides {decision:?}, and before that was {before:?}")
            });
        }
        for other in self.0.values() {
            let (Value::Batch(here), Value::Batch(there)) = (value, &other.value) else { continue };
            let conflict = here.footprint().conflicts(there.footprint());
            if conflict && !deps.covers(other.id) && !other.deps.covers(*id) {
                return Err(format!(
                    "Visibility: neither of {id} and {} covers the other",
                    other.id
                ));
            }
        }
        self.0.insert(*id, decision.clone());
        Ok(())
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &InstanceId> {
        self.0.keys()
    }
}

/// The outcome of a schedule; a panic of a replica counts as a violation.
fn outcome(n: usize, seed: u64, plant: Option<Plant>) -> Result<Tally, String> {
    let panicked = |panic: Box<dyn std::any::Any + Send>| {
        let text = panic.downcast_ref::<String>().cloned();
        text.unwrap_or_else(|| panic.downcast_ref::<&str>().copied().unwrap_or("?").to_owned())
    };
    catch_unwind(AssertUnwindSafe(|| schedule(n, seed, plant)))
        .unwrap_or_else(|panic| Err(format!("panic: {}", panicked(panic))))
}

/// Runs `count` schedules. All must be sound, and the paths in `OFTEN` must have been reached.
#[track_caller]
fn sound(sizes: &[usize], from: u64, count: u64) -> String {
    let (mut sum, mut broken) = (Tally::default(), Vec::new());
    for n in sizes {
        for seed in from..from + count {
            match outcome(*n, seed, None) {
                Ok(tally) => {
                    sum.paths.add(&tally.paths);
                    sum.crashes += tally.crashes;
                    sum.excused += tally.excused;
                }
                Err(violation) => broken.push(format!("n {n}, seed {seed}: {violation}")),
            }
        }
    }
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
    let schedules = count * sizes.len() as u64;
    let of = |path| sum.paths.count(path);
    let counts = Path::ALL.iter().map(|path| format!("{} {}", path.name(), of(*path)));
    let counts: Vec<String> = counts.collect();
    let summary = format!(
        "{schedules} schedules, {} crashes, {} excused: {}",
        sum.crashes,
        sum.excused,
        counts.join(", "),
    );
    for (path, tenths) in OFTEN {
        assert!(of(*path) * 10 >= schedules * tenths, "{path:?} is too rare in {summary}");
    }
    assert!(sum.excused as u64 * 3 <= schedules, "too many are excused in {summary}");
    summary
}

/// How often a schedule must reach each path on average, in tenths.
const OFTEN: &[(Path, u64)] = &[
    (Path::Recovery, 10),
    (Path::Orphan, 3),
    (Path::LostSlot, 3),
    (Path::CutEstablished, 5),
    (Path::Dropped, 5),
    (Path::Truncated, 5),
    (Path::Installed, 5),
];

#[test]
fn chaos_breaks_nothing() {
    sound(&[3, 4, 5, 7], 0, 40);
}

/// `ISONOMY_CHAOS` is the number of schedules of each size, `ISONOMY_CHAOS_FROM` the first seed.
/// The counts of paths are written to the file `ISONOMY_CHAOS_COUNTS`, if set.
#[test]
#[ignore = "as long as it is told to"]
fn chaos_for_long() {
    let number = |name, usual| {
        let asked = std::env::var(name).ok();
        asked.map_or(usual, |asked| asked.parse().expect("it is a number"))
    };
    let summary =
        sound(&[3, 4, 5, 7], number("ISONOMY_CHAOS_FROM", 0), number("ISONOMY_CHAOS", 1000));
    let out = std::env::var("ISONOMY_CHAOS_COUNTS");
    out.into_iter().for_each(|path| std::fs::write(path, &summary).expect("it can be written"));
}

/// The first schedule, out of `count`, that notices a broken rule.
fn hunt(n: usize, count: u64, plant: Plant) -> Option<(u64, String)> {
    (0..count).find_map(|seed| Some((seed, outcome(n, seed, Some(plant)).err()?)))
}

#[track_caller]
fn caught(n: usize, count: u64, plant: Plant) {
    assert!(hunt(n, count, plant).is_some(), "{plant:?} breaks nothing in {count} schedules");
}

#[test]
fn what_is_dropped_matters() {
    caught(3, 100, Plant::TruncatedVote);
    caught(5, 200, Plant::ForgetAtCut);
    caught(3, 400, Plant::InstallForgets);
}

#[test]
fn what_is_lost_in_a_crash_matters() {
    caught(3, 300, Plant::EarlyOwnVote);
    caught(3, 400, Plant::LostNotInConf);
    caught(3, 1000, Plant::OrphanOnlyAtOwnersBallot);
    caught(3, 300, Plant::OrphanCountsItself);
    caught(5, 200, Plant::EarlyPreAccept);
    caught(3, 100, Plant::EarlyVote);
}

/// How many schedules each planted bug takes; run it after a change here.
#[test]
#[ignore = "a measurement"]
fn survey() {
    let mut lines = Vec::new();
    let plants = Plant::TRUNCATING.iter().chain(&Plant::OPTIMISED).chain(&Plant::EARLY);
    for plant in plants.chain(&Plant::ALL) {
        for n in [3, 4, 5] {
            let found = hunt(n, 400, *plant);
            lines.push(format!("{plant:?}, {n} replicas: {found:.200?}"));
        }
    }
    panic!("{}", lines.join("\n"));
}
