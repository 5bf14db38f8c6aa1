//! Recover: a replica takes over an instance that its owner does not finish (protocol.md §5.1–§5.3,
//! §5.6). Before `validate` or `accept`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;

use super::accept::Proposal;
use super::decide::{Choice, decide_recovery};
use super::{EPaxos, Fx, Message, Phase, Record, Report, Standing};
use crate::protocol::{Path, View};
use crate::types::{Ballot, Batch, Deps, InstanceId, ReplicaId, ReplicaSet, Time, Value, Written};

/// A recovery led here, at one ballot.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) ballot: Ballot,
    pub(super) stage: Stage,
    /// When to send again what was not answered.
    pub(super) send_again: Time,
    /// When to give this ballot up and begin anew.
    pub(super) give_up: Time,
    /// Until then, hope for more than `n - f` promises.
    pub(super) hope_until: Time,
}

impl Recovery {
    /// Whether it needs an answer of one of these: all of a quorum have to answer Validate, so when
    /// one is gone, another quorum has to be found.
    fn waits_for_any(&self, suspected: ReplicaSet) -> bool {
        let Stage::Validating { candidate, answered, .. } = &self.stage else { return false };
        candidate.quorum.iter().any(|r| suspected.contains(r) && !answered.contains(r))
    }
}

/// How far a recovery is.
#[derive(Debug)]
pub(super) enum Stage {
    /// Counting promises.
    Collecting { replies: BTreeMap<ReplicaId, Report> },
    /// Asking what speaks against the fast path.
    Validating {
        candidate: Candidate,
        answered: ReplicaSet,
        interfering: BTreeMap<InstanceId, Standing>,
    },
    /// Waiting for how the interfering instances end.
    Waiting {
        candidate: Candidate,
        /// Each with whether it turned out harmless.
        pending: BTreeMap<InstanceId, bool>,
        /// Those of them that may not even conflict (protocol.md §7).
        unknown: BTreeSet<InstanceId>,
    },
    /// A value was proposed; the votes are counted with the instance.
    Accepting { value: Value, deps: Deps },
}

/// The value that the fast path may have decided, and who was asked.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) batch: Arc<Batch>,
    pub(super) deps: Deps,
    pub(super) fast_votes: usize,
    pub(super) quorum: ReplicaSet,
}

impl EPaxos {
    /// §5.1: joins a ballot of one's own above all seen, and asks for promises.
    pub(super) fn start_recovery(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        assert!(!self.store.instances.is_committed(id), "a decision needs no recovery: {id}");
        let me = self.cx.me();
        if self.store.instances.get(id).is_none() {
            fx.hit(Path::GapRecovered);
        }
        let instance = self.store.instances.entry(id);
        let again = instance.attempts > 0;
        instance.attempts += 1;
        let attempts = instance.attempts;
        let ballot = instance.ballot.next_for(me);
        instance.join(ballot);
        instance.written = fx.append(Record::Joined { id, ballot });
        let written = instance.written;
        fx.hit(if again { Path::RecoveryAgain } else { Path::Recovery });
        let trip = view.slowest_round_trip();
        let hope =
            if again { trip * 2 + self.cx.settings.timing.retransmit } else { Duration::ZERO };
        let recovery = Recovery {
            ballot,
            stage: Stage::Collecting { replies: BTreeMap::new() },
            send_again: view.now + self.cx.resend_after(view, 0),
            give_up: view.now + self.back_off(view, attempts) * 2,
            hope_until: view.now + hope,
        };
        self.recoveries.insert(id, recovery);
        fx.send(written, self.cx.all(), Message::Recover { id, ballot });
    }

    /// How long to leave an instance alone after the `attempts`-th try: random and growing, so that
    /// replicas that keep superseding each other come apart.
    pub(super) fn back_off(&mut self, view: &View, attempts: u32) -> Duration {
        // A round trip beyond a second is a queue or a fault, and passes sooner than it seems.
        let trip = view.slowest_round_trip().min(Duration::from_secs(1));
        let base = self.cx.settings.timing.retransmit * 2 + trip * 4;
        let longest = base * (1 << attempts.min(3));
        base + longest.mul_f64(self.rng.random::<f64>())
    }

