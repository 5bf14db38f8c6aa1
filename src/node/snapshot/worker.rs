//! The snapshot worker: a thread for all slow work on snapshots, beside the log's thread
//! (PROTOCOL.md §8a). It writes own snapshots, reads from them what other replicas ask for, and
//! assembles and builds those that others send. The parent module, on the core thread, decides; the
//! worker does the work.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender};
use tracing::{info, warn};

use crate::machine::{Applier, StateMachine};
use crate::node::EPOCH;
use crate::node::error::Fault;
use crate::node::panics::panic_text;
use crate::node::shared::{Lifecycle, ReplicaShared};
use crate::replica::{Arrival, Checkpoint, OwnSnapshot, SnapshotId, SnapshotRead};
use crate::storage::{Disk, SnapshotInfo, SnapshotReader, SnapshotWriter, Snapshots, StorageError};
use crate::types::Executed;
use crate::wire::{self, Wire, decode_snapshot, encode_snapshot};

/// Snapshots are written in pieces of this many bytes. Between two pieces, others' reads are
/// answered.
const PIECE: usize = 1 << 20;
/// Memory reserved for a snapshot before its first part has arrived.
const BEGINNING: u64 = 1 << 20;

/// A task from the core thread. `H` is the protocol's shared part, `R` its record.
pub(in crate::node) enum Task<H, R> {
    /// Write a snapshot except for its end. Answered by [`News::Written`] or [`News::Failed`].
    Write { checkpoint: Checkpoint<H, R>, state: Vec<u8>, room: Room },
    /// The log is durable up to the snapshot's position: make the snapshot count. Answered by
    /// [`News::Taken`] or [`News::Failed`].
    Finish,
    /// Drop the unfinished snapshot: its room is needed.
    GiveUp,
    /// Answered by [`News::Read`].
    Read(SnapshotRead),
    /// No replica reads this snapshot any more.
    LetGo(SnapshotId),
    /// A part of another replica's snapshot. A complete snapshot is answered by [`News::Arrived`]
    /// or [`News::Useless`].
    Arrival(Arrival),
}

/// How much of the disk a snapshot may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) enum Room {
    /// Only what is not reserved for the log.
    Spare,
    /// All free room: the disk is almost full, and this snapshot is to free room. The log will be
    /// cut at its position, so older snapshots are useless.
    All,
}

/// The result of a task.
pub(in crate::node) enum News<H> {
    Written,
    Taken(OwnSnapshot, Option<SnapshotInfo>),
    Failed(StorageError),
    Read(SnapshotRead, Option<Bytes>),
    Arrived(Box<Arrived<H>>),
    Useless,
}

/// Another replica's snapshot, ready to replace the state.
pub(in crate::node) struct Arrived<H> {
    pub(in crate::node) shared: H,
    pub(in crate::node) executed: Executed,
    /// The apply thread's `Applier`.
    pub(in crate::node) applier: Box<dyn Any + Send>,
    pub(in crate::node) bytes: u64,
    /// How long checking and building took.
    pub(in crate::node) took: Duration,
}

/// Where snapshots are stored.
pub(in crate::node) enum SnapshotStore {
    /// In memory, only for other replicas.
    Memory,
    /// In the data directory. `leave_free` bytes of the disk are reserved for the log, until the
    /// log has used them up.
    Disk { snapshots: Snapshots, disk: Arc<dyn Disk>, leave_free: u64 },
}

/// An own snapshot that others may read.
pub(in crate::node) enum Readable {
    Memory(Bytes),
    File(SnapshotReader),
}

/// A snapshot that is written except for its end.
enum Written {
    Memory(OwnSnapshot, Bytes),
    File(OwnSnapshot, SnapshotWriter, Room),
}

/// A snapshot that is arriving.
struct Incoming {
    id: SnapshotId,
    bytes: Vec<u8>,
}

/// Everything the thread works with.
pub(in crate::node) struct SnapshotWorker<H, R> {
    pub(in crate::node) store: SnapshotStore,
    pub(in crate::node) shared: Arc<ReplicaShared>,
    /// The work under way is no longer wanted.
    pub(in crate::node) over: Arc<AtomicBool>,
    pub(in crate::node) cluster: String,
    pub(in crate::node) limits: wire::Limits,
    pub(in crate::node) tasks: Receiver<Task<H, R>>,
    pub(in crate::node) news: Sender<News<H>>,
}

/// The thread's own state.
struct Work<H, R> {
    worker: SnapshotWorker<H, R>,
    /// Tasks that arrived during another one.
    later: VecDeque<Task<H, R>>,
    written: Option<Written>,
    readable: Vec<(SnapshotId, Readable)>,
    incoming: Option<Incoming>,
}

