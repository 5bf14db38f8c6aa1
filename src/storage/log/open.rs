//! Creates a log, or restores one: reads it, distinguishes a torn end from damage, and prepares the
//! disk for the next record. It changes nothing before it has read everything and found it sound.
//! After `survey` and `scan`, and before the first append.

use std::collections::VecDeque;
use std::sync::Arc;

use super::format::{
    FIRST_GROUP, GROUP_HEADER, GroupHeader, Kind, SegmentHeader, segment_name, segment_number,
};

use super::reserve::Reserve;
use super::scan::{Close, Scan, Visit, scan};
use super::survey::{Survey, leads_on, read_segment, survey};
use super::{
    Current, FoundEnd, Log, LogCounts, LogOptions, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, Segment,
    begin,
};
use crate::storage::StorageError;
use crate::storage::disk::{self, Disk, Mode, Named};
use crate::types::LogPosition;

/// How many bytes after the end are zeroed at a time.
const ERASED_AT_ONCE: usize = 256 * 1024;

impl Log {
    /// Creates an empty log whose first record will be at `first`, and replaces existing segments.
    /// `directory` is this directory's own number: segments that were moved here from another
    /// directory are refused.
    ///
    /// # Errors
    /// If the disk fails or is full.
    ///
    /// # Panics
    /// If `options.segment_bytes` is out of bounds.
    pub fn create(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        directory: u64,
        first: LogPosition,
    ) -> Result<Log, StorageError> {
        check(&options);
        let ours = |name: &&String| segment_number(name).is_some() || name.starts_with("spare-");
        for name in disk::list(&*disk)?.iter().filter(ours) {
            disk::remove(&*disk, name)?;
        }
        disk::sync_directory(&*disk)?;
        let mut reserve = Reserve::new(&options);
        let segment = Segment { number: 1, base: first.records() };
        let file = reserve.take(&*disk, segment.number)?;
        let header = begin(&*disk, &options, directory, &file, segment)?;
        let current = Current { file, header, end: FIRST_GROUP, sealed: false };
        let segments = VecDeque::from([segment]);
        let mut log = Log::from(disk, options, directory, segments, current, reserve);
        log.flushed = first.records();
        Ok(log)
    }

    /// Opens the log and calls `visit` with every record from position `from` on. It reads only the
    /// segments that hold them. It cuts off a torn end durably.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] or [`StorageError::Missing`], with file and offset, if anything
    /// acknowledged is not as written, or if the log does not reach from `from` to its end. `visit`
    /// may already have been called. Nothing is changed and nothing is skipped in that case:
    /// restore or replace the replica.
    ///
    /// # Panics
    /// If `options.segment_bytes` is out of bounds.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        directory: u64,
        from: LogPosition,
        visit: &mut Visit<'_>,
    ) -> Result<Log, StorageError> {
        check(&options);
        let found = survey(&*disk, directory)?;
        let read = read(&*disk, &found, from.records(), visit)?;
        repair(&*disk, &found, &read)?;

        let header = read.last.header;
        let file = Named::open(&*disk, &segment_name(header.number), Mode::Write)?;
        let current = Current { file, header, end: read.last.scan.end, sealed: true };
        let mut reserve = Reserve::new(&options);
        let next = segment_name(header.number + 1);
        let (next, stray) = match found.next {
            Some(name) if name == next => (Some(name), None),
            other => (None, other),
        };
        if let Some(name) = stray {
            disk::remove(&*disk, &name)?;
        }
        reserve.adopt(&*disk, next, &found.names)?;
        let segment = |header: &SegmentHeader| Segment { number: header.number, base: header.base };
        let segments = found.live.iter().map(segment).collect();
        let mut log = Log::from(disk, options, directory, segments, current, reserve);
        log.flushed = read.last.scan.position;
        log.found = Some(read.last.found_end());
        log.maintain()?;
        Ok(log)
    }

    fn from(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        directory: u64,
        segments: VecDeque<Segment>,
        current: Current,
        reserve: Reserve,
    ) -> Log {
        Log {
            disk,
            options,
            directory,
            segments,
            current,
            reserve,
            next: None,
            group: vec![0; GROUP_HEADER],
            lengths: Vec::new(),
            flushed: 0,
            poison: None,
            counts: LogCounts::default(),
            found: None,
        }
    }
}

/// Calls `visit` with every record from position `from` on, without changing anything. Returns the
/// log's end.
///
/// # Errors
/// As [`Log::open`].
pub(in crate::storage) fn read_only(
    disk: &dyn Disk,
    directory: u64,
    from: LogPosition,
    visit: &mut Visit<'_>,
) -> Result<LogPosition, StorageError> {
    let found = survey(disk, directory)?;
    let tail = read(disk, &found, from.records(), visit)?;
    Ok(LogPosition::new(tail.last.scan.position))
}

fn check(options: &LogOptions) {
    let allowed = MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES;
    assert!(allowed.contains(&options.segment_bytes), "a segment has between 8 KiB and 1 GiB");
}

/// A segment and its contents.
struct Read {
    header: SegmentHeader,
    scan: Scan,
    /// Whether both copies of the header are right.
    intact: bool,
    /// The last group of records; it is written again if nothing confirms it.
    last_group: Vec<u8>,
    /// Bytes from the end up to the last one that is not zero.
    behind: u64,
    /// The header of an incomplete group at the end, if that is readable.
    torn: Option<GroupHeader>,
}

