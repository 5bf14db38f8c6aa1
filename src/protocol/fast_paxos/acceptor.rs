//! The acceptor: promises (§F2), and votes; in a fast round for whatever comes, in its next free
//! slot (§F3).

use std::collections::BTreeMap;

use super::{FastPaxos, Fx, Message, Record, Round};
use crate::protocol::log::Choice;
use crate::protocol::{Path, View};
use crate::types::{Ballot, InstanceId, ReplicaId, Slot, Written};

/// How many votes are told again at a time.
const AGAIN_AT_ONCE: usize = 64;

impl FastPaxos {
    /// Phase 1b: a promise for all slots, and what was voted in those that are not decided here. A
    /// decision above the decided prefix counts as a vote that nothing can outdo.
    pub(super) fn on_prepare(&mut self, view: &View, from: ReplicaId, ballot: Ballot, fx: &mut Fx) {
        if !self.join(view, from, ballot, fx) {
            return;
        }
        let known = self.log.known();
        let decided = self.log.above(known).map(|(slot, choice)| (slot, (None, choice.clone())));
        let voted = self.votes.above(known);
        let voted = voted.map(|(slot, vote)| (slot, (Some(vote.round), vote.choice.clone())));
        let reports: BTreeMap<Slot, _> = decided.chain(voted).collect();
        let reported = reports.keys().copied().collect();
        // Not before all of it is durable: the promise, and votes it may have just cast.
        let after = fx.everything();
        fx.answer(after, from, Message::Promise { ballot, known, reported });
        for (slot, (round, choice)) in reports {
            fx.answer(after, from, Message::Report { ballot, slot, round, choice });
        }
    }

    /// Joins the ballot of a coordinator; tells it if that is too low. Whether it takes part.
    fn join(&mut self, view: &View, from: ReplicaId, ballot: Ballot, fx: &mut Fx) -> bool {
        if ballot.is_owner() || ballot.leader(from) != from {
            return false;
        }
        if ballot < self.votes.promised {
            fx.hit(Path::Rejected);
            let ballot = self.votes.promised;
            fx.answer(Written::default(), from, Message::Rejected { ballot });
            return false;
        }
        if ballot > self.votes.promised {
            fx.append(Record::Promised { ballot });
            self.votes.join(ballot);
            self.step_down_below(ballot);
            self.follow(view);
        }
        true
    }

    /// The coordinator opens its ballot, or says that it still leads.
    pub(super) fn on_open(
        &mut self,
        view: &View,
        from: ReplicaId,
        (ballot, is_fast, first): (Ballot, bool, Slot),
        fx: &mut Fx,
    ) {
        if !self.join(view, from, ballot, fx) {
            return;
        }
        self.follow(view);
        self.votes.open = is_fast.then_some((ballot, first));
        self.note_mode(view, ballot, is_fast, fx);
    }

    /// A proposer's value arrived.
    pub(super) fn on_propose(&mut self, from: ReplicaId, choice: Choice, view: &View, fx: &mut Fx) {
        let name = choice.proposal;
        if let Some(slot) = self.log.slot_of(name) {
            self.log.answer_decided(from, slot, fx);
            return;
        }
        if self.assign(view, &choice, fx) {
            return;
        }
        let Some((ballot, first)) = self.votes.open else { return };
        if let Some((slot, vote)) = self.votes.vote_for(name)
            && vote.round.ballot == ballot
        {
            let voted = Message::Voted { slot, round: vote.round, proposal: name };
            fx.send(vote.written, self.all(), voted);
            return;
        }
        if let Some(slot) = self.place(name, first) {
            self.vote(slot, Round::anybodys(ballot), choice, fx);
        }
    }

    /// Where to vote for a proposal: where others have already, else in the next free slot.
    fn place(&self, name: InstanceId, first: Slot) -> Option<Slot> {
        let is_free = |slot: Slot| self.log.is_open(slot) && self.votes.is_free(slot);
        if let Some(slot) = self.votes.hinted(name).filter(|slot| is_free(*slot)) {
            return Some(slot);
        }
        let mut slot = first.max(self.log.known() + 1);
        while !self.log.is_beyond(slot) {
            if is_free(slot) && !self.votes.is_hinted(slot) {
                return Some(slot);
            }
            slot += 1;
        }
        None
    }

    /// Votes, and tells everybody: so whoever waits for a slot learns as soon as can be, and the
    /// coordinator sees a collision as soon as it happens.
    fn vote(&mut self, slot: Slot, round: Round, choice: Choice, fx: &mut Fx) {
        let proposal = choice.proposal;
        self.log.see(slot);
        let written = fx.append(Record::Voted { slot, round, choice: choice.clone() });
        self.votes.cast(slot, round, choice, written);
        fx.send(written, self.all(), Message::Voted { slot, round, proposal });
    }

    /// Time passed: a vote that has come to nothing for long may be one that nobody has heard of,
    /// in a slot that nobody else knows, for a value that is decided elsewhere. So the coordinator
    /// is told again, and sees to the slot.
    pub(super) fn repeat_votes(&mut self, view: &View, fx: &mut Fx) {
        let long = self.retransmit_after(view) * 4;
        if self.log.stuck_for(view) < long || view.now.since(self.votes.repeated) < long {
            return;
        }
        let Some(coordinator) = self.coordinator_now() else { return };
        self.votes.repeated = view.now;
        for (slot, vote) in self.votes.above(self.log.known()).take(AGAIN_AT_ONCE) {
            fx.hit(Path::FastRepeated);
            let (round, proposal) = (vote.round, vote.choice.proposal);
            fx.answer(vote.written, coordinator, Message::Voted { slot, round, proposal });
        }
    }

    /// The coordinator wants a vote in a slot of the fast round.
    pub(super) fn on_suggest(
        &mut self,
        view: &View,
        from: ReplicaId,
        (ballot, slot): (Ballot, Slot),
        choice: Choice,
        fx: &mut Fx,
    ) {
        if self.log.answer_decided(from, slot, fx) || !self.join(view, from, ballot, fx) {
            return;
        }
        let is_open = self.votes.open.is_some_and(|(open, first)| open == ballot && first <= slot);
        if is_open && self.log.is_open(slot) && self.votes.is_free(slot) {
            self.vote(slot, Round::anybodys(ballot), choice, fx);
        }
        if let Some(vote) = self.votes.vote(slot) {
            let (round, choice) = (Some(vote.round), vote.choice.clone());
            fx.answer(vote.written, from, Message::Report { ballot, slot, round, choice });
        }
    }

    /// Phase 2b of a coordinated round.
    pub(super) fn on_accept(
        &mut self,
        view: &View,
        from: ReplicaId,
        (ballot, slot): (Ballot, Slot),
        choice: Choice,
        fx: &mut Fx,
    ) {
        if self.log.answer_decided(from, slot, fx) || !self.log.is_open(slot) {
            return;
        }
        if !self.join(view, from, ballot, fx) {
            return;
        }
        let round = Round::coordinated(ballot);
        match self.votes.vote(slot) {
            Some(vote) if vote.round >= round => {
                let proposal = vote.choice.proposal;
                let voted = Message::Voted { slot, round: vote.round, proposal };
                fx.send(vote.written, self.all(), voted);
            }
            _ => self.vote(slot, round, choice, fx),
        }
    }
}
