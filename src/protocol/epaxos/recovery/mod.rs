//! Recovery: a replica takes over an instance that its owner does not finish (PROTOCOL.md §5). In
//! order: the ballot and its promises are here, the choice in `decide`, the question to the quorum
//! in `validate`, the wait in `waiting`.
//!
//! A recovery ends in a [`Proposal`] at its own ballot, which it returns to its caller.

mod decide;
#[cfg(test)]
mod decide_tests;
mod validate;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;

use super::early_commit::EarlyCommit;
use super::instances::Proposal;
use super::step::Step;
use super::{Message, Phase, Record, Report, Standing};
use crate::protocol::View;
use crate::protocol::epaxos::Path;
use crate::types::{
    Ballot, Batch, Deps, Executed, InstanceId, ReplicaId, ReplicaSet, Time, Value, Written,
};

use decide::{Choice, decide_recovery};
use waiting::Waiters;

/// A recovery led here, at one ballot.
#[derive(Debug)]
struct Recovery {
    ballot: Ballot,
    stage: Stage,
    /// When to resend what was not answered.
    send_again: Time,
    /// When to give this ballot up and start again.
    give_up: Time,
    /// Until this time, wait for more than `n - f` promises.
    hope_until: Time,
}

impl Recovery {
    /// Whether it needs an answer from one of these. All members of a quorum have to answer
    /// Validate, so if one fails, another quorum has to be found.
    fn waits_for_any(&self, suspected: ReplicaSet) -> bool {
        let Stage::Validating { candidate, answered, .. } = &self.stage else { return false };
        candidate.quorum.iter().any(|r| suspected.contains(r) && !answered.contains(r))
    }
}

/// How far a recovery is.
#[derive(Debug)]
enum Stage {
    /// Counting promises.
    Collecting { replies: BTreeMap<ReplicaId, Report> },
    /// Asking what speaks against the fast path.
    Validating {
        candidate: Candidate,
        answered: ReplicaSet,
        interfering: BTreeMap<InstanceId, Standing>,
    },
    /// Waiting for the interfering instances to end.
    Waiting {
        candidate: Candidate,
        /// Each interfering instance, and whether it turned out harmless.
        pending: BTreeMap<InstanceId, bool>,
        /// Those of them that may not even conflict (PROTOCOL.md §7).
        unknown: BTreeSet<InstanceId>,
    },
    /// A value was proposed; its votes are counted in the instance.
    Accepting { value: Value, deps: Deps },
}

/// The value that the fast path may have decided, and the quorum that was asked.
#[derive(Clone, Debug)]
struct Candidate {
    batch: Arc<Batch>,
    deps: Deps,
    fast_votes: usize,
    quorum: ReplicaSet,
}

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
            Stage::Waiting { candidate, .. } if !candidate.quorum.contains(from) => {
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
        let now = view.now;
        let is_due = |r: &Recovery| {
            let due = r.send_again <= now || r.give_up <= now || r.hope_until <= now;
            due || r.waits_for_any(view.suspected)
        };
        self.led.iter().filter(|(_, r)| is_due(r)).map(|(id, _)| *id).collect()
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
        let resend = s.view.now + s.cx.resend_after(s.view, 1);
        let all = s.cx.all();
        let Some(recovery) = self.led.get_mut(&id) else { return };
        if recovery.send_again > s.view.now {
            return;
        }
        s.fx.hit(Path::Retransmit);
        recovery.send_again = resend;
        let ballot = recovery.ballot;
        let Some(instance) = s.store.instances.get(id) else { return };
        let written = instance.written;
        let missing = |answered: ReplicaSet| {
            all.iter().filter(|r| !answered.contains(*r)).collect::<ReplicaSet>()
        };
        match &recovery.stage {
            Stage::Collecting { replies } => {
                let answered = replies.keys().copied().collect();
                s.fx.send(written, missing(answered), Message::Recover { id, ballot });
            }
            Stage::Validating { candidate, answered, .. } => {
                let Candidate { batch, deps, .. } = candidate.clone();
                let to = missing(*answered);
                let to = to.iter().filter(|r| candidate.quorum.contains(*r)).collect();
                s.fx.send(written, to, Message::Validate { id, ballot, batch, deps });
            }
            Stage::Waiting { candidate, .. } => {
                let fast_votes = small(candidate.fast_votes);
                s.fx.send(Written::default(), all, Message::Waiting { id, fast_votes });
                s.fx.send(written, missing(candidate.quorum), Message::Recover { id, ballot });
            }
            Stage::Accepting { value, deps } => {
                let mut to = missing(instance.votes.1);
                to.remove(s.cx.me());
                let (value, deps) = (value.clone(), deps.clone());
                s.fx.send(written, to, Message::Accept { id, ballot, value, deps });
            }
        }
    }
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

