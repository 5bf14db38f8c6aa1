//! Where commands wait to be proposed: at the gate, for a protocol that orders by keys, or in line,
//! for one that agrees on one sequence and has nothing to gain from keeping keys apart.

use std::collections::VecDeque;
use std::sync::Arc;

use super::gate::Gate;
use crate::types::{
    Batch, Command, Executed, ExecutionOrder, InstanceId, ReplicaId, RequestId, Time,
};

/// Own proposals of a sequence under way; beyond that, what waits leaves together later.
const PIPELINED: usize = 1024;

/// Either.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it stays where it is")]
pub(super) enum Entrance {
    Gate(Gate),
    Line(Line),
}

impl Entrance {
    pub(super) fn new(order: ExecutionOrder, me: ReplicaId) -> Entrance {
        match order {
            ExecutionOrder::Dependencies => Entrance::Gate(Gate::new(me)),
            ExecutionOrder::Log => Entrance::Line(Line::default()),
        }
    }

    /// Commands that wait, and the bytes of their payloads.
    pub(super) fn waiting(&self) -> (usize, usize) {
        match self {
            Entrance::Gate(gate) => gate.waiting(),
            Entrance::Line(line) => (line.commands.len(), line.bytes),
        }
    }

    /// When to ask for batches again if nothing else happens.
    pub(super) fn wake(&self) -> Option<Time> {
        match self {
            Entrance::Gate(gate) => gate.wake(),
            Entrance::Line(_) => None,
        }
    }

    /// A new command waits behind all others.
    pub(super) fn push_back(&mut self, command: Command) {
        match self {
            Entrance::Gate(gate) => gate.push_back(command),
            Entrance::Line(line) => line.push_back(command),
        }
    }

    /// Commands that came back wait before all others, in their order.
    pub(super) fn push_front(&mut self, commands: impl DoubleEndedIterator<Item = Command>) {
        match self {
            Entrance::Gate(gate) => gate.push_front(commands),
            Entrance::Line(line) => commands.rev().for_each(|command| line.push_front(command)),
        }
    }

    /// Takes out all that wait and have never been proposed here.
    pub(super) fn take_fresh(&mut self) -> Vec<RequestId> {
        match self {
            Entrance::Gate(gate) => gate.take_fresh(),
            Entrance::Line(line) => line.take_fresh(),
        }
    }

    /// An instance's payload became known here.
    pub(super) fn learned(&mut self, id: InstanceId, batch: &Arc<Batch>) {
        if let Entrance::Gate(gate) = self {
            gate.learned(id, batch);
        }
    }

    /// An instance was executed or ended as `Nop`.
    pub(super) fn finished(&mut self, id: InstanceId) {
        if let Entrance::Gate(gate) = self {
            gate.finished(id);
        }
    }

    /// All of these are executed.
    pub(super) fn executed(&mut self, executed: &Executed) {
        if let Entrance::Gate(gate) = self {
            gate.executed(executed);
        }
    }

    /// What may be proposed now, while so many own proposals are under way. Ask until there is
    /// nothing.
    pub(super) fn batches(&mut self, now: Time, under_way: usize) -> Vec<Arc<Batch>> {
        match self {
            Entrance::Gate(gate) => gate.batches(now),
            Entrance::Line(_) if under_way >= PIPELINED => Vec::new(),
            Entrance::Line(line) => line.batch().into_iter().collect(),
        }
    }
}

/// First come, first served.
#[derive(Debug, Default)]
pub(super) struct Line {
    commands: VecDeque<Command>,
    /// How many of the first have been proposed before and came back.
    returned: usize,
    bytes: usize,
}

impl Line {
    fn push_back(&mut self, command: Command) {
        self.bytes += command.payload.len();
        self.commands.push_back(command);
    }

    fn push_front(&mut self, command: Command) {
        self.bytes += command.payload.len();
        self.commands.push_front(command);
        self.returned += 1;
    }

