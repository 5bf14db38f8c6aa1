//! Snapshots: the state that a replica's records lead to at a position, so that the records before
//! it need not be kept. They are written and read in chunks, take effect in one step, and several
//! are kept.
//!
//! `file` reads and writes the format; this file decides which snapshots exist and which one
//! counts. A damaged snapshot is never used. An older one may replace it, but only together with
//! every record after the older one. So the log is kept back to the oldest snapshot
//! ([`Snapshots::log_floor`]). A snapshot with a state from another replica cannot be replaced by
//! records: then the log starts at its position (see [`Lineage`]).

mod file;
mod lineage;
mod prepared;

use std::sync::{Arc, Mutex, MutexGuard};

pub use file::{SnapshotInfo, SnapshotReader};
pub use lineage::{Cut, Lineage};
pub use prepared::PreparedSnapshot;

use super::StorageError;
use super::disk::{self, Disk, Mode, Named};
use crate::types::LogPosition;
use file::FileWriter;

/// The prefix of the name of an unfinished snapshot.
const UNFINISHED: &str = "snapshot-unfinished-";
/// Empty files kept for the next snapshots: on a disk that cannot create more files, only a
/// snapshot lets other files be removed. One is always kept. The second is kept until there is a
/// snapshot for the next one to replace.
const SPARES: [&str; 2] = ["snapshot-spare-1", "snapshot-spare-2"];
/// The longest chunk in bytes.
pub const MAX_CHUNK_BYTES: usize = 16 * 1024 * 1024;

/// How many snapshots are kept, and their format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotOptions {
    /// The number of snapshots kept, at least 1. Default: 2, so that one may be damaged.
    pub keep: usize,
    /// The length of all chunks but the last in bytes, between 1 and [`MAX_CHUNK_BYTES`]. Default:
    /// 256 KiB. Reading or sending a snapshot takes this much memory at a time.
    pub chunk_bytes: usize,
}

impl Default for SnapshotOptions {
    fn default() -> SnapshotOptions {
        SnapshotOptions { keep: 2, chunk_bytes: 256 * 1024 }
    }
}

/// The snapshots in a directory. Clones share them.
#[derive(Clone, Debug)]
pub struct Snapshots {
    store: Arc<Store>,
}

#[derive(Debug)]
struct Store {
    disk: Arc<dyn Disk>,
    directory: u64,
    options: SnapshotOptions,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Snapshots that are sound as far as is known, by position.
    sound: Vec<SnapshotInfo>,
    /// Damaged snapshots. They stay until the next one is finished, so that the operator can
    /// examine them.
    damaged: Vec<String>,
    /// The number of writers so far; each has its own file.
    writers: u64,
}

/// The result of opening a directory.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) snapshots: Snapshots,
    /// The newest sound snapshot.
    pub(super) newest: Option<SnapshotReader>,
    /// What is wrong with the others.
    pub(super) damaged: Vec<StorageError>,
}

