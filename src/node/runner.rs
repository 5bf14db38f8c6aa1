//! The core thread: one event loop that runs the mesh's tasks and, between them, the replica.
//!
//! At every turn it takes all that has arrived — peers' messages, callers' commands, the clock —
//! and takes one step over it, so under load many commands share an instance without anybody
//! waiting for a batch to fill. On few processors a hop between threads costs more than a turn,
//! which is why the network and the core share a thread; on the other side of a queue the apply
//! thread has its own, since `apply` is the user's code.

mod answers;
mod full;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use crossbeam::channel::TrySendError;
use tokio::time::Instant;

use super::EPOCH;
use super::error::{Rejected, Unknown};
use super::inbox::Inbox;
use super::journal::Journal;
use super::latency::Latency;
use super::meeting::Meeting;
use super::metrics::FastSlow;
use super::shared::{Phase, ReplicaShared};
use super::snapshot::{Arrived, Snapshots};
use super::status::NodeProtocol;
use super::work::{Weight, Work};
use crate::mesh::{Dropped, Lane, Mesh};
use crate::replica::{Core, Input, Output, PeerMessage};
use crate::types::{Era, LogPosition, Quorums, ReplicaSet, Time};
use crate::wire::encode_peer;

/// Commands taken in at one turn; the rest waits for the next.
const PROPOSALS_PER_TURN: usize = 8192;
/// A frame at least this long must not delay the small ones after it.
const BULK_BYTES: usize = 128 << 10;
/// Frames are encoded into buffers of this size.
const BUFFER_BYTES: usize = 64 << 10;
/// How often those who have waited too long are looked for.
const EXPIRY: Duration = Duration::from_millis(250);
/// Not all replicas end an era that has lasted long enough at once: the second waits this share of
/// its length longer, the third twice that.
const STAGGER: u32 = 50;
/// Nor do they close sessions all at once: the second lets the table grow by so many thousandths of
/// what it may beyond that, the third by twice that.
const CLOSE_STAGGER: usize = 40;
/// A close that has not come to anything is proposed again after this.
const CLOSE_AGAIN: Duration = Duration::from_secs(5);

/// What the core itself counts.
#[derive(Default)]
struct Counts {
    proposed: u64,
    /// From the call to the commit on the fast path, and otherwise.
    fast: Latency,
    slow: Latency,
    commands: FastSlow,
    instances: FastSlow,
    turns: u64,
}

/// One replica's core with everything it drives.
///
/// Invariant: `backlog` is what did not fit into the apply thread's queue, in order, and
/// `backlog_weight` the sum of its weights.
pub(super) struct Runner<P: NodeProtocol> {
    core: Core<P>,
    replicas: usize,
    tick: Duration,
    shutdown_patience: Duration,
    shared: Arc<ReplicaShared>,
    inbox: Arc<Inbox<P::Message>>,
    mesh: Mesh,
    journal: Journal,
    snapshots: Snapshots<P>,
    /// The last mark that the core was told of.
    durable: LogPosition,
    backlog: VecDeque<Work>,
    backlog_weight: Weight,
    inputs: Vec<Input<P::Message>>,
    out: Output<P::Message, P::Record>,
    buffer: BytesMut,
    /// Who was sent large messages since the core was told.
    sent_large: ReplicaSet,
    next_tick: Time,
    next_expiry: Time,
    session_idle: Duration,
    /// The era as it was seen last, and when to end it.
    era: Option<Era>,
    era_ends: Time,
    /// The close that was proposed last.
    closing: Option<(Era, u64, Time)>,
    meeting: Meeting,
    counts: Counts,
}

/// What [`Runner::new`] is told beside what it drives.
pub(super) struct Pace {
    pub(super) replicas: usize,
    pub(super) tick: Duration,
    pub(super) shutdown_patience: Duration,
    pub(super) session_idle: Duration,
}

/// What the core is connected with.
pub(super) struct Driven<P: NodeProtocol> {
    pub(super) inbox: Arc<Inbox<P::Message>>,
    pub(super) mesh: Mesh,
    pub(super) journal: Journal,
    pub(super) snapshots: Snapshots<P>,
}

