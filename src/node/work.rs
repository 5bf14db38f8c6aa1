//! What the apply thread is given to do, and what it counts. Between the core, which hands it out,
//! and `apply`, which does it.

use std::any::Any;

use bytes::Bytes;
use crossbeam::channel::Sender;
use tokio::sync::oneshot;

use super::error::ProposeError;
use super::latency::Latency;
use super::pending::Waiter;
use crate::replica::Execution;
use crate::types::Command;

/// Something for the apply thread to do. Between any two, the state may be observed.
pub(super) enum Work {
    /// Whole components, in execution order.
    Execute(Vec<Execution>),
    /// Reads that are linearizable here and now, whoever asked.
    Answer(Vec<Command>),
    /// Boxed: the others are a few words long, and queues and errors hold any of them.
    Read(Bytes, Box<Waiter>),
    Digest(oneshot::Sender<u64>),
    /// The state as it is now, for a snapshot.
    Checkpoint(Box<dyn FnOnce(Vec<u8>) + Send>),
    /// Another replica's state takes the place of this one: an `Applier` of the same machine.
    Install(Box<dyn Any + Send>),
    /// All before is done: somebody waits for that.
    Reached(Sender<()>),
    /// The log has been read.
    Restored,
    Stop,
}

/// How much work is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Weight {
    /// How many commands it executes or answers.
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

    /// Answers whoever waits for it, if it can't be done.
    pub(super) fn turn_away(self, why: ProposeError) {
        if let Work::Read(_, waiter) = self {
            waiter.answer(Err(why));
        }
    }
}

/// What the apply thread counts.
#[derive(Default)]
pub(super) struct ApplyMetrics {
    /// Commands executed for the first time here, whoever proposed them.
    pub(super) executed: u64,
    /// Commands that had been executed before: retries.
    pub(super) repeated: u64,
    /// Local reads.
    pub(super) reads: u64,
    /// Linearizable reads that were not proposed.
    pub(super) unproposed_reads: u64,
    /// From the call to the answer, for the commands proposed here.
    pub(super) latency: Latency,
    /// The same of those committed on the fast path.
    pub(super) fast: Latency,
    /// The same of those committed otherwise.
    pub(super) slow: Latency,
    /// How long it took to put the state into bytes, for each snapshot.
    pub(super) stall: Latency,
    /// How many bytes that were the last time.
    pub(super) state_bytes: u64,
}
