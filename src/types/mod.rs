//! The basic types: ids, ballots, commands and their footprints, dependency vectors, quorum sizes,
//! log positions, addresses. They maintain their own invariants and do nothing else. This room uses
//! no other room.

mod address;
mod ballot;
mod command;
mod consistency;
mod cow;
mod deps;
mod durable;
mod era;
mod executed;
mod footprint;
mod ids;
mod keyed;
mod lives;
mod membership;
mod numbering;
mod quorum;
mod settings;
mod time;
mod versions;

pub use address::{Address, BadAddress};
pub use ballot::Ballot;
pub use command::Command;
pub use consistency::Consistency;
pub use deps::Deps;
pub use durable::LogPosition;
pub use era::Era;
pub use executed::Executed;
pub use footprint::{Access, Footprint, KeyHash, Keys};
pub use ids::{ClientId, InstanceId, MAX_REPLICAS, ReplicaId, RequestId, Slot, UnknownRequest};
pub use membership::MemberId;
pub use quorum::{ReplicaSet, UnsupportedSize};
pub use settings::{Optimisations, Timing};

#[cfg(any(test, feature = "sim"))]
pub(crate) use membership::member_id;

// For the engine, its benchmarks and its tests; not part of the public API.
#[doc(hidden)]
pub use self::{
    command::{Batch, Decision, ExecutionOrder, Value},
    cow::CowMap,
    durable::{Durable, Held, Journal, Written},
    ids::MAX_SLOT,
    keyed::KeyedMap,
    lives::{Began, Chain, Known, MAX_LIVES, Presence},
    membership::{BadChange, BadMembership, Change, Member, Membership},
    numbering::Numbering,
    quorum::Quorums,
    settings::{Retention, Settings},
    time::Time,
    versions::Versions,
};