impl<H: Wire, R: Wire> SnapshotWorker<H, R> {
    /// Works until the task channel closes. `first` is the snapshot that the replica started from.
    pub(in crate::node) fn run<S: StateMachine>(self, first: Option<(SnapshotId, Readable)>) {
        let shared = Arc::clone(&self.shared);
        let mut work = Work {
            worker: self,
            later: VecDeque::new(),
            written: None,
            readable: first.into_iter().collect(),
            incoming: None,
        };
        let ended = catch_unwind(AssertUnwindSafe(|| work.run::<S>()));
        if let Err(panic) = ended {
            let panic = panic_text(&*panic);
            shared.fail(Fault::Bug(format!("the snapshot worker panicked: {panic}")));
        }
    }
}

impl<H: Wire, R: Wire> Work<H, R> {
    fn run<S: StateMachine>(&mut self) {
        loop {
            let task = self.later.pop_front();
            let Some(task) = task.or_else(|| self.worker.tasks.recv().ok()) else { return };
            if self.is_over() {
                return;
            }
            match task {
                Task::Write { checkpoint, state, room } => {
                    match self.write(&checkpoint, &state, room) {
                        Ok(written) => {
                            self.written = Some(written);
                            self.tell(News::Written);
                        }
                        Err(error) => self.tell(News::Failed(error)),
                    }
                }
                Task::Finish => {
                    let news = self.finish();
                    self.tell(news.unwrap_or_else(News::Failed));
                }
                Task::GiveUp => self.written = None,
                Task::Read(read) => self.answer(read),
                Task::LetGo(id) => self.readable.retain(|(it, _)| *it != id),
                Task::Arrival(arrival) => self.arrive::<S>(arrival),
            }
        }
    }

    /// Whether the replica has ended, so that no result is needed.
    fn is_over(&self) -> bool {
        self.worker.over.load(Ordering::Acquire)
            || self.worker.shared.lifecycle() >= Lifecycle::Killed
    }

    fn tell(&self, news: News<H>) {
        // The receiver is gone when the replica has ended.
        let _ = self.worker.news.send(news);
        self.worker.shared.wake.notify_one();
    }

    fn write(
        &mut self,
        checkpoint: &Checkpoint<H, R>,
        state: &[u8],
        room: Room,
    ) -> Result<Written, StorageError> {
        // Drop an earlier failed attempt first, because it takes space.
        self.written = None;
        let cluster = self.worker.cluster.clone();
        let writer = match &self.worker.store {
            SnapshotStore::Memory => {
                let mut all = Vec::new();
                let own = encode_snapshot(EPOCH, &cluster, checkpoint, state, |bytes| {
                    all.extend_from_slice(bytes);
                    Ok::<(), StorageError>(())
                })?;
                all.truncate(usize::try_from(own.bytes).expect("it is in memory"));
                return Ok(Written::Memory(own, all.into()));
            }
            SnapshotStore::Disk { snapshots, .. } => {
                self.find_room(room, state.len())?;
                match snapshots.begin(checkpoint.position) {
                    // The disk may have bytes left but no free file.
                    Err(error) if error.is_full() && room == Room::All => {
                        snapshots.keep_newest()?;
                        snapshots.begin(checkpoint.position)
                    }
                    begun => begun,
                }
            }
        };
        let mut writer = writer?;
        let own = encode_snapshot(EPOCH, &cluster, checkpoint, state, |bytes| {
            bytes.chunks(PIECE).try_for_each(|piece| {
                self.look_up();
                if self.is_over() {
                    return Err(StorageError::Closed);
                }
                self.find_room(room, piece.len())?;
                writer.write(piece)
            })
        })?;
        Ok(Written::File(own, writer, room))
    }

    /// Whether the disk has room for this many bytes of a snapshot. If it has not, a snapshot that
    /// may take all room first removes the existing ones except the newest. They are useless once
    /// this one is finished.
    fn find_room(&self, room: Room, bytes: usize) -> Result<(), StorageError> {
        let SnapshotStore::Disk { snapshots, disk, leave_free } = &self.worker.store else {
            return Ok(());
        };
        let bytes = bytes as u64;
        match room {
            Room::Spare => spare(&**disk, leave_free.saturating_add(bytes)),
            Room::All => spare(&**disk, bytes).or_else(|_| {
                snapshots.keep_newest()?;
                spare(&**disk, bytes)
            }),
        }
    }

