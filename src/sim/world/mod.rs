//! A simulated world: what it consists of, and how a replica goes on in it.
//!
//! To read in this order, each file using only those before it:
//!
//! 1. `trace`, `network` and `clients`; `shelf` and `room`, where snapshots and records are kept;
//!    `freshness`, and one `host` with all of that; `sabotage`, for tests;
//! 2. `agenda`: what will happen; `state`: all of it together;
//! 3. `witnesses` and `meetings`: what replicas remember of each other;
//! 4. `stops` and `flushes`: what of a log outlives a crash;
//! 5. `transfers` and `step`: what a replica does, and what follows;
//! 6. `snapshots` and `restarts`.

pub(super) mod agenda;
pub(super) mod clients;
mod flushes;
pub(super) mod freshness;
pub(super) mod host;
mod meetings;
pub(super) mod network;
mod restarts;
pub(super) mod room;
pub(super) mod sabotage;
mod shelf;
mod snapshots;
pub(super) mod state;
mod step;
pub(super) mod stops;
mod trace;
mod transfers;
mod witnesses;
