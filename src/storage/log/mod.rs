//! The durable log: it takes records in order, and reports how many of them are durable. It commits
//! in groups: everything appended since the last flush becomes one write and one flush.
//!
//! `format` defines the bytes, `scan` reads them, `open` restores a log after a crash, `reserve`
//! prepares the next segment, and this file appends records. The log thread (`thread`) runs one
//! `Log`; the simulator drives one directly.
//!
//! A flipped bit makes the log refuse to open if its group is followed by another group or by a
//! seal. That is true of every acknowledged group, except in the last microseconds before a crash.
//! Only one case is ambiguous: a group was flushed, its seal did not reach the disk before the
//! power failed, and the group was damaged as well. It looks like a group that was never complete.

mod format;
mod open;
mod reserve;
mod scan;
mod survey;

use std::collections::VecDeque;
use std::sync::Arc;

pub(super) use open::read_only;
pub use scan::Visit;
pub use survey::SegmentState;
pub(super) use survey::{first_position, holds_records, inspect};

use super::disk::{Disk, Named};
use super::{Durability, StorageError};
use crate::types::{Durable, LogPosition};
use format::{FIRST_GROUP, GROUP_HEADER, GroupHeader, Kind, RECORD_HEADER, SegmentHeader};
use reserve::Reserve;

/// The smallest segment: header and a little more.
pub const MIN_SEGMENT_BYTES: usize = 8 * 1024;
/// The largest segment.
pub const MAX_SEGMENT_BYTES: usize = 1024 * 1024 * 1024;

/// How a log is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOptions {
    /// The length of a segment in bytes, between [`MIN_SEGMENT_BYTES`] and [`MAX_SEGMENT_BYTES`].
    /// It may change at every start. Default: 16 MiB. At full speed that is filled in tenths of a
    /// second, and truncated as soon as nothing in it is needed.
    pub segment_bytes: usize,
    /// Bytes that new segments leave free on the disk; below that, [`Log::space_low`] is true.
    /// Default: 32 MiB.
    pub keep_free: u64,
    /// [`Durability::Fsync`] or [`Durability::Os`].
    pub durability: Durability,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        const MIB: usize = 1024 * 1024;
        LogOptions {
            segment_bytes: 16 * MIB,
            keep_free: 32 * MIB as u64,
            durability: Durability::Fsync,
        }
    }
}

/// Where an earlier life's log was found to end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundEnd {
    /// The file of the last segment.
    pub file: String,
    /// The offset in it after the last record.
    pub offset: u64,
    /// Whether a mark confirms this end. Without one, either a flush was not finished, or the mark
    /// was lost with the power, or more was lost. A disk cannot tell these apart.
    pub is_sealed: bool,
    /// Bytes cut off after the end. They were never written completely, or are left from an earlier
    /// use of the file.
    pub cut_bytes: u64,
    /// How many records the cut bytes were to hold, if that can be read.
    pub cut_records: Option<u32>,
}

/// A log's figures since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogCounts {
    /// Groups written and, with [`Durability::Fsync`], flushed.
    pub flushes: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes written, including the framing of records.
    pub bytes: u64,
    /// Segments begun.
    pub segments: u64,
}

/// A segment that holds records or is about to.
#[derive(Clone, Copy, Debug)]
struct Segment {
    number: u64,
    base: u64,
}

/// The segment that is written to.
#[derive(Debug)]
struct Current {
    file: Named,
    header: SegmentHeader,
    /// Where the next group goes. Invariant: there is room for a mark after it.
    end: usize,
    /// Whether there is a seal at `end`.
    sealed: bool,
}

/// A log on a disk, open for appending.
///
/// Invariants:
/// 1. A group is written only after everything before it was flushed.
/// 2. A segment holds records only after the segment before it was marked as continued there.
/// 3. Once an operation has failed, no other is tried: only reading the disk again can tell what it
///    holds. A full disk is not such a failure, except in a flush: the bytes that did not fit were
///    not acknowledged, and are written again at the same place.
#[derive(Debug)]
pub struct Log {
    disk: Arc<dyn Disk>,
    options: LogOptions,
    directory: u64,
    /// All segments; the last is the current one.
    segments: VecDeque<Segment>,
    current: Current,
    reserve: Reserve,
    /// The file of the next segment, once its header may be on disk. That header says where the
    /// current segment ends, so only the mark may still be written to the current one.
    next: Option<Named>,
    /// The group being built: room for its header, then the records appended since the last flush.
    group: Vec<u8>,
    /// The length of each of those records, including its header.
    lengths: Vec<usize>,
    flushed: u64,
    poison: Option<StorageError>,
    counts: LogCounts,
    /// How its end was found; `None` for a new log.
    found: Option<FoundEnd>,
}