    /// Answers waiting reads, and defers all other tasks.
    fn look_up(&mut self) {
        while let Ok(task) = self.worker.tasks.try_recv() {
            match task {
                Task::Read(read) => self.answer(read),
                other => self.later.push_back(other),
            }
        }
    }

    fn finish(&mut self) -> Result<News<H>, StorageError> {
        let written = self.written.take().expect("only what is written is finished");
        let (own, info, readable) = match written {
            Written::Memory(own, bytes) => (own, None, Readable::Memory(bytes)),
            Written::File(own, writer, room) => {
                let info = writer.finish()?;
                let SnapshotStore::Disk { snapshots, .. } = &self.worker.store else {
                    unreachable!("it was written to a disk")
                };
                if room == Room::All {
                    snapshots.keep_newest()?;
                }
                let newest = snapshots.newest()?.expect("it was just finished");
                (own, Some(info), Readable::File(newest))
            }
        };
        self.readable.retain(|(id, _)| *id != own.id);
        self.readable.push((own.id, readable));
        Ok(News::Taken(own, info))
    }

    fn answer(&mut self, read: SnapshotRead) {
        let found = self.readable.iter().find(|(id, _)| *id == read.snapshot);
        let bytes = found.and_then(|(_, readable)| match readable.range(read.offset, read.bytes) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                warn!(us = %self.worker.shared.id, %error, "a snapshot cannot be read any more");
                None
            }
        });
        self.tell(News::Read(read, bytes));
    }

    fn arrive<S: StateMachine>(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Begins { snapshot, bytes } => {
                let room = usize::try_from(bytes.min(BEGINNING)).expect("a small number");
                self.incoming = Some(Incoming { id: snapshot, bytes: Vec::with_capacity(room) });
            }
            Arrival::Bytes(bytes) => {
                let incoming = self.incoming.as_mut().expect("a transfer has begun");
                incoming.bytes.extend_from_slice(&bytes);
            }
            Arrival::GivenUp => self.incoming = None,
            Arrival::Complete => {
                let incoming = self.incoming.take().expect("a transfer has begun");
                let length = incoming.bytes.len();
                let news = self.build::<S>(incoming).unwrap_or_else(|why| {
                    let us = self.worker.shared.id;
                    warn!(%us, bytes = length, %why, "another replica's snapshot is of no use");
                    News::Useless
                });
                self.tell(news);
            }
        }
    }

    /// Builds a state from another replica's bytes. Nothing in them may stop this replica, whatever
    /// the state machine makes of them.
    fn build<S: StateMachine>(&self, incoming: Incoming) -> Result<News<H>, String> {
        let (clock, us) = (self.worker.shared.clock, self.worker.shared.id);
        let begun = clock.now();
        let Incoming { id, bytes } = incoming;
        let bytes = Bytes::from(bytes);
        let decoded = decode_snapshot::<H>(&bytes, id, &self.worker.cluster, &self.worker.limits);
        let snapshot = decoded.map_err(|error| error.to_string())?;
        if snapshot.epoch != EPOCH {
            return Err(format!("it is of epoch {}", snapshot.epoch));
        }
        let restored = catch_unwind(|| Applier::<S>::restore(&snapshot.state));
        let applier = restored
            .map_err(|panic| format!("the state machine panicked: {}", panic_text(&*panic)))?
            .map_err(|error| error.to_string())?;
        let (bytes, took) = (snapshot.own.bytes, clock.now().since(begun));
        info!(%us, bytes, seconds = took.as_secs_f64(), "another replica's snapshot is complete");
        let (shared, executed) = (snapshot.shared, snapshot.own.executed);
        let applier = Box::new(applier.keyed(self.worker.shared.content_key));
        Ok(News::Arrived(Box::new(Arrived { shared, executed, applier, bytes, took })))
    }
}

impl Readable {
    fn range(&self, offset: u64, bytes: u32) -> Result<Bytes, StorageError> {
        match self {
            Readable::Memory(all) => {
                let from = usize::try_from(offset).expect("it is in memory");
                Ok(all.slice(from..from + bytes as usize))
            }
            Readable::File(reader) => reader.range(offset, bytes),
        }
    }
}

/// Whether the disk has this much room.
fn spare(disk: &dyn Disk, bytes: u64) -> Result<(), StorageError> {
    match disk.free_space() {
        Ok(free) if free < bytes => {
            let (action, file) = ("leaving room for the log behind", "a snapshot".to_owned());
            Err(StorageError::Full { action, file })
        }
        // If the free space is unknown, the write itself will tell.
        _ => Ok(()),
    }
}
