//! Fast Paxos (Lamport, Distributed Computing 2006) as a replicated log. Its rules are
//! [§F1 to §F8](super::log#f-fast-paxos).
//!
//! This is the only file that sees all parts. It passes each message to the parts concerned, and
//! passes one part's result to the next. A part owns its state; it reads another part only through
//! a reference that it is given. From the bottom up, on top of the log that this protocol shares
//! with others:
//!
//! - `round`: rounds, quorums, and what a coordinator may pick. `mode`: fast or classic.
//! - `votes`: the acceptor's memory. `acceptor`: answers proposers and coordinators.
//! - `proposer`: own values. `learner`: counts votes.
//! - `collide`: the open ballot at its coordinator. `lead`: the coordinator's election and phase 1.
//!
//! The path of a value in a fast ballot: `proposer` (Propose) → `acceptor`, which votes for it in
//! its next free slot (Voted) → `learner`, at every replica: two message delays, with a fast
//! quorum. If acceptors have voted for different values in a slot, the coordinator sees it from the
//! votes and recovers (`collide`): four delays, and the value that lost is proposed again. In a
//! classic ballot proposers send to the coordinator, which assigns the slots: three delays, with a
//! majority; two if the proposer's vote and the coordinator's are enough.
//!
//! A restarted replica has its promise and votes, the names and rounds it may have used, and the
//! decisions. If it was the coordinator, it no longer is: its ballot is never continued (§F8).

mod acceptor;
mod collide;
mod lead;
mod learner;
mod message;
mod mode;
mod path;
#[cfg(test)]
mod plant;
mod proposer;
mod round;
mod rules;
#[cfg(test)]
mod tests;
mod votes;

pub use message::{Message, Record};
pub use path::Path;
#[cfg(test)]
pub(crate) use plant::Plant;
pub use round::Round;

use std::sync::Arc;

use super::log::{self, Choice, Core, DecidedLog, ProtocolSnapshot};
use super::{Effects, Paths, Protocol, View};
use crate::types::{
    Ballot, Batch, Deps, Executed, ExecutionOrder, InstanceId, ReplicaId, Settings, Slot, Written,
};

use acceptor::Joined;
use collide::Known;
use lead::{Coordinator, Findings};
use learner::Learner;
use proposer::Proposer;
use votes::Votes;

type Fx = Effects<Message, Record>;
type Step<'a> = log::Step<'a, Message, Record, rules::Rules>;

/// One replica's side of Fast Paxos: proposer, acceptor, learner, and at times coordinator.
#[derive(Debug)]
pub struct FastPaxos {
    core: Core<rules::Rules>,
    proposer: Proposer,
    votes: Votes,
    learner: Learner,
    coordinator: Coordinator,
}

impl FastPaxos {
    /// Every decision up to here is known.
    pub fn known(&self) -> Slot {
        self.core.log.known()
    }

    /// Decisions up to here are dropped.
    pub fn dropped(&self) -> Slot {
        self.core.log.floor()
    }

    /// How many own proposals are not known to be decided.
    pub fn undecided(&self) -> usize {
        self.proposer.undecided()
    }

    /// The coordinator, if one is known here, and whether its ballot is fast.
    pub fn leader(&self) -> Option<(ReplicaId, bool)> {
        let (ballot, is_fast) = self.proposer.mode()?;
        Some((ballot.leader(self.core.cx.me()), is_fast))
    }

    fn handle(&mut self, view: &View, from: ReplicaId, message: Message, fx: &mut Fx) {
        let s = &mut self.core.step(view, fx);
        match message {
            Message::Prepare { ballot } => {
                if self.join(view, from, ballot, fx) {
                    let s = &mut self.core.step(view, fx);
                    acceptor::on_prepare(s, &self.votes, from, ballot);
                }
            }
            Message::Promise { ballot, known, reported } => {
                let found = self.coordinator.on_promise(s, from, ballot, (known, reported));
                self.open(view, found, fx);
            }
            Message::Report { ballot, slot, round, choice } => {
                self.on_report(view, from, (ballot, slot), (round, choice), fx);
            }
            Message::Open { ballot, is_fast, from: first } => {
                if self.join(view, from, ballot, fx) {
                    let s = &mut self.core.step(view, fx);
                    self.coordinator.follow(s);
                    self.votes.note_open(ballot, is_fast.then_some(first));
                    self.proposer.note_mode(s, ballot, is_fast);
                }
            }
            Message::Propose { choice } => self.on_propose(view, from, choice, fx),
            Message::Suggest { ballot, slot, choice } => {
                let is_decided = s.log.answer_decided(from, slot, s.fx);
                if !is_decided && self.join(view, from, ballot, fx) {
                    let s = &mut self.core.step(view, fx);
                    acceptor::on_suggest(s, &mut self.votes, from, (ballot, slot), choice);
                }
            }
            Message::Accept { ballot, slot, choice } => {
                let is_decided = s.log.answer_decided(from, slot, s.fx) || !s.log.is_open(slot);
                if !is_decided && self.join(view, from, ballot, fx) {
                    let s = &mut self.core.step(view, fx);
                    acceptor::on_accept(s, &mut self.votes, (ballot, slot), choice);
                }
            }
            Message::Voted { slot, round, proposal } => {
                self.on_voted(view, from, (slot, round), proposal, fx);
            }
            Message::Rejected { ballot } => self.coordinator.on_rejected(s, ballot),
            Message::Upkeep(upkeep) => {
                if let Some((slot, choice)) = s.log.on_upkeep(from, upkeep, s.fx) {
                    fx.hit(Path::LearnedCommit);
                    self.learn(view, slot, &choice, false, fx);
                }
            }
        }
    }

