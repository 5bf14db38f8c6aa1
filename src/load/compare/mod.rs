//! Comparing protocols: the same load on each in turn, and a report of what was seen.
//!
//! `plan` is what was asked for, `series` its turns, each of which is a scenario and a run
//! (`turn`); `kept` is what is kept of a run, `keep` keeps it.
//! Reports are made from `figures`, elsewhere. `verdict` holds two comparisons against each other,
//! with the test in `significance`.

pub mod figures;
#[cfg(test)]
pub(super) mod fixture;
pub mod keep;
pub mod kept;
pub mod plan;
pub mod series;
pub mod significance;
pub mod turn;
pub mod verdict;
