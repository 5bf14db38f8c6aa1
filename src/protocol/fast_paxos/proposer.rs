//! The proposer: sends its values to all acceptors, or to the coordinator if the round is classic,
//! and again until each is decided. A value that loses its slot to another is sent again at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{FastPaxos, Fx, Message, Round};
use crate::protocol::log::Choice;
use crate::protocol::{Path, View};
use crate::types::{Ballot, Batch, InstanceId, ReplicaId, ReplicaSet, Slot, Time, Value};

/// How many values are sent again at a time.
const AGAIN_AT_ONCE: usize = 64;

/// The own values, and where they go.
#[derive(Debug, Default)]
pub(super) struct Proposer {
    own: BTreeMap<InstanceId, Own>,
    /// The open ballot that was last heard of, and whether it is fast.
    pub(super) mode: Option<(Ballot, bool)>,
}

/// A value that is not decided as far as is known here.
#[derive(Debug)]
struct Own {
    batch: Arc<Batch>,
    /// When it was last sent.
    sent: Time,
    /// The open slots in which somebody has voted for it.
    slots: BTreeSet<Slot>,
}

impl Proposer {
    pub(super) fn undecided(&self) -> usize {
        self.own.len()
    }

    /// A snapshot was installed. Own values may be in it or not: whoever installed it proposes them
    /// again.
    pub(super) fn let_own_go(&mut self) {
        self.own.clear();
    }
}

impl FastPaxos {
    pub(super) fn start_own(&mut self, view: &View, batch: Arc<Batch>, fx: &mut Fx) -> InstanceId {
        let name = self.reserve.name(fx);
        let own = Own { batch, sent: view.now, slots: BTreeSet::new() };
        self.proposer.own.insert(name, own);
        self.send_own(view, name, fx);
        name
    }

    pub(super) fn own_batch(&self, name: InstanceId) -> Option<Arc<Batch>> {
        self.proposer.own.get(&name).map(|own| own.batch.clone())
    }

    fn send_own(&mut self, view: &View, name: InstanceId, fx: &mut Fx) {
        let Some((ballot, is_fast)) = self.proposer.mode else { return };
        let all = self.all();
        let Some(own) = self.proposer.own.get_mut(&name) else { return };
        own.sent = view.now;
        let choice = Choice { proposal: name, value: Value::Batch(own.batch.clone()) };
        let to = if is_fast {
            all
        } else {
            fx.hit(Path::FastForwarded);
            ReplicaSet::from_iter([ballot.leader(self.settings.me)])
        };
        fx.send(self.reserve.written(), to, Message::Propose { choice });
    }

    /// A ballot is open: what waited for one goes out, and what was sent in another goes again.
    pub(super) fn note_mode(&mut self, view: &View, ballot: Ballot, is_fast: bool, fx: &mut Fx) {
        if self.proposer.mode == Some((ballot, is_fast)) {
            return;
        }
        self.proposer.mode = Some((ballot, is_fast));
        // What was voted for in another ballot may be decided by this one's coordinator: a moment
        // later is soon enough for those.
        let unplaced = self.proposer.own.iter().filter(|(_, own)| own.slots.is_empty());
        let names: Vec<InstanceId> = unplaced.map(|(name, _)| *name).collect();
        names.into_iter().for_each(|name| self.send_own(view, name, fx));
    }

    /// Somebody has voted for an own value.
    pub(super) fn see_own(&mut self, slot: Slot, round: Round, name: InstanceId) {
        let is_current = self.proposer.mode.is_some_and(|(ballot, _)| round.ballot >= ballot);
        if let Some(own) = self.proposer.own.get_mut(&name).filter(|_| is_current) {
            own.slots.insert(slot);
        }
    }

    /// A slot is decided: an own value is done, or has lost.
    pub(super) fn note_own_decided(
        &mut self,
        view: &View,
        slot: Slot,
        choice: &Choice,
        is_fast: bool,
        fx: &mut Fx,
    ) {
        let name = choice.proposal;
        if self.proposer.own.remove(&name).is_some() {
            fx.own_commits.push((name, is_fast));
        }
        let lost = self.proposer.own.iter_mut().filter_map(|(name, own)| {
            (own.slots.remove(&slot) && own.slots.is_empty()).then_some(*name)
        });
        let lost: Vec<InstanceId> = lost.collect();
        for name in lost {
            fx.hit(Path::FastLost);
            self.send_own(view, name, fx);
        }
    }

    /// Time passed: what is not decided for long goes out again.
    pub(super) fn drive_own(&mut self, view: &View, fx: &mut Fx) {
        let again = self.retransmit_after(view);
        let late = self.proposer.own.iter().filter(|(_, own)| view.now.since(own.sent) >= again);
        let late: Vec<InstanceId> = late.map(|(name, _)| *name).take(AGAIN_AT_ONCE).collect();
        for name in late {
            fx.hit(Path::Retransmit);
            self.send_own(view, name, fx);
        }
    }

    /// Whom proposers of this replica take for the coordinator.
    pub(super) fn coordinator_now(&self) -> Option<ReplicaId> {
        self.proposer.mode.map(|(ballot, _)| ballot.leader(self.settings.me))
    }
}
