//! The apply thread: it owns the state machine and its sessions, executes decided commands and
//! answers their callers. It sits after the core, which feeds it in execution order. It has a
//! thread of its own so that a slow `apply` delays answers and nothing else.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use crossbeam::channel::Receiver;
use tracing::error;

use super::error::{Fault, ProposeError, Rejected, Unknown};
use super::panics::{lock, panic_text};
use super::pending::{Answer, Waited};
use super::poison::{self, PoisonedCommand};
use super::shared::{Lifecycle, ReplicaShared};
use super::work::{ApplyMetrics, NewCheckpoint, Work};
use crate::machine::{Applier, DiskFailed, Outcome, Refusal, StateMachine};
use crate::replica::Execution;
use crate::storage::{StorageError, Trail};
use crate::types::{Batch, Command, InstanceId, RequestId, Time};

/// Answers are handed out once they add up to this many bytes, or at the end of a step.
const ANSWERS: usize = 1 << 20;

/// After a restored log, this many commands leave a trail: see [`Trail`]. Commands that other
/// replicas decided and that are missing from the log arrive soon after a start.
const TRAIL: u64 = 65_536;

struct Apply<S> {
    applier: Applier<S>,
    shared: Arc<ReplicaShared>,
    /// Requests that are never executed, also after another state is installed.
    skipped: BTreeSet<RequestId>,
    /// When another replica's state last replaced this one.
    installed: Option<Time>,
    /// What the state machine is doing now.
    doing: Doing,
    /// Records the command being executed, so that the next process can name it after a crash.
    /// `Some` only for the first commands.
    trail: Option<Trail>,
    /// How many more commands leave a trail. `None` until the log has been read.
    trail_left: Option<u64>,
    /// For each command of the batch: whether a caller waits for its answer here.
    wanted: Vec<bool>,
    /// Answers that are not handed out yet, and their size in bytes.
    replies: Vec<(RequestId, Bytes, Reply)>,
    gathered: usize,
    counts: Counts,
    answers: Vec<(Waited, Answer)>,
}

/// What an apply thread starts with.
pub(super) struct First<S> {
    pub(super) applier: Applier<S>,
    pub(super) skipped: BTreeSet<RequestId>,
    /// `None` if the replica keeps everything in memory.
    pub(super) trail: Option<Trail>,
}

/// What the state machine is doing; named in the fault if it panics.
enum Doing {
    Other(&'static str),
    Read(RequestId),
    Command(InstanceId, Arc<Batch>, usize),
}

/// What to tell the callers that wait for a command.
struct Reply {
    answer: Answer,
    /// The session has expired. A caller that has waited since before an install gets another
    /// error.
    expired: bool,
}

/// Executions that the metrics do not include yet.
#[derive(Clone, Copy, Default)]
struct Counts {
    executed: u64,
    repeated: u64,
    unproposed_reads: u64,
}

/// Runs until it is told to stop. A panic of the state machine fences the replica.
pub(super) fn run<S: StateMachine>(
    first: First<S>,
    shared: &Arc<ReplicaShared>,
    work: &Receiver<(Work, usize)>,
) {
    let mut apply = Apply::new(first, shared);
    let ended = catch_unwind(AssertUnwindSafe(|| apply.run(work)));
    if let Err(panic) = ended {
        shared.fail(match panic.downcast::<DiskFailed>() {
            Ok(failed) => Fault::Storage(StorageError::of_machine("reading", failed.0)),
            Err(panic) => apply.doing.fault(panic_text(&*panic)),
        });
    }
    for (left, _) in work.try_iter() {
        left.turn_away(shared.end().1);
    }
}

impl Doing {
    fn fault(&self, panic: String) -> Fault {
        match self {
            Doing::Command(instance, batch, index) => {
                PoisonedCommand::new(*instance, &batch.commands()[*index], panic).into()
            }
            Doing::Read(request) => Fault::Bug(format!(
                "the state machine panicked at a read, request {request}: {panic}"
            )),
            Doing::Other(what) => {
                Fault::Bug(format!("the state machine panicked when it {what}: {panic}"))
            }
        }
    }
}

impl<S: StateMachine> Apply<S> {
    fn new(first: First<S>, shared: &Arc<ReplicaShared>) -> Apply<S> {
        let First { mut applier, skipped, trail } = first;
        applier.skip(skipped.iter().copied());
        Apply {
            applier,
            shared: Arc::clone(shared),
            skipped,
            installed: None,
            doing: Doing::Other("began"),
            trail,
            trail_left: None,
            wanted: Vec::new(),
            replies: Vec::new(),
            gathered: 0,
            counts: Counts::default(),
            answers: Vec::new(),
        }
    }

