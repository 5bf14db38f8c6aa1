//! The words everything else is written in: ids, ballots, commands and their footprints,
//! dependency vectors, quorum sizes, log positions, addresses. Nothing here has behaviour beyond
//! keeping its own invariants, and nothing here uses another room.

mod address;
mod ballot;
mod command;
mod consistency;
mod deps;
mod durable;
mod era;
mod executed;
mod footprint;
mod ids;
mod keyed;
mod lives;
mod numbering;
mod quorum;
mod settings;
mod time;

pub use address::{Address, BadAddress};
pub use ballot::Ballot;
pub use command::{Batch, Command, Decision, ExecutionOrder, Value};
pub use consistency::Consistency;
pub use deps::Deps;
pub use durable::{Durable, Held, Journal, LogPosition, Written};
pub use era::Era;
pub use executed::Executed;
pub use footprint::{Access, Footprint, KeyHash};
pub use ids::{
    ClientId, InstanceId, MAX_REPLICAS, MAX_SLOT, ReplicaId, RequestId, Slot, UnknownRequest,
};
pub use keyed::KeyedMap;
pub use lives::{Began, Chain, Known, MAX_LIVES, Presence};
pub use numbering::Numbering;
pub use quorum::{Quorums, ReplicaSet, UnsupportedSize};
pub use settings::{Optimisations, Retention, Settings, Timing};
pub use time::Time;
