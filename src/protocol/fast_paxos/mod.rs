//! Fast Paxos (Lamport, Distributed Computing 2006) as a replicated log. Its rules are
//! [§F1 to §F8](super::log#f-fast-paxos).
//!
//! A value's way in a fast ballot: `proposer` (Propose) → `acceptor`, which votes for it in its
//! next free slot (Voted) → `learner`, everywhere: two message delays, with a fast quorum
//! (`round`). If acceptors have put different values into a slot, the coordinator sees that from
//! the votes and recovers (`collide`): four delays; the value that has lost is proposed again. In a
//! classic ballot proposers send to the coordinator, which gives away the slots: three delays, with
//! a majority; two where the proposer's vote and the coordinator's are one. `mode` says which,
//! `lead` elects the coordinator and does phase 1 for all slots at once.

mod acceptor;
mod collide;
mod lead;
mod learner;
mod message;
mod mode;
#[cfg(test)]
mod plant;
mod proposer;
mod restore;
mod round;
#[cfg(test)]
mod tests;
mod votes;

pub use message::{Message, Record};
#[cfg(test)]
pub(crate) use plant::Plant;
pub use round::Round;

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::log::{DecidedLog, Reserve, Shared};
use super::{Effects, Path, Protocol, View};
use crate::types::{
    Batch, Deps, Executed, ExecutionOrder, InstanceId, ReplicaId, ReplicaSet, Settings, Slot,
};

use lead::Coordinator;
use learner::Learner;
use proposer::Proposer;
use round::Sizes;
use votes::Votes;

type Fx = Effects<Message, Record>;

/// One replica's side of Fast Paxos: proposer, acceptor, learner, and now and then coordinator.
#[derive(Debug)]
pub struct FastPaxos {
    settings: Settings,
    sizes: Sizes,
    log: DecidedLog,
    reserve: Reserve,
    proposer: Proposer,
    votes: Votes,
    learner: Learner,
    coordinator: Coordinator,
    rng: ChaCha8Rng,
    #[cfg(test)]
    plant: Option<Plant>,
}

impl FastPaxos {
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

    /// The coordinator as far as is known here, and whether its ballot is fast.
    pub fn leader(&self) -> Option<(ReplicaId, bool)> {
        let (ballot, is_fast) = self.proposer.mode?;
        Some((ballot.leader(self.settings.me), is_fast))
    }

    fn all(&self) -> ReplicaSet {
        ReplicaSet::all(self.settings.quorums.n)
    }

    fn handle(&mut self, view: &View, from: ReplicaId, message: Message, fx: &mut Fx) {
        match message {
            Message::Prepare { ballot } => self.on_prepare(view, from, ballot, fx),
            Message::Promise { ballot, known, reported } => {
                self.on_promise(view, from, ballot, (known, reported), fx);
            }
            Message::Report { ballot, slot, round, choice } => {
                self.on_report(view, from, (ballot, slot), (round, choice), fx);
            }
            Message::Open { ballot, is_fast, from: first } => {
                self.on_open(view, from, (ballot, is_fast, first), fx);
            }
            Message::Propose { choice } => self.on_propose(from, choice, view, fx),
            Message::Suggest { ballot, slot, choice } => {
                self.on_suggest(view, from, (ballot, slot), choice, fx);
            }
            Message::Accept { ballot, slot, choice } => {
                self.on_accept(view, from, (ballot, slot), choice, fx);
            }
            Message::Voted { slot, round, proposal } => {
                self.on_voted(view, from, (slot, round), proposal, fx);
            }
            Message::Rejected { ballot } => self.on_rejected(view, ballot),
            Message::Upkeep(upkeep) => {
                if let Some((slot, choice)) = self.log.on_upkeep(from, upkeep, fx) {
                    fx.hit(Path::LearnedCommit);
                    self.learn(view, slot, &choice, false, fx);
                }
            }
        }
    }
}

impl Protocol for FastPaxos {
    type Message = Message;
    type Record = Record;
    type Shared = Shared;

    const NAME: &'static str = "fast-paxos";
    const ORDER: ExecutionOrder = ExecutionOrder::Log;

    fn new(settings: Settings) -> FastPaxos {
        FastPaxos {
            sizes: Sizes::new(settings.quorums.n),
            log: DecidedLog::new(&settings),
            reserve: Reserve::new(settings.me),
            proposer: Proposer::default(),
            votes: Votes::default(),
            learner: Learner::default(),
            coordinator: Coordinator::default(),
            rng: ChaCha8Rng::seed_from_u64(settings.seed),
            #[cfg(test)]
            plant: None,
            settings,
        }
    }

    fn propose(&mut self, view: &View, batch: Arc<Batch>, fx: &mut Fx) -> InstanceId {
        let name = self.start_own(view, batch, fx);
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
        self.drive_own(view, fx);
        self.repeat_votes(view, fx);
        self.drive_lead(view, fx);
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
        self.votes.forget_to(self.log.floor());
    }

    fn kept_bytes(&self) -> usize {
        self.log.kept_bytes() + self.votes.bytes()
    }

    fn on_executed(&mut self, executed: &Deps) {
        self.log.executed_here(executed);
    }
}
