//! What the handles, the threads and the clients' tasks of one replica share: queues, all bounded,
//! and the way it ends. Nothing in here knows the protocol or the state machine.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::{Sender, TrySendError};
use crossbeam::queue::ArrayQueue;
use tokio::sync::{Notify, oneshot, watch};

use super::clock::Clock;
use super::error::{Fault, ProposeError, Rejected, SnapshotError, Unknown};
use super::limits::Limits;
use super::metrics::Metrics;
use super::panics::lock;
use super::pending::{Entered, Most, Pending, Waiter};
use super::status::{Explanation, Status};
use super::turns::Turns;
use super::work::{ApplyMetrics, Work};
use crate::machine::{ContentKey, Sessions};
use crate::replica::Reach;
use crate::storage::SnapshotInfo;
use crate::types::{
    Access, ClientId, Command, Era, Footprint, InstanceId, KeyHash, Numbering, ReplicaId,
    ReplicaSet, RequestId, Time,
};

/// Commands between the callers and the core; the core empties it at every turn.
const PROPOSALS: usize = 16_384;
/// Payload bytes between the core and the apply thread, unless they are one step's.
const WORK_BYTES: usize = 32 << 20;
/// What a key of a footprint takes in memory.
const KEY_BYTES: usize = size_of::<(KeyHash, Access)>();
/// Questions of operators between two turns.
const QUESTIONS: usize = 64;

/// How a replica stands. It only ever moves down this list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Phase {
    Running,
    /// Answers what is under way, takes nothing new.
    Stopping,
    /// Stops where it stands, as in a crash.
    Killed,
    /// A fault was found; it is fenced.
    Failed,
}

/// Who asked for a snapshot.
pub(super) type Asker = oneshot::Sender<Result<SnapshotInfo, SnapshotError>>;

/// Something only the core thread can answer.
pub(super) enum Question {
    Status(oneshot::Sender<Status>),
    Metrics(oneshot::Sender<Metrics>),
    Explain(InstanceId, oneshot::Sender<Explanation>),
    /// The digest of the state after everything executed so far.
    Digest(oneshot::Sender<u64>),
    Snapshot(Asker),
    /// Answered at once; then the core stands still until the channel is closed.
    Pause(crossbeam::channel::Receiver<()>, oneshot::Sender<()>),
}

pub(super) struct ReplicaShared {
    pub(super) id: ReplicaId,
    pub(super) clock: Clock,
    pub(super) limits: Limits,
    pub(super) propose_timeout: Duration,
    pub(super) pending: Pending,
    /// Whose command may come in.
    pub(super) turns: Arc<Turns>,
    pub(super) proposals: ArrayQueue<Command>,
    pub(super) questions: ArrayQueue<Question>,
    /// Wakes the core.
    pub(super) wake: Notify,
    /// To be used through `try_work` and `send_work`.
    work: Sender<(Work, usize)>,
    /// The bytes in it.
    work_bytes: AtomicUsize,
    /// The core found no room in `work`, and wants to be woken when there is some.
    pub(super) core_waits: AtomicBool,
    pub(super) applied: Mutex<ApplyMetrics>,
    /// Until when the core lets a leader's reads be answered, in nanoseconds of the clock.
    lease_end: AtomicU64,
    /// The peers that frames pass to and from.
    pub(super) connected: watch::Sender<ReplicaSet>,
    /// Clients' requests that made no sense.
    pub(super) bad_requests: AtomicU64,
    /// The log has no room for another segment.
    space_low: AtomicBool,
    /// The log has no room for the records it was given.
    waits_for_room: AtomicBool,
    /// No quorum can be reached.
    quorum_lost: AtomicBool,
    /// By what the contents of commands are told apart, where nothing that is kept says it.
    pub(super) content_key: ContentKey,
    /// What the sessions have come to, as of what was applied last.
    era: AtomicU32,
    next_close: AtomicU64,
    growth: AtomicUsize,
    sessions: AtomicUsize,
    phase: AtomicU8,
    /// What is wrong, once failed.
    fault: Mutex<Option<Fault>>,
    /// True once the threads are gone.
    pub(super) stopped: watch::Sender<bool>,
    /// The last figures, once stopped.
    pub(super) last: Mutex<Option<Metrics>>,
}

