//! When a snapshot is taken, and what follows from it: the core thread's side of the worker.
//!
//! An own snapshot has two parts. The core's part is taken between two steps. The apply thread
//! takes the state once it has executed everything up to there. The worker writes both. The
//! snapshot counts once the log is durable up to its position. Then the log is dropped up to the
//! oldest snapshot kept, and the protocol may drop decisions that no other replica needs.
//!
//! A snapshot from another replica says what no record here says. So the first own snapshot after
//! it counts only once the log begins at its position (`storage::Lineage`).

mod askers;
mod attempts;
mod due;
mod encode;
mod incoming;
mod lend;
mod store;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use tracing::{info, warn};

use self::askers::Borrower;
use crate::machine::{Frozen, Machines, StateMachine};
use crate::node::error::SnapshotError;
use crate::node::fetched::{Asker, Fetched};
use crate::node::journal::Journal;
use crate::node::metrics::SnapshotMetrics;
use crate::node::panics::lock;
use crate::node::reminder::Reminder;
use crate::node::shared::ReplicaShared;
use crate::node::status::NodeProtocol;
use crate::node::work::{NewCheckpoint, Work};
use crate::replica::epochs::{Epochs, Input, Output};
use crate::replica::{OwnSnapshot, SnapshotId};
use crate::storage::{Lineage, SnapshotInfo, StorageError};
use crate::types::{LogPosition, Membership, Time};
use crate::wire;

use attempts::Attempts;
pub(super) use incoming::Arrived;
pub(super) use store::{SnapshotStore, Where};
pub(super) use worker::Readable;
use worker::{NewSnapshot, News, Room, SnapshotWorker, Task};

/// The wait after a copy for others could not be written.
const LEND_PAUSE: Duration = Duration::from_secs(60);

/// The progress of an own snapshot.
enum Stage {
    Idle,
    /// The apply thread works on it, and then the worker.
    Begun(LogPosition),
    /// Written except for its end. It waits until the log is durable up to this position and, if
    /// necessary, divided there.
    Written(LogPosition),
    /// The worker writes its end.
    Finishing,
    /// Complete. It counts once the log begins at this position.
    Cutting(LogPosition, OwnSnapshot),
}

/// The core thread's state of snapshots.
pub(super) struct Snapshots<P: NodeProtocol> {
    tasks: Sender<Task<P::Snapshot, P::Record>>,
    news: Receiver<News<P::Snapshot>>,
    /// `Some` until this is dropped.
    thread: Option<JoinHandle<()>>,
    /// Tells the worker not to finish what it has begun.
    over: Arc<AtomicBool>,
    shared: Arc<ReplicaShared>,
    /// The directory's snapshots; `None` in memory.
    store: Option<crate::storage::Snapshots>,
    stage: Stage,
    /// There is a state to take a snapshot of.
    has_state: bool,
    /// The list of the snapshot under way, or of the last one.
    list: Option<Membership>,
    begun: Time,
    attempts: Attempts,
    /// Another replica waits for a snapshot.
    wanted: bool,
    /// The number of the next checkpoint of a state machine that keeps its state on disk itself;
    /// `None` without a disk.
    numbers: Option<u64>,
    /// A copy for others is to follow the snapshot under way.
    lends: bool,
    /// A copy for others is being made.
    lending: bool,
    lend_not_before: Time,
    /// Whether the state came from another replica.
    lineage: Lineage,
    /// How many were taken since the disk became almost full.
    while_low: u32,
    /// The log's length when the last snapshot was begun, and the length of that snapshot's state.
    log_bytes: u64,
    /// What an observer was fed until then: its log does not grow with that.
    fed_bytes: u64,
    state_bytes: u64,
    /// The fewest bytes of decisions kept since the last snapshot was begun.
    least_kept: usize,
    /// The worker was told to give up the snapshot that arrives, since the log last had room.
    gave_up_arriving: bool,
    /// Own snapshots that others may read.
    offered: Vec<SnapshotId>,
    inputs: Vec<Input<P::Message>>,
    arrived: Vec<Arrived<P::Snapshot>>,
    useless: usize,
    /// Callers that wait for the snapshot under way, and callers that wait for the next one.
    askers: Vec<Asker>,
    next_askers: Vec<Asker>,
    /// Those who wait for a copy of the last snapshot.
    borrowers: Vec<Borrower>,
    /// The snapshots that are fetched for backups.
    fetched: Fetched,
    reminder: Reminder,
    metrics: SnapshotMetrics,
}

