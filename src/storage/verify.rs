//! Looks at a directory without touching it: what is there, and whether every checksum fits. For
//! whoever inspects one; the directory may be in use, or beyond repair.

use super::StorageError;
use super::disk::{self, Disk};
use super::identity::Identity;
use super::log::{self, SegmentState, Visit};
use super::snapshot::{self, SnapshotInfo};

/// What a directory holds.
#[derive(Clone, Debug)]
pub struct Report {
    /// The process that has the directory open (0: unknown), which may have changed it meanwhile:
    /// the end of the log may look torn then.
    pub holder: Option<u32>,
    /// Whose it is; `None` for a directory that never was finished.
    pub identity: Option<Identity>,
    /// Segments that are sound, in order.
    pub segments: Vec<SegmentState>,
    /// Snapshots that are sound, oldest first.
    pub snapshots: Vec<SnapshotInfo>,
    /// Everything that is wrong.
    pub problems: Vec<StorageError>,
}

impl Report {
    /// Whether a replica could start from this: nothing is wrong at all.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.identity.is_some()
    }
}

/// Reads the whole directory and shows `visit` every record that is sound; a record that it refuses
/// is reported as damaged.
///
/// # Errors
/// Only if the directory cannot be listed; everything else is in the report.
pub fn verify(disk: &dyn Disk, visit: &mut Visit<'_>) -> Result<Report, StorageError> {
    let names = disk::list(disk)?;
    let mut report = Report {
        holder: disk.holder(),
        identity: None,
        segments: Vec::new(),
        snapshots: Vec::new(),
        problems: Vec::new(),
    };
    let directory = match Identity::read(disk) {
        Ok(Some(identity)) => {
            let directory = identity.directory;
            report.identity = Some(identity);
            directory
        }
        Ok(None) => {
            let records = log::holds_records(disk, &names).unwrap_or(true);
            if records || names.iter().any(|name| snapshot::is_snapshot(name)) {
                let what = "the identity is missing, and snapshots or records are there";
                report.problems.push(StorageError::missing(what));
            }
            return Ok(report);
        }
        Err(error) => {
            // Whose the other files are cannot be told without it.
            report.problems.push(error);
            return Ok(report);
        }
    };
    for snapshot in snapshot::inspect(disk, directory, &names) {
        match snapshot {
            Ok(info) => report.snapshots.push(info),
            Err(error) => report.problems.push(error),
        }
    }
    match log::inspect(disk, directory, visit) {
        Ok(states) => {
            for state in states {
                match state {
                    Ok(state) => report.segments.push(state),
                    Err(error) => report.problems.push(error),
                }
            }
        }
        Err(error) => report.problems.push(error),
    }
    report.problems.extend(fit(&report));
    // One that has come meanwhile has changed it as well.
    report.holder = report.holder.or_else(|| disk.holder());
    Ok(report)
}

/// Whether log and snapshots fit together.
fn fit(report: &Report) -> Option<StorageError> {
    if !report.problems.is_empty() {
        return None;
    }
    let (Some(first), Some(last)) = (report.segments.first(), report.segments.last()) else {
        return Some(StorageError::missing("the log is gone: not one segment is in use"));
    };
    let from = report.snapshots.last().map_or(0, |snapshot| snapshot.position.records());
    let (start, end) = (first.first, last.end);
    (from < start || from > end).then(|| {
        let what = format!("the log holds records {start} to {end}, record {from} is needed");
        StorageError::missing(what)
    })
}
