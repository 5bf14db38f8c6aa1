//! A copy of a snapshot for other replicas, if the state machine keeps its state on disk itself:
//! the snapshot then only refers to the state, and no other replica can read it. For `worker`.
//!
//! A thread of its own writes the copy, because that may take long, and the next checkpoint must
//! not wait for it. Its file has no name from the moment it is complete, so the disk gets the room
//! back when nobody reads it any more, whatever happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, bounded, never};
use tracing::{info, warn};

use super::encode::encode;
use super::store::SnapshotStore;
use crate::machine::StateView;
use crate::node::error::SnapshotError;
use crate::node::shared::{Lifecycle, ReplicaShared};
use crate::replica::{Checkpoint, OwnSnapshot};
use crate::storage::{SnapshotReader, StorageError};
use crate::types::Membership;
use crate::wire::Wire;

/// What is copied.
pub(super) struct Loan<H, R> {
    pub(super) list: Membership,
    /// Without records of its own.
    pub(super) checkpoint: Checkpoint<H, R>,
    pub(super) view: StateView,
}

/// The replica that lends.
pub(super) struct Lender {
    pub(super) store: SnapshotStore,
    pub(super) shared: Arc<ReplicaShared>,
    pub(super) cluster: String,
    /// The copy is no longer wanted.
    pub(super) over: Arc<AtomicBool>,
}

/// A copy, or that none was made.
#[derive(Default)]
pub(super) struct Lent {
    pub(super) epoch: u32,
    pub(super) copy: Option<(OwnSnapshot, SnapshotReader)>,
}

/// A copy in the making, if there is one. Dropping it waits for its thread, which has the state
/// machine's disk in use.
pub(super) struct Lending {
    lent: Receiver<Lent>,
    thread: Option<JoinHandle<()>>,
}

impl Lending {
    /// No copy is made.
    pub(super) fn none() -> Lending {
        Lending { lent: never(), thread: None }
    }

    /// Gets the copy once.
    pub(super) fn lent(&self) -> &Receiver<Lent> {
        &self.lent
    }
}

impl Drop for Lending {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic is like a copy that failed.
            let _ = thread.join();
        }
    }
}

impl Lender {
    /// Begins a copy.
    pub(super) fn begin<H, R>(self, loan: Loan<H, R>) -> Lending
    where
        H: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        let (tell, lent) = bounded(1);
        let us = self.shared.id;
        let thread = thread::Builder::new().name(format!("isonomy-{us}-lend"));
        let failed = tell.clone();
        let epoch = loan.list.epoch();
        let begun = thread.spawn(move || {
            let begun = self.shared.clock.now();
            let copy = self.copy(loan);
            match &copy {
                Ok((own, _)) => {
                    let seconds = self.shared.clock.now().since(begun).as_secs_f64();
                    info!(%us, bytes = own.bytes, seconds, "wrote a copy of the state for a peer");
                }
                Err(error) => {
                    let why = "no copy of the state could be written for a peer; it is tried again";
                    warn!(%us, %error, "{why}");
                }
            }
            // The receiver is gone when the replica has ended.
            let _ = tell.send(Lent { epoch, copy: copy.ok() });
        });
        if begun.is_err() {
            let _ = failed.send(Lent { epoch, copy: None });
        }
        Lending { lent, thread: begun.ok() }
    }

    fn copy<H: Wire, R: Wire>(
        &self,
        loan: Loan<H, R>,
    ) -> Result<(OwnSnapshot, SnapshotReader), SnapshotError> {
        let Loan { list, checkpoint, view } = loan;
        let SnapshotStore::Disk { snapshots, .. } = &self.store else {
            unreachable!("in memory, snapshots have all of the state")
        };
        let mut file = snapshots.receive()?;
        let of = (&list, &*self.cluster);
        let encoded = encode(
            of,
            &checkpoint,
            |to| view.write_to(to),
            |bytes| {
                if self.over.load(Ordering::Acquire) || self.shared.lifecycle() >= Lifecycle::Killed
                {
                    return Err(StorageError::Closed);
                }
                // The log may have used the room meanwhile.
                self.store.has_room(bytes.len() as u64)?;
                file.write(bytes)
            },
        )?;
        // Dropping `file` removes its name. The reader keeps the bytes.
        Ok((encoded.own, file.read()?))
    }
}
