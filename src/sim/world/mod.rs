//! A simulated world: its parts, and how a replica runs in it.
//!
//! Read the files in this order; each uses only those before it:
//!
//! 1. `trace`, `network` and `clients`; `shelf` and `room`, which store snapshots and records;
//!    `freshness`; `host`, which has all of these; `sabotage`, for tests;
//! 2. `agenda`: the future events; `state`: the whole world;
//! 3. `witnesses` and `meetings`: what replicas remember of each other;
//! 4. `stops` and `flushes`: what part of a log survives a crash;
//! 5. `transfers` and `step`: what a replica does, and its consequences;
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
