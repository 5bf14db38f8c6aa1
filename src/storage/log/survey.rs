//! Determines from names and headers which segments exist, and whether they form one log. Reads
//! only. Used by `open`, which restores the log, and by `verify`, which checks it.

use super::format::{
    FIRST_GROUP, GroupHeader, Heading, Kind, SegmentHeader, heading, segment_name, segment_number,
    unknown_version,
};
use super::scan::{Close, Scan, scan};
use super::{MAX_SEGMENT_BYTES, Visit};
use crate::storage::StorageError;
use crate::storage::disk::{self, Disk, Mode, Named};

/// The segments of a log.
#[derive(Debug)]
pub(super) struct Survey {
    /// The segments in use, in order and without a gap.
    pub(super) live: Vec<SegmentHeader>,
    /// The file prepared for the segment after them.
    pub(super) next: Option<String>,
    /// All names in the directory.
    pub(super) names: Vec<String>,
}

/// Reads all headers.
///
/// # Errors
/// [`StorageError::Damaged`], [`StorageError::Missing`] or [`StorageError::Format`], unless the
/// segments follow each other from the first to the last.
pub(super) fn survey(disk: &dyn Disk, directory: u64) -> Result<Survey, StorageError> {
    let names = disk::list(disk)?;
    let headings = headings(disk, &names)?;
    let mut survey = Survey { live: Vec::new(), next: None, names };
    for (number, heading) in headings {
        let name = segment_name(number);
        let header = match heading {
            Heading::Live(header) => header,
            Heading::Spare => {
                if let Some(spare) = survey.next.replace(name) {
                    // Only one file is prepared in advance, so what follows this one was lost.
                    return Err(StorageError::damaged(&spare, 0, "no header, before the end"));
                }
                continue;
            }
            Heading::Damaged => {
                return Err(StorageError::damaged(&name, 0, "neither header can be read"));
            }
            Heading::Version(found) => return Err(unknown_version(&name, found)),
        };
        if let Some(spare) = &survey.next {
            return Err(StorageError::damaged(spare, 0, "no header, before the end of the log"));
        }
        if header.directory != directory {
            return Err(StorageError::damaged(&name, 0, "it belongs to another directory"));
        }
        if let Some(last) = survey.live.last() {
            if number != last.number + 1 {
                let lost = segment_name(last.number + 1);
                return Err(StorageError::missing(format!("{lost} is missing, {name} is there")));
            }
            if header.base < last.base {
                return Err(StorageError::damaged(&name, 0, "it starts before the one before"));
            }
        }
        survey.live.push(header);
    }
    Ok(survey)
}

/// What is wrong between the scanned segment and the next one, if anything. The last two are
/// special: if the last is empty, a crash may have come before the one before it was marked as
/// continued.
pub(super) fn leads_on(scan: &Scan, next: &SegmentHeader, empty_last: bool) -> Option<String> {
    if scan.position != next.base {
        let (end, base) = (scan.position, next.base);
        return Some(format!("the segment ends with record {end}, the next starts with {base}"));
    }
    if scan.close != Close::Next && !empty_last {
        return Some("not as written, and acknowledged: the next segment was begun later".into());
    }
    None
}

/// The position of the first record in the log; `None` if no segment is in use.
///
/// # Errors
/// As for opening the log, as far as the segments' headers show it.
pub(in crate::storage) fn first_position(
    disk: &dyn Disk,
    directory: u64,
) -> Result<Option<u64>, StorageError> {
    Ok(survey(disk, directory)?.live.first().map(|header| header.base))
}

/// Whether a segment holds or ever held records, as far as the files show it.
///
/// # Errors
/// If a file cannot be read.
pub(in crate::storage) fn holds_records(
    disk: &dyn Disk,
    names: &[String],
) -> Result<bool, StorageError> {
    for (number, heading) in headings(disk, names)? {
        let begun = match heading {
            Heading::Spare => false,
            Heading::Live(header) if number == 1 => {
                let file = read_segment(disk, &segment_name(number))?;
                let first = GroupHeader::decode(header.salt, &file, FIRST_GROUP);
                first.is_some_and(|group| group.kind == Kind::Records)
            }
            Heading::Live(_) | Heading::Damaged | Heading::Version(_) => true,
        };
        if begun {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A segment as `verify` found it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentState {
    /// The file's name.
    pub file: String,
    /// The file's length in bytes.
    pub bytes: u64,
    /// Bytes used by records, including their framing.
    pub used: u64,
    /// The position of the first record.
    pub first: u64,
    /// The position after the last record.
    pub end: u64,
    /// Whether a mark after the last record confirms it. If not, the last group may be missing.
    pub sealed: bool,
}

/// Reads the whole log. Returns each segment, or what is wrong with it.
pub(in crate::storage) fn inspect(
    disk: &dyn Disk,
    directory: u64,
    visit: &mut Visit<'_>,
) -> Result<Vec<Result<SegmentState, StorageError>>, StorageError> {
    let survey = survey(disk, directory)?;
    let mut states = Vec::new();
    let mut before: Option<(String, Scan)> = None;
    for (at, header) in survey.live.iter().enumerate() {
        let name = segment_name(header.number);
        let scanned = read_segment(disk, &name).and_then(|file| scan(&name, header, &file, visit));
        let scanned = match scanned {
            Ok(scanned) => scanned,
            Err(error) => {
                states.push(Err(error));
                before = None;
                continue;
            }
        };
        let last = at + 1 == survey.live.len();
        if let Some((name, scan)) = before.take() {
            let empty = last && scanned.last_group.is_none();
            if let Some(what) = leads_on(&scan, header, empty) {
                states.push(Err(StorageError::damaged(&name, scan.end as u64, what)));
            }
        }
        if last && scanned.close == Close::Next {
            let lost = segment_name(header.number + 1);
            states.push(Err(StorageError::missing(format!("{name} goes on in {lost}: missing"))));
        }
        states.push(Ok(SegmentState {
            file: name.clone(),
            bytes: header.bytes,
            used: scanned.end as u64,
            first: header.base,
            end: scanned.position,
            sealed: scanned.close != Close::Nothing || scanned.last_group.is_none(),
        }));
        before = Some((name, scanned));
    }
    Ok(states)
}

/// The bytes of a whole segment.
pub(super) fn read_segment(disk: &dyn Disk, name: &str) -> Result<Vec<u8>, StorageError> {
    Named::open(disk, name, Mode::Read)?.read_all(MAX_SEGMENT_BYTES)
}

/// The headers of all segments, in order of their numbers.
fn headings(disk: &dyn Disk, names: &[String]) -> Result<Vec<(u64, Heading)>, StorageError> {
    let mut headings = Vec::new();
    for name in names {
        let Some(number) = segment_number(name) else { continue };
        let file = Named::open(disk, name, Mode::Read)?;
        let front = usize::try_from(file.size()?).map_or(FIRST_GROUP, |len| len.min(FIRST_GROUP));
        let mut bytes = vec![0; front];
        file.read(&mut bytes, 0)?;
        headings.push((number, heading(number, &bytes)));
    }
    headings.sort_by_key(|(number, _)| *number);
    Ok(headings)
}
