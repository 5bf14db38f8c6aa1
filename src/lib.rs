//! *Isonomy*: equality before the law. A leaderless consensus engine: every replica can lead every
//! command.
//!
//! A program provides a state machine, and gets replicas of it that agree on every command. Each
//! replica proposes for the clients near it. A command that conflicts with no other is decided
//! after one round trip to the nearest quorum; conflicting commands get one order, the same
//! everywhere. `2f + 1` replicas survive `f` crashes, and recover from a loss of power with
//! everything they promised. The protocol is EPaxos\*, with Multi-Paxos, Fast Paxos and Paxos
//! beside it for comparison; replicas speak QUIC with mutual TLS 1.3.
//!
//! # A first embed
//!
//! Three replicas in one process, a command at one and another at the next:
//!
#![cfg_attr(feature = "authority", doc = include_str!("EMBED.md"))]
//!
//! [`LocalCluster`] is for tests and experiments. [`Replica::builder`] makes a single replica with
//! peers elsewhere. The [guide](guide#embedding) continues from there.
//!
//! # To read
//!
//! - [`guide`]: running a cluster and embedding, with everything that can go wrong
//! - [`reliability`]: the promises, and the test that holds each
//! - [`rules::epaxos`], [`rules::log`]: the rules of the protocols
//! - [`family`]: Paxos, Raft, EPaxos and their kin, in papers and in practice
//!
//! # What is public
//!
//! The types that a program embeds, and those that their signatures need. Everything else is
//! private.
//!
//! - [`node`]: the running replica: [`Replica`], its builder, its errors, status and metrics
//! - [`client`]: a client in another process
//! - [`machine`]: what a program provides, the [`StateMachine`](machine::StateMachine), and a
//!   key-value store that implements it
//! - [`testkit`]: checks for a program's own state machine
//! - [`types`]: ids, footprints, addresses, consistency, timing
//! - [`network`]: certificates, and how replicas and clients connect
//!
//! # The rooms
//!
//! The crate is a sequence of rooms, and each uses only rooms above it. The path of a command:
//! `node` takes it from its caller, `replica` admits it, `protocol` agrees on it with the other
//! replicas (by way of `wire`, `storage` and `mesh`), `execute` determines its turn, and `machine`
//! applies it. `cargo doc --document-private-items` shows all of them.
//!
//! - `types`: ids, ballots, dependency vectors, footprints, settings
//! - `protocol`: agreement, as steps without a clock or a socket: EPaxos\* and the logs
//! - `execute`: the order of execution: the graph of dependencies, or the log
//! - `machine`: the state machine, sessions, and the key-value store
//! - `replica`: one replica's core around a protocol: admission, durability, snapshots
//! - `wire`: the encoding of messages and records
//! - `storage`: the durable log, snapshots, and disks that fail on purpose
//! - `mesh`: QUIC connections between replicas, and from clients
//! - `node`: threads, queues, and the handle
//! - `client`: sessions, and the choice of a replica
//! - `sim`: whole clusters in simulated worlds full of faults, and checks of what happened
//! - `load`: the load generator, the demo, and the comparison of protocols
//! - `cli`: the command `isonomy`
//! - `testkit`: random commands against the promises of a state machine
//!
//! # Features
//!
//! The default, `cli`, is everything. A program that embeds the engine sets
//! `default-features = false`, and compiles half as many crates:
//!
//! - `authority`: a certificate authority of the cluster's own, and [`LocalCluster`]; without it,
//!   certificates come from files
//! - `metrics`: quantiles of latencies; without it, their number, mean and maximum
//! - `redb`: the key-value store on disk, [`RedbKv`]
//! - `sim`, `load`, `cli`: the rooms of these names, for the command `isonomy`; they add nothing to
//!   the public API, and `load` includes all the others
//!
#![cfg_attr(not(feature = "authority"), doc = "[`LocalCluster`]: #features")]
#![cfg_attr(not(feature = "redb"), doc = "[`RedbKv`]: #features")]
#![cfg_attr(feature = "redb", doc = "[`RedbKv`]: machine::RedbKv")]

