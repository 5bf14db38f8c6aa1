//! Restore: what a replica that comes back must not have forgotten: its promise and votes, which
//! names and rounds it may have used, and what is decided. If it was the coordinator it is none any
//! more: its ballot is never continued (§F8).

use super::{FastPaxos, Fx, Record};
use crate::protocol::log::LogRecord;
use crate::types::{Executed, Written};

impl FastPaxos {
    pub(super) fn restore_record(&mut self, record: Record, fx: &mut Fx) {
        match record {
            Record::Promised { ballot } => self.votes.join(ballot),
            Record::Voted { slot, round, choice } => {
                self.votes.join(round.ballot);
                if self.log.is_open(slot) {
                    self.log.see(slot);
                    self.votes.cast(slot, round, choice, Written::default());
                }
            }
            Record::Log(LogRecord::Decided { slot, proposal, value }) => {
                let voted = self.votes.vote(slot).map(|vote| &vote.choice);
                self.log.restore(slot, proposal, value, voted, fx);
                if !self.log.is_open(slot) {
                    self.votes.forget(slot);
                }
            }
            Record::Log(LogRecord::Reserved { names, rounds }) => {
                self.reserve.restore(names, rounds);
            }
        }
    }

    /// Reservations, decisions that others may ask for, the promise and votes.
    pub(super) fn own_records(&self) -> Vec<Record> {
        let reserved = self.reserve.record().into_iter();
        let log = reserved.chain(self.log.records()).map(Record::Log);
        log.chain(self.votes.records()).collect()
    }

    /// Goes on from another replica's snapshot. Promise and votes outside of it stay.
    pub(super) fn install_snapshot(&mut self, executed: &Executed, fx: &mut Fx) {
        self.log.install(executed, fx);
        let floor = self.log.floor();
        self.votes.forget_to(floor);
        self.learner.forget_to(floor);
        self.proposer.let_own_go();
        self.forget_lead_to(floor);
    }
}
