//! The simulator: it turns a seed into a verdict. Whole unchanged replicas run in one thread, in a
//! world with its own network, disks, clocks, clients and time. The same seed gives the same world
//! on every machine.
//!
//! Read in this order, which is also the way of a seed; each folder uses only those before it:
//!
//! 1. `subject`: what a world knows about its protocol;
//! 2. `plan`: what a seed draws; `report`: what is counted, and which promises can be broken;
//! 3. `checks`: examine every step of every replica;
//! 4. `world`: the hosts, and how a replica runs in it;
//! 5. `faults`: disturb it;
//! 6. `run`: from a seed to its verdict, for many seeds.
//!
//! `changes` has worlds of its own, in which the members change. `history` and
//! [`linearizability`] are independent, because real clients use them, too.

#[cfg(test)]
mod boundaries;
mod changes;
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

pub use changes::{Changes, run_changes};
pub use plan::{Fault, FaultSet, Overrides, UnknownFault};
pub use report::{Broken, Failure, Summary, Verdict, Violation};
pub use run::{DEMANDING, Options, reproduction, run, run_seed};
