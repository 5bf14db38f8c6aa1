//! Runs many seeds on many threads. Each seed is an independent world, so the result does not
//! depend on the number of threads. After `turn`.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::shrink::shrink;
use crate::protocol::{Protocol, ProtocolKind};
use crate::sim::plan::{Overrides, Plan};
use crate::sim::report::{Broken, Counter, Counters, Failure, Summary, Verdict, Violation};
use crate::sim::subject::{Demand, Subject, with_protocol};
use crate::sim::world::sabotage::Sabotage;
use crate::sim::world::state::World;
use crate::types::Time;

/// A run of at least this many seeds of the default mix must take every path.
pub const DEMANDING: u64 = 1000;

/// Sights that are met a few times in that many seeds, or never, and so are not required.
///
/// The first: a requested snapshot arrives, and this replica has executed or announced everything
/// in it. Usually it cannot have, because the others have dropped what it lacks. A story of
/// `replica::stories::truncation` covers it. The second: a copy of a disk that the others cannot
/// recognise as older. It is rare because replicas hear of each other so often.
const RARE: [Counter; 2] = [Counter::InstallRefused, Counter::OlderUnknown];

/// The most failures that are described and shrunk.
pub(in crate::sim) const DESCRIBED: usize = 10;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The first seed.
    pub start: u64,
    /// The number of seeds.
    pub seeds: u64,
    /// The changes to every world.
    pub overrides: Overrides,
    /// The number of threads.
    pub threads: NonZeroUsize,
    /// Whether to search for the smallest world that still fails.
    pub shrink: bool,
}

impl Default for Options {
    /// A thousand seeds from 0, on all cores.
    fn default() -> Options {
        Options {
            start: 0,
            seeds: 1000,
            overrides: Overrides::default(),
            threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            shrink: true,
        }
    }
}

/// Calls `run` for each seed of the options, on as many threads as they say, in no given order.
pub(in crate::sim) fn for_each_seed(options: &Options, run: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..options.threads.get() {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= options.seeds {
                        return;
                    }
                    run(options.start.wrapping_add(index));
                }
            });
        }
    });
}

/// Runs seeds. `progress` is called after every seed, with whether it failed.
pub fn run(options: &Options, progress: impl Fn(bool) + Sync) -> Summary {
    let total = Mutex::new((Summary::default(), Vec::new()));
    for_each_seed(options, |seed| {
        let began = Instant::now();
        let verdict = run_seed(seed, &options.overrides, None);
        let busy = began.elapsed();
        progress(verdict.violation.is_some());
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.0.add(&verdict, busy);
        if let Some(violation) = verdict.violation {
            total.1.push((seed, violation));
        }
    });
    let (mut summary, failed) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.failures = describe(options, failed);
    let Overrides { protocol, restarts, .. } = options.overrides;
    summary.paths.retain(|name, count| *count > 0 || demand(name, protocol) != Demand::Never);
    let default_mix = options.overrides == Overrides { protocol, restarts, ..Overrides::default() };
    if options.seeds >= DEMANDING && default_mix {
        let never = summary.paths.iter().filter(|(_, count)| **count == 0);
        let never = never.filter(|(name, _)| match demand(name, protocol) {
            Demand::Always => true,
            Demand::WithRestarts => restarts,
            Demand::Seldom | Demand::Never => false,
        });
        summary.never = never.map(|(name, _)| *name).collect();
    }
    summary
}

/// Whether a long run must meet the path or the sight of this name.
fn demand(name: &str, protocol: ProtocolKind) -> Demand {
    let Some(counter) = Counter::ALL.iter().find(|counter| counter.name() == name) else {
        return with_protocol!(protocol, P => P::demand(name));
    };
    if RARE.contains(counter) || !with_protocol!(protocol, P => counter.is_met_by::<P>()) {
        Demand::Seldom
    } else if counter.needs_restarts() {
        Demand::WithRestarts
    } else {
        Demand::Always
    }
}

fn describe(options: &Options, mut failed: Vec<(u64, Violation)>) -> Vec<Failure> {
    failed.sort_unstable_by_key(|(seed, _)| *seed);
    failed.truncate(DESCRIBED);
    let describe = |(seed, violation): (u64, Violation)| {
        let shrunk = options.shrink.then(|| {
            let fails = |overrides: &Overrides| run_seed(seed, overrides, None).violation;
            shrink(seed, &options.overrides, &violation, fails)
        });
        Failure { seed, reproduce: reproduction(seed, &options.overrides), violation, shrunk }
    };
    failed.into_iter().map(describe).collect()
}

/// The command line that runs one world again.
pub fn reproduction(seed: u64, overrides: &Overrides) -> String {
    format!("isonomy sim --seed {seed}{overrides}")
}

/// Runs one seed's world, and writes a line to `transcript` for each event.
///
/// A failed assertion in the code under test is a violation like any other.
pub fn run_seed(seed: u64, overrides: &Overrides, transcript: Option<&mut dyn Write>) -> Verdict {
    run_sabotaged(seed, overrides, Sabotage::default(), transcript)
}

pub(in crate::sim) fn run_sabotaged(
    seed: u64,
    overrides: &Overrides,
    sabotage: Sabotage,
    transcript: Option<&mut dyn Write>,
) -> Verdict {
    let plan = || Plan::draw(seed, overrides);
    let verdict = catch(|| {
        with_protocol!(overrides.protocol, P => {
            World::<P>::new(plan(), sabotage, transcript).run()
        })
    });
    verdict.unwrap_or_else(|detail| Verdict {
        seed,
        trace: 0,
        simulated: Duration::ZERO,
        operations: 0,
        slowest: Duration::ZERO,
        violation: Some(Violation { broken: Broken::Panic, detail, at: Time::ZERO }),
        paths: with_protocol!(overrides.protocol, P => P::paths()),
        counters: Counters::default(),
        largest_component: 0,
    })
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs code that may panic. An error contains the panic's message and place.
pub(in crate::sim) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CATCHING.get() {
                CAUGHT.set(info.to_string());
            } else {
                before(info);
            }
        }));
    });
    CATCHING.set(true);
    // After a panic, nothing of the world is used.
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    CATCHING.set(false);
    result.map_err(|_| CAUGHT.take())
}

#[cfg(test)]
mod tests;