impl Snapshots {
    /// Finds the newest snapshot that is sound in every byte and that the log reaches back to. The
    /// log starts at `log_start`.
    ///
    /// # Errors
    /// The newest snapshot's error, if none can be used and the log alone is not enough.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        directory: u64,
        options: SnapshotOptions,
        log_start: LogPosition,
    ) -> Result<Found, StorageError> {
        assert!(options.keep >= 1, "the newest snapshot is always kept");
        assert!((1..=MAX_CHUNK_BYTES).contains(&options.chunk_bytes), "chunks are bounded");
        let Survey { kept, newest, damaged } = survey(&*disk, directory, log_start)?;
        // Everything was read and is sound, so unfinished files of an earlier life may be removed.
        for name in disk::list(&*disk)?.iter().filter(|name| name.starts_with(UNFINISHED)) {
            disk::remove(&*disk, name)?;
        }
        kept.set_aside(&*disk)?;
        let store = Store { disk, directory, options, kept: Mutex::new(kept) };
        Ok(Found { snapshots: Snapshots { store: Arc::new(store) }, newest, damaged })
    }

    /// Starts a snapshot that covers all records before `position`. The log may grow while it is
    /// written. Before it is finished, the log must be durable up to `position`.
    ///
    /// # Errors
    /// If the disk fails or is full. Existing snapshots are not affected.
    pub fn begin(&self, position: LogPosition) -> Result<SnapshotWriter, StorageError> {
        let name = self.unfinished();
        // Some file systems can run out of files. On all others a new file is as good as a spare.
        let disk = &*self.store.disk;
        let _ = SPARES.iter().rev().find(|spare| disk.rename(spare, &name).is_ok());
        let file = self.create(&name, position)?;
        Ok(SnapshotWriter { snapshots: self.clone(), file: Some(file) })
    }

    /// Starts to store a snapshot that another replica sends.
    ///
    /// # Errors
    /// If the disk fails or is full.
    pub fn receive(&self) -> Result<Incoming, StorageError> {
        let file = self.create(&self.unfinished(), LogPosition::default())?;
        Ok(Incoming { snapshots: self.clone(), file })
    }

    /// A file name that is not in use.
    fn unfinished(&self) -> String {
        let mut kept = self.kept();
        kept.writers += 1;
        format!("{UNFINISHED}{}", kept.writers)
    }

    fn create(&self, name: &str, position: LogPosition) -> Result<FileWriter, StorageError> {
        let store = &*self.store;
        let (disk, chunk_bytes) = (&*store.disk, store.options.chunk_bytes);
        FileWriter::create(disk, name, store.directory, position, chunk_bytes)
    }

    /// Opens the newest snapshot to read or send it.
    ///
    /// # Errors
    /// If it cannot be opened any more. Chunks are checked as they are read.
    pub fn newest(&self) -> Result<Option<SnapshotReader>, StorageError> {
        let newest = self.kept().sound.last().map(|info| info.position);
        let open = |position| open_one(&*self.store.disk, self.store.directory, position);
        newest.map(open).transpose()
    }

    /// All snapshots kept, oldest first.
    pub fn kept_ones(&self) -> Vec<SnapshotInfo> {
        self.kept().sound.clone()
    }

    /// How far the log may be truncated: to the oldest snapshot kept, and not at all before
    /// [`SnapshotOptions::keep`] snapshots exist.
    pub fn log_floor(&self) -> LogPosition {
        let kept = self.kept();
        if kept.sound.len() < self.store.options.keep {
            return LogPosition::default();
        }
        kept.sound[0].position
    }

    /// Removes all but the newest, because room is short. Only the newest can be used from then on.
    ///
    /// # Errors
    /// If the disk fails. The newest is kept in any case.
    pub fn keep_newest(&self) -> Result<(), StorageError> {
        let disk = &*self.store.disk;
        let mut kept = self.kept();
        let older = kept.sound.len().saturating_sub(1);
        for info in kept.sound.drain(..older) {
            disk::remove(disk, &info.file)?;
        }
        kept.set_aside(disk)
    }

    /// Gives a finished file its final name, and removes snapshots that are no longer needed.
    fn adopt(
        &self,
        unfinished: &str,
        mut info: SnapshotInfo,
    ) -> Result<SnapshotInfo, StorageError> {
        let disk = &*self.store.disk;
        info.file = name(info.position);
        let mut kept = self.kept();
        disk::rename(disk, unfinished, &info.file)?;
        disk::sync_directory(disk)?;
        kept.sound.retain(|other| other.position != info.position);
        kept.damaged.retain(|other| *other != info.file);
        let at = kept.sound.partition_point(|other| other.position < info.position);
        kept.sound.insert(at, info.clone());
        let surplus = kept.sound.len().saturating_sub(self.store.options.keep);
        let mut gone: Vec<String> = kept.sound.drain(..surplus).map(|info| info.file).collect();
        gone.append(&mut kept.damaged);
        for name in &gone {
            disk::remove(disk, name)?;
        }
        kept.set_aside(disk)?;
        Ok(info)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.store.kept.lock().expect("nothing panics while it holds the lock")
    }
}

/// A snapshot being written. If it is dropped before [`SnapshotWriter::finish`], nothing remains.
#[derive(Debug)]
pub struct SnapshotWriter {
    snapshots: Snapshots,
    /// `None` once it is finished.
    file: Option<FileWriter>,
}

impl SnapshotWriter {
    /// Adds bytes. They are cut into chunks here, so any length will do.
    ///
    /// # Errors
    /// If the disk fails or is full: then drop the writer.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file.as_mut().expect("there until finished").write(bytes)
    }

    /// Makes the snapshot durable, and only then the newest one, in one step. Removes surplus older
    /// ones.
    ///
    /// # Errors
    /// If the disk fails or is full. The snapshot that was the newest may still be.
    pub fn finish(mut self) -> Result<SnapshotInfo, StorageError> {
        let file = self.file.as_mut().expect("there until finished");
        let info = file.finish()?;
        let adopted = self.snapshots.adopt(&info.file, info.clone())?;
        self.file = None;
        Ok(adopted)
    }

    /// Makes the snapshot durable under a name by which it does not count. It refers to checkpoint
    /// `number` of a state machine, and counts once the machine has that.
    ///
    /// # Errors
    /// If the disk fails or is full.
    pub fn prepare(mut self, number: u64) -> Result<PreparedSnapshot, StorageError> {
        let file = self.file.as_mut().expect("there until finished");
        let info = file.finish()?;
        let prepared = PreparedSnapshot::make(&self.snapshots, info, number)?;
        self.file = None;
        Ok(prepared)
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // If this fails too, the next start removes it.
            let disk = &*self.snapshots.store.disk;
            let _ = disk.remove(file.name());
            let _ = self.snapshots.kept().set_aside(disk);
        }
    }
}

