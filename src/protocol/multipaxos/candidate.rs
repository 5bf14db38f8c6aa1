//! Election: who has not heard a leader for long enough asks whether a majority would have another
//! (pre-vote: Ongaro's thesis, §9.6), and if so runs phase 1 of Paxos over the whole suffix of the
//! log ("Paxos Made Simple", §3). The rules are §M5 and §M6.
//!
//! A pre-vote changes nothing at whoever gives it, and nobody gives one who has granted a leader
//! its lease (`lease`): so a replica that comes back, or sees nobody, disturbs no leader that a
//! majority hears. Who takes a ballot records it first: it is never taken again.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;

use super::accept::nop;
use super::message::{Entry, Vote, take_run, weight};
use super::{Fx, Message, MultiPaxos, Record, Role};
use crate::protocol::{Path, View};
use crate::types::{Ballot, ReplicaId, ReplicaSet, Slot, Time, Written};

/// Who is so many slots behind is not pre-voted for: somebody else will ask, whom all would have.
const LAGGING: Slot = 4096;

/// When to stand for election, and above what.
#[derive(Debug, Default)]
pub(super) struct Election {
    /// When; `None` before the first look at the clock.
    deadline: Option<Time>,
    /// The highest ballot heard of, promised or not.
    highest: Ballot,
}

impl Election {
    /// There is such a ballot.
    pub(super) fn note(&mut self, ballot: Ballot) {
        self.highest = self.highest.max(ballot);
    }
}

/// How far a candidate is.
#[derive(Debug)]
enum Stage {
    /// Asks who would vote for it.
    PreVote(ReplicaSet),
    /// Phase 1: per member, the first slot that it has not told its votes from; `None` when all
    /// are told.
    Phase1(Vec<Option<Slot>>),
}

/// The best that phase 1 has found for a slot.
#[derive(Debug)]
struct Found {
    ballot: Ballot,
    entry: Entry,
}

/// A replica that stands for election.
#[derive(Debug)]
pub(super) struct Candidate {
    ballot: Ballot,
    stage: Stage,
    /// What others voted for, above what is known decided here.
    found: BTreeMap<Slot, Found>,
    next_resend: Time,
    tries: u32,
}

impl MultiPaxos {
    /// A leader was heard, or somebody stands for election: this replica waits.
    pub(super) fn postpone_election(&mut self, view: &View) {
        let least = self.election_timeout(view);
        let drawn = self.rng.random::<f64>();
        let jitter = least.mul_f64(self.settings.timing.patience_to_stand(self.me(), drawn));
        self.election.deadline = Some(view.now + least + jitter);
    }

    /// In a new cluster, which nobody leads, the wished-for leader or else the first replica leads
    /// if it can; the others follow in order.
    fn first_deadline(&mut self, view: &View) -> Time {
        let (timing, me) = (&self.settings.timing, self.settings.me);
        let rank = u32::try_from(me.index()).expect("a replica's number is small");
        let spread = match timing.leader {
            Some(leader) if leader == me => Duration::ZERO,
            _ => timing.suspect / 2 * rank + timing.head_start(me),
        };
        let jitter = timing.tick.mul_f64(self.rng.random::<f64>());
        if self.n() == 1 { view.now } else { view.now + timing.gossip + spread + jitter }
    }

    /// Stands for election when it is time, and asks again whoever has not answered.
    pub(super) fn drive_election(&mut self, view: &View, fx: &mut Fx) {
        if matches!(self.role, Role::Leader(_)) {
            return;
        }
        let deadline = match self.election.deadline {
            Some(deadline) => deadline,
            None => self.first_deadline(view),
        };
        self.election.deadline = Some(deadline);
        if deadline <= view.now {
            self.stand(view, fx);
        }
        let Role::Candidate(candidate) = &mut self.role else { return };
        if candidate.next_resend <= view.now {
            candidate.tries += 1;
            let tries = candidate.tries;
            let next = view.now + self.resend_after(view, tries);
            if let Role::Candidate(candidate) = &mut self.role {
                candidate.next_resend = next;
            }
            fx.hit(Path::MpAskedAgain);
            self.ask(fx);
        }
    }

    /// Asks who would vote for this replica.
    fn stand(&mut self, view: &View, fx: &mut Fx) {
        self.postpone_election(view);
        let free = self.grant.free_for(self.me());
        if free > view.now {
            fx.hit(Path::MpWaitedOut);
            self.election.deadline = Some(free);
            return;
        }
        fx.hit(Path::MpPreVote);
        self.leader = None;
        let ballot = self.promised.max(self.election.highest).next_for(self.me());
        let voters = ReplicaSet::from_iter([self.me()]);
        self.become_candidate(view, ballot, Stage::PreVote(voters));
        if voters.len() >= self.quorum() {
            self.start_phase_1(view, fx);
        } else {
            self.ask(fx);
        }
    }

