//! Recovery: a replica takes over an instance that its owner does not finish (PROTOCOL.md §5). The
//! ballot, its promises, and the way from stage to stage are here, the choice in `decide`, the
//! stages and the question to the quorum in `stages`, the wait in `waiting`.
//!
//! A recovery ends in a [`Proposal`] at its own ballot, which it returns to its caller.

mod decide;
#[cfg(test)]
mod decide_tests;
mod stages;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;

use super::early_commit::EarlyCommit;
use super::instances::Proposal;
use super::step::Step;
use super::{Interfering, Message, Phase, Record, Report};
use crate::protocol::View;
use crate::protocol::epaxos::Path;
use crate::types::{Ballot, Deps, Executed, InstanceId, ReplicaId, Value, Written};

use decide::{Candidate, Choice, Verdict, decide_recovery};
use stages::{Recovery, Stage, Validating};
use waiting::{Outcome, Waiters, Waiting};

/// The recoveries led here.
///
/// Invariant: `led` holds exactly the recoveries whose ballot is still that of the instance.
#[derive(Debug, Default)]
pub(super) struct Recoveries {
    led: BTreeMap<InstanceId, Recovery>,
    waiters: Waiters,
}

impl Recoveries {
    /// Whether this replica leads a recovery of it.
    pub(super) fn is_led(&self, id: InstanceId) -> bool {
        self.led.contains_key(&id)
    }

    /// The number of recoveries led here.
    pub(super) fn len(&self) -> usize {
        self.led.len()
    }

    /// The ballot of the recovery of `id`.
    #[cfg(test)]
    pub(super) fn ballot_of(&self, id: InstanceId) -> Option<Ballot> {
        self.led.get(&id).map(|recovery| recovery.ballot)
    }

    /// §5.1: joins a ballot of its own above all seen, and asks for promises.
    pub(super) fn start(&mut self, s: &mut Step<'_>, id: InstanceId) {
        assert!(!s.store.instances.is_committed(id), "a decision needs no recovery: {id}");
        if s.store.instances.get(id).is_none() {
            s.fx.hit(Path::GapRecovered);
        }
        let instance = s.store.instances.entry(id);
        let again = instance.attempts > 0;
        instance.attempts += 1;
        let attempts = instance.attempts;
        let ballot = instance.ballot.next_for(s.cx.me());
        instance.join(ballot);
        instance.written = s.fx.append(Record::Joined { id, ballot });
        let written = instance.written;
        s.fx.hit(if again { Path::RecoveryAgain } else { Path::Recovery });
        let trip = s.view.slowest_round_trip();
        let hope = if again { trip * 2 + s.cx.timing().retransmit } else { Duration::ZERO };
        let recovery = Recovery {
            ballot,
            stage: Stage::Collecting { replies: BTreeMap::new() },
            send_again: s.view.now + s.cx.resend_after(s.view, 0),
            give_up: s.view.now + back_off(s, attempts) * 2,
            hope_until: s.view.now + hope,
        };
        self.led.insert(id, recovery);
        s.fx.send(written, s.cx.all(), Message::Recover { id, ballot });
    }

    /// Another ballot is in progress: ends a recovery led here below it, and leaves its leader
    /// time.
    pub(super) fn yield_to(
        &mut self,
        s: &mut Step<'_>,
        early: &EarlyCommit,
        id: InstanceId,
        ballot: Ballot,
    ) {
        if self.led.get(&id).is_some_and(|recovery| recovery.ballot < ballot) {
            self.end(id);
        }
        let attempts = s.store.instances.entry(id).attempts;
        let mut pause = back_off(s, attempts);
        if id.replica == s.cx.me() && !early.is_orphan(s.cx, s.store, id) {
            // With the owner in its quorum a recovery ends at once, so the owner goes first. The
            // owner of an orphan knows no more than the others, so it does not.
            pause /= 4;
        }
        s.store.instances.entry(id).not_before = s.view.now + pause;
    }

    /// The instance is decided, or has no quorum: ends a recovery of it that is led here.
    pub(super) fn end(&mut self, id: InstanceId) {
        if self.led.remove(&id).is_some() {
            self.waiters.stop(id);
        }
    }

    /// Ends all: instances in `decided` need none, and the others start again.
    pub(super) fn end_all(&mut self, decided: &Executed) {
        self.led.clear();
        self.waiters.stop_all(decided);
    }

