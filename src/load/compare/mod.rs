//! Comparing protocols: the same load on each in turn, and a report of what was seen.
//!
//! `plan` is what was asked for, `series` runs it (by `virtual_runs` or `real_runs`, both with the
//! load in `asking`; `cpu` is what replicas work), `kept` is what is kept of a run, `keep` keeps it.
//! Reports are made from `figures`, elsewhere. `verdict` holds two comparisons against each other,
//! with the test in `significance`.

mod asking;
mod cpu;
pub mod figures;
#[cfg(test)]
pub(super) mod fixture;
pub mod keep;
pub mod kept;
pub mod plan;
pub mod real_runs;
pub mod series;
pub mod significance;
pub mod verdict;
pub mod virtual_runs;
