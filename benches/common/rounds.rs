//! Alternating rounds. The speed of a machine drifts by more than the difference between two
//! protocols, so the compared sides take turns within one run. The result is the ratio within a
//! round.

use std::time::Duration;

use criterion::Criterion;

use super::{Pace, group};

/// One of the sides that are compared.
pub trait Side {
    /// Executes commands for a moment. Returns how many, and how long it took.
    fn run(&mut self) -> (u64, Duration);

    /// Finishes its work, and panics unless everything was executed correctly.
    fn check(&mut self);
}

/// How long each side runs in a round, at least.
const TURN: Duration = Duration::from_millis(40);
/// With fewer rounds, the spread says nothing.
const FEWEST: usize = 5;

/// Lets all sides take turns, in a different order in every round. Prints the cost of a command at
/// each side as a multiple of its cost at the first side. `open` makes the sides, if they are
/// measured at all.
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
    // Drop the first round, in which every side is still new.
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

/// The median, and the range of the middle half. A busy machine spoils single rounds.
fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
    format!("{:.2} ({:.2} to {:.2})", at(2), at(1), at(3))
}
