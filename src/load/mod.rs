//! Load on a cluster, and what it shows.
//!
//! What is asked for: `settings` (flags and files) become a `scenario`, with its `slo`, `faults`
//! and `wide_area`. What clients ask: `keys`, `values`, `workload`; when: `arrivals`. Clients that
//! ask it: `drive`, of a cluster that is `local` or `remote`; what they have seen is counted in
//! `book` and recorded in `record`, for `verify` to judge. `run` does it all once; `outcome` is
//! what it amounts to, of `figures`, `show` and `files` its forms, `gauge` what the machine did;
//! `find` looks for the highest rate. `demo` is a short run of its own, with its `report`;
//! `compare` sets protocols against each other.

mod arrivals;
mod book;
pub mod compare;
pub mod demo;
pub mod drive;
pub mod faults;
pub mod figures;
pub mod files;
pub mod find;
pub mod gauge;
pub mod input;
pub mod keys;
pub mod local;
pub mod outcome;
pub mod record;
mod remote;
pub mod report;
pub mod run;
pub mod scenario;
pub mod settings;
mod show;
pub mod slo;
pub mod span;
pub mod values;
mod verify;
pub mod wide_area;
pub mod workload;
