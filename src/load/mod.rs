//! Load on a cluster, and what it shows.
//!
//! What is asked for: a `scenario`, read from flags and files. What clients ask: `workload`. Clients
//! that ask it: `driver`, of a cluster that is the `target`. `runner` does it all once, and the
//! `result` is what it amounts to, which `render` shows. `find` looks for the highest rate. `demo`
//! is a short run of its own, with its `report`; `compare` sets protocols against each other.

pub mod compare;
pub mod demo;
pub mod driver;
pub mod find;
mod number;
pub mod render;
pub mod report;
pub mod result;
pub mod runner;
pub mod scenario;
mod target;
pub mod workload;
