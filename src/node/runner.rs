//! The core thread: one event loop that runs the mesh's tasks and, between them, the replica.
//!
//! At every turn it takes everything that has arrived (peers' messages, callers' commands, the
//! clock) and takes one step over it. So under load many commands share an instance, and none waits
//! for a batch to fill. The network and the core share a thread because, on few processors, a hop
//! between threads costs more than a turn. The apply thread is separate, at the other end of a
//! queue, because `apply` is the user's code.

mod answers;
mod backlog;
mod full;
pub(super) mod members;
mod send;
mod sessions;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::error::{Fault, Rejected, Unknown};
use super::inbox::Inbox;
use super::journal::Journal;
use super::latency::Latency;
use super::meeting::Meeting;
use super::metrics::FastSlow;
use super::panics::lock;
use super::shared::{Lifecycle, ReplicaShared};
use super::snapshot::{Arrived, Snapshots};
use super::status::NodeProtocol;
use super::work::Work;
use crate::mesh::Mesh;
use crate::replica;
use crate::replica::epochs::{Epochs, Input, Output, Role};
use crate::types::{ClientId, Era, LogPosition, MemberId, Membership, Time};

use backlog::Backlog;
use members::Known;

/// Commands taken in at one turn; the rest wait for the next.
const PROPOSALS_PER_TURN: usize = 8192;
/// How often to look for callers that have waited too long.
const EXPIRY: Duration = Duration::from_millis(250);

/// What the core thread counts itself.
#[derive(Default)]
struct Counts {
    proposed: u64,
    /// From the call to the commit: on the fast path, and on any other.
    fast: Latency,
    slow: Latency,
    commands: FastSlow,
    instances: FastSlow,
    turns: u64,
}

/// One replica's core and everything that it drives.
pub(super) struct Runner<P: NodeProtocol> {
    epochs: Epochs<P>,
    members: Known,
    tick: Duration,
    shutdown_patience: Duration,
    shared: Arc<ReplicaShared>,
    inbox: Arc<Inbox<P::Message>>,
    mesh: Mesh,
    journal: Journal,
    snapshots: Snapshots<P>,
    /// The durable position that the core was told last.
    durable: LogPosition,
    backlog: Backlog,
    inputs: Vec<Input<P::Message>>,
    out: Output<P::Message, P::Record>,
    buffer: BytesMut,
    /// Peers that were sent large messages since the core was last told.
    sent_large: BTreeSet<MemberId>,
    next_tick: Time,
    next_expiry: Time,
    session_idle: Duration,
    /// The era last seen, and when to end it.
    era: Option<Era>,
    era_ends: Time,
    /// The close proposed last.
    closing: Option<(Era, u64, Time)>,
    meeting: Meeting,
    counts: Counts,
}

/// The settings of [`Runner::new`], apart from what it drives.
pub(super) struct Pace {
    pub(super) tick: Duration,
    pub(super) shutdown_patience: Duration,
    pub(super) session_idle: Duration,
}

/// What the core drives.
pub(super) struct Driven<P: NodeProtocol> {
    pub(super) inbox: Arc<Inbox<P::Message>>,
    pub(super) mesh: Mesh,
    pub(super) journal: Journal,
    pub(super) snapshots: Snapshots<P>,
}

