//! What the benchmark programs share: how a group says what it is for, how long it takes, and what
//! is measured side by side.

#![allow(dead_code, unreachable_pub, reason = "each program uses a part")]

pub mod cores;
pub mod cpu;
pub mod load;
pub mod rounds;

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode};

/// How long each benchmark of a group is measured.
#[derive(Clone, Copy)]
pub struct Pace {
    warm_up: Duration,
    measure: Duration,
    samples: usize,
    sampling: SamplingMode,
}

impl Pace {
    /// A part, of nanoseconds to milliseconds: two and a half seconds each.
    pub const PART: Pace = Pace {
        warm_up: Duration::from_millis(500),
        measure: Duration::from_secs(2),
        samples: 40,
        sampling: SamplingMode::Auto,
    };

    /// Something so large that a sample is one or a few of them: about as long.
    pub const LARGE: Pace = Pace { samples: 10, sampling: SamplingMode::Flat, ..Pace::PART };

    /// A cluster that is kept busy: four seconds and a half each. Samples are long and all of one
    /// length, so that what begins and what ends a sample hardly counts.
    pub const CLUSTER: Pace = Pace {
        warm_up: Duration::from_millis(500),
        measure: Duration::from_secs(4),
        samples: 10,
        sampling: SamplingMode::Flat,
    };

    /// The same for so many seconds.
    pub const fn measured_for(self, seconds: u64) -> Pace {
        Pace { measure: Duration::from_secs(seconds), ..self }
    }
}

/// Begins a group and prints what question it answers. All groups of all programs together have to
/// stay below a quarter of an hour, so each says how long it takes.
#[expect(clippy::print_stdout, reason = "criterion has no place for it")]
pub fn group<'a>(
    c: &'a mut Criterion,
    name: &str,
    answers: &str,
    pace: Pace,
) -> BenchmarkGroup<'a, WallTime> {
    // A list of benchmarks is for programs.
    if !std::env::args().any(|argument| argument == "--list") {
        println!("\n== {name}: {answers}");
    }
    let mut group = c.benchmark_group(name);
    group.warm_up_time(pace.warm_up).measurement_time(pace.measure);
    group.sample_size(pace.samples).sampling_mode(pace.sampling);
    group
}