impl Read {
    fn found_end(&self) -> FoundEnd {
        let is_sealed = self.scan.close == Close::Seal;
        let torn = self.torn.as_ref().filter(|_| !is_sealed);
        let group = |torn: &GroupHeader| (GROUP_HEADER + torn.body_bytes as usize) as u64;
        FoundEnd {
            file: segment_name(self.header.number),
            offset: self.scan.end as u64,
            is_sealed,
            cut_bytes: if is_sealed { 0 } else { torn.map_or(self.behind, group) },
            cut_records: torn.map(|torn| torn.records),
        }
    }
}

/// The end of the log.
struct Tail {
    /// The segment before the last, if the last holds nothing yet. It is unknown whether its mark
    /// that the log continues is durable.
    before: Option<Read>,
    last: Read,
}

/// Reads every segment with records from `from` on.
fn read(
    disk: &dyn Disk,
    found: &Survey,
    from: u64,
    visit: &mut Visit<'_>,
) -> Result<Tail, StorageError> {
    let Some(first) = found.live.first() else {
        return Err(StorageError::missing("the log is gone: not one segment is in use"));
    };
    if first.base > from {
        let what = format!("the log starts with record {}, {from} is needed", first.base);
        return Err(StorageError::missing(what));
    }
    let needed = found.live.iter().rposition(|header| header.base <= from);
    let needed = needed.expect("the first one starts there or before");
    // Always the last but one, too: its mark may be missing.
    let needed = &found.live[needed.min(found.live.len().saturating_sub(2))..];
    let mut from_there = |position: LogPosition, record: &[u8]| {
        if position.records() < from { Ok(()) } else { visit(position, record) }
    };
    let mut before: Option<Read> = None;
    for (at, header) in needed.iter().enumerate() {
        let name = segment_name(header.number);
        let file = read_segment(disk, &name)?;
        let scan = scan(&name, header, &file, &mut from_there)?;
        let last = at + 1 == needed.len();
        if let Some(before) = &before {
            let empty = last && scan.last_group.is_none();
            if let Some(what) = leads_on(&before.scan, header, empty) {
                let name = segment_name(before.header.number);
                return Err(StorageError::damaged(&name, before.scan.end as u64, what));
            }
        }
        let last_group = scan.last_group.map_or(Vec::new(), |at| file[at..scan.end].to_vec());
        let intact = file.starts_with(&header.encode());
        let behind = file[scan.end..].iter().rposition(|byte| *byte != 0);
        let behind = behind.map_or(0, |last| last as u64 + 1);
        let torn = GroupHeader::decode(header.salt, &file, scan.end);
        let read = Read { header: *header, scan, intact, last_group, behind, torn };
        if last {
            return finish(read, before, from);
        }
        before = Some(read);
    }
    unreachable!("there is a last segment");
}

/// Checks the end of the log.
fn finish(last: Read, before: Option<Read>, from: u64) -> Result<Tail, StorageError> {
    let name = segment_name(last.header.number);
    if last.scan.close == Close::Next {
        let lost = segment_name(last.header.number + 1);
        return Err(StorageError::missing(format!("{name} goes on in {lost}, which is missing")));
    }
    if last.scan.position < from {
        let what = format!("the log ends before record {}, {from} is needed", last.scan.position);
        return Err(StorageError::missing(what));
    }
    let before = before.filter(|_| last.scan.last_group.is_none());
    Ok(Tail { before, last })
}

/// Makes the end of the log durable and sealed, with nothing after it.
///
/// The last flush may have failed, and the system may have forgotten what it was to write. The
/// bytes that were read may then be in memory only and marked as clean. So everything that flush
/// may have covered is written again: the last group, the header of a segment without a group, and
/// the mark that leads to such a segment.
fn repair(disk: &dyn Disk, found: &Survey, tail: &Tail) -> Result<(), StorageError> {
    let skipped = found.live.iter().filter(|header| header.number < tail.last.header.number);
    for header in skipped {
        // An earlier life may have left them to the operating system.
        Named::open(disk, &segment_name(header.number), Mode::Write)?.sync()?;
    }
    // The last one first: the segment before may name only a durable one.
    for read in [&tail.last].into_iter().chain(&tail.before) {
        let Read { header, scan, intact, last_group, .. } = read;
        let file = Named::open(disk, &segment_name(header.number), Mode::Write)?;
        if !intact || scan.last_group.is_none() {
            file.write(&header.encode(), 0)?;
        }
        if scan.close == Close::Nothing {
            if let Some(at) = scan.last_group {
                file.write(last_group, at as u64)?;
            }
            erase(&file, scan.end, header.bytes)?;
        }
        file.sync()?;
        let last = header.number == tail.last.header.number;
        let kind = if last { Kind::Seal } else { Kind::Next };
        let position = scan.position;
        let current = Current { file, header: *header, end: scan.end, sealed: false };
        current.mark(kind, position)?;
        current.file.sync()?;
    }
    Ok(())
}

/// Zeroes everything after the end, so that no part of a torn group is taken for part of a later
/// one.
fn erase(file: &Named, end: usize, bytes: u64) -> Result<(), StorageError> {
    let zeros = vec![0; ERASED_AT_ONCE];
    let mut at = end as u64;
    while at < bytes {
        let step = usize::try_from(bytes - at).map_or(zeros.len(), |left| left.min(zeros.len()));
        file.write(&zeros[..step], at)?;
        at += step as u64;
    }
    Ok(())
}