    fn known_parts(&self) -> Known<'_> {
        Known { votes: &self.votes, learner: &self.learner, proposer: &self.proposer }
    }

    /// Joins a coordinator's ballot. Returns whether this acceptor takes part in it.
    fn join(&mut self, view: &View, from: ReplicaId, ballot: Ballot, fx: &mut Fx) -> bool {
        let s = &mut self.core.step(view, fx);
        let joined = acceptor::join(s, &mut self.votes, from, ballot);
        if joined == Joined::Now {
            self.coordinator.step_down_below(ballot);
            self.coordinator.follow(s);
        }
        joined != Joined::No
    }

    /// A proposer's value. In a classic ballot the coordinator assigns a slot; in a fast one every
    /// acceptor does.
    fn on_propose(&mut self, view: &View, from: ReplicaId, choice: Choice, fx: &mut Fx) {
        let s = &mut self.core.step(view, fx);
        if let Some(slot) = s.log.slot_of(choice.proposal) {
            s.log.answer_decided(from, slot, s.fx);
            return;
        }
        let opened = self.coordinator.opened();
        if !opened.is_some_and(|opened| opened.give_away(s, &choice)) {
            acceptor::on_propose(s, &mut self.votes, choice);
        }
    }

    /// A part of phase 1b, or the answer to a Suggest.
    fn on_report(
        &mut self,
        view: &View,
        from: ReplicaId,
        (ballot, slot): (Ballot, Slot),
        (round, choice): (Option<Round>, Choice),
        fx: &mut Fx,
    ) {
        if self.coordinator.is_asking(ballot) {
            let s = &mut self.core.step(view, fx);
            let found = self.coordinator.on_report(s, from, (ballot, slot), (round, choice));
            self.open(view, found, fx);
        } else if let Some(round) = round {
            let proposal = choice.proposal;
            if let Some(opened) = self.coordinator.opened() {
                opened.note_shown(ballot, slot, choice);
            }
            self.on_voted(view, from, (slot, round), proposal, fx);
        }
    }

    /// This coordinator's phase 1 is done: finishes what was found, and opens its ballot.
    fn open(&mut self, view: &View, found: Option<Findings>, fx: &mut Fx) {
        let Some(Findings { asked, slots }) = found else { return };
        for (slot, reports) in slots {
            let s = &mut self.core.step(view, fx);
            if let Some(choice) = self.coordinator.finish(s, slot, asked, &reports) {
                self.learn(view, slot, &choice, false, fx);
            }
        }
        if let Some(opened) = self.coordinator.opened() {
            opened.announce(&mut self.core.step(view, fx));
        }
    }

    /// A vote arrived. It may decide, show this acceptor where to vote, or reveal a collision.
    fn on_voted(
        &mut self,
        view: &View,
        from: ReplicaId,
        (slot, round): (Slot, Round),
        name: InstanceId,
        fx: &mut Fx,
    ) {
        let s = &mut self.core.step(view, fx);
        let Some(is_chosen) = self.learner.on_voted(s, from, (slot, round), name) else { return };
        self.proposer.see(slot, round, name);
        if is_chosen {
            // A replica that does not know the value fetches the decision later.
            if let Some(choice) = self.known_parts().choice_of(slot, name) {
                let is_fast = !round.is_coordinated;
                fx.hit(if is_fast { Path::ChosenFast } else { Path::ChosenCoordinated });
                self.learn(view, slot, &choice, is_fast, fx);
            }
            return;
        }
        self.votes.hint(slot, round, name);
        let (votes, learner, proposer) = (&self.votes, &self.learner, &self.proposer);
        if let Some(opened) = self.coordinator.opened() {
            opened.look_for_collision(s, Known { votes, learner, proposer }, slot, round);
        }
    }

    /// A decision, however it was learned. `is_fast`: by the votes of a fast round.
    fn learn(&mut self, view: &View, slot: Slot, choice: &Choice, is_fast: bool, fx: &mut Fx) {
        let s = &mut self.core.step(view, fx);
        let voted = self.votes.vote(slot);
        let is_voted = voted.is_some_and(|vote| vote.choice.proposal == choice.proposal);
        if !s.log.learn(slot, choice, is_voted, s.fx) {
            return;
        }
        self.votes.forget(slot);
        self.learner.forget(slot);
        self.coordinator.on_decided(slot, is_fast);
        self.proposer.on_decided(s, slot, choice.proposal, is_fast);
        s.log.fetch_on(view, s.fx);
    }
}

