//! What the benchmark programs share: how a group says what it is for, how long it takes, and how
//! several sides are compared.

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
    /// For a part that takes nanoseconds to milliseconds. Each benchmark takes two and a half
    /// seconds.
    pub const PART: Pace = Pace {
        warm_up: Duration::from_millis(500),
        measure: Duration::from_secs(2),
        samples: 40,
        sampling: SamplingMode::Auto,
    };

    /// For work so large that a sample is one or a few iterations. Each benchmark takes about as
    /// long.
    pub const LARGE: Pace = Pace { samples: 10, sampling: SamplingMode::Flat, ..Pace::PART };

    /// For a cluster that is kept busy. Each benchmark takes four and a half seconds. Samples are
    /// long and equal in length, so that the start and the end of a sample hardly count.
    pub const CLUSTER: Pace = Pace {
        warm_up: Duration::from_millis(500),
        measure: Duration::from_secs(4),
        samples: 10,
        sampling: SamplingMode::Flat,
    };

    /// The same pace, but measured for this many seconds.
    pub const fn measured_for(self, seconds: u64) -> Pace {
        Pace { measure: Duration::from_secs(seconds), ..self }
    }
}

/// Begins a group and prints the question that it answers. All groups of all programs together must
/// take less than a quarter of an hour, so each group sets how long it takes.
#[expect(clippy::print_stdout, reason = "criterion has no place for it")]
pub fn group<'a>(
    c: &'a mut Criterion,
    name: &str,
    answers: &str,
    pace: Pace,
) -> BenchmarkGroup<'a, WallTime> {
    // Programs read the list of benchmarks, so print nothing extra.
    if !std::env::args().any(|argument| argument == "--list") {
        println!("\n== {name}: {answers}");
    }
    let mut group = c.benchmark_group(name);
    group.warm_up_time(pace.warm_up).measurement_time(pace.measure);
    group.sample_size(pace.samples).sampling_mode(pace.sampling);
    group
}
