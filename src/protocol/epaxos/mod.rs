//! EPaxos* (Ryabinin, Gotsman, Sutra: "Making Democracy Work", OPODIS 2025), by phase.

mod message;

pub use message::{CommitValue, Interfering, Message, Phase, Record, Report};
