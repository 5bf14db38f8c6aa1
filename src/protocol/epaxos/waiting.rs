//! Waiting: a recovery that cannot tell yet waits for how the interfering instances end, and says
//! so, which lets two recoveries that wait for each other come apart (protocol.md §5.5).

use std::collections::{BTreeMap, BTreeSet};

use super::decide::must_yield;
use super::recover::{Candidate, Stage, small};
use super::reserve::speaks_against;
use super::{EPaxos, Fx, Message, Standing};
use crate::protocol::{Path, View};
use crate::types::{Executed, InstanceId, Value, Written};

/// Who waits for whom, and what waiting recoveries have said.
///
/// Invariant: `waiting[x]` holds `id` only while `id` is under recovery here and in its Waiting
/// stage, and `x` is undecided here.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: BTreeMap<InstanceId, BTreeSet<InstanceId>>,
    /// The most fast votes that any recovery of an instance has claimed. A fact about votes at the
    /// owner's ballot, so it stays true at every ballot.
    heard: BTreeMap<InstanceId, usize>,
}

impl Waiters {
    /// Nothing waits any more, and nothing that was said about these matters.
    pub(super) fn stop_all(&mut self, decided: &Executed) {
        self.waiting.clear();
        self.heard.retain(|id, _| !decided.contains(*id));
    }

    /// `id` waits for nothing any more.
    pub(super) fn stop(&mut self, id: InstanceId) {
        self.waiting.retain(|_, waiters| {
            waiters.remove(&id);
            !waiters.is_empty()
        });
    }
}

impl EPaxos {
    /// §5.5, last case.
    pub(super) fn start_waiting(
        &mut self,
        view: &View,
        id: InstanceId,
        candidate: Candidate,
        interfering: &BTreeMap<InstanceId, Standing>,
        fx: &mut Fx,
    ) {
        let fast_votes = small(candidate.fast_votes);
        let resend = view.now + self.cx.resend_after(view, 0);
        let pending: BTreeMap<_, _> = interfering.keys().map(|other| (*other, false)).collect();
        let unknown = interfering.iter().filter(|(_, standing)| **standing == Standing::Unknown);
        let unknown = unknown.map(|(other, _)| *other).collect();
        for other in pending.keys() {
            self.waiters.waiting.entry(*other).or_default().insert(id);
            // It exists, so its decision will be asked for, and recovered if need be.
            self.store.see(other.replica, other.slot);
        }
        let Some(recovery) = self.recoveries.get_mut(&id) else { return };
        recovery.stage = Stage::Waiting { candidate, pending, unknown };
        recovery.send_again = resend;
        // The mutual wait ends by votes and decisions, not by a higher ballot: be patient.
        recovery.give_up = view.now + self.cx.settings.timing.patience * 2;
        fx.send(Written::default(), self.cx.all(), Message::Waiting { id, fast_votes });
        self.examine_waiting(view, id, fx);
        self.recover_interfering(view, id, fx);
    }

    /// Sees that every instance waited for gets recovered, unless somebody is at it.
    fn recover_interfering(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        let Some(recovery) = self.recoveries.get(&id) else { return };
        let Stage::Waiting { pending, .. } = &recovery.stage else { return };
        let others: Vec<_> = pending.keys().copied().collect();
        for other in others {
            let suspected = view.suspected.contains(other.replica);
            let idle = !self.recoveries.contains_key(&other) && !self.store.is_stale(other);
            if suspected && idle && !self.store.instances.is_committed(other) {
                let instance = self.store.instances.entry(other);
                if instance.not_before <= view.now {
                    self.start_recovery(view, other, fx);
                }
            }
        }
    }

