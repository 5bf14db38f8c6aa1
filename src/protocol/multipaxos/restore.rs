//! What a replica keeps: what it forgets, what its snapshots hold, how it comes back from records
//! and goes on from another's snapshot (§L6, §L7, §M9).
//!
//! A slot goes once every member has executed it for good, as the leader tells; or once it is in
//! this replica's own snapshot and more than `retention.keep` bytes are kept: whoever asks for it
//! then is told so, and needs a snapshot. That takes no agreement: what is executed is a prefix, so
//! of any two snapshots one holds the other.

use super::log::Accepted;
use super::message::{Entry, take_run, weight};
use super::{Fx, MultiPaxos, Record, Role};
use crate::protocol::{Path, View};
use crate::types::{Ballot, Decision, Deps, Executed, InstanceId, Slot, Written};

/// How many slots go at a time: a replica never stops to clean up.
const AT_ONCE: Slot = 2048;

fn log_index(executed: &Executed) -> Slot {
    executed.floor().slot(InstanceId::LOG)
}

impl MultiPaxos {
    /// Forgets and drops some of what may go. Called with every tick.
    pub(super) fn truncate(&mut self, fx: &mut Fx) {
        let saved = self.saved.min(self.log.commit());
        let next = self.log.floor() + AT_ONCE;
        let forgettable = self.forgettable.min(saved).min(next);
        if forgettable > self.log.floor() {
            fx.hit(Path::MpTrimmed);
            self.drop_up_to(forgettable);
        }
        let keep = self.settings.retention.keep;
        if self.log.bytes() > keep && self.log.floor() < saved {
            fx.hit(Path::MpDropped);
            while self.log.bytes() > keep && self.log.floor() < saved.min(next) {
                self.drop_up_to(self.log.floor() + 1);
            }
        }
    }

    /// This ballot's leader has ended phase 1, and found nothing beyond `barrier` that may have
    /// been chosen. So no vote there at a lower ballot was ever of use, nor will it be: a majority
    /// has promised this ballot. If such a vote stayed, it would stay until somebody proposes
    /// something in its slot, which may be never.
    ///
    /// In the log the vote remains, and a restart brings it back: that does no harm.
    pub(super) fn drop_outdone(&mut self, barrier: Slot, fx: &mut Fx) {
        #[cfg(test)]
        let barrier = if self.planted(super::Plant::DropBelowBarrier) { 0 } else { barrier };
        let beyond = barrier.max(self.log.commit());
        if self.log.drop_outdone(beyond, self.promised) {
            fx.hit(Path::MpOutdone);
        }
    }

    fn drop_up_to(&mut self, floor: Slot) {
        let gone = self.log.forget(floor);
        if let Role::Leader(leading) = &mut self.role {
            for entry in gone {
                leading.names.remove(&entry.proposal);
            }
        }
    }

    /// For this replica alone: names used, leases granted, the promise, the decisions that others
    /// may still ask for, and the votes.
    pub(super) fn own_records(&self, executed: &Executed) -> Vec<Record> {
        let executed = log_index(executed);
        let names = self.own.record().into_iter().chain(self.grant.record());
        let mut own: Vec<Record> = names.collect();
        if !self.promised.is_owner() {
            own.push(Record::Promised { ballot: self.promised });
        }
        // What is executed is taken in without a decision, so no run goes across.
        self.put_decided_runs(1, executed, &mut own);
        self.put_decided_runs(executed + 1, self.log.commit(), &mut own);
        let commit = self.log.commit();
        let mut votes = self.log.from(commit + 1).peekable();
        while let Some((first, held)) = votes.peek().copied() {
            let ballot = held.ballot;
            let mut next = first;
            let mut run = std::iter::from_fn(|| {
                let (slot, held) =
                    votes.next_if(|(s, held)| *s == next && held.ballot == ballot)?;
                next = slot + 1;
                Some(held.entry.clone())
            });
            let entries = take_run(&mut run, |entry: &Entry| weight(&entry.value));
            own.push(Record::Accepted { ballot, commit, first, entries });
        }
        own
    }

