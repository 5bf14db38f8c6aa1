//! Reads that need not be proposed: each waits until the log is executed up to its point.

use std::collections::BTreeMap;

use crate::types::{Command, Slot};

/// The reads that wait.
#[derive(Debug, Default)]
pub(super) struct Reads {
    by_point: BTreeMap<Slot, Vec<Command>>,
    waiting: usize,
}

impl Reads {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// A read waits until everything up to `point` is executed.
    pub(super) fn wait(&mut self, point: Slot, read: Command) {
        self.by_point.entry(point).or_default().push(read);
        self.waiting += 1;
    }

    /// Appends those to `ready` that wait for nothing once everything up to `executed` is executed.
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
