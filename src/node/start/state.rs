//! The state that a replica starts from: its newest snapshot, or the checkpoint of the state
//! machine that this refers to.

use std::io;

use tracing::info;

use super::{Begun, FirstSnapshot, Kept};
use crate::machine::{Applier, MachineSource, Restored, StateMachine, Unrestored};
use crate::node::error::StartError;
use crate::node::status::NodeProtocol;
use crate::replica::epochs::{self, Epochs};
use crate::replica::{self, OwnSnapshot};
use crate::storage::StorageError;
use crate::types::Membership;
use crate::wire::{self, Front, ReadSnapshotError, SnapshotDecoder, SnapshotEnd};

/// The state that the cluster began with.
pub(super) fn open_new<S: StateMachine>(
    source: &dyn MachineSource<Machine = S>,
) -> Result<S, StartError> {
    source.open(None).map_err(|error| {
        let error = StorageError::of_machine("making", error);
        StartError::Storage { directory: "a new state".to_owned(), error }
    })
}

impl Kept {
    /// Restores the core and the state machine from the newest snapshot. `first_list` is the list
    /// of the first epoch, as it is configured.
    pub(super) fn begin<S: StateMachine, P: NodeProtocol>(
        mut self,
        source: &dyn MachineSource<Machine = S>,
        epochs: &mut Epochs<P>,
        first_list: &Membership,
        out: &mut replica::Output<P::Message, P::Record>,
    ) -> Result<(Begun, Applier<S>), StartError> {
        let next = self.settle(source)?;
        let Some(reader) = &mut self.opening.snapshot else {
            let applier = Applier::new(open_new(source)?);
            return Ok((Begun { kept: self, first: None, next }, applier));
        };
        let info = reader.info().clone();
        let failed = |error| StartError::Storage { directory: self.name.clone(), error };
        // The checksums are right, so the writer wrote something that this version cannot decode.
        let wrong =
            |what: String| StorageError::Damaged { file: info.file.clone(), offset: 0, what };
        let say = |error: ReadSnapshotError<StorageError>| {
            failed(error.either(|error| wrong(error.to_string())))
        };
        let limits = wire::Limits::new(first_list.len());
        let mut decoder = SnapshotDecoder::new(|| reader.next_chunk());
        let front = decoder.front::<P::Snapshot>(&self.cluster, &limits).map_err(say)?;
        let restored = decoder.state(|from| Applier::restore_in(source, from, true));
        let Restored { applier, is_whole } = restored.map_err(say)?.map_err(|error| {
            let what = error.to_string();
            match error {
                Unrestored::Checkpoint { number, error } => match error.kind() {
                    io::ErrorKind::Unsupported => {
                        failed(StorageError::StateOnDisk { file: info.file.clone(), number })
                    }
                    io::ErrorKind::NotFound => failed(wrong(what)),
                    _ => failed(StorageError::of_machine("opening", error)),
                },
                Unrestored::State(_) => failed(wrong(what)),
            }
        })?;
        let Front { list, executed, shared } = front;
        let list = list.unwrap_or_else(|| first_list.clone());
        let (epoch, limits) = (list.epoch(), limits.of(Some(&list)));
        epochs.restore_snapshot(list, shared, &executed, info.position);
        let mut restored = Ok(());
        let restore = |record: replica::Record<P::Record>| {
            if restored.is_ok() {
                restored = epochs.restore(epoch, epochs::Record::Core(record), out);
            }
        };
        let end = decoder.own(&limits, restore);
        let SnapshotEnd { id, bytes, state_bytes } = end.map_err(say)?;
        restored.map_err(|error| failed(wrong(error.to_string())))?;
        // Others cannot follow a reference.
        let own = OwnSnapshot { id, executed, bytes: if is_whole { bytes } else { 0 } };
        let first = Some(FirstSnapshot { epoch, own, info, state_bytes });
        Ok((Begun { kept: self, first, next }, applier))
    }

    /// Completes the snapshot of the machine's newest checkpoint, if an earlier life ended between
    /// the two. Returns the number of the next checkpoint.
    fn settle<S: StateMachine>(
        &mut self,
        source: &dyn MachineSource<Machine = S>,
    ) -> Result<u64, StartError> {
        let failed = |error| StartError::Storage { directory: self.name.clone(), error };
        let prepared = self.opening.prepared().map_err(failed)?;
        if !source.is_on_disk() {
            // Nothing tells whether it has that checkpoint.
            return prepared.last().map_or(Ok(0), |number| {
                let file = "an unfinished snapshot".to_owned();
                Err(failed(StorageError::StateOnDisk { file, number: *number }))
            });
        }
        let held = source.checkpoints();
        let held = held.map_err(|error| failed(StorageError::of_machine("reading", error)))?;
        if let Some(number) = prepared.iter().rev().find(|number| held.contains(number)) {
            let directory = &self.name;
            info!(
                directory,
                number, "the state machine has this checkpoint: completing its snapshot"
            );
            self.opening.adopt(*number).map_err(failed)?;
        }
        // Numbers begin at random: in the place of another directory none of them is found.
        let first = || (self.disk.entropy() >> 2) + 1;
        Ok(prepared.iter().chain(&held).max().map_or_else(first, |last| last + 1))
    }
}