    fn run(&mut self, queue: &Receiver<(Work, usize)>) {
        self.shared.note_sessions(self.applier.sessions());
        while let Ok((work, bytes)) = queue.recv() {
            if self.shared.lifecycle() >= Lifecycle::Killed {
                work.turn_away(self.shared.end().1);
                return;
            }
            match work {
                Work::Execute(executions) => self.execute(executions),
                Work::Answer(reads) => self.answer_reads(&reads),
                Work::Read(payload, waiter) => {
                    lock(&self.shared.applied).reads += 1;
                    self.doing = Doing::Other("answered a local read");
                    waiter.answer(self.applier.read(&payload).map_err(ProposeError::from));
                }
                Work::Digest(sender) => {
                    self.doing = Doing::Other("made a digest");
                    // The receiver may be gone.
                    let _ = sender.send(self.applier.digest());
                }
                Work::Checkpoint(new) => self.checkpoint(*new),
                Work::Install(applier) => self.install(applier),
                Work::Reached(sender) => drop(sender.send(())),
                Work::Restored => self.trail_left = Some(TRAIL),
                Work::Stop => return,
            }
            self.doing = Doing::Other("waited");
            self.shared.note_checkpoint_wanted(self.applier.machine().wants_checkpoint());
            self.shared.work_done(bytes);
            // A killed replica must leave what a crashed process leaves, so its trail stays.
            if queue.is_empty()
                && self.shared.lifecycle() < Lifecycle::Killed
                && let Some(trail) = &mut self.trail
            {
                trail.clear();
            }
        }
    }

    fn install(&mut self, applier: Box<dyn Any + Send>) {
        let applier = applier.downcast().expect("an applier of the same machine");
        self.applier = *applier;
        for request in &self.skipped {
            if self.applier.sessions().is_used(*request) {
                let us = self.shared.id;
                error!(%us, %request, "skipped here, and executed by another replica");
            }
        }
        self.applier.skip(self.skipped.iter().copied());
        self.installed = Some(self.shared.clock.now());
        self.shared.note_sessions(self.applier.sessions());
    }

    /// Fixes the state, which another thread writes. Nothing is executed meanwhile.
    fn checkpoint(&mut self, new: NewCheckpoint) {
        self.doing = Doing::Other("took a snapshot");
        let begun = self.shared.clock.now();
        let frozen = self.applier.freeze(new.number, new.lend);
        lock(&self.shared.applied).stall.record(self.shared.clock.now().since(begun));
        (new.deliver)(frozen);
    }

    fn execute(&mut self, executions: Vec<Execution>) {
        for Execution { id, batch, me, .. } in executions {
            self.look_who_waits(batch.commands(), |command| command.origin == me);
            self.doing = Doing::Command(id, Arc::clone(&batch), 0);
            for (index, command) in batch.commands().iter().enumerate() {
                if let Doing::Command(_, _, at) = &mut self.doing {
                    *at = index;
                }
                self.leave_trail(id, command);
                let wanted = self.wanted[index];
                let applied = self.applier.apply(command, wanted);
                let counts = &mut self.counts;
                let fresh = applied.first || matches!(applied.outcome, Outcome::Refused(_));
                *(if fresh { &mut counts.executed } else { &mut counts.repeated }) += 1;
                if wanted {
                    self.reply(command, applied.outcome.into());
                }
            }
        }
        self.hand_out();
    }