impl<P: NodeProtocol> Runner<P> {
    /// What is in `out` was put out by the core before, and is seen to at the first turn.
    pub(super) fn new(
        core: Core<P>,
        out: Output<P::Message, P::Record>,
        pace: Pace,
        shared: Arc<ReplicaShared>,
        driven: Driven<P>,
    ) -> Runner<P> {
        let Driven { inbox, mesh, journal, snapshots } = driven;
        let now = shared.clock.now();
        let meeting = Meeting::begin(pace.replicas - 1, inbox.is_new(), now);
        Runner {
            core,
            replicas: pace.replicas,
            tick: pace.tick,
            shutdown_patience: pace.shutdown_patience,
            shared,
            inbox,
            mesh,
            journal,
            snapshots,
            durable: LogPosition::default(),
            backlog: VecDeque::new(),
            backlog_weight: Weight::default(),
            inputs: Vec::new(),
            out,
            buffer: BytesMut::new(),
            sent_large: ReplicaSet::EMPTY,
            next_tick: Time::ZERO,
            next_expiry: Time::ZERO,
            session_idle: pace.session_idle,
            era: None,
            era_ends: Time::ZERO,
            closing: None,
            meeting,
            counts: Counts::default(),
        }
    }

    /// Where the mesh listens.
    pub(super) fn local_addr(&self) -> SocketAddr {
        self.mesh.local_addr()
    }

    /// Runs until the replica stops, in one way or another.
    pub(super) async fn run(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut alarm = pin!(tokio::time::sleep(Duration::ZERO));
        let (mut give_up, mut alarmed_at) = (None, None);
        loop {
            match shared.phase() {
                Phase::Running => {}
                Phase::Stopping => {
                    let patience = self.shutdown_patience;
                    let deadline = *give_up.get_or_insert_with(|| shared.clock.now() + patience);
                    if self.is_idle() || shared.clock.now() >= deadline {
                        return self.finish().await;
                    }
                }
                Phase::Killed | Phase::Failed => return,
            }
            let next = match self.waits_for_others() {
                Some(until) => until,
                None => {
                    self.turn();
                    let wake = self.core.wake().filter(|_| !self.stands_still());
                    wake.map_or(self.next_tick, |wake| wake.min(self.next_tick))
                }
            };
            if alarmed_at != Some(next) {
                alarmed_at = Some(next);
                alarm.as_mut().reset(Instant::from_std(shared.clock.instant(next)));
            }
            tokio::select! {
                biased;
                () = shared.wake.notified() => {}
                () = &mut alarm => {}
            }
            // Whatever else has arrived by now is read and decoded first: the fuller the turn, the
            // cheaper each message. Woken from here, this task runs after all others and after
            // a look at the socket.
            tokio::task::yield_now().await;
        }
    }

    /// Until when to take no step, so that the others can be heard first. Questions are answered.
    fn waits_for_others(&mut self) -> Option<Time> {
        let connected = self.shared.connected.borrow().len();
        let until = self.meeting.waits(connected, self.shared.clock.now())?;
        while let Some(question) = self.shared.questions.pop() {
            self.answer(question);
        }
        Some(until)
    }

    /// Whether nobody waits for anything.
    fn is_idle(&self) -> bool {
        self.shared.pending.len() == 0
            && self.shared.proposals.is_empty()
            && self.backlog.is_empty()
    }

    /// Says good-bye.
    async fn finish(&mut self) {
        let (inside, after) = self.shared.end();
        self.shared.pending.close(&inside, after);
        self.mesh.shutdown().await;
        // The apply thread takes from its queue to the end, so there will be room.
        for work in self.backlog.drain(..) {
            self.shared.send_work(work);
        }
    }

    /// Lets everything go; the last records are flushed.
    pub(super) fn end(self) {
        drop(self.snapshots);
        if let Err(error) = self.journal.close()
            && self.shared.fault().is_none()
        {
            tracing::warn!(us = %self.shared.id, %error, "the log was not closed in good order");
        }
    }

    /// One step over all that has happened.
    fn turn(&mut self) {
        let now = self.shared.clock.now();
        self.counts.turns += 1;
        if self.stands_still() {
            return self.stand_still(now);
        }
        self.gather(now);
        // Read again after what has arrived: a read that a lease lets be answered must have come
        // before the moment at which the lease was seen to hold.
        let now = self.shared.clock.now();
        self.core.step(now, self.inputs.drain(..), &mut self.out);
        self.shared.set_lease_end(self.core.lease_end());
        self.follow(now);
        self.install(now);
        if let Some(work) = self.snapshots.begin(now, &self.core, &mut self.journal) {
            self.push_work(work);
            self.hand_on();
        }
        while let Some(question) = self.shared.questions.pop() {
            self.answer(question);
        }
        self.shared.note_quorum(self.core.has_lost_quorum(), || self.core.reach());
        if self.next_expiry <= now {
            self.next_expiry = now + EXPIRY;
            let met = self.shared.connected.borrow().len();
            if Quorums::new(self.replicas).is_ok_and(|quorums| met + 1 >= quorums.slow()) {
                self.inbox.note_agreement();
            }
            self.expire(now);
            self.end_era(now);
            self.close_sessions(now);
            self.snapshots.look_after(&self.core);
        }
    }

