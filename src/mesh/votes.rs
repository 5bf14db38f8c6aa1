//! How durable a vote is before a replica sends it: one of the terms of a cluster.

/// How durable a vote must be before it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Votes {
    /// Flushed to the disk.
    Flushed,
    /// Handed to the operating system.
    HandedOver,
    /// Kept in memory only.
    InMemory,
}

impl Votes {
    /// The code in a hello.
    pub(super) const fn code(self) -> u8 {
        match self {
            Votes::Flushed => 0,
            Votes::HandedOver => 1,
            Votes::InMemory => 2,
        }
    }

    /// The value with this code.
    pub(super) fn of_code(code: u8) -> Option<Votes> {
        let all = [Votes::Flushed, Votes::HandedOver, Votes::InMemory];
        all.into_iter().find(|votes| votes.code() == code)
    }
}
