//! What one replica's handles, threads and client tasks share: bounded queues, and the replica's
//! way to its end. Nothing here depends on the protocol or the state machine.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::{Sender, TrySendError};
use crossbeam::queue::ArrayQueue;
use tokio::sync::{Notify, oneshot, watch};

use super::clock::Clock;
use super::error::{Fault, ProposeError, Rejected, Unknown};
use super::fetched::{Asker, Wanted};
use super::limits::Limits;
use super::members::ChangeAsker;
use super::metrics::Metrics;
use super::panics::lock;
use super::pending::{Entered, Most, Pending, Waiter};
use super::status::{Explanation, Status};
use super::turns::Turns;
use super::work::{ApplyMetrics, Work};
use crate::machine::{ContentKey, Sessions};
use crate::replica::Reach;
use crate::types::{
    Access, Change, Command, Era, Footprint, InstanceId, KeyHash, MemberId, Membership, Numbering,
    ReplicaId, RequestId, Time,
};
use crate::wire::{Members, Role};

/// Bound on commands between the callers and the core, which takes from this queue at every turn.
const PROPOSALS: usize = 16_384;
/// Bound on payload bytes between the core and the apply thread; a single step may exceed it.
const WORK_BYTES: usize = 32 << 20;
/// Memory for one key of a footprint.
const KEY_BYTES: usize = size_of::<(KeyHash, Access)>();
/// Bound on operators' questions between two turns.
const QUESTIONS: usize = 64;

/// The life of a replica. It only moves down this list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Lifecycle {
    Running,
    /// Answers pending requests, accepts no new ones.
    Stopping,
    /// Stops at once, as in a crash.
    Killed,
    /// A fault was found; the replica is fenced.
    Failed,
}

/// A question that only the core thread can answer.
pub(super) enum Question {
    Status(oneshot::Sender<Status>),
    Metrics(oneshot::Sender<Metrics>),
    Explain(InstanceId, oneshot::Sender<Explanation>),
    /// The digest of the state after everything executed so far.
    Digest(oneshot::Sender<u64>),
    Snapshot(Asker),
    Fetch(Wanted),
    Members(oneshot::Sender<Members>),
    /// Whether to make it although no member may fail after it.
    ChangeMembers(Change, bool, ChangeAsker),
    /// Answered at once; then the core pauses until the channel is closed.
    Pause(crossbeam::channel::Receiver<()>, oneshot::Sender<()>),
}

pub(super) struct ReplicaShared {
    pub(super) id: MemberId,
    pub(super) clock: Clock,
    pub(super) limits: Limits,
    pub(super) propose_timeout: Duration,
    pub(super) pending: Pending,
    /// Decides whose command is next.
    pub(super) turns: Arc<Turns>,
    pub(super) proposals: ArrayQueue<Command>,
    pub(super) questions: ArrayQueue<Question>,
    /// Wakes the core.
    pub(super) wake: Notify,
    /// Use it only through `try_work` and `send_work`.
    work: Sender<(Work, usize)>,
    /// The bytes queued in `work`.
    work_bytes: AtomicUsize,
    /// The core found `work` full, and wants to be woken once there is room.
    pub(super) core_waits: AtomicBool,
    pub(super) applied: Mutex<ApplyMetrics>,
    /// Until when a leader's reads may be answered, in nanoseconds of the clock.
    lease_end: AtomicU64,
    /// Whether there is a state of the cluster here.
    pub(super) has_state: AtomicBool,
    /// What the replica is to the cluster.
    pub(super) role: watch::Sender<Role>,
    /// The members as they were a moment ago, for clients.
    pub(super) members: Mutex<Option<Members>>,
    /// The list of members, once the replica has heard of one.
    pub(super) list: watch::Sender<Option<Membership>>,
    /// The connected peers.
    pub(super) connected: watch::Sender<BTreeSet<MemberId>>,
    /// Clients' requests that could not be decoded.
    pub(super) bad_requests: AtomicU64,
    /// The state machine wants a checkpoint soon.
    checkpoint_wanted: AtomicBool,
    /// The log has no room for another segment.
    space_low: AtomicBool,
    /// The log has no room for the records it was given.
    waits_for_room: AtomicBool,
    /// No quorum is reachable.
    quorum_lost: AtomicBool,
    /// Key of the hash that tells commands' contents apart. Used only where the hash is not stored.
    pub(super) content_key: ContentKey,
    /// The sessions' state after what was applied last.
    era: AtomicU32,
    next_close: AtomicU64,
    growth: AtomicUsize,
    sessions: AtomicUsize,
    lifecycle: AtomicU8,
    /// Why the replica failed.
    fault: Mutex<Option<Fault>>,
    /// True once the threads have ended.
    pub(super) stopped: watch::Sender<bool>,
    /// The last figures, after the stop.
    pub(super) last: Mutex<Option<Metrics>>,
}

