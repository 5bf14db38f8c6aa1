//! When a replica may tell its votes: one of the terms of a cluster.

/// What has to have happened to a vote before it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Votes {
    /// It was flushed.
    Flushed,
    /// The operating system has it.
    HandedOver,
    /// Nothing: it is in memory.
    InMemory,
}

impl Votes {
    /// As it travels.
    pub(super) const fn code(self) -> u8 {
        match self {
            Votes::Flushed => 0,
            Votes::HandedOver => 1,
            Votes::InMemory => 2,
        }
    }

    /// What has this code.
    pub(super) fn of_code(code: u8) -> Option<Votes> {
        let all = [Votes::Flushed, Votes::HandedOver, Votes::InMemory];
        all.into_iter().find(|votes| votes.code() == code)
    }
}
