//! Load on a cluster, and what it shows.
//!
//! What is asked for is a `scenario`, read from flags and files. What clients ask is its
//! `workload`; the `driver` asks it, of a cluster that is the `target`. The `runner` does all of
//! it once; the `result` is what it amounts to, in real and in virtual time alike; `render` shows
//! that. `find` looks for the highest rate; `compare` sets protocols against each other: many
//! runs. The demo is a scenario as any other.

pub mod compare;
pub mod driver;
pub mod durations;
pub mod find;
mod number;
pub mod render;
pub mod result;
pub mod runner;
pub mod scenario;
mod target;
pub mod workload;