impl ReplicaShared {
    pub(super) fn new(
        id: ReplicaId,
        limits: Limits,
        propose_timeout: Duration,
        work: Sender<(Work, usize)>,
    ) -> ReplicaShared {
        let clock = Clock::start();
        ReplicaShared {
            id,
            clock,
            turns: Arc::new(Turns::new(clock)),
            propose_timeout,
            pending: Pending::new(Most { commands: limits.commands, bytes: limits.bytes }),
            limits,
            proposals: ArrayQueue::new(PROPOSALS),
            questions: ArrayQueue::new(QUESTIONS),
            wake: Notify::new(),
            work,
            work_bytes: AtomicUsize::new(0),
            core_waits: AtomicBool::new(false),
            applied: Mutex::default(),
            lease_end: AtomicU64::new(0),
            connected: watch::Sender::new(ReplicaSet::EMPTY),
            bad_requests: AtomicU64::new(0),
            space_low: AtomicBool::new(false),
            waits_for_room: AtomicBool::new(false),
            quorum_lost: AtomicBool::new(false),
            content_key: rand::random(),
            era: AtomicU32::new(0),
            next_close: AtomicU64::new(0),
            growth: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            phase: AtomicU8::new(Phase::Running as u8),
            fault: Mutex::new(None),
            stopped: watch::Sender::new(false),
            last: Mutex::new(None),
        }
    }

    /// Lets a command in, or turns it away before anything was proposed. Either way `waiter` is
    /// answered, now or later. Never blocks.
    pub(super) fn submit(
        &self,
        request: RequestId,
        floor: u64,
        footprint: Footprint,
        payload: Bytes,
        waiter: Waiter,
    ) {
        if let Err(rejected) = self.check(request, &footprint, &payload) {
            return waiter.answer(Err(rejected.into()));
        }
        let now = self.clock.now();
        let keys = footprint.keys().map_or(0, <[_]>::len);
        let bytes = payload.len() + keys * KEY_BYTES;
        match self.pending.enter(request, &payload, bytes, now, waiter) {
            Err(turned_away) => {
                let (waiter, why) = *turned_away;
                return waiter.answer(Err(why));
            }
            Ok(Entered::Joined) => return,
            Ok(Entered::New) => {}
        }
        self.propose_again(Command { request, floor, origin: self.id, footprint, payload });
    }

    /// Takes note of until when a leader's reads may be answered.
    pub(super) fn set_lease_end(&self, end: Time) {
        self.lease_end.store(end.as_nanos(), Ordering::Release);
    }

    /// Until when a leader's reads may be answered, as the core saw it last.
    pub(super) fn lease_end(&self) -> Time {
        Time::from_nanos(self.lease_end.load(Ordering::Acquire))
    }

    /// A command that was let in goes to the core once more. It surely had no effect.
    pub(super) fn propose_again(&self, command: Command) {
        let request = command.request;
        if self.proposals.push(command).is_err() {
            self.pending.turn_away(request, Rejected::Overloaded);
        }
        self.wake.notify_one();
    }

    /// Takes note of what the sessions have come to.
    pub(super) fn note_sessions(&self, sessions: &Sessions) {
        self.era.store(sessions.era().number(), Ordering::Release);
        self.sessions.store(sessions.len(), Ordering::Release);
        self.next_close.store(sessions.next_close(), Ordering::Release);
        self.growth.store(sessions.growth(), Ordering::Release);
    }

    /// The close that comes next, and how near it is: due from 1000 on.
    pub(super) fn next_close(&self) -> (u64, usize) {
        (self.next_close.load(Ordering::Acquire), self.growth.load(Ordering::Acquire))
    }

    /// The present era.
    pub(super) fn era(&self) -> Era {
        Era::new(self.era.load(Ordering::Acquire)).expect("stored from one")
    }

