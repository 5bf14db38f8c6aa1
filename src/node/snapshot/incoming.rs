//! A snapshot that another replica sends: stored until it is complete, and then built into a state
//! piece by piece. For `worker`.

use std::any::Any;
use std::convert::Infallible;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use tracing::info;

use super::store::SnapshotStore;
use crate::machine::{Applier, MachineSource, StateMachine};
use crate::node::panics::panic_text;
use crate::node::shared::ReplicaShared;
use crate::replica::SnapshotId;
use crate::storage::{self, StorageError};
use crate::types::{Executed, Membership};
use crate::wire::{self, Front, ReadSnapshotError, SnapshotDecoder, Wire};

/// Another replica's snapshot, ready to replace the state.
pub(in crate::node) struct Arrived<H> {
    /// The list of its epoch; `None` in the first.
    pub(in crate::node) list: Option<Membership>,
    pub(in crate::node) shared: H,
    pub(in crate::node) executed: Executed,
    /// The apply thread's `Applier`.
    pub(in crate::node) applier: Box<dyn Any + Send>,
    pub(in crate::node) bytes: u64,
    /// How long checking and building took.
    pub(in crate::node) took: Duration,
}

/// The replica that a snapshot arrives at.
#[derive(Clone, Copy)]
pub(super) struct Home<'a> {
    pub(super) shared: &'a ReplicaShared,
    pub(super) cluster: &'a str,
    /// Those of the first epoch.
    pub(super) limits: &'a wire::Limits,
}

/// A snapshot that is arriving.
pub(super) struct Incoming {
    id: SnapshotId,
    bytes: u64,
    held: Held,
}

/// Where its bytes are.
enum Held {
    File(storage::Incoming),
    /// There is no disk, or not enough room beside what the log needs.
    Memory(Vec<u8>),
    /// The disk failed or became full on the way.
    Lost(StorageError),
}

impl Incoming {
    /// Starts one that has this length, as the sender says.
    pub(super) fn begin(store: &SnapshotStore, id: SnapshotId, length: u64) -> Incoming {
        let file = match store {
            SnapshotStore::Disk { snapshots, .. } => {
                store.has_room(length).and_then(|()| snapshots.receive()).ok()
            }
            SnapshotStore::Memory => None,
        };
        let held = file.map_or(Held::Memory(Vec::new()), Held::File);
        Incoming { id, bytes: 0, held }
    }

    /// The number of bytes that have arrived.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Stores the next bytes.
    pub(super) fn take_in(&mut self, store: &SnapshotStore, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        match &mut self.held {
            Held::File(file) => {
                // The log may have used the room meanwhile.
                let room = store.has_room(bytes.len() as u64);
                if let Err(error) = room.and_then(|()| file.write(bytes)) {
                    self.held = Held::Lost(error);
                }
            }
            Held::Memory(all) => all.extend_from_slice(bytes),
            Held::Lost(_) => {}
        }
    }

    /// Gives up the room that it takes on the disk: the log needs it, or a snapshot that frees
    /// room. Another one is asked for later.
    pub(super) fn give_up_room(&mut self) {
        if let Held::File(_) = self.held {
            let (action, file) = ("letting the log have the room for", "a snapshot".to_owned());
            self.held = Held::Lost(StorageError::Full { action, file });
        }
    }

    /// Builds a state from what has arrived. Nothing in it may stop this replica, whatever the
    /// state machine makes of it.
    pub(super) fn build<S: StateMachine, H: Wire>(
        self,
        home: &Home<'_>,
        source: &dyn MachineSource<Machine = S>,
    ) -> Result<Arrived<H>, String> {
        let Incoming { id, held, .. } = self;
        match held {
            Held::File(mut file) => {
                let mut reader = file.read().map_err(|error| error.to_string())?;
                restore::<S, H, _>((home, source), id, || reader.next_chunk())
            }
            Held::Memory(bytes) => {
                let mut bytes = Some(Bytes::from(bytes));
                restore::<S, H, _>((home, source), id, || Ok::<_, Infallible>(bytes.take()))
            }
            Held::Lost(error) => Err(format!("it could not be stored: {error}")),
        }
    }
}

fn restore<S: StateMachine, H: Wire, E: Display>(
    (home, machines): (&Home<'_>, &dyn MachineSource<Machine = S>),
    id: SnapshotId,
    source: impl FnMut() -> Result<Option<Bytes>, E>,
) -> Result<Arrived<H>, String> {
    let (clock, us) = (home.shared.clock, home.shared.id);
    let begun = clock.now();
    let say = |error: ReadSnapshotError<E>| error.to_string();
    let mut decoder = SnapshotDecoder::new(source);
    let front = decoder.front::<H>(home.cluster, home.limits).map_err(say)?;
    let restored = decoder.state(|from| {
        let restored =
            catch_unwind(AssertUnwindSafe(|| Applier::restore_in(machines, from, false)));
        restored.map_err(|panic| format!("the state machine panicked: {}", panic_text(&*panic)))
    });
    let applier = restored.map_err(say)??.map_err(|error| error.to_string())?.applier;
    let bytes = decoder.end(id).map_err(say)?.bytes;
    let took = clock.now().since(begun);
    info!(%us, bytes, seconds = took.as_secs_f64(), "another replica's snapshot is complete");
    let applier = Box::new(applier.keyed(home.shared.content_key));
    let Front { list, executed, shared } = front;
    Ok(Arrived { list, shared, executed, applier, bytes, took })
}

#[cfg(test)]
mod tests;