    fn take_fresh(&mut self) -> Vec<RequestId> {
        let fresh = self.commands.split_off(self.returned);
        self.bytes -= fresh.iter().map(|command| command.payload.len()).sum::<usize>();
        fresh.into_iter().map(|command| command.request).collect()
    }

    /// All that waits, as far as one batch holds it.
    fn batch(&mut self) -> Option<Arc<Batch>> {
        let (mut keys, mut bytes) = (0, 0);
        let fits = |command: &&Command| {
            keys += command.footprint.keys().map_or(0, <[_]>::len);
            bytes += command.payload.len();
            keys <= Batch::MAX_KEYS && bytes <= Batch::MAX_BYTES
        };
        let together = self.commands.iter().take(Batch::MAX_COMMANDS).take_while(fits).count();
        // One alone may have more than that.
        let leaving = together.max(1).min(self.commands.len());
        let commands: Vec<Command> = self.commands.drain(..leaving).collect();
        self.returned = self.returned.saturating_sub(leaving);
        if commands.is_empty() {
            return None;
        }
        self.bytes -= commands.iter().map(|command| command.payload.len()).sum::<usize>();
        Some(Batch::new(commands))
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

    fn line() -> Entrance {
        Entrance::new(ExecutionOrder::Log, ReplicaId::from_index(0))
    }

    fn leave(line: &mut Entrance) -> Vec<u64> {
        let batches = line.batches(Time::ZERO, 0);
        let commands = batches.iter().flat_map(|batch| batch.commands());
        commands.map(|command| command.request.sequence).collect()
    }

    #[test]
    fn all_that_waits_leaves_together_and_what_came_back_first() {
        let mut line = line();
        assert!(leave(&mut line).is_empty());
        (1..=3).for_each(|sequence| line.push_back(command(sequence, 10)));
        line.push_front([command(8, 1), command(9, 1)].into_iter());
        assert_eq!(line.waiting(), (5, 32));
        assert!(line.batches(Time::ZERO, PIPELINED).is_empty());
        assert_eq!(leave(&mut line), [8, 9, 1, 2, 3]);
        assert_eq!(line.waiting(), (0, 0));
    }

    #[test]
    fn what_was_never_proposed_can_be_taken_out() {
        for mut entrance in [line(), Entrance::Gate(Gate::new(ReplicaId::from_index(0)))] {
            (1..=3).for_each(|sequence| entrance.push_back(command(sequence, 10)));
            entrance.push_front([command(8, 1), command(9, 1)].into_iter());
            let fresh: Vec<u64> = entrance.take_fresh().iter().map(|it| it.sequence).collect();
            assert_eq!((fresh, entrance.waiting()), (vec![1, 2, 3], (2, 2)));
            // The others leave as ever, and what comes later waits behind them.
            entrance.push_back(command(4, 5));
            let mut left = leave(&mut entrance);
            for now in 1..100 {
                let time = Time::ZERO + std::time::Duration::from_millis(now);
                let batches = entrance.batches(time, 0);
                let commands = batches.iter().flat_map(|batch| batch.commands());
                left.extend(commands.map(|command| command.request.sequence));
            }
            assert_eq!((left, entrance.waiting()), (vec![8, 9, 4], (0, 0)));
        }
    }

    #[test]
    fn a_batch_is_bounded_in_commands_and_in_bytes() {
        let mut line = line();
        (0..=4096).for_each(|sequence| line.push_back(command(sequence, 0)));
        assert_eq!((leave(&mut line).len(), leave(&mut line)), (4096, vec![4096]));
        let half = Batch::MAX_BYTES / 2;
        for (sequence, bytes) in [(1, half), (2, half), (3, 3 * half), (4, 1)] {
            line.push_back(command(sequence, bytes));
        }
        assert_eq!(
            (leave(&mut line), leave(&mut line), leave(&mut line)),
            (vec![1, 2], vec![3], vec![4])
        );
    }
}
