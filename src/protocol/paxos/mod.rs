//! Paxos as first published (Lamport: "The Part-Time Parliament", 1998; "Paxos Made Simple", 2001):
//! one instance for each slot of the log, both phases for each, and any replica proposes. Its rules
//! are [§P1 to §P7](super::log#p-paxos).
//!
//! This is the only file that sees all parts. It passes each message to the parts concerned, and
//! passes one part's result to the next. A part owns its state; it reads another part only through
//! a reference that it is given. `acceptor` promises and votes, `learner` counts votes, `proposer`
//! takes slots through both phases. The log that this protocol shares with others handles
//! decisions.
//!
//! The path of a value: `proposer` (Prepare) → `acceptor` (Promise) → `proposer` (Accept) →
//! `acceptor` (Accepted) → `learner`, at every replica: four message delays, with a majority each
//! way. If two proposers take the same slot they collide, and the one with the lower ballot backs
//! off for a random time.
//!
//! A restarted replica has its promises and votes, the names and rounds it may have used, and the
//! decisions. It has lost its proposals. If acceptors have voted for one, a replica that it blocks
//! finishes it (§P7).

mod acceptor;
mod learner;
mod message;
mod path;
#[cfg(test)]
mod plant;
mod proposer;
mod rules;
#[cfg(test)]
mod tests;

pub use message::{Message, Record};
pub use path::Path;
#[cfg(test)]
pub(crate) use plant::Plant;

use std::sync::Arc;

use super::log::{self, Choice, Core, DecidedLog, ProtocolSnapshot};
use super::{Effects, Paths, Protocol, View};
use crate::types::{Batch, Deps, Executed, ExecutionOrder, InstanceId, ReplicaId, Settings, Slot};

use acceptor::Acceptor;
use learner::Learner;
use proposer::{Known, Proposer};

type Fx = Effects<Message, Record>;
type Step<'a> = log::Step<'a, Message, Record, rules::Rules>;

/// One replica's side of Paxos: a proposer, an acceptor and a learner. They exchange messages with
/// each other as with those of other replicas; each message waits for its records.
#[derive(Debug)]
pub struct Paxos {
    core: Core<rules::Rules>,
    proposer: Proposer,
    acceptor: Acceptor,
    learner: Learner,
}

impl Paxos {
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

    fn handle(&mut self, view: &View, from: ReplicaId, message: Message, fx: &mut Fx) {
        let s = &mut self.core.step(view, fx);
        let Paxos { proposer, acceptor, learner, .. } = self;
        match message {
            Message::Prepare { slot, ballot } => {
                proposer.hear(slot, view.now);
                if acceptor::may_vote(s, from, slot, ballot) {
                    acceptor.on_prepare(s, from, slot, ballot);
                }
            }
            Message::Promise { slot, ballot, vote } => {
                let known = Known { acceptor, learner };
                proposer.on_promise(s, known, from, slot, ballot, vote);
            }
            Message::Accept { slot, ballot, choice } => {
                proposer.hear(slot, view.now);
                if acceptor::may_vote(s, from, slot, ballot) {
                    learner.offered(slot, ballot, &choice);
                    acceptor.on_accept(s, from, slot, ballot, choice);
                }
            }
            Message::Accepted { slot, ballot } => {
                if let Some(choice) = learner.on_accepted(s, from, slot, ballot) {
                    s.fx.hit(Path::Chosen);
                    self.learn(view, slot, &choice, fx);
                }
            }
            Message::Rejected { slot, ballot } => {
                proposer.on_rejected(s, Known { acceptor, learner }, slot, ballot);
            }
            Message::Upkeep(upkeep) => {
                if let Some((slot, choice)) = s.log.on_upkeep(from, upkeep, s.fx) {
                    s.fx.hit(Path::LearnedCommit);
                    self.learn(view, slot, &choice, fx);
                }
            }
        }
    }

