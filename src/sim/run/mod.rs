//! From a seed to its verdict. `turn` runs a world, `calm` ends it, `shrink` makes a failing world
//! smaller, and `runner` does all that for many seeds.

mod calm;
mod runner;
mod shrink;
mod turn;

#[cfg(test)]
pub(super) use runner::run_sabotaged;
pub use runner::{DEMANDING, Options, reproduction, run, run_seed};
pub(super) use runner::{DESCRIBED, catch, for_each_seed};
