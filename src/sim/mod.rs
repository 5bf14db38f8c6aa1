//! The simulator: seed → verdict. Whole replicas, unchanged, in a world with a network, disks,
//! clocks and clients of its own, one thread and no time but its own; the same seed gives the same
//! world on every machine.
//!
//! To read in this order, which is also a seed's way, each folder using only those before it:
//!
//! 1. `subject`: what a world knows of its protocol;
//! 2. `plan`: what a seed draws; `report`: what is counted, and what can be broken;
//! 3. `checks` look at every step of every replica;
//! 4. `world`: the hosts, and how a replica goes on in it;
//! 5. `faults` get in the way;
//! 6. `run`: from a seed to its verdict, for many seeds.
//!
//! `history` and [`linearizability`] stand alone: real clients use them too.

#[cfg(test)]
mod boundaries;
mod checks;
mod faults;
pub mod history;
#[cfg(test)]
mod kept_seeds;
pub mod linearizability;
#[cfg(test)]
mod log_plants;
mod plan;
#[cfg(test)]
mod plants;
mod report;
#[cfg(test)]
mod restart_plants;
mod run;
#[cfg(test)]
mod stories;
mod subject;
pub mod virtual_time;
mod world;

pub use plan::{Fault, FaultSet, Overrides, UnknownFault};
pub use report::{Broken, Failure, Summary, Verdict, Violation};
pub use run::{DEMANDING, Options, reproduction, run, run_seed};
