//! A recovery that is led here, at one ballot: its stage, and what it resends.

use std::collections::BTreeMap;

use super::validate::Validating;
use super::waiting::Waiting;
use crate::protocol::View;
use crate::protocol::epaxos::step::Step;
use crate::protocol::epaxos::{Message, Path, Report};
use crate::types::{Ballot, Deps, InstanceId, ReplicaId, ReplicaSet, Time, Value, Written};

/// A recovery led here, at one ballot.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) ballot: Ballot,
    pub(super) stage: Stage,
    /// When to resend what was not answered.
    pub(super) send_again: Time,
    /// When to give this ballot up and start again.
    pub(super) give_up: Time,
    /// Until this time, wait for more than `n - f` promises.
    pub(super) hope_until: Time,
}

/// How far a recovery is.
#[derive(Debug)]
pub(super) enum Stage {
    /// Counting promises.
    Collecting { replies: BTreeMap<ReplicaId, Report> },
    /// Asking what speaks against the fast path.
    Validating(Validating),
    /// Waiting for the interfering instances to end.
    Waiting(Waiting),
    /// A value was proposed; its votes are counted in the instance.
    Accepting { value: Value, deps: Deps },
}

impl Recovery {
    /// Whether it may need action now.
    pub(super) fn is_due(&self, view: &View) -> bool {
        let now = view.now;
        let due = self.send_again <= now || self.give_up <= now || self.hope_until <= now;
        due || self.waits_for_any(view.suspected)
    }

    /// Whether it needs an answer from one of these. All members of a quorum have to answer
    /// Validate, so if one fails, another quorum has to be found.
    pub(super) fn waits_for_any(&self, suspected: ReplicaSet) -> bool {
        let Stage::Validating(validating) = &self.stage else { return false };
        validating.missing().iter().any(|r| suspected.contains(r))
    }

    /// Resends what was not answered.
    pub(super) fn resend(&mut self, s: &mut Step<'_>, id: InstanceId) {
        if self.send_again > s.view.now {
            return;
        }
        s.fx.hit(Path::Retransmit);
        self.send_again = s.view.now + s.cx.resend_after(s.view, 1);
        let (all, ballot) = (s.cx.all(), self.ballot);
        let Some(instance) = s.store.instances.get(id) else { return };
        let written = instance.written;
        let missing = |answered: ReplicaSet| {
            all.iter().filter(|r| !answered.contains(*r)).collect::<ReplicaSet>()
        };
        match &self.stage {
            Stage::Collecting { replies } => {
                let answered = replies.keys().copied().collect();
                s.fx.send(written, missing(answered), Message::Recover { id, ballot });
            }
            Stage::Validating(validating) => {
                s.fx.send(written, validating.missing(), validating.question(id, ballot));
            }
            Stage::Waiting(waiting) => {
                s.fx.send(Written::default(), all, waiting.announcement(id));
                let to = missing(waiting.candidate.quorum);
                s.fx.send(written, to, Message::Recover { id, ballot });
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
