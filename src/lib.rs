//! *Isonomy*: equality before the law. A leaderless consensus engine: every replica can lead every
//! command.
//!
//! The rooms, each using only those above it:

pub mod types;

pub mod execute;
