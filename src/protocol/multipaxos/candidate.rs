//! The candidate: asks whether a majority would vote for it (pre-vote: Ongaro's thesis, §9.6), and
//! if so runs phase 1 of Paxos over the whole suffix of the log ("Paxos Made Simple", §3). The
//! rules are §M5 and §M6.
//!
//! A pre-vote changes nothing at the replica that gives it, and no replica gives one while it has
//! granted a lease (`lease`). So a replica that restarts or is cut off does not disturb a leader
//! that a majority hears. A candidate records a ballot before using it, so no ballot is taken
//! twice.

use std::collections::BTreeMap;

use super::message::{Entry, Vote};
use super::step::Step;
use super::{Message, Path, learner, rules};
use crate::types::{Ballot, ReplicaId, ReplicaSet, Slot, Time, Written};

/// A replica that stands for election.
#[derive(Debug)]
pub(super) struct Candidate {
    ballot: Ballot,
    stage: Stage,
    /// Votes of others for slots not known to be decided here.
    found: BTreeMap<Slot, Found>,
    next_resend: Time,
    tries: u32,
}

/// The stage of a candidacy.
#[derive(Debug)]
enum Stage {
    /// Asks for pre-votes; these replicas have given one.
    PreVote(ReplicaSet),
    /// Phase 1. Per member, the first slot of the next page of its votes; `None` once it has sent
    /// all.
    Phase1(Vec<Option<Slot>>),
}

/// The vote of the highest ballot that phase 1 has found for a slot.
#[derive(Debug)]
struct Found {
    ballot: Ballot,
    entry: Entry,
}

/// A page of a member's votes.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) ballot: Ballot,
    /// The first slot of the page.
    pub(super) first: Slot,
    /// Votes up to here are for decided values.
    pub(super) commit: Slot,
    /// In slot order.
    pub(super) votes: Vec<Vote>,
    /// The first slot of the next page; 0 if there is none.
    pub(super) next: Slot,
}

impl Page {
    /// Whether it is well-formed: votes ascend from `first`, and the next page starts after them.
    fn is_sound(&self) -> bool {
        let ascend = self.votes.windows(2).all(|two| two[0].slot < two[1].slot);
        let last = self.votes.last().map_or(self.first, |vote| vote.slot);
        let starts = self.votes.iter().all(|vote| vote.slot >= self.first);
        ascend && starts && (self.next == 0 || self.next > last)
    }
}

impl Candidate {
    /// A candidacy that will take `ballot` if a majority gives pre-votes.
    pub(super) fn new(s: &Step<'_>, ballot: Ballot) -> Candidate {
        Candidate::at(s, ballot, Stage::PreVote(ReplicaSet::from_iter([s.cx.me()])))
    }

    /// Phase 1a, at the ballot that this replica has just promised.
    pub(super) fn start_phase_1(s: &mut Step<'_>) -> Candidate {
        let (ballot, first) = (s.promised.ballot(), s.log.commit() + 1);
        let candidate = Candidate::at(s, ballot, Stage::Phase1(vec![Some(first); s.cx.n()]));
        candidate.ask(s);
        // Its own votes are read from the log; its promise counts once it is durable, like any
        // other.
        let (commit, votes, next) = (s.log.commit(), Vec::new(), 0);
        let promise = Message::Promise { ballot, first, commit, votes, next };
        s.fx.answer(s.promised.written(), s.cx.me(), promise);
        candidate
    }

    fn at(s: &Step<'_>, ballot: Ballot, stage: Stage) -> Candidate {
        let next_resend = s.view.now + s.cx.resend_after(s.view, 0);
        Candidate { ballot, stage, found: BTreeMap::new(), next_resend, tries: 0 }
    }

    /// Asks every member that has not answered.
    pub(super) fn ask(&self, s: &mut Step<'_>) {
        let (ballot, others) = (self.ballot, s.cx.others());
        match &self.stage {
            Stage::PreVote(voters) => {
                let to: ReplicaSet = others.iter().filter(|who| !voters.contains(*who)).collect();
                let commit = s.log.commit();
                s.fx.send(Written::default(), to, Message::PreVote { ballot, commit });
            }
            Stage::Phase1(pages) => {
                let pages = ReplicaId::all(pages.len()).zip(pages);
                for (who, first) in pages.filter(|(who, _)| *who != s.cx.me()) {
                    if let Some(first) = *first {
                        let prepare = Message::Prepare { ballot, first };
                        s.fx.answer(s.promised.written(), who, prepare);
                    }
                }
            }
        }
    }