    /// §5.3: the leader counts promises.
    pub(super) fn on_recover_ok(
        &mut self,
        s: &mut Step<'_>,
        early: &EarlyCommit,
        from: ReplicaId,
        id: InstanceId,
        ballot: Ballot,
        report: Report,
    ) -> Option<Proposal> {
        let recovery = self.led.get_mut(&id)?;
        let well_formed = report.phase < Phase::Committed
            && (report.phase != Phase::Accepted || report.value.is_some());
        if recovery.ballot != ballot || !well_formed {
            return None;
        }
        match &mut recovery.stage {
            Stage::Collecting { replies } => {
                replies.insert(from, report);
                self.decide_collected(s, early, id)
            }
            Stage::Waiting(waiting) if !waiting.candidate.quorum.contains(from) => {
                self.decide_late(s, from, id, report)
            }
            _ => None,
        }
    }

    /// Decides once there are enough promises: `n - f` at the first attempt, later as many as can
    /// be reached (§5.6).
    ///
    /// Deviation: it waits for more only if the quorum then has to answer Validate. Any other
    /// choice is an Accept, which needs `n - f` of all replicas, whichever promised.
    fn decide_collected(
        &mut self,
        s: &mut Step<'_>,
        early: &EarlyCommit,
        id: InstanceId,
    ) -> Option<Proposal> {
        let quorums = s.cx.quorums();
        let recovery = self.led.get(&id)?;
        let Stage::Collecting { replies } = &recovery.stage else { return None };
        if replies.len() < quorums.slow() {
            return None;
        }
        // An orphan's owner gives no promise, not even to itself.
        let silent = usize::from(early.is_orphan(s.cx, s.store, id));
        let live = quorums.n - s.view.suspected.len() - silent;
        let hoping = s.view.now < recovery.hope_until && replies.len() < live;
        let choice = decide_recovery(quorums, id.replica, replies);
        if hoping && matches!(choice, Choice::Validate { .. }) {
            return None;
        }
        let quorum = replies.keys().copied().collect();
        match choice {
            Choice::Adopt(value, deps) => {
                s.fx.hit(Path::RecoverAccepted);
                self.propose(s, id, value, deps)
            }
            Choice::OwnerNop => {
                s.fx.hit(Path::RecoverOwnerNop);
                self.propose_nop(s, id)
            }
            Choice::Nop => {
                s.fx.hit(Path::RecoverNop);
                self.propose_nop(s, id)
            }
            Choice::Validate { batch, deps, fast_votes } => {
                s.fx.hit(Path::RecoverValidate);
                let candidate = Candidate { batch, deps, fast_votes, quorum };
                self.start_validate(s, id, candidate)
            }
        }
    }

    /// A promise from outside the quorum that arrives in the Waiting stage (§5.5).
    fn decide_late(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        id: InstanceId,
        report: Report,
    ) -> Option<Proposal> {
        let accepted = report.value.filter(|_| report.phase == Phase::Accepted);
        if let Some((value, deps)) = accepted {
            s.fx.hit(Path::WaitingLate);
            self.propose(s, id, value, deps)
        } else if from == id.replica {
            s.fx.hit(Path::WaitingLate);
            self.propose_nop(s, id)
        } else {
            None
        }
    }

    /// §5.4: asks the quorum.
    fn start_validate(
        &mut self,
        s: &mut Step<'_>,
        id: InstanceId,
        candidate: Candidate,
    ) -> Option<Proposal> {
        if !s.cx.rules.fast_value_is_validated() {
            return self.propose(s, id, Value::Batch(candidate.batch), candidate.deps);
        }
        let recovery = self.led.get_mut(&id)?;
        recovery.send_again = s.view.now + s.cx.resend_after(s.view, 0);
        let validating = Validating::new(candidate);
        let written = s.store.instances.entry(id).written;
        s.fx.send(written, validating.missing(), validating.question(id, recovery.ballot));
        recovery.stage = Stage::Validating(validating);
        None
    }

    /// §5.5: counts answers; every member of the quorum has to answer.
    pub(super) fn on_validate_ok(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        id: InstanceId,
        ballot: Ballot,
        reported: &[Interfering],
    ) -> Option<Proposal> {
        let recovery = self.led.get_mut(&id).filter(|recovery| recovery.ballot == ballot)?;
        let Stage::Validating(validating) = &mut recovery.stage else { return None };
        let (verdict, interfering) = validating.count(s, id, from, reported)?;
        let candidate = validating.candidate.clone();
        match verdict {
            Verdict::Clean => {
                s.fx.hit(Path::ValidateClean);
                self.propose(s, id, Value::Batch(candidate.batch), candidate.deps)
            }
            Verdict::Committed => {
                s.fx.hit(Path::ValidateCommitted);
                self.propose_nop(s, id)
            }
            Verdict::OwnerOutside => {
                s.fx.hit(Path::ValidateOwnerOutside);
                self.propose_nop(s, id)
            }
            Verdict::Wait => {
                s.fx.hit(Path::Waiting);
                self.start_waiting(s, id, Waiting::new(candidate, &interfering))
            }
        }
    }

