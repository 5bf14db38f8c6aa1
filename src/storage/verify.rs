//! Checks a directory without changing it: what it holds, and whether every checksum is right. For
//! inspection; the directory may be in use or damaged beyond repair.

use super::StorageError;
use super::disk::{self, Disk};
use super::identity::Identity;
use super::log::{self, SegmentState, Visit};
use super::snapshot::{self, SnapshotInfo};

/// What a directory holds.
#[derive(Clone, Debug)]
pub struct Report {
    /// The process that has the directory open (0: unknown). It may have changed the directory
    /// during the check, so the end of the log may look torn.
    pub holder: Option<u32>,
    /// The directory's identity; `None` if it was never completed.
    pub identity: Option<Identity>,
    /// Sound segments, in order.
    pub segments: Vec<SegmentState>,
    /// Sound snapshots, oldest first.
    pub snapshots: Vec<SnapshotInfo>,
    /// All problems found.
    pub problems: Vec<StorageError>,
}

impl Report {
    /// Whether a replica could start from this directory: there are no problems.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.identity.is_some()
    }
}

/// Reads the whole directory and calls `visit` with every sound record. A record that `visit`
/// refuses is reported as damaged.
///
/// # Errors
/// Only if the directory cannot be listed. All other problems are in the report.
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
            // Without the identity, the owner of the other files is unknown.
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
    // A process that started meanwhile may also have changed it.
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
