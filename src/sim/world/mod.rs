//! A simulated world: what it consists of, and how it goes on.

pub(super) mod clients;
pub(super) mod host;
pub(super) mod network;
pub(super) mod restarts;
pub(super) mod room;
pub(super) mod sabotage;
pub(super) mod snapshots;
pub(super) mod state;
pub(super) mod step;
pub(super) mod trace;
pub(super) mod witnesses;