impl Log {
    /// Adds a record to what the next [`Log::flush`] writes, and returns the position after it.
    /// Nothing is written yet.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`], which leaves the log unchanged, or the error that poisoned it.
    pub fn append(&mut self, record: &[u8]) -> Result<LogPosition, StorageError> {
        self.healthy()?;
        let limit = self.record_limit();
        if record.len() > limit {
            return Err(StorageError::TooLarge { bytes: record.len(), limit });
        }
        let length = u32::try_from(record.len()).expect("the limit is below 4 GiB");
        self.group.extend_from_slice(&length.to_le_bytes());
        self.group.extend_from_slice(record);
        self.lengths.push(RECORD_HEADER + record.len());
        Ok(self.end())
    }

    /// Writes and flushes what was appended, and returns how much of the log is durable. With
    /// [`Durability::Os`] that means handed to the operating system.
    ///
    /// # Errors
    /// [`StorageError::Full`] if there is no room for all of it. The rest stays appended: retry
    /// when there may be room, for example after [`Log::truncate`]. [`Log::durable`] says how much
    /// was written. Any other failure, now or earlier, poisons the log. Records that were not
    /// acknowledged may or may not be found when the directory is opened again.
    pub fn flush(&mut self) -> Result<Durable, StorageError> {
        self.healthy()?;
        let done = self.write_groups();
        self.poisoning(done)?;
        Ok(self.durable())
    }

    /// Does work that is not urgent: seals the log and prepares the next segment. Best called after
    /// a flush has been reported.
    ///
    /// # Errors
    /// As [`Log::flush`]. A full disk is not an error here: see [`Log::space_low`].
    pub fn maintain(&mut self) -> Result<(), StorageError> {
        self.healthy()?;
        let sealed = match self.seal() {
            // The next group replaces it, completely or not at all, and is sealed later.
            Err(error) if error.is_full() => Ok(()),
            sealed => sealed,
        };
        let done = sealed.and_then(|()| match &self.next {
            Some(_) => Ok(()),
            None => {
                let (next, progress) = (self.current.header.number + 1, self.current.end);
                self.reserve.advance(&*self.disk, next, progress)
            }
        });
        self.poisoning(done)
    }

    /// Flushes, and ends the current segment if it is not empty, so that [`Log::truncate`] can cut
    /// exactly here. [`super::Lineage`] says what needs that.
    ///
    /// # Errors
    /// As [`Log::flush`]. After [`StorageError::Full`], append nothing until this has succeeded.
    pub fn rotate(&mut self) -> Result<Durable, StorageError> {
        let durable = self.flush()?;
        if self.current.end > FIRST_GROUP || self.next.is_some() {
            let done = self.begin_segment();
            self.poisoning(done)?;
        }
        Ok(durable)
    }

    /// Drops segments that hold only records before `position`, and recycles their files. A durable
    /// snapshot must cover all those records.
    ///
    /// # Errors
    /// As [`Log::flush`].
    pub fn truncate(&mut self, position: LogPosition) -> Result<(), StorageError> {
        self.healthy()?;
        let done = self.retire(position.records());
        self.poisoning(done)
    }

    /// Flushes, seals durably and closes the log. The next start finds a confirmed end.
    ///
    /// # Errors
    /// As [`Log::flush`].
    pub fn close(mut self) -> Result<Durable, StorageError> {
        let durable = self.flush()?;
        self.seal()?;
        self.sync_current()?;
        Ok(durable)
    }

    /// How much of the log is durable, as of the last flush.
    pub fn durable(&self) -> Durable {
        Durable::flushed(LogPosition::new(self.flushed))
    }

    /// The position after everything appended.
    pub fn end(&self) -> LogPosition {
        LogPosition::new(self.flushed + self.lengths.len() as u64)
    }

    /// The position of the first record still in the log.
    pub fn first(&self) -> LogPosition {
        LogPosition::new(self.segments[0].base)
    }

    /// Whether a segment begins at this position, as after [`Log::rotate`].
    pub(super) fn divides_at(&self, position: LogPosition) -> bool {
        self.segments.iter().any(|segment| segment.base == position.records())
    }

    /// Whether the disk is too full for another segment. The rest of the current segment can still
    /// be written, so there is time to refuse new work and to truncate. When this first becomes
    /// true, at least one segment's length is left, unless the log was opened on a full disk.
    pub fn space_low(&self) -> bool {
        self.reserve.low
    }

    /// The longest record in bytes.
    pub fn record_limit(&self) -> usize {
        self.group_limit() - RECORD_HEADER
    }

    /// Bytes appended and not yet flushed.
    pub fn buffered_bytes(&self) -> usize {
        self.group.len() - GROUP_HEADER
    }

    /// Where the log was found to end; `None` if it is new.
    pub fn found_end(&self) -> Option<&FoundEnd> {
        self.found.as_ref()
    }

    /// What the log has done since it was opened.
    pub fn counts(&self) -> LogCounts {
        self.counts
    }

    /// The longest body that fits into an empty segment together with a mark.
    fn group_limit(&self) -> usize {
        self.options.segment_bytes - FIRST_GROUP - 2 * GROUP_HEADER
    }

