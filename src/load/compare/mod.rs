//! Compares protocols: runs the same load on each in turn, and reports the results.
//!
//! `plan` is read from a file; `series` runs its turns, each of which is a scenario and a run.
//! `kept` is what is stored of a run, and `keep` stores it. Reports are made from
//! `figures`, in `render`. `verdict` compares two comparisons, with the test in `significance`.

pub mod figures;
#[cfg(test)]
pub(super) mod fixture;
pub mod keep;
pub mod kept;
pub mod plan;
pub mod series;
pub mod significance;
pub mod verdict;