    /// The decisions from `first` to `last` that are kept, as records.
    fn put_decided_runs(&self, first: Slot, last: Slot, own: &mut Vec<Record>) {
        let kept = self.log.from(first).take_while(|(slot, _)| *slot <= last);
        let mut kept = kept.peekable();
        while let Some((first, _)) = kept.peek().copied() {
            let mut entries = kept.by_ref().map(|(_, held)| held.entry.clone());
            let entries = take_run(&mut entries, |entry: &Entry| weight(&entry.value));
            own.push(Record::Decided { first, entries });
        }
    }

    /// Starts from an own snapshot; its own records come next.
    pub(super) fn restore_snapshot(&mut self, executed: &Executed) {
        self.saved = log_index(executed);
        self.log.start_behind(self.saved);
    }

    /// Takes in one record, in the order in which they were appended.
    pub(super) fn restore_record(&mut self, record: Record, fx: &mut Fx) {
        match record {
            Record::Promised { ballot } => self.promised = self.promised.max(ballot),
            Record::Accepted { ballot, commit, first, entries } => {
                self.promised = self.promised.max(ballot);
                self.restore_commit(commit, fx);
                for (slot, entry) in (first..).zip(entries) {
                    if slot > self.log.commit() {
                        let written = Written::default();
                        self.log.put(slot, Accepted { ballot, entry, written });
                    }
                }
            }
            Record::Committed { commit } => self.restore_commit(commit, fx),
            Record::Decided { first, entries } => {
                self.restore_commit(first - 1, fx);
                for (slot, entry) in (first..).zip(entries) {
                    self.restore_decided(slot, entry, fx);
                }
            }
            Record::Installed { executed } => self.hole = self.hole.max(executed),
            Record::Granted { lease } => self.grant.restore(lease),
            Record::Named { up_to } => self.own.restore_names(up_to),
        }
    }

    /// Whether a snapshot of another replica is lost that the records were written on top of.
    fn has_hole(&self) -> bool {
        #[cfg(test)]
        if self.planted(super::Plant::NoHole) {
            return false;
        }
        self.log.commit() < self.hole
    }

    fn restore_commit(&mut self, commit: Slot, fx: &mut Fx) {
        while self.log.commit() < commit && !self.has_hole() {
            self.decide_next(fx);
        }
    }

    fn restore_decided(&mut self, slot: Slot, entry: Entry, fx: &mut Fx) {
        if slot > self.log.commit() {
            // Somebody will tell it again.
            if self.has_hole() {
                return;
            }
            self.put_decided(slot, entry, Written::default());
            self.decide_next(fx);
        } else if self.log.get(slot).is_none() {
            let (ballot, written) = (Ballot::OWNER, Written::default());
            self.log.restore_kept(slot, Accepted { ballot, entry, written });
        }
    }

    /// All records are in: what an earlier life granted is waited out, and nothing it led goes on.
    pub(super) fn resume_life(&mut self, view: &View) {
        self.recorded = self.log.commit();
        self.hole = 0;
        self.grant.wait_out(view.now);
        #[cfg(test)]
        if self.planted(super::Plant::ForgetGrants) {
            self.grant = super::Grant::default();
        }
        if self.n() > 1 {
            self.postpone_election(view);
        }
    }

    /// Goes on from another replica's snapshot. Promises stay, and so do votes for what lies after
    /// it; what is decided after it is told once more.
    ///
    /// Own proposals that are not known decided may be in it, under names that will never be heard
    /// of again: whoever installs proposes all of them anew, so they are forgotten here.
    pub(super) fn install_snapshot(&mut self, view: &View, executed: &Executed, fx: &mut Fx) {
        fx.hit(Path::MpInstalled);
        let executed = log_index(executed);
        if executed > self.log.commit() && !matches!(self.role, Role::Follower) {
            // What it would lead or ask for is decided.
            self.follow_nobody();
            self.postpone_election(view);
        }
        fx.append(Record::Installed { executed });
        self.log.start_behind(executed);
        self.own.forget_all();
        let commit = self.log.commit();
        let behind = self.log.from(executed + 1).take_while(|(slot, _)| *slot <= commit);
        for (slot, held) in behind {
            let decision = Decision {
                id: InstanceId::new(InstanceId::LOG, slot),
                proposal: held.entry.proposal,
                value: held.entry.value.clone(),
                deps: Deps::none(self.n()),
            };
            fx.decide(Written::default(), decision);
        }
        self.recorded = self.recorded.max(executed);
        self.follow_commit(view, fx);
    }
}
