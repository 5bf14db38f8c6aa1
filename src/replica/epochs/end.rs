//! The end of an epoch at a replica that has executed the last command, and the beginning of the
//! next.

use super::core::Remains;
use super::{Epochs, Output, Record, Stage};
use crate::protocol::Protocol;
use crate::types::LogPosition;

impl<P: Protocol> Epochs<P> {
    /// If the epoch has ended here, begins the next, or serves those who do.
    pub(super) fn end_epoch(&mut self, out: &mut Output<P::Message, P::Record>) {
        let Stage::Member(core) = &self.stage else { return };
        let Some(next) = core.ended().cloned() else { return };
        let stage = std::mem::replace(&mut self.stage, Stage::Stranger(Vec::new()));
        let Stage::Member(core) = stage else { unreachable!("it was one") };
        let in_log = core.is_in_log();
        let Remains { commands, memory, end, durable } = core.into_remains();
        out.ended.push(next.clone());
        self.settle_change(&next, out);
        if self.place_in(&next).is_none() {
            out.removed.extend(commands.iter().map(|command| command.request));
            if !self.rules.serves_the_last_state() {
                out.retired = Some(next.clone());
            }
            // Its state has to outlast a crash.
            out.snapshot_wanted = true;
            return self.leave(next);
        }
        if !in_log {
            // An own snapshot shows how the epoch ended.
            let mut core = self.core(&next, end, durable).silent();
            core.take_over(commands, self.remembered(&memory, &next));
            out.snapshot_wanted = true;
            return self.enter(next, Stage::Member(Box::new(core)));
        }
        out.records.push((next.epoch(), Record::Start(next.clone())));
        let start = LogPosition::new(end.records() + 1);
        self.end = start;
        let mut core = self.core(&next, start, durable);
        core.take_over(commands, self.remembered(&memory, &next));
        self.enter(next, Stage::Starting(Box::new(core), start));
        self.begin_if_durable();
    }

    /// Begins the epoch, once the record of it is durable.
    pub(super) fn begin_if_durable(&mut self) {
        let Stage::Starting(_, start) = &self.stage else { return };
        if self.rules.begins_once_durable() && self.durable.position() < *start {
            return;
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Stranger(Vec::new()));
        let Stage::Starting(core, _) = stage else { unreachable!("it was one") };
        self.stage = Stage::Member(Box::new(core.begun(self.durable)));
    }
}
