//! Reads that are answered without a proposal: each waits until the log is executed up to its
//! point.

use std::collections::BTreeMap;

use crate::types::{Command, Slot};

/// The waiting reads.
#[derive(Debug, Default)]
pub(super) struct Reads {
    by_point: BTreeMap<Slot, Vec<Command>>,
    waiting: usize,
}

impl Reads {
    /// The number of waiting reads.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// All that wait.
    pub(super) fn into_waiting(self) -> impl Iterator<Item = Command> {
        self.by_point.into_values().flatten()
    }

    /// Adds a read that waits until everything up to `point` is executed.
    pub(super) fn wait(&mut self, point: Slot, read: Command) {
        self.by_point.entry(point).or_default().push(read);
        self.waiting += 1;
    }

    /// Moves to `ready` the reads whose point is at or below `executed`.
    pub(super) fn release(&mut self, executed: Slot, ready: &mut Vec<Command>) {
        while let Some(first) = self.by_point.first_entry() {
            if *first.key() > executed {
                return;
            }
            let mut reads = first.remove();
            self.waiting -= reads.len();
            ready.append(&mut reads);
        }
    }
}
