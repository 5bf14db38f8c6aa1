//! How a replica restarts from its records, what its snapshots hold, and how it installs another's
//! (§L7, §M9).

use super::lease::Grant;
use super::log::{Accepted, Log};
use super::message::{Entry, take_run};
use super::step::{Core, Step};
use super::{Fx, Record, learner};
use crate::protocol::log::{decision, log_floor, weight};
use crate::types::{Executed, Slot, Written};

/// The state of a restart until all records are restored.
#[derive(Debug, Default)]
pub(super) struct Restore {
    /// Everything up to here was in a snapshot that may be lost.
    hole: Slot,
}

impl Restore {
    /// Restores one record; call it in the order in which they were appended.
    pub(super) fn record(
        &mut self,
        core: &mut Core,
        grant: &mut Grant,
        record: Record,
        fx: &mut Fx,
    ) {
        match record {
            Record::Promised { ballot } => core.promised.restore(ballot),
            Record::Accepted { ballot, commit, first, entries } => {
                core.promised.restore(ballot);
                self.commit(core, commit, fx);
                for (slot, entry) in (first..).zip(entries) {
                    if slot > core.log.commit() {
                        let written = Written::default();
                        core.log.put(slot, Accepted { ballot, entry, written });
                    }
                }
            }
            Record::Committed { commit } => self.commit(core, commit, fx),
            Record::Decided { first, entries } => {
                self.commit(core, first - 1, fx);
                for (slot, entry) in (first..).zip(entries) {
                    self.decided(core, slot, entry, fx);
                }
            }
            Record::Installed { executed } => self.hole = self.hole.max(executed),
            Record::Granted { lease } => grant.restore(lease),
            Record::Named { up_to } => core.proposals.restore_names(up_to),
        }
    }

    /// Whether the records rest on another replica's snapshot that is lost.
    fn has_hole(&self, core: &Core) -> bool {
        core.cx.rules.lost_snapshots_are_missed() && core.log.commit() < self.hole
    }

    fn commit(&self, core: &mut Core, commit: Slot, fx: &mut Fx) {
        while core.log.commit() < commit && !self.has_hole(core) {
            learner::restore_next(core, fx);
        }
    }

    fn decided(&self, core: &mut Core, slot: Slot, entry: Entry, fx: &mut Fx) {
        if slot > core.log.commit() {
            // Another replica will send it again.
            if self.has_hole(core) {
                return;
            }
            core.log.put_decided(slot, entry, Written::default());
            learner::restore_next(core, fx);
        } else if core.log.get(slot).is_none() {
            core.log.restore_kept(slot, entry);
        }
    }
}

/// The records for this replica alone: names used, leases granted, the promise, the decisions that
/// others may still request, and the votes.
pub(super) fn own_records(core: &Core, grant: &Grant, executed: &Executed) -> Vec<Record> {
    let (log, executed) = (&core.log, log_floor(executed));
    let names = core.proposals.record().into_iter().chain(grant.record());
    let mut own: Vec<Record> = names.collect();
    let ballot = core.promised.ballot();
    if !ballot.is_owner() {
        own.push(Record::Promised { ballot });
    }
    // Executed slots are restored without a decision, so no run may cross this boundary.
    put_decided_runs(log, 1, executed, &mut own);
    put_decided_runs(log, executed + 1, log.commit(), &mut own);
    put_voted_runs(log, &mut own);
    own
}

/// The kept decisions from `first` to `last`, as records.
fn put_decided_runs(log: &Log, first: Slot, last: Slot, own: &mut Vec<Record>) {
    let mut kept = log.from(first).take_while(|(slot, _)| *slot <= last).peekable();
    while let Some((first, _)) = kept.peek().copied() {
        let mut entries = kept.by_ref().map(|(_, held)| held.entry.clone());
        let entries = take_run(&mut entries, |entry: &Entry| weight(&entry.value));
        own.push(Record::Decided { first, entries });
    }
}

/// The votes for undecided slots, as records: each a run without a gap, at one ballot.
fn put_voted_runs(log: &Log, own: &mut Vec<Record>) {
    let commit = log.commit();
    let mut votes = log.from(commit + 1).peekable();
    while let Some((first, held)) = votes.peek().copied() {
        let ballot = held.ballot;
        let mut next = first;
        let mut run = std::iter::from_fn(|| {
            let (slot, held) = votes.next_if(|(s, held)| *s == next && held.ballot == ballot)?;
            next = slot + 1;
            Some(held.entry.clone())
        });
        let entries = take_run(&mut run, |entry: &Entry| weight(&entry.value));
        own.push(Record::Accepted { ballot, commit, first, entries });
    }
}

/// Installs another replica's snapshot. The promise stays, and so do the votes for later slots;
/// later decisions appear in the effects again.
///
/// Own proposals that are not known to be decided may be in the snapshot, under names that will
/// never be heard of again. The caller proposes all of them again, so they are removed here.
pub(super) fn install(s: &mut Step<'_>, executed: Slot) {
    s.fx.append(Record::Installed { executed });
    s.log.start_after(executed);
    s.proposals.forget_all();
    let commit = s.log.commit();
    for (slot, held) in s.log.from(executed + 1).take_while(|(slot, _)| *slot <= commit) {
        let Entry { proposal, value } = held.entry.clone();
        s.fx.decide(Written::default(), decision(s.cx.n(), slot, proposal, value));
    }
    s.log.note_recorded(s.log.recorded().max(executed));
}
