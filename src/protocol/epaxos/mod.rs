//! EPaxos* (Ryabinin, Gotsman, Sutra: "Making Democracy Work", OPODIS 2025), from parts.
//!
//! This is the only file that sees all parts. It passes each message to the parts concerned, and
//! passes one part's result to the next. A part owns its state; it reads another part only through
//! a reference that it is given. From the bottom up:
//!
//! - `instances`, `conflicts`, and the `store` of both: what is known here.
//! - `early_commit`, `reservation`: what an earlier life of this replica may have announced.
//! - `acceptor`: answers other replicas' requests. `commit`: learns and announces decisions.
//! - `proposer`: this replica's own instances. `recovery`: instances that their owners do not
//!   finish.
//! - `reclaim`: deletes what is no longer needed. `watch`: acts when an owner makes no progress.
//! - `snapshot`, `restore`: how a replica starts and restarts.
//!
//! The path of a command: `proposer` → (PreAccept) `acceptor` → `proposer` → (Accept) `acceptor` →
//! `commit`. If the owner has failed or an instance starves: `watch` → `recovery` → (Accept)
//! `acceptor` → `commit`.
//!
#![doc = include_str!("PROTOCOL.md")]

mod acceptor;
mod commit;
mod conflicts;
mod early_commit;
mod instances;
mod message;
mod path;
#[cfg(test)]
mod plant;
mod proposer;
mod reclaim;
mod recovery;
mod reservation;
mod restore;
mod rules;
mod snapshot;
mod step;
mod store;
mod watch;

pub use conflicts::{ConflictIndex, DroppedIndex, KeySlots, SlotIndex};
pub use message::{
    CommitValue, ExecutedDecision, ExecutedValue, Interfering, Message, Phase, ProtocolSnapshot,
    Record, Report, Standing,
};
pub use path::Path;
#[cfg(test)]
pub(crate) use plant::Plant;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Effects, Paths, Protocol, View, context};
use crate::types::{
    Ballot, Batch, Deps, Executed, ExecutionOrder, InstanceId, ReplicaId, Settings, Slot, Value,
};

use acceptor::Question;
use commit::{Decided, Fulfilled};
use early_commit::EarlyCommit;
use instances::Proposal;
use proposer::{Proposer, Way};
use reclaim::Reclaim;
use recovery::Recoveries;
use reservation::Reservation;
use step::Core;
use watch::Watch;

type Fx = Effects<Message, Record>;
type Context = context::Context<rules::Rules>;

/// One replica's side of EPaxos*.
#[derive(Debug)]
pub struct EPaxos {
    core: Core,
    early: EarlyCommit,
    reservation: Reservation,
    proposer: Proposer,
    recovery: Recoveries,
    reclaim: Reclaim,
    watch: Watch,
}

impl EPaxos {
    /// The phase, ballot and dependencies of an instance here; for `explain`.
    pub fn inspect(&self, id: InstanceId) -> Option<Inspection> {
        let instance = self.core.store.instances.get(id)?;
        Some(Inspection {
            phase: instance.phase,
            ballot: instance.ballot,
            deps: instance.deps.clone(),
            recovering: self.recovery.is_led(id),
        })
    }

    /// Per owner, the slot up to which every decision is known here.
    pub fn known(&self) -> Deps {
        self.core.store.known()
    }

    /// Own slots up to here are reserved. They may be in use without any other record.
    pub fn reserved(&self) -> Slot {
        self.reservation.up_to()
    }

    /// The highest established cut known here (C).
    pub fn established_cut(&self) -> &Deps {
        self.reclaim.established()
    }

    /// Everything up to here is executed, and its records are dropped.
    pub fn dropped(&self) -> &Deps {
        self.core.store.instances.trimmed()
    }

    /// Everything up to here is forgotten: every member has durably executed it.
    pub fn forgotten(&self) -> &Deps {
        self.core.store.forgotten()
    }

    /// The sizes of what is kept in memory.
    pub fn footprint(&self) -> Sizes {
        Sizes {
            instances: self.core.store.instances.len(),
            bytes: self.core.store.kept_bytes(),
            keys: self.core.store.index().keys(),
            recoveries: self.recovery.len(),
        }
    }

