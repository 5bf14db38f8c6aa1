//! One file of redb with the entries of a store, and the number of the checkpoint that it holds.

use std::collections::BTreeMap;
use std::fs::{self, File as Plain, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{
    Builder, Database, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    StorageBackend, TableDefinition, WriteTransaction,
};

use super::layer::{Layer, merged};
use crate::machine::RestoreError;
use crate::machine::kv::read_sorted;

const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");
const ABOUT: TableDefinition<&str, u64> = TableDefinition::new("about");
/// The entries of `ABOUT`: the version of this format, and the number of the checkpoint, if there
/// is one.
const FORMAT: &str = "format";
const CHECKPOINT: &str = "checkpoint";
const VERSION: u64 = 1;

/// What a checkpoint may take of the disk beside its entries.
const SLACK: u64 = 16 << 20;
/// The length of a page of redb.
const PAGE: u64 = 4096;

/// An open file.
#[derive(Debug)]
pub(super) struct File {
    database: Database,
    /// `None` for one in memory.
    path: Option<PathBuf>,
}

/// The entries of a file at one of its checkpoints. Later checkpoints do not change them.
pub(super) struct Base {
    /// Dropped before the file.
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    file: Arc<File>,
}

impl File {
    /// Makes an empty file with no checkpoint. Its name is durable.
    pub(super) fn create(path: &Path, cache_bytes: usize) -> io::Result<File> {
        let mut options = OpenOptions::new();
        // As private as the rest of the replica's data.
        let plain = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let backend = FileBackend::new(plain).map_err(in_words)?;
        let file = File::begin(backend, Some(path.to_owned()), cache_bytes)?;
        sync_parent(path)?;
        Ok(file)
    }

    /// Makes an empty file on another backend.
    pub(super) fn begin(
        backend: impl StorageBackend,
        path: Option<PathBuf>,
        cache_bytes: usize,
    ) -> io::Result<File> {
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes);
        let database = builder.create_with_backend(backend).map_err(in_words)?;
        let file = File { database, path };
        if file.about(FORMAT)?.is_none() {
            file.change(|txn| {
                txn.open_table(ENTRIES).map_err(in_words)?;
                let mut about = txn.open_table(ABOUT).map_err(in_words)?;
                about.insert(FORMAT, VERSION).map_err(in_words)?;
                Ok(())
            })?;
        }
        Ok(file)
    }

    /// Opens a file that [`File::create`] made, in whatever state a crash has left it.
    pub(super) fn open(path: &Path, cache_bytes: usize) -> io::Result<File> {
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes);
        let database = builder.open(path).map_err(in_words)?;
        let file = File { database, path: Some(path.to_owned()) };
        match file.about(FORMAT)? {
            Some(VERSION) => Ok(file),
            Some(other) => {
                let what = format!("its format is version {other}; {VERSION} is known here");
                Err(io::Error::new(io::ErrorKind::InvalidData, what))
            }
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "it was never finished")),
        }
    }

    /// The number of the checkpoint that it holds.
    pub(super) fn checkpoint(&self) -> io::Result<Option<u64>> {
        self.about(CHECKPOINT)
    }

    fn about(&self, what: &str) -> io::Result<Option<u64>> {
        let txn = self.database.begin_read().map_err(in_words)?;
        match txn.open_table(ABOUT) {
            Ok(about) => Ok(about.get(what).map_err(in_words)?.map(|it| it.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(in_words(error)),
        }
    }

    /// Its path; `None` for one in memory.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Makes everything that was written so far durable, also what an earlier process has written.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.path.as_ref().map_or(Ok(()), |path| Plain::open(path)?.sync_all())
    }

    /// Writes these layers, oldest first, and the number of the checkpoint that they lead to, in
    /// one step.
    pub(super) fn write(&self, number: u64, layers: &[Arc<Layer>]) -> io::Result<()> {
        let changes = merged(layers);
        self.find_room(&changes)?;
        self.change(|txn| {
            let mut entries = txn.open_table(ENTRIES).map_err(in_words)?;
            for (key, value) in changes {
                match value {
                    Some(value) => drop(entries.insert(&**key, &**value).map_err(in_words)?),
                    None => drop(entries.remove(&**key).map_err(in_words)?),
                }
            }
            let mut about = txn.open_table(ABOUT).map_err(in_words)?;
            about.insert(CHECKPOINT, number).map_err(in_words)?;
            Ok(())
        })
    }

    /// Fills an empty file from a snapshot. It has no checkpoint afterwards.
    pub(super) fn fill(&self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut txn = self.database.begin_write().map_err(in_words)?;
        txn.set_quick_repair(true);
        {
            let mut entries = txn.open_table(ENTRIES).map_err(in_words)?;
            read_sorted(from, |key, value| {
                entries.insert(&*key, &*value).map_err(in_words)?;
                Ok(())
            })?;
        }
        Ok(txn.commit().map_err(in_words)?)
    }

    /// One transaction, which is durable when this returns. With `quick_repair`, the file can be
    /// opened after a crash without a look at all of it.
    fn change(&self, write: impl FnOnce(&WriteTransaction) -> io::Result<()>) -> io::Result<()> {
        let mut txn = self.database.begin_write().map_err(in_words)?;
        txn.set_quick_repair(true);
        write(&txn)?;
        txn.commit().map_err(in_words)
    }

    /// Whether the disk has room for these changes. redb can do nothing more with a file once a
    /// write to it has failed, so a full disk has to be found out before.
    fn find_room(&self, changes: &BTreeMap<&Bytes, Option<&Bytes>>) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let space = rustix::fs::statvfs(path)?;
        let one = |value: &Option<&Bytes>| PAGE + 2 * value.map_or(0, |it| it.len() as u64);
        let needed = SLACK + changes.values().map(one).sum::<u64>();
        // Some file systems do not count their blocks.
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if space.f_blocks > 0 && free < needed {
            let what = format!("{free} bytes are free, and a checkpoint may need {needed}");
            return Err(io::Error::new(io::ErrorKind::StorageFull, what));
        }
        Ok(())
    }
}

impl Base {
    /// The entries as the file has them now.
    pub(super) fn of(file: Arc<File>) -> io::Result<Base> {
        let txn = file.database.begin_read().map_err(in_words)?;
        Ok(Base { table: txn.open_table(ENTRIES).map_err(in_words)?, file })
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Gives the value of a key to `take`.
    pub(super) fn get<T>(
        &self,
        key: &[u8],
        take: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<Option<T>> {
        Ok(self.table.get(key).map_err(in_words)?.map(|value| take(value.value())))
    }

    /// The number of entries.
    pub(super) fn len(&self) -> io::Result<u64> {
        self.table.len().map_err(in_words)
    }

    /// Gives all entries to `take`, sorted by key.
    pub(super) fn each(
        &self,
        mut take: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        for entry in self.table.iter().map_err(in_words)? {
            let (key, value) = entry.map_err(in_words)?;
            take(key.value(), value.value())?;
        }
        Ok(())
    }
}

/// Makes the name of a file durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
}

/// An error of redb as one of the system. A disk that was full in the middle of something is a
/// failure like any other: nothing can be done with the file any more.
fn in_words(error: impl Into<redb::Error>) -> io::Error {
    let is_full = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    };
    match error.into() {
        redb::Error::Io(error) if !is_full(&error) => error,
        other => io::Error::other(other.to_string()),
    }
}
