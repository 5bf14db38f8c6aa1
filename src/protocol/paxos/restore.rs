//! Restore: what a replica that comes back must not have forgotten: its promises and votes, which
//! names and rounds it may have used, and what is decided. What it proposed is gone; whatever part
//! of that acceptors have voted for is finished by whoever is blocked by it (§P7).

use super::{Fx, Paxos, Record};
use crate::protocol::log::LogRecord;
use crate::types::{Executed, Slot};

impl Paxos {
    pub(super) fn restore_record(&mut self, record: Record, fx: &mut Fx) {
        match record {
            Record::Promised { slot, ballot } if self.log.is_open(slot) => {
                self.log.see(slot);
                self.acceptor.restore_promise(slot, ballot);
            }
            Record::Voted { slot, ballot, choice } if self.log.is_open(slot) => {
                self.log.see(slot);
                self.acceptor.restore_vote(slot, ballot, choice);
            }
            // Of a slot that is decided.
            Record::Promised { .. } | Record::Voted { .. } => {}
            Record::Log(LogRecord::Decided { slot, proposal, value }) => {
                let voted = self.acceptor.vote(slot);
                self.log.restore(slot, proposal, value, voted, fx);
                self.forget_if_decided(slot);
            }
            Record::Log(LogRecord::Reserved { names, rounds }) => {
                self.reserve.restore(names, rounds);
            }
        }
    }

    fn forget_if_decided(&mut self, slot: Slot) {
        if !self.log.is_open(slot) {
            self.acceptor.forget(slot);
        }
    }

    /// Reservations, decisions that others may ask for, promises and votes.
    pub(super) fn own_records(&self) -> Vec<Record> {
        let reserved = self.reserve.record().into_iter();
        let log = reserved.chain(self.log.records()).map(Record::Log);
        log.chain(self.acceptor.records()).collect()
    }

    /// Goes on from another replica's snapshot. Promises and votes outside of it stay.
    pub(super) fn install_snapshot(&mut self, executed: &Executed, fx: &mut Fx) {
        self.log.install(executed, fx);
        let known = self.log.floor();
        self.acceptor.forget_to(known);
        self.learner.forget_to(known);
        self.let_own_go(known);
    }
}