    /// A recovery says that it waits, and how many fast votes it counted.
    pub(super) fn on_waiting(
        &mut self,
        view: &View,
        id: InstanceId,
        fast_votes: usize,
        fx: &mut Fx,
    ) {
        self.store.see(id.replica, id.slot);
        if self.store.instances.is_committed(id) {
            return;
        }
        let heard = self.waiters.heard.entry(id).or_default();
        *heard = (*heard).max(fast_votes);
        let waiters = self.waiters.waiting.get(&id).cloned().unwrap_or_default();
        for waiter in waiters {
            self.examine_waiting(view, waiter, fx);
        }
    }

    /// `id` is decided: whoever waited for it looks again.
    pub(super) fn wake_waiters(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        self.waiters.heard.remove(&id);
        for waiter in self.waiters.waiting.remove(&id).unwrap_or_default() {
            self.examine_waiting(view, waiter, fx);
        }
    }

    /// Which of the instances that a recovery waits for are dropped here, and whether they speak
    /// against it (§8a).
    fn dropped_pending(&self, id: InstanceId) -> BTreeMap<InstanceId, bool> {
        let Some(recovery) = self.recoveries.get(&id) else { return BTreeMap::new() };
        let Stage::Waiting { candidate, pending, .. } = &recovery.stage else {
            return BTreeMap::new();
        };
        let open = pending.iter().filter(|(_, harmless)| !**harmless);
        let speaks = |other| self.store.dropped_conflict(other, candidate.batch.footprint());
        open.filter_map(|(other, _)| Some((*other, speaks(*other)?))).collect()
    }

    /// Looks at everything a recovery waits for.
    pub(super) fn examine_waiting(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        let quorums = self.cx.settings.quorums;
        #[cfg(test)]
        let slack = usize::from(self.planted(super::Plant::YieldTooEarly));
        #[cfg(not(test))]
        let slack = 0;
        #[cfg(test)]
        let hasty = self.planted(super::Plant::YieldToUnknown);
        let gone = self.dropped_pending(id);
        let Some(recovery) = self.recoveries.get_mut(&id) else { return };
        let Stage::Waiting { candidate, pending, unknown } = &mut recovery.stage else { return };
        let mut outcome = Some(Path::WaitingClean);
        for (other, harmless) in pending.iter_mut().filter(|(_, harmless)| !**harmless) {
            if let Some(interferes) = gone.get(other) {
                if !interferes {
                    *harmless = true;
                    continue;
                }
                outcome = Some(Path::WaitingNop);
                break;
            }
            if self.store.instances.is_trimmed(*other) {
                // How it ended is forgotten. Promises asked for anew will tell.
                outcome = None;
                recovery.give_up = view.now;
                break;
            }
            if unknown.contains(other) {
                // It says nothing about this one unless it is known to conflict, not covering it.
                let known = speaks_against(id, &candidate.batch, self.store.instances.get(*other));
                #[cfg(test)]
                let known = known.filter(|_| !hasty).or(hasty.then_some(true));
                match known {
                    Some(true) => {}
                    Some(false) => {
                        fx.hit(Path::UnknownHarmless);
                        *harmless = true;
                        continue;
                    }
                    None if self.store.instances.is_committed(*other) => {}
                    None => {
                        outcome = None;
                        continue;
                    }
                }
            }
            if let Some((value, deps)) = self.store.instances.get(*other).and_then(|i| i.decision())
            {
                if value.is_nop() || deps.covers(id) {
                    *harmless = true;
                    continue;
                }
                outcome = Some(Path::WaitingNop);
                break;
            }
            let votes = self.waiters.heard.get(other).copied().unwrap_or(0);
            if votes > 0 && must_yield(quorums, votes + slack) {
                outcome = Some(Path::WaitingYield);
                break;
            }
            outcome = None;
        }
        let Some(path) = outcome else { return };
        fx.hit(path);
        if path == Path::WaitingClean {
            let (value, deps) = (Value::Batch(candidate.batch.clone()), candidate.deps.clone());
            self.propose_recovered(view, id, value, deps, fx);
        } else {
            self.propose_nop(view, id, fx);
        }
    }
}
