//! A replica's storage room in the simulator: the real one, on a disk that fails as it is told.
//! Used by `host`, in the worlds that have it; the others keep a list of records instead.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rand::{Rng, RngExt};

use super::shelf::number;
use crate::sim::plan::StoragePlan;
use crate::storage::{
    Cut, Disk as _, Durability, FaultyDisk, Identity, Lineage, LogOptions, Operation,
    SnapshotOptions, SnapshotWriter, StorageError, Store, StoreOptions, verify,
};
use crate::types::{Chain, Durable, LogPosition, ReplicaId, ReplicaSet};
use crate::wire::{self, Wire};

/// A disk that is never full by itself.
const CAPACITY: u64 = 1 << 40;
/// More operations than any life has.
const NEVER: u64 = 1 << 40;

/// How a life ends for the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sim) enum Ending {
    /// The process is killed: the system keeps what it was given.
    Killed,
    /// The power fails: of what was not flushed any subset is lost.
    Power,
}

/// What became of an attempt to start.
#[derive(Debug)]
pub(in crate::sim) enum Opened<R> {
    /// These are the records, all of them durable.
    Ready {
        /// What the newest sound snapshot holds.
        snapshot: Option<Bytes>,
        /// Those after it.
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
pub(in crate::sim) struct Survey<R> {
    /// Where it begins.
    pub(in crate::sim) first: usize,
    pub(in crate::sim) records: Vec<R>,
    /// Whether something vouches for the end.
    pub(in crate::sim) sealed: bool,
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
pub(in crate::sim) struct Room<R> {
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
    /// Whether the state came from another replica.
    lineage: Lineage,
    /// Where the log has to be divided before anything is appended after.
    divides_at: Option<LogPosition>,
    /// Where records are encoded.
    frame: BytesMut,
    records: PhantomData<fn() -> R>,
}

impl<R: Wire> Room<R> {
    /// A new directory, open.
    pub(in crate::sim) fn new(
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
            members: ReplicaSet::all(replicas),
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
            lineage: Lineage::default(),
            divides_at: None,
            limits: wire::Limits::new(replicas),
            frame: BytesMut::new(),
            records: PhantomData,
        }
    }

    /// Hands a record to the log; nothing is written yet.
    pub(in crate::sim) fn append(&mut self, record: &R) -> Result<(), StorageError> {
        self.frame.clear();
        wire::encode_record(0, record, &mut self.frame);
        let store = self.store.as_mut().expect("a replica that lives has its directory open");
        store.log.append(&self.frame).map(|_| ())
    }

    /// Writes and flushes what was appended, and divides the log if that was the time for it.
    pub(in crate::sim) fn flush(&mut self) -> Result<Durable, StorageError> {
        let durable = self.open_store().log.flush()?;
        if self.divides_at == Some(durable.position()) {
            self.open_store().log.rotate()?;
            self.divides_at = None;
        }
        Ok(durable)
    }

    /// The log has to be divided here, so nothing after may be appended before that is flushed.
    pub(super) fn divides_at(&self) -> Option<u64> {
        self.divides_at.map(LogPosition::records)
    }

    /// What is not urgent.
    pub(super) fn maintain(&mut self) -> Result<(), StorageError> {
        self.open_store().log.maintain()
    }

    /// Whether new work should be refused, for want of space.
    pub(in crate::sim) fn space_low(&self) -> bool {
        self.store.as_ref().is_some_and(|store| store.log.space_low())
    }

    fn open_store(&mut self) -> &mut Store {
        self.store.as_mut().expect("a replica that lives has its directory open")
    }

    /// A life ends; within a flush, after so many operations of it, if that is said.
    pub(in crate::sim) fn end(&mut self, ending: Ending, within: Option<u64>) {
        if let (Some(operations), true) = (within, self.store.is_some()) {
            self.disk.crash_after(operations);
            // Whether it fails, or was done in time, nobody hears of it.
            let _ = self.flush().and_then(|_| self.maintain());
        }
        self.lineage = Lineage::default();
        self.divides_at = None;
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
    pub(in crate::sim) fn survey(&self) -> Result<Survey<R>, StorageError> {
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

    /// Its directory's number, and its lives.
    pub(in crate::sim) fn lives(&self) -> (u64, Chain) {
        (self.identity.directory, self.identity.chain.clone())
    }

    /// Every file, for a copy.
    pub(in crate::sim) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.disk.files()
    }

    /// A copy takes the place of the disk, in a machine that is off.
    pub(in crate::sim) fn put_back(&mut self, files: &BTreeMap<String, Vec<u8>>, seed: u64) {
        self.store = None;
        self.disk = FaultyDisk::with_files(seed, CAPACITY, files);
        self.identity.incarnation = 0;
        self.blind = false;
    }

    /// Starts the next life; it may end within, after so many operations that change something.
    pub(in crate::sim) fn open(&mut self, within: Option<u64>) -> Result<Opened<R>, String> {
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

    /// The state is another replica's now.
    pub(super) fn installed(&mut self) {
        self.lineage.installed();
    }

    /// Whether a snapshot has to be taken for that.
    pub(super) fn is_foreign(&self) -> bool {
        self.lineage.is_foreign()
    }

    /// Begins a snapshot that stands for all records before `position`, the end of all that there
    /// are. Whether it is the first of a state that came from elsewhere: the log has to be divided
    /// then.
    pub(super) fn begin_snapshot(
        &mut self,
        position: LogPosition,
        bytes: Bytes,
    ) -> Result<bool, StorageError> {
        let store = self.store.as_mut().expect("a replica that lives has its directory open");
        let mut writer = store.snapshots.begin(position)?;
        let written = bytes.len() / 2;
        writer.write(&bytes[..written])?;
        self.writing = Some(Writing { writer, position, bytes, written });
        Ok(self.lineage.begin())
    }

    /// Divides the log at its end, once all that is to come before `position` is there.
    pub(super) fn divide(&mut self, position: LogPosition) -> Result<(), StorageError> {
        self.divides_at = Some(position);
        if self.open_store().log.durable().position() == position {
            self.flush()?;
        }
        Ok(())
    }

    /// Whether a snapshot is being written.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// The position of the snapshot that is being written, and its number.
    pub(in crate::sim) fn writes(&self) -> Option<(LogPosition, usize)> {
        self.writing.as_ref().map(|writing| (writing.position, number(&writing.bytes)))
    }

    /// Gives the room of the snapshot that is being written to the log, which needs it.
    pub(super) fn give_up_snapshot(&mut self) {
        self.writing = None;
        self.lineage.fail();
    }

    /// Finishes the snapshot that is being written: what it lets go of. The process may end within,
    /// or within [`Room::cut_log`], which is called next.
    pub(super) fn finish_snapshot(&mut self, within: Option<u64>) -> Result<Cut, StorageError> {
        let writing = self.writing.take().expect("one is being written");
        let Writing { mut writer, position, bytes, written } = writing;
        assert_eq!(self.divides_at, None, "the log is divided before what that is for is finished");
        if let Some(operations) = within {
            self.disk.crash_after(operations);
        }
        let done = writer.write(&bytes[written..]).and_then(|()| writer.finish());
        if let Err(error) = done {
            self.lineage.fail();
            self.outlive();
            return Err(error);
        }
        let low = self.space_low();
        let floor = if low { position } else { self.open_store().snapshots.log_floor() };
        Ok(self.lineage.finish(position, floor))
    }

    /// Lets go of the log that no snapshot kept needs: whether there was something to let go.
    pub(super) fn cut_log(&mut self, cut: Cut) -> Result<bool, StorageError> {
        let log = &mut self.open_store().log;
        let before = log.first();
        log.truncate(cut.to)?;
        let first = log.first();
        assert!(!cut.first || first == cut.to, "nothing older can stand in for what is divided");
        self.outlive();
        Ok(first > before)
    }

    /// The process has not ended within what it could have ended in.
    fn outlive(&self) {
        if !self.disk.is_dead() {
            self.disk.crash_after(NEVER);
        }
    }

    /// Whether the disk died in the middle of something.
    pub(super) fn is_dead(&self) -> bool {
        self.disk.is_dead()
    }

    /// The next operation of this kind fails.
    pub(in crate::sim) fn fail_next(&mut self, operation: Operation) {
        self.disk.fail_next(operation);
    }

    /// A read of the next start fails.
    pub(in crate::sim) fn fail_start(&mut self) {
        self.blind = true;
    }

    /// From now on there is room for so many bytes more, or for all there may be.
    pub(in crate::sim) fn leave_room(&mut self, bytes: Option<u64>) {
        self.disk.set_capacity(CAPACITY);
        if let Some(bytes) = bytes {
            let free = self.disk.free_space().expect("it is in memory");
            self.disk.set_capacity(CAPACITY - free + bytes);
        }
    }

    /// Turns over one bit, somewhere. Returns how to turn it back.
    pub(in crate::sim) fn flip(&mut self, rng: &mut impl Rng) -> Flip {
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
        let mask = 1 << rng.random_range(0..8);
        let byte = bytes.get(offset).map_or(0, |byte| byte ^ mask);
        let flip = Flip { file: file.clone(), offset, mask, byte };
        self.turn(&flip);
        flip
    }

    /// Turns a bit back, if what it is in was not written anew since.
    pub(super) fn mend(&mut self, flip: &Flip) {
        let files = self.disk.files();
        let byte = files.get(&flip.file).and_then(|bytes| bytes.get(flip.offset));
        if byte == Some(&flip.byte) {
            self.turn(flip);
        }
    }

    /// Turns a bit over, or back.
    pub(in crate::sim) fn turn(&mut self, flip: &Flip) {
        self.disk.flip(&flip.file, flip.offset, flip.mask);
    }

    /// A new disk in place of the old.
    pub(in crate::sim) fn wipe(&mut self) {
        self.disk.wipe();
    }

    /// Dies within the operation after the next so many.
    #[cfg(test)]
    pub(in crate::sim) fn die_after(&mut self, operations: u64) {
        self.disk.crash_after(operations);
    }
}

/// Which bit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::sim) struct Flip {
    file: String,
    offset: usize,
    mask: u8,
    /// The whole byte, as it is then.
    byte: u8,
}

fn read<R: Wire>(bytes: &[u8], limits: &wire::Limits) -> Result<R, String> {
    let decoded = wire::decode_record(Bytes::copy_from_slice(bytes), limits);
    decoded.map(|(_, record)| record).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
