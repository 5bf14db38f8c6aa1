//! The end of an epoch at a replica that has executed the last command, and the beginning of the
//! next.

use std::collections::BTreeSet;

use super::core::Remains;
use super::{Epochs, Message, Output, Record, Stage, Starting};
use crate::protocol::Protocol;
use crate::replica::{self, Core};
use crate::types::{LogPosition, MemberId, Membership};

impl<P: Protocol> Epochs<P> {
    /// If the epoch has ended here, begins the next, or serves those who do.
    pub(super) fn end_epoch(&mut self, out: &mut Output<P::Message, P::Record>) {
        let Stage::Member(core) = &self.stage else { return };
        let Some(next) = core.ended().cloned() else { return };
        let stage = std::mem::replace(&mut self.stage, Stage::Stranger);
        let Stage::Member(mut core) = stage else { unreachable!("it was one") };
        if self.rules.concludes_an_epoch() {
            self.conclude(&mut core, &next, out);
        }
        self.finish_feed(out);
        self.past.add(core.paths());
        let in_log = core.is_in_log();
        let Remains { proposed, waiting, unsure, memory, end, durable } = core.into_remains();
        self.end = end;
        out.ended.push(next.clone());
        self.settle_change(&next, out);
        if self.place_in(&next).is_none() {
            let known = if unsure { &mut out.unsure } else { &mut out.removed };
            known.extend(proposed.iter().map(|command| command.request));
            out.removed.extend(waiting.iter().map(|command| command.request));
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
            core.take_over((proposed, waiting), self.remembered(&memory, &next), unsure);
            out.snapshot_wanted = true;
            return self.enter(next, Stage::Member(Box::new(core)));
        }
        let after = self.write(&next, Record::Start(next.clone()), out);
        let mut core = self.core(&next, after, durable);
        core.take_over((proposed, waiting), self.remembered(&memory, &next), unsure);
        self.enter(
            next,
            Stage::Starting(Starting { core: Box::new(core), after, is_restored: false }),
        );
        self.begin_if_durable(out);
    }

    /// The last things that a core says. With it, the others would hear no more of the end: so they
    /// hear of the next epoch, too.
    fn conclude(
        &mut self,
        core: &mut Core<P>,
        next: &Membership,
        out: &mut Output<P::Message, P::Record>,
    ) {
        let before = self.list.as_ref().expect("a member has a list");
        let mut inner = replica::Output::default();
        core.conclude(&mut inner);
        out.take(before, inner, core.is_joining(), false, None);
        let members = before.all().chain(next.all()).map(|member| member.id);
        let others: BTreeSet<MemberId> = members.filter(|id| *id != self.me).collect();
        if !others.is_empty() {
            let over = Message::Over { list: next.clone(), safe: false };
            out.messages.push((others.into_iter().collect(), Some(next.epoch()), over));
        }
    }

    /// Writes a record of an epoch; returns the position after it.
    pub(super) fn write(
        &mut self,
        list: &Membership,
        record: Record<P::Record>,
        out: &mut Output<P::Message, P::Record>,
    ) -> LogPosition {
        out.records.push((list.epoch(), record));
        self.end = LogPosition::new(self.end.records() + 1);
        self.end
    }

    /// Begins the epoch, once the record of it is durable.
    pub(super) fn begin_if_durable(&mut self, out: &mut Output<P::Message, P::Record>) {
        let Stage::Starting(starting) = &self.stage else { return };
        if self.rules.begins_once_durable() && self.durable.position() < starting.after {
            return;
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Stranger);
        let Stage::Starting(Starting { mut core, is_restored, .. }) = stage else {
            unreachable!("it was one")
        };
        let mut inner = replica::Output::default();
        if is_restored {
            core.resume(self.now, self.durable, &mut inner);
        } else {
            core.on_durable(self.durable, &mut inner);
        }
        self.stage = Stage::Member(core);
        self.put_out(inner, out);
    }
}
