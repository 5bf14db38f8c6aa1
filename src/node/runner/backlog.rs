//! The work that does not fit into the apply thread's queue. Part of the runner.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use crossbeam::channel::TrySendError;

use crate::node::shared::ReplicaShared;
use crate::node::work::{Weight, Work};

/// The work that did not fit into the apply thread's queue.
///
/// Invariant: `work` is in order, and `weight` is the sum of its weights.
#[derive(Default)]
pub(super) struct Backlog {
    work: VecDeque<Work>,
    weight: Weight,
}

impl Backlog {
    /// How much waits here.
    pub(super) fn weight(&self) -> Weight {
        self.weight
    }

    /// Whether nothing waits here.
    pub(super) fn is_empty(&self) -> bool {
        self.work.is_empty()
    }

    /// Adds work after all other.
    pub(super) fn push(&mut self, work: Work) {
        let weight = work.weight();
        self.weight.commands += weight.commands;
        self.weight.bytes += weight.bytes;
        self.work.push_back(work);
    }

    /// Hands work to the apply thread, as far as its queue has room.
    pub(super) fn hand_on(&mut self, shared: &ReplicaShared) {
        while let Some(work) = self.work.pop_front() {
            let weight = work.weight();
            match shared.try_work(work) {
                // `Disconnected`: the apply thread has failed, and the replica with it.
                Ok(()) | Err(TrySendError::Disconnected(_)) => {
                    self.weight.commands -= weight.commands;
                    self.weight.bytes -= weight.bytes;
                }
                Err(TrySendError::Full(work)) => {
                    self.work.push_front(work);
                    // Try once more: the thread may have finished before it could see that the core
                    // waits.
                    if shared.core_waits.swap(true, Ordering::AcqRel) {
                        break;
                    }
                }
            }
        }
    }

    /// Hands on all work, and waits for room. The apply thread has to be emptying its queue.
    pub(super) fn hand_on_all(&mut self, shared: &ReplicaShared) {
        for work in self.work.drain(..) {
            shared.send_work(work);
        }
        self.weight = Weight::default();
    }
}