pub mod types;

mod protocol;

mod execute;

pub mod machine;

mod replica;

mod wire;

mod storage;

mod mesh;

pub mod node;

pub mod client;

#[cfg(feature = "sim")]
mod sim;

#[cfg(feature = "load")]
mod load;

#[cfg(feature = "cli")]
mod cli;

pub mod testkit;

#[cfg(feature = "authority")]
pub use node::LocalCluster;
pub use node::Replica;

/// How replicas and clients find, trust and reach each other.
pub mod network {
    #[cfg(feature = "authority")]
    pub use crate::mesh::{Authority, Issued, Request, Signed};
    pub use crate::mesh::{
        BadName, ClientConfig, Congestion, ConnectionLimits, Credentials, CredentialsError,
        MeshError, Resolver, Wan, WanControl,
    };
}

/// The private rooms, for the command, the benchmarks and the tests of this repository, which Cargo
/// builds as separate crates. Not part of the public API: any release may change it.
#[doc(hidden)]
pub mod internals {
    /// The part of `cli` that the command needs.
    #[cfg(feature = "cli")]
    pub mod cli {
        pub use crate::cli::run;
    }

    /// All of `execute`.
    pub mod execute {
        pub use crate::execute::*;
    }

    /// All of `load`.
    #[cfg(feature = "load")]
    pub mod load {
        pub use crate::load::*;
    }

    /// All of `mesh`.
    pub mod mesh {
        pub use crate::mesh::*;
    }

    /// All of `protocol`.
    pub mod protocol {
        pub use crate::protocol::*;
    }

    /// All of `replica`.
    pub mod replica {
        pub use crate::replica::*;
    }

    /// All of `sim`.
    #[cfg(feature = "sim")]
    pub mod sim {
        pub use crate::sim::*;
    }

    /// All of `storage`.
    pub mod storage {
        pub use crate::storage::*;
    }

    /// All of `wire`.
    pub mod wire {
        pub use crate::wire::*;
    }
}

// The links of these pages lead to files; in rustdoc they lead to items. If a link is defined
// twice, the first definition counts.
#[cfg(doc)]
#[doc = "[EPaxos]: crate::rules::epaxos"]
#[doc = "[logs]: crate::rules::log"]
#[doc = "[family]: crate::family"]
#[doc = "[state-machine]: crate::machine::StateMachine"]
#[doc = "[check-footprint]: crate::testkit::check_footprint"]
#[doc = "[client]: crate::client::Client"]
#[doc = ""]
#[doc = include_str!("GUIDE.md")]
pub mod guide {}

/// The rules of the protocols, by number. Comments in the source cite them.
#[cfg(doc)]
pub mod rules {
    #[doc = include_str!("protocol/epaxos/PROTOCOL.md")]
    pub mod epaxos {}

    #[doc = include_str!("protocol/log/LINKS.md")]
    #[doc = ""]
    #[doc = include_str!("protocol/log/PROTOCOL.md")]
    pub mod log {}
}

#[cfg(doc)]
#[doc = "[EPaxos]: crate::rules::epaxos"]
#[doc = "[logs]: crate::rules::log"]
#[doc = ""]
#[doc = include_str!("RELIABILITY.md")]
pub mod reliability {}

#[cfg(doc)]
#[doc = "[EPaxos]: crate::rules::epaxos"]
#[doc = "[multi-paxos]: crate::rules::log#m-multi-paxos"]
#[doc = ""]
#[doc = include_str!("FAMILY.md")]
pub mod family {}

/// Compiles and runs the README's examples as documentation tests.
#[cfg(all(doctest, feature = "authority"))]
#[doc = include_str!("../README.md")]
struct Readme;
