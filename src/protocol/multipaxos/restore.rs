//! How a replica comes back from its records, what its snapshots hold, and how it goes on from
//! another's snapshot (§L7, §M9).

use super::lease::Grant;
use super::log::{Accepted, Log};
use super::message::{Entry, take_run};
use super::step::{Core, Step};
use super::{Fx, Record, learner};
use crate::protocol::log::{decision, log_floor, weight};
use crate::types::{Executed, Slot, Written};

/// A replica between its start and the end of its records.
#[derive(Debug, Default)]
pub(super) struct Restore {
    /// Everything up to here was in a snapshot that may be lost.
    hole: Slot,
}

impl Restore {
    /// Takes in one record, in the order in which they were appended.
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

    /// Whether a snapshot of another replica is lost that the records were written on top of.
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
            // Somebody will tell it again.
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

/// For this replica alone: names used, leases granted, the promise, the decisions that others may
/// still ask for, and the votes.
pub(super) fn own_records(core: &Core, grant: &Grant, executed: &Executed) -> Vec<Record> {
    let (log, executed) = (&core.log, log_floor(executed));
    let names = core.proposals.record().into_iter().chain(grant.record());
    let mut own: Vec<Record> = names.collect();
    let ballot = core.promised.ballot();
    if !ballot.is_owner() {
        own.push(Record::Promised { ballot });
    }
    // What is executed is taken in without a decision, so no run goes across.
    put_decided_runs(log, 1, executed, &mut own);
    put_decided_runs(log, executed + 1, log.commit(), &mut own);
    put_voted_runs(log, &mut own);
    own
}

/// The decisions from `first` to `last` that are kept, as records.
fn put_decided_runs(log: &Log, first: Slot, last: Slot, own: &mut Vec<Record>) {
    let mut kept = log.from(first).take_while(|(slot, _)| *slot <= last).peekable();
    while let Some((first, _)) = kept.peek().copied() {
        let mut entries = kept.by_ref().map(|(_, held)| held.entry.clone());
        let entries = take_run(&mut entries, |entry: &Entry| weight(&entry.value));
        own.push(Record::Decided { first, entries });
    }
}

/// The votes for what is not decided, as records: each a run without a gap, at one ballot.
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

/// Goes on from another replica's snapshot. Promises stay, and so do votes for what lies after it;
/// what is decided after it is told once more.
///
/// Own proposals that are not known decided may be in it, under names that will never be heard of
/// again: whoever installs proposes all of them anew, so they are forgotten here.
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
