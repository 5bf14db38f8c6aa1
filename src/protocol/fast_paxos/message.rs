//! What replicas say to each other and write down in Fast Paxos.

use super::Round;
use crate::protocol::log::{Choice, LogRecord, Upkeep};
use crate::types::{Ballot, InstanceId, Slot};

/// A message. Ballots are those of the whole log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Phase 1a, for all open slots at once: promise to take part in no lower ballot.
    Prepare {
        /// The coordinator's ballot.
        ballot: Ballot,
    },
    /// Phase 1b: promised. What it has voted for follows, slot by slot.
    Promise {
        /// The ballot promised.
        ballot: Ballot,
        /// The acceptor knows all decisions up to here, and has forgotten its votes there.
        known: Slot,
        /// The slots above of which a report follows, ascending.
        reported: Vec<Slot>,
    },
    /// An acceptor's last vote in a slot, or a decision.
    Report {
        /// The ballot it answers.
        ballot: Ballot,
        /// The slot.
        slot: Slot,
        /// The round voted in; `None` for a decision.
        round: Option<Round>,
        /// What was voted for, or decided.
        choice: Choice,
    },
    /// The ballot is open, as every now and then the coordinator says again. Phase 2a with *any*
    /// value, if it is fast.
    Open {
        /// The ballot.
        ballot: Ballot,
        /// Whether proposers send their values to all acceptors; if not, to the coordinator.
        is_fast: bool,
        /// The first slot in which acceptors may vote for what proposers send.
        from: Slot,
    },
    /// A value, a proposer to all acceptors, or to the coordinator.
    Propose {
        /// The value.
        choice: Choice,
    },
    /// The coordinator to acceptors that may not have voted in a slot yet: vote for this there in
    /// the fast round, unless you have voted for something else, and report.
    Suggest {
        /// The ballot.
        ballot: Ballot,
        /// The slot.
        slot: Slot,
        /// What to vote for.
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
    /// Phase 2b, to all: voted.
    Voted {
        /// The slot.
        slot: Slot,
        /// The round.
        round: Round,
        /// The name of what it voted for.
        proposal: InstanceId,
    },
    /// An acceptor to a coordinator whose ballot is too low.
    Rejected {
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
        /// The ballot.
        ballot: Ballot,
    },
    /// An acceptor's vote.
    Voted {
        /// The slot.
        slot: Slot,
        /// The round.
        round: Round,
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
