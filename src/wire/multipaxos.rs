//! The encoding of Multi-Paxos messages and records, and of the shared part of its snapshots, which
//! is empty. Kind 0x37 was the Heartbeat without its barrier.

use std::time::Duration;

use bytes::{BufMut, BytesMut};

use super::kinds::kinds;
use super::values::{put_varint, take_slot};
use super::{DecodeError, Flaw, Reader, Wire};
use crate::protocol::multipaxos::{
    Entry, MAX_RUN, Message, Proposal, ProtocolSnapshot, Record, Vote,
};
use crate::types::{Ballot, MAX_SLOT, Slot, Value};

/// The entries of consecutive slots.
type Run = Vec<Entry>;

/// The bytes of the shortest entry: proposer, count, a `Nop`.
const LEAST_ENTRY: usize = 3;
/// The bytes of the shortest vote: slot, ballot, entry.
const LEAST_VOTE: usize = 2 + LEAST_ENTRY;
/// The bytes of the shortest proposal: proposer, count, one command.
const LEAST_PROPOSAL: usize = 4;

kinds! { Message, "a message of Multi-Paxos", _limits:
    0x30 PreVote { ballot, commit } refused for nobodys(ballot).or(too_far(commit));
    0x31 PreVoteOk { ballot } refused for nobodys(ballot);
    0x32 Prepare { ballot, first } refused for nobodys(ballot).or(no_slot(first));
    0x33 Promise { ballot, first, commit, votes, next }
        refused for nobodys(ballot).or(no_slot(first)).or(too_far(commit)).or(too_far(next));
    0x34 Accept { ballot, commit, first, entries }
        refused for nobodys(ballot).or(too_far(commit)).or(no_run(first, Run::len(&entries)));
    0x35 AcceptOk { ballot, first, last }
        refused for nobodys(ballot).or(no_range(first, last));
    0x36 Commit { ballot, commit } refused for nobodys(ballot).or(too_far(commit));
    0x38 HeartbeatOk { ballot, sent, lease, saved }
        refused for nobodys(ballot).or(too_far(saved));
    0x39 Reject { ballot } refused for nobodys(ballot);
    0x3a Forward { proposals };
    0x3b Fetch { first } refused for no_slot(first);
    0x3c Decided { first, entries } refused for no_run(first, Run::len(&entries));
    0x3d Truncated { floor } refused for too_far(floor);
    0x3e Heartbeat { ballot, commit, forget, barrier, sent, lease }
        refused for nobodys(ballot).or(too_far(commit)).or(too_far(forget)).or(too_far(barrier));
}

kinds! { Record, "a record of Multi-Paxos", _limits:
    0x30 Promised { ballot } refused for nobodys(ballot);
    0x31 Accepted { ballot, commit, first, entries }
        refused for nobodys(ballot).or(too_far(commit)).or(no_run(first, Run::len(&entries)));
    0x32 Committed { commit } refused for too_far(commit);
    0x33 Decided { first, entries } refused for no_run(first, Run::len(&entries));
    0x34 Granted { lease };
    0x35 Named { up_to } refused for too_far(up_to);
    0x36 Installed { executed } refused for too_far(executed);
}

/// Refuses the owner's ballot: every ballot of Multi-Paxos has a leader, and values learned without
/// a vote are sent without a ballot.
fn nobodys(ballot: Ballot) -> Option<Flaw> {
    ballot.is_owner().then_some(Flaw::OwnersBallot)
}

fn too_far(slot: Slot) -> Option<Flaw> {
    let (found, limit) = (slot, MAX_SLOT);
    (found > limit).then_some(Flaw::TooMany { what: "slots", found, limit })
}

fn no_slot(slot: Slot) -> Option<Flaw> {
    (slot == 0).then_some(Flaw::Zero { what: "a slot" }).or(too_far(slot))
}

fn no_range(first: Slot, last: Slot) -> Option<Flaw> {
    no_slot(first).or(too_far(last)).or((first > last).then_some(Flaw::EmptyRange))
}

/// Refuses a run without a first slot, an empty run, and one that ends above the maximum.
fn no_run(first: Slot, length: usize) -> Option<Flaw> {
    match length as Slot {
        0 => Some(Flaw::EmptyRange),
        length => no_range(first, first.saturating_add(length - 1)),
    }
}

impl Wire for Duration {
    /// In nanoseconds; no sender has 2^64 or more.
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, u64::try_from(self.as_nanos()).unwrap_or(u64::MAX));
    }

    fn decode(from: &mut Reader<'_>) -> Result<Duration, DecodeError> {
        from.varint("a length of time").map(Duration::from_nanos)
    }
}

impl Wire for Entry {
    fn encode(&self, out: &mut BytesMut) {
        self.proposal.encode(out);
        self.value.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Entry, DecodeError> {
        Ok(Entry { proposal: from.read()?, value: from.read::<Value>()? })
    }
}

impl Wire for Vote {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.slot);
        self.ballot.encode(out);
        self.entry.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Vote, DecodeError> {
        Ok(Vote { slot: take_slot(from)?, ballot: from.read()?, entry: from.read()? })
    }
}

impl Wire for Proposal {
    fn encode(&self, out: &mut BytesMut) {
        self.name.encode(out);
        self.batch.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Proposal, DecodeError> {
        Ok(Proposal { name: from.read()?, batch: from.read()? })
    }
}

fn put_all<T: Wire>(items: &[T], out: &mut BytesMut) {
    put_varint(out, items.len() as u64);
    items.iter().for_each(|item| item.encode(out));
}

fn take_all<T: Wire>(
    from: &mut Reader<'_>,
    what: &'static str,
    least: usize,
) -> Result<Vec<T>, DecodeError> {
    let count = from.count(what, MAX_RUN, least)?;
    // Do not reserve `count` items: one takes more memory than its shortest encoding.
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(from.read()?);
    }
    Ok(items)
}

impl Wire for Vec<Entry> {
    fn encode(&self, out: &mut BytesMut) {
        put_all(self, out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Vec<Entry>, DecodeError> {
        take_all(from, "entries", LEAST_ENTRY)
    }
}

impl Wire for Vec<Vote> {
    fn encode(&self, out: &mut BytesMut) {
        put_all(self, out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Vec<Vote>, DecodeError> {
        take_all(from, "votes", LEAST_VOTE)
    }
}

impl Wire for Vec<Proposal> {
    fn encode(&self, out: &mut BytesMut) {
        put_all(self, out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Vec<Proposal>, DecodeError> {
        take_all(from, "proposals", LEAST_PROPOSAL)
    }
}

impl Wire for ProtocolSnapshot {
    fn encode(&self, _out: &mut BytesMut) {}

    fn decode(_from: &mut Reader<'_>) -> Result<ProtocolSnapshot, DecodeError> {
        Ok(ProtocolSnapshot)
    }
}
