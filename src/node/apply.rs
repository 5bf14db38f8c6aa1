//! The apply thread: the state machine and its sessions, and the answers to those who wait. Behind
//! the core, from which it is fed in execution order, so that a slow `apply` delays answers and
//! nothing else.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use crossbeam::channel::Receiver;
use tokio::sync::oneshot;

use super::desk::{Answer, Waited, Waiter};
use super::error::{Fault, ProposeError, Rejected, Unknown};
use super::metrics::Latency;
use super::shared::{Phase, Shared, lock, panic_text};
use crate::machine::{Applied, Applier, Outcome, Refusal, StateMachine};
use crate::replica::Execution;
use crate::types::{Command, Time};

/// Something for the apply thread to do. Between any two, the state may be observed.
pub(super) enum Work {
    /// Whole components, in execution order.
    Execute(Vec<Execution>),
    /// Reads that are linearizable here and now, whoever asked.
    Answer(Vec<Command>),
    Read(Bytes, Waiter),
    Digest(oneshot::Sender<u64>),
    /// The state as it is now, for a snapshot.
    Checkpoint(Box<dyn FnOnce(Vec<u8>) + Send>),
    /// Another replica's state takes the place of this one: an `Applier` of the same machine.
    Install(Box<dyn Any + Send>),
    Stop,
}

