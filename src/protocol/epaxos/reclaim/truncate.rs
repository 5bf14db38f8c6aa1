//! Truncate: drops the records of what is executed here for good and needed by no live member, and
//! forgets what every member has executed (PROTOCOL.md §8a). After execution; `marks` and `cuts`
//! say how far.
//!
//! Two floors. Up to the *cut* (C), or W, a record may be dropped: what it says of others goes on
//! in the index of dropped instances. Up to W, once nothing may come any more that this speaks
//! against, it is forgotten altogether.
//!
//! An instance that is dropped never gets a record again. Who wants something about it that asks
//! for a record is told so; it needs a snapshot.

use crate::protocol::Path;
use crate::protocol::epaxos::Context;
use crate::protocol::epaxos::instances::Instance;
use crate::protocol::epaxos::step::Step;
use crate::protocol::epaxos::store::Store;
use crate::types::{Deps, InstanceId, KeyHash, Slot};

use super::Reclaim;

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

/// Which part is swept, and after which key it goes on.
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

    /// Removes from the index of dropped instances some of what every member has executed.
    fn some(&mut self, store: &mut Store) {
        let next = match self.stage {
            Stage::Idle if self.floor == *store.forgotten() => return,
            Stage::Idle => {
                self.floor = store.forgotten().clone();
                store.sweep_commands(None, KEYS_AT_ONCE)
            }
            Stage::Commands(after) => store.sweep_commands(after, KEYS_AT_ONCE),
            Stage::Nops(after) => store.sweep_nops(after, KEYS_AT_ONCE),
        };
        self.stage = match (&self.stage, next) {
            (Stage::Idle | Stage::Commands(_), Some(_)) => Stage::Commands(next),
            (Stage::Idle | Stage::Commands(_), None) => Stage::Nops(None),
            (Stage::Nops(_), Some(_)) => Stage::Nops(next),
            (Stage::Nops(_), None) => Stage::Idle,
        };
    }
}

/// A step of at most [`AT_ONCE`] slots an owner from one floor towards another.
fn step(from: &Deps, to: &Deps) -> Deps {
    let next = from.iter().map(|(owner, slot)| slot.max(to.slot(owner).min(slot + AT_ONCE)));
    Deps::from_slots(next)
}

impl Reclaim {
    /// Forgets and drops some of what may go. Called with every tick.
    pub(crate) fn truncate(&mut self, s: &mut Step<'_>) {
        self.forget_some(s);
        self.drop_some(s);
        self.sweep.some(s.store);
    }

    /// What every member has executed, and nothing may come up any more that it speaks against.
    fn forget_some(&self, s: &mut Step<'_>) {
        let to = self.marks.forgettable();
        if s.store.forgotten().includes(to) {
            return;
        }
        let floor = step(s.store.forgotten(), to);
        let gone = s.store.forget(&floor);
        self.assert_executed(s.cx, &gone);
        s.fx.hit(Path::Trimmed);
    }

    /// What is in the own snapshot, and in the established cut.
    fn drop_some(&self, s: &mut Step<'_>) {
        let mut to = self.cuts.established().clone();
        to.meet(self.cuts.saved());
        if s.store.instances.trimmed().includes(&to) {
            return;
        }
        s.fx.hit(Path::Dropped);
        let floor = step(s.store.instances.trimmed(), &to);
        let gone = s.store.drop_records(&floor);
        self.assert_executed(s.cx, &gone);
        s.cx.rules.dropped(s.store);
    }

    fn assert_executed(&self, cx: &Context, gone: &[(InstanceId, Instance)]) {
        let executed = self.marks.executed_at(cx.me());
        assert!(
            gone.iter().all(|(id, instance)| instance.is_committed() && executed.covers(*id)),
            "only what is executed here for good is dropped"
        );
    }
}
