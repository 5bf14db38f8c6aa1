//! The snapshot worker: a thread beside the log's for all that is slow about snapshots
//! (PROTOCOL.md §8a). It writes own ones, reads from them what others ask for, and puts together
//! and builds what others send. The parent module, on the core thread, decides; the worker does.

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
use crate::node::shared::{Phase, ReplicaShared};
use crate::replica::{Arrival, Checkpoint, OwnSnapshot, SnapshotId, SnapshotRead};
use crate::storage::{Disk, SnapshotInfo, SnapshotReader, SnapshotWriter, Snapshots, StorageError};
use crate::types::Executed;
use crate::wire::{self, Wire, decode_snapshot, encode_snapshot};

/// Snapshots are written in pieces of this many bytes; between two, others' reads are answered.
const PIECE: usize = 1 << 20;
/// Memory that is set aside for a snapshot before the first of it has come.
const BEGINNING: u64 = 1 << 20;

/// What the core thread wants done. `H` is what the protocol shares, `R` its record.
pub(in crate::node) enum Task<H, R> {
    /// Write a snapshot, all but its end. Answered by [`News::Written`] or [`News::Failed`].
    Write { checkpoint: Checkpoint<H, R>, state: Vec<u8>, room: Room },
    /// The log is durable as far as the snapshot reaches: make it count. Answered by
    /// [`News::Taken`] or [`News::Failed`].
    Finish,
    /// What is written is not to be finished: its room is needed.
    GiveUp,
    /// Answered by [`News::Read`].
    Read(SnapshotRead),
    /// Nobody reads this one any more.
    LetGo(SnapshotId),
    /// Something of another replica's snapshot. What is complete is answered by [`News::Arrived`]
    /// or [`News::Useless`].
    Arrival(Arrival),
}

/// How much of the disk a snapshot may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) enum Room {
    /// What is not left to the log.
    Spare,
    /// All that is free: the disk is almost full, and this is what makes room. The log is cut at
    /// its position, so older ones are of no use any more.
    All,
}

/// What came of it.
pub(in crate::node) enum News<H> {
    Written,
    Taken(OwnSnapshot, Option<SnapshotInfo>),
    Failed(StorageError),
    Read(SnapshotRead, Option<Bytes>),
    Arrived(Box<Arrived<H>>),
    Useless,
}

/// Another replica's snapshot, ready to take the place of the state.
pub(in crate::node) struct Arrived<H> {
    pub(in crate::node) shared: H,
    pub(in crate::node) executed: Executed,
    /// The apply thread's `Applier`.
    pub(in crate::node) applier: Box<dyn Any + Send>,
    pub(in crate::node) bytes: u64,
    /// What checking and building it took.
    pub(in crate::node) took: Duration,
}

/// Where snapshots are kept.
pub(in crate::node) enum SnapshotStore {
    /// In memory, for others alone.
    Memory,
    /// In the data directory. That much of the disk is left to the log, until it has used that up.
    Disk { snapshots: Snapshots, disk: Arc<dyn Disk>, leave_free: u64 },
}

/// An own snapshot that others may read.
pub(in crate::node) enum Readable {
    Memory(Bytes),
    File(SnapshotReader),
}

/// A snapshot that is written but for its end.
enum Written {
    Memory(OwnSnapshot, Bytes),
    File(OwnSnapshot, SnapshotWriter, Room),
}

/// A snapshot that is on its way here.
struct Incoming {
    id: SnapshotId,
    bytes: Vec<u8>,
}

/// What the thread works with.
pub(in crate::node) struct SnapshotWorker<H, R> {
    pub(in crate::node) store: SnapshotStore,
    pub(in crate::node) shared: Arc<ReplicaShared>,
    /// What is under way is not wanted any more.
    pub(in crate::node) over: Arc<AtomicBool>,
    pub(in crate::node) cluster: String,
    pub(in crate::node) limits: wire::Limits,
    pub(in crate::node) tasks: Receiver<Task<H, R>>,
    pub(in crate::node) news: Sender<News<H>>,
}

/// The thread itself.
struct Work<H, R> {
    worker: SnapshotWorker<H, R>,
    /// What came while something else was being done.
    later: VecDeque<Task<H, R>>,
    written: Option<Written>,
    readable: Vec<(SnapshotId, Readable)>,
    incoming: Option<Incoming>,
}

impl<H: Wire, R: Wire> SnapshotWorker<H, R> {
    /// Works until there is nobody left to work for. `first` is the snapshot that the replica
    /// began with.
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

    /// Whether nobody waits for anything any more.
    fn is_over(&self) -> bool {
        self.worker.over.load(Ordering::Acquire) || self.worker.shared.phase() >= Phase::Killed
    }

    fn tell(&self, news: News<H>) {
        // Nobody hears it when the replica has ended.
        let _ = self.worker.news.send(news);
        self.worker.shared.wake.notify_one();
    }

    fn write(
        &mut self,
        checkpoint: &Checkpoint<H, R>,
        state: &[u8],
        room: Room,
    ) -> Result<Written, StorageError> {
        // A failed attempt of before, if there is one, goes first: it takes space.
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
                    // There may be bytes to be had, and no file.
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

    /// Whether the disk has room for so many bytes of a snapshot. One that may take all there is
    /// takes the older ones' as well, all but the newest's, which would go once it is finished.
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

    /// Answers the reads that wait, and puts the rest off.
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

    /// Makes a state of another replica's bytes. Whatever is wrong with them, and whatever the
    /// state machine makes of that, is no reason to stop.
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

/// Whether the disk has that much room.
fn spare(disk: &dyn Disk, bytes: u64) -> Result<(), StorageError> {
    match disk.free_space() {
        Ok(free) if free < bytes => {
            let (action, file) = ("leaving room for the log behind", "a snapshot".to_owned());
            Err(StorageError::Full { action, file })
        }
        // Whether it can be written, writing it will tell.
        _ => Ok(()),
    }
}