/// The snapshot that a replica starts from.
pub(super) struct First {
    pub(super) epoch: u32,
    pub(super) own: OwnSnapshot,
    pub(super) info: SnapshotInfo,
    /// `None` if others cannot read it.
    pub(super) readable: Option<Readable>,
    /// The length of its state.
    pub(super) state_bytes: u64,
}

impl<P: NodeProtocol> Snapshots<P> {
    /// Starts the worker.
    pub(super) fn start<S: StateMachine>(
        place: Where,
        first: Option<First>,
        source: &Machines<S>,
        shared: &Arc<ReplicaShared>,
    ) -> std::io::Result<Snapshots<P>> {
        let Where { cluster, replicas, store, next } = place;
        let numbers = source.is_on_disk().then_some(next);
        let (tasks, work) = unbounded();
        let (tell, news) = unbounded();
        let kept = store.on_disk();
        let limits = wire::Limits::new(replicas);
        let over = Arc::new(AtomicBool::new(false));
        let worker = SnapshotWorker {
            store,
            shared: Arc::clone(shared),
            over: Arc::clone(&over),
            cluster,
            limits,
            tasks: work,
            news: tell,
        };
        let mut metrics = SnapshotMetrics::default();
        let (mut inputs, mut offered, mut readable, mut state_bytes) = (vec![], vec![], None, 0);
        if let Some(first) = first {
            (metrics.position, metrics.bytes) = (first.info.position.records(), first.info.bytes);
            offered.push(first.own.id);
            readable = first.readable.map(|readable| (first.own.id, readable));
            inputs.push(Input::Saved { epoch: first.epoch, own: first.own });
            state_bytes = first.state_bytes;
        }
        let thread = thread::Builder::new().name(format!("isonomy-{}-keep", shared.id));
        let source = Arc::clone(source);
        let thread = thread.spawn(move || worker.run(&*source, readable))?;
        Ok(Snapshots {
            tasks,
            news,
            thread: Some(thread),
            over,
            shared: Arc::clone(shared),
            store: kept,
            stage: Stage::Idle,
            has_state: false,
            list: None,
            begun: Time::ZERO,
            attempts: Attempts::new(),
            wanted: false,
            numbers,
            lends: false,
            lending: false,
            lend_not_before: Time::ZERO,
            lineage: Lineage::default(),
            while_low: 0,
            log_bytes: 0,
            fed_bytes: 0,
            least_kept: 0,
            state_bytes,
            gave_up_arriving: false,
            offered,
            inputs,
            arrived: Vec::new(),
            useless: 0,
            askers: Vec::new(),
            next_askers: Vec::new(),
            borrowers: Vec::new(),
            fetched: Fetched::default(),
            reminder: Reminder::default(),
            metrics,
        })
    }

    /// Handles the worker's news; passes on to `inputs` what the core must know.
    pub(super) fn gather(
        &mut self,
        now: Time,
        journal: &mut Journal,
        inputs: &mut Vec<Input<P::Message>>,
    ) {
        self.look(now, journal);
        self.gave_up_arriving = false;
        inputs.append(&mut self.inputs);
    }

