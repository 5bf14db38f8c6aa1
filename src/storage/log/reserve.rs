//! Prepares the next segment before it is needed. Appending then needs neither new blocks nor new
//! names, so it cannot run out of space and waits for no other metadata. Used only by the log.

use super::LogOptions;
use super::format::segment_name;
use crate::storage::disk::{self, Disk, Mode, Named};
use crate::storage::{Durability, StorageError};

/// The name of a file that is being filled with zeros.
const UNFINISHED: &str = "spare-unfinished";
/// Files are filled in steps of this length, once the target has grown by as much.
const STEP: usize = 64 * 1024;
/// A flush after this many bytes keeps each flush short.
const FLUSH_EVERY: usize = 1024 * 1024;
/// How many unused files are kept for recycling; more are deleted.
const KEPT: usize = 2;

/// The segments prepared for later.
#[derive(Debug)]
pub(super) struct Reserve {
    next: Next,
    /// Files of full length for recycling.
    spares: Vec<String>,
    /// Whether the disk had no space for the next segment.
    pub(super) low: bool,
    /// The length of a segment in bytes.
    bytes: usize,
    /// Bytes that new segments leave free on the disk.
    keep_free: u64,
    /// Whether written data must survive a power failure.
    flushes: bool,
}

#[derive(Debug)]
enum Next {
    Absent,
    Filling { file: Named, filled: usize },
    Ready(Named),
}

impl Reserve {
    pub(super) fn new(options: &LogOptions) -> Reserve {
        Reserve {
            next: Next::Absent,
            spares: Vec::new(),
            low: false,
            bytes: options.segment_bytes,
            keep_free: options.keep_free,
            flushes: options.durability == Durability::Fsync,
        }
    }

    /// Takes over what an earlier life has left: `next` under its final name, spares and an
    /// unfinished file. It deletes files of the wrong length and surplus ones.
    pub(super) fn adopt(
        &mut self,
        disk: &dyn Disk,
        next: Option<String>,
        names: &[String],
    ) -> Result<(), StorageError> {
        for name in names.iter().filter(|name| name.starts_with("spare-")) {
            let whole = name != UNFINISHED && self.fits(disk, name)?;
            if whole && self.spares.len() < KEPT {
                self.spares.push(name.clone());
            } else {
                disk::remove(disk, name)?;
            }
        }
        if let Some(name) = next {
            if self.fits(disk, &name)? {
                self.next = Next::Ready(Named::open(disk, &name, Mode::Write)?);
            } else {
                disk::remove(disk, &name)?;
            }
        }
        disk::sync_directory(disk)
    }

    fn fits(&self, disk: &dyn Disk, name: &str) -> Result<bool, StorageError> {
        Ok(Named::open(disk, name, Mode::Read)?.size()? == self.bytes as u64)
    }

    /// Recycles the file of an unneeded segment, or deletes it; durably.
    pub(super) fn retire(&mut self, disk: &dyn Disk, number: u64) -> Result<(), StorageError> {
        let name = segment_name(number);
        if self.spares.len() < KEPT && self.fits(disk, &name)? {
            let spare = format!("spare-{number:016}");
            disk::rename(disk, &name, &spare)?;
            self.spares.push(spare);
        } else {
            disk::remove(disk, &name)?;
        }
        disk::sync_directory(disk)
    }

    /// Continues preparing segment `number` in proportion to `progress` bytes of the current one.
    /// It is done when the current one is half full. A full disk is not an error; it sets `low`.
    pub(super) fn advance(
        &mut self,
        disk: &dyn Disk,
        number: u64,
        progress: usize,
    ) -> Result<(), StorageError> {
        if matches!(self.next, Next::Ready(_)) {
            return Ok(());
        }
        if matches!(self.next, Next::Absent) && self.spares.is_empty() {
            let free = disk.free_space();
            let free = free.map_err(|error| StorageError::io("measuring", "free space", error))?;
            if free < self.keep_free.saturating_add(self.bytes as u64) {
                self.low = true;
                return Ok(());
            }
        }
        // If space was low, prepare it all at once: a log that waits for room makes no progress
        // that would trigger more steps.
        let target = if self.low { self.bytes } else { progress.saturating_mul(2).min(self.bytes) };
        match self.fill(disk, number, target) {
            Err(error) if error.is_full() => {
                self.low = true;
                self.drop_unfinished(disk)
            }
            done => done,
        }
    }

