//! The messages and records of Fast Paxos.

use super::Round;
use crate::protocol::log::{Choice, LogRecord, Upkeep};
use crate::types::{Ballot, InstanceId, Slot};

/// A message. A ballot covers the whole log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Phase 1a, for all open slots at once: asks for the promise to take part in no lower ballot.
    Prepare {
        /// The coordinator's ballot.
        ballot: Ballot,
    },
    /// Phase 1b: a promise. The acceptor's votes follow, slot by slot.
    Promise {
        /// The ballot promised.
        ballot: Ballot,
        /// The acceptor knows all decisions up to here, and has dropped its votes there.
        known: Slot,
        /// The slots above `known` for which a report follows, ascending.
        reported: Vec<Slot>,
    },
    /// An acceptor's last vote in a slot, or a decision.
    Report {
        /// The ballot it answers.
        ballot: Ballot,
        /// The slot.
        slot: Slot,
        /// The round of the vote; `None` for a decision.
        round: Option<Round>,
        /// The choice voted for or decided.
        choice: Choice,
    },
    /// Announces that the ballot is open; the coordinator repeats it. In a fast ballot this is
    /// phase 2a with *any* value.
    Open {
        /// The ballot.
        ballot: Ballot,
        /// Whether proposers send their values to all acceptors, and not to the coordinator.
        is_fast: bool,
        /// The first slot in which acceptors may vote for what proposers send.
        from: Slot,
    },
    /// A value, from a proposer to all acceptors or to the coordinator.
    Propose {
        /// The value.
        choice: Choice,
    },
    /// From the coordinator to acceptors that may not have voted in a slot: vote for this choice
    /// there in the fast round, unless you have voted for another, and report your vote.
    Suggest {
        /// The ballot.
        ballot: Ballot,
        /// The slot.
        slot: Slot,
        /// The choice to vote for.
        choice: Choice,
    },
    /// Phase 2a of the coordinated round.
    Accept {
        /// The ballot.
        ballot: Ballot,
        /// The slot.
        slot: Slot,
        /// The one choice of that round.
        choice: Choice,
    },
    /// Phase 2b, to all: a vote.
    Voted {
        /// The slot.
        slot: Slot,
        /// The round.
        round: Round,
        /// The name of the choice voted for.
        proposal: InstanceId,
    },
    /// From an acceptor to a coordinator whose ballot is too low.
    Rejected {
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
        /// The ballot.
        ballot: Ballot,
    },
    /// An acceptor's vote.
    Voted {
        /// The slot.
        slot: Slot,
        /// The round.
        round: Round,
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
