//! Truncate: drops records of instances that are durably executed here and that no live member
//! needs, and forgets what every member has executed (PROTOCOL.md §8a). After execution; `marks`
//! and `cuts` determine how far.
//!
//! There are two floors. Up to the *cut* (C), or W, a record may be dropped; the index of dropped
//! instances keeps it as a conflict. Up to W, once no undecided instance may need it as a conflict,
//! it is forgotten altogether.
//!
//! A dropped instance never gets a record again. A sender whose message would need one is answered
//! `Truncated`; it needs a snapshot.

use crate::protocol::epaxos::instances::Instance;
use crate::protocol::epaxos::step::Step;
use crate::protocol::epaxos::store::Store;
use crate::protocol::epaxos::{Context, Path};
use crate::types::{Deps, InstanceId, KeyHash, Slot};

use super::Reclaim;

/// How many slots of an owner one call removes: cleaning up must never stall the replica.
const AT_ONCE: Slot = 2048;

/// How many keys of the dropped index one call examines.
const KEYS_AT_ONCE: usize = 4096;

/// The progress of the sweep that removes forgotten entries from the dropped index.
#[derive(Debug)]
pub(super) struct Sweep {
    /// The floor at which the last sweep began.
    floor: Deps,
    stage: Stage,
}

/// The part that is being swept, and the key to continue after.
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

    /// Sweeps everything once more: entries below the floor may have been added.
    pub(super) fn again(&mut self) {
        self.floor = Deps::none(self.floor.len());
    }

    /// Removes some forgotten entries from the index of dropped instances.
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

/// Moves a floor towards another by at most [`AT_ONCE`] slots per owner.
fn step(from: &Deps, to: &Deps) -> Deps {
    let next = from.iter().map(|(owner, slot)| slot.max(to.slot(owner).min(slot + AT_ONCE)));
    Deps::from_slots(next)
}

impl Reclaim {
    /// Forgets and drops a limited amount. Called with every tick.
    pub(crate) fn truncate(&mut self, s: &mut Step<'_>) {
        self.forget_some(s);
        self.drop_some(s);
        self.sweep.some(s.store);
    }

    /// Forgets instances that every member has executed and that no undecided one may need as a
    /// conflict.
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

    /// Drops records that are in this replica's own snapshot and in the established cut.
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
