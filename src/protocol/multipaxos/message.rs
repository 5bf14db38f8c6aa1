//! The messages and records of Multi-Paxos. Names follow "Paxos Made Simple" where it has one:
//! Prepare, Promise, Accept.

use std::sync::Arc;
use std::time::Duration;

use crate::types::{Ballot, Batch, InstanceId, Slot, Time, Value};

/// The content of a slot: a proposal or `Nop`, with its name.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The name of the proposal: its proposer, and that replica's number for it.
    pub proposal: InstanceId,
    /// The value.
    pub value: Value,
}

impl Entry {
    /// A `Nop` with a name.
    pub(super) fn nop(proposal: InstanceId) -> Entry {
        Entry { proposal, value: Value::Nop }
    }
}

/// A vote, as an acceptor reports it to a new leader.
#[derive(Clone, PartialEq, Debug)]
pub struct Vote {
    /// The slot.
    pub slot: Slot,
    /// The ballot of its last vote.
    pub ballot: Ballot,
    /// The entry voted for.
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
    /// Asks for a pre-vote: would the receiver promise this ballot? Binds no replica.
    PreVote {
        /// The ballot that the sender would take.
        ballot: Ballot,
        /// The end of the sender's decided prefix.
        commit: Slot,
    },
    /// A pre-vote: yes.
    PreVoteOk {
        /// The ballot asked about.
        ballot: Ballot,
    },
    /// Phase 1a, for all slots from `first` on; and the request for the next page of a Promise.
    Prepare {
        /// The ballot.
        ballot: Ballot,
        /// The first slot whose votes the sender needs.
        first: Slot,
    },
    /// Phase 1b: a page of the sender's votes.
    Promise {
        /// The ballot promised.
        ballot: Ballot,
        /// The first slot of the page.
        first: Slot,
        /// Votes up to here are for decided values.
        commit: Slot,
        /// The votes from `first` to before `next`, in slot order.
        votes: Vec<Vote>,
        /// The first slot of the next page; 0 if there is none.
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
        /// The entries proposed for it and the following slots.
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
    /// Announces decisions if no Accept is due.
    Commit {
        /// The leader's ballot.
        ballot: Ballot,
        /// Everything up to here is decided.
        commit: Slot,
    },
    /// Shows that the leader is alive, and requests a lease.
    Heartbeat {
        /// The leader's ballot.
        ballot: Ballot,
        /// Everything up to here is decided.
        commit: Slot,
        /// Every member has durably executed everything up to here.
        forget: Slot,
        /// Every value that a lower ballot may have chosen is at or below this slot.
        barrier: Slot,
        /// The leader's clock; the answer repeats it.
        sent: Time,
        /// How long the receiver should vote for no other candidate.
        lease: Duration,
    },
    /// Grants a lease: the sender votes for no other candidate for `lease` from the receipt.
    HeartbeatOk {
        /// The ballot.
        ballot: Ballot,
        /// The `sent` of the Heartbeat.
        sent: Time,
        /// The length of the lease.
        lease: Duration,
        /// The sender has durably executed everything up to here.
        saved: Slot,
    },
    /// The sender has promised a higher ballot than the receiver's.
    Reject {
        /// The promised one.
        ballot: Ballot,
    },
    /// Batches for the leader to propose.
    Forward {
        /// The sender's proposals.
        proposals: Vec<Proposal>,
    },
    /// Requests the decisions from here on.
    Fetch {
        /// The first slot that is missing.
        first: Slot,
    },
    /// A run of decided slots.
    Decided {
        /// The first.
        first: Slot,
        /// The decisions of it and the following slots.
        entries: Vec<Entry>,
    },
    /// The requested slots are dropped.
    Truncated {
        /// Everything up to here is dropped.
        floor: Slot,
    },
}

/// The records that must survive a crash. A restart needs all of them and nothing else.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// A promise: no lower ballot is answered any more, and this one is not taken again.
    Promised {
        /// The ballot.
        ballot: Ballot,
    },
    /// Votes for a run of slots; also a promise of their ballot.
    Accepted {
        /// The ballot.
        ballot: Ballot,
        /// The end of the decided prefix before this vote.
        commit: Slot,
        /// The first slot.
        first: Slot,
        /// The entries voted for in it and the following slots.
        entries: Vec<Entry>,
    },
    /// Everything up to here is decided as voted for.
    Committed {
        /// The last decided slot.
        commit: Slot,
    },
    /// Decisions learned without a vote. Everything before them is decided as voted for.
    Decided {
        /// The first slot.
        first: Slot,
        /// The decisions of it and the following slots.
        entries: Vec<Entry>,
    },
    /// The longest lease ever granted: after a restart, no vote is given for this long.
    Granted {
        /// How long.
        lease: Duration,
    },
    /// Another replica's snapshot was installed. If that snapshot is lost in a crash before one of
    /// this replica is durable, the votes up to here may not be what was decided, so nothing after
    /// can be executed. This record shows it.
    Installed {
        /// Everything up to here is in it.
        executed: Slot,
    },
    /// Own proposals may have names with numbers up to here.
    Named {
        /// The highest number.
        up_to: Slot,
    },
}

/// The protocol's part of a snapshot is empty: the executed set says everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProtocolSnapshot;

/// The most slots in one message or record.
pub const MAX_RUN: usize = 1024;

/// A run of slots holds about this many bytes at most.
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
