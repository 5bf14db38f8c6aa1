//! The messages and records of Paxos.

use crate::protocol::log::{Choice, LogRecord, Upkeep};
use crate::types::{Ballot, Slot};

/// A message. Each slot is an instance with its own ballots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Phase 1a, from a proposer to the acceptors: asks for the promise to take part in no lower
    /// ballot.
    Prepare {
        /// The slot.
        slot: Slot,
        /// The proposer's ballot.
        ballot: Ballot,
    },
    /// Phase 1b, from an acceptor to the proposer: a promise, and the acceptor's last vote.
    Promise {
        /// The slot.
        slot: Slot,
        /// The ballot promised.
        ballot: Ballot,
        /// The vote of the highest ballot, if it has voted.
        vote: Option<(Ballot, Choice)>,
    },
    /// Phase 2a, from the proposer to the acceptors: asks for votes.
    Accept {
        /// The slot.
        slot: Slot,
        /// The proposer's ballot.
        ballot: Ballot,
        /// The one choice of that ballot.
        choice: Choice,
    },
    /// Phase 2b, from an acceptor to all learners: a vote.
    Accepted {
        /// The slot.
        slot: Slot,
        /// The ballot voted in.
        ballot: Ballot,
    },
    /// From an acceptor to a proposer whose ballot is too low.
    Rejected {
        /// The slot.
        slot: Slot,
        /// The ballot that the acceptor has promised.
        ballot: Ballot,
    },
    /// A message about decided slots.
    Upkeep(Upkeep),
}

/// A record in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// An acceptor's promise.
    Promised {
        /// The slot.
        slot: Slot,
        /// The ballot.
        ballot: Ballot,
    },
    /// An acceptor's vote.
    Voted {
        /// The slot.
        slot: Slot,
        /// The ballot.
        ballot: Ballot,
        /// The choice voted for.
        choice: Choice,
    },
    /// A record common to all protocols with one log.
    Log(LogRecord),
}

impl From<Upkeep> for Message {
    fn from(upkeep: Upkeep) -> Message {
        Message::Upkeep(upkeep)
    }
}

impl From<LogRecord> for Record {
    fn from(record: LogRecord) -> Record {
        Record::Log(record)
    }
}
