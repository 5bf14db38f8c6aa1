//! The disk as `storage` needs it: one flat directory of files with few operations. A crash can
//! fall before or after each of them. Everything else in this room builds on it.
//!
//! There are two implementations. [`FileDisk`] is a directory of the file system. [`FaultyDisk`] is
//! in memory, and forgets, tears and fails on demand, reproducibly for a seed.

mod faulty;
mod file;
mod inode;

use std::fmt;
use std::io;

pub use faulty::{Faults, FaultyDisk, Operation};
pub use file::{FileDisk, Privacy};

use super::StorageError;

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Reading only.
    Read,
    /// Reading and overwriting a file that exists.
    Write,
    /// Reading and writing a new, empty file; an existing file is emptied.
    Create,
}

/// One directory. Names are plain file names.
///
/// Nothing is durable by itself. Bytes become durable with [`DiskFile::sync_data`]; names (created,
/// renamed or removed) with [`Disk::sync_directory`].
///
/// # Errors
/// Each operation fails with the operating system's error.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Opens a file.
    fn open(&self, name: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file in one step that a crash cannot divide. It replaces a file that has the new
    /// name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes every creation, renaming and removal so far durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// Bytes that can still be allocated; [`u64::MAX`] if the file system does not say.
    fn free_space(&self) -> io::Result<u64>;

    /// An unpredictable number, so that an outsider cannot write bytes that pass for ours. The
    /// faulty disk draws it from its seed.
    fn entropy(&self) -> u64;

    /// The process that holds the directory for writing, if any: its number, or 0 if that could not
    /// be read.
    fn holder(&self) -> Option<u32> {
        None
    }
}

/// An open file.
///
/// # Errors
/// As for [`Disk`].
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Fills `into` from `offset` on. It is an error if the file ends first.
    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, and extends the file if necessary.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything written durable, including the file's length.
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// A file with its name, so that errors can name it.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: String,
    file: Box<dyn DiskFile>,
}

impl Named {
    pub(super) fn open(disk: &dyn Disk, name: &str, mode: Mode) -> Result<Named, StorageError> {
        let action = if mode == Mode::Create { "creating" } else { "opening" };
        let file = disk.open(name, mode).map_err(|error| StorageError::io(action, name, error))?;
        Ok(Named { name: name.to_owned(), file })
    }

    pub(super) fn read(&self, into: &mut [u8], offset: u64) -> Result<(), StorageError> {
        self.file.read_exact_at(into, offset).map_err(self.failed("reading"))
    }

    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        self.file.write_all_at(bytes, offset).map_err(self.failed("writing"))
    }

    /// Flushes. A full disk is a failed flush like any other: the data may be lost.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(|error| StorageError::flush(&self.name, error))
    }

    /// Flushes a file that nothing depends on yet. A file system may allocate room only now,
    /// so this can fail with [`StorageError::Full`]: then discard the file.
    pub(super) fn sync_new(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(self.failed("flushing"))
    }

    pub(super) fn size(&self) -> Result<u64, StorageError> {
        self.file.size().map_err(self.failed("measuring"))
    }

    /// The whole file; an error if it is longer than `limit` bytes.
    pub(super) fn read_all(&self, limit: usize) -> Result<Vec<u8>, StorageError> {
        let len = self.size()?;
        let fits = usize::try_from(len).ok().filter(|len| *len <= limit);
        let Some(len) = fits else {
            let what = format!("{len} bytes, where at most {limit} are expected");
            return Err(StorageError::damaged(&self.name, limit as u64, what));
        };
        let mut bytes = vec![0; len];
        self.read(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> StorageError {
        move |error| StorageError::io(action, &self.name, error)
    }
}

/// [`Disk::list`] with a [`StorageError`].
pub(super) fn list(disk: &dyn Disk) -> Result<Vec<String>, StorageError> {
    disk.list().map_err(|error| StorageError::io("listing", "the directory", error))
}

/// [`Disk::rename`] with a [`StorageError`].
pub(super) fn rename(disk: &dyn Disk, from: &str, to: &str) -> Result<(), StorageError> {
    disk.rename(from, to).map_err(|error| StorageError::io("renaming", from, error))
}

/// [`Disk::remove`] with a [`StorageError`].
pub(super) fn remove(disk: &dyn Disk, name: &str) -> Result<(), StorageError> {
    disk.remove(name).map_err(|error| StorageError::io("removing", name, error))
}

/// [`Disk::sync_directory`] with a [`StorageError`].
pub(super) fn sync_directory(disk: &dyn Disk) -> Result<(), StorageError> {
    disk.sync_directory().map_err(|error| StorageError::flush("the directory", error))
}