    /// A message about an instance.
    fn on_instance(
        &mut self,
        view: &View,
        from: ReplicaId,
        id: InstanceId,
        message: Message,
        fx: &mut Fx,
    ) {
        let s = &mut self.core.step(view, fx);
        match message {
            Message::PreAccept { batch, deps, .. } => {
                acceptor::on_pre_accept(s, &self.reservation, from, id, &batch, deps);
            }
            Message::PreAcceptOk { deps, .. } => {
                let way = self.proposer.on_pre_accept_ok(s, from, id, &deps);
                self.take(view, id, way, fx);
            }
            Message::Accept { ballot, value, deps, .. } => {
                if acceptor::on_accept(s, from, id, &Proposal { ballot, value, deps }) {
                    self.recovery.yield_to(s, &self.early, id, ballot);
                }
            }
            Message::AcceptOk { ballot, .. } => self.on_accept_ok(view, from, id, ballot, fx),
            Message::Commit { value, deps, .. } => {
                let led = self.recovery.is_led(id);
                let decided = commit::on_commit(s, from, id, value, deps, led);
                self.decide(view, decided, fx);
            }
            Message::Recover { ballot, .. } => {
                if acceptor::on_recover(s, &self.early, from, id, ballot) {
                    self.recovery.yield_to(s, &self.early, id, ballot);
                }
            }
            Message::RecoverOk { ballot, report, .. } => {
                let proposal =
                    self.recovery.on_recover_ok(s, &self.early, from, id, ballot, report);
                self.accept(view, id, proposal, fx);
            }
            Message::Validate { ballot, batch, deps, .. } => {
                let question = Question { id, ballot, batch: &batch, deps };
                acceptor::on_validate(s, &self.early, &self.reservation, from, &question);
            }
            Message::ValidateOk { ballot, interfering, .. } => {
                let proposal = self.recovery.on_validate_ok(s, from, id, ballot, &interfering);
                self.accept(view, id, proposal, fx);
            }
            Message::Waiting { fast_votes, .. } => {
                let waiters = self.recovery.on_waiting(s, from, id, usize::from(fast_votes));
                self.examine(view, waiters, fx);
            }
            Message::Reject { ballot, .. } => {
                if acceptor::on_higher_ballot(s, id, ballot) {
                    self.recovery.yield_to(s, &self.early, id, ballot);
                }
            }
            Message::Truncated { .. } => {
                if self.reclaim.on_truncated(s, id) {
                    self.recovery.end(id);
                }
            }
            Message::Marks { .. }
            | Message::Cut { .. }
            | Message::CutOk { .. }
            | Message::Fetch { .. } => {}
        }
    }

    /// A message about an instance that is dropped here. A request for a vote, a promise or a
    /// decision is answered `Truncated`. Answers and decisions come too late to matter.
    fn on_dropped(&self, from: ReplicaId, id: InstanceId, message: &Message, fx: &mut Fx) {
        let asks = matches!(
            message,
            Message::PreAccept { .. }
                | Message::Accept { .. }
                | Message::Recover { .. }
                | Message::Validate { .. }
        );
        if asks && from != self.core.cx.me() {
            self.core.store.answer_truncated(from, id, fx);
        }
    }

    /// A vote for a value. It may show a higher ballot, or complete a decision.
    fn on_accept_ok(
        &mut self,
        view: &View,
        from: ReplicaId,
        id: InstanceId,
        ballot: Ballot,
        fx: &mut Fx,
    ) {
        let s = &mut self.core.step(view, fx);
        s.store.see(id.replica, id.slot);
        // The vote proves that the instance exists.
        s.store.instances.entry(id);
        if acceptor::on_higher_ballot(s, id, ballot) {
            self.recovery.yield_to(s, &self.early, id, ballot);
        }
        let decided = commit::on_accept_ok(s, from, id, ballot);
        self.decide(view, decided, fx);
    }

    /// A payload arrived for a decision that was announced without it.
    fn on_fulfilled(&mut self, view: &View, fulfilled: Fulfilled, fx: &mut Fx) {
        let Fulfilled { id, value, deps, lag } = fulfilled;
        self.watch.note_lag(id.replica, lag);
        let led = self.recovery.is_led(id);
        let s = &mut self.core.step(view, fx);
        let decided = commit::on_commit(s, id.replica, id, value, deps, led);
        self.decide(view, decided, fx);
    }

    /// Continues an instance of this replica on the path that was chosen.
    fn take(&mut self, view: &View, id: InstanceId, way: Option<Way>, fx: &mut Fx) {
        match way {
            None => {}
            Some(Way::Fast) => {
                let decided = commit::commit_fast(&mut self.core.step(view, fx), id);
                self.decide(view, Some(decided), fx);
            }
            Some(Way::Slow(proposal)) => self.accept(view, id, Some(proposal), fx),
        }
    }

