//! A replica's storage room in the simulator: the real one, on a disk that fails as it is told.
//! Used by `host`, in the worlds that have it; the others keep a list of records instead.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rand::{Rng, RngExt};

use super::plan::StoragePlan;
use super::snapshots::number;
use crate::storage::{
    Disk as _, Durability, FaultyDisk, Identity, LogOptions, Operation, SnapshotOptions,
    SnapshotWriter, StorageError, Store, StoreOptions, verify,
};
use crate::types::{Durable, LogPosition, ReplicaId};
use crate::wire::{self, Wire};

/// A disk that is never full by itself.
const CAPACITY: u64 = 1 << 40;
/// More operations than any life has.
const NEVER: u64 = 1 << 40;

/// How a life ends for the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// The process is killed: the system keeps what it was given.
    Killed,
    /// The power fails: of what was not flushed any subset is lost.
    Power,
}

/// What became of an attempt to start.
#[derive(Debug)]
pub(super) enum Opened<R> {
    /// These are the records, all of them durable.
    Ready {
        /// What the newest sound snapshot holds.
        snapshot: Option<Bytes>,
        /// Those behind it.
        records: Vec<R>,
        durable: Durable,
    },
    /// The disk failed, or has no room: another time.
    Later(StorageError),
    /// Something is not as it was written.
    Refused(StorageError),
    /// An empty disk under an old name: the peers know its owner's later lives.
    Stranger,
}

/// What can be read of a log.
#[derive(PartialEq, Debug)]
pub(super) struct Survey<R> {
    /// Where it begins.
    pub(super) first: usize,
    pub(super) records: Vec<R>,
    /// Whether something vouches for the end.
    pub(super) sealed: bool,
}

/// A snapshot that is being written.
struct Writing {
    writer: SnapshotWriter,
    position: LogPosition,
    bytes: Bytes,
    /// How much of them is written.
    written: usize,
}

/// A directory on a faulty disk, open or not.
pub(super) struct Room<R> {
    disk: FaultyDisk,
    options: StoreOptions,
    limits: wire::Limits,
    store: Option<Store>,
    /// Of the latest life.
    identity: Identity,
    /// The first read of the next start fails.
    blind: bool,
    /// The snapshot that is being written.
    writing: Option<Writing>,
    /// Where records are encoded.
    frame: BytesMut,
    records: PhantomData<fn() -> R>,
}

impl<R: Wire> Room<R> {
    /// A new directory, open.
    pub(super) fn new(
        plan: &StoragePlan,
        protocol: &str,
        replicas: usize,
        me: ReplicaId,
        seed: u64,
    ) -> Room<R> {
        let durability = if plan.os || plan.lies { Durability::Os } else { Durability::Fsync };
        let options = StoreOptions {
            cluster: "simulated".to_owned(),
            replica: me,
            protocol: protocol.to_owned(),
            log: LogOptions { segment_bytes: plan.segment_bytes, keep_free: 0, durability },
            snapshots: SnapshotOptions { keep: 2, chunk_bytes: 256 },
        };
        let disk = FaultyDisk::new(seed, CAPACITY);
        let opening = Store::open(Arc::new(disk.clone()), &options);
        let store = opening.and_then(|opening| opening.replay(&mut |_, _| Ok(())));
        let store = store.expect("a new disk has no faults");
        Room {
            identity: store.identity.clone(),
            store: Some(store),
            disk,
            options,
            blind: false,
            writing: None,
            limits: wire::Limits::new(replicas),
            frame: BytesMut::new(),
            records: PhantomData,
        }
    }

    /// Hands a record to the log; nothing is written yet.
    pub(super) fn append(&mut self, record: &R) -> Result<(), StorageError> {
        self.frame.clear();
        wire::encode_record(0, record, &mut self.frame);
        let store = self.store.as_mut().expect("a replica that lives has its directory open");
        store.log.append(&self.frame).map(|_| ())
    }

