//! *Isonomy*: equality before the law. A leaderless consensus engine: every replica can lead every
//! command.
//!
//! A program brings a state machine, and gets replicas of it that agree on every command. Each
//! replica proposes for the clients beside it. A command that conflicts with nothing is decided
//! after one round trip to the nearest quorum; commands that conflict are put into one order, the
//! same everywhere. `2f + 1` replicas go on through `f` crashes, and come back from the loss of
//! power with all that they promised. The protocol is EPaxos\*, with Multi-Paxos, Fast Paxos and
//! Paxos beside it for comparison; replicas speak QUIC with mutual TLS 1.3.
//!
//! # A first embed
//!
//! Three replicas in one process, a command at one and another at the next:
//!
#![cfg_attr(feature = "authority", doc = include_str!("EMBED.md"))]
//!
//! [`LocalCluster`] is for tests and experiments. [`Replica::builder`] makes a replica of its own,
//! with peers elsewhere. The [guide](guide#embedding) goes on from there.
//!
//! # To read
//!
//! - [`guide`]: running a cluster and embedding, with everything that can go wrong
//! - [`reliability`]: the promises, and the test that holds each
//! - [`protocol::epaxos`], [`protocol::log`]: the rules of the protocols
//! - [`family`]: Paxos, Raft, EPaxos and their kin, in papers and in practice
//!
//! # The rooms
//!
//! The crate is a row of rooms, and each uses only rooms above it. A command's way: `node` takes it
//! from its caller, `replica` admits it, `protocol` agrees on it with the other replicas (by way of
//! `wire`, `storage` and `mesh`), `execute` finds its turn, and `machine` applies it.
//!
//! - [`types`]: ids, ballots, dependency vectors, footprints, settings
//! - [`protocol`]: agreement, as steps without a clock or a socket: EPaxos\* and the logs
//! - [`execute`]: the order of execution: the graph of dependencies, or the log
//! - [`machine`]: what a program brings, sessions, and a key-value store
//! - [`replica`]: one replica's core around a protocol: admission, durability, snapshots
//! - [`wire`]: messages and records as bytes
//! - [`storage`]: the durable log, snapshots, and disks that fail on purpose
//! - [`mesh`]: QUIC connections between replicas, and from clients
//! - [`node`]: the running replica: threads, queues, and the handle
//! - [`client`]: a client in another process
//! - `sim`: whole clusters in simulated worlds full of faults, and checks of what happened
//! - `load`: the load generator, the demo, and the comparison of protocols
//! - `cli`: the command `isonomy`
//! - [`testkit`]: checks for a program's own state machine
//!
//! # Features
//!
//! The default, `cli`, is everything. A program that embeds the engine takes it with
//! `default-features = false`, and compiles half as many crates:
//!
//! - `authority`: a certificate authority of the cluster's own, and [`LocalCluster`]; without it,
//!   certificates come from files
//! - `metrics`: quantiles of latencies; without it, their number, mean and maximum
//! - `sim`, `load`: the rooms of these names; `load` brings all the others

pub mod types;

pub mod protocol;

pub mod execute;

pub mod machine;

pub mod replica;

pub mod wire;

pub mod storage;

pub mod mesh;

pub mod node;

pub mod client;

#[cfg(feature = "sim")]
pub mod sim;

#[cfg(feature = "load")]
pub mod load;

#[cfg(feature = "cli")]
pub mod cli;

pub mod testkit;

#[cfg(feature = "authority")]
pub use node::LocalCluster;
pub use node::Replica;

// The links of these pages lead to files. In rustdoc they lead to items: of two definitions of a
// link, the first counts.
#[cfg(doc)]
#[doc = "[EPaxos]: crate::protocol::epaxos"]
#[doc = "[logs]: crate::protocol::log"]
#[doc = "[family]: crate::family"]
#[doc = "[state-machine]: crate::machine::StateMachine"]
#[doc = "[check-footprint]: crate::testkit::check_footprint"]
#[doc = "[client]: crate::client::Client"]
#[doc = ""]
#[doc = include_str!("GUIDE.md")]
pub mod guide {}

#[cfg(doc)]
#[doc = "[EPaxos]: crate::protocol::epaxos"]
#[doc = "[logs]: crate::protocol::log"]
#[doc = ""]
#[doc = include_str!("RELIABILITY.md")]
pub mod reliability {}

#[cfg(doc)]
#[doc = "[EPaxos]: crate::protocol::epaxos"]
#[doc = "[multi-paxos]: crate::protocol::log#m-multi-paxos"]
#[doc = ""]
#[doc = include_str!("FAMILY.md")]
pub mod family {}

/// The README's examples are compiled and run with the documentation's.
#[cfg(all(doctest, feature = "authority"))]
#[doc = include_str!("../README.md")]
struct Readme;