    /// Returns the file for segment `number`, and finishes it first if necessary.
    ///
    /// # Errors
    /// [`StorageError::Full`] if there is no room. Nothing is lost, and the call can be retried.
    pub(super) fn take(&mut self, disk: &dyn Disk, number: u64) -> Result<Named, StorageError> {
        let made = match self.next {
            Next::Absent if self.spares.is_empty() => self.has_room(disk, 0),
            Next::Absent | Next::Ready(_) => Ok(()),
            Next::Filling { filled, .. } => self.has_room(disk, filled),
        };
        if let Err(error) = made.and_then(|()| self.fill(disk, number, self.bytes)) {
            if error.is_full() {
                self.low = true;
                self.drop_unfinished(disk)?;
            }
            return Err(error);
        }
        match std::mem::replace(&mut self.next, Next::Absent) {
            Next::Ready(file) => Ok(file),
            Next::Absent | Next::Filling { .. } => unreachable!("it was filled to the end"),
        }
    }

    /// Whether the disk has room to finish a file that is filled this far. Otherwise it is not
    /// begun, because it would take the room of a snapshot that can free some.
    fn has_room(&self, disk: &dyn Disk, filled: usize) -> Result<(), StorageError> {
        let free = disk.free_space();
        let free = free.map_err(|error| StorageError::io("measuring", "free space", error))?;
        if free < (self.bytes - filled) as u64 {
            let (action, file) = ("making room for", "the next segment of the log".to_owned());
            return Err(StorageError::Full { action, file });
        }
        Ok(())
    }

    fn fill(&mut self, disk: &dyn Disk, number: u64, target: usize) -> Result<(), StorageError> {
        let name = segment_name(number);
        if matches!(self.next, Next::Absent) {
            if let Some(spare) = self.spares.last() {
                disk::rename(disk, spare, &name)?;
                self.spares.pop();
                disk::sync_directory(disk)?;
                self.ready(Named::open(disk, &name, Mode::Write)?);
            } else {
                let file = Named::open(disk, UNFINISHED, Mode::Create)?;
                self.next = Next::Filling { file, filled: 0 };
            }
        }
        let Next::Filling { file, filled } = &mut self.next else { return Ok(()) };
        let zeros = [0; STEP];
        while *filled < self.bytes && (*filled + STEP <= target || target == self.bytes) {
            let step = STEP.min(self.bytes - *filled);
            file.write(&zeros[..step], *filled as u64)?;
            *filled += step;
            if self.flushes && (*filled % FLUSH_EVERY == 0 || *filled == self.bytes) {
                file.sync_new()?;
            }
        }
        if *filled == self.bytes {
            disk::rename(disk, UNFINISHED, &name)?;
            disk::sync_directory(disk)?;
            self.ready(Named::open(disk, &name, Mode::Write)?);
        }
        Ok(())
    }

    fn ready(&mut self, file: Named) {
        self.next = Next::Ready(file);
        self.low = false;
    }

    /// Deletes a half-made file to free its space. It is never continued, because a flush without
    /// room leaves it in doubt; only a new file is reliable.
    fn drop_unfinished(&mut self, disk: &dyn Disk) -> Result<(), StorageError> {
        if !matches!(self.next, Next::Filling { .. }) {
            return Ok(());
        }
        self.next = Next::Absent;
        match disk::remove(disk, UNFINISHED) {
            // Some file systems need room even to delete. The next attempt empties the file.
            Err(error) if error.is_full() => Ok(()),
            done => done,
        }
    }
}