    /// Writes and flushes what was appended.
    pub(super) fn flush(&mut self) -> Result<Durable, StorageError> {
        self.open_store().log.flush()
    }

    /// What is not urgent.
    pub(super) fn settle(&mut self) -> Result<(), StorageError> {
        self.open_store().log.settle()
    }

    /// Whether new work should be refused, for want of space.
    pub(super) fn space_low(&self) -> bool {
        self.store.as_ref().is_some_and(|store| store.log.space_low())
    }

    fn open_store(&mut self) -> &mut Store {
        self.store.as_mut().expect("a replica that lives has its directory open")
    }

    /// A life ends; within a flush, after so many operations of it, if that is said.
    pub(super) fn end(&mut self, ending: Ending, within: Option<u64>) {
        if let (Some(operations), Some(store)) = (within, &mut self.store) {
            self.disk.crash_after(operations);
            // Whether it fails, or was done in time, nobody hears of it.
            let _ = store.log.flush().and_then(|_| store.log.settle());
        }
        if let Some(writing) = self.writing.take() {
            // Who is killed does not tidy up.
            self.disk.crash_after(0);
            let _ = self.disk.sync_directory();
            drop(writing);
        }
        self.store = None;
        match ending {
            Ending::Killed => self.disk.restart_process(),
            Ending::Power => self.disk.lose_power(),
        }
    }

    /// What can be read, without a change to anything.
    pub(super) fn survey(&self) -> Result<Survey<R>, StorageError> {
        let mut records = Vec::new();
        let limits = self.limits;
        let report = verify(&self.disk, &mut |_, bytes| {
            records.push(read(bytes, &limits)?);
            Ok(())
        })?;
        // A damaged snapshot lies there until the next one is finished; whether another can take
        // its place is seen at the next start.
        let harmless = |problem: &StorageError| match problem {
            StorageError::Damaged { file, .. } => file.starts_with("snapshot-"),
            _ => false,
        };
        if let Some(problem) = report.problems.into_iter().find(|problem| !harmless(problem)) {
            return Err(problem);
        }
        let sealed = report.segments.last().is_some_and(|segment| segment.sealed);
        let first = report.segments.first().map_or(0, |segment| segment.first);
        let first = usize::try_from(first).expect("what is in memory can be counted");
        Ok(Survey { first, records, sealed })
    }

    /// Starts the next life; it may end within, after so many operations that change something.
    pub(super) fn open(&mut self, within: Option<u64>) -> Result<Opened<R>, String> {
        if let Some(operations) = within {
            self.disk.crash_after(operations);
        }
        if std::mem::take(&mut self.blind) {
            self.disk.fail_next(Operation::Read);
        }
        let mut records = Vec::new();
        let mut snapshot = None;
        let limits = self.limits;
        let opened = Store::open(Arc::new(self.disk.clone()), &self.options);
        let store = opened.and_then(|mut opening| {
            if let Some(reader) = &mut opening.snapshot {
                let mut bytes = BytesMut::new();
                while let Some(chunk) = reader.next_chunk()? {
                    bytes.extend_from_slice(&chunk);
                }
                snapshot = Some(bytes.freeze());
            }
            opening.replay(&mut |_, bytes| {
                records.push(read(bytes, &limits)?);
                Ok(())
            })
        });
        let store = match store {
            Ok(store) => store,
            Err(error @ (StorageError::Io { .. } | StorageError::Full { .. })) => {
                return Ok(Opened::Later(error));
            }
            Err(error) => return Ok(Opened::Refused(error)),
        };
        self.disk.crash_after(NEVER);
        if store.identity.directory != self.identity.directory {
            return Ok(Opened::Stranger);
        }
        if store.identity.incarnation <= self.identity.incarnation {
            return Err(format!("{:?} comes behind {:?}", store.identity, self.identity));
        }
        self.identity = store.identity.clone();
        let durable = store.log.durable();
        self.store = Some(store);
        Ok(Opened::Ready { snapshot, records, durable })
    }

