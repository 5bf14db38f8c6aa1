//! Truncate: drops the records of what is executed here for good and needed by no live member, and
//! forgets what every member has executed (protocol.md §8a). After execution; `gossip` and `cut`
//! say how far.
//!
//! Two floors. Up to the *cut* (C), or W, a record may be dropped: what it says of others goes on
//! in the index of dropped instances. Up to W, once nothing may come any more that this speaks
//! against, it is forgotten altogether.
//!
//! An instance that is dropped never gets a record again. Who wants something about it that asks
//! for a record is told so; it needs a snapshot.

use super::instances::Instance;
use super::{EPaxos, Fx, Message};
use crate::protocol::{Path, View};
use crate::types::{Deps, InstanceId, KeyHash, ReplicaId, Slot, Written};

/// How many instances of an owner go at a time: a replica never stops to clean up.
const AT_ONCE: Slot = 2048;

/// How many keys of the dropped index are looked at at a time.
const KEYS_AT_ONCE: usize = 4096;

/// How far the sweep of the dropped index is that removes what is forgotten.
#[derive(Debug)]
pub(super) struct Sweep {
    /// The floor of the last sweep that began.
    floor: Deps,
    stage: Stage,
}

/// Which part is swept, and behind which key it goes on.
#[derive(Debug)]
enum Stage {
    Idle,
    Commands(Option<KeyHash>),
    Nops(Option<KeyHash>),
}

impl Sweep {
    pub(super) fn new(n: usize) -> Sweep {
        Sweep { floor: Deps::none(n), stage: Stage::Idle }
    }

    /// Everything has to be looked at once more: something below the floor may have come in.
    pub(super) fn again(&mut self) {
        self.floor = Deps::none(self.floor.len());
    }
}

/// A step of at most [`AT_ONCE`] slots an owner from one floor towards another.
fn step(from: &Deps, to: &Deps) -> Deps {
    let next = from.iter().map(|(owner, slot)| slot.max(to.slot(owner).min(slot + AT_ONCE)));
    Deps::from_slots(next)
}

impl EPaxos {
    /// Everything up to here is executed and its record dropped.
    pub fn dropped(&self) -> &Deps {
        self.store.instances.trimmed()
    }

    /// Everything up to here is forgotten: every member has executed it for good.
    pub fn forgotten(&self) -> &Deps {
        self.store.index.floor()
    }

    /// Forgets and drops some of what may go. Called with every tick.
    pub(super) fn truncate(&mut self, fx: &mut Fx) {
        self.forget_some(fx);
        self.drop_some(fx);
        self.sweep_some();
    }

    /// What every member has executed, and nothing may come up any more that it speaks against.
    fn forget_some(&mut self, fx: &mut Fx) {
        let to = self.marks.forgettable();
        if self.store.index.floor().includes(to) {
            return;
        }
        let floor = step(self.store.index.floor(), to);
        let gone = self.store.forget(&floor);
        self.assert_executed(&gone);
        fx.hit(Path::Trimmed);
    }

    /// What is in the own snapshot, and in the established cut.
    fn drop_some(&mut self, fx: &mut Fx) {
        let mut to = self.cuts.established.clone();
        to.meet(&self.saved);
        if self.store.instances.trimmed().includes(&to) {
            return;
        }
        fx.hit(Path::Dropped);
        let floor = step(self.store.instances.trimmed(), &to);
        let gone = self.store.instances.trim(&floor);
        self.assert_executed(&gone);
        for (id, instance) in gone {
            self.store.keep_as_dropped(id, &instance);
        }
        #[cfg(test)]
        if self.planted(super::Plant::ForgetAtCut) {
            self.store.dropped.commands.clear();
        }
    }

    fn assert_executed(&self, gone: &[(InstanceId, Instance)]) {
        let executed = self.marks.executed_at(self.cx.me());
        assert!(
            gone.iter().all(|(id, instance)| instance.is_committed() && executed.covers(*id)),
            "only what is executed here for good is dropped"
        );
    }

    /// Removes from the index of dropped instances what every member has executed.
    fn sweep_some(&mut self) {
        let floor = self.store.index.floor().clone();
        let (part, after) = match self.sweep.stage {
            Stage::Idle if self.sweep.floor == floor => return,
            Stage::Idle => {
                self.sweep.floor = floor.clone();
                (&mut self.store.dropped.commands, None)
            }
            Stage::Commands(after) => (&mut self.store.dropped.commands, after),
            Stage::Nops(after) => (&mut self.store.dropped.nops, after),
        };
        let (gone, next) = part.sweep(&floor, after, KEYS_AT_ONCE);
        self.sweep.stage = match (&self.sweep.stage, next) {
            (Stage::Idle | Stage::Commands(_), Some(_)) => Stage::Commands(next),
            (Stage::Idle | Stage::Commands(_), None) => Stage::Nops(None),
            (Stage::Nops(_), Some(_)) => Stage::Nops(next),
            (Stage::Nops(_), None) => Stage::Idle,
        };
        for key in gone {
            self.store.index.forget_key(key);
        }
    }

    /// A message about an instance that is dropped here. Whoever asks for a vote, a promise or a
    /// decision is told; answers and decisions come too late to matter.
    pub(super) fn on_dropped(&mut self, from: ReplicaId, message: &Message, fx: &mut Fx) {
        match message {
            Message::PreAccept { id, .. }
            | Message::Accept { id, .. }
            | Message::Recover { id, .. }
            | Message::Validate { id, .. }
                if from != self.cx.me() =>
            {
                self.answer_truncated(from, *id, fx);
            }
            _ => {}
        }
    }

    pub(super) fn answer_truncated(&self, to: ReplicaId, id: InstanceId, fx: &mut Fx) {
        fx.hit(Path::Truncated);
        fx.answer(Written::default(), to, Message::Truncated { id });
    }

    /// What is undecided here is executed and dropped elsewhere: no message will ever tell how it
    /// was decided. A snapshot will, of a replica that has executed it, and what this one has for
    /// good: no more, or what is asked for grows with all that goes on meanwhile.
    pub(super) fn on_truncated(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        if self.store.instances.is_committed(id) {
            return;
        }
        #[cfg(test)]
        if self.planted(super::Plant::TruncatedVote) {
            return;
        }
        fx.hit(Path::NeedsSnapshot);
        self.store.see(id.replica, id.slot);
        let mut needed = fx.needs_snapshot.take().unwrap_or_else(|| Deps::none(self.cx.n()));
        needed.merge(self.marks.executed_at(self.cx.me()));
        needed.merge(&self.cuts.established);
        // Some cut that is established holds it, so there are such replicas.
        needed.raise(id.replica, id.slot);
        fx.needs_snapshot = Some(needed);
        // A recovery of it cannot find a quorum. To begin another one later asks for the snapshot
        // again, should that get lost.
        if self.recoveries.remove(&id).is_some() {
            self.waiters.stop(id);
        }
        let pause = self.cx.settings.timing.patience;
        if let Some(instance) = self.store.instances.get_mut(id) {
            instance.not_before = instance.not_before.max(view.now + pause);
        }
    }
}
