//! A replica comes back from its disk. After `end`, which an earlier life may have been in the
//! middle of.

use super::{Epochs, Output, Record, Stage, Starting};
use crate::protocol::Protocol;
use crate::replica;
use crate::types::{Durable, Executed, LogPosition, Membership, Time};

/// The log goes on in an epoch that nothing here leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the log continues in epoch {epoch}, and no snapshot here leads there")]
pub struct LostState {
    /// The epoch.
    pub epoch: u32,
}

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
        if self.follows(&list) {
            return self.enter_as_observer(list, Some(executed.clone()));
        }
        if self.place_in(&list).is_none() {
            return self.leave(list);
        }
        let mut core = self.core(&list, position, self.durable);
        core.restore_snapshot(shared, executed);
        self.is_marked = list.epoch() == 0;
        self.enter(list, Stage::Member(Box::new(core)));
    }

    /// Takes in a record of a snapshot or of an earlier life, as [`Core::restore`].
    ///
    /// # Errors
    /// [`LostState`] if the records of an epoch rest on a state that neither the snapshot nor the
    /// records before lead to. The replica must not go on: it would forget its votes.
    pub fn restore(
        &mut self,
        epoch: u32,
        record: Record<P::Record>,
        out: &mut replica::Output<P::Message, P::Record>,
    ) -> Result<(), LostState> {
        assert!(!self.resumed, "a replica is restored before it does anything");
        match record {
            Record::Start(next) => {
                let Stage::Member(core) = &self.stage else {
                    return Err(LostState { epoch });
                };
                if core.ended() != Some(&next) {
                    return Err(LostState { epoch });
                }
                let memory = self.remembered(core.memory(), &next);
                let mut core = self.core(&next, LogPosition::default(), self.durable);
                core.take_over((Vec::new(), Vec::new()), memory, false);
                self.enter(next, Stage::Member(Box::new(core)));
                self.is_marked = true;
            }
            Record::Joined(list) => {
                if self.list.as_ref() != Some(&list) && self.rules.what_was_joined_is_needed() {
                    return Err(LostState { epoch });
                }
                self.is_marked = true;
            }
            Record::Joining(_) => {}
            // Left by an attempt to join that did not come to an own snapshot.
            Record::Core(_) if self.epoch() != Some(epoch) => {}
            Record::Core(record) => {
                if let Stage::Member(core) = &mut self.stage {
                    let before = out.execute.len();
                    core.restore(record, out);
                    if let Some(feeder) = &mut self.feeder {
                        feeder.note(&out.execute[before..], core.executed_floor());
                    }
                }
            }
        }
        Ok(())
    }

    /// Everything is restored, as [`Core::resume`].
    pub fn resume(&mut self, now: Time, end: Durable, out: &mut Output<P::Message, P::Record>) {
        (self.now, self.resumed) = (now, true);
        (self.end, self.durable) = (end.position(), end);
        self.announce = now;
        if !self.is_marked && !matches!(self.stage, Stage::Observer(_)) {
            // The earlier life may have ended between its snapshot and the record of that.
            return self.join(out);
        }
        let mut inner = replica::Output::default();
        if let Stage::Member(core) = &mut self.stage {
            core.resume(now, end, &mut inner);
        }
        self.put_out(inner, out);
        self.end_epoch(out);
    }

    /// An own snapshot of the present epoch is durable, and the log does not say so yet.
    pub(super) fn join(&mut self, out: &mut Output<P::Message, P::Record>) {
        let list = self.list.clone().expect("it has a state of this epoch");
        let after = self.write(&list, Record::Joined(list.clone()), out);
        let stage = std::mem::replace(&mut self.stage, Stage::Stranger);
        let Stage::Member(core) = stage else { unreachable!("only a member joins") };
        let is_restored = !core.has_begun();
        let core = Box::new(core.in_later_log(after, self.durable));
        self.stage = Stage::Starting(Starting { core, after, is_restored });
    }
}
