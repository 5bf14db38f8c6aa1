//! The acceptor: promises (§F2) and votes. In a fast round it votes for any value that arrives, in
//! its next free slot (§F3).
//!
//! Its state is in `votes`.

use std::collections::BTreeMap;

use super::votes::Votes;
use super::{Message, Path, Record, Round, Step};
use crate::protocol::log::Choice;
use crate::types::{Ballot, InstanceId, ReplicaId, Slot, Written};

/// How many votes are repeated at a time.
const AGAIN_AT_ONCE: usize = 64;

/// Whether an acceptor takes part in a ballot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Joined {
    /// No: it has promised a higher one, or the sender does not lead the ballot.
    No,
    /// Yes, and it already did.
    Before,
    /// Yes, since this message.
    Now,
}

/// Joins a coordinator's ballot, or tells the coordinator that the ballot is too low.
pub(super) fn join(s: &mut Step<'_>, votes: &mut Votes, from: ReplicaId, ballot: Ballot) -> Joined {
    if ballot.is_owner() || ballot.leader(from) != from {
        return Joined::No;
    }
    let promised = votes.promised();
    if ballot < promised {
        s.fx.hit(Path::Rejected);
        s.fx.answer(Written::default(), from, Message::Rejected { ballot: promised });
        return Joined::No;
    }
    if ballot == promised {
        return Joined::Before;
    }
    s.fx.append(Record::Promised { ballot });
    votes.join(ballot);
    Joined::Now
}

/// Phase 1b: a promise for all slots, and the votes in those not decided here. A decision above the
/// decided prefix is reported as a vote that nothing overrides.
pub(super) fn on_prepare(s: &mut Step<'_>, votes: &Votes, from: ReplicaId, ballot: Ballot) {
    let known = s.log.known();
    let decided = s.log.above(known).map(|(slot, choice)| (slot, (None, choice.clone())));
    let voted = votes.above(known);
    let voted = voted.map(|(slot, vote)| (slot, (Some(vote.round), vote.choice.clone())));
    let reports: BTreeMap<Slot, _> = decided.chain(voted).collect();
    let reported = reports.keys().copied().collect();
    // Not before everything is durable: the promise, and votes cast just now.
    let after = s.fx.everything();
    s.fx.answer(after, from, Message::Promise { ballot, known, reported });
    for (slot, (round, choice)) in reports {
        s.fx.answer(after, from, Message::Report { ballot, slot, round, choice });
    }
}

/// A proposer's value arrived that is not known to be decided.
pub(super) fn on_propose(s: &mut Step<'_>, votes: &mut Votes, choice: Choice) {
    let name = choice.proposal;
    let Some((ballot, first)) = votes.open() else { return };
    if let Some((slot, vote)) = votes.vote_for(name)
        && vote.round.ballot == ballot
    {
        let voted = Message::Voted { slot, round: vote.round, proposal: name };
        s.fx.send(vote.written, s.cx.all(), voted);
        return;
    }
    if let Some(slot) = place(s, votes, name, first) {
        vote(s, votes, slot, Round::anybodys(ballot), choice);
    }
}

/// Where to vote for a proposal: where others have, or else in the next free slot.
fn place(s: &Step<'_>, votes: &Votes, name: InstanceId, first: Slot) -> Option<Slot> {
    let is_free = |slot: Slot| s.log.is_open(slot) && votes.is_free(slot);
    if let Some(slot) = votes.hinted(name).filter(|slot| is_free(*slot)) {
        return Some(slot);
    }
    let mut slot = first.max(s.log.known() + 1);
    while !s.log.is_beyond(slot) {
        if is_free(slot) && !votes.is_hinted(slot) {
            return Some(slot);
        }
        slot += 1;
    }
    None
}

/// Votes, and tells all. So replicas that wait for a slot learn it as early as possible, and the
/// coordinator sees a collision at once.
fn vote(s: &mut Step<'_>, votes: &mut Votes, slot: Slot, round: Round, choice: Choice) {
    let proposal = choice.proposal;
    s.log.see(slot);
    let written = s.fx.append(Record::Voted { slot, round, choice: choice.clone() });
    votes.cast(slot, round, choice, written);
    s.fx.send(written, s.cx.all(), Message::Voted { slot, round, proposal });
}

/// Time passed. A vote that led to nothing for long may be unknown to all others, in a slot that no
/// other replica knows, for a value decided elsewhere. So this acceptor repeats it to the
/// coordinator, which finishes the slot.
pub(super) fn repeat_votes(s: &mut Step<'_>, votes: &mut Votes, coordinator: Option<ReplicaId>) {
    let long = s.cx.retransmit_after(s.view) * 4;
    if s.log.stuck_for(s.view) < long || s.view.now.since(votes.repeated()) < long {
        return;
    }
    let Some(coordinator) = coordinator else { return };
    votes.repeat_now(s.view.now);
    for (slot, vote) in votes.above(s.log.known()).take(AGAIN_AT_ONCE) {
        s.fx.hit(Path::Repeated);
        let (round, proposal) = (vote.round, vote.choice.proposal);
        s.fx.answer(vote.written, coordinator, Message::Voted { slot, round, proposal });
    }
}

/// The coordinator asks for a vote in a slot of the fast round.
pub(super) fn on_suggest(
    s: &mut Step<'_>,
    votes: &mut Votes,
    from: ReplicaId,
    (ballot, slot): (Ballot, Slot),
    choice: Choice,
) {
    let is_open = votes.open().is_some_and(|(open, first)| open == ballot && first <= slot);
    if is_open && s.log.is_open(slot) && votes.is_free(slot) {
        vote(s, votes, slot, Round::anybodys(ballot), choice);
    }
    if let Some(vote) = votes.vote(slot) {
        let (round, choice) = (Some(vote.round), vote.choice.clone());
        s.fx.answer(vote.written, from, Message::Report { ballot, slot, round, choice });
    }
}

/// Phase 2b of a coordinated round.
pub(super) fn on_accept(
    s: &mut Step<'_>,
    votes: &mut Votes,
    (ballot, slot): (Ballot, Slot),
    choice: Choice,
) {
    let round = Round::coordinated(ballot);
    match votes.vote(slot) {
        Some(vote) if vote.round >= round => {
            let proposal = vote.choice.proposal;
            let voted = Message::Voted { slot, round: vote.round, proposal };
            s.fx.send(vote.written, s.cx.all(), voted);
        }
        _ => vote(s, votes, slot, round, choice),
    }
}
