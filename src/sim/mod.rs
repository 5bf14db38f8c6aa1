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

pub use faults::{Fault, FaultSet, UnknownFault};
pub use plan::Overrides;
pub use report::{Broken, Failure, Summary, Verdict, Violation};
pub use run::runner::{DEMANDING, Options, reproduction, run, run_seed};