    /// §5.5, last case.
    fn start_waiting(
        &mut self,
        s: &mut Step<'_>,
        id: InstanceId,
        waiting: Waiting,
    ) -> Option<Proposal> {
        for other in waiting.others() {
            self.waiters.add(id, other);
            // The instance exists: this lets `watch` fetch its decision, or recover it.
            s.store.see(other.replica, other.slot);
        }
        let recovery = self.led.get_mut(&id)?;
        recovery.send_again = s.view.now + s.cx.resend_after(s.view, 0);
        // Votes and decisions end a mutual wait; a higher ballot does not. So allow much time.
        recovery.give_up = s.view.now + s.cx.timing().patience * 2;
        s.fx.send(Written::default(), s.cx.all(), waiting.announcement(id));
        recovery.stage = Stage::Waiting(waiting);
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
        let Stage::Waiting(waiting) = &recovery.stage else { return };
        let others: Vec<_> = waiting.others().collect();
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
    pub(super) fn on_waiting(
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
        self.waiters.heard(id, fast_votes)
    }

    /// `id` is decided. Returns the recoveries that waited for it; they must be re-examined.
    pub(super) fn waited_for(&mut self, id: InstanceId) -> BTreeSet<InstanceId> {
        self.waiters.decided(id)
    }

    /// Examines all instances that a recovery waits for.
    pub(super) fn examine(&mut self, s: &mut Step<'_>, id: InstanceId) -> Option<Proposal> {
        let recovery = self.led.get_mut(&id)?;
        let Stage::Waiting(waiting) = &mut recovery.stage else { return None };
        match waiting.examine(s, id, &self.waiters) {
            Outcome::Open => None,
            Outcome::Forgotten => {
                // New promises will tell.
                recovery.give_up = s.view.now;
                None
            }
            Outcome::Clean => {
                s.fx.hit(Path::WaitingClean);
                let Candidate { batch, deps, .. } = waiting.candidate.clone();
                self.propose(s, id, Value::Batch(batch), deps)
            }
            Outcome::Against(path) => {
                s.fx.hit(path);
                self.propose_nop(s, id)
            }
        }
    }

    /// Proposes `Nop` with no dependencies.
    fn propose_nop(&mut self, s: &Step<'_>, id: InstanceId) -> Option<Proposal> {
        self.propose(s, id, Value::Nop, Deps::none(s.cx.n()))
    }

    /// The proposal of a value at the recovery's ballot.
    fn propose(
        &mut self,
        s: &Step<'_>,
        id: InstanceId,
        value: Value,
        deps: Deps,
    ) -> Option<Proposal> {
        let recovery = self.led.get_mut(&id)?;
        let ballot = recovery.ballot;
        let joined = s.store.instances.get(id).map(|instance| instance.ballot);
        assert_eq!(joined, Some(ballot), "a led recovery has the ballot");
        recovery.stage = Stage::Accepting { value: value.clone(), deps: deps.clone() };
        recovery.send_again = s.view.now + s.cx.resend_after(s.view, 0);
        self.waiters.stop(id);
        Some(Proposal { ballot, value, deps })
    }

    /// The recoveries that may need action now.
    pub(super) fn due(&self, view: &View) -> Vec<InstanceId> {
        self.led.iter().filter(|(_, r)| r.is_due(view)).map(|(id, _)| *id).collect()
    }

    /// Restarts a recovery at a higher ballot if it takes too long; decides if it need not wait for
    /// more promises.
    pub(super) fn drive(
        &mut self,
        s: &mut Step<'_>,
        early: &EarlyCommit,
        id: InstanceId,
    ) -> Option<Proposal> {
        let recovery = self.led.get(&id)?;
        let late = recovery.give_up <= s.view.now || recovery.waits_for_any(s.view.suspected);
        if late && !matches!(recovery.stage, Stage::Accepting { .. }) {
            self.waiters.stop(id);
            self.start(s, id);
            return None;
        }
        self.decide_collected(s, early, id).or_else(|| self.examine(s, id))
    }

    /// Resends what was not answered.
    pub(super) fn resend(&mut self, s: &mut Step<'_>, id: InstanceId) {
        if let Some(recovery) = self.led.get_mut(&id) {
            recovery.resend(s, id);
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

/// How long to leave an instance alone after the `attempts`-th attempt. Random and growing, so that
/// replicas that keep superseding each other separate.
fn back_off(s: &mut Step<'_>, attempts: u32) -> Duration {
    // A round trip beyond a second is a queue or a fault, and usually passes soon.
    let trip = s.view.slowest_round_trip().min(Duration::from_secs(1));
    let base = s.cx.timing().retransmit * 2 + trip * 4;
    let longest = base * (1 << attempts.min(3));
    base + longest.mul_f64(s.rng.random::<f64>())
}
