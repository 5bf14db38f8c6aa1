//! Waiting: a recovery that cannot tell yet waits for how the interfering instances end, and says
//! so, which lets two recoveries that wait for each other come apart (PROTOCOL.md §5.5).

use std::collections::{BTreeMap, BTreeSet};

use super::decide::{must_yield, speaks_against};
use super::{Candidate, Recoveries, Stage, back_off, small};
use crate::protocol::Path;
use crate::protocol::epaxos::instances::Proposal;
use crate::protocol::epaxos::step::Step;
use crate::protocol::epaxos::{Message, Standing};
use crate::types::{Executed, InstanceId, ReplicaId, Value, Written};

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

impl Recoveries {
    /// §5.5, last case.
    pub(super) fn start_waiting(
        &mut self,
        s: &mut Step<'_>,
        id: InstanceId,
        candidate: Candidate,
        interfering: &BTreeMap<InstanceId, Standing>,
    ) -> Option<Proposal> {
        let fast_votes = small(candidate.fast_votes);
        let pending: BTreeMap<_, _> = interfering.keys().map(|other| (*other, false)).collect();
        let unknown = interfering.iter().filter(|(_, standing)| **standing == Standing::Unknown);
        let unknown = unknown.map(|(other, _)| *other).collect();
        for other in pending.keys() {
            self.waiters.waiting.entry(*other).or_default().insert(id);
            // It exists, so its decision will be asked for, and recovered if need be.
            s.store.see(other.replica, other.slot);
        }
        let recovery = self.led.get_mut(&id)?;
        recovery.stage = Stage::Waiting { candidate, pending, unknown };
        recovery.send_again = s.view.now + s.cx.resend_after(s.view, 0);
        // The mutual wait ends by votes and decisions, not by a higher ballot: be patient.
        recovery.give_up = s.view.now + s.cx.timing().patience * 2;
        s.fx.send(Written::default(), s.cx.all(), Message::Waiting { id, fast_votes });
        let proposal = self.examine(s, id);
        if proposal.is_none() {
            self.recover_interfering(s, id);
        }
        proposal
    }

    /// Sees that every instance waited for gets recovered, unless somebody is at it.
    fn recover_interfering(&mut self, s: &mut Step<'_>, id: InstanceId) {
        let Some(recovery) = self.led.get(&id) else { return };
        let Stage::Waiting { pending, .. } = &recovery.stage else { return };
        let others: Vec<_> = pending.keys().copied().collect();
        for other in others {
            let suspected = s.view.suspected.contains(other.replica);
            let idle = !self.is_led(other) && !s.store.is_stale(other);
            if suspected && idle && !s.store.instances.is_committed(other) {
                let instance = s.store.instances.entry(other);
                if instance.not_before <= s.view.now {
                    self.start(s, other);
                }
            }
        }
    }

    /// A recovery says that it waits, and how many fast votes it counted. Those that wait for its
    /// instance have to look again; they are returned.
    pub(crate) fn on_waiting(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        id: InstanceId,
        fast_votes: usize,
    ) -> BTreeSet<InstanceId> {
        s.store.see(id.replica, id.slot);
        if s.store.instances.is_committed(id) {
            return BTreeSet::new();
        }
        leave_to_leader(s, from, id);
        let heard = self.waiters.heard.entry(id).or_default();
        *heard = (*heard).max(fast_votes);
        self.waiters.waiting.get(&id).cloned().unwrap_or_default()
    }

    /// `id` is decided. Those that waited for it have to look again; they are returned.
    pub(crate) fn waited_for(&mut self, id: InstanceId) -> BTreeSet<InstanceId> {
        self.waiters.heard.remove(&id);
        self.waiters.waiting.remove(&id).unwrap_or_default()
    }

