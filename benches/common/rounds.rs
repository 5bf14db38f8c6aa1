//! Alternating rounds: a machine drifts by more than what two protocols differ, so those that are
//! compared take turns within one run, and what counts is the ratio within a round.

use std::time::Duration;

use criterion::Criterion;

use super::{Pace, group};

/// One of those that are compared.
pub trait Side {
    /// Executes commands for a moment: how many, and in which time.
    fn run(&mut self) -> (u64, Duration);

    /// Comes to an end, and panics unless everything was executed rightly.
    fn check(&mut self);
}

/// How long each runs in a round, at least.
const TURN: Duration = Duration::from_millis(40);
/// Fewer say nothing about the spread.
const FEWEST: usize = 5;

/// Lets all take turns, in another order every round, and prints what a command costs each as a
/// multiple of what it costs the first. `open` makes them, if they are to be measured at all.
pub fn compare(
    c: &mut Criterion,
    name: &str,
    answers: &str,
    pace: Pace,
    open: impl Fn() -> Vec<(&'static str, Box<dyn Side>)>,
) {
    let mut group = group(c, name, answers, pace);
    let mut sides = Vec::new();
    let mut rounds: Vec<Vec<f64>> = Vec::new();
    group.bench_function("alternating_round", |b| {
        if sides.is_empty() {
            sides = open();
        }
        b.iter_custom(|times| {
            let mut total = Duration::ZERO;
            for _ in 0..times {
                let mut round = vec![0.0; sides.len()];
                for turn in 0..sides.len() {
                    let at = (turn + rounds.len()) % sides.len();
                    let (commands, took) = run_for(&mut *sides[at].1);
                    round[at] = took.as_secs_f64() / commands as f64;
                    total += took;
                }
                rounds.push(round);
            }
            total
        });
    });
    group.finish();
    sides.iter_mut().for_each(|(_, side)| side.check());
    let names: Vec<&str> = sides.iter().map(|(name, _)| *name).collect();
    // The first round is everybody's first.
    print(name, &names, rounds.get(1..).unwrap_or_default());
}

fn run_for(side: &mut dyn Side) -> (u64, Duration) {
    let (mut commands, mut took) = (0, Duration::ZERO);
    while took < TURN {
        let more = side.run();
        commands += more.0;
        took += more.1;
    }
    (commands, took)
}

#[expect(clippy::print_stdout, reason = "criterion has no place for ratios")]
fn print(group: &str, names: &[&str], rounds: &[Vec<f64>]) {
    if rounds.len() < FEWEST {
        return;
    }
    println!("{group}: time per command in {} rounds, median (the middle half)", rounds.len());
    for (at, name) in names.iter().enumerate() {
        let micros = spread(rounds.iter().map(|round| round[at] * 1e6));
        let ratio = spread(rounds.iter().map(|round| round[at] / round[0]));
        println!("    {name:12} {micros} us, {ratio} of {}'s", names[0]);
    }
}

/// The median, and between what the middle half lies: a busy machine spoils single rounds.
fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
    format!("{:.2} ({:.2} to {:.2})", at(2), at(1), at(3))
}
