//! Callers that ask for a snapshot, and those that fetch one for a backup. Part of the core
//! thread's side of snapshots.

use super::Snapshots;
use super::worker::Task;
use crate::node::error::SnapshotError;
use crate::node::lend::{Asker, Wanted};
use crate::node::status::NodeProtocol;
use crate::replica::OwnSnapshot;
use crate::storage::SnapshotInfo;
use crate::types::{Membership, Time};
use crate::wire::Offer;

impl<P: NodeProtocol> Snapshots<P> {
    /// A caller asks for a snapshot.
    pub(in crate::node) fn ask(&mut self, asker: Asker) {
        let now = self.shared.clock.now();
        match &asker {
            Asker::Snapshot(_) if self.store.is_none() => asker.refuse(SnapshotError::InMemory),
            Asker::Backup(_) if !self.lent.has_room(now) => asker.refuse(SnapshotError::Busy),
            _ => self.next_askers.push(asker),
        }
    }

    /// Tells the callers of a snapshot that is complete; in memory it has no description.
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
                    self.lent.keep(own.id, own.bytes, now);
                    let _ = asker.send(Ok(Offer {
                        replica: self.shared.id,
                        protocol: P::NAME.to_owned(),
                        list: list.clone(),
                        position: info.map_or(0, |info| info.position.records()),
                        snapshot: own.id.0,
                        bytes: own.bytes,
                    }));
                }
                (asker, ..) => asker.refuse(SnapshotError::InMemory),
            }
        }
    }

    /// Reads a part of a snapshot that is kept.
    pub(in crate::node) fn fetch(&mut self, wanted: Wanted) {
        // Dropping the caller tells it that the snapshot is gone.
        if self.lent.may_read(&wanted, self.shared.clock.now()) {
            // If the worker has ended, it has panicked, and the replica stops.
            let _ = self.tasks.send(Task::Fetch(wanted));
        }
    }

    /// The epoch of the snapshot under way, or of the last one.
    pub(super) fn epoch(&self) -> u32 {
        self.list.as_ref().map_or(0, Membership::epoch)
    }
}