    /// Begins a snapshot that stands for all records before `position`.
    pub(super) fn begin_snapshot(
        &mut self,
        position: LogPosition,
        bytes: Bytes,
    ) -> Result<(), StorageError> {
        let store = self.store.as_mut().expect("a replica that lives has its directory open");
        let mut writer = store.snapshots.begin(position)?;
        let written = bytes.len() / 2;
        writer.write(&bytes[..written])?;
        self.writing = Some(Writing { writer, position, bytes, written });
        Ok(())
    }

    /// Whether a snapshot is being written.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// The position of the snapshot that is being written, and its number.
    pub(super) fn writes(&self) -> Option<(LogPosition, usize)> {
        self.writing.as_ref().map(|writing| (writing.position, number(&writing.bytes)))
    }

    /// Finishes the snapshot that is being written; the process may end within.
    pub(super) fn finish_snapshot(&mut self, within: Option<u64>) -> Result<(), StorageError> {
        let writing = self.writing.take().expect("one is being written");
        let Writing { mut writer, bytes, written, .. } = writing;
        if let Some(operations) = within {
            self.disk.crash_after(operations);
        }
        writer.write(&bytes[written..])?;
        writer.finish()?;
        if !self.disk.is_dead() {
            self.disk.crash_after(NEVER);
        }
        Ok(())
    }

    /// Lets go of the log that no snapshot kept needs: whether there was something to let go.
    pub(super) fn cut_log(&mut self) -> Result<bool, StorageError> {
        let store = self.open_store();
        let before = store.log.first();
        store.log.truncate(store.snapshots.log_floor())?;
        Ok(store.log.first() > before)
    }

    /// Whether the disk died in the middle of something.
    pub(super) fn is_dead(&self) -> bool {
        self.disk.is_dead()
    }

    /// The next operation of this kind fails.
    pub(super) fn fail_next(&mut self, operation: Operation) {
        self.disk.fail_next(operation);
    }

    /// A read of the next start fails.
    pub(super) fn fail_start(&mut self) {
        self.blind = true;
    }

    /// From now on there is room for so many bytes more, or for all there may be.
    pub(super) fn leave_room(&mut self, bytes: Option<u64>) {
        self.disk.set_capacity(CAPACITY);
        if let Some(bytes) = bytes {
            let free = self.disk.free_space().expect("it is in memory");
            self.disk.set_capacity(CAPACITY - free + bytes);
        }
    }

    /// Turns over one bit, somewhere. Returns how to turn it back.
    pub(super) fn flip(&mut self, rng: &mut impl Rng) -> Flip {
        let files: Vec<_> = self.disk.files().into_iter().collect();
        let (file, bytes) = &files[rng.random_range(0..files.len())];
        // Most of a segment is empty: where there is something is where it hurts, and most of all
        // at its end.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
        let offset = match rng.random_range(0..4) {
            0 => rng.random_range(0..bytes.len().max(1)),
            1 => rng.random_range(used.saturating_sub(100)..used.max(1)),
            _ => rng.random_range(0..used.max(1)),
        };
        let flip = Flip { file: file.clone(), offset, mask: 1 << rng.random_range(0..8) };
        self.turn(&flip);
        flip
    }

    /// Turns a bit over, or back.
    pub(super) fn turn(&mut self, flip: &Flip) {
        self.disk.flip(&flip.file, flip.offset, flip.mask);
    }

    /// A new disk in place of the old.
    pub(super) fn wipe(&mut self) {
        self.disk.wipe();
    }

    /// Dies within the operation after the next so many.
    #[cfg(test)]
    pub(super) fn die_after(&mut self, operations: u64) {
        self.disk.crash_after(operations);
    }
}

/// Which bit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Flip {
    file: String,
    offset: usize,
    mask: u8,
}

fn read<R: Wire>(bytes: &[u8], limits: &wire::Limits) -> Result<R, String> {
    let decoded = wire::decode_record(Bytes::copy_from_slice(bytes), limits);
    decoded.map(|(_, record)| record).map_err(|error| error.to_string())
}
