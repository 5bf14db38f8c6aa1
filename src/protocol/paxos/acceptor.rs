//! The acceptor: promises and votes (§P2). It never takes either back, so both are recorded before
//! they are sent.

use std::collections::BTreeMap;

use super::{Message, Path, Record, Step};
use crate::protocol::log::Choice;
use crate::types::{Ballot, ReplicaId, Slot, Written};

/// The acceptor of every open slot.
///
/// Invariant: no slot that is decided here is in it.
#[derive(Debug, Default)]
pub(super) struct Acceptor {
    slots: BTreeMap<Slot, Promised>,
    /// Roughly how many bytes the votes take.
    bytes: usize,
}

/// One slot's acceptor.
#[derive(Debug, Default)]
struct Promised {
    /// The promised ballot: it takes part in no lower one.
    ballot: Ballot,
    vote: Option<(Ballot, Choice)>,
    /// The latest record of either.
    written: Written,
}

impl Acceptor {
    /// The promised ballot of a slot; `None` if it was never asked.
    pub(super) fn promised(&self, slot: Slot) -> Option<Ballot> {
        self.slots.get(&slot).map(|promised| promised.ballot)
    }

    pub(super) fn vote(&self, slot: Slot) -> Option<&Choice> {
        self.slots.get(&slot)?.vote.as_ref().map(|(_, choice)| choice)
    }

    fn promise(&mut self, slot: Slot, ballot: Ballot, written: Written) {
        let promised = self.slots.entry(slot).or_default();
        promised.ballot = promised.ballot.max(ballot);
        promised.written = written;
    }

    fn cast(&mut self, slot: Slot, ballot: Ballot, choice: Choice, written: Written) {
        self.promise(slot, ballot, written);
        let promised = self.slots.entry(slot).or_default();
        self.bytes += choice.weight();
        if let Some((_, old)) = promised.vote.replace((ballot, choice)) {
            self.bytes -= old.weight();
        }
    }

    /// The slot is decided.
    pub(super) fn forget(&mut self, slot: Slot) {
        let gone = self.slots.remove(&slot);
        if let Some((_, choice)) = gone.and_then(|promised| promised.vote) {
            self.bytes -= choice.weight();
        }
    }

    /// Everything up to `slot` is decided.
    pub(super) fn forget_to(&mut self, slot: Slot) {
        while let Some(first) = self.slots.first_entry() {
            let first = *first.key();
            if first > slot {
                return;
            }
            self.forget(first);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The records for a snapshot of this replica: every promise and vote.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.slots.iter().flat_map(|(slot, promised)| {
            let (slot, ballot) = (*slot, promised.ballot);
            let vote = promised.vote.clone();
            let vote = vote.map(|(ballot, choice)| Record::Voted { slot, ballot, choice });
            vote.into_iter().chain([Record::Promised { slot, ballot }])
        })
    }

    pub(super) fn restore_promise(&mut self, slot: Slot, ballot: Ballot) {
        self.promise(slot, ballot, Written::default());
    }

    pub(super) fn restore_vote(&mut self, slot: Slot, ballot: Ballot, choice: Choice) {
        self.cast(slot, ballot, choice, Written::default());
    }

    /// Phase 1b, in a slot in which it may vote.
    pub(super) fn on_prepare(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        slot: Slot,
        ballot: Ballot,
    ) {
        let promised = self.promised(slot).unwrap_or_default();
        if ballot < promised {
            reject(s, from, slot, promised);
            return;
        }
        if ballot > promised {
            let written = s.fx.append(Record::Promised { slot, ballot });
            self.promise(slot, ballot, written);
        }
        let promised = self.slots.get(&slot).expect("it has just promised");
        let vote = promised.vote.clone();
        s.fx.answer(promised.written, from, Message::Promise { slot, ballot, vote });
    }

    /// Phase 2b, in a slot in which it may vote. The vote goes to all learners, not only to the
    /// proposer, so that all replicas learn as early as possible. A replica that waits for
    /// another's slot to execute its own later one waits one message less. The cost is `n` small
    /// messages a vote.
    pub(super) fn on_accept(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        slot: Slot,
        ballot: Ballot,
        choice: Choice,
    ) {
        let promised = self.promised(slot).unwrap_or_default();
        if ballot < promised {
            reject(s, from, slot, promised);
            return;
        }
        let voted = self.slots.get(&slot).and_then(|promised| promised.vote.as_ref());
        if voted.is_none_or(|(voted, _)| *voted < ballot) {
            let written = s.fx.append(Record::Voted { slot, ballot, choice: choice.clone() });
            self.cast(slot, ballot, choice, written);
        }
        let written = self.slots.get(&slot).expect("it has voted").written;
        s.fx.send(written, s.cx.all(), Message::Accepted { slot, ballot });
    }
}

/// Whether the acceptor handles a proposer's message: the slot is open, and the sender leads the
/// ballot. If the slot is decided, the sender is told.
pub(super) fn may_vote(s: &mut Step<'_>, from: ReplicaId, slot: Slot, ballot: Ballot) -> bool {
    if ballot.is_owner() || ballot.leader(from) != from {
        return false;
    }
    if s.log.answer_decided(from, slot, s.fx) || !s.log.is_open(slot) {
        return false;
    }
    s.log.see(slot);
    true
}

fn reject(s: &mut Step<'_>, to: ReplicaId, slot: Slot, promised: Ballot) {
    s.fx.hit(Path::Rejected);
    s.fx.answer(Written::default(), to, Message::Rejected { slot, ballot: promised });
}
