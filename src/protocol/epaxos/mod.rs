//! EPaxos* (Ryabinin, Gotsman, Sutra: "Making Democracy Work", OPODIS 2025), by phase.
//!
//! A command's way: `propose` → (PreAccept) → `propose` → (Accept) → `accept` → `commit`. The side
//! road, when an owner is gone or an instance starves: `watch` → `recover` → `validate` →
//! `waiting` → back to `accept`. `gossip` heals what was lost and forgets what all have executed.
//!
#![doc = include_str!("PROTOCOL.md")]

mod accept;
mod commit;
mod conflicts;
mod context;
mod cut;
mod decide;
#[cfg(test)]
mod decide_tests;
mod found;
mod gossip;
mod install;
mod instances;
mod message;
mod orphans;
#[cfg(test)]
mod plant;
mod propose;
mod recover;
mod reserve;
mod restore;
mod rules;
mod store;
mod truncate;
mod validate;
mod waiting;
mod watch;

pub use conflicts::{ConflictIndex, DroppedIndex, KeySlots, SlotIndex};
pub use message::{
    CommitValue, Interfering, Message, Phase, Record, Report, Settled, SettledValue, Shared,
    Standing,
};
#[cfg(test)]
pub(crate) use plant::Plant;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Effects, Protocol, View};
use crate::types::{
    Batch, Deps, Executed, ExecutionOrder, InstanceId, ReplicaId, Settings, Slot, Time,
};

use accept::Proposal;
use context::Context;
use cut::Cuts;
use gossip::Marks;
use recover::Recovery;
use reserve::Reserve;
use store::Store;
use truncate::Sweep;
use waiting::Waiters;
use watch::Frontier;

type Fx = Effects<Message, Record>;

/// One replica's side of EPaxos*.
///
/// Invariants:
///
/// 1. `next_slot` is above every slot this replica has proposed in.
/// 2. `recoveries` holds exactly the recoveries led here whose ballot is still the instance's.
#[derive(Debug)]
pub struct EPaxos {
    cx: Context,
    store: Store,
    next_slot: Slot,
    /// The first slot of this life: what lies below was proposed in an earlier one.
    born: Slot,
    reserve: Reserve,
    /// Own slots up to here were told of as committed before that was durable, if they were at all
    /// (`orphans`).
    silent: Slot,
    sweep: Sweep,
    frontiers: Vec<Frontier>,
    marks: Marks,
    cuts: Cuts,
    /// Everything up to here is in the last own snapshot, from which others can be served.
    saved: Deps,
    recoveries: BTreeMap<InstanceId, Recovery>,
    waiters: Waiters,
    /// When to look again at an own undecided instance, for the how manieth time, and when it was
    /// last sent.
    timers: BinaryHeap<Reverse<(Time, InstanceId, u32, Time)>>,
    rng: ChaCha8Rng,
}

impl EPaxos {
    /// How far an instance is here, with its ballot and dependencies; for `explain`.
    pub fn inspect(&self, id: InstanceId) -> Option<Inspection> {
        let instance = self.store.instances.get(id)?;
        Some(Inspection {
            phase: instance.phase,
            ballot: instance.ballot,
            deps: instance.deps.clone(),
            recovering: self.recoveries.contains_key(&id),
        })
    }

    /// Per owner, the slot up to which every decision is known here.
    pub fn known(&self) -> Deps {
        self.store.known()
    }

    /// Sizes of what it keeps in memory.
    pub fn footprint(&self) -> Sizes {
        Sizes {
            instances: self.store.instances.len(),
            bytes: self.store.kept_bytes(),
            keys: self.store.index.keys(),
            recoveries: self.recoveries.len(),
        }
    }

    #[cfg(test)]
    fn planted(&self, plant: Plant) -> bool {
        self.cx.rules.broken == Some(plant)
    }

    /// Breaks one rule, to see whether the simulator notices.
    #[cfg(test)]
    pub(crate) fn plant(&mut self, plant: Plant) {
        self.cx.rules.broken = Some(plant);
    }
}

/// One instance as [`EPaxos::inspect`] shows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Inspection {
    /// How far it is.
    pub phase: Phase,
    /// The highest ballot joined.
    pub ballot: crate::types::Ballot,
    /// The current dependencies.
    pub deps: Deps,
    /// Whether this replica leads a recovery of it.
    pub recovering: bool,
}

/// What a replica keeps in memory, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Instances.
    pub instances: usize,
    /// About how many bytes these take.
    pub bytes: usize,
    /// Keys in the conflict index.
    pub keys: usize,
    /// Recoveries led here.
    pub recoveries: usize,
}

impl Protocol for EPaxos {
    type Message = Message;
    type Record = Record;
    type Shared = Shared;

    const NAME: &'static str = "epaxos";
    const ORDER: ExecutionOrder = ExecutionOrder::Dependencies;

