//! Admission: decides which waiting commands are proposed, and when. For a protocol that orders by
//! keys it works key by key (`keyed`). A protocol that agrees on one sequence gains nothing from
//! that, so its commands are proposed in order of arrival (`queue`).

mod keyed;
#[cfg(test)]
mod keyed_tests;
mod queue;

use std::sync::Arc;

use keyed::KeyedAdmission;
use queue::Queue;

use crate::types::{
    Batch, Command, Executed, ExecutionOrder, InstanceId, ReplicaId, RequestId, Time,
};

/// Own proposals in progress, for a single sequence. Beyond that, commands wait and form a batch.
const PIPELINED: usize = 1024;

/// Commands that wait to be proposed.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it stays where it is")]
pub(super) enum Admission {
    Keyed(KeyedAdmission),
    Queued(Queue),
}

impl Admission {
    pub(super) fn new(order: ExecutionOrder, me: ReplicaId) -> Admission {
        match order {
            ExecutionOrder::Dependencies => Admission::Keyed(KeyedAdmission::new(me)),
            ExecutionOrder::Log => Admission::Queued(Queue::default()),
        }
    }

    /// The number of waiting commands, and the bytes of their payloads.
    pub(super) fn waiting(&self) -> (usize, usize) {
        match self {
            Admission::Keyed(keyed) => keyed.waiting(),
            Admission::Queued(queue) => queue.waiting(),
        }
    }

    /// When to ask for batches again if nothing else happens.
    pub(super) fn wake(&self) -> Option<Time> {
        match self {
            Admission::Keyed(keyed) => keyed.wake(),
            Admission::Queued(_) => None,
        }
    }

    /// Adds a new command at the end of the queue.
    pub(super) fn push_back(&mut self, command: Command) {
        match self {
            Admission::Keyed(keyed) => keyed.push_back(command),
            Admission::Queued(queue) => queue.push_back(command),
        }
    }

    /// Adds returned commands in front of all others, in their order.
    pub(super) fn push_front(&mut self, commands: impl DoubleEndedIterator<Item = Command>) {
        match self {
            Admission::Keyed(keyed) => keyed.push_front(commands),
            Admission::Queued(queue) => {
                commands.rev().for_each(|command| queue.push_front(command))
            }
        }
    }

    /// Removes all waiting commands that were never proposed here.
    pub(super) fn take_fresh(&mut self) -> Vec<RequestId> {
        match self {
            Admission::Keyed(keyed) => keyed.take_fresh(),
            Admission::Queued(queue) => queue.take_fresh(),
        }
    }

    /// All that wait, in their order: those that were proposed before, and new ones.
    pub(super) fn into_waiting(self) -> (Vec<Command>, Vec<Command>) {
        match self {
            Admission::Keyed(keyed) => keyed.into_waiting(),
            Admission::Queued(queue) => queue.into_waiting(),
        }
    }

    /// An instance's payload became known here.
    pub(super) fn learned(&mut self, id: InstanceId, batch: &Arc<Batch>) {
        if let Admission::Keyed(keyed) = self {
            keyed.learned(id, batch);
        }
    }

    /// An instance was executed or ended as `Nop`.
    pub(super) fn finished(&mut self, id: InstanceId) {
        if let Admission::Keyed(keyed) = self {
            keyed.finished(id);
        }
    }

    /// All of these are executed.
    pub(super) fn executed(&mut self, executed: &Executed) {
        if let Admission::Keyed(keyed) = self {
            keyed.executed(executed);
        }
    }

    /// The batches that may be proposed now, while `under_way` own proposals are in progress. Call
    /// until there is none.
    pub(super) fn batches(&mut self, now: Time, under_way: usize) -> Vec<Arc<Batch>> {
        match self {
            Admission::Keyed(keyed) => keyed.batches(now),
            Admission::Queued(_) if under_way >= PIPELINED => Vec::new(),
            Admission::Queued(queue) => queue.batch().into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClientId, Footprint, RequestId};
    use bytes::Bytes;

    fn command(sequence: u64, bytes: usize) -> Command {
        Command {
            request: RequestId::new(ClientId(1), sequence),
            floor: 0,
            origin: ReplicaId::from_index(0),
            footprint: Footprint::write(b"k"),
            payload: Bytes::from(vec![0; bytes]),
        }
    }

    fn queue() -> Admission {
        Admission::new(ExecutionOrder::Log, ReplicaId::from_index(0))
    }

    fn leave(queue: &mut Admission) -> Vec<u64> {
        let batches = queue.batches(Time::ZERO, 0);
        let commands = batches.iter().flat_map(|batch| batch.commands());
        commands.map(|command| command.request.sequence).collect()
    }

    #[test]
    fn all_that_waits_leaves_together_and_what_came_back_first() {
        let mut queue = queue();
        assert!(leave(&mut queue).is_empty());
        (1..=3).for_each(|sequence| queue.push_back(command(sequence, 10)));
        queue.push_front([command(8, 1), command(9, 1)].into_iter());
        assert_eq!(queue.waiting(), (5, 32));
        assert!(queue.batches(Time::ZERO, PIPELINED).is_empty());
        assert_eq!(leave(&mut queue), [8, 9, 1, 2, 3]);
        assert_eq!(queue.waiting(), (0, 0));
    }

    #[test]
    fn what_was_never_proposed_can_be_taken_out() {
        for mut admission in
            [queue(), Admission::Keyed(KeyedAdmission::new(ReplicaId::from_index(0)))]
        {
            (1..=3).for_each(|sequence| admission.push_back(command(sequence, 10)));
            admission.push_front([command(8, 1), command(9, 1)].into_iter());
            let fresh: Vec<u64> = admission.take_fresh().iter().map(|it| it.sequence).collect();
            assert_eq!((fresh, admission.waiting()), (vec![1, 2, 3], (2, 2)));
            // The others are proposed as usual, and later commands wait after them.
            admission.push_back(command(4, 5));
            let mut left = leave(&mut admission);
            for now in 1..100 {
                let time = Time::ZERO + std::time::Duration::from_millis(now);
                let batches = admission.batches(time, 0);
                let commands = batches.iter().flat_map(|batch| batch.commands());
                left.extend(commands.map(|command| command.request.sequence));
            }
            assert_eq!((left, admission.waiting()), (vec![8, 9, 4], (0, 0)));
        }
    }

    #[test]
    fn a_batch_is_bounded_in_commands_and_in_bytes() {
        let mut queue = queue();
        (0..=4096).for_each(|sequence| queue.push_back(command(sequence, 0)));
        assert_eq!((leave(&mut queue).len(), leave(&mut queue)), (4096, vec![4096]));
        let half = Batch::MAX_BYTES / 2;
        for (sequence, bytes) in [(1, half), (2, half), (3, 3 * half), (4, 1)] {
            queue.push_back(command(sequence, bytes));
        }
        assert_eq!(
            (leave(&mut queue), leave(&mut queue), leave(&mut queue)),
            (vec![1, 2], vec![3], vec![4])
        );
    }
}
