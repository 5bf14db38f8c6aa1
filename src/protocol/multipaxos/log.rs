//! A replica's log: what it voted for, slot by slot, up to where that is decided, and what of it
//! may go (§L6).
//!
//! A slot goes once every member has executed it for good, as the leader tells; or once it is in
//! this replica's own snapshot and more than `retention.keep` bytes are kept: whoever asks for it
//! then is told so, and needs a snapshot. That takes no agreement: what is executed is a prefix, so
//! of any two snapshots one holds the other.

use std::collections::BTreeMap;

use super::Fx;
use super::message::Entry;
use crate::protocol::Path;
use crate::protocol::log::weight;
use crate::types::{Ballot, Slot, Written};

/// How far ahead of what is decided here a slot may be: a leader has far fewer under way, and one
/// who lags further behind asks for what was decided first.
const MOST_AHEAD: Slot = 1 << 16;

/// How many slots go at a time: a replica never stops to clean up.
const AT_ONCE: Slot = 2048;

/// A vote, or a decision that was learned.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    /// The ballot of the vote; [`Ballot::OWNER`], which no leader has, for what was only learned.
    pub(super) ballot: Ballot,
    pub(super) entry: Entry,
    /// Of the record that holds it.
    pub(super) written: Written,
}

/// Invariants:
///
/// 1. `floor <= commit`. What lies at or below `floor` is decided and gone; from there up to
///    `commit` every slot is present, and what it holds is decided and never changes.
/// 2. Above `commit` a slot holds the vote of the highest ballot, or nothing.
#[derive(Debug, Default)]
pub(super) struct Log {
    floor: Slot,
    commit: Slot,
    /// What the records say is decided.
    recorded: Slot,
    /// Everything up to here is executed here for good.
    saved: Slot,
    /// Everything up to here is executed for good by every member.
    forgettable: Slot,
    slots: BTreeMap<Slot, Accepted>,
    bytes: usize,
}

impl Log {
    /// Everything up to here is gone.
    pub(super) fn floor(&self) -> Slot {
        self.floor
    }

    /// Everything up to here is decided.
    pub(super) fn commit(&self) -> Slot {
        self.commit
    }

    /// Up to where the records say that all is decided.
    pub(super) fn recorded(&self) -> Slot {
        self.recorded
    }

    /// The records now say that all is decided up to `slot`.
    pub(super) fn note_recorded(&mut self, slot: Slot) {
        self.recorded = slot;
    }

    /// Everything up to here is executed here for good.
    pub(super) fn saved(&self) -> Slot {
        self.saved
    }

    /// Everything up to `slot` is executed here for good.
    pub(super) fn note_saved(&mut self, slot: Slot) {
        self.saved = self.saved.max(slot);
    }

    /// Everything up to `slot` is executed for good by every member; up to where that is known.
    pub(super) fn note_forgettable(&mut self, slot: Slot) -> Slot {
        self.forgettable = self.forgettable.max(slot);
        self.forgettable
    }

    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many slots it holds.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The last slot that holds something, or is decided.
    pub(super) fn last(&self) -> Slot {
        self.slots.last_key_value().map_or(self.commit, |(slot, _)| *slot).max(self.commit)
    }

    /// Whether a slot is one that a sound leader may be at: decided, or not far behind that.
    pub(super) fn is_near(&self, slot: Slot) -> bool {
        slot > 0 && slot <= self.commit.saturating_add(MOST_AHEAD)
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Accepted> {
        self.slots.get(&slot)
    }

    /// What lies at `first` and after it.
    pub(super) fn from(&self, first: Slot) -> impl Iterator<Item = (Slot, &Accepted)> {
        self.slots.range(first..).map(|(slot, accepted)| (*slot, accepted))
    }

    /// Puts in a vote or a decision.
    pub(super) fn put(&mut self, slot: Slot, accepted: Accepted) {
        self.bytes += weight(&accepted.entry.value);
        if let Some(old) = self.slots.insert(slot, accepted) {
            self.bytes -= weight(&old.entry.value);
        }
    }

    /// Puts in the decision of a slot, which may hold a vote for it.
    pub(super) fn put_decided(&mut self, slot: Slot, entry: Entry, written: Written) {
        self.put(slot, Accepted { ballot: Ballot::OWNER, entry, written });
    }

    /// The next slot is decided as it stands here; what it holds.
    pub(super) fn decide_next(&mut self) -> (Slot, &Entry) {
        self.commit += 1;
        let accepted = self.slots.get(&self.commit);
        (self.commit, &accepted.expect("what is decided is known").entry)
    }

    /// Starts after a snapshot of everything up to `executed`: what is below is decided, and gone
    /// unless it is there as decided.
    pub(super) fn start_after(&mut self, executed: Slot) {
        if executed <= self.commit {
            return;
        }
        self.commit = executed;
        self.forget(executed, &mut Vec::new());
    }

    /// Takes in a decision from below what a snapshot stands for: it is kept for others.
    pub(super) fn restore_kept(&mut self, slot: Slot, entry: Entry) {
        self.floor = self.floor.min(slot - 1);
        self.put_decided(slot, entry, Written::default());
    }

    /// Drops the votes beyond `slot` that were cast below `ballot`; whether there were any.
    pub(super) fn drop_outdone(&mut self, slot: Slot, ballot: Ballot) -> bool {
        assert!(slot >= self.commit, "what is decided is kept");
        let beyond = self.slots.range(slot.saturating_add(1)..);
        let outdone = beyond.filter(|(_, held)| held.ballot < ballot).map(|(slot, _)| *slot);
        let outdone: Vec<Slot> = outdone.collect();
        for slot in &outdone {
            let held = self.slots.remove(slot).expect("it was found there");
            self.bytes -= weight(&held.entry.value);
        }
        !outdone.is_empty()
    }

    /// Drops some of what may go, and at most `keep` bytes stay if that is enough for it. What was
    /// dropped. Called with every tick.
    pub(super) fn truncate(&mut self, keep: usize, fx: &mut Fx) -> Vec<Entry> {
        let mut gone = Vec::new();
        let saved = self.saved.min(self.commit);
        let next = self.floor + AT_ONCE;
        let forgettable = self.forgettable.min(saved).min(next);
        if forgettable > self.floor {
            fx.hit(Path::MpTrimmed);
            self.forget(forgettable, &mut gone);
        }
        if self.bytes > keep && self.floor < saved {
            fx.hit(Path::MpDropped);
            while self.bytes > keep && self.floor < saved.min(next) {
                self.forget(self.floor + 1, &mut gone);
            }
        }
        gone
    }

    /// Drops everything up to `floor`, which is decided, into `gone`.
    fn forget(&mut self, floor: Slot, gone: &mut Vec<Entry>) {
        assert!(floor <= self.commit, "only what is decided is dropped");
        while let Some(first) = self.slots.first_entry().filter(|first| *first.key() <= floor) {
            let accepted = first.remove();
            self.bytes -= weight(&accepted.entry.value);
            gone.push(accepted.entry);
        }
        self.floor = self.floor.max(floor);
    }
}
