//! Snapshots that are kept for those who fetch them for a backup. After `error`; the state of this
//! is the core thread's (`snapshot`).

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::error::SnapshotError;
use crate::replica::SnapshotId;
use crate::storage::SnapshotInfo;
use crate::types::Time;
use crate::wire::{MAX_PART, Offer};

/// How long a snapshot is kept after it was last read.
const LINGER: Duration = Duration::from_secs(60);
/// The most snapshots that are fetched at a time: each may take as much of the disk as the state.
const MOST: usize = 2;

/// A caller that asked for a snapshot.
pub(super) enum Asker {
    /// To know that there is one.
    Snapshot(oneshot::Sender<Result<SnapshotInfo, SnapshotError>>),
    /// To fetch it.
    Backup(oneshot::Sender<Result<Offer, SnapshotError>>),
}

impl Asker {
    pub(super) fn refuse(self, why: SnapshotError) {
        // The caller may be gone.
        match self {
            Asker::Snapshot(asker) => drop(asker.send(Err(why))),
            Asker::Backup(asker) => drop(asker.send(Err(why))),
        }
    }
}

/// A part of a snapshot that is wanted.
pub(super) struct Wanted {
    pub(super) snapshot: SnapshotId,
    pub(super) offset: u64,
    pub(super) bytes: u32,
    /// Dropped if the snapshot is not kept any more, or cannot be read.
    pub(super) asker: oneshot::Sender<Bytes>,
}

/// The snapshots that are kept.
#[derive(Default)]
pub(super) struct Fetched {
    snapshots: Vec<Kept>,
}

struct Kept {
    id: SnapshotId,
    bytes: u64,
    /// When it was last read.
    used: Time,
    /// The last part was read. It may be read again, if the answer is lost.
    is_read: bool,
}

impl Fetched {
    /// Whether another snapshot may be kept.
    pub(super) fn has_room(&mut self, now: Time) -> bool {
        self.let_go(now);
        self.snapshots.iter().filter(|kept| !kept.is_read).count() < MOST
    }

    /// Keeps a snapshot of this length.
    pub(super) fn keep(&mut self, id: SnapshotId, bytes: u64, now: Time) {
        self.snapshots.retain(|kept| kept.id != id);
        if let Some(read) = self.snapshots.iter().position(|kept| kept.is_read)
            && self.snapshots.len() >= MOST
        {
            self.snapshots.remove(read);
        }
        self.snapshots.push(Kept { id, bytes, used: now, is_read: false });
    }

    /// Whether the snapshot is still kept.
    pub(super) fn keeps(&self, id: SnapshotId, now: Time) -> bool {
        self.snapshots.iter().any(|kept| kept.id == id && now.since(kept.used) < LINGER)
    }

    fn let_go(&mut self, now: Time) {
        self.snapshots.retain(|kept| now.since(kept.used) < LINGER);
    }

    /// Whether this part can be read. Then the snapshot is kept for longer.
    pub(super) fn may_read(&mut self, wanted: &Wanted, now: Time) -> bool {
        self.let_go(now);
        let Wanted { snapshot, offset, bytes, .. } = wanted;
        let Some(kept) = self.snapshots.iter_mut().find(|kept| kept.id == *snapshot) else {
            return false;
        };
        let end = offset.checked_add(u64::from(*bytes)).filter(|end| *end <= kept.bytes);
        if !(1..=MAX_PART).contains(bytes) || end.is_none() {
            return false;
        }
        kept.used = now;
        kept.is_read |= end == Some(kept.bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    fn part(snapshot: u64, offset: u64, bytes: u32) -> Wanted {
        let (asker, _) = oneshot::channel();
        Wanted { snapshot: SnapshotId(snapshot), offset, bytes, asker }
    }

    #[test]
    fn a_snapshot_is_kept_while_it_is_read_and_a_while_longer() {
        let mut fetched = Fetched::default();
        fetched.keep(SnapshotId(1), 10, at(0));
        assert!(fetched.may_read(&part(1, 0, 4), at(59)));
        assert!(fetched.keeps(SnapshotId(1), at(118)) && !fetched.keeps(SnapshotId(1), at(119)));
        assert!(!fetched.may_read(&part(1, 4, 4), at(119)), "it was not read for too long");
        assert!(!fetched.may_read(&part(2, 0, 4), at(0)), "there is no such snapshot");
    }

    #[test]
    fn only_what_is_inside_is_read_and_not_too_much_at_once() {
        let mut fetched = Fetched::default();
        fetched.keep(SnapshotId(1), 1 << 30, at(0));
        for (offset, bytes, may) in [
            (0, MAX_PART, true),
            (0, MAX_PART + 1, false),
            (0, 0, false),
            (1 << 30, 1, false),
            ((1 << 30) - 1, 1, true),
            (u64::MAX, 1, false),
        ] {
            assert_eq!(
                fetched.may_read(&part(1, offset, bytes), at(1)),
                may,
                "{bytes} at {offset}"
            );
        }
    }

    #[test]
    fn no_more_are_kept_than_are_read_at_a_time() {
        let mut fetched = Fetched::default();
        for id in [1, 2] {
            assert!(fetched.has_room(at(0)));
            fetched.keep(SnapshotId(id), 10, at(0));
        }
        assert!(!fetched.has_room(at(0)));
        assert!(fetched.may_read(&part(1, 0, 10), at(1)), "this one is read to its end");
        assert!(fetched.has_room(at(1)) && fetched.keeps(SnapshotId(1), at(1)));
        fetched.keep(SnapshotId(3), 10, at(1));
        assert!(!fetched.keeps(SnapshotId(1), at(1)), "its room is needed");
        assert!(!fetched.has_room(at(1)) && fetched.has_room(at(61)));
    }
}
