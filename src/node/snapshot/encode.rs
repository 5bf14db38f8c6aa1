//! Writes a snapshot, whatever the state machine's view does. For `worker` and `lend`.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::node::error::SnapshotError;
use crate::node::panics::panic_text;
use crate::replica::Checkpoint;
use crate::storage::StorageError;
use crate::types::Membership;
use crate::wire::{Encoded, Wire, WriteSnapshotError, encode_snapshot};

/// Writes a snapshot to `write`. A view that panics is like a view that fails: the state machine
/// itself is on another thread and is not affected.
pub(super) fn encode<H: Wire, R: Wire>(
    (list, cluster): (&Membership, &str),
    checkpoint: &Checkpoint<H, R>,
    state: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    mut write: impl FnMut(&[u8]) -> Result<(), StorageError>,
) -> Result<Encoded, SnapshotError> {
    let in_write = Cell::new(false);
    let state = |to: &mut dyn io::Write| {
        catch_unwind(AssertUnwindSafe(|| state(to))).unwrap_or_else(|panic| {
            if in_write.get() {
                resume_unwind(panic);
            }
            Err(io::Error::other(format!("its view panicked: {}", panic_text(&*panic))))
        })
    };
    let encoded = encode_snapshot(Some(list), cluster, checkpoint, state, |bytes| {
        in_write.set(true);
        let written = write(bytes);
        in_write.set(false);
        written
    });
    encoded.map_err(|error| match error {
        WriteSnapshotError::Write(error) => SnapshotError::Failed(error),
        WriteSnapshotError::State(error) => SnapshotError::State(error.to_string()),
    })
}