    /// Answers those who have waited for too long.
    fn expire(&mut self, now: Time) {
        let (patience, lost) = (self.shared.propose_timeout, self.core.has_lost_quorum());
        let why = Unknown::late(patience, lost.then(|| self.core.reach()));
        self.shared.pending.expire(now, patience, &why);
    }

    /// Sees to all that the core has put out.
    fn follow(&mut self, now: Time) {
        // A log that is done at once (or was, meanwhile) releases what waited for it.
        loop {
            self.journal.append(&mut self.out.records, self.core.log_end(), now);
            self.look_after(now);
            self.send();
            self.snapshots.follow(&mut self.out);
            let Some(durable) = self.news_from_the_log(now) else { break };
            self.core.step(now, [durable], &mut self.out);
        }
        self.hand_on();
    }

    /// Puts another replica's state in the place of this one's, if there is one: after all that
    /// was to be executed before, and before all that is now.
    fn install(&mut self, now: Time) {
        for _ in 0..self.snapshots.take_useless() {
            self.core.reject_snapshot(now);
        }
        while let Some(arrived) = self.snapshots.next_arrived() {
            let Arrived { shared, executed, applier, bytes, took } = arrived;
            if self.core.install(now, shared, &executed, &mut self.out) {
                self.push_work(Work::Install(applier));
                self.snapshots.installed(bytes, took);
            } else {
                tracing::info!(us = %self.shared.id, bytes, "that snapshot is not enough");
            }
            self.follow(now);
        }
    }

    /// That more has become durable, if it has.
    fn news_from_the_log(&mut self, now: Time) -> Option<Input<P::Message>> {
        let durable = self.journal.durable(now);
        if durable.position() <= self.durable {
            return None;
        }
        self.durable = durable.position();
        self.inbox.note_durable(self.durable);
        Some(Input::Durable(durable))
    }

    /// Whether so much waits for the state machine, or for the disk, that this is over a limit: the
    /// given share of each.
    fn is_behind(&self, share: usize) -> bool {
        let limits = &self.shared.limits;
        self.backlog_weight.commands > limits.unapplied / share
            || self.backlog_weight.bytes > limits.unapplied_bytes / share
            || self.journal.unflushed_bytes() > limits.log_queue() / share
    }

    /// Proposes to end the era once it has lasted long enough, if there is a session to expire.
    fn end_era(&mut self, now: Time) {
        let (era, idle) = (self.shared.era(), self.session_idle);
        if self.era != Some(era) {
            let place = u32::try_from(self.shared.id.index()).expect("few replicas");
            self.era = Some(era);
            self.era_ends = now + idle + (idle / STAGGER).saturating_mul(place);
        }
        if now < self.era_ends || self.shared.sessions() == 0 {
            return;
        }
        // Should nothing come of it, it is tried again. What is full now may not be then.
        self.era_ends = now + idle / 4;
        let _ = self.shared.proposals.push(era.end(self.shared.id));
        self.shared.wake.notify_one();
    }

    /// Proposes to close what sessions have finished, once their table has grown by as much as it
    /// may.
    fn close_sessions(&mut self, now: Time) {
        let (era, (nth, growth)) = (self.shared.era(), self.shared.next_close());
        let under_way = self.closing.is_some_and(|(in_era, last, since)| {
            (in_era, last) == (era, nth) && now.since(since) < CLOSE_AGAIN
        });
        if under_way || growth < 1000 + CLOSE_STAGGER * self.shared.id.index() {
            return;
        }
        self.closing = Some((era, nth, now));
        let _ = self.shared.proposals.push(era.close(nth, self.shared.id));
        self.shared.wake.notify_one();
    }