    /// Looks at everything a recovery waits for.
    pub(crate) fn examine(&mut self, s: &mut Step<'_>, id: InstanceId) -> Option<Proposal> {
        let recovery = self.led.get_mut(&id)?;
        let Stage::Waiting { candidate, pending, unknown } = &mut recovery.stage else {
            return None;
        };
        let mut outcome = Outcome::Clean;
        for (other, harmless) in pending.iter_mut().filter(|(_, harmless)| !**harmless) {
            let heard = self.waiters.heard.get(other).copied().unwrap_or(0);
            match look_at(s, id, candidate, *other, unknown.contains(other), heard) {
                Seen::Harmless => *harmless = true,
                Seen::Open => outcome = Outcome::Open,
                Seen::Forgotten => {
                    // Promises asked for anew will tell.
                    outcome = Outcome::Open;
                    recovery.give_up = s.view.now;
                    break;
                }
                Seen::Against(path) => {
                    outcome = Outcome::Against(path);
                    break;
                }
            }
        }
        match outcome {
            Outcome::Open => None,
            Outcome::Clean => {
                s.fx.hit(Path::WaitingClean);
                let (value, deps) = (Value::Batch(candidate.batch.clone()), candidate.deps.clone());
                self.propose(s, id, value, deps)
            }
            Outcome::Against(path) => {
                s.fx.hit(path);
                self.propose_nop(s, id)
            }
        }
    }
}

/// The leader of a recovery says that it waits, maybe for long. A higher ballot would have to wait
/// for the same, so the leader gets time until it can have said so twice again. Not one that is
/// suspected: it may be heard and hear nothing, and would wait for ever.
fn leave_to_leader(s: &mut Step<'_>, from: ReplicaId, id: InstanceId) {
    let Some(instance) = s.store.instances.get(id) else { return };
    let (ballot, attempts) = (instance.ballot, instance.attempts);
    let leads = !ballot.is_owner() && ballot.leader(id.replica) == from;
    if !leads || from == s.cx.me() || s.view.suspected.contains(from) {
        return;
    }
    let pause = s.cx.resend_after(s.view, 1) * 2 + back_off(s, attempts);
    s.store.instances.entry(id).not_before = s.view.now + pause;
}

/// What all that a recovery waits for says together.
enum Outcome {
    /// Nothing of it speaks against the fast path.
    Clean,
    /// It depends on what is still open.
    Open,
    /// The fast path did not happen.
    Against(Path),
}

/// What one instance that a recovery waits for says about its fast path.
enum Seen {
    Harmless,
    Open,
    /// How it ended is forgotten here.
    Forgotten,
    Against(Path),
}

/// Looks at one instance that the recovery of `id` waits for (§5.5). `unknown`: it was reported as
/// of unknown payload. `heard`: the most fast votes that a recovery of it has claimed.
fn look_at(
    s: &mut Step<'_>,
    id: InstanceId,
    candidate: &Candidate,
    other: InstanceId,
    unknown: bool,
    heard: usize,
) -> Seen {
    match s.store.dropped_conflict(other, candidate.batch.footprint()) {
        Some(true) => return Seen::Against(Path::WaitingNop),
        Some(false) => return Seen::Harmless,
        None if s.store.instances.is_trimmed(other) => return Seen::Forgotten,
        None => {}
    }
    let instance = s.store.instances.get(other);
    if unknown {
        // It says nothing about this one unless it is known to conflict, not covering it.
        let known = match s.cx.rules.unknown_says_nothing() {
            true => speaks_against(id, &candidate.batch, instance),
            false => Some(true),
        };
        match known {
            Some(true) => {}
            Some(false) => {
                s.fx.hit(Path::UnknownHarmless);
                return Seen::Harmless;
            }
            None if s.store.instances.is_committed(other) => {}
            None => return Seen::Open,
        }
    }
    if let Some((value, deps)) = instance.and_then(|instance| instance.decision()) {
        if value.is_nop() || deps.covers(id) {
            return Seen::Harmless;
        }
        return Seen::Against(Path::WaitingNop);
    }
    let votes = heard + usize::from(!s.cx.rules.yields_to_enough_votes());
    if heard > 0 && must_yield(s.cx.quorums(), votes) {
        return Seen::Against(Path::WaitingYield);
    }
    Seen::Open
}
