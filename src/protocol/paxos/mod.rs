//! Paxos as its paper has it (Lamport: "The Part-Time Parliament", 1998; "Paxos Made Simple",
//! 2001): one instance a slot of the log, both phases for every one, and anybody proposes. Its
//! rules are [§P1 to §P7](super::log#p-paxos).
//!
//! A value's way, with who does it: `proposer` (Prepare) → `acceptor` (Promise) → `proposer`
//! (Accept) → `acceptor` (Accepted) → `learner`, at every replica: four message delays, with a
//! majority each way. Two proposers that take the same slot collide: the one with the lower ballot
//! backs off for a time at random. `restore` brings back promises and votes; what is decided is the
//! business of the log that this protocol shares with others.

mod acceptor;
mod learner;
mod message;
#[cfg(test)]
mod plant;
mod proposer;
mod restore;
#[cfg(test)]
mod tests;

pub use message::{Message, Record};
#[cfg(test)]
pub(crate) use plant::Plant;

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::log::{DecidedLog, Reserve, Shared};
use super::{Effects, Protocol, View};
use crate::types::{
    Batch, Deps, Executed, ExecutionOrder, InstanceId, ReplicaId, ReplicaSet, Settings, Slot,
};

use acceptor::Acceptor;
use learner::Learner;
use proposer::Proposer;

type Fx = Effects<Message, Record>;

/// One replica's side of Paxos: a proposer, an acceptor and a learner under one roof. They talk to
/// each other as they do to those of other replicas, by messages that wait for their records.
#[derive(Debug)]
pub struct Paxos {
    settings: Settings,
    log: DecidedLog,
    reserve: Reserve,
    proposer: Proposer,
    acceptor: Acceptor,
    learner: Learner,
    rng: ChaCha8Rng,
    #[cfg(test)]
    plant: Option<Plant>,
}

impl Paxos {
    /// Every decision up to here is known.
    pub fn known(&self) -> Slot {
        self.log.known()
    }

    /// Decisions up to here are not kept any more.
    pub fn dropped(&self) -> Slot {
        self.log.floor()
    }

    /// How many own proposals are not known to be decided.
    pub fn undecided(&self) -> usize {
        self.proposer.undecided()
    }

    fn all(&self) -> ReplicaSet {
        ReplicaSet::all(self.settings.quorums.n)
    }

    /// A majority, of promises as of votes.
    fn quorum(&self) -> usize {
        #[cfg(test)]
        if self.plant == Some(Plant::SmallQuorum) {
            return (self.settings.quorums.slow() - 1).max(1);
        }
        self.settings.quorums.slow()
    }

    fn handle(&mut self, view: &View, from: ReplicaId, message: Message, fx: &mut Fx) {
        match message {
            Message::Prepare { slot, ballot } => {
                self.proposer.hear(slot, view.now);
                self.on_prepare(from, slot, ballot, fx);
            }
            Message::Promise { slot, ballot, vote } => {
                self.on_promise(view, from, slot, ballot, vote, fx);
            }
            Message::Accept { slot, ballot, choice } => {
                self.proposer.hear(slot, view.now);
                self.on_accept(from, slot, ballot, choice, fx);
            }
            Message::Accepted { slot, ballot } => self.on_accepted(view, from, slot, ballot, fx),
            Message::Rejected { slot, ballot } => self.on_rejected(view, slot, ballot, fx),
            Message::Upkeep(upkeep) => {
                if let Some((slot, choice)) = self.log.on_upkeep(from, upkeep, fx) {
                    fx.hit(super::Path::LearnedCommit);
                    self.learn(view, slot, &choice, fx);
                }
            }
        }
    }
}

impl Protocol for Paxos {
    type Message = Message;
    type Record = Record;
    type Shared = Shared;

    const NAME: &'static str = "paxos";
    const ORDER: ExecutionOrder = ExecutionOrder::Log;

    fn new(settings: Settings) -> Paxos {
        Paxos {
            log: DecidedLog::new(&settings),
            reserve: Reserve::new(settings.me),
            proposer: Proposer::default(),
            acceptor: Acceptor::default(),
            learner: Learner::default(),
            rng: ChaCha8Rng::seed_from_u64(settings.seed),
            #[cfg(test)]
            plant: None,
            settings,
        }
    }

    fn propose(&mut self, view: &View, batch: Arc<Batch>, fx: &mut Fx) -> InstanceId {
        let name = self.enqueue(view, batch, fx);
        #[cfg(test)]
        self.release_early_if_planted(fx);
        name
    }

    fn on_message(&mut self, view: &View, from: ReplicaId, message: Message, fx: &mut Fx) {
        if from.index() < self.settings.quorums.n {
            self.handle(view, from, message, fx);
        }
        #[cfg(test)]
        self.release_early_if_planted(fx);
    }

    fn on_tick(&mut self, view: &View, fx: &mut Fx) {
        self.log.tick(view, fx);
        self.drive_proposals(view, fx);
        #[cfg(test)]
        self.release_early_if_planted(fx);
    }

    fn snapshot(&self, _executed: &Executed) -> (Shared, Vec<Record>) {
        (Shared { floor: self.log.floor() }, self.own_records())
    }

    fn on_snapshot(&mut self, executed: &Executed) {
        self.log.on_snapshot(executed);
    }

    fn restore_shared(&mut self, shared: Shared, executed: &Executed) {
        self.log.restore_shared(shared.floor, executed);
    }

    fn restore(&mut self, record: Record, fx: &mut Fx) {
        self.restore_record(record, fx);
    }

    fn may_install(&self, executed: &Executed, here: &Executed) -> bool {
        DecidedLog::may_install(executed, here)
    }

    fn install(&mut self, _view: &View, _shared: Shared, executed: &Executed, fx: &mut Fx) {
        self.install_snapshot(executed, fx);
    }

    fn resume(&mut self, view: &View, _fx: &mut Fx) {
        self.log.resume(view.now);
        self.acceptor.forget_to(self.log.floor());
    }

    fn kept_bytes(&self) -> usize {
        self.log.kept_bytes() + self.acceptor.bytes()
    }

    fn on_executed(&mut self, executed: &Deps) {
        self.log.executed_here(executed);
    }
}