    /// Another ballot is at work: a recovery led here below it is over, and its leader gets time.
    pub(super) fn yield_to(&mut self, view: &View, id: InstanceId, ballot: Ballot) {
        if self.recoveries.get(&id).is_some_and(|recovery| recovery.ballot < ballot) {
            self.recoveries.remove(&id);
            self.waiters.stop(id);
        }
        let attempts = self.store.instances.entry(id).attempts;
        let mut pause = self.back_off(view, attempts);
        if id.replica == self.cx.me() {
            // With the owner in its quorum a recovery is over at once: so the owner goes first.
            pause /= 4;
        }
        self.store.instances.entry(id).not_before = view.now + pause;
    }

    /// §5.2: a promise.
    pub(super) fn on_recover(
        &mut self,
        view: &View,
        from: ReplicaId,
        id: InstanceId,
        ballot: Ballot,
        fx: &mut Fx,
    ) {
        if ballot.is_owner() || from != ballot.leader(id.replica) {
            return;
        }
        if self.is_too_late(from, id, ballot, fx) {
            return;
        }
        let instance = self.store.instances.entry(id);
        if instance.ballot < ballot {
            instance.join(ballot);
            #[cfg(test)]
            super::plant::single_ballot(self.cx.rules.broken, instance, ballot);
            instance.written = fx.append(Record::Joined { id, ballot });
            self.yield_to(view, id, ballot);
        }
        #[cfg(test)]
        let silent = self.is_orphan(id) && !self.speaks_for_orphan_if_planted(from);
        #[cfg(not(test))]
        let silent = self.is_orphan(id);
        if silent {
            // protocol.md §7: what its owner says would be believed. It keeps the promise, though.
            return;
        }
        let instance = self.store.instances.entry(id);
        let promise = Message::RecoverOk { id, ballot, report: instance.report() };
        fx.answer(instance.written, from, promise);
    }

    /// §5.3: the leader counts promises.
    pub(super) fn on_recover_ok(
        &mut self,
        view: &View,
        from: ReplicaId,
        id: InstanceId,
        ballot: Ballot,
        report: Report,
        fx: &mut Fx,
    ) {
        let Some(recovery) = self.recoveries.get_mut(&id) else { return };
        let well_formed = report.phase < Phase::Committed
            && (report.phase != Phase::Accepted || report.value.is_some());
        if recovery.ballot != ballot || !well_formed {
            return;
        }
        match &mut recovery.stage {
            Stage::Collecting { replies } => {
                replies.insert(from, report);
                self.decide_collected(view, id, fx);
            }
            Stage::Waiting { candidate, .. } if !candidate.quorum.contains(from) => {
                self.settle_late(view, from, id, report, fx);
            }
            _ => {}
        }
    }

    /// Decides once there are enough promises: `n - f` at the first attempt, all that can be had at
    /// later ones (§5.6).
    pub(super) fn decide_collected(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        let quorums = self.cx.settings.quorums;
        let Some(recovery) = self.recoveries.get(&id) else { return };
        let Stage::Collecting { replies } = &recovery.stage else { return };
        let live = quorums.n - view.suspected.len();
        let hoping = view.now < recovery.hope_until && replies.len() < live;
        if replies.len() < quorums.slow() || hoping {
            return;
        }
        let choice = decide_recovery(quorums, id.replica, replies);
        let quorum = replies.keys().copied().collect();
        match choice {
            Choice::Adopt(value, deps) => {
                fx.hit(Path::RecoverAccepted);
                self.propose_recovered(view, id, value, deps, fx);
            }
            Choice::OwnerNop => {
                fx.hit(Path::RecoverOwnerNop);
                self.propose_nop(view, id, fx);
            }
            Choice::Nop => {
                fx.hit(Path::RecoverNop);
                self.propose_nop(view, id, fx);
            }
            Choice::Validate { batch, deps, fast_votes } => {
                fx.hit(Path::RecoverValidate);
                let candidate = Candidate { batch, deps, fast_votes, quorum };
                self.start_validate(view, id, candidate, fx);
            }
        }
    }

    /// A promise that came while waiting, from outside the quorum (§5.5).
    fn settle_late(
        &mut self,
        view: &View,
        from: ReplicaId,
        id: InstanceId,
        report: Report,
        fx: &mut Fx,
    ) {
        let accepted = report.value.filter(|_| report.phase == Phase::Accepted);
        if let Some((value, deps)) = accepted {
            fx.hit(Path::WaitingLate);
            self.propose_recovered(view, id, value, deps, fx);
        } else if from == id.replica {
            fx.hit(Path::WaitingLate);
            self.propose_nop(view, id, fx);
        }
    }

