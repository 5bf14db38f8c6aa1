//! What a start logs about the directory that it finds. Part of `start`.

use tracing::{info, warn};

use crate::storage::{FoundEnd, Privacy};
use crate::types::MemberId;

pub(super) fn say_privacy(us: MemberId, directory: &str, privacy: &Privacy) {
    match privacy {
        Privacy::Private => {}
        Privacy::Tightened => {
            info!(%us, directory, "others could read the data directory, and no longer can");
        }
        Privacy::Exposed(why) => {
            warn!(%us, directory, why, "others can read the data directory: run this as its owner");
        }
    }
}

/// Logs what followed the last record. An incompletely written end was never acknowledged, as far
/// as the disk tells the truth. A disk that lies may have lost more.
pub(super) fn say_end(us: MemberId, directory: &str, found: Option<&FoundEnd>) {
    let Some(FoundEnd { file, offset, is_sealed: false, cut_bytes, cut_records }) = found else {
        return;
    };
    match cut_records {
        Some(records) => warn!(
            %us, directory, file, offset, bytes = cut_bytes, records,
            "cut off the end of the log: a flush that was not finished"
        ),
        None if *cut_bytes > 0 => warn!(
            %us, directory, file, offset, bytes = cut_bytes,
            "cut off what is behind the log's last record: part of a flush that was not finished, \
             or left from an earlier use of the file"
        ),
        None => warn!(
            %us, directory, file, offset,
            "nothing marks the end of the log: a flush was not finished, the power failed, or the \
             end was lost"
        ),
    }
}