impl Work {
    /// How many commands it executes or answers.
    pub(super) fn commands(&self) -> usize {
        match self {
            Work::Execute(list) => list.iter().map(|it| it.batch.commands().len()).sum(),
            Work::Answer(reads) => reads.len(),
            Work::Read(..)
            | Work::Digest(_)
            | Work::Checkpoint(_)
            | Work::Install(_)
            | Work::Stop => 0,
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

struct Apply<S> {
    applier: Applier<S>,
    shared: Arc<Shared>,
    /// When another replica's state last took the place of this one.
    installed: Option<Time>,
    replies: Vec<Applied>,
    answers: Vec<(Waited, Answer)>,
}

/// Runs until it is told to stop. A panic of the state machine fences the replica.
pub(super) fn run<S: StateMachine>(
    applier: Applier<S>,
    shared: &Arc<Shared>,
    work: &Receiver<Work>,
) {
    let mut apply = Apply {
        applier,
        shared: Arc::clone(shared),
        installed: None,
        replies: Vec::new(),
        answers: Vec::new(),
    };
    let ended = catch_unwind(AssertUnwindSafe(|| apply.run(work)));
    if let Err(panic) = ended {
        let panic = panic_text(&*panic);
        shared.fail(Fault::Bug(format!("the state machine panicked: {panic}")));
    }
    for left in work.try_iter() {
        left.turn_away(shared.end().1);
    }
}

impl<S: StateMachine> Apply<S> {
    fn run(&mut self, queue: &Receiver<Work>) {
        self.shared.note_sessions(self.applier.sessions());
        while let Ok(work) = queue.recv() {
            if self.shared.phase() >= Phase::Killed {
                work.turn_away(self.shared.end().1);
                return;
            }
            match work {
                Work::Execute(executions) => self.execute(executions),
                Work::Answer(reads) => self.answer_reads(reads),
                Work::Read(payload, waiter) => {
                    lock(&self.shared.applied).reads += 1;
                    let read = self.applier.read(&payload);
                    waiter.answer(read.map_err(|error| Rejected::from(error).into()));
                }
                Work::Digest(sender) => {
                    // Whoever asked may have gone away.
                    let _ = sender.send(self.applier.digest());
                }
                Work::Checkpoint(deliver) => deliver(self.checkpoint()),
                Work::Install(applier) => {
                    let applier = applier.downcast().expect("an applier of the same machine");
                    self.applier = *applier;
                    self.installed = Some(self.shared.clock.now());
                    self.shared.note_sessions(self.applier.sessions());
                }
                Work::Stop => return,
            }
            if self.shared.core_waits.swap(false, Ordering::AcqRel) {
                self.shared.wake.notify_one();
            }
        }
    }

    /// The state as bytes. Nothing is executed meanwhile.
    fn checkpoint(&self) -> Vec<u8> {
        let begun = self.shared.clock.now();
        let state = self.applier.snapshot();
        let mut metrics = lock(&self.shared.applied);
        metrics.stall.record(self.shared.clock.now().since(begun));
        metrics.state_bytes = state.len() as u64;
        state
    }

    fn execute(&mut self, executions: Vec<Execution>) {
        for execution in executions {
            self.applier.apply(&execution.batch, &mut self.replies);
        }
        self.shared.note_sessions(self.applier.sessions());
        let (mut executed, mut repeated) = (0, 0);
        for applied in &self.replies {
            *(if applied.first { &mut executed } else { &mut repeated }) += 1;
        }
        let me = self.shared.id;
        self.replies.retain(|applied| applied.origin == me);
        let Apply { replies, answers, shared, installed, .. } = self;
        shared.desk.take(
            replies.drain(..),
            |applied| applied.request,
            |applied, waited| {
                // What was asked before may have been executed in the other replica's past.
                let before = installed.is_some_and(|installed| waited.since() <= installed);
                answers.push((waited, answer(applied.outcome, before)));
            },
        );
        self.answer_all(|metrics| {
            metrics.executed += executed;
            metrics.repeated += repeated;
        });
    }

    /// Answers reads from the state as it is, past the sessions: they are in no log.
    ///
    /// The lease that lets this replica read alone has to hold behind the read, too, by the clock
    /// as it is then: the machine may have been suspended since the core looked at it. If it does
    /// not hold any more, the core decides anew how to read.
    fn answer_reads(&mut self, reads: Vec<Command>) {
        let count = reads.len() as u64;
        let Apply { applier, answers, shared, .. } = self;
        let read = |read: &Command| (read.request, applier.read(&read.payload));
        // Before the desk is locked: what is read is the user's code.
        let read: Vec<_> = reads.iter().map(read).collect();
        if shared.clock.now() >= shared.lease_end() {
            return reads.into_iter().for_each(|read| shared.propose_again(read));
        }
        shared.desk.take(
            read.into_iter(),
            |(request, _)| *request,
            |(_, output), waited| {
                answers.push((waited, output.map_err(|error| Rejected::from(error).into())));
            },
        );
        self.answer_all(|metrics| metrics.unproposed_reads += count);
    }

    /// Counts, and answers those who wait.
    fn answer_all(&mut self, count: impl FnOnce(&mut ApplyMetrics)) {
        let now = self.shared.clock.now();
        {
            let mut metrics = lock(&self.shared.applied);
            count(&mut metrics);
            for (waited, _) in &self.answers {
                let took = now.since(waited.since());
                metrics.latency.record(took);
                match waited.fast() {
                    Some(true) => metrics.fast.record(took),
                    Some(false) => metrics.slow.record(took),
                    None => {}
                }
            }
        }
        for (waited, answer) in self.answers.drain(..) {
            waited.answer(answer);
        }
    }
}

/// What to tell whoever waits; `before` says that he has waited since before an install.
fn answer(outcome: Outcome, before: bool) -> Answer {
    match outcome {
        Outcome::Refused(Refusal::Expired { .. }) if before => Err(Unknown::Expired.into()),
        Outcome::Output(output) => Ok(output),
        Outcome::Forgotten => Err(Unknown::Forgotten.into()),
        Outcome::Refused(refusal) => Err(Rejected::from(refusal).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam::channel::bounded;

    use super::*;
    use crate::machine::{Kv, KvCommand, encode};
    use crate::node::shared::Limits;
    use crate::types::{ClientId, Footprint, ReplicaId, RequestId};

    /// The core saw that the lease held. Then the machine was suspended, say, until it did not.
    #[test]
    fn a_read_is_not_answered_after_the_lease() {
        let (sender, _queue) = bounded(1);
        let patience = Duration::from_secs(10);
        let me = ReplicaId::from_index(0);
        let shared = Arc::new(Shared::new(me, Limits::default(), patience, sender));
        let mut apply = Apply {
            applier: Applier::new(Kv::new()),
            shared: Arc::clone(&shared),
            installed: None,
            replies: Vec::new(),
            answers: Vec::new(),
        };
        let read = encode(&KvCommand::Get { key: Bytes::from_static(b"k") }).expect("it is short");
        let (request, footprint) = (RequestId::new(ClientId(1), 1), Footprint::read(b"k"));
        let (sender, mut answer) = oneshot::channel();
        shared.submit(request, 0, footprint, read, Waiter::Local(sender));
        let read = shared.proposals.pop().expect("it was let in");
        for end in [Time::ZERO, shared.clock.now()] {
            shared.set_lease_end(end);
            apply.answer_reads(vec![read.clone()]);
            assert!(answer.try_recv().is_err(), "who asked goes on waiting");
            assert_eq!(shared.proposals.pop(), Some(read.clone()), "it is read in another way");
        }
        shared.set_lease_end(shared.clock.now() + Duration::from_secs(3600));
        apply.answer_reads(vec![read]);
        assert!(answer.try_recv().expect("it is answered").is_ok());
        assert!(shared.proposals.is_empty());
    }
}