    fn become_candidate(&mut self, view: &View, ballot: Ballot, stage: Stage) {
        let next_resend = view.now + self.resend_after(view, 0);
        let found = BTreeMap::new();
        let candidate = Candidate { ballot, stage, found, next_resend, tries: 0 };
        self.role = Role::Candidate(Box::new(candidate));
    }

    /// Asks all who have not answered.
    fn ask(&mut self, fx: &mut Fx) {
        let (me, others) = (self.me(), self.others());
        let Role::Candidate(candidate) = &self.role else { return };
        let ballot = candidate.ballot;
        match &candidate.stage {
            Stage::PreVote(voters) => {
                let to: ReplicaSet = others.iter().filter(|who| !voters.contains(*who)).collect();
                let commit = self.log.commit();
                fx.send(Written::default(), to, Message::PreVote { ballot, commit });
            }
            Stage::Phase1(pages) => {
                let pages = ReplicaId::all(pages.len()).zip(pages);
                for (who, first) in pages.filter(|(who, _)| *who != me) {
                    if let Some(first) = *first {
                        fx.answer(self.promise_written, who, Message::Prepare { ballot, first });
                    }
                }
            }
        }
    }

    /// Somebody asks whether this replica would vote for it.
    pub(super) fn on_pre_vote(
        &mut self,
        view: &View,
        from: ReplicaId,
        ballot: Ballot,
        commit: Slot,
        fx: &mut Fx,
    ) {
        if ballot.is_owner() || ballot.leader(from) != from {
            return;
        }
        if !self.may_vote(view, from) || commit.saturating_add(LAGGING) < self.log.commit() {
            fx.hit(Path::MpPreVoteRefused);
        } else if ballot <= self.promised {
            let ballot = self.promised;
            fx.answer(self.promise_written, from, Message::Reject { ballot });
        } else if commit < self.log.floor() {
            self.answer_truncated(from, fx);
        } else {
            fx.answer(Written::default(), from, Message::PreVoteOk { ballot });
        }
    }

    pub(super) fn on_pre_vote_ok(
        &mut self,
        view: &View,
        from: ReplicaId,
        ballot: Ballot,
        fx: &mut Fx,
    ) {
        let quorum = self.quorum();
        let Role::Candidate(candidate) = &mut self.role else { return };
        let Stage::PreVote(voters) = &mut candidate.stage else { return };
        if ballot == candidate.ballot && voters.insert(from) && voters.len() >= quorum {
            self.start_phase_1(view, fx);
        }
    }

    /// Phase 1a, at a ballot above all that were heard of.
    pub(super) fn start_phase_1(&mut self, view: &View, fx: &mut Fx) {
        let me = self.me();
        let ballot = self.promised.max(self.election.highest).next_for(me);
        self.join(ballot);
        self.promise_written = fx.append(Record::Promised { ballot });
        self.postpone_election(view);
        let first = self.log.commit() + 1;
        self.become_candidate(view, ballot, Stage::Phase1(vec![Some(first); self.n()]));
        self.ask(fx);
        // Its own votes are at hand; its promise counts when it is durable, like any other.
        let (commit, votes, next) = (self.log.commit(), Vec::new(), 0);
        let promise = Message::Promise { ballot, first, commit, votes, next };
        fx.answer(self.promise_written, me, promise);
    }

    /// Phase 1b: promises, and tells the first page of its votes; or the next one.
    pub(super) fn on_prepare(
        &mut self,
        view: &View,
        from: ReplicaId,
        ballot: Ballot,
        first: Slot,
        fx: &mut Fx,
    ) {
        if ballot.is_owner() || ballot.leader(from) != from || from == self.me() || first == 0 {
            return;
        }
        if ballot < self.promised {
            fx.hit(Path::MpRejected);
            let ballot = self.promised;
            fx.answer(self.promise_written, from, Message::Reject { ballot });
            return;
        }
        if first <= self.log.floor() {
            self.answer_truncated(from, fx);
            return;
        }
        if ballot > self.promised {
            if !self.may_vote(view, from) {
                fx.hit(Path::MpPrepareRefused);
                return;
            }
            self.join(ballot);
            self.promise_written = fx.append(Record::Promised { ballot });
            self.postpone_election(view);
        }
        let mut held = self.log.from(first).peekable();
        let mut votes = held.by_ref().map(|(slot, held)| {
            let (ballot, entry) = (held.ballot, held.entry.clone());
            Vote { slot, ballot, entry }
        });
        let votes = take_run(&mut votes, |vote| weight(&vote.entry.value));
        let next = held.peek().map_or(0, |(slot, _)| *slot);
        let commit = self.log.commit();
        let promise = Message::Promise { ballot, first, commit, votes, next };
        fx.answer(self.promise_written, from, promise);
    }

