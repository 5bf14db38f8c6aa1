//! The acceptor's memory: its promise, its votes, and what it has seen of others' votes.

use std::collections::BTreeMap;

use super::{Record, Round};
use crate::protocol::log::Choice;
use crate::types::{Ballot, InstanceId, Slot, Time, Written};

/// One vote.
#[derive(Debug)]
pub(super) struct Vote {
    pub(super) round: Round,
    pub(super) choice: Choice,
    pub(super) written: Written,
}

/// The acceptor's state.
///
/// Invariants:
///
/// 1. No vote is in a higher ballot than `promised`.
/// 2. No slot that is decided here is in `slots` or `hints`.
/// 3. Every name in `placed` is voted for in that slot.
#[derive(Debug, Default)]
pub(super) struct Votes {
    promised: Ballot,
    /// The ballot in which it may vote for what proposers send, and the first such slot. Lost in a
    /// restart; the coordinator repeats it.
    open: Option<(Ballot, Slot)>,
    slots: BTreeMap<Slot, Vote>,
    placed: BTreeMap<InstanceId, Slot>,
    /// The first vote seen of others in the open ballot, for slots that are free here.
    hints: BTreeMap<Slot, InstanceId>,
    /// When votes were last repeated.
    repeated: Time,
    /// Roughly how many bytes the votes take.
    bytes: usize,
}

impl Votes {
    pub(super) fn promised(&self) -> Ballot {
        self.promised
    }

    /// The ballot in which it may vote for what proposers send, and the first such slot.
    pub(super) fn open(&self) -> Option<(Ballot, Slot)> {
        self.open
    }

    /// The coordinator says that the joined ballot is open; if it is fast, from slot `first` on.
    pub(super) fn note_open(&mut self, ballot: Ballot, first: Option<Slot>) {
        self.open = first.map(|first| (ballot, first));
    }

    /// When votes were last repeated.
    pub(super) fn repeated(&self) -> Time {
        self.repeated
    }

    pub(super) fn repeat_now(&mut self, now: Time) {
        self.repeated = now;
    }

    pub(super) fn vote(&self, slot: Slot) -> Option<&Vote> {
        self.slots.get(&slot)
    }

    /// The last vote for a proposal, in an open slot.
    pub(super) fn vote_for(&self, name: InstanceId) -> Option<(Slot, &Vote)> {
        let slot = self.placed.get(&name)?;
        Some((*slot, self.slots.get(slot)?))
    }

    /// The votes above a slot, in ascending order.
    pub(super) fn above(&self, slot: Slot) -> impl Iterator<Item = (Slot, &Vote)> {
        self.slots.range(slot + 1..).map(|(slot, vote)| (*slot, vote))
    }

    /// Joins a ballot; what was open or hinted at in a lower one ends.
    pub(super) fn join(&mut self, ballot: Ballot) {
        if ballot > self.promised {
            self.promised = ballot;
            self.open = None;
            self.hints.clear();
        }
    }

    pub(super) fn cast(&mut self, slot: Slot, round: Round, choice: Choice, written: Written) {
        self.join(round.ballot);
        self.hints.remove(&slot);
        self.forget(slot);
        self.bytes += choice.weight();
        self.placed.insert(choice.proposal, slot);
        self.slots.insert(slot, Vote { round, choice, written });
    }

    /// Whether it has not voted in this slot in the current ballot.
    pub(super) fn is_free(&self, slot: Slot) -> bool {
        self.slots.get(&slot).is_none_or(|vote| vote.round.ballot < self.promised)
    }

    /// Another acceptor voted for a proposal. Notes the slot, if this one may vote there.
    pub(super) fn hint(&mut self, slot: Slot, round: Round, name: InstanceId) {
        let may_vote = |(open, first)| Round::anybodys(open) == round && first <= slot;
        if self.open.is_some_and(may_vote) && self.is_free(slot) {
            self.hints.entry(slot).or_insert(name);
        }
    }

    /// The choice with this name, if it has voted for it: in that slot, or else in any.
    pub(super) fn choice_of(&self, slot: Slot, name: InstanceId) -> Option<&Choice> {
        let voted = self.vote(slot).filter(|vote| vote.choice.proposal == name);
        let voted = voted.or_else(|| self.vote_for(name).map(|(_, vote)| vote));
        voted.map(|vote| &vote.choice)
    }

    /// The slot in which others have voted for a proposal.
    pub(super) fn hinted(&self, name: InstanceId) -> Option<Slot> {
        self.hints.iter().find(|(_, hinted)| **hinted == name).map(|(slot, _)| *slot)
    }

    pub(super) fn is_hinted(&self, slot: Slot) -> bool {
        self.hints.contains_key(&slot)
    }

    /// The slot is decided, or gets another vote.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.hints.remove(&slot);
        if let Some(vote) = self.slots.remove(&slot) {
            self.bytes -= vote.choice.weight();
            if self.placed.get(&vote.choice.proposal) == Some(&slot) {
                self.placed.remove(&vote.choice.proposal);
            }
        }
    }

    /// Everything up to `slot` is decided.
    pub(super) fn forget_to(&mut self, slot: Slot) {
        while let Some(first) = self.slots.first_key_value().map(|(first, _)| *first) {
            if first > slot {
                break;
            }
            self.forget(first);
        }
        self.hints = self.hints.split_off(&(slot + 1));
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The records for a snapshot of this replica.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let promise = Record::Promised { ballot: self.promised };
        let promise = (!self.promised.is_owner()).then_some(promise);
        promise.into_iter().chain(self.slots.iter().map(|(slot, vote)| Record::Voted {
            slot: *slot,
            round: vote.round,
            choice: vote.choice.clone(),
        }))
    }
}
