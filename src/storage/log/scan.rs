//! Reads a segment and determines where and how it ends. Pure; after `format`, and before `open`.

use super::format::{
    FIRST_GROUP, GROUP_HEADER, GroupHeader, Kind, RECORD_HEADER, SegmentHeader, find_group, records,
};
use crate::storage::StorageError;
use crate::types::LogPosition;

/// What follows the last group of records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Close {
    /// The mark that the log continues in the next segment.
    Next,
    /// The mark that everything before was acknowledged.
    Seal,
    /// Nothing complete. The last group may or may not have been acknowledged; anything after it
    /// was not.
    Nothing,
}

/// A segment that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Scan {
    /// The offset after the last group of records.
    pub(super) end: usize,
    /// The position after the last record.
    pub(super) position: u64,
    /// Where the last group of records starts.
    pub(super) last_group: Option<usize>,
    pub(super) close: Close,
}

/// Called with each record and its position. Returns what is wrong with a record that cannot be
/// decoded.
pub type Visit<'a> = dyn FnMut(LogPosition, &[u8]) -> Result<(), String> + 'a;

/// Reads the whole segment in order.
///
/// # Errors
/// [`StorageError::Damaged`] if something acknowledged is not as written, or if `visit` refuses a
/// record.
pub(super) fn scan(
    name: &str,
    header: &SegmentHeader,
    file: &[u8],
    visit: &mut Visit<'_>,
) -> Result<Scan, StorageError> {
    let damaged = |offset: usize, what: String| StorageError::damaged(name, offset as u64, what);
    if file.len() as u64 != header.bytes {
        let what = format!("the file ends here and was made with {} bytes", header.bytes);
        return Err(damaged(file.len(), what));
    }
    let (mut end, mut position, mut last_group) = (FIRST_GROUP, header.base, None);
    let close = loop {
        let Some(group) = GroupHeader::decode(header.salt, file, end) else { break Close::Nothing };
        if group.position != position {
            let what = format!("record {} stands where {position} belongs", group.position);
            return Err(damaged(end, what));
        }
        match group.kind {
            Kind::Next => break Close::Next,
            Kind::Seal => break Close::Seal,
            Kind::Records => {}
        }
        let Some(body) = group.body(header.salt, file, end) else { break Close::Nothing };
        let (start, mut offset) = (position, end + GROUP_HEADER);
        for record in records(body) {
            let wrong = |what: String| damaged(offset, format!("record {position}: {what}"));
            let record = record.ok_or_else(|| wrong("its length does not fit".into()))?;
            visit(LogPosition::new(position), record).map_err(wrong)?;
            position += 1;
            offset += RECORD_HEADER + record.len();
        }
        if position - start != u64::from(group.records) {
            let (found, said) = (position - start, group.records);
            return Err(damaged(end, format!("{found} records in a group of {said}")));
        }
        last_group = Some(end);
        end += GROUP_HEADER + body.len();
    };
    // A group is written only after everything before it was flushed and acknowledged. So
    // unreadable bytes before a group are damage, not a torn end.
    if let Some((at, _)) = find_group(header.salt, file, end + 1) {
        let what = format!("not as written, and acknowledged: byte {at} was written later");
        return Err(damaged(end, what));
    }
    Ok(Scan { end, position, last_group, close })
}