    /// Time passed: asks again every member that has not answered.
    pub(super) fn ask_again(&mut self, s: &mut Step<'_>) {
        if self.next_resend <= s.view.now {
            self.tries += 1;
            self.next_resend = s.view.now + s.cx.resend_after(s.view, self.tries);
            s.fx.hit(Path::AskedAgain);
            self.ask(s);
        }
    }

    /// Whether it has pre-votes from a majority, and has not started phase 1.
    pub(super) fn is_wanted(&self, s: &Step<'_>) -> bool {
        match &self.stage {
            Stage::PreVote(voters) => voters.len() >= rules::quorum(s.cx),
            Stage::Phase1(_) => false,
        }
    }

    /// A member gave a pre-vote. Returns whether that makes a majority.
    pub(super) fn on_pre_vote_ok(&mut self, s: &Step<'_>, from: ReplicaId, ballot: Ballot) -> bool {
        let Stage::PreVote(voters) = &mut self.stage else { return false };
        ballot == self.ballot && voters.insert(from) && self.is_wanted(s)
    }

    /// A page of a member's votes. Once a majority has sent all its votes, returns what to propose,
    /// from the first slot not known to be decided.
    pub(super) fn on_promise(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        page: Page,
    ) -> Option<Vec<Entry>> {
        let Stage::Phase1(pages) = &mut self.stage else { return None };
        let waits_for = &mut pages[from.index()];
        let is_due = page.ballot == self.ballot && *waits_for == Some(page.first);
        if !is_due || !page.is_sound() {
            return None;
        }
        let Page { ballot, commit, votes, next, .. } = page;
        *waits_for = (next > 0).then_some(next);
        // Pages come in slot order, and decided slots without a gap, so this replica can learn
        // them.
        let (decided, votes): (Vec<_>, Vec<_>) = votes.into_iter().partition(|v| v.slot <= commit);
        learn_votes(s, &decided);
        self.note_found(s, votes);
        if next > 0 {
            s.fx.hit(Path::NextPage);
            s.fx.answer(Written::default(), from, Message::Prepare { ballot, first: next });
        }
        self.is_prepared(s).then(|| self.choose(s))
    }

    /// Keeps the votes of the highest ballots for slots not known to be decided. Slots further
    /// ahead than any leader proposes are ignored.
    fn note_found(&mut self, s: &Step<'_>, votes: Vec<Vote>) {
        let commit = s.log.commit();
        let open = votes.into_iter().filter(|v| v.slot > commit && s.log.is_near(v.slot));
        for Vote { slot, ballot, entry } in open {
            let known = self.found.get(&slot).map(|found| found.ballot);
            if known.is_none_or(|known| known < ballot) {
                self.found.insert(slot, Found { ballot, entry });
            }
        }
    }

    /// Whether a majority has sent all its votes.
    fn is_prepared(&self, s: &Step<'_>) -> bool {
        let Stage::Phase1(pages) = &self.stage else { return false };
        pages.iter().filter(|page| page.is_none()).count() >= rules::quorum(s.cx)
    }

    /// For each slot, the value that may have been chosen.
    ///
    /// Only the value of the vote at the highest ballot may have been chosen. If a slot has no
    /// vote, nothing was chosen, and a `Nop` fills the gap ("Paxos Made Simple", §3).
    fn choose(&mut self, s: &mut Step<'_>) -> Vec<Entry> {
        let mut found = std::mem::take(&mut self.found);
        if !s.cx.rules.found_votes_bind() {
            found.clear();
        }
        let commit = s.log.commit();
        let last = found.last_key_value().map_or(commit, |(slot, _)| *slot).max(s.log.last());
        let mut suffix = Vec::new();
        for slot in commit + 1..=last {
            let own = s.log.get(slot).map(|held| (held.ballot, held.entry.clone()));
            let theirs = found.remove(&slot).map(|found| (found.ballot, found.entry));
            let best = [own, theirs].into_iter().flatten().max_by_key(|(ballot, _)| *ballot);
            let entry = match best {
                Some((_, entry)) => {
                    s.fx.hit(Path::ProposedAgain);
                    entry
                }
                None => {
                    s.fx.hit(Path::GapFilled);
                    Entry::nop(s.proposals.new_name(s.cx.me(), s.fx))
                }
            };
            suffix.push(entry);
        }
        suffix
    }
}