    /// Starts Accept: this replica accepts the value first.
    fn accept(&mut self, view: &View, id: InstanceId, proposal: Option<Proposal>, fx: &mut Fx) {
        if let Some(proposal) = proposal {
            acceptor::start_accept(&mut self.core.step(view, fx), id, proposal);
        }
    }

    /// Lets recoveries re-examine the instances they wait for.
    fn examine(&mut self, view: &View, waiters: BTreeSet<InstanceId>, fx: &mut Fx) {
        for waiter in waiters {
            let proposal = self.recovery.examine(&mut self.core.step(view, fx), waiter);
            self.accept(view, waiter, proposal, fx);
        }
    }

    /// What follows from every decision, however it was learned. If an own instance was decided to
    /// be a `Nop`, its commands go back to be proposed again: `Effects::returned`.
    fn decide(&mut self, view: &View, decided: Option<Decided>, fx: &mut Fx) {
        let Some(Decided { decision, after, fast }) = decided else { return };
        let id = decision.id;
        let s = &mut self.core.step(view, fx);
        s.store.see_all(&decision.deps);
        s.store.see(id.replica, id.slot);
        let lost = match &decision.value {
            Value::Batch(_) => {
                self.watch.note_commands(id.replica);
                None
            }
            Value::Nop => {
                let payload = s.store.instances.get(id).and_then(|i| i.payload.clone());
                if payload.is_none() {
                    s.store.note_unseen(id);
                }
                payload
            }
        };
        s.cx.rules.decided(s.store, &decision);
        let mine = id.replica == s.cx.me();
        if mine && !decision.value.is_nop() {
            s.fx.own_commits.push((id, fast));
        } else if let Some(batch) = lost.filter(|_| mine) {
            s.fx.hit(Path::Resubmitted);
            s.fx.returned.extend_from_slice(batch.commands());
        }
        self.recovery.end(id);
        s.fx.decide(after, decision);
        s.store.advance_known(id.replica);
        self.watch.fetch_on(s, self.reclaim.marks(), id.replica);
        let waiters = self.recovery.waited_for(id);
        self.examine(view, waiters, fx);
        if mine {
            let led = |id| self.recovery.is_led(id);
            let (cx, store) = (&self.core.cx, &self.core.store);
            let due = self.reservation.on_decided(cx, store, id.slot, led, fx);
            self.recover(view, due, fx);
        }
    }

    /// Recovers the lost slots that are due.
    fn recover_lost(&mut self, view: &View, fx: &mut Fx) {
        let led = |id| self.recovery.is_led(id);
        let due = self.reservation.due(&self.core.cx, &self.core.store, led, fx);
        self.recover(view, due, fx);
    }

    fn recover(&mut self, view: &View, due: Vec<InstanceId>, fx: &mut Fx) {
        for id in due {
            self.recovery.start(&mut self.core.step(view, fx), id);
        }
    }

    /// Checks each owner's frontier for progress.
    fn watch_frontiers(&mut self, view: &View, fx: &mut Fx) {
        self.recover_lost(view, fx);
        for owner in ReplicaId::all(self.core.cx.n()) {
            let s = &mut self.core.step(view, fx);
            let due = self.watch.look(s, self.reclaim.marks(), &self.recovery, owner);
            if let Some(due) = due {
                self.recover(view, due, fx);
                self.watch.rest(&mut self.core.step(view, fx), owner);
            }
        }
    }
}

/// One instance as [`EPaxos::inspect`] shows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Inspection {
    /// The phase it has reached.
    pub phase: Phase,
    /// The highest ballot joined.
    pub ballot: crate::types::Ballot,
    /// The current dependencies.
    pub deps: Deps,
    /// Whether this replica leads a recovery of it.
    pub recovering: bool,
}

/// The sizes of what a replica keeps in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// The number of instances.
    pub instances: usize,
    /// Roughly how many bytes they take.
    pub bytes: usize,
    /// The number of keys in the conflict index.
    pub keys: usize,
    /// The number of recoveries led here.
    pub recoveries: usize,
}

impl Protocol for EPaxos {
    type Message = Message;
    type Record = Record;
    type Snapshot = ProtocolSnapshot;

    const NAME: &'static str = "epaxos";
    const ORDER: ExecutionOrder = ExecutionOrder::Dependencies;

