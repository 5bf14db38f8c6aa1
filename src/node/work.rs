//! The apply thread's tasks and counters. Between the core, which gives the tasks, and `apply`,
//! which does them.

use std::any::Any;

use bytes::Bytes;
use crossbeam::channel::Sender;
use tokio::sync::oneshot;

use super::error::ProposeError;
use super::latency::Latency;
use super::pending::Waiter;
use crate::machine::Frozen;
use crate::replica::Execution;
use crate::types::Command;

/// A task for the apply thread. Between two tasks the state may be observed.
pub(super) enum Work {
    /// Whole components, in execution order.
    Execute(Vec<Execution>),
    /// Reads that are linearizable now, from any caller.
    Answer(Vec<Command>),
    /// Boxed to keep this enum small: the other variants are a few words long.
    Read(Bytes, Box<Waiter>),
    Digest(oneshot::Sender<u64>),
    /// Fixes the current state for a snapshot.
    Checkpoint(Box<NewCheckpoint>),
    /// Replaces the state with another replica's: an `Applier` of the same machine.
    Install(Box<dyn Any + Send>),
    /// Reports that all earlier work is done.
    Reached(Sender<()>),
    /// The log has been read.
    Restored,
    Stop,
}

/// A snapshot to be taken of the state.
pub(super) struct NewCheckpoint {
    /// The number of the checkpoint, if the machine keeps its state on disk itself. `None` if the
    /// replica has no disk.
    pub(super) number: Option<u64>,
    /// Another replica wants to read it.
    pub(super) lend: bool,
    pub(super) deliver: Box<dyn FnOnce(Frozen) + Send>,
}

/// The amount of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Weight {
    /// The number of commands to execute or answer.
    pub(super) commands: usize,
    /// Their payloads' bytes.
    pub(super) bytes: usize,
}

impl Work {
    pub(super) fn weight(&self) -> Weight {
        match self {
            Work::Execute(list) => Weight {
                commands: list.iter().map(|it| it.batch.commands().len()).sum(),
                bytes: list.iter().map(|it| it.batch.bytes()).sum(),
            },
            Work::Answer(reads) => Weight {
                commands: reads.len(),
                bytes: reads.iter().map(|read| read.payload.len()).sum(),
            },
            Work::Read(payload, _) => Weight { commands: 0, bytes: payload.len() },
            Work::Digest(_)
            | Work::Checkpoint(_)
            | Work::Install(_)
            | Work::Reached(_)
            | Work::Restored
            | Work::Stop => Weight::default(),
        }
    }

    /// Answers the waiting caller, if there is one, that the work cannot be done.
    pub(super) fn turn_away(self, why: ProposeError) {
        if let Work::Read(_, waiter) = self {
            waiter.answer(Err(why));
        }
    }
}

/// The apply thread's counters.
#[derive(Default)]
pub(super) struct ApplyMetrics {
    /// Commands executed for the first time here, whichever replica proposed them.
    pub(super) executed: u64,
    /// Commands that had been executed before: retries.
    pub(super) repeated: u64,
    /// Local reads.
    pub(super) reads: u64,
    /// Linearizable reads that were not proposed.
    pub(super) unproposed_reads: u64,
    /// From the call to the answer, for the commands proposed here.
    pub(super) latency: Latency,
    /// As above, for commands committed on the fast path.
    pub(super) fast: Latency,
    /// As above, for commands committed on another path.
    pub(super) slow: Latency,
    /// How long it took to make a view of the state for a snapshot.
    pub(super) stall: Latency,
}
