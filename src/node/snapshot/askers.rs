//! Callers that ask for a snapshot, and those that fetch one for a backup. Part of the core
//! thread's side of snapshots.

use tokio::sync::oneshot;

use super::Snapshots;
use super::worker::Task;
use crate::node::error::SnapshotError;
use crate::node::fetched::{Asker, Wanted};
use crate::node::status::NodeProtocol;
use crate::replica::OwnSnapshot;
use crate::storage::SnapshotInfo;
use crate::types::{Membership, Time};
use crate::wire::Offer;

/// A caller who waits for a copy of a snapshot that others cannot read.
pub(super) struct Borrower {
    asker: oneshot::Sender<Result<Offer, SnapshotError>>,
    list: Membership,
    /// The position of the snapshot in the log.
    position: u64,
}

impl<P: NodeProtocol> Snapshots<P> {
    /// A caller asks for a snapshot.
    pub(in crate::node) fn ask(&mut self, asker: Asker) {
        let now = self.shared.clock.now();
        match &asker {
            Asker::Snapshot(_) if self.store.is_none() => asker.refuse(SnapshotError::InMemory),
            Asker::Backup(_) if !self.fetched.has_room(now) => asker.refuse(SnapshotError::Busy),
            _ => self.next_askers.push(asker),
        }
    }

    /// Whether a caller of the next snapshot needs a copy with all of the state. While another copy
    /// is written there is none, and the callers are told so.
    pub(super) fn is_asked_to_lend(&mut self) -> bool {
        let is_backup = |asker: &mut Asker| matches!(asker, Asker::Backup(_));
        if self.lending {
            let busy = self.next_askers.extract_if(.., is_backup);
            busy.for_each(|asker| asker.refuse(SnapshotError::Busy));
            return false;
        }
        self.next_askers.iter_mut().any(is_backup)
    }

    /// Tells the callers of a snapshot that is complete; in memory it has no description. Those who
    /// fetch it have to wait for a copy if others cannot read it.
    pub(super) fn tell_askers(
        &mut self,
        now: Time,
        own: &OwnSnapshot,
        info: Option<&SnapshotInfo>,
    ) {
        for asker in std::mem::take(&mut self.askers) {
            match (asker, info, &self.list) {
                // The receivers may be gone.
                (Asker::Snapshot(asker), Some(info), _) => drop(asker.send(Ok(info.clone()))),
                (Asker::Backup(asker), _, Some(list)) => {
                    let position = info.map_or(0, |info| info.position.records());
                    let borrower = Borrower { asker, list: list.clone(), position };
                    match own.bytes {
                        0 => self.borrowers.push(borrower),
                        _ => self.offer(now, own, borrower),
                    }
                }
                (asker, ..) => asker.refuse(SnapshotError::InMemory),
            }
        }
    }

    /// Tells those who wait for a copy that it was made, or came to nothing.
    pub(super) fn tell_borrowers(&mut self, now: Time, own: Option<&OwnSnapshot>) {
        for borrower in std::mem::take(&mut self.borrowers) {
            match own {
                Some(own) => self.offer(now, own, borrower),
                None => Asker::Backup(borrower.asker).refuse(SnapshotError::NoCopy),
            }
        }
    }

    fn offer(&mut self, now: Time, own: &OwnSnapshot, borrower: Borrower) {
        let Borrower { asker, list, position } = borrower;
        self.fetched.keep(own.id, own.bytes, now);
        let _ = asker.send(Ok(Offer {
            replica: self.shared.id,
            protocol: P::NAME.to_owned(),
            list,
            position,
            snapshot: own.id.0,
            bytes: own.bytes,
        }));
    }

    /// Reads a part of a snapshot that is kept.
    pub(in crate::node) fn fetch(&mut self, wanted: Wanted) {
        // Dropping the caller tells it that the snapshot is gone.
        if self.fetched.may_read(&wanted, self.shared.clock.now()) {
            // If the worker has ended, it has panicked, and the replica stops.
            let _ = self.tasks.send(Task::Fetch(wanted));
        }
    }

    /// The epoch of the snapshot under way, or of the last one.
    pub(super) fn epoch(&self) -> u32 {
        self.list.as_ref().map_or(0, Membership::epoch)
    }
}