    /// How many sessions there are.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Acquire)
    }

    /// The next sequence, in the present era at least, and the floor that goes with it.
    pub(super) fn next_of(&self, numbers: &Mutex<Numbering>) -> (u64, u64) {
        let mut numbers = lock(numbers);
        numbers.skip_to(self.era().first_sequence());
        numbers.start()
    }

    /// What peers could not take in is not sent to them, and what is left of the disk is for votes
    /// and decisions.
    fn check(
        &self,
        request: RequestId,
        footprint: &Footprint,
        payload: &Bytes,
    ) -> Result<(), Rejected> {
        if request.client == ClientId::CLUSTER {
            return Err(Rejected::BadCommand("this session is the cluster's own".to_owned()));
        }
        let (bytes, limit) = (payload.len(), self.limits.command_bytes);
        if bytes > limit {
            return Err(Rejected::TooLarge { bytes, limit });
        }
        let (keys, limit) = (footprint.keys().map_or(0, <[_]>::len), Command::MAX_KEYS);
        if keys > limit {
            return Err(Rejected::TooManyKeys { keys, limit });
        }
        if self.space_is_low() {
            return Err(Rejected::DiskFull);
        }
        Ok(())
    }

    /// Reads from the state as it is.
    pub(super) fn read_local(&self, payload: Bytes, waiter: Waiter) {
        if self.phase() != Phase::Running {
            return waiter.answer(Err(self.end().1));
        }
        match self.try_work(Work::Read(payload, Box::new(waiter))) {
            Ok(()) => {}
            Err(TrySendError::Full(work)) => work.turn_away(Rejected::Overloaded.into()),
            Err(TrySendError::Disconnected(work)) => work.turn_away(self.end().1),
        }
    }

    /// Hands work to the apply thread, if there is room.
    pub(super) fn try_work(&self, work: Work) -> Result<(), TrySendError<Work>> {
        let bytes = work.weight().bytes;
        let before = self.work_bytes.fetch_add(bytes, Ordering::AcqRel);
        let sent = match before > 0 && before + bytes > WORK_BYTES {
            true => Err(TrySendError::Full(work)),
            false => self.work.try_send((work, bytes)).map_err(|error| match error {
                TrySendError::Full((work, _)) => TrySendError::Full(work),
                TrySendError::Disconnected((work, _)) => TrySendError::Disconnected(work),
            }),
        };
        if sent.is_err() {
            self.work_bytes.fetch_sub(bytes, Ordering::AcqRel);
        }
        sent
    }

    /// Hands work to the apply thread and waits for a place, however many bytes there are; whether
    /// the thread is still there.
    pub(super) fn send_work(&self, work: Work) -> bool {
        let bytes = work.weight().bytes;
        self.work_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.work.send((work, bytes)).is_ok()
    }

    /// The apply thread is done with work of that many bytes.
    pub(super) fn work_done(&self, bytes: usize) {
        self.work_bytes.fetch_sub(bytes, Ordering::AcqRel);
        if self.core_waits.swap(false, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Asks the core thread; `None` when there is no core any more, or too many questions.
    pub(super) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        if *self.stopped.borrow() {
            return None;
        }
        self.questions.push(question(sender)).ok()?;
        self.wake.notify_one();
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            biased;
            answer = receiver => answer.ok(),
            _ = stopped.wait_for(|stopped| *stopped) => None,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Stopping,
            2 => Phase::Killed,
            _ => Phase::Failed,
        }
    }

    /// Moves on to `phase`, unless it is further already.
    pub(super) fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        if phase == Phase::Stopping {
            self.pending.stop();
        }
        if phase >= Phase::Stopping {
            // Whoever waits for a turn is let in to be told.
            self.turns.close();
        }
        self.wake.notify_one();
    }

    pub(super) fn space_is_low(&self) -> bool {
        self.space_low.load(Ordering::Relaxed)
    }

    /// Takes note of whether there is room for the log to grow.
    pub(super) fn set_space_low(&self, low: bool) {
        self.space_low.store(low, Ordering::Relaxed);
        if low {
            tracing::error!(us = %self.id, "the disk is full: nothing new is proposed here");
        } else {
            tracing::info!(us = %self.id, "the disk has room again");
        }
        self.wake.notify_one();
    }

    pub(super) fn waits_for_room(&self) -> bool {
        self.waits_for_room.load(Ordering::Acquire)
    }

    /// Takes note of whether records wait for room.
    pub(super) fn set_waits_for_room(&self, waits: bool) {
        self.waits_for_room.store(waits, Ordering::Release);
        if waits {
            tracing::error!(
                us = %self.id,
                "the disk has no room for votes either: the replica stands still until there is \
                 some. Make room, and it goes on by itself"
            );
        } else {
            tracing::info!(us = %self.id, "there was room for the votes: the replica goes on");
        }
        self.wake.notify_one();
    }

    /// Says once when the quorum is lost, and once when it is back.
    pub(super) fn note_quorum(&self, lost: bool, reach: impl FnOnce() -> Reach) {
        if self.quorum_lost.swap(lost, Ordering::Relaxed) == lost {
            return;
        }
        let (us, reach) = (self.id, reach());
        match lost {
            true => tracing::warn!(%us, "{reach}: nothing new is proposed until there is one"),
            false => tracing::info!(%us, "{reach}: commands are proposed again"),
        }
    }

    /// Fences the replica: nobody is told anything but that it has failed, and why first.
    pub(super) fn fail(&self, fault: Fault) {
        {
            let mut first = lock(&self.fault);
            if first.is_none() {
                tracing::error!(us = %self.id, %fault, "the replica stops");
                *first = Some(fault);
            }
        }
        self.advance(Phase::Failed);
        let (inside, after) = self.end();
        self.pending.close(&inside, after);
    }

    /// What those are told who are waiting when the replica ends, and those who come later.
    pub(super) fn end(&self) -> (ProposeError, ProposeError) {
        match &*lock(&self.fault) {
            Some(fault) => {
                let fatal = ProposeError::Fatal(fault.to_string());
                (fatal.clone(), fatal)
            }
            None => (Unknown::Stopped.into(), Rejected::Stopping.into()),
        }
    }

    /// Why the replica failed, if it has.
    pub(super) fn fault(&self) -> Option<Fault> {
        lock(&self.fault).clone()
    }
}
