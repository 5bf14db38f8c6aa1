//! A replica comes back from its disk. After `end`, which an earlier life may have been in the
//! middle of.

use super::{Epochs, Output, Record, Stage};
use crate::protocol::Protocol;
use crate::replica;
use crate::types::{Durable, Executed, LogPosition, Membership, Time};

impl<P: Protocol> Epochs<P> {
    /// Begins to make a new replica what it was, as [`Core::restore_snapshot`].
    pub fn restore_snapshot(
        &mut self,
        list: Membership,
        shared: P::Snapshot,
        executed: &Executed,
        position: LogPosition,
    ) {
        assert!(!self.resumed, "a replica is restored before it does anything");
        self.end = position;
        if self.place_in(&list).is_none() {
            return self.leave(list);
        }
        let mut core = self.core(&list, position, self.durable);
        core.restore_snapshot(shared, executed);
        self.enter(list, Stage::Member(Box::new(core)));
    }

    /// Takes in a record of a snapshot or of an earlier life, as [`Core::restore`].
    ///
    /// # Panics
    /// If the records contradict each other: an epoch begins that the one before did not end for.
    pub fn restore(
        &mut self,
        epoch: u32,
        record: Record<P::Record>,
        out: &mut replica::Output<P::Message, P::Record>,
    ) {
        assert!(!self.resumed, "a replica is restored before it does anything");
        match record {
            Record::Start(next) => {
                let Stage::Member(core) = &self.stage else {
                    panic!("only a member begins the next epoch by itself");
                };
                assert_eq!(core.ended(), Some(&next), "the log tells how the epoch ended");
                let memory = self.remembered(core.memory(), &next);
                let mut core = self.core(&next, LogPosition::default(), self.durable);
                core.take_over(Vec::new(), memory);
                self.enter(next, Stage::Member(Box::new(core)));
            }
            // Left by an attempt to join that did not come to an own snapshot.
            Record::Core(_) if self.epoch() != Some(epoch) => {}
            Record::Core(record) => {
                let Stage::Member(core) = &mut self.stage else { return };
                core.restore(record, out);
            }
        }
    }

    /// Everything is restored, as [`Core::resume`].
    pub fn resume(&mut self, now: Time, end: Durable, out: &mut Output<P::Message, P::Record>) {
        (self.now, self.resumed) = (now, true);
        (self.end, self.durable) = (end.position(), end);
        self.announce = now;
        let mut inner = replica::Output::default();
        if let Stage::Member(core) = &mut self.stage {
            core.resume(now, end, &mut inner);
        }
        self.put_out(inner, out);
        self.end_epoch(out);
    }
}
