//! Waiting: a recovery that cannot decide yet waits for the interfering instances to end, and
//! announces it. The announcement resolves two recoveries that wait for each other (PROTOCOL.md
//! §5.5).

use std::collections::{BTreeMap, BTreeSet};

use super::decide::{must_yield, speaks_against};
use super::{Candidate, Recoveries, Stage, back_off, small};
use crate::protocol::epaxos::instances::Proposal;
use crate::protocol::epaxos::step::Step;
use crate::protocol::epaxos::{Message, Path, Standing};
use crate::types::{Executed, InstanceId, ReplicaId, Value, Written};

/// Which recovery waits for which instances, and what waiting recoveries have announced.
///
/// Invariant: `waiting[x]` holds `id` only while `id` is under recovery here and in its Waiting
/// stage, and `x` is undecided here.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: BTreeMap<InstanceId, BTreeSet<InstanceId>>,
    /// The most fast votes that any recovery of an instance has announced. They are votes at the
    /// owner's ballot, so the number stays valid at every ballot.
    heard: BTreeMap<InstanceId, usize>,
}

impl Waiters {
    /// Ends all waits. Announcements about decided instances no longer matter.
    pub(super) fn stop_all(&mut self, decided: &Executed) {
        self.waiting.clear();
        self.heard.retain(|id, _| !decided.contains(*id));
    }

    /// Ends all waits of `id`.
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
            // The instance exists: this lets `watch` fetch its decision, or recover it.
            s.store.see(other.replica, other.slot);
        }
        let recovery = self.led.get_mut(&id)?;
        recovery.stage = Stage::Waiting { candidate, pending, unknown };
        recovery.send_again = s.view.now + s.cx.resend_after(s.view, 0);
        // Votes and decisions end a mutual wait; a higher ballot does not. So allow much time.
        recovery.give_up = s.view.now + s.cx.timing().patience * 2;
        s.fx.send(Written::default(), s.cx.all(), Message::Waiting { id, fast_votes });
        let proposal = self.examine(s, id);
        if proposal.is_none() {
            self.recover_interfering(s, id);
        }
        proposal
    }

    /// Starts a recovery of every instance waited for whose owner is suspected, unless one is
    /// running.
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

    /// A recovery announces that it waits, with the number of fast votes it counted. Returns the
    /// recoveries that wait for its instance; they must be re-examined.
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

    /// `id` is decided. Returns the recoveries that waited for it; they must be re-examined.
    pub(crate) fn waited_for(&mut self, id: InstanceId) -> BTreeSet<InstanceId> {
        self.waiters.heard.remove(&id);
        self.waiters.waiting.remove(&id).unwrap_or_default()
    }

    /// Examines all instances that a recovery waits for.
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
                    // New promises will tell.
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

/// The leader of a recovery announces that it waits, perhaps for long. A higher ballot would wait
/// for the same instances, so this replica leaves the leader time for two more announcements. It
/// does not if the leader is suspected: a leader that sends but receives nothing would wait for
/// ever.
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

/// The result of examining all instances that a recovery waits for.
enum Outcome {
    /// None of them speaks against the fast path.
    Clean,
    /// At least one is still open.
    Open,
    /// The fast path did not succeed.
    Against(Path),
}

/// What one instance says about the fast path of a recovery that waits for it.
enum Seen {
    Harmless,
    Open,
    /// This replica has forgotten how it ended.
    Forgotten,
    Against(Path),
}

/// Examines one instance that the recovery of `id` waits for (§5.5). `unknown`: it was reported as
/// of unknown payload. `heard`: the most fast votes that a recovery of it has announced.
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
        // It counts only once it is known to conflict and not to cover `id`.
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
