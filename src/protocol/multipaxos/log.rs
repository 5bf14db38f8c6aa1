//! A replica's log: its votes slot by slot, the end of the decided prefix, and what may be dropped
//! (§L6).
//!
//! A slot is dropped once the leader says that every member has durably executed it. It is also
//! dropped once it is in this replica's own snapshot and more than `retention.keep` bytes are kept:
//! a replica that requests it then is told so, and needs a snapshot. No agreement is needed: what
//! is executed is a prefix, so of any two snapshots one holds the other.

use std::collections::BTreeMap;

use super::message::Entry;
use super::{Fx, Path};
use crate::protocol::log::weight;
use crate::types::{Ballot, Slot, Written};

/// How far above the decided prefix a slot may be. A leader has far fewer in progress, and a
/// replica that lags further first fetches decisions.
const MOST_AHEAD: Slot = 1 << 16;

/// How many slots one call drops: cleaning up must never stall the replica.
const AT_ONCE: Slot = 2048;

/// A vote, or a learned decision.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    /// The ballot of the vote. [`Ballot::OWNER`], which no leader has, for a decision learned
    /// without a vote.
    pub(super) ballot: Ballot,
    pub(super) entry: Entry,
    /// The record that holds it.
    pub(super) written: Written,
}

/// Invariants:
///
/// 1. `floor <= commit`. Slots up to `floor` are decided and dropped. Between `floor` and `commit`
///    every slot is present, decided, and never changes.
/// 2. Above `commit` a slot holds the vote of the highest ballot, or nothing.
#[derive(Debug, Default)]
pub(super) struct Log {
    floor: Slot,
    commit: Slot,
    /// How far the records say that all is decided.
    recorded: Slot,
    /// Everything up to here is durably executed here.
    saved: Slot,
    /// Every member has durably executed everything up to here.
    forgettable: Slot,
    slots: BTreeMap<Slot, Accepted>,
    bytes: usize,
}

impl Log {
    /// Everything up to here is dropped.
    pub(super) fn floor(&self) -> Slot {
        self.floor
    }

    /// Everything up to here is decided.
    pub(super) fn commit(&self) -> Slot {
        self.commit
    }

    /// How far the records say that all is decided.
    pub(super) fn recorded(&self) -> Slot {
        self.recorded
    }

    /// The records now say that everything up to `slot` is decided.
    pub(super) fn note_recorded(&mut self, slot: Slot) {
        self.recorded = slot;
    }

    /// Everything up to here is durably executed here.
    pub(super) fn saved(&self) -> Slot {
        self.saved
    }

    /// Everything up to `slot` is durably executed here.
    pub(super) fn note_saved(&mut self, slot: Slot) {
        self.saved = self.saved.max(slot);
    }

    /// Every member has durably executed everything up to `slot`. Returns the highest such slot
    /// known.
    pub(super) fn note_forgettable(&mut self, slot: Slot) -> Slot {
        self.forgettable = self.forgettable.max(slot);
        self.forgettable
    }

    /// Roughly how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of slots it holds.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The last slot that is decided or holds a vote.
    pub(super) fn last(&self) -> Slot {
        self.slots.last_key_value().map_or(self.commit, |(slot, _)| *slot).max(self.commit)
    }

    /// Whether a leader may be at this slot: it is decided, or not far above the decided prefix.
    pub(super) fn is_near(&self, slot: Slot) -> bool {
        slot > 0 && slot <= self.commit.saturating_add(MOST_AHEAD)
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Accepted> {
        self.slots.get(&slot)
    }

    /// The slots from `first` on.
    pub(super) fn from(&self, first: Slot) -> impl Iterator<Item = (Slot, &Accepted)> {
        self.slots.range(first..).map(|(slot, accepted)| (*slot, accepted))
    }

    /// Stores a vote or a decision.
    pub(super) fn put(&mut self, slot: Slot, accepted: Accepted) {
        self.bytes += weight(&accepted.entry.value);
        if let Some(old) = self.slots.insert(slot, accepted) {
            self.bytes -= weight(&old.entry.value);
        }
    }

    /// Stores the decision of a slot, which may hold a vote for it.
    pub(super) fn put_decided(&mut self, slot: Slot, entry: Entry, written: Written) {
        self.put(slot, Accepted { ballot: Ballot::OWNER, entry, written });
    }

    /// The next slot is decided as it stands here. Returns its content.
    pub(super) fn decide_next(&mut self) -> (Slot, &Entry) {
        self.commit += 1;
        let accepted = self.slots.get(&self.commit);
        (self.commit, &accepted.expect("what is decided is known").entry)
    }

    /// Starts after a snapshot of everything up to `executed`. The slots below are decided and
    /// dropped.
    pub(super) fn start_after(&mut self, executed: Slot) {
        if executed <= self.commit {
            return;
        }
        self.commit = executed;
        self.forget(executed, &mut Vec::new());
    }

    /// Restores a decision from below the snapshot's end; it is kept for others.
    pub(super) fn restore_kept(&mut self, slot: Slot, entry: Entry) {
        self.floor = self.floor.min(slot - 1);
        self.put_decided(slot, entry, Written::default());
    }

    /// Drops the votes beyond `slot` at ballots below `ballot`. Returns whether there were any.
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

    /// Drops some slots that may go, so that at most `keep` bytes stay if that is possible. Returns
    /// what was dropped. Called with every tick.
    pub(super) fn truncate(&mut self, keep: usize, fx: &mut Fx) -> Vec<Entry> {
        let mut gone = Vec::new();
        let saved = self.saved.min(self.commit);
        let next = self.floor + AT_ONCE;
        let forgettable = self.forgettable.min(saved).min(next);
        if forgettable > self.floor {
            fx.hit(Path::Trimmed);
            self.forget(forgettable, &mut gone);
        }
        if self.bytes > keep && self.floor < saved {
            fx.hit(Path::Dropped);
            while self.bytes > keep && self.floor < saved.min(next) {
                self.forget(self.floor + 1, &mut gone);
            }
        }
        gone
    }

    /// Moves everything up to `floor`, all of it decided, into `gone`.
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
