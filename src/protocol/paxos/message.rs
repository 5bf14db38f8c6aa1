//! What replicas say to each other and write down in Paxos.

use crate::protocol::log::{Choice, LogRecord, Upkeep};
use crate::types::{Ballot, Slot};

/// A message. Each slot is an instance of its own, with its own ballots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Phase 1a, a proposer to the acceptors: promise to take part in no lower ballot.
    Prepare {
        /// The slot.
        slot: Slot,
        /// The proposer's ballot.
        ballot: Ballot,
    },
    /// Phase 1b, an acceptor to that proposer: promised, and what it last voted for.
    Promise {
        /// The slot.
        slot: Slot,
        /// The ballot promised.
        ballot: Ballot,
        /// The vote of the highest ballot, if it has voted.
        vote: Option<(Ballot, Choice)>,
    },
    /// Phase 2a, the proposer to the acceptors: vote for this.
    Accept {
        /// The slot.
        slot: Slot,
        /// The proposer's ballot.
        ballot: Ballot,
        /// The one choice of that ballot.
        choice: Choice,
    },
    /// Phase 2b, an acceptor to all learners: voted.
    Accepted {
        /// The slot.
        slot: Slot,
        /// The ballot voted in.
        ballot: Ballot,
    },
    /// An acceptor to a proposer whose ballot is too low.
    Rejected {
        /// The slot.
        slot: Slot,
        /// What the acceptor has promised.
        ballot: Ballot,
    },
    /// About decided slots.
    Upkeep(Upkeep),
}

/// A record of the log.
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
        /// What it voted for.
        choice: Choice,
    },
    /// What every protocol of this kind writes down.
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