/// Votes for decided values: as far as they follow the known prefix, they are decisions.
fn learn_votes(s: &mut Step<'_>, decided: &[Vote]) {
    for run in decided.chunk_by(|vote, next| vote.slot + 1 == next.slot) {
        let entries = run.iter().map(|vote| vote.entry.clone()).collect();
        learner::learn(s, run[0].slot, entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::View;
    use crate::protocol::log::tests::stage::{batch, replica, said, settings};
    use crate::protocol::multipaxos::Fx;
    use crate::protocol::multipaxos::log::Accepted;
    use crate::protocol::multipaxos::step::Core;
    use crate::types::{InstanceId, Retention, Value};

    fn entry(of: usize, tag: u64) -> Entry {
        Entry { proposal: InstanceId::new(replica(of), tag), value: Value::Batch(batch(tag)) }
    }

    /// Replica 1 of three in phase 1, after it voted for `entry` in slot 1.
    fn prepared(ballot: Ballot, entry: Entry) -> (Core, View, Fx, Candidate) {
        let mut core = Core::new(settings(1, 3, Retention::default()));
        let (view, mut fx) = (View::new(3), Fx::default());
        core.log.put(1, Accepted { ballot, entry, written: Written::default() });
        core.promised.join(Ballot::OWNER.next_for(replica(3)).next_for(replica(1)), &mut fx);
        let candidate = Candidate::start_phase_1(&mut core.step(&view, &mut fx));
        (core, view, fx, candidate)
    }

    fn page(ballot: Ballot, votes: Vec<Vote>, next: Slot) -> Page {
        Page { ballot, first: 1, commit: 0, votes, next }
    }

    #[test]
    fn the_highest_vote_for_a_slot_is_proposed_and_gaps_are_filled() {
        let (low, high) = (Ballot::OWNER.next_for(replica(1)), Ballot::OWNER.next_for(replica(2)));
        assert!(low < high);
        let (mut core, view, mut fx, mut candidate) = prepared(low, entry(1, 7));
        let (s, ballot) = (&mut core.step(&view, &mut fx), candidate.ballot);
        let vote = |slot, tag| Vote { slot, ballot: high, entry: entry(2, tag) };
        let own = candidate.on_promise(s, replica(1), page(ballot, Vec::new(), 0));
        assert_eq!(own, None, "one is no majority");
        let votes = vec![vote(1, 8), vote(3, 9)];
        let stale = candidate.on_promise(s, replica(2), page(high, votes.clone(), 0));
        assert_eq!(stale, None, "a promise of another ballot");
        let suffix = candidate.on_promise(s, replica(2), page(ballot, votes, 0));
        let suffix = suffix.expect("two are a majority");
        assert_eq!(suffix.len(), 3);
        assert_eq!((&suffix[0], &suffix[2]), (&entry(2, 8), &entry(2, 9)));
        assert_eq!(suffix[1].value, Value::Nop);
    }

    #[test]
    fn all_pages_of_a_majority_are_waited_for() {
        let low = Ballot::OWNER.next_for(replica(1));
        let (mut core, view, mut fx, mut candidate) = prepared(low, entry(1, 7));
        let ballot = candidate.ballot;
        said(&mut fx);
        let s = &mut core.step(&view, &mut fx);
        candidate.on_promise(s, replica(1), page(ballot, Vec::new(), 0));
        let votes = vec![Vote { slot: 1, ballot: low, entry: entry(1, 7) }];
        assert_eq!(candidate.on_promise(s, replica(3), page(ballot, votes.clone(), 2)), None);
        let asked = said(s.fx);
        assert_eq!(asked, [(vec![3], Message::Prepare { ballot, first: 2 })]);
        let again = candidate.on_promise(s, replica(3), page(ballot, votes, 0));
        assert_eq!(again, None, "that page was told");
        let last = Page { first: 2, ..page(ballot, Vec::new(), 0) };
        assert_eq!(candidate.on_promise(s, replica(3), last), Some(vec![entry(1, 7)]));
    }
}