impl<P: NodeProtocol> Runner<P> {
    /// `out` holds what the core put out while it was restored; the first turn handles it.
    pub(super) fn new(
        epochs: Epochs<P>,
        first_list: Membership,
        out: Output<P::Message, P::Record>,
        pace: Pace,
        shared: Arc<ReplicaShared>,
        driven: Driven<P>,
    ) -> Runner<P> {
        let Driven { inbox, mesh, journal, snapshots } = driven;
        let now = shared.clock.now();
        let meeting = Meeting::begin(inbox.is_new(), now);
        shared.role.send_replace(epochs.role());
        shared.has_state.store(epochs.has_state(), Ordering::Release);
        shared.list.send_replace(epochs.last_list().cloned());
        Runner {
            epochs,
            members: Known::new(first_list),
            tick: pace.tick,
            shutdown_patience: pace.shutdown_patience,
            shared,
            inbox,
            mesh,
            journal,
            snapshots,
            durable: LogPosition::default(),
            backlog: Backlog::default(),
            inputs: Vec::new(),
            out,
            buffer: BytesMut::new(),
            sent_large: BTreeSet::new(),
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

    /// Runs until the replica stops, for whatever reason.
    pub(super) async fn run(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut alarm = pin!(tokio::time::sleep(Duration::ZERO));
        let (mut give_up, mut alarmed_at) = (None, None);
        loop {
            match shared.lifecycle() {
                Lifecycle::Running => {}
                Lifecycle::Stopping => {
                    let patience = self.shutdown_patience;
                    let deadline = *give_up.get_or_insert_with(|| shared.clock.now() + patience);
                    if self.is_idle() || shared.clock.now() >= deadline {
                        return self.finish().await;
                    }
                }
                Lifecycle::Failed if matches!(shared.fault(), Some(Fault::Removed { .. })) => {
                    // It may have been asked for its own removal: that answer is to leave first.
                    tokio::task::yield_now().await;
                    return self.finish().await;
                }
                Lifecycle::Killed | Lifecycle::Failed => return,
            }
            let next = match self.waits_for_others() {
                Some(until) => until,
                None => {
                    self.turn();
                    let wake = self.epochs.wake().filter(|_| !self.stands_still());
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
            // Read and decode everything else that has arrived first: the more a turn processes,
            // the less each message costs. When woken from here, this task runs after all others
            // and after a look at the socket.
            tokio::task::yield_now().await;
        }
    }

    /// Until when to take no step, so that the other replicas can be heard first. Questions are
    /// still answered.
    fn waits_for_others(&mut self) -> Option<Time> {
        let missing = || self.inbox.missing();
        let until = self.meeting.waits(missing, self.shared.clock.now())?;
        self.answer_questions();
        Some(until)
    }

    fn answer_questions(&mut self) {
        while let Some(question) = self.shared.questions.pop() {
            if let Some(work) = self.answer(question) {
                self.backlog.push(work);
                self.hand_on();
            }
        }
    }

    /// Whether no request and no work is waiting.
    fn is_idle(&self) -> bool {
        self.shared.pending.len() == 0
            && self.shared.proposals.is_empty()
            && self.backlog.is_empty()
    }

    /// Answers all callers and closes the connections.
    async fn finish(&mut self) {
        let (inside, after) = self.shared.end();
        self.shared.pending.close(&inside, after);
        self.mesh.shutdown().await;
        // The apply thread empties its queue to the end, so there will be room.
        self.backlog.hand_on_all(&self.shared);
    }

    /// Releases everything, after the last records are flushed.
    pub(super) fn end(self) {
        drop(self.snapshots);
        if let Err(error) = self.journal.close()
            && self.shared.fault().is_none()
        {
            tracing::warn!(us = %self.shared.id, %error, "the log was not closed in good order");
        }
    }

    /// One step over everything that has arrived.
    fn turn(&mut self) {
        let now = self.shared.clock.now();
        self.counts.turns += 1;
        self.snapshots.note_state(self.epochs.has_state());
        if self.stands_still() {
            return self.stand_still(now);
        }
        self.gather(now);
        // Read the clock again after gathering. A read may be answered under a lease only if it
        // arrived before the moment at which the lease was seen to hold.
        let now = self.shared.clock.now();
        self.epochs.step(now, self.inputs.drain(..), &mut self.out);
        self.shared.set_lease_end(self.epochs.lease_end());
        self.follow(now);
        self.install(now);
        if let Some(work) = self.snapshots.begin(now, &self.epochs, &mut self.journal) {
            self.backlog.push(work);
            self.hand_on();
        }
        self.answer_questions();
        let lost = self.epochs.has_lost_quorum();
        self.shared.note_quorum(lost, || self.epochs.reach());
        if self.next_expiry <= now {
            self.next_expiry = now + EXPIRY;
            self.inbox.note_agreement();
            self.expire(now);
            self.expire_change(now);
            *lock(&self.shared.members) = Some(self.members());
            self.end_era(now);
            self.close_sessions(now);
            self.snapshots.look_after(&self.epochs);
        }
    }

    /// A turn without a step.
    fn stand_still(&mut self, now: Time) {
        self.next_tick = now + self.tick;
        self.make_room(now);
        // Earlier decisions are still applied and answered.
        self.hand_on();
        self.inbox.hold_back(true);
        self.answer_questions();
        if self.next_expiry <= now {
            self.next_expiry = now + EXPIRY;
            self.expire(now);
        }
        if !self.stands_still() {
            // Continue at once, not at the next tick.
            self.shared.wake.notify_one();
        }
    }

    /// Answers callers that have waited too long.
    fn expire(&mut self, now: Time) {
        let patience = self.shared.propose_timeout;
        let lost = self.epochs.has_lost_quorum();
        let why = Unknown::late(patience, self.epochs.reach().filter(|_| lost));
        self.shared.pending.expire(now, patience, &why);
    }

    /// Handles everything that the core has put out.
    fn follow(&mut self, now: Time) {
        // A log that has flushed at once (or meanwhile) releases what waited for it.
        loop {
            self.journal.append(&mut self.out.records, self.epochs.log_end(), now);
            self.look_after(now);
            self.send();
            self.snapshots.follow(&mut self.out);
            self.follow_members();
            let Some(durable) = self.news_from_the_log(now) else { break };
            self.epochs.step(now, [durable], &mut self.out);
        }
        self.hand_on();
    }

    /// Replaces the state with another replica's, if one has arrived: after everything to be
    /// executed so far, and before everything later.
    fn install(&mut self, now: Time) {
        for _ in 0..self.snapshots.take_useless() {
            self.epochs.reject_snapshot(now);
        }
        while let Some(arrived) = self.snapshots.next_arrived() {
            let Arrived { list, shared, executed, applier, bytes, took } = arrived;
            let list = list.as_ref().unwrap_or(self.members.first());
            if self.epochs.install(now, list, shared, &executed, &mut self.out) {
                self.backlog.push(Work::Install(applier));
                // Before anybody is told that there is a state to read.
                self.hand_on();
                self.snapshots.installed(bytes, took);
            } else {
                tracing::info!(us = %self.shared.id, bytes, "that snapshot is not enough");
            }
            self.follow(now);
        }
    }

    /// The new durable position, if it has moved.
    fn news_from_the_log(&mut self, now: Time) -> Option<Input<P::Message>> {
        let durable = self.journal.durable(now);
        if durable.position() <= self.durable {
            return None;
        }
        self.durable = durable.position();
        self.inbox.note_durable(self.durable);
        Some(Input::Core(replica::Input::Durable(durable)))
    }

    /// Whether so much waits for the state machine or the disk that a limit, divided by `share`, is
    /// exceeded.
    fn is_behind(&self, share: usize) -> bool {
        let (limits, backlog) = (&self.shared.limits, self.backlog.weight());
        backlog.commands > limits.unapplied / share
            || backlog.bytes > limits.unapplied_bytes / share
            || self.journal.unflushed_bytes() > limits.log_queue() / share
    }

    /// Takes in proposals: as many, and about as many bytes, as one turn may.
    fn gather_proposals(&mut self) {
        let most = self.shared.limits.turn_bytes();
        let turned_away = match self.epochs.role() {
            Role::Stranger => Some(Rejected::NoMember),
            _ if self.epochs.observes() => Some(Rejected::Observes),
            _ => None,
        };
        let (mut taken, mut bytes) = (0, 0);
        while taken < PROPOSALS_PER_TURN
            && bytes < most
            && let Some(command) = self.shared.proposals.pop()
        {
            taken += 1;
            bytes += command.payload.len();
            if let Some(why) = &turned_away {
                self.shared.pending.turn_away(command.request, why.clone());
                continue;
            }
            self.inputs.push(Input::Core(replica::Input::Propose(command)));
        }
        self.counts.proposed += taken as u64;
        if taken == PROPOSALS_PER_TURN || bytes >= most {
            // There may be more.
            self.shared.wake.notify_one();
        }
    }

    /// Takes in what has arrived.
    fn gather(&mut self, now: Time) {
        // Before a snapshot that frees room, the log must not get more to write.
        let full = self.snapshots.must_make_room(now, &self.journal);
        let durable = self.news_from_the_log(now);
        if !full && self.journal.unflushed_bytes() <= self.shared.limits.log_queue() {
            self.inbox.take(self.shared.limits.turn_bytes(), &mut self.inputs);
        }
        if !self.sent_large.is_empty() {
            let to = std::mem::take(&mut self.sent_large);
            self.inputs.push(Input::SentLarge(to.into_iter().collect()));
        }
        self.inputs.extend(durable);
        self.snapshots.gather(now, &mut self.journal, &mut self.inputs);
        let change = self.members.take_proposal().map(replica::Input::Propose);
        self.inputs.extend(change.map(Input::Core));
        if !full && !self.is_behind(2) {
            self.gather_proposals();
        }
        if self.next_tick <= now {
            self.next_tick = now + self.tick;
            self.inputs.push(Input::Core(replica::Input::Tick));
        }
    }

    /// Answers refused requests, and counts committed ones.
    fn look_after(&mut self, now: Time) {
        for (request, rejection) in self.out.rejected.drain(..) {
            if request.client == ClientId::MEMBERS {
                let why = Rejected::of(rejection, self.epochs.reach());
                self.members.rejected(why);
                continue;
            }
            let rejected = Rejected::of(rejection, self.epochs.reach());
            self.shared.pending.turn_away(request, rejected);
        }
        for request in self.out.removed.drain(..) {
            self.shared.pending.turn_away(request, Rejected::NoMember);
        }
        for request in self.out.unsure.drain(..) {
            self.shared.pending.end(request, Unknown::Removed.into());
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

    /// Hands executions to the apply thread, as far as its queue has room. As the backlog grows,
    /// the core stops taking commands, and then peers' messages. It never blocks, so timers and
    /// sends continue.
    fn hand_on(&mut self) {
        if !self.out.execute.is_empty() {
            let executions = std::mem::take(&mut self.out.execute);
            self.backlog.push(Work::Execute(executions));
        }
        if !self.out.reads.is_empty() {
            let reads = std::mem::take(&mut self.out.reads);
            self.backlog.push(Work::Answer(reads));
        }
        self.backlog.hand_on(&self.shared);
        self.inbox.hold_back(self.is_behind(1));
    }
}