    /// Answers reads from the current state. They bypass the sessions, because they are in no log.
    ///
    /// The lease must still hold after the read, by the clock at that moment: the machine may have
    /// been suspended since the core checked it. If the lease has ended, the core decides again how
    /// to read.
    fn answer_reads(&mut self, reads: &[Command]) {
        self.look_who_waits(reads, |_| true);
        let mut unanswered = 0;
        for (index, read) in reads.iter().enumerate() {
            if self.wanted[index] {
                self.doing = Doing::Read(read.request);
                let answer = self.applier.read(&read.payload).map_err(ProposeError::from);
                self.gather(read, Reply { answer, expired: false });
            }
            if self.gathered < ANSWERS && index + 1 < reads.len() {
                continue;
            }
            if self.shared.clock.now() >= self.shared.lease_end() {
                self.gathered = 0;
                self.replies.clear();
                let left = reads[unanswered..].iter().cloned();
                return left.for_each(|read| self.shared.propose_again(read));
            }
            self.counts.unproposed_reads += (index + 1 - unanswered) as u64;
            unanswered = index + 1;
            self.hand_out();
        }
    }

    /// Only a command's origin answers it, and only if a caller still waits there.
    fn look_who_waits(&mut self, commands: &[Command], is_own: impl Fn(&Command) -> bool) {
        self.wanted.clear();
        if !commands.iter().any(&is_own) {
            self.wanted.resize(commands.len(), false);
            return;
        }
        let own = commands.iter().map(|command| is_own(command).then_some(command));
        self.shared.pending.look_who_waits(own, &mut self.wanted);
    }

    fn leave_trail(&mut self, instance: InstanceId, command: &Command) {
        let Some(trail) = &mut self.trail else { return };
        match &mut self.trail_left {
            Some(0) => {
                trail.clear();
                self.trail = None;
                return;
            }
            Some(left) => *left -= 1,
            None => {}
        }
        let bytes = command.payload.len() as u64;
        trail.mark(command.request, instance, bytes, poison::digest(command));
    }

    fn reply(&mut self, command: &Command, reply: Reply) {
        self.gather(command, reply);
        if self.gathered >= ANSWERS {
            self.hand_out();
        }
    }

    fn gather(&mut self, command: &Command, reply: Reply) {
        self.gathered += reply.answer.as_ref().map_or(0, Bytes::len);
        self.replies.push((command.request, command.payload.clone(), reply));
    }

    /// Updates the metrics and answers the callers. At most [`ANSWERS`] bytes and one answer wait
    /// here.
    fn hand_out(&mut self) {
        self.gathered = 0;
        self.shared.note_sessions(self.applier.sessions());
        let counts = std::mem::take(&mut self.counts);
        let Apply { replies, answers, shared, installed, .. } = self;
        shared.pending.take(
            replies.drain(..),
            |(request, payload, _)| (*request, payload),
            |(.., reply), waited| {
                // A command proposed before the install may have been executed in the history that
                // the other replica's state contains.
                let before = installed.is_some_and(|installed| waited.since() <= installed);
                let answer = match reply.expired && before {
                    true => Err(Unknown::Expired.into()),
                    false => reply.answer,
                };
                answers.push((waited, answer));
            },
        );
        self.answer_all(|metrics| {
            metrics.executed += counts.executed;
            metrics.repeated += counts.repeated;
            metrics.unproposed_reads += counts.unproposed_reads;
        });
    }

    /// Updates the metrics and answers the callers.
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

impl From<Outcome> for Reply {
    fn from(outcome: Outcome) -> Reply {
        let expired = matches!(outcome, Outcome::Refused(Refusal::Expired { .. }));
        let answer = match outcome {
            Outcome::Output(output) => Ok(output),
            Outcome::TooLarge { bytes } => Err(ProposeError::too_large(bytes)),
            Outcome::Forgotten => Err(Unknown::Forgotten.into()),
            Outcome::Refused(refusal) => Err(Rejected::from(refusal).into()),
            Outcome::Unasked => unreachable!("there is an outcome for whoever waits"),
        };
        Reply { answer, expired }
    }
}

#[cfg(test)]
mod tests;