/// A number of votes, as messages encode it.
fn small(votes: usize) -> u8 {
    u8::try_from(votes).expect("there are fewer replicas than 256")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::epaxos::step::Alone;
    use crate::types::Optimisations;

    fn replica(number: u8) -> ReplicaId {
        ReplicaId::new(number).expect("a number")
    }

    /// Replica 1 of three recovers an instance of replica 3.
    fn started() -> (Alone, Recoveries, InstanceId, Ballot) {
        let (mut alone, mut recoveries) =
            (Alone::new(3, Optimisations::NONE), Recoveries::default());
        let id = InstanceId::new(replica(3), 1);
        recoveries.start(&mut alone.step(), id);
        let ballot = recoveries.ballot_of(id).expect("it was started");
        (alone, recoveries, id, ballot)
    }

    fn promise(
        alone: &mut Alone,
        recoveries: &mut Recoveries,
        id: InstanceId,
        from: u8,
        ballot: Ballot,
    ) -> Option<Proposal> {
        let (accepted, value, initial) = (Ballot::OWNER, None, None);
        let report = Report { phase: Phase::Initial, accepted, value, initial };
        recoveries.on_recover_ok(
            &mut alone.step(),
            &EarlyCommit::new(),
            replica(from),
            id,
            ballot,
            report,
        )
    }

    #[test]
    fn a_quorum_that_knows_nothing_makes_it_a_nop_at_the_ballot_asked_for() {
        let (mut alone, mut recoveries, id, ballot) = started();
        let asked = alone.said();
        assert_eq!(asked, [(vec![1, 2, 3], Message::Recover { id, ballot })]);
        assert!(promise(&mut alone, &mut recoveries, id, 1, ballot).is_none(), "no quorum yet");
        assert!(promise(&mut alone, &mut recoveries, id, 1, ballot).is_none(), "counted once");
        let below = Ballot::OWNER;
        assert!(promise(&mut alone, &mut recoveries, id, 2, below).is_none(), "another ballot");
        let proposal = promise(&mut alone, &mut recoveries, id, 2, ballot).expect("a quorum");
        assert_eq!((proposal.ballot, proposal.value), (ballot, Value::Nop));
        assert!(promise(&mut alone, &mut recoveries, id, 3, ballot).is_none(), "it has proposed");
    }

    #[test]
    fn a_higher_ballot_ends_it_and_a_lower_one_does_not() {
        let (mut alone, mut recoveries, id, ballot) = started();
        recoveries.yield_to(&mut alone.step(), &EarlyCommit::new(), id, ballot);
        assert!(recoveries.is_led(id), "its own ballot");
        let higher = ballot.next_for(replica(2));
        recoveries.yield_to(&mut alone.step(), &EarlyCommit::new(), id, higher);
        assert!(!recoveries.is_led(id));
        let instance = alone.core.store.instances.get(id).expect("it was recovered");
        assert!(instance.not_before > alone.view.now, "the other one gets time");
        assert!(promise(&mut alone, &mut recoveries, id, 2, ballot).is_none());
    }

    #[test]
    fn what_takes_too_long_begins_again_above_its_ballot() {
        let (mut alone, mut recoveries, id, ballot) = started();
        assert!(recoveries.due(&alone.view).contains(&id), "a first attempt hopes for nothing");
        assert!(recoveries.drive(&mut alone.step(), &EarlyCommit::new(), id).is_none());
        assert_eq!(recoveries.ballot_of(id), Some(ballot), "it has its time");
        alone.view.now = alone.view.now + Duration::from_secs(60);
        assert_eq!(recoveries.due(&alone.view), [id]);
        assert!(recoveries.drive(&mut alone.step(), &EarlyCommit::new(), id).is_none());
        assert!(recoveries.ballot_of(id).is_some_and(|again| again > ballot));
    }
}
