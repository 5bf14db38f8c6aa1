//! The commands of this replica that are not executed yet: those that wait for admission, reads
//! that wait for the log, and those proposed. After `admission` and `reads`, before the core.

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};

use super::admission::Admission;
use super::reads::Reads;
use super::{Limits, Rejection};
use crate::execute::AnyExecutor;
use crate::types::{
    Batch, ClientId, Command, Executed, ExecutionOrder, InstanceId, KeyedMap, ReplicaId, RequestId,
    Slot, Time,
};

/// The commands that are not executed yet.
///
/// Invariant: `own` holds, by id, the proposals of this replica that are neither executed nor
/// returned, and `own_commands` is the number of their commands.
pub(super) struct Commands {
    order: ExecutionOrder,
    limits: Limits,
    admission: Admission,
    reads: Reads,
    own: FxHashMap<InstanceId, (Time, Arc<Batch>)>,
    own_commands: usize,
}

impl Commands {
    pub(super) fn new(order: ExecutionOrder, me: ReplicaId, limits: Limits) -> Commands {
        Commands {
            order,
            limits,
            admission: Admission::new(order, me),
            reads: Reads::default(),
            own: FxHashMap::default(),
            own_commands: 0,
        }
    }

    /// Why a command may not even wait here.
    pub(super) fn has_no_room_for(&self, command: &Command) -> Option<Rejection> {
        let keys = command.footprint.keys().map_or(0, <[_]>::len);
        if keys > Command::MAX_KEYS || command.payload.len() > Command::MAX_BYTES {
            return Some(Rejection::TooLarge);
        }
        let (commands, bytes) = self.waiting();
        let commands = commands + self.own_commands;
        let is_full = commands >= self.limits.commands || bytes >= self.limits.bytes;
        is_full.then_some(Rejection::Overloaded)
    }

    /// Commands that wait for admission, and reads that wait for the log; the payload bytes of the
    /// former.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let (commands, bytes) = self.admission.waiting();
        (commands + self.reads.len(), bytes)
    }

    /// Commands that were proposed and are not executed.
    pub(super) fn in_flight(&self) -> usize {
        self.own_commands
    }

    /// When batches may be due even without an input.
    pub(super) fn wake(&self) -> Option<Time> {
        self.admission.wake()
    }

    /// Adds a new command at the end of the queue.
    pub(super) fn push_back(&mut self, command: Command) {
        self.admission.push_back(command);
    }

    /// Adds a read that waits until everything up to `point` is executed.
    pub(super) fn wait(&mut self, point: Slot, read: Command) {
        self.reads.wait(point, read);
    }

    /// Moves to `ready` the reads that may be answered now.
    pub(super) fn release_reads(&mut self, executed: Slot, ready: &mut Vec<Command>) {
        self.reads.release(executed, ready);
    }

    /// Removes all waiting commands that were never proposed here.
    pub(super) fn take_fresh(&mut self) -> Vec<RequestId> {
        self.admission.take_fresh()
    }

    /// The batches that may be proposed now. Call until there is none.
    pub(super) fn batches(&mut self, now: Time) -> Vec<Arc<Batch>> {
        let batches = self.admission.batches(now, self.own.len());
        for batch in &batches {
            let ends = |it: &Command| it.request.client == ClientId::MEMBERS;
            let ends = batch.commands().iter().any(ends);
            assert!(!ends || batch.commands().len() == 1, "nothing of the epoch follows it");
        }
        batches
    }

    /// A batch was proposed, and its proposal is called `id`.
    pub(super) fn proposed(&mut self, id: InstanceId, now: Time, batch: Arc<Batch>) {
        self.own_commands += batch.commands().len();
        self.own.insert(id, (now, batch));
    }

    /// An own proposal, and when it was made.
    pub(super) fn own(&self, id: InstanceId) -> Option<&(Time, Arc<Batch>)> {
        self.own.get(&id)
    }

    /// An instance's payload became known here.
    pub(super) fn learned(&mut self, id: InstanceId, batch: &Arc<Batch>) {
        self.admission.learned(id, batch);
    }

    /// An instance, or the own proposal called `id`, was executed or ended as `Nop`.
    pub(super) fn finished(&mut self, id: InstanceId) {
        self.admission.finished(id);
        if let Some((_, batch)) = self.own.remove(&id) {
            self.own_commands -= batch.commands().len();
        }
    }

    /// Own commands whose proposals came to nothing are queued again, in front of all others: their
    /// instance was decided to be a `Nop`, or another proposal was decided in their slot.
    pub(super) fn take_back(&mut self, commands: Vec<Command>) {
        if self.order == ExecutionOrder::Log && !commands.is_empty() {
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

    /// Own proposals that are or may be in a snapshot and were not executed here.
    pub(super) fn own_inside(
        &self,
        executed: &Executed,
        executor: &AnyExecutor,
    ) -> Vec<InstanceId> {
        let own = self.own.keys().copied();
        let mut inside: Vec<InstanceId> = match executor {
            AnyExecutor::Graph(_) => own.filter(|id| executed.contains(*id)).collect(),
            // A proposal has no slot before it is decided. So each one may be in the snapshot,
            // unless it is known to be decided after it.
            AnyExecutor::Log(log) => {
                let behind = log.waiting().filter(|decided| !executed.contains(decided.id));
                let behind: FxHashSet<InstanceId> = behind.map(|it| it.proposal).collect();
                own.filter(|name| !behind.contains(name)).collect()
            }
        };
        inside.sort_unstable();
        inside
    }

    /// A snapshot that holds `executed` was installed. Whether a proposal `inside` it was executed
    /// or became a `Nop`, only the session table knows. So all of them are proposed again, before
    /// all waiting commands. If a command was executed, the table answers it; it is never executed
    /// twice.
    pub(super) fn installed(&mut self, executed: &Executed, inside: Vec<InstanceId>) {
        self.admission.executed(executed);
        let mut commands = Vec::new();
        for id in inside {
            let (_, batch) = self.own.remove(&id).expect("it was found there");
            self.own_commands -= batch.commands().len();
            commands.extend_from_slice(batch.commands());
        }
        self.admission.push_front(commands.into_iter());
    }

    /// What is left at the end of an epoch: the commands that were proposed, and those that were
    /// not, the reads last.
    pub(super) fn into_waiting(self) -> (Vec<Command>, Vec<Command>) {
        let mut own: Vec<(InstanceId, _)> = self.own.into_iter().collect();
        own.sort_unstable_by_key(|(id, _)| *id);
        let mut proposed = Vec::new();
        for (_, (_, batch)) in own {
            proposed.extend_from_slice(batch.commands());
        }
        let (returned, mut waiting) = self.admission.into_waiting();
        proposed.extend(returned);
        waiting.extend(self.reads.into_waiting());
        for commands in [&mut proposed, &mut waiting] {
            // A change of the list is of one epoch.
            commands.retain(|command| command.request.client != ClientId::MEMBERS);
        }
        (proposed, waiting)
    }

    /// Takes over what an earlier epoch left: commands that were proposed, and others.
    pub(super) fn take_over(&mut self, proposed: Vec<Command>, waiting: Vec<Command>) {
        self.admission.push_front(proposed.into_iter());
        waiting.into_iter().for_each(|command| self.admission.push_back(command));
    }
}
