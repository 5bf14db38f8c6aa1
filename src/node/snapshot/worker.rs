//! The snapshot worker: a thread for all slow work on snapshots, beside the log's thread
//! (PROTOCOL.md §8a). It writes own snapshots, reads from them what other replicas ask for, and
//! stores and builds (`incoming`) those that others send. The parent module, on the core thread,
//! decides; the worker does the work.

mod on_disk;

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, select};
use tracing::warn;

use on_disk::MachinePart;

use super::encode::encode;
use super::incoming::{Arrived, Home, Incoming};
use super::lend::{Lender, Lending, Lent, Loan};
use super::store::{SnapshotStore, spare};
use crate::machine::{Frozen, MachineSource, StateMachine, write_reference};
use crate::node::error::{Fault, SnapshotError};
use crate::node::fetched::Wanted;
use crate::node::panics::panic_text;
use crate::node::shared::{Lifecycle, ReplicaShared};
use crate::replica::{Arrival, Checkpoint, OwnSnapshot, SnapshotId, SnapshotRead};
use crate::storage::{SnapshotInfo, SnapshotReader, SnapshotWriter, StorageError};
use crate::types::Membership;
use crate::wire::{self, Encoded, Wire};

/// Snapshots are written in pieces of this many bytes. Between two pieces, others' reads are
/// answered.
const PIECE: usize = 1 << 20;

/// A task from the core thread. `H` is the protocol's shared part, `R` its record.
pub(in crate::node) enum Task<H, R> {
    /// Write a snapshot except for its end. Answered by [`News::Written`] or [`News::Failed`].
    Write(Box<NewSnapshot<H, R>>),
    /// The log is durable up to the snapshot's position: make the snapshot count. Answered by
    /// [`News::Taken`] or [`News::Failed`].
    Finish,
    /// Drop the unfinished snapshot: its room is needed.
    GiveUp,
    /// Drop what has arrived of another replica's snapshot: its room is needed.
    GiveUpArriving,
    /// A read of a snapshot of this epoch. Answered by [`News::Read`].
    Read(u32, SnapshotRead),
    /// A part of a snapshot for a backup.
    Fetch(Wanted),
    /// Nobody reads this snapshot any more.
    LetGo(SnapshotId),
    /// A part of another replica's snapshot. A complete snapshot is answered by [`News::Arrived`]
    /// or [`News::Useless`].
    Arrival(Arrival),
}

/// A snapshot to be written.
pub(in crate::node) struct NewSnapshot<H, R> {
    /// The list of its epoch.
    pub(in crate::node) list: Membership,
    pub(in crate::node) checkpoint: Checkpoint<H, R>,
    pub(in crate::node) state: Frozen,
    /// About the length of the state in it.
    pub(in crate::node) bytes: u64,
    pub(in crate::node) room: Room,
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
    Written {
        state_bytes: u64,
    },
    Taken(OwnSnapshot, Option<SnapshotInfo>),
    /// A copy for others was made, or came to nothing.
    Lent(u32, Option<OwnSnapshot>),
    Failed(SnapshotError),
    Read(u32, SnapshotRead, Option<Bytes>),
    Arrived(Box<Arrived<H>>),
    Useless,
}

/// An own snapshot that others may read.
pub(in crate::node) enum Readable {
    Memory(Bytes),
    File(SnapshotReader),
}

/// A snapshot that is written except for its end.
enum Written<H, R> {
    Memory(OwnSnapshot, Bytes),
    File(OwnSnapshot, SnapshotWriter, Room),
    /// It refers to the machine's part.
    Reference(OwnSnapshot, SnapshotWriter, Box<MachinePart<H, R>>),
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
    written: Option<Written<H, R>>,
    /// A copy for others that is being made.
    lending: Lending,
    /// One to be begun.
    loan: Option<Loan<H, R>>,
    readable: Vec<(SnapshotId, Readable)>,
    incoming: Option<Incoming>,
}