    /// A decision, however it was learned.
    fn learn(&mut self, view: &View, slot: Slot, choice: &Choice, fx: &mut Fx) {
        let s = &mut self.core.step(view, fx);
        let voted = self.acceptor.vote(slot);
        let is_voted = voted.is_some_and(|voted| voted.proposal == choice.proposal);
        if !s.log.learn(slot, choice, is_voted, s.fx) {
            return;
        }
        self.acceptor.forget(slot);
        self.learner.forget(slot);
        self.proposer.on_decided(s, slot, choice.proposal);
        s.log.fetch_on(view, s.fx);
        let known = Known { acceptor: &self.acceptor, learner: &self.learner };
        self.proposer.start_proposals(s, known);
    }
}

impl Protocol for Paxos {
    type Message = Message;
    type Record = Record;
    type Snapshot = ProtocolSnapshot;

    const NAME: &'static str = "paxos";
    const ORDER: ExecutionOrder = ExecutionOrder::Log;

    fn paths() -> Paths {
        Paths::of::<Path>().and::<log::Path>()
    }

    fn new(settings: Settings) -> Paxos {
        Paxos {
            proposer: Proposer::new(settings.seed),
            acceptor: Acceptor::default(),
            learner: Learner::default(),
            core: Core::new(settings),
        }
    }

    fn propose(&mut self, view: &View, batch: Arc<Batch>, fx: &mut Fx) -> InstanceId {
        let s = &mut self.core.step(view, fx);
        let known = Known { acceptor: &self.acceptor, learner: &self.learner };
        let name = self.proposer.propose(s, known, batch);
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
        let known = Known { acceptor: &self.acceptor, learner: &self.learner };
        self.proposer.drive(s, known);
        #[cfg(test)]
        self.after_step(fx);
    }

    fn snapshot(&self, _executed: &Executed) -> (ProtocolSnapshot, Vec<Record>) {
        self.core.snapshot(self.acceptor.records())
    }

    fn on_snapshot(&mut self, executed: &Executed) {
        self.core.log.on_snapshot(executed);
    }

    fn restore_snapshot(&mut self, shared: ProtocolSnapshot, executed: &Executed) {
        self.core.log.restore_snapshot(shared.floor, executed);
    }

    fn restore(&mut self, record: Record, fx: &mut Fx) {
        let log = &mut self.core.log;
        match record {
            Record::Promised { slot, ballot } if log.is_open(slot) => {
                log.see(slot);
                self.acceptor.restore_promise(slot, ballot);
            }
            Record::Voted { slot, ballot, choice } if log.is_open(slot) => {
                log.see(slot);
                self.acceptor.restore_vote(slot, ballot, choice);
            }
            // The slot is already decided.
            Record::Promised { .. } | Record::Voted { .. } => {}
            Record::Log(record) => {
                if let Some(slot) = self.core.restore(record, |slot| self.acceptor.vote(slot), fx) {
                    self.acceptor.forget(slot);
                }
            }
        }
    }

    fn may_install(&self, executed: &Executed, here: &Executed) -> bool {
        DecidedLog::may_install(executed, here)
    }

    /// Promises and votes outside the snapshot stay.
    fn install(
        &mut self,
        _view: &View,
        _shared: ProtocolSnapshot,
        executed: &Executed,
        fx: &mut Fx,
    ) {
        self.core.log.install(executed, fx);
        let floor = self.core.log.floor();
        self.acceptor.forget_to(floor);
        self.learner.forget_to(floor);
        self.proposer.let_own_go(floor);
    }

    fn resume(&mut self, view: &View, _fx: &mut Fx) {
        self.core.log.resume(view.now);
        self.acceptor.forget_to(self.core.log.floor());
    }

    fn kept_bytes(&self) -> usize {
        self.core.log.kept_bytes() + self.acceptor.bytes()
    }

    fn on_executed(&mut self, executed: &Deps) {
        self.core.log.executed_here(executed);
    }
}