    /// Handles the worker's news, and keeps what the core must know.
    pub(super) fn look(&mut self, now: Time, journal: &mut Journal) {
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Written { state_bytes } => {
                    self.state_bytes = state_bytes;
                    let Stage::Begun(position) = self.stage else {
                        unreachable!("it is written once it was begun")
                    };
                    self.stage = Stage::Written(position);
                }
                News::Taken(own, info) => self.taken(now, own, info, journal),
                News::Lent(epoch, own) => self.lent(now, epoch, own),
                News::Failed(error) => self.failed(now, &error),
                News::Read(epoch, read, bytes) => {
                    self.inputs.push(Input::Read { epoch, read, bytes });
                }
                News::Arrived(arrived) => self.arrived.push(*arrived),
                News::Useless => self.useless += 1,
            }
        }
        match &self.stage {
            Stage::Written(position) if !self.waits_for_the_log(*position, now, journal) => {
                self.stage = Stage::Finishing;
                self.tell(Task::Finish);
            }
            Stage::Cutting(position, _) if journal.begins_at(*position) => {
                let Stage::Cutting(_, own) = std::mem::replace(&mut self.stage, Stage::Idle) else {
                    unreachable!("it was seen to be")
                };
                self.inputs.push(Input::Saved { epoch: self.epoch(), own });
            }
            _ => {}
        }
    }

    /// Whether a snapshot at this position must not be finished yet. A finished snapshot is used
    /// after a crash.
    fn waits_for_the_log(&self, position: LogPosition, now: Time, journal: &mut Journal) -> bool {
        position > journal.durable(now).position()
            || self.lineage.is_first() && !journal.is_divided_at(position)
    }

    /// Whether the replica must stop taking steps until the current snapshot is done or has failed:
    /// it is to free room on an almost full disk, and needs the room that is left.
    pub(super) fn needs_quiet(&self) -> bool {
        self.store.is_some() && !matches!(self.stage, Stage::Idle) && self.shared.space_is_low()
    }

    /// The log waits for room. Give up a snapshot that waits for the log, and one that arrives from
    /// another replica, because they take that room, and begin none.
    pub(super) fn make_room(&mut self, now: Time, journal: &mut Journal) {
        let action = "letting the log have the room for";
        let full = StorageError::Full { action, file: "a snapshot".to_owned() };
        let full = SnapshotError::Failed(full);
        if matches!(self.stage, Stage::Written(at) if self.waits_for_the_log(at, now, journal)) {
            self.tell(Task::GiveUp);
            self.failed(now, &full);
        }
        if !std::mem::replace(&mut self.gave_up_arriving, true) {
            self.tell(Task::GiveUpArriving);
        }
        self.next_askers.drain(..).for_each(|asker| asker.refuse(full.clone()));
    }

    fn taken(
        &mut self,
        now: Time,
        own: OwnSnapshot,
        info: Option<SnapshotInfo>,
        journal: &mut Journal,
    ) {
        let took = now.since(self.begun);
        self.offered.push(own.id);
        self.tell_askers(now, &own, info.as_ref());
        self.metrics.taken += 1;
        self.metrics.took.record(took);
        self.metrics.bytes = own.bytes;
        self.stage = Stage::Idle;
        self.lending = std::mem::take(&mut self.lends) && own.bytes == 0;
        self.attempts.succeeded();
        self.reminder.is_over();
        self.while_low += u32::from(self.attempts.room() == Room::All);
        if let (Some(info), Some(store)) = (info, &self.store) {
            let (position, bytes) = (info.position, info.bytes);
            (self.metrics.position, self.metrics.bytes) = (position.records(), bytes);
            let longest_stop = lock(&self.shared.applied).stall.max().as_secs_f64();
            info!(
                us = %self.shared.id, position = position.records(), bytes,
                seconds = took.as_secs_f64(), longest_stop, "took a snapshot"
            );
            // If room is short, the log is not kept for an older snapshot to fall back on. Nor is
            // it if others cannot read this one: the machine has moved on with it.
            let short = self.attempts.room() == Room::All || own.bytes == 0;
            let floor = if short { position } else { store.log_floor() };
            let cut = self.lineage.finish(position, floor);
            journal.truncate(cut.to);
            if cut.first {
                self.stage = Stage::Cutting(position, own);
            } else {
                self.inputs.push(Input::Saved { epoch: self.epoch(), own });
            }
        } else {
            // In memory there is no log to cut.
            self.lineage.finish(LogPosition::default(), LogPosition::default());
            self.inputs.push(Input::Saved { epoch: self.epoch(), own });
        }
    }

    /// A copy for others was made, or came to nothing.
    fn lent(&mut self, now: Time, epoch: u32, own: Option<OwnSnapshot>) {
        self.lending = false;
        self.tell_borrowers(now, own.as_ref());
        match own {
            Some(own) => {
                self.offered.push(own.id);
                self.inputs.push(Input::Lent { epoch, own });
            }
            None => self.lend_not_before = now + LEND_PAUSE,
        }
    }

    /// A failed snapshot does not stop the replica, because the log continues. It is tried again.
    fn failed(&mut self, now: Time, error: &SnapshotError) {
        if let Some(left_out) = self.reminder.is_due(now, &error.to_string()) {
            let us = self.shared.id;
            warn!(%us, %error, left_out, "no snapshot could be taken; it is tried again");
        }
        self.metrics.failed += 1;
        self.stage = Stage::Idle;
        self.wanted |= std::mem::take(&mut self.lends);
        self.lineage.fail();
        self.attempts.failed(now);
        self.askers.drain(..).for_each(|asker| asker.refuse(error.clone()));
    }

    /// Does what the core wants done about snapshots.
    pub(super) fn follow(&mut self, out: &mut Output<P::Message, P::Record>) {
        self.wanted |= std::mem::take(&mut out.snapshot_wanted);
        let reads = out.snapshot_reads.drain(..);
        reads.for_each(|(epoch, read)| self.tell(Task::Read(epoch, read)));
        out.snapshot_received.drain(..).for_each(|arrival| self.tell(Task::Arrival(arrival)));
    }

    fn tell(&self, task: Task<P::Snapshot, P::Record>) {
        // If the worker has ended, it has panicked, and the replica stops.
        let _ = self.tasks.send(task);
    }

    /// The next snapshot of another replica, ready to be installed.
    pub(super) fn next_arrived(&mut self) -> Option<Arrived<P::Snapshot>> {
        self.arrived.pop()
    }

    /// How many complete snapshots turned out to be useless since the last call.
    pub(super) fn take_useless(&mut self) -> usize {
        std::mem::take(&mut self.useless)
    }

    /// Notes that the state has been replaced by another replica's.
    pub(super) fn installed(&mut self, bytes: u64, took: Duration) {
        info!(us = %self.shared.id, bytes, "installed another replica's snapshot");
        self.metrics.installed += 1;
        self.metrics.installed_bytes += bytes;
        self.metrics.building.record(took);
        self.lineage.installed();
        self.attempts = Attempts::new();
    }

    /// Notes whether there is a state to take a snapshot of.
    pub(super) fn note_state(&mut self, has_state: bool) {
        self.has_state = has_state;
        let askers = if has_state { Vec::new() } else { std::mem::take(&mut self.next_askers) };
        askers.into_iter().for_each(|asker| asker.refuse(SnapshotError::NoState));
    }

    /// Begins a snapshot if it is time, and returns the apply thread's part of it. Everything that
    /// the core has put out must already be on its way.
    pub(super) fn begin(
        &mut self,
        now: Time,
        epochs: &Epochs<P>,
        journal: &mut Journal,
    ) -> Option<Work> {
        let room = self.is_due(now, epochs, journal)?;
        let clock = self.shared.clock;
        let begun = clock.now();
        // Without a state there is nothing to take yet; it is still wanted.
        let (list, mut checkpoint) = epochs.checkpoint()?;
        self.list = Some(list.clone());
        self.metrics.core_stall.record(clock.now().since(begun));
        let wanted = self.is_wanted(now);
        self.wanted &= !wanted;
        self.lends = self.numbers.is_some() && (wanted || self.is_asked_to_lend());
        (self.log_bytes, self.fed_bytes) = (journal.log_bytes(), epochs.fed_bytes());
        self.least_kept = epochs.kept_bytes();
        self.begun = now;
        self.stage = Stage::Begun(checkpoint.position);
        self.askers.append(&mut self.next_askers);
        if self.store.is_none() {
            checkpoint.own.clear();
        }
        if self.lineage.begin() {
            journal.divide(checkpoint.position);
        }
        self.attempts.began(room);
        let (tasks, before) = (self.tasks.clone(), self.state_bytes);
        let (number, lend) = (self.numbers, self.lends);
        self.numbers = number.map(|number| number + 1);
        let deliver = Box::new(move |state: Frozen| {
            let bytes = state.machine_bytes().unwrap_or(before);
            let snapshot = NewSnapshot { list, checkpoint, state, bytes, room };
            let _ = tasks.send(Task::Write(Box::new(snapshot)));
        });
        Some(Work::Checkpoint(Box::new(NewCheckpoint { number, lend, deliver })))
    }

    /// Releases snapshots that nobody reads any more.
    pub(super) fn look_after(&mut self, epochs: &Epochs<P>) {
        let (tasks, fetched, now) = (&self.tasks, &self.fetched, self.shared.clock.now());
        self.offered.retain(|id| {
            let served = epochs.serves(*id) || fetched.keeps(*id, now);
            if !served {
                let _ = tasks.send(Task::LetGo(*id));
            }
            served
        });
    }

    /// The figures so far.
    pub(super) fn metrics(&self, epochs: &Epochs<P>, journal: &Journal) -> SnapshotMetrics {
        let mut metrics = self.metrics.clone();
        metrics.apply_stall = lock(&self.shared.applied).stall.clone();
        metrics.kept_bytes = epochs.kept_bytes();
        metrics.log_start = journal.first().records();
        metrics.is_being_taken = !matches!(self.stage, Stage::Idle);
        metrics
    }
}

impl<P: NodeProtocol> Drop for Snapshots<P> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // The thread ends when it has no sender.
        self.tasks = unbounded().0;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already been reported.
            let _ = thread.join();
        }
    }
}
