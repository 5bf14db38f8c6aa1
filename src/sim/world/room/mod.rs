//! A replica's storage in the simulator: the real one, on a disk with faults. `host` uses it in
//! some worlds; the others keep a list of records.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rand::{Rng, RngExt};

use super::shelf::number;
use crate::machine::View;
use crate::sim::plan::StoragePlan;
use crate::storage::{
    Cut, Disk as _, Durability, FaultyDisk, Identity, Lineage, LogOptions, Operation,
    SnapshotOptions, SnapshotWriter, StorageError, Store, StoreOptions, verify,
};
use crate::types::{Chain, Durable, LogPosition, MemberId, ReplicaId};
use crate::wire::{self, Wire};

/// The capacity of a disk that never fills up by itself.
const CAPACITY: u64 = 1 << 40;
/// More operations than any life performs.
const NEVER: u64 = 1 << 40;

/// How a life ends for the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sim) enum Ending {
    /// The process is killed: the system keeps everything it was given.
    Killed,
    /// The power fails: any subset of the unflushed data is lost.
    Power,
}

/// The result of an attempt to start.
#[derive(Debug)]
pub(in crate::sim) enum Opened<R> {
    /// The start succeeded; these records are all durable.
    Ready {
        /// The contents of the newest sound snapshot.
        snapshot: Option<Bytes>,
        /// The records after it.
        records: Vec<R>,
        durable: Durable,
    },
    /// The disk failed or has no room: retry later.
    Later(StorageError),
    /// Something is not as it was written.
    Refused(StorageError),
    /// An empty disk under an old name; the peers have met later lives of its owner.
    Stranger,
}

/// The readable part of a log.
#[derive(PartialEq, Debug)]
pub(in crate::sim) struct Survey<R> {
    /// Where the log begins.
    pub(in crate::sim) first: usize,
    pub(in crate::sim) records: Vec<R>,
    /// Whether a mark confirms the end.
    pub(in crate::sim) sealed: bool,
}

/// A snapshot being written.
struct Writing {
    writer: SnapshotWriter,
    position: LogPosition,
    /// Its contents at the moment it was begun.
    bytes: Bytes,
    /// How many of the bytes are written.
    written: usize,
    /// The view that the rest is written from. It must give the same contents, whatever has been
    /// applied meanwhile.
    state: View,
}

/// A directory on a faulty disk, open or closed.
pub(in crate::sim) struct Room<R> {
    disk: FaultyDisk,
    options: StoreOptions,
    limits: wire::Limits,
    store: Option<Store>,
    /// The identity in the latest life.
    identity: Identity,
    /// Whether the first read of the next start fails.
    blind: bool,
    /// The snapshot being written.
    writing: Option<Writing>,
    /// Whether the state came from another replica.
    lineage: Lineage,
    /// Where the log must be divided before anything after that position is appended.
    divides_at: Option<LogPosition>,
    /// The buffer for encoding records.
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
            replica: MemberId::of(me),
            protocol: protocol.to_owned(),
            members: MemberId::all(replicas).collect(),
            joins: false,
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

    /// Appends a record to the log; nothing is written yet.
    pub(in crate::sim) fn append(&mut self, record: &R) -> Result<(), StorageError> {
        self.frame.clear();
        wire::encode_record(0, record, &mut self.frame);
        let store = self.store.as_mut().expect("a replica that lives has its directory open");
        store.log.append(&self.frame).map(|_| ())
    }

    /// Writes and flushes the appended records, and divides the log if its end is the right
    /// position.
    pub(in crate::sim) fn flush(&mut self) -> Result<Durable, StorageError> {
        let durable = self.open_store().log.flush()?;
        if self.divides_at == Some(durable.position()) {
            self.open_store().log.rotate()?;
            self.divides_at = None;
        }
        Ok(durable)
    }

