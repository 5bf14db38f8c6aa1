//! The acceptor and the learner: votes, and follows what the leader says is decided (§M3, §M4).
//! What it lacks it asks for.

use super::log::Accepted;
use super::message::{Entry, take_run, weight};
use super::{Fx, Message, MultiPaxos, Record, Role};
use crate::protocol::{Path, View};
use crate::types::{Ballot, Deps, InstanceId, MAX_SLOT, ReplicaId, Slot, Value, Written};

impl MultiPaxos {
    /// A message of whoever leads `ballot`, saying what is decided: whether it is to be heeded.
    /// That it leads means that a majority promised it `ballot`, so that may be joined at once,
    /// whatever this replica granted to another.
    pub(super) fn hear_leader(
        &mut self,
        view: &View,
        from: ReplicaId,
        ballot: Ballot,
        commit: Slot,
        fx: &mut Fx,
    ) -> bool {
        if ballot.is_owner() || ballot.leader(from) != from || from == self.me() {
            return false;
        }
        if ballot < self.promised {
            fx.hit(Path::MpRejected);
            let ballot = self.promised;
            fx.answer(self.promise_written, from, Message::Reject { ballot });
            return false;
        }
        if ballot > self.promised {
            self.join(ballot);
            self.promise_written = fx.append(Record::Promised { ballot });
        }
        assert!(
            !matches!(self.role, Role::Leader(_)),
            "one replica leads a ballot, and here it is this one: {ballot:?} of {from}"
        );
        self.told = self.told.max(commit.min(MAX_SLOT));
        self.role = Role::Follower;
        self.postpone_election(view);
        if self.leader.replace(from).is_none() {
            fx.hit(Path::MpFollowed);
            self.forward_all(view, fx);
        }
        true
    }

    /// Phase 2a: votes for a run of slots.
    pub(super) fn on_accept(
        &mut self,
        view: &View,
        from: ReplicaId,
        ballot: Ballot,
        commit: Slot,
        (first, entries): (Slot, Vec<Entry>),
        fx: &mut Fx,
    ) {
        if entries.is_empty() || !self.hear_leader(view, from, ballot, commit, fx) {
            return;
        }
        self.follow_commit(view, fx);
        let last = first.saturating_add(entries.len() as Slot - 1);
        if first == 0 || !self.log.is_near(last) {
            return;
        }
        let written = self.vote(ballot, first, entries, fx);
        fx.answer(written, from, Message::AcceptOk { ballot, first, last });
        // What is decided may have been told before.
        self.follow_commit(view, fx);
    }