impl ReplicaShared {
    pub(super) fn new(
        id: MemberId,
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
            has_state: AtomicBool::new(false),
            role: watch::Sender::new(Role::Stranger),
            members: Mutex::new(None),
            list: watch::Sender::new(None),
            connected: watch::Sender::new(BTreeSet::new()),
            bad_requests: AtomicU64::new(0),
            checkpoint_wanted: AtomicBool::new(false),
            space_low: AtomicBool::new(false),
            waits_for_room: AtomicBool::new(false),
            quorum_lost: AtomicBool::new(false),
            content_key: rand::random(),
            era: AtomicU32::new(0),
            next_close: AtomicU64::new(0),
            growth: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            lifecycle: AtomicU8::new(Lifecycle::Running as u8),
            fault: Mutex::new(None),
            stopped: watch::Sender::new(false),
            last: Mutex::new(None),
        }
    }

    /// Accepts a command, or refuses it before anything is proposed. Either way `waiter` gets an
    /// answer, now or later. Never blocks.
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
        // The core names the origin, by the list that it is proposed under.
        let origin = ReplicaId::from_index(0);
        self.propose_again(Command { request, floor, origin, footprint, payload });
    }

    /// Sets until when a leader's reads may be answered.
    pub(super) fn set_lease_end(&self, end: Time) {
        self.lease_end.store(end.as_nanos(), Ordering::Release);
    }

    /// Until when a leader's reads may be answered, as the core last set it.
    pub(super) fn lease_end(&self) -> Time {
        Time::from_nanos(self.lease_end.load(Ordering::Acquire))
    }

    /// Gives a command that was let in to the core: its first attempt, or one after an attempt
    /// without effect.
    pub(super) fn propose_again(&self, command: Command) {
        let request = command.request;
        if self.proposals.push(command).is_err() {
            self.pending.turn_away(request, Rejected::Overloaded);
        }
        self.wake.notify_one();
    }

    /// Publishes the sessions' state.
    pub(super) fn note_sessions(&self, sessions: &Sessions) {
        self.era.store(sessions.era().number(), Ordering::Release);
        self.sessions.store(sessions.len(), Ordering::Release);
        self.next_close.store(sessions.next_close(), Ordering::Release);
        self.growth.store(sessions.growth(), Ordering::Release);
    }

    /// The next close and how near it is, in thousandths: it is due from 1000 on.
    pub(super) fn next_close(&self) -> (u64, usize) {
        (self.next_close.load(Ordering::Acquire), self.growth.load(Ordering::Acquire))
    }

    /// The current era.
    pub(super) fn era(&self) -> Era {
        Era::new(self.era.load(Ordering::Acquire)).expect("stored from one")
    }

    /// The number of sessions.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Acquire)
    }

    /// The next sequence, at least in the current era, and its floor.
    pub(super) fn next_of(&self, numbers: &Mutex<Numbering>) -> (u64, u64) {
        let mut numbers = lock(numbers);
        numbers.skip_to(self.era().first_sequence());
        numbers.start()
    }

    /// Refuses commands that are too large for peers' messages, and all new ones when the disk is
    /// almost full: its last bytes are for votes and decisions.
    fn check(
        &self,
        request: RequestId,
        footprint: &Footprint,
        payload: &Bytes,
    ) -> Result<(), Rejected> {
        if request.client.is_internal() {
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

    /// Reads from the current state.
    pub(super) fn read_local(&self, payload: Bytes, waiter: Waiter) {
        if self.lifecycle() != Lifecycle::Running {
            return waiter.answer(Err(self.end().1));
        }
        if !self.has_state.load(Ordering::Acquire) {
            return waiter.answer(Err(Rejected::NoMember.into()));
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

    /// Hands work to the apply thread, ignoring the bound on bytes. It blocks while the queue is
    /// full. False if the thread has ended.
    pub(super) fn send_work(&self, work: Work) -> bool {
        let bytes = work.weight().bytes;
        self.work_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.work.send((work, bytes)).is_ok()
    }

    /// Notes whether the state machine wants a checkpoint, and wakes the core if that is new.
    pub(super) fn note_checkpoint_wanted(&self, wanted: bool) {
        if self.checkpoint_wanted.load(Ordering::Relaxed) != wanted {
            self.checkpoint_wanted.store(wanted, Ordering::Relaxed);
            self.wake.notify_one();
        }
    }

    /// Whether the state machine wants a checkpoint.
    pub(super) fn is_checkpoint_wanted(&self) -> bool {
        self.checkpoint_wanted.load(Ordering::Relaxed)
    }

    /// The apply thread has finished work of this many bytes.
    pub(super) fn work_done(&self, bytes: usize) {
        self.work_bytes.fetch_sub(bytes, Ordering::AcqRel);
        if self.core_waits.swap(false, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Asks the core thread; `None` if it has ended or has too many questions.
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

    pub(super) fn lifecycle(&self) -> Lifecycle {
        match self.lifecycle.load(Ordering::Acquire) {
            0 => Lifecycle::Running,
            1 => Lifecycle::Stopping,
            2 => Lifecycle::Killed,
            _ => Lifecycle::Failed,
        }
    }

    /// Moves on to `to`, unless the replica is already there or further.
    pub(super) fn advance(&self, to: Lifecycle) {
        self.lifecycle.fetch_max(to as u8, Ordering::AcqRel);
        if to == Lifecycle::Stopping {
            self.pending.stop();
        }
        if to >= Lifecycle::Stopping {
            // Callers that wait for a turn are let in, so that they get an answer.
            self.turns.close();
        }
        self.wake.notify_one();
    }

    pub(super) fn space_is_low(&self) -> bool {
        self.space_low.load(Ordering::Relaxed)
    }

    /// Sets whether the log lacks room to grow.
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

    /// Sets whether records wait for room.
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

    /// Logs once when the quorum is lost, and once when it is back.
    pub(super) fn note_quorum(&self, lost: bool, reach: impl FnOnce() -> Option<Reach>) {
        if self.quorum_lost.swap(lost, Ordering::Relaxed) == lost {
            return;
        }
        let (us, Some(reach)) = (self.id, reach()) else { return };
        match lost {
            true => tracing::warn!(%us, "{reach}: nothing new is proposed until there is one"),
            false => tracing::info!(%us, "{reach}: commands are proposed again"),
        }
    }

    /// Fences the replica: from now on it only says that it has failed, with the first fault as
    /// reason.
    pub(super) fn fail(&self, fault: Fault) {
        {
            let mut first = lock(&self.fault);
            if first.is_none() {
                tracing::error!(us = %self.id, %fault, "the replica stops");
                *first = Some(fault);
            }
        }
        self.advance(Lifecycle::Failed);
        let (inside, after) = self.end();
        self.pending.close(&inside, after);
    }

    /// The errors for callers that wait when the replica ends, and for later ones.
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
