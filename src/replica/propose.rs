//! Commands on their way into the protocol: accepted or rejected, queued, proposed in batches, and
//! returned ([`Core::take_back`]). Before the protocol.

use bytes::Bytes;

use super::{Core, Output, Rejection};
use crate::protocol::Protocol;
use crate::types::{ClientId, Command, ExecutionOrder, InstanceId, KeyedMap, RequestId, Slot};

impl<P: Protocol> Core<P> {
    pub(super) fn on_propose(&mut self, command: Command, out: &mut Output<P::Message, P::Record>) {
        if let Some(rejection) = self.has_no_room_for(&command) {
            out.rejected.push((command.request, rejection));
            return;
        }
        if self.ended.is_some() {
            // It is proposed in the next epoch. A read of this one's state may be stale by then.
            return self.admission.push_back(command);
        }
        if let Some(point) = self.read_point(&command) {
            self.reads.wait(point, command);
            return self.serve_reads(out);
        }
        if self.has_lost_quorum() {
            out.rejected.push((command.request, Rejection::NoQuorum));
            return;
        }
        if self.protocol.kept_bytes() >= self.limits.kept_bytes {
            out.rejected.push((command.request, Rejection::Full));
            return;
        }
        self.admission.push_back(command);
    }

    /// Why a command may not even wait here.
    pub(super) fn has_no_room_for(&self, command: &Command) -> Option<Rejection> {
        let keys = command.footprint.keys().map_or(0, <[_]>::len);
        if keys > Command::MAX_KEYS || command.payload.len() > Command::MAX_BYTES {
            return Some(Rejection::TooLarge);
        }
        let (commands, bytes) = self.admission.waiting();
        let commands = commands + self.own_commands + self.reads.len();
        let is_full = commands >= self.limits.commands || bytes >= self.limits.bytes;
        is_full.then_some(Rejection::Overloaded)
    }

    /// The slot up to which the log has to be executed so that this command can be answered without
    /// a proposal; `None` if it has to be proposed.
    fn read_point(&self, command: &Command) -> Option<Slot> {
        let may = P::ORDER == ExecutionOrder::Log && command.footprint.is_read_only();
        if may { self.protocol.read_point(&self.view) } else { None }
    }

    /// Puts out the reads that may be answered now.
    pub(super) fn serve_reads(&mut self, out: &mut Output<P::Message, P::Record>) {
        self.reads.release(self.executor.executed().slot(InstanceId::LOG), &mut out.reads);
    }

    /// Proposes what admission allows.
    pub(super) fn propose_batches(&mut self, out: &mut Output<P::Message, P::Record>) {
        while self.ended.is_none() && !self.joining {
            let batches = self.admission.batches(self.view.now, self.own.len());
            if batches.is_empty() {
                return;
            }
            for batch in batches {
                let ends = |it: &Command| it.request.client == ClientId::MEMBERS;
                let ends = batch.commands().iter().any(ends);
                assert!(!ends || batch.commands().len() == 1, "nothing of the epoch follows it");
                let id = self.protocol.propose(&self.view, batch.clone(), &mut self.fx);
                self.own_commands += batch.commands().len();
                self.own.insert(id, (self.view.now, batch));
            }
            self.apply_effects(out);
        }
    }

    /// Own commands whose proposals came to nothing are queued again, in front of all others: their
    /// instance was decided to be a `Nop`, or another proposal was decided in their slot.
    pub(super) fn take_back(&mut self, commands: Vec<Command>) {
        if P::ORDER == ExecutionOrder::Log && !commands.is_empty() {
            // No decision names these proposals, so they are found by their commands.
            let back = commands.iter().map(|it| ((it.request, it.payload.clone()), ()));
            let back: KeyedMap<(RequestId, Bytes), ()> = back.collect();
            let own_commands = &mut self.own_commands;
            self.own.retain(|_, (_, batch)| {
                let first = &batch.commands()[0];
                let stays = !back.contains_key(&(first.request, first.payload.clone()));
                *own_commands -= if stays { 0 } else { batch.commands().len() };
                stays
            });
        }
        self.admission.push_front(commands.into_iter());
    }
}