    fn healthy(&self) -> Result<(), StorageError> {
        self.poison.clone().map_or(Ok(()), Err)
    }

    fn poisoning<T>(&mut self, done: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(error) = &done
            && !error.is_full()
        {
            self.poison = Some(error.clone());
        }
        done
    }

    /// Writes one group, unless it does not fit into a segment; then as few groups as possible.
    /// Each is flushed before the next is written.
    fn write_groups(&mut self) -> Result<(), StorageError> {
        while !self.lengths.is_empty() {
            let (mut records, mut bytes) = (0, 0);
            for length in &self.lengths {
                if bytes + length > self.group_limit() {
                    break;
                }
                records += 1;
                bytes += length;
            }
            if records == self.lengths.len() {
                let mut group = std::mem::take(&mut self.group);
                let done = self.write_group(&mut group, records);
                if done.is_ok() {
                    group.truncate(GROUP_HEADER);
                }
                self.group = group;
                done?;
            } else {
                let mut front = self.group[..GROUP_HEADER + bytes].to_vec();
                self.write_group(&mut front, records)?;
                self.group.drain(GROUP_HEADER..GROUP_HEADER + bytes);
            }
            self.lengths.drain(..records);
        }
        Ok(())
    }

    /// Writes and flushes a group, whose records come after the room for its header.
    fn write_group(&mut self, group: &mut [u8], records: usize) -> Result<(), StorageError> {
        let end = self.current.end + group.len() + GROUP_HEADER;
        if end > self.current.file_bytes() || self.next.is_some() {
            self.begin_segment()?;
        }
        let (salt, offset) = (self.current.header.salt, self.current.end);
        let count = u32::try_from(records).expect("a segment is shorter than 4 GiB");
        let header = GroupHeader::records(salt, self.flushed, count, &group[GROUP_HEADER..]);
        group[..GROUP_HEADER].copy_from_slice(&header.encode(salt, offset));
        self.current.file.write(group, offset as u64)?;
        self.sync_current()?;
        self.current.end += group.len();
        self.current.sealed = false;
        self.flushed += records as u64;
        self.counts.flushes += 1;
        self.counts.records += records as u64;
        self.counts.bytes += group.len() as u64;
        Ok(())
    }

    /// Continues in the next segment, after everything before it is flushed. The order matters. The
    /// old segment may name only a segment whose header is durable, and only a named segment may
    /// hold records. So the loss of either is noticed.
    fn begin_segment(&mut self) -> Result<(), StorageError> {
        let segment = Segment { number: self.current.header.number + 1, base: self.flushed };
        let file = match self.next.take() {
            Some(file) => file,
            None => self.reserve.take(&*self.disk, segment.number)?,
        };
        let file = self.next.insert(file);
        let header = begin(&*self.disk, &self.options, self.directory, file, segment)?;
        self.current.mark(Kind::Next, self.flushed)?;
        self.sync_current()?;
        let file = self.next.take().expect("it was just put there");
        self.current = Current { file, header, end: FIRST_GROUP, sealed: false };
        self.segments.push_back(segment);
        self.counts.segments += 1;
        Ok(())
    }

    fn seal(&mut self) -> Result<(), StorageError> {
        if !self.current.sealed {
            self.current.mark(Kind::Seal, self.flushed)?;
            self.current.sealed = true;
        }
        Ok(())
    }

    fn sync_current(&self) -> Result<(), StorageError> {
        match self.options.durability {
            Durability::Fsync => self.current.file.sync(),
            Durability::Os | Durability::Memory => Ok(()),
        }
    }

    fn retire(&mut self, position: u64) -> Result<(), StorageError> {
        // One at a time, each durably: a gap in the numbers would look like a lost file.
        while self.segments.len() > 1 && self.segments[1].base <= position {
            self.reserve.retire(&*self.disk, self.segments[0].number)?;
            self.segments.pop_front();
        }
        Ok(())
    }
}

/// Writes a segment's header, and flushes it if the durability requires that.
fn begin(
    disk: &dyn Disk,
    options: &LogOptions,
    directory: u64,
    file: &Named,
    segment: Segment,
) -> Result<SegmentHeader, StorageError> {
    let header = SegmentHeader {
        number: segment.number,
        bytes: options.segment_bytes as u64,
        salt: disk.entropy(),
        base: segment.base,
        directory,
    };
    file.write(&header.encode(), 0)?;
    if options.durability == Durability::Fsync {
        file.sync()?;
    }
    Ok(header)
}

impl Current {
    fn mark(&self, kind: Kind, position: u64) -> Result<(), StorageError> {
        let mark = GroupHeader::mark(kind, position).encode(self.header.salt, self.end);
        self.file.write(&mark, self.end as u64)
    }

    fn file_bytes(&self) -> usize {
        usize::try_from(self.header.bytes).expect("a segment is at most 1 GiB")
    }
}