    /// Proposes nothing, covering nothing.
    pub(super) fn propose_nop(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        let deps = Deps::none(self.cx.n());
        self.propose_recovered(view, id, Value::Nop, deps, fx);
    }

    /// Accept at the recovery's ballot.
    pub(super) fn propose_recovered(
        &mut self,
        view: &View,
        id: InstanceId,
        value: Value,
        deps: Deps,
        fx: &mut Fx,
    ) {
        let resend = view.now + self.cx.resend_after(view, 0);
        let Some(recovery) = self.recoveries.get_mut(&id) else { return };
        let ballot = recovery.ballot;
        assert_eq!(self.store.instances.entry(id).ballot, ballot, "a led recovery has the ballot");
        recovery.stage = Stage::Accepting { value: value.clone(), deps: deps.clone() };
        recovery.send_again = resend;
        self.waiters.stop(id);
        self.start_accept(id, Proposal { ballot, value, deps }, fx);
    }

    /// The receiver of something of ours has joined a higher ballot.
    pub(super) fn on_reject(&mut self, view: &View, id: InstanceId, ballot: Ballot, fx: &mut Fx) {
        let Some(instance) = self.store.instances.get_mut(id) else { return };
        if instance.is_committed() || instance.ballot >= ballot {
            return;
        }
        fx.hit(Path::Rejected);
        // Knowing of a ballot is joining it: a next attempt of ours must be above it.
        instance.join(ballot);
        instance.written = fx.append(Record::Joined { id, ballot });
        self.yield_to(view, id, ballot);
    }

    /// Sends again what a recovery got no answer to, and gives up what takes too long.
    pub(super) fn drive_recoveries(&mut self, view: &View, fx: &mut Fx) {
        let now = view.now;
        let due: Vec<_> = self
            .recoveries
            .iter()
            .filter(|(_, r)| {
                let due = r.send_again <= now || r.give_up <= now || r.hope_until <= now;
                due || r.waits_for_any(view.suspected)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(recovery) = self.recoveries.get(&id) else { continue };
            let late = recovery.give_up <= now || recovery.waits_for_any(view.suspected);
            if late && !matches!(recovery.stage, Stage::Accepting { .. }) {
                self.waiters.stop(id);
                self.start_recovery(view, id, fx);
                continue;
            }
            self.decide_collected(view, id, fx);
            self.examine_waiting(view, id, fx);
            self.resend_recovery(view, id, fx);
        }
    }

    fn resend_recovery(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        let resend = view.now + self.cx.resend_after(view, 1);
        let all = self.cx.all();
        let Some(recovery) = self.recoveries.get_mut(&id) else { return };
        if recovery.send_again > view.now {
            return;
        }
        fx.hit(Path::Retransmit);
        recovery.send_again = resend;
        let ballot = recovery.ballot;
        let Some(instance) = self.store.instances.get(id) else { return };
        let written = instance.written;
        let missing = |answered: ReplicaSet| {
            all.iter().filter(|r| !answered.contains(*r)).collect::<ReplicaSet>()
        };
        match &recovery.stage {
            Stage::Collecting { replies } => {
                let answered = replies.keys().copied().collect();
                fx.send(written, missing(answered), Message::Recover { id, ballot });
            }
            Stage::Validating { candidate, answered, .. } => {
                let Candidate { batch, deps, .. } = candidate.clone();
                let to = missing(*answered);
                let to = to.iter().filter(|r| candidate.quorum.contains(*r)).collect();
                fx.send(written, to, Message::Validate { id, ballot, batch, deps });
            }
            Stage::Waiting { candidate, .. } => {
                let fast_votes = small(candidate.fast_votes);
                fx.send(Written::default(), all, Message::Waiting { id, fast_votes });
                fx.send(written, missing(candidate.quorum), Message::Recover { id, ballot });
            }
            Stage::Accepting { value, deps } => {
                let mut to = missing(instance.votes.1);
                to.remove(self.cx.settings.me);
                let (value, deps) = (value.clone(), deps.clone());
                fx.send(written, to, Message::Accept { id, ballot, value, deps });
            }
        }
    }
}

/// A number of votes as a message carries it.
pub(super) fn small(votes: usize) -> u8 {
    u8::try_from(votes).expect("there are fewer replicas than 256")
}
