//! The acceptor: answers candidates and leaders (§M3, §M5).
//!
//! It has no state of its own: its promise is in `promised`, its votes are in the log.

use super::lease::Grant;
use super::log::Accepted;
use super::message::{Entry, Vote, take_run};
use super::step::Step;
use super::{Message, Path, Record, learner};
use crate::protocol::log::weight;
use crate::types::{Ballot, ReplicaId, Slot, Written};

/// A candidate that lags this many slots gets no pre-vote. Another candidate will ask, for which
/// all would vote.
const LAGGING: Slot = 4096;

/// A pre-vote request: would this replica vote for `from`?
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
        s.fx.hit(Path::PreVoteRefused);
    } else if ballot <= s.promised.ballot() {
        s.promised.reject(from, s.fx);
    } else if commit < s.log.floor() {
        learner::answer_truncated(s, from);
    } else {
        s.fx.answer(Written::default(), from, Message::PreVoteOk { ballot });
    }
}

/// Phase 1b: promises, and sends the first page of its votes; or sends a later page. Returns
/// whether the promise is new.
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
        s.fx.hit(Path::Rejected);
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
            s.fx.hit(Path::PrepareRefused);
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

/// Whether this replica may vote for `candidate`: it does not lead itself, and no lease that it
/// granted to another binds it.
fn may_vote(s: &Step<'_>, grant: &Grant, candidate: ReplicaId) -> bool {
    let me = s.cx.me();
    let leads = s.promised.leader() == Some(me) && candidate != me;
    !leads && grant.free_for(candidate) <= s.view.now
}

/// Whether to handle a message of the leader of `ballot`; if so, that ballot is promised here. A
/// majority promised the leader its ballot, or it would not lead. So this replica may join it at
/// once, whatever lease it granted to another.
pub(super) fn heeds(s: &mut Step<'_>, from: ReplicaId, ballot: Ballot) -> bool {
    if ballot.is_owner() || ballot.leader(from) != from || from == s.cx.me() {
        return false;
    }
    if ballot < s.promised.ballot() {
        s.fx.hit(Path::Rejected);
        s.promised.reject(from, s.fx);
        return false;
    }
    if ballot > s.promised.ballot() {
        s.promised.join(ballot, s.fx);
    }
    true
}

/// Phase 2a of the promised ballot's leader: votes for a run of slots, unless it is too far ahead.
pub(super) fn on_accept(s: &mut Step<'_>, from: ReplicaId, first: Slot, entries: Vec<Entry>) {
    let last = first.saturating_add(entries.len() as Slot - 1);
    if first == 0 || !s.log.is_near(last) {
        return;
    }
    let ballot = s.promised.ballot();
    let written = vote(s, ballot, first, entries);
    s.fx.answer(written, from, Message::AcceptOk { ballot, first, last });
}

/// Records this replica's votes for a run of slots at the promised ballot. Returns the record that
/// an answer has to wait for.
///
/// It does not vote again for decided slots: their value is chosen already.
fn vote(s: &mut Step<'_>, ballot: Ballot, first: Slot, entries: Vec<Entry>) -> Written {
    let mut known = s.promised.written();
    let mut fresh = Vec::new();
    for (slot, entry) in (first..).zip(entries) {
        s.proposals.note_proposed(s.cx.me(), entry.proposal, ballot);
        match s.log.get(slot) {
            _ if slot <= s.log.floor() => {}
            Some(held) if slot <= s.log.commit() => {
                assert!(held.entry.value == entry.value, "one decision a slot: {slot}");
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

/// Records votes at the promised ballot, in runs without a gap, and stores them in the log.
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

/// The leader of this ballot has finished phase 1, and found that nothing beyond `barrier` may have
/// been chosen. So votes there at lower ballots can never decide anything: a majority has promised
/// this ballot. Without this, such a vote would stay until some proposal gets its slot, perhaps for
/// ever.
///
/// The records still hold the vote, and a restart restores it. That does no harm.
pub(super) fn drop_outdone(s: &mut Step<'_>, barrier: Slot) {
    let barrier = if s.cx.rules.votes_below_the_barrier_stay() { barrier } else { 0 };
    let beyond = barrier.max(s.log.commit());
    if s.log.drop_outdone(beyond, s.promised.ballot()) {
        s.fx.hit(Path::Outdone);
    }
}
