//! From a seed to its verdict: `calm` is the end of a world, `turn` all of it; `shrink` makes a
//! world that fails smaller; `runner` does that for many seeds.

mod calm;
mod runner;
mod shrink;
mod turn;

#[cfg(test)]
pub(super) use runner::run_sabotaged;
pub use runner::{DEMANDING, Options, reproduction, run, run_seed};
