//! Comparing protocols: the same load on each in turn, and a report of what was seen.
//!
//! `plan` is what was asked for, `series` runs it (by `virtual_runs` or `real_runs`, both with the
//! load in `asking`; `cpu` is what replicas work), `run` is what is kept of a run, `keep` keeps it.
//! Reports are `html` (of `sections`, `plots`, `words`) and `tables`, all from `figures`. `verdict`
//! holds two comparisons against each other, with the test in `significance`.

mod asking;
mod cpu;
pub mod figures;
pub mod html;
pub mod keep;
pub mod plan;
mod plot;
mod plots;
pub mod real_runs;
pub mod run;
mod sections;
pub mod series;
pub mod significance;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod verdict;
pub mod virtual_runs;
mod words;