    /// Takes in what has arrived.
    fn gather(&mut self, now: Time) {
        // Before a snapshot that is to make room, nothing is added to what the log has to write.
        let full = self.snapshots.must_make_room(now, &self.journal);
        if !full {
            self.inbox.take(&mut self.inputs);
        }
        if !self.sent_large.is_empty() {
            let to = std::mem::replace(&mut self.sent_large, ReplicaSet::EMPTY);
            self.inputs.push(Input::SentLarge(to));
        }
        let durable = self.news_from_the_log(now);
        self.inputs.extend(durable);
        self.snapshots.gather(now, &mut self.journal, &mut self.inputs);
        if !full && !self.is_behind(2) {
            let proposals = std::iter::from_fn(|| self.shared.proposals.pop());
            let before = self.inputs.len();
            self.inputs.extend(proposals.take(PROPOSALS_PER_TURN).map(Input::Propose));
            let taken = self.inputs.len() - before;
            self.counts.proposed += taken as u64;
            if taken == PROPOSALS_PER_TURN {
                // There may be more.
                self.shared.wake.notify_one();
            }
        }
        if self.next_tick <= now {
            self.next_tick = now + self.tick;
            self.inputs.push(Input::Tick);
        }
    }

    /// Those who were turned away, and the figures of what was committed.
    fn look_after(&mut self, now: Time) {
        for (request, rejection) in self.out.rejected.drain(..) {
            let rejected = Rejected::of(rejection, || self.core.reach());
            self.shared.pending.turn_away(request, rejected);
        }
        for committed in self.out.committed.drain(..) {
            let commands = committed.batch.commands();
            self.counts.instances.count(committed.fast, 1);
            self.counts.commands.count(committed.fast, commands.len() as u64);
            let requests = commands.iter().map(|command| command.request);
            let Counts { fast, slow, .. } = &mut self.counts;
            let commit = if committed.fast { fast } else { slow };
            let note = |since| commit.record(now.since(since));
            self.shared.pending.committed(requests, committed.fast, note);
        }
    }

    /// Encodes each message once and queues it for all its receivers. What a peer's queue does not
    /// take is lost, as on any network; the mesh counts it, and the protocol sends it again.
    fn send(&mut self) {
        for (to, message) in self.out.messages.drain(..) {
            if self.buffer.capacity() < BUFFER_BYTES / 16 {
                self.buffer.reserve(BUFFER_BYTES);
            }
            encode_peer(EPOCH, self.durable, &message, &mut self.buffer);
            let frame = self.buffer.split().freeze();
            let is_large = frame.len() >= BULK_BYTES;
            if is_large {
                for peer in to.iter() {
                    self.sent_large.insert(peer);
                }
            }
            // A probe follows the large ones.
            let is_large = is_large || matches!(message, PeerMessage::Probe { .. });
            let lane = if is_large { Lane::Bulk } else { Lane::Consensus };
            for peer in to.iter() {
                if let Err(why @ Dropped::TooLarge { .. }) =
                    self.mesh.send(peer, lane, frame.clone())
                {
                    tracing::error!(us = %self.shared.id, %peer, %why, "a message cannot be sent");
                }
            }
        }
    }

    /// Hands executions on to the apply thread, as far as its queue has room. A long backlog first
    /// ends the taking in of commands, and then of peers' messages: what is never waited for is
    /// room, so that timers and whatever is due to be sent go on.
    fn hand_on(&mut self) {
        if !self.out.execute.is_empty() {
            let executions = std::mem::take(&mut self.out.execute);
            self.push_work(Work::Execute(executions));
        }
        if !self.out.reads.is_empty() {
            let reads = std::mem::take(&mut self.out.reads);
            self.push_work(Work::Answer(reads));
        }
        while let Some(work) = self.backlog.pop_front() {
            let weight = work.weight();
            match self.shared.try_work(work) {
                // Disconnected: the apply thread has failed, and the replica with it.
                Ok(()) | Err(TrySendError::Disconnected(_)) => {
                    self.backlog_weight.commands -= weight.commands;
                    self.backlog_weight.bytes -= weight.bytes;
                }
                Err(TrySendError::Full(work)) => {
                    self.backlog.push_front(work);
                    // Once more: it may have been done before it could see that it is waited for.
                    if self.shared.core_waits.swap(true, Ordering::AcqRel) {
                        break;
                    }
                }
            }
        }
        self.inbox.hold_back(self.is_behind(1));
    }

    fn push_work(&mut self, work: Work) {
        let weight = work.weight();
        self.backlog_weight.commands += weight.commands;
        self.backlog_weight.bytes += weight.bytes;
        self.backlog.push_back(work);
    }
}
