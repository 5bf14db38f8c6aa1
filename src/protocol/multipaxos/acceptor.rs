//! The acceptor: what a candidate or a leader asks of every replica (§M3, §M5).
//!
//! It has no state of its own: what it promised is in `promised`, what it voted for in the log.

use super::lease::Grant;
use super::log::Accepted;
use super::message::{Entry, Vote, take_run};
use super::step::Step;
use super::{Message, Record, learner};
use crate::protocol::Path;
use crate::protocol::log::weight;
use crate::types::{Ballot, ReplicaId, Slot, Written};

/// A candidate that is so many slots behind is not pre-voted for: another one will ask, for whom
/// all would vote.
const LAGGING: Slot = 4096;

/// Somebody asks whether this replica would vote for it.
pub(super) fn on_pre_vote(
    s: &mut Step<'_>,
    grant: &Grant,
    from: ReplicaId,
    ballot: Ballot,
    commit: Slot,
) {
    if ballot.is_owner() || ballot.leader(from) != from {
        return;
    }
    if !may_vote(s, grant, from) || commit.saturating_add(LAGGING) < s.log.commit() {
        s.fx.hit(Path::MpPreVoteRefused);
    } else if ballot <= s.promised.ballot() {
        s.promised.reject(from, s.fx);
    } else if commit < s.log.floor() {
        learner::answer_truncated(s, from);
    } else {
        s.fx.answer(Written::default(), from, Message::PreVoteOk { ballot });
    }
}

/// Phase 1b: promises, and tells the first page of its votes; or the next one. Whether the promise
/// is a new one.
pub(super) fn on_prepare(
    s: &mut Step<'_>,
    grant: &Grant,
    from: ReplicaId,
    ballot: Ballot,
    first: Slot,
) -> bool {
    if ballot.is_owner() || ballot.leader(from) != from || from == s.cx.me() || first == 0 {
        return false;
    }
    if ballot < s.promised.ballot() {
        s.fx.hit(Path::MpRejected);
        s.promised.reject(from, s.fx);
        return false;
    }
    if first <= s.log.floor() {
        learner::answer_truncated(s, from);
        return false;
    }
    let is_new = ballot > s.promised.ballot();
    if is_new {
        if !may_vote(s, grant, from) {
            s.fx.hit(Path::MpPrepareRefused);
            return false;
        }
        s.promised.join(ballot, s.fx);
    }
    let mut held = s.log.from(first).peekable();
    let mut votes = held.by_ref().map(|(slot, held)| {
        let (ballot, entry) = (held.ballot, held.entry.clone());
        Vote { slot, ballot, entry }
    });
    let votes = take_run(&mut votes, |vote| weight(&vote.entry.value));
    let next = held.peek().map_or(0, |(slot, _)| *slot);
    let commit = s.log.commit();
    let promise = Message::Promise { ballot, first, commit, votes, next };
    s.fx.answer(s.promised.written(), from, promise);
    is_new
}

/// Whether a vote for `candidate` breaks no word given to a leader.
fn may_vote(s: &Step<'_>, grant: &Grant, candidate: ReplicaId) -> bool {
    let me = s.cx.me();
    let leads = s.promised.leader() == Some(me) && candidate != me;
    !leads && grant.free_for(candidate) <= s.view.now
}

/// Whether a message of the leader of `ballot` is to be heeded; then that ballot is promised. That
/// it leads means that a majority promised it `ballot`, so that may be joined at once, whatever
/// this replica granted to another.
pub(super) fn heeds(s: &mut Step<'_>, from: ReplicaId, ballot: Ballot) -> bool {
    if ballot.is_owner() || ballot.leader(from) != from || from == s.cx.me() {
        return false;
    }
    if ballot < s.promised.ballot() {
        s.fx.hit(Path::MpRejected);
        s.promised.reject(from, s.fx);
        return false;
    }
    if ballot > s.promised.ballot() {
        s.promised.join(ballot, s.fx);
    }
    true
}

/// Phase 2a of the promised ballot's leader: votes for a run of slots, unless they are too far
/// ahead.
pub(super) fn on_accept(s: &mut Step<'_>, from: ReplicaId, first: Slot, entries: Vec<Entry>) {
    let last = first.saturating_add(entries.len() as Slot - 1);
    if first == 0 || !s.log.is_near(last) {
        return;
    }
    let ballot = s.promised.ballot();
    let written = vote(s, ballot, first, entries);
    s.fx.answer(written, from, Message::AcceptOk { ballot, first, last });
}

/// Takes in the votes of this replica for a run of slots, at the promised ballot; what a message
/// that tells of them waits for.
///
/// What is decided here is not voted for once more: it is chosen, whatever this vote adds.
fn vote(s: &mut Step<'_>, ballot: Ballot, first: Slot, entries: Vec<Entry>) -> Written {
    let mut known = s.promised.written();
    let mut fresh = Vec::new();
    for (slot, entry) in (first..).zip(entries) {
        s.proposals.note_proposed(s.cx.me(), entry.proposal, ballot);
        match s.log.get(slot) {
            _ if slot <= s.log.floor() => {}
            Some(held) if slot <= s.log.commit() => {
                assert!(held.entry.value == entry.value, "decided otherwise: slot {slot}");
                known = known.max(held.written);
            }
            Some(held) if held.ballot == ballot => {
                assert!(held.entry == entry, "one value a slot and ballot: slot {slot}");
                known = known.max(held.written);
            }
            _ => fresh.push((slot, entry)),
        }
    }
    record_votes(s, fresh).map_or(known, |written| written.max(known))
}

/// Records votes at the promised ballot, in runs without a gap, and puts them in the log.
pub(super) fn record_votes(s: &mut Step<'_>, fresh: Vec<(Slot, Entry)>) -> Option<Written> {
    let ballot = s.promised.ballot();
    let mut written = None;
    for run in fresh.chunk_by(|(slot, _), (next, _)| slot + 1 == *next) {
        let entries = run.iter().map(|(_, entry)| entry.clone()).collect();
        let (first, commit) = (run[0].0, s.log.commit());
        s.log.note_recorded(commit);
        let token = s.fx.append(Record::Accepted { ballot, commit, first, entries });
        for (slot, entry) in run {
            let entry = entry.clone();
            s.log.put(*slot, Accepted { ballot, entry, written: token });
        }
        written = Some(token);
    }
    written
}

/// This ballot's leader has ended phase 1, and found nothing beyond `barrier` that may have been
/// chosen. So no vote there at a lower ballot was ever of use, nor will it be: a majority has
/// promised this ballot. If such a vote stayed, it would stay until somebody proposes something in
/// its slot, which may be never.
///
/// In the records the vote remains, and a restart brings it back: that does no harm.
pub(super) fn drop_outdone(s: &mut Step<'_>, barrier: Slot) {
    let barrier = if s.cx.rules.votes_below_the_barrier_stay() { barrier } else { 0 };
    let beyond = barrier.max(s.log.commit());
    if s.log.drop_outdone(beyond, s.promised.ballot()) {
        s.fx.hit(Path::MpOutdone);
    }
}
