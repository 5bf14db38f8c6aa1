//! What replicas say to each other, and what they must not forget. The names are those of "Paxos
//! Made Simple" where it has one: Prepare, Promise, Accept.

use std::sync::Arc;
use std::time::Duration;

use crate::types::{Ballot, Batch, InstanceId, Slot, Time, Value};

/// What a slot holds: a proposal, or nothing, and how its proposer calls it.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Whose proposal it is, and which.
    pub proposal: InstanceId,
    /// Its commands.
    pub value: Value,
}

impl Entry {
    /// Nothing, under a name.
    pub(super) fn nop(proposal: InstanceId) -> Entry {
        Entry { proposal, value: Value::Nop }
    }
}

/// An acceptor's vote, as it reports it to a new leader.
#[derive(Clone, PartialEq, Debug)]
pub struct Vote {
    /// The slot.
    pub slot: Slot,
    /// The ballot at which it voted last.
    pub ballot: Ballot,
    /// For what.
    pub entry: Entry,
}

/// A batch on its way to the leader.
#[derive(Clone, PartialEq, Debug)]
pub struct Proposal {
    /// Its name.
    pub name: InstanceId,
    /// Its commands.
    pub batch: Arc<Batch>,
}

/// A message of Multi-Paxos.
#[derive(Clone, PartialEq, Debug)]
pub enum Message {
    /// "Would you promise me this ballot?" Binds nobody.
    PreVote {
        /// The ballot that the sender would take.
        ballot: Ballot,
        /// Up to where it knows what is decided.
        commit: Slot,
    },
    /// "I would."
    PreVoteOk {
        /// The ballot asked about.
        ballot: Ballot,
    },
    /// Phase 1a, for all slots from `first` on; and the request for the next page of a Promise.
    Prepare {
        /// The ballot.
        ballot: Ballot,
        /// The first slot that the sender wants to hear of.
        first: Slot,
    },
    /// Phase 1b: a page of the sender's votes.
    Promise {
        /// The ballot promised.
        ballot: Ballot,
        /// The page starts here.
        first: Slot,
        /// Up to here the votes told are of what is decided.
        commit: Slot,
        /// The votes from `first` up to before `next`, by slot.
        votes: Vec<Vote>,
        /// Where the next page starts; 0 when there is none.
        next: Slot,
    },
    /// Phase 2a, for a run of slots.
    Accept {
        /// The leader's ballot.
        ballot: Ballot,
        /// Everything up to here is decided.
        commit: Slot,
        /// The first slot of the run.
        first: Slot,
        /// What is proposed in it and those after it.
        entries: Vec<Entry>,
    },
    /// Phase 2b, for a run of slots.
    AcceptOk {
        /// The ballot.
        ballot: Ballot,
        /// The first slot voted for.
        first: Slot,
        /// The last one.
        last: Slot,
    },
    /// What is decided, when no Accept is due that would tell.
    Commit {
        /// The leader's ballot.
        ballot: Ballot,
        /// Everything up to here is decided.
        commit: Slot,
    },
    /// The leader lives, and asks for its lease.
    Heartbeat {
        /// The leader's ballot.
        ballot: Ballot,
        /// Everything up to here is decided.
        commit: Slot,
        /// Everything up to here is executed for good by every member.
        forget: Slot,
        /// What any lower ballot may have chosen lies at or below.
        barrier: Slot,
        /// The leader's clock, for the answer to say.
        sent: Time,
        /// For how long the receiver is to vote for nobody else.
        lease: Duration,
    },
    /// The sender votes for nobody else for `lease` from the receipt of that Heartbeat.
    HeartbeatOk {
        /// The ballot.
        ballot: Ballot,
        /// What the Heartbeat said.
        sent: Time,
        /// For how long.
        lease: Duration,
        /// Everything up to here is executed by the sender for good.
        saved: Slot,
    },
    /// A ballot above that of the receiver is promised.
    Reject {
        /// The promised one.
        ballot: Ballot,
    },
    /// Batches for the leader to propose.
    Forward {
        /// The sender's proposals.
        proposals: Vec<Proposal>,
    },
    /// "Tell me what is decided from here on."
    Fetch {
        /// The first slot that is missing.
        first: Slot,
    },
    /// A run of decided slots.
    Decided {
        /// The first.
        first: Slot,
        /// What was decided in it and those after it.
        entries: Vec<Entry>,
    },
    /// What was asked for is not kept any more.
    Truncated {
        /// Everything up to here is gone.
        floor: Slot,
    },
}

/// What must survive a crash. Nothing else is needed to restart, and none of these can be spared.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// No ballot below this one is answered any more, nor is this one taken twice.
    Promised {
        /// The ballot.
        ballot: Ballot,
    },
    /// Votes for a run of slots; with it a promise of their ballot.
    Accepted {
        /// The ballot.
        ballot: Ballot,
        /// What was known as decided before.
        commit: Slot,
        /// The first slot.
        first: Slot,
        /// What was voted for in it and those after it.
        entries: Vec<Entry>,
    },
    /// Everything up to here is decided as voted for.
    Committed {
        /// The last decided slot.
        commit: Slot,
    },
    /// Decisions learned without a vote. All before them is decided as voted for.
    Decided {
        /// The first slot.
        first: Slot,
        /// What was decided in it and those after it.
        entries: Vec<Entry>,
    },
    /// The longest lease that was ever granted: for as long nobody is voted for after a restart.
    Granted {
        /// How long.
        lease: Duration,
    },
    /// Another replica's snapshot took the place of the state here. Without it, should it be lost
    /// in a crash before an own one is durable, what the log holds up to here need not be what was
    /// decided, and nothing after can be executed.
    Installed {
        /// Everything up to here is in it.
        executed: Slot,
    },
    /// Own proposals may have names up to here.
    Named {
        /// The highest count.
        up_to: Slot,
    },
}

/// What a snapshot holds of the protocol for every replica alike: nothing that what is executed
/// would not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProtocolSnapshot;

/// The most slots in one message or record.
pub const MAX_RUN: usize = 1024;

/// The bytes after which a run of slots holds no more.
pub(super) const RUN_BYTES: usize = 1 << 20;

/// Takes from the front of `items` what fits one message: at least one, if there is any.
pub(super) fn take_run<T>(
    items: &mut impl Iterator<Item = T>,
    weight: impl Fn(&T) -> usize,
) -> Vec<T> {
    let mut run = Vec::new();
    let mut bytes = 0;
    while run.len() < MAX_RUN && bytes < RUN_BYTES {
        let Some(item) = items.next() else { break };
        bytes += weight(&item);
        run.push(item);
    }
    run
}
