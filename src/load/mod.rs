//! Generates load on a cluster and reports the results.
//!
//! A `scenario` is read from flags and files. Its `workload` generates the clients' operations, and
//! the `driver` sends them to the cluster, which is the `target`. The `runner` does all of this
//! once. The `result` is the same in real and virtual time, and `render` shows it. `find` searches
//! for the highest rate. `compare` compares protocols over many runs. The demo is a scenario like
//! any other.

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
