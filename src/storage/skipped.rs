//! The requests that the operator has excluded from execution, as text with one request a line. The
//! list is read before anything is executed. It is kept for ever, because the log may be read again
//! from before them.

use std::collections::BTreeSet;

use super::StorageError;
use super::disk::{self, Disk, Mode, Named};
use crate::types::RequestId;

const FILE: &str = "skipped";
const UNFINISHED: &str = "skipped-unfinished";
/// The last line; a file without it is incomplete.
const END: &str = "end";
/// The longest allowed file, in bytes.
const LONGEST: usize = 1 << 20;

/// The requests in a directory's list; empty if there is no list.
///
/// # Errors
/// [`StorageError::Damaged`] if the list is not as written; otherwise if the disk fails.
pub fn read_skipped(disk: &dyn Disk) -> Result<BTreeSet<RequestId>, StorageError> {
    if !disk::list(disk)?.iter().any(|name| name == FILE) {
        return Ok(BTreeSet::new());
    }
    let bytes = Named::open(disk, FILE, Mode::Read)?.read_all(LONGEST)?;
    let damaged = |what: &str| StorageError::damaged(FILE, 0, what.to_owned());
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged("it is no text"))?;
    let mut lines = text.lines();
    if lines.next_back() != Some(END) {
        return Err(damaged("its last line is missing"));
    }
    let request = |line: &str| {
        line.parse().map_err(|error| damaged(&format!("{line:?} names no request: {error}")))
    };
    lines.map(request).collect()
}

/// Adds requests to the list durably, and returns the whole list.
///
/// # Errors
/// As [`read_skipped`]. Nothing is added then.
pub fn add_skipped(
    disk: &dyn Disk,
    more: &BTreeSet<RequestId>,
) -> Result<BTreeSet<RequestId>, StorageError> {
    let mut all = read_skipped(disk)?;
    if more.is_subset(&all) {
        return Ok(all);
    }
    all.extend(more);
    let mut text: String = all.iter().map(|request| format!("{request}\n")).collect();
    text.push_str(END);
    text.push('\n');
    if text.len() > LONGEST {
        let what = format!("{} requests to skip: that is more than a list holds", all.len());
        return Err(StorageError::missing(what));
    }
    let file = Named::open(disk, UNFINISHED, Mode::Create)?;
    file.write(text.as_bytes(), 0)?;
    file.sync()?;
    disk::rename(disk, UNFINISHED, FILE)?;
    disk::sync_directory(disk)?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FaultyDisk;
    use crate::types::ClientId;

    fn requests(sequences: &[u64]) -> BTreeSet<RequestId> {
        sequences.iter().map(|sequence| RequestId::new(ClientId(7), *sequence)).collect()
    }

    #[test]
    fn the_list_only_grows_and_is_read_whole_or_not_at_all() {
        let disk = FaultyDisk::new(1, 1 << 20);
        assert_eq!(read_skipped(&disk).expect("a sound disk"), requests(&[]));
        assert_eq!(add_skipped(&disk, &requests(&[2])).expect("room"), requests(&[2]));
        assert_eq!(add_skipped(&disk, &requests(&[1, 2])).expect("room"), requests(&[1, 2]));
        assert_eq!(add_skipped(&disk, &requests(&[])).expect("room"), requests(&[1, 2]));
        assert_eq!(read_skipped(&disk).expect("a sound disk"), requests(&[1, 2]));
        for text in ["c7#1\nc7#2\n", "c7#1\nx\nend\n", ""] {
            let file = Named::open(&disk, FILE, Mode::Create).expect("a sound disk");
            file.write(text.as_bytes(), 0).expect("a sound disk");
            let error = read_skipped(&disk).expect_err("damaged");
            assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
        }
    }
}