    fn new(settings: Settings) -> EPaxos {
        let n = settings.quorums.n;
        EPaxos {
            next_slot: 1,
            born: 1,
            reserve: Reserve::default(),
            silent: 0,
            sweep: Sweep::new(n),
            frontiers: (0..n).map(|_| Frontier::default()).collect(),
            marks: Marks::new(n),
            cuts: Cuts::new(n),
            saved: Deps::none(n),
            recoveries: BTreeMap::new(),
            waiters: Waiters::default(),
            timers: BinaryHeap::new(),
            rng: ChaCha8Rng::seed_from_u64(settings.seed),
            cx: Context::new(settings),
            store: Store::new(n),
        }
    }

    fn propose(&mut self, view: &View, batch: Arc<Batch>, fx: &mut Fx) -> InstanceId {
        let id = self.start_pre_accept(view, batch, fx);
        #[cfg(test)]
        self.release_early_if_planted(fx);
        id
    }

    fn on_message(&mut self, view: &View, from: ReplicaId, message: Message, fx: &mut Fx) {
        if let Some(id) = message.instance() {
            if self.store.is_nonsense(id) {
                return;
            }
            if self.store.instances.is_trimmed(id) {
                self.on_dropped(from, &message, fx);
                return;
            }
            #[cfg(test)]
            self.count_truncated_if_planted(view, from, &message, fx);
            if self.fulfil_announced(view, &message, fx) {
                return;
            }
        }
        match message {
            Message::PreAccept { id, batch, deps } => {
                self.on_pre_accept(from, id, &batch, deps, fx);
            }
            Message::PreAcceptOk { id, deps } => self.on_pre_accept_ok(view, from, id, &deps, fx),
            Message::Accept { id, ballot, value, deps } => {
                self.on_accept(view, from, id, Proposal { ballot, value, deps }, fx);
            }
            Message::AcceptOk { id, ballot } => self.on_accept_ok(view, from, id, ballot, fx),
            Message::Commit { id, value, deps } => self.on_commit(view, from, id, value, deps, fx),
            Message::Recover { id, ballot } => self.on_recover(view, from, id, ballot, fx),
            Message::RecoverOk { id, ballot, report } => {
                self.on_recover_ok(view, from, id, ballot, report, fx);
            }
            Message::Validate { id, ballot, batch, deps } => {
                self.on_validate(from, id, ballot, &batch, deps, fx);
            }
            Message::ValidateOk { id, ballot, interfering } => {
                self.on_validate_ok(view, from, id, ballot, &interfering, fx);
            }
            Message::Waiting { id, fast_votes } => {
                self.on_waiting(view, id, usize::from(fast_votes), fx);
            }
            Message::Reject { id, ballot } => self.on_reject(view, id, ballot, fx),
            Message::Truncated { id } => self.on_truncated(view, id, fx),
            Message::Marks { proposed, known, executed, by_all, cut } => {
                self.on_marks(from, proposed, &known, &executed, &by_all, &cut);
            }
            Message::Cut { cut } => self.on_cut(from, &cut, fx),
            Message::CutOk { cut } => self.on_cut_ok(view, from, &cut, fx),
            Message::Fetch { owner, from: first, to } => {
                self.on_fetch(from, owner, first, to, fx);
            }
        }
        #[cfg(test)]
        self.release_early_if_planted(fx);
    }

    fn on_tick(&mut self, view: &View, fx: &mut Fx) {
        self.retransmit_own(view, fx);
        self.drive_recoveries(view, fx);
        self.watch_frontiers(view, fx);
        self.gossip(view, fx);
        self.truncate(fx);
        #[cfg(test)]
        self.release_early_if_planted(fx);
    }

    fn snapshot(&self, executed: &Executed) -> (Shared, Vec<Record>) {
        self.take_snapshot(executed)
    }

    fn on_snapshot(&mut self, executed: &Executed) {
        self.saved.merge(executed.floor());
        self.marks.executed_here(self.cx.settings.me, executed.floor());
    }

    fn restore_shared(&mut self, shared: Shared, executed: &Executed) {
        self.restore_snapshot(shared, executed);
    }

    fn may_install(&self, executed: &Executed, here: &Executed) -> bool {
        self.may_take(executed, here)
    }

    fn install(&mut self, view: &View, shared: Shared, executed: &Executed, fx: &mut Fx) {
        self.install_snapshot(view, shared, executed, fx);
    }

    fn restore(&mut self, record: Record, fx: &mut Fx) {
        self.restore_record(record, fx);
    }

    fn resume(&mut self, view: &View, fx: &mut Fx) {
        EPaxos::resume(self, view, fx);
    }

    fn kept_bytes(&self) -> usize {
        self.store.kept_bytes()
    }

    fn on_executed(&mut self, executed: &Deps) {
        if self.cx.settings.retention.volatile {
            self.marks.executed_here(self.cx.settings.me, executed);
        }
    }
}