    fn paths() -> Paths {
        Paths::of::<Path>()
    }

    fn new(settings: Settings) -> EPaxos {
        let n = settings.quorums.n;
        EPaxos {
            core: Core::new(settings),
            early: EarlyCommit::new(),
            reservation: Reservation::default(),
            proposer: Proposer::new(),
            recovery: Recoveries::default(),
            reclaim: Reclaim::new(n),
            watch: Watch::new(n),
        }
    }

    fn propose(&mut self, view: &View, batch: Arc<Batch>, fx: &mut Fx) -> InstanceId {
        let s = &mut self.core.step(view, fx);
        let free = self.reclaim.marks().free_to_cover();
        let id = self.proposer.propose(s, &mut self.early, &mut self.reservation, free, &batch);
        #[cfg(test)]
        self.after_step(fx);
        id
    }

    fn on_message(&mut self, view: &View, from: ReplicaId, message: Message, fx: &mut Fx) {
        if let Some(id) = message.instance() {
            if self.core.store.is_nonsense(id) {
                return;
            }
            if self.core.store.instances.is_trimmed(id) {
                self.on_dropped(from, id, &message, fx);
                return;
            }
            #[cfg(test)]
            if self.before_message(view, from, &message, fx) {
                return self.after_step(fx);
            }
            let fulfilled = commit::fulfil_announced(&mut self.core.step(view, fx), &message);
            if let Some(fulfilled) = fulfilled {
                self.on_fulfilled(view, fulfilled, fx);
                // The instance is decided now, so the owner's PreAccept needs no vote. A recovery's
                // message still needs an answer.
                if matches!(message, Message::PreAccept { .. }) {
                    return;
                }
            }
            self.on_instance(view, from, id, message, fx);
        } else {
            let s = &mut self.core.step(view, fx);
            match message {
                Message::Marks { proposed, known, executed, by_all, cut } => {
                    self.reclaim.on_marks(s, from, proposed, &known, &executed);
                    self.reclaim.on_word_of_all(s, &by_all, &cut);
                }
                Message::Cut { cut } => self.reclaim.on_cut(s, from, &cut),
                Message::CutOk { cut } => self.reclaim.on_cut_ok(s, from, &cut),
                Message::Fetch { owner, from: first, to } => {
                    commit::on_fetch(s, from, owner, first, to);
                }
                _ => {}
            }
        }
        #[cfg(test)]
        self.after_step(fx);
    }

    fn on_tick(&mut self, view: &View, fx: &mut Fx) {
        while let Some((id, way)) = self.proposer.next_overdue(&mut self.core.step(view, fx)) {
            self.take(view, id, Some(way), fx);
        }
        for id in self.recovery.due(view) {
            let proposal = self.recovery.drive(&mut self.core.step(view, fx), &self.early, id);
            self.accept(view, id, proposal, fx);
            self.recovery.resend(&mut self.core.step(view, fx), id);
        }
        self.watch_frontiers(view, fx);
        let s = &mut self.core.step(view, fx);
        self.reclaim.gossip(s, self.proposer.proposed());
        self.reclaim.truncate(s);
        #[cfg(test)]
        self.after_step(fx);
    }

    fn snapshot(&self, executed: &Executed) -> (ProtocolSnapshot, Vec<Record>) {
        self.take_snapshot(executed)
    }

    fn on_snapshot(&mut self, executed: &Executed) {
        self.reclaim.on_snapshot(self.core.cx.me(), executed.floor());
    }

    fn restore_snapshot(&mut self, shared: ProtocolSnapshot, executed: &Executed) {
        self.restore_snapshot(shared, executed);
    }

    fn may_install(&self, executed: &Executed, here: &Executed) -> bool {
        self.may_take(executed, here)
    }

    fn install(&mut self, view: &View, shared: ProtocolSnapshot, executed: &Executed, fx: &mut Fx) {
        self.install_snapshot(view, shared, executed, fx);
    }

    fn restore(&mut self, record: Record, fx: &mut Fx) {
        self.restore_record(record, fx);
    }

    fn resume(&mut self, view: &View, fx: &mut Fx) {
        self.resume_own(view, fx);
        self.recover_lost(view, fx);
    }

    fn kept_bytes(&self) -> usize {
        self.core.store.kept_bytes()
    }

    fn on_executed(&mut self, executed: &Deps) {
        if self.core.cx.settings.retention.volatile {
            self.reclaim.on_executed(self.core.cx.me(), executed);
        }
    }
}