impl<H, R> SnapshotWorker<H, R>
where
    H: Wire + Send + 'static,
    R: Wire + Send + 'static,
{
    /// Works until the task channel closes. `first` is the snapshot that the replica started from.
    /// Other replicas' states become machines of `source`.
    pub(in crate::node) fn run<S: StateMachine>(
        self,
        source: &dyn MachineSource<Machine = S>,
        first: Option<(SnapshotId, Readable)>,
    ) {
        let shared = Arc::clone(&self.shared);
        let mut work = Work {
            worker: self,
            later: VecDeque::new(),
            written: None,
            lending: Lending::none(),
            loan: None,
            readable: first.into_iter().collect(),
            incoming: None,
        };
        let ended = catch_unwind(AssertUnwindSafe(|| work.run(source)));
        if let Err(panic) = ended {
            let panic = panic_text(&*panic);
            shared.fail(Fault::Bug(format!("the snapshot worker panicked: {panic}")));
        }
    }
}

impl<H, R> Work<H, R>
where
    H: Wire + Send + 'static,
    R: Wire + Send + 'static,
{
    fn run<S: StateMachine>(&mut self, source: &dyn MachineSource<Machine = S>) {
        loop {
            let next = self.later.pop_front().map_or_else(|| self.next(), |task| Some(Ok(task)));
            let Some(next) = next.filter(|_| !self.is_over()) else { return };
            let task = match next {
                Ok(task) => task,
                Err(lent) => {
                    self.lent(lent);
                    continue;
                }
            };
            match task {
                Task::Write(snapshot) => match self.write(*snapshot) {
                    Ok((written, state_bytes)) => {
                        self.written = Some(written);
                        self.tell(News::Written { state_bytes });
                    }
                    Err(error) => self.tell(News::Failed(error)),
                },
                Task::Finish => {
                    let news = self.finish().map_err(SnapshotError::Failed);
                    self.tell(news.unwrap_or_else(News::Failed));
                    self.lend();
                }
                Task::GiveUp => self.written = None,
                Task::GiveUpArriving => self.give_up_arriving(),
                Task::Read(epoch, read) => self.answer(epoch, read),
                Task::Fetch(wanted) => self.fetch(wanted),
                Task::LetGo(id) => self.readable.retain(|(it, _)| *it != id),
                Task::Arrival(arrival) => self.arrive(source, arrival),
            }
        }
    }

    /// The next task, or a copy for others; nothing when there will be no more tasks.
    fn next(&self) -> Option<Result<Task<H, R>, Lent>> {
        select! {
            recv(self.worker.tasks) -> task => task.ok().map(Ok),
            // Without a word it has panicked.
            recv(self.lending.lent()) -> lent => Some(Err(lent.unwrap_or_default())),
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

    /// Writes a snapshot except for its end. Returns the length of its state, too.
    fn write(
        &mut self,
        snapshot: NewSnapshot<H, R>,
    ) -> Result<(Written<H, R>, u64), SnapshotError> {
        let NewSnapshot { list, checkpoint, state, bytes, room } = snapshot;
        // Drop an earlier failed attempt first, because it takes space.
        self.written = None;
        let cluster = self.worker.cluster.clone();
        let of = (&list, &*cluster);
        let writer = match &self.worker.store {
            SnapshotStore::Memory => {
                let mut all = Vec::new();
                let Frozen::Whole(state) = state else {
                    unreachable!("without a disk no number is given to freeze by")
                };
                let state = |to: &mut dyn io::Write| state.write_to(to);
                let Encoded { own, state_bytes } = encode(of, &checkpoint, state, |bytes| {
                    self.look_up()?;
                    all.extend_from_slice(bytes);
                    Ok(())
                })?;
                all.truncate(usize::try_from(own.bytes).expect("it is in memory"));
                return Ok((Written::Memory(own, all.into()), state_bytes));
            }
            SnapshotStore::Disk { snapshots, .. } => {
                let snapshots = snapshots.clone();
                self.find_room(room, bytes)?;
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
        let mut write = |bytes: &[u8]| {
            bytes.chunks(PIECE).try_for_each(|piece| {
                self.look_up()?;
                self.find_room(room, piece.len() as u64)?;
                writer.write(piece)
            })
        };
        match state {
            Frozen::Whole(state) => {
                let state = |to: &mut dyn io::Write| state.write_to(to);
                let Encoded { own, state_bytes } = encode(of, &checkpoint, state, &mut write)?;
                Ok((Written::File(own, writer, room), state_bytes))
            }
            Frozen::OnDisk { sessions, number, checkpoint: part, lent } => {
                let state = |to: &mut dyn io::Write| write_reference(&sessions, number, to);
                let Encoded { own, state_bytes } = encode(of, &checkpoint, state, &mut write)?;
                // Others cannot follow the reference.
                let own = OwnSnapshot { bytes: 0, ..own };
                let loan = lent.map(|view| {
                    let checkpoint = Checkpoint { own: Vec::new(), ..checkpoint };
                    Loan { list, checkpoint, view }
                });
                let part = MachinePart { number, checkpoint: part, loan };
                Ok((Written::Reference(own, writer, Box::new(part)), state_bytes))
            }
        }
    }

    /// Whether the disk has room for this many bytes of a snapshot. If it has not, a snapshot that
    /// may take all room first takes that of another replica's unfinished one, and then removes the
    /// existing ones except the newest. They are useless once this one is finished.
    fn find_room(&mut self, room: Room, bytes: u64) -> Result<(), StorageError> {
        let Work { worker, incoming, .. } = self;
        let SnapshotStore::Disk { snapshots, disk, leave_free } = &worker.store else {
            return Ok(());
        };
        if room == Room::Spare {
            return spare(&**disk, leave_free.saturating_add(bytes));
        }
        if spare(&**disk, bytes).is_ok() {
            return Ok(());
        }
        if let Some(incoming) = incoming {
            incoming.give_up_room();
        }
        if spare(&**disk, bytes).is_err() {
            snapshots.keep_newest()?;
        }
        spare(&**disk, bytes)
    }

    fn give_up_arriving(&mut self) {
        if let Some(incoming) = &mut self.incoming {
            incoming.give_up_room();
        }
    }

    /// Answers waiting reads, stores what has arrived of another replica's snapshot, and defers all
    /// other tasks. An error means that the present task is not wanted any more.
    fn look_up(&mut self) -> Result<(), StorageError> {
        while let Ok(task) = self.worker.tasks.try_recv() {
            match task {
                Task::Read(epoch, read) => self.answer(epoch, read),
                Task::Fetch(wanted) => self.fetch(wanted),
                Task::GiveUpArriving => self.give_up_arriving(),
                Task::Arrival(arrival) if self.may_arrive(&arrival) => self.take_in(arrival),
                other => self.later.push_back(other),
            }
        }
        if self.is_over() { Err(StorageError::Closed) } else { Ok(()) }
    }

    /// Whether this part of a snapshot can be stored at once. Its end is deferred, because building
    /// a state takes long, and so is everything that arrives after a deferred one.
    fn may_arrive(&self, arrival: &Arrival) -> bool {
        let waits = |task: &Task<H, R>| matches!(task, Task::Arrival(_));
        *arrival != Arrival::Complete && !self.later.iter().any(waits)
    }

    /// Makes what is written count.
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
            Written::Reference(own, writer, part) => {
                let info = self.finish_reference(writer, *part)?;
                return Ok(News::Taken(own, Some(info)));
            }
        };
        self.readable.retain(|(id, _)| *id != own.id);
        self.readable.push((own.id, readable));
        Ok(News::Taken(own, info))
    }

    /// First this replica's part, then the machine's: see `machine::checkpoint`.
    fn finish_reference(
        &mut self,
        writer: SnapshotWriter,
        part: MachinePart<H, R>,
    ) -> Result<SnapshotInfo, StorageError> {
        let MachinePart { number, checkpoint, loan } = part;
        let (us, prepared) = (self.worker.shared.id, writer.prepare(number)?);
        // Even if nobody wants it any more, it has to end before the machine does.
        let written = on_disk::write(us, checkpoint, || drop(self.look_up()));
        if let Err(error) = written {
            let error = StorageError::of_machine("writing", error);
            if error.is_full() {
                prepared.discard()?;
            } else {
                // Whether the machine has this checkpoint, the next start will find out.
                self.worker.shared.fail(Fault::Storage(error.clone()));
            }
            return Err(error);
        }
        let info = prepared.adopt()?;
        self.loan = loan;
        Ok(info)
    }

    /// Begins the copy for others that was asked for together with the last snapshot.
    fn lend(&mut self) {
        let Some(loan) = self.loan.take() else { return };
        let SnapshotWorker { store, shared, over, cluster, .. } = &self.worker;
        let (store, cluster) = (store.clone(), cluster.clone());
        let (shared, over) = (Arc::clone(shared), Arc::clone(over));
        self.lending = Lender { store, shared, cluster, over }.begin(loan);
    }

    /// A copy for others was made, or came to nothing.
    fn lent(&mut self, lent: Lent) {
        self.lending = Lending::none();
        let own = lent.copy.map(|(own, reader)| {
            self.readable.retain(|(id, _)| *id != own.id);
            self.readable.push((own.id, Readable::File(reader)));
            own
        });
        self.tell(News::Lent(lent.epoch, own));
    }

    fn answer(&mut self, epoch: u32, read: SnapshotRead) {
        let bytes = self.range(read.snapshot, read.offset, read.bytes);
        self.tell(News::Read(epoch, read, bytes));
    }

    fn fetch(&mut self, wanted: Wanted) {
        let Wanted { snapshot, offset, bytes, asker } = wanted;
        if let Some(part) = self.range(snapshot, offset, bytes) {
            // The caller may be gone.
            let _ = asker.send(part);
        }
    }

    /// A part of an own snapshot; `None` if it is not kept any more, or cannot be read.
    fn range(&self, snapshot: SnapshotId, offset: u64, bytes: u32) -> Option<Bytes> {
        let (_, readable) = self.readable.iter().find(|(id, _)| *id == snapshot)?;
        match readable.range(offset, bytes) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                warn!(us = %self.worker.shared.id, %error, "a snapshot cannot be read any more");
                None
            }
        }
    }

    fn arrive<S: StateMachine>(
        &mut self,
        source: &dyn MachineSource<Machine = S>,
        arrival: Arrival,
    ) {
        if arrival != Arrival::Complete {
            return self.take_in(arrival);
        }
        // Its beginning may have been one of another epoch.
        let Some(incoming) = self.incoming.take() else { return self.tell(News::Useless) };
        let bytes = incoming.bytes();
        // This also removes its file. An own snapshot follows at once, and needs the room.
        let news = match incoming.build::<S, H>(&self.home(), source) {
            Ok(arrived) => News::Arrived(Box::new(arrived)),
            Err(why) => {
                let us = self.worker.shared.id;
                warn!(%us, bytes, why, "another replica's snapshot is of no use");
                News::Useless
            }
        };
        self.tell(news);
    }

    fn home(&self) -> Home<'_> {
        let SnapshotWorker { shared, cluster, limits, .. } = &self.worker;
        Home { shared, cluster, limits }
    }

    /// Stores what has arrived of a snapshot.
    fn take_in(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Begins { snapshot, bytes } => {
                // Drop the file of an earlier one first, because it takes space.
                self.incoming = None;
                self.incoming = Some(Incoming::begin(&self.worker.store, snapshot, bytes));
            }
            Arrival::Bytes(bytes) => {
                if let Some(incoming) = &mut self.incoming {
                    incoming.take_in(&self.worker.store, &bytes);
                }
            }
            Arrival::GivenUp => self.incoming = None,
            Arrival::Complete => unreachable!("`arrive` builds a state then"),
        }
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