    /// The position at which the log must be divided, if any. Nothing after it may be appended
    /// before it is flushed.
    pub(super) fn divides_at(&self) -> Option<u64> {
        self.divides_at.map(LogPosition::records)
    }

    /// Does maintenance that is not urgent.
    pub(super) fn maintain(&mut self) -> Result<(), StorageError> {
        self.open_store().log.maintain()
    }

    /// Whether new work should be refused because space is low.
    pub(in crate::sim) fn space_low(&self) -> bool {
        self.store.as_ref().is_some_and(|store| store.log.space_low())
    }

    fn open_store(&mut self) -> &mut Store {
        self.store.as_mut().expect("a replica that lives has its directory open")
    }

    /// Ends a life. If `within` is given, a flush is cut short after that many operations.
    pub(in crate::sim) fn end(&mut self, ending: Ending, within: Option<u64>) {
        if let (Some(operations), true) = (within, self.store.is_some()) {
            self.disk.crash_after(operations);
            // The result is lost with the process.
            let _ = self.flush().and_then(|_| self.maintain());
        }
        self.lineage = Lineage::default();
        self.divides_at = None;
        if let Some(writing) = self.writing.take() {
            // A killed process does not tidy up.
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

    /// Reads everything without changing anything.
    pub(in crate::sim) fn survey(&self) -> Result<Survey<R>, StorageError> {
        let mut records = Vec::new();
        let limits = self.limits;
        let report = verify(&self.disk, &mut |_, bytes| {
            records.push(read(bytes, &limits)?);
            Ok(())
        })?;
        // A damaged snapshot stays until the next one is finished. The next start shows whether
        // another can replace it.
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

    /// The directory's number and its lives.
    pub(in crate::sim) fn lives(&self) -> (u64, Chain) {
        (self.identity.directory, self.identity.chain.clone())
    }

    /// All files, for a copy.
    pub(in crate::sim) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.disk.files()
    }

    /// Replaces the disk with a copy while the machine is off.
    pub(in crate::sim) fn put_back(&mut self, files: &BTreeMap<String, Vec<u8>>, seed: u64) {
        self.store = None;
        self.disk = FaultyDisk::with_files(seed, CAPACITY, files);
        self.identity.incarnation = 0;
        self.blind = false;
    }

    /// Starts the next life. If `within` is given, it crashes after that many changing operations.
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

    /// Notes that another replica's state was installed.
    pub(super) fn installed(&mut self) {
        self.lineage.installed();
    }

    /// Whether a snapshot must be taken because of that.
    pub(super) fn is_foreign(&self) -> bool {
        self.lineage.is_foreign()
    }

    /// Begins a snapshot that covers all records before `position`, the current end. Returns
    /// whether it is the first one of an installed state, so that the log must be divided.
    pub(super) fn begin_snapshot(
        &mut self,
        position: LogPosition,
        bytes: Bytes,
        state: View,
    ) -> Result<bool, StorageError> {
        let store = self.store.as_mut().expect("a replica that lives has its directory open");
        let mut writer = store.snapshots.begin(position)?;
        let written = bytes.len() / 2;
        writer.write(&bytes[..written])?;
        self.writing = Some(Writing { writer, position, bytes, written, state });
        Ok(self.lineage.begin())
    }

    /// Divides the log at its end, once everything before `position` is there.
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

    /// The position and the number of the snapshot being written.
    pub(in crate::sim) fn writes(&self) -> Option<(LogPosition, usize)> {
        self.writing.as_ref().map(|writing| (writing.position, number(&writing.bytes)))
    }

    /// Gives up the snapshot being written, because the log needs its room.
    pub(super) fn give_up_snapshot(&mut self) {
        self.writing = None;
        self.lineage.fail();
    }

    /// Finishes the snapshot being written, and returns what it makes unnecessary. The process may
    /// crash in here or in [`Room::cut_log`], which is called next.
    pub(super) fn finish_snapshot(&mut self, within: Option<u64>) -> Result<Cut, StorageError> {
        let writing = self.writing.take().expect("one is being written");
        let Writing { mut writer, position, bytes, written, state } = writing;
        let mut all = number(&bytes).to_le_bytes().to_vec();
        state.write_to(&mut all).expect("memory takes all");
        assert!(all == bytes, "a view changed with the state it was made of");
        assert_eq!(self.divides_at, None, "the log is divided before what that is for is finished");
        if let Some(operations) = within {
            self.disk.crash_after(operations);
        }
        let done = writer.write(&all[written..]).and_then(|()| writer.finish());
        if let Err(error) = done {
            self.lineage.fail();
            self.outlive();
            return Err(error);
        }
        let low = self.space_low();
        let floor = if low { position } else { self.open_store().snapshots.log_floor() };
        Ok(self.lineage.finish(position, floor))
    }

    /// Drops the log that no kept snapshot needs. Returns whether there was any.
    pub(super) fn cut_log(&mut self, cut: Cut) -> Result<bool, StorageError> {
        let log = &mut self.open_store().log;
        let before = log.first();
        log.truncate(cut.to)?;
        let first = log.first();
        assert!(!cut.first || first == cut.to, "nothing older can stand in for what is divided");
        self.outlive();
        Ok(first > before)
    }

    /// The process has survived an operation in which it could have crashed.
    fn outlive(&self) {
        if !self.disk.is_dead() {
            self.disk.crash_after(NEVER);
        }
    }

    /// Whether the disk has crashed during an operation.
    pub(super) fn is_dead(&self) -> bool {
        self.disk.is_dead()
    }

    /// Makes the next operation of this kind fail.
    pub(in crate::sim) fn fail_next(&mut self, operation: Operation) {
        self.disk.fail_next(operation);
    }

    /// Makes a read of the next start fail.
    pub(in crate::sim) fn fail_start(&mut self) {
        self.blind = true;
    }

    /// Leaves room for this many more bytes, or unlimited room.
    pub(in crate::sim) fn leave_room(&mut self, bytes: Option<u64>) {
        self.disk.set_capacity(CAPACITY);
        if let Some(bytes) = bytes {
            let free = self.disk.free_space().expect("it is in memory");
            self.disk.set_capacity(CAPACITY - free + bytes);
        }
    }

    /// Flips one bit at a random place. The result can undo it.
    pub(in crate::sim) fn flip(&mut self, rng: &mut impl Rng) -> Flip {
        let files: Vec<_> = self.disk.files().into_iter().collect();
        let (file, bytes) = &files[rng.random_range(0..files.len())];
        // Most of a segment is empty. Damage matters where there is data, and most of all at its
        // end.
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

    /// Undoes a flip, unless its byte was overwritten since.
    pub(super) fn mend(&mut self, flip: &Flip) {
        let files = self.disk.files();
        let byte = files.get(&flip.file).and_then(|bytes| bytes.get(flip.offset));
        if byte == Some(&flip.byte) {
            self.turn(flip);
        }
    }

    /// Flips a bit, or flips it back.
    pub(in crate::sim) fn turn(&mut self, flip: &Flip) {
        self.disk.flip(&flip.file, flip.offset, flip.mask);
    }

    /// Replaces the disk with a new one.
    pub(in crate::sim) fn wipe(&mut self) {
        self.disk.wipe();
    }

    /// Makes the disk crash within the operation after the next `operations` ones.
    #[cfg(test)]
    pub(in crate::sim) fn die_after(&mut self, operations: u64) {
        self.disk.crash_after(operations);
    }
}

/// A flipped bit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::sim) struct Flip {
    file: String,
    offset: usize,
    mask: u8,
    /// The whole byte after the flip.
    byte: u8,
}

fn read<R: Wire>(bytes: &[u8], limits: &wire::Limits) -> Result<R, String> {
    let decoded = wire::decode_record(Bytes::copy_from_slice(bytes), limits);
    decoded.map(|(_, record)| record).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