/// A snapshot that another replica sends, in a file until it is complete. It is never one of this
/// directory's own snapshots. Dropping it removes the file.
#[derive(Debug)]
pub struct Incoming {
    snapshots: Snapshots,
    file: FileWriter,
}

impl Incoming {
    /// Appends bytes.
    ///
    /// # Errors
    /// If the disk fails or is full. Drop it then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file.write(bytes)
    }

    /// Ends the file and opens it. It exists until this is dropped.
    ///
    /// # Errors
    /// If the disk fails or is full. Drop it then.
    pub fn read(&mut self) -> Result<SnapshotReader, StorageError> {
        let info = self.file.finish()?;
        SnapshotReader::open(&*self.snapshots.store.disk, &info.file)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // If this fails, the next start removes it.
        let _ = self.snapshots.store.disk.remove(self.file.name());
    }
}

impl Kept {
    /// Creates the spare files if possible, and makes all changes of names durable.
    fn set_aside(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        let spares = if self.sound.is_empty() { &SPARES[..] } else { &SPARES[..1] };
        let there = disk::list(disk)?;
        for spare in spares.iter().filter(|spare| !there.iter().any(|name| name == *spare)) {
            match Named::open(disk, spare, Mode::Create) {
                Err(error) if error.is_full() => break,
                made => made?,
            };
        }
        disk::sync_directory(disk)
    }
}

/// The snapshots of a directory, as found by [`survey`].
#[derive(Debug)]
pub(super) struct Survey {
    kept: Kept,
    /// The newest sound snapshot.
    pub(super) newest: Option<SnapshotReader>,
    /// What is wrong with others, newest first.
    pub(super) damaged: Vec<StorageError>,
}

/// Finds the newest sound snapshot that the log reaches back to. Reads only.
///
/// # Errors
/// As [`Snapshots::open`].
pub(super) fn survey(
    disk: &dyn Disk,
    directory: u64,
    log_start: LogPosition,
) -> Result<Survey, StorageError> {
    let names = disk::list(disk)?;
    let (mut kept, mut newest, mut damaged) = (Kept::default(), None, Vec::new());
    let mut positions: Vec<LogPosition> = names.iter().filter_map(|n| position(n)).collect();
    positions.sort();
    for position in positions.into_iter().rev() {
        let read = open_one(disk, directory, position).and_then(|mut reader| {
            // Older ones are checked fully only when they are needed.
            if newest.is_none() {
                reader.verify()?;
            }
            Ok(reader)
        });
        match read {
            Ok(reader) => {
                kept.sound.insert(0, reader.info().clone());
                newest = newest.or(Some(reader));
            }
            Err(error) => {
                kept.damaged.push(name(position));
                damaged.push(error);
            }
        }
    }
    let reach = newest.as_ref().map_or(LogPosition::default(), |newest| newest.info().position);
    if reach < log_start {
        let (start, reach) = (log_start.records(), reach.records());
        let newest = match &newest {
            Some(newest) => {
                format!("the newest snapshot, {}, ends before record {reach}", newest.info().file)
            }
            None => "there is no snapshot".to_owned(),
        };
        let what = format!(
            "the log begins with record {start} and {newest}: a snapshot, or the front of the log, \
             is missing"
        );
        return Err(damaged.into_iter().next().unwrap_or_else(|| StorageError::missing(what)));
    }
    Ok(Survey { kept, newest, damaged })
}

/// Reads every snapshot, for `verify`.
pub(super) fn inspect(
    disk: &dyn Disk,
    directory: u64,
    names: &[String],
) -> Vec<Result<SnapshotInfo, StorageError>> {
    let check = |position| {
        let mut reader = open_one(disk, directory, position)?;
        reader.verify()?;
        Ok(reader.info().clone())
    };
    names.iter().filter_map(|name| position(name)).map(check).collect()
}

/// Whether this is the name of a finished snapshot.
pub(super) fn is_snapshot(name: &str) -> bool {
    position(name).is_some()
}

fn open_one(
    disk: &dyn Disk,
    directory: u64,
    position: LogPosition,
) -> Result<SnapshotReader, StorageError> {
    let name = name(position);
    let reader = SnapshotReader::open(disk, &name)?;
    if reader.directory() != directory || reader.info().position != position {
        return Err(StorageError::damaged(&name, 0, "it belongs to another directory or position"));
    }
    Ok(reader)
}

fn name(position: LogPosition) -> String {
    format!("snapshot-{:020}", position.records())
}

fn position(file: &str) -> Option<LogPosition> {
    let position = LogPosition::new(file.strip_prefix("snapshot-")?.parse().ok()?);
    (name(position) == file).then_some(position)
}