    /// A page of somebody's votes.
    #[expect(clippy::too_many_arguments, reason = "what a page says")]
    pub(super) fn on_promise(
        &mut self,
        view: &View,
        from: ReplicaId,
        ballot: Ballot,
        (first, next): (Slot, Slot),
        commit: Slot,
        votes: Vec<Vote>,
        fx: &mut Fx,
    ) {
        let Role::Candidate(candidate) = &mut self.role else { return };
        let Stage::Phase1(pages) = &mut candidate.stage else { return };
        let page = &mut pages[from.index()];
        if ballot != candidate.ballot || *page != Some(first) || !is_page(first, next, &votes) {
            return;
        }
        *page = (next > 0).then_some(next);
        // Pages come in the slots' order, and what is decided is told without a gap: so this
        // replica keeps up with it.
        let (decided, votes): (Vec<_>, Vec<_>) = votes.into_iter().partition(|v| v.slot <= commit);
        self.learn_votes(decided, fx);
        self.note_found(votes);
        if next > 0 {
            fx.hit(Path::MpNextPage);
            fx.answer(Written::default(), from, Message::Prepare { ballot, first: next });
        }
        self.end_phase_1(view, fx);
    }

    /// Votes for what is decided: as far as they follow what is known, they are decisions.
    fn learn_votes(&mut self, decided: Vec<Vote>, fx: &mut Fx) {
        for run in decided.chunk_by(|vote, next| vote.slot + 1 == next.slot) {
            let entries = run.iter().map(|vote| vote.entry.clone()).collect();
            self.learn(run[0].slot, entries, fx);
        }
    }

    /// Keeps the best votes for what is not known decided. What is further ahead of that than any
    /// leader goes is nonsense.
    fn note_found(&mut self, votes: Vec<Vote>) {
        let Role::Candidate(candidate) = &mut self.role else { return };
        let commit = self.log.commit();
        let open = votes.into_iter().filter(|v| v.slot > commit && self.log.is_near(v.slot));
        for Vote { slot, ballot, entry } in open {
            let known = candidate.found.get(&slot).map(|found| found.ballot);
            if known.is_none_or(|known| known < ballot) {
                candidate.found.insert(slot, Found { ballot, entry });
            }
        }
    }

    /// When a majority has told all its votes: proposes for each slot what may have been chosen.
    ///
    /// The value of the vote at the highest ballot is the only one that may have been; where there
    /// is no vote, none was, and a `Nop` fills the gap ("Paxos Made Simple", §3).
    fn end_phase_1(&mut self, view: &View, fx: &mut Fx) {
        let quorum = self.quorum();
        let Role::Candidate(candidate) = &mut self.role else { return };
        let Stage::Phase1(pages) = &candidate.stage else { return };
        if pages.iter().filter(|page| page.is_none()).count() < quorum {
            return;
        }
        let mut found = std::mem::take(&mut candidate.found);
        #[cfg(test)]
        if self.planted(super::Plant::IgnoreAccepted) {
            found.clear();
        }
        let commit = self.log.commit();
        let last = found.last_key_value().map_or(commit, |(slot, _)| *slot).max(self.log.last());
        let mut suffix = Vec::new();
        for slot in commit + 1..=last {
            let own = self.log.get(slot).map(|held| (held.ballot, held.entry.clone()));
            let theirs = found.remove(&slot).map(|found| (found.ballot, found.entry));
            let best = [own, theirs].into_iter().flatten().max_by_key(|(ballot, _)| *ballot);
            let entry = match best {
                Some((_, entry)) => {
                    fx.hit(Path::MpProposedAgain);
                    entry
                }
                None => {
                    fx.hit(Path::MpGapFilled);
                    nop(self.new_name(fx))
                }
            };
            suffix.push(entry);
        }
        self.start_leading(view, suffix, fx);
    }
}

/// Whether a page is one: its votes ascend from `first` on, and the next one starts after them.
fn is_page(first: Slot, next: Slot, votes: &[Vote]) -> bool {
    let ascend = votes.windows(2).all(|two| two[0].slot < two[1].slot);
    let last = votes.last().map_or(first, |vote| vote.slot);
    ascend && votes.iter().all(|vote| vote.slot >= first) && (next == 0 || next > last)
}
