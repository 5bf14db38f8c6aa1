//! Clusters whose members change: machines join, leave, are lost and are replaced, while messages
//! are lost, replicas crash and disks are slow. Beside the worlds of `run`, in which the members
//! stay the same and everything else happens.
//!
//! Observers come and go, too, and are promoted. They say nothing of a protocol, and the state of
//! one never goes back in a life.
//!
//! Checked: all replicas end an epoch in the same state, nothing that was answered is lost, what
//! clients hear fits one order, and what was said to have had no effect has none. Once nothing
//! fails any more, all members of the last list are in its epoch and in one state, all commands are
//! answered, and removed replicas have stopped. Of a world whose last list has no quorum left, only
//! what clients hear is checked at the end.

mod tally;
#[cfg(test)]
mod tests;
mod world;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::run::{DESCRIBED, catch, for_each_seed};
use super::subject::with_protocol;
use super::{DEMANDING, Options};
use crate::protocol::ProtocolKind;
use world::World;

/// What came of many worlds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Changes {
    /// Worlds.
    pub seeds: u64,
    /// How often each thing happened.
    pub counts: BTreeMap<&'static str, usize>,
    /// The first failed seeds, and the promise that each has broken.
    pub failures: Vec<(u64, String)>,
    /// How many seeds failed.
    pub violations: usize,
    /// Things that never happened, though so many seeds must meet them.
    pub never: Vec<&'static str>,
}

impl Changes {
    /// No violation, and everything happened that had to.
    pub fn is_good(&self) -> bool {
        self.violations == 0 && self.never.is_empty()
    }

    /// As one JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        let failures = self
            .failures
            .iter()
            .map(|(seed, violation)| serde_json::json!({ "seed": seed, "violation": violation }));
        serde_json::json!({
            "seeds": self.seeds,
            "violations": self.violations,
            "counts": self.counts,
            "failures": failures.collect::<Vec<_>>(),
            "never_reached": self.never,
        })
    }
}

/// Runs the worlds of many seeds. Of the options, only the seeds, the threads and the protocol
/// count. `progress` is told of each world whether it failed.
pub fn run_changes(options: &Options, progress: impl Fn(bool) + Sync) -> Changes {
    let total = Mutex::new(Changes { seeds: options.seeds, ..Changes::default() });
    for_each_seed(options, |seed| {
        let result = run_seed(seed, options.overrides.protocol);
        progress(result.is_err());
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(counts) => {
                for (name, count) in counts {
                    *total.counts.entry(name).or_default() += count;
                }
            }
            Err(violation) => total.failures.push((seed, violation)),
        }
    });
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.violations = total.failures.len();
    total.failures.sort_unstable();
    total.failures.truncate(DESCRIBED);
    if options.seeds >= DEMANDING {
        let never = total.counts.iter().filter(|(_, count)| **count == 0);
        total.never = never.map(|(name, _)| *name).collect();
    }
    total
}

type Counts = Vec<(&'static str, usize)>;

fn run_seed(seed: u64, protocol: ProtocolKind) -> Result<Counts, String> {
    let world = || with_protocol!(protocol, P => World::<P>::new(seed).judge());
    catch(world).and_then(|ended| ended).map(|tally| tally.paths().to_vec())
}
