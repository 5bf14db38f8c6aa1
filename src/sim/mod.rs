//! The simulator: seed → verdict. Whole replicas, unchanged, in a world with a network, disks,
//! clocks and clients of its own, one thread and no time but its own; the same seed gives the same
//! world on every machine.
//!
//! A seed's way: `plan` draws its world → `world` lets events happen, `act` follows a replica's
//! step, `network`, `faults`, `absences`, `restarts`, `disk_faults`, `older_disks` and `witnesses`
//! get in the way, `clients` ask → `checks` and `order` look at every step → `calm` demands that
//! everything finishes, and has the last word → `runner` does it for many seeds, `shrink` makes a
//! failing world smaller, `report` sums up.
//!
//! What a world knows of its protocol is in `subject`.
//!
//! `history` and [`linearizability`] stand alone: real clients use them too.

mod absences;
mod act;
#[cfg(test)]
mod boundaries;
mod calm;
mod checks;
mod clients;
mod disk_faults;
mod eras;
mod faults;
pub mod history;
mod host;
#[cfg(test)]
mod kept_seeds;
pub mod linearizability;
#[cfg(test)]
mod log_plants;
mod network;
mod older_disks;
mod order;
mod plan;
#[cfg(test)]
mod plants;
mod report;
#[cfg(test)]
mod restart_plants;
mod restarts;
mod room;
mod runner;
mod sabotage;
mod shrink;
mod snapshots;
#[cfg(test)]
mod stories;
mod subject;
mod trace;
pub mod virtual_time;
mod witnesses;
mod world;

pub use faults::{Fault, FaultSet, UnknownFault};
pub use plan::Overrides;
pub use report::{Broken, Failure, Summary, Verdict, Violation};
pub use runner::{DEMANDING, Options, reproduction, run, run_seed};
