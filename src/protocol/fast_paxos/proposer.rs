//! The proposer: sends its values to all acceptors, or in a classic ballot to the coordinator, and
//! resends each until it is decided. A value that loses its slot is resent at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Message, Path, Round, Step};
use crate::protocol::log::Choice;
use crate::types::{Ballot, Batch, InstanceId, ReplicaId, ReplicaSet, Slot, Time, Value};

/// How many values are resent at a time.
const AGAIN_AT_ONCE: usize = 64;

/// This replica's values, and where to send them.
#[derive(Debug, Default)]
pub(super) struct Proposer {
    own: BTreeMap<InstanceId, Own>,
    /// The last open ballot heard of, and whether it is fast.
    mode: Option<(Ballot, bool)>,
}

/// A value not known to be decided.
#[derive(Debug)]
struct Own {
    batch: Arc<Batch>,
    /// When it was last sent.
    sent: Time,
    /// The open slots in which an acceptor has voted for it.
    slots: BTreeSet<Slot>,
}

impl Proposer {
    pub(super) fn undecided(&self) -> usize {
        self.own.len()
    }

    /// The last open ballot heard of, and whether it is fast.
    pub(super) fn mode(&self) -> Option<(Ballot, bool)> {
        self.mode
    }

    /// The presumed coordinator.
    pub(super) fn coordinator(&self, me: ReplicaId) -> Option<ReplicaId> {
        self.mode.map(|(ballot, _)| ballot.leader(me))
    }

    /// The choice with the name of a value of this replica.
    pub(super) fn choice_of(&self, name: InstanceId) -> Option<Choice> {
        let own = self.own.get(&name)?;
        Some(Choice { proposal: name, value: Value::Batch(own.batch.clone()) })
    }

    /// A snapshot was installed. Own values may or may not be in it; the caller proposes them
    /// again.
    pub(super) fn let_own_go(&mut self) {
        self.own.clear();
    }

    pub(super) fn propose(&mut self, s: &mut Step<'_>, batch: Arc<Batch>) -> InstanceId {
        let name = s.reserve.name(s.fx);
        let own = Own { batch, sent: s.view.now, slots: BTreeSet::new() };
        self.own.insert(name, own);
        self.send(s, name);
        name
    }

    fn send(&mut self, s: &mut Step<'_>, name: InstanceId) {
        let Some((ballot, is_fast)) = self.mode else { return };
        let Some(own) = self.own.get_mut(&name) else { return };
        own.sent = s.view.now;
        let choice = Choice { proposal: name, value: Value::Batch(own.batch.clone()) };
        let to = if is_fast {
            s.cx.all()
        } else {
            s.fx.hit(Path::Forwarded);
            ReplicaSet::from_iter([ballot.leader(s.cx.me())])
        };
        s.fx.send(s.reserve.written(), to, Message::Propose { choice });
    }

    /// A ballot is open: sends the values that waited for one, and resends those sent in another.
    pub(super) fn note_mode(&mut self, s: &mut Step<'_>, ballot: Ballot, is_fast: bool) {
        if self.mode == Some((ballot, is_fast)) {
            return;
        }
        self.mode = Some((ballot, is_fast));
        // This ballot's coordinator may decide values voted for in another ballot, so those are
        // resent later.
        let unplaced = self.own.iter().filter(|(_, own)| own.slots.is_empty());
        let names: Vec<InstanceId> = unplaced.map(|(name, _)| *name).collect();
        names.into_iter().for_each(|name| self.send(s, name));
    }

    /// An acceptor has voted for a value of this replica.
    pub(super) fn see(&mut self, slot: Slot, round: Round, name: InstanceId) {
        let is_current = self.mode.is_some_and(|(ballot, _)| round.ballot >= ballot);
        if let Some(own) = self.own.get_mut(&name).filter(|_| is_current) {
            own.slots.insert(slot);
        }
    }

    /// A slot is decided: a value of this replica is decided or has lost the slot.
    pub(super) fn on_decided(
        &mut self,
        s: &mut Step<'_>,
        slot: Slot,
        name: InstanceId,
        is_fast: bool,
    ) {
        if self.own.remove(&name).is_some() {
            s.fx.own_commits.push((name, is_fast));
        }
        let lost = self.own.iter_mut().filter_map(|(name, own)| {
            (own.slots.remove(&slot) && own.slots.is_empty()).then_some(*name)
        });
        let lost: Vec<InstanceId> = lost.collect();
        for name in lost {
            s.fx.hit(Path::Lost);
            self.send(s, name);
        }
    }

    /// Time passed: resends values that are not decided after a while.
    pub(super) fn drive(&mut self, s: &mut Step<'_>) {
        let again = s.cx.retransmit_after(s.view);
        let late = self.own.iter().filter(|(_, own)| s.view.now.since(own.sent) >= again);
        let late: Vec<InstanceId> = late.map(|(name, _)| *name).take(AGAIN_AT_ONCE).collect();
        for name in late {
            s.fx.hit(Path::Retransmit);
            self.send(s, name);
        }
    }
}
