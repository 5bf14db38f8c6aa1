//! *Isonomy*: equality before the law. A leaderless consensus engine: every replica can lead every
//! command.
//!
//! The rooms, each using only those above it:

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

pub mod sim;

pub mod load;

pub mod cli;

pub mod testkit;

pub use node::{LocalCluster, Replica};

/// The README's examples are compiled and run with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