    /// Takes in the votes of this replica for a run of slots, at the promised ballot; what whoever
    /// is told of them has to wait for.
    ///
    /// What is decided here is not voted for once more: it is chosen, whatever this vote adds.
    fn vote(&mut self, ballot: Ballot, first: Slot, entries: Vec<Entry>, fx: &mut Fx) -> Written {
        assert!(ballot == self.promised, "only what is promised is voted for");
        let mut known = self.promise_written;
        let mut fresh = Vec::new();
        for (slot, entry) in (first..).zip(entries) {
            self.note_proposed(entry.proposal);
            match self.log.get(slot) {
                _ if slot <= self.log.floor() => {}
                Some(held) if slot <= self.log.commit() => {
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
        self.accept_all(ballot, fresh, fx).map_or(known, |written| written.max(known))
    }

    /// Records votes, in runs without a gap, and puts them in the log.
    pub(super) fn accept_all(
        &mut self,
        ballot: Ballot,
        fresh: Vec<(Slot, Entry)>,
        fx: &mut Fx,
    ) -> Option<Written> {
        let mut written = None;
        for run in fresh.chunk_by(|(slot, _), (next, _)| slot + 1 == *next) {
            let entries = run.iter().map(|(_, entry)| entry.clone()).collect();
            let (first, commit) = (run[0].0, self.log.commit());
            self.recorded = commit;
            let token = fx.append(Record::Accepted { ballot, commit, first, entries });
            for (slot, entry) in run {
                let entry = entry.clone();
                self.log.put(*slot, Accepted { ballot, entry, written: token });
            }
            written = Some(token);
        }
        written
    }

    /// Goes as far as the leader says all is decided, and asks for what it lacks.
    ///
    /// Why what was voted for at the leader's own ballot is what was decided: the leader proposed
    /// it at that ballot, after phase 1; had another value been chosen for the slot at any ballot
    /// below, it would have proposed that. What was voted for at a lower ballot may be anything.
    pub(super) fn follow_commit(&mut self, view: &View, fx: &mut Fx) {
        self.decide_told(fx);
        self.fetch_missing(view, fx);
    }

    fn decide_told(&mut self, fx: &mut Fx) {
        while self.log.commit() < self.told {
            let next = self.log.get(self.log.commit() + 1);
            if next.is_none_or(|held| held.ballot != self.promised && !self.trusts_any_ballot()) {
                break;
            }
            self.decide_next(fx);
        }
    }

    /// Asks for what is decided and not here, once that has lasted: a large Accept is overtaken by
    /// the small message that says how far all is decided, and need not be sent twice for that.
    fn fetch_missing(&mut self, view: &View, fx: &mut Fx) {
        let commit = self.log.commit();
        if commit >= self.told {
            return;
        }
        if self.stands_at != Some(commit) {
            self.stands_at = Some(commit);
            let patience = self.settings.timing.gossip + view.slowest_trip();
            self.next_fetch = self.next_fetch.max(view.now + patience);
        }
        if self.next_fetch <= view.now {
            let Some(leader) = self.leader else { return };
            fx.hit(Path::MpFetch);
            self.next_fetch = view.now + self.resend_after(view, 0);
            let first = commit + 1;
            fx.answer(Written::default(), leader, Message::Fetch { first });
        }
    }

    #[cfg(test)]
    fn trusts_any_ballot(&self) -> bool {
        self.planted(super::Plant::CommitAnyBallot)
    }

    #[cfg(not(test))]
    const fn trusts_any_ballot(&self) -> bool {
        false
    }

    pub(super) fn on_fetch(&mut self, from: ReplicaId, first: Slot, fx: &mut Fx) {
        if first == 0 || first > self.log.commit() {
            return;
        }
        if first <= self.log.floor() {
            self.answer_truncated(from, fx);
            return;
        }
        let commit = self.log.commit();
        let decided = self.log.from(first).take_while(|(slot, _)| *slot <= commit);
        let mut decided = decided.map(|(_, accepted)| &accepted.entry);
        let run = take_run(&mut decided, |entry| weight(&entry.value));
        let entries: Vec<Entry> = run.into_iter().cloned().collect();
        fx.hit(Path::MpFetchAnswered);
        fx.answer(Written::default(), from, Message::Decided { first, entries });
    }

    pub(super) fn answer_truncated(&mut self, to: ReplicaId, fx: &mut Fx) {
        fx.hit(Path::MpTruncated);
        let floor = self.log.floor();
        fx.answer(Written::default(), to, Message::Truncated { floor });
    }

    /// Decisions that were asked for.
    pub(super) fn on_decided(
        &mut self,
        view: &View,
        first: Slot,
        entries: Vec<Entry>,
        fx: &mut Fx,
    ) {
        // A leader knows what is decided at its ballot from its own count alone.
        if matches!(self.role, Role::Leader(_)) {
            return;
        }
        let any = self.learn(first, entries, fx);
        self.decide_told(fx);
        if any {
            // There may be more, and it is not under way.
            self.stands_at = Some(self.log.commit());
            self.next_fetch = view.now;
        }
        self.fetch_missing(view, fx);
    }

    /// Takes in decisions, as far as they follow without a gap; whether any is news.
    pub(super) fn learn(&mut self, first: Slot, entries: Vec<Entry>, fx: &mut Fx) -> bool {
        let next = self.log.commit() + 1;
        if first == 0 || first > next {
            return false;
        }
        let mut news = Vec::new();
        for (slot, entry) in (first..).zip(entries) {
            if slot >= next {
                news.push(entry);
            } else if let Some(held) = self.log.get(slot) {
                assert!(held.entry.value == entry.value, "decided otherwise: slot {slot}");
            }
        }
        if news.is_empty() || next > MAX_SLOT - news.len() as Slot {
            return false;
        }
        let written = fx.append(Record::Decided { first: next, entries: news.clone() });
        for (slot, entry) in (next..).zip(news) {
            self.put_decided(slot, entry, written);
            self.recorded = slot;
            self.decide_next(fx);
        }
        true
    }

    /// The decision of a slot comes into the log, which may hold a vote for it.
    pub(super) fn put_decided(&mut self, slot: Slot, entry: Entry, written: Written) {
        self.log.put(slot, Accepted { ballot: Ballot::OWNER, entry, written });
    }

    /// What is decided is written down now and then, so that a restart begins with it; nothing
    /// waits for that.
    pub(super) fn record_commit(&mut self, view: &View, fx: &mut Fx) {
        if self.recorded < self.log.commit() && self.next_record <= view.now {
            self.next_record = view.now + self.settings.timing.gossip;
            self.recorded = self.log.commit();
            fx.append(Record::Committed { commit: self.recorded });
        }
    }

    /// What is missing here is not kept there any more.
    pub(super) fn on_truncated(&mut self, floor: Slot, fx: &mut Fx) {
        if floor <= self.log.commit() || floor > MAX_SLOT {
            return;
        }
        fx.hit(Path::MpNeedsSnapshot);
        let mut needed = fx.needs_snapshot.take().unwrap_or_else(|| Deps::none(self.n()));
        needed.raise(InstanceId::LOG, floor);
        fx.needs_snapshot = Some(needed);
    }
}

/// Nothing, under a name.
pub(super) fn nop(proposal: InstanceId) -> Entry {
    Entry { proposal, value: Value::Nop }
}