impl Protocol for FastPaxos {
    type Message = Message;
    type Record = Record;
    type Snapshot = ProtocolSnapshot;

    const NAME: &'static str = "fast-paxos";
    const ORDER: ExecutionOrder = ExecutionOrder::Log;

    fn paths() -> Paths {
        Paths::of::<Path>().and::<log::Path>()
    }

    fn new(settings: Settings) -> FastPaxos {
        FastPaxos {
            proposer: Proposer::default(),
            votes: Votes::default(),
            learner: Learner::default(),
            coordinator: Coordinator::new(settings.seed),
            core: Core::new(settings),
        }
    }

    fn propose(&mut self, view: &View, batch: Arc<Batch>, fx: &mut Fx) -> InstanceId {
        let name = self.proposer.propose(&mut self.core.step(view, fx), batch);
        #[cfg(test)]
        self.after_step(fx);
        name
    }

    fn on_message(&mut self, view: &View, from: ReplicaId, message: Message, fx: &mut Fx) {
        if from.index() < self.core.cx.n() {
            self.handle(view, from, message, fx);
        }
        #[cfg(test)]
        self.after_step(fx);
    }

    fn on_tick(&mut self, view: &View, fx: &mut Fx) {
        let s = &mut self.core.step(view, fx);
        s.log.tick(view, s.fx);
        self.proposer.drive(s);
        acceptor::repeat_votes(s, &mut self.votes, self.proposer.coordinator(s.cx.me()));
        let (votes, learner, proposer) = (&self.votes, &self.learner, &self.proposer);
        self.coordinator.drive(s, Known { votes, learner, proposer });
        #[cfg(test)]
        self.after_step(fx);
    }

    fn snapshot(&self, _executed: &Executed) -> (ProtocolSnapshot, Vec<Record>) {
        self.core.snapshot(self.votes.records())
    }

    fn on_snapshot(&mut self, executed: &Executed) {
        self.core.log.on_snapshot(executed);
    }

    fn restore_snapshot(&mut self, shared: ProtocolSnapshot, executed: &Executed) {
        self.core.log.restore_snapshot(shared.floor, executed);
    }

    fn restore(&mut self, record: Record, fx: &mut Fx) {
        match record {
            Record::Promised { ballot } => self.votes.join(ballot),
            Record::Voted { slot, round, choice } => {
                self.votes.join(round.ballot);
                if self.core.log.is_open(slot) {
                    self.core.log.see(slot);
                    self.votes.cast(slot, round, choice, Written::default());
                }
            }
            Record::Log(record) => {
                let voted = |slot| self.votes.vote(slot).map(|vote| &vote.choice);
                if let Some(slot) = self.core.restore(record, voted, fx) {
                    self.votes.forget(slot);
                }
            }
        }
    }

    fn may_install(&self, executed: &Executed, here: &Executed) -> bool {
        DecidedLog::may_install(executed, here)
    }

    /// The promise and the votes outside the snapshot stay.
    fn install(
        &mut self,
        _view: &View,
        _shared: ProtocolSnapshot,
        executed: &Executed,
        fx: &mut Fx,
    ) {
        self.core.log.install(executed, fx);
        let floor = self.core.log.floor();
        self.votes.forget_to(floor);
        self.learner.forget_to(floor);
        self.proposer.let_own_go();
        if let Some(opened) = self.coordinator.opened() {
            opened.forget_to(floor);
        }
    }

    fn resume(&mut self, view: &View, _fx: &mut Fx) {
        self.core.log.resume(view.now);
        self.votes.forget_to(self.core.log.floor());
    }

    fn kept_bytes(&self) -> usize {
        self.core.log.kept_bytes() + self.votes.bytes()
    }

    fn on_executed(&mut self, executed: &Deps) {
        self.core.log.executed_here(executed);
    }
}
