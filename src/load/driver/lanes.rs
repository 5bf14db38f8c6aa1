//! The clients of one site in an open loop: free clients, and operations that wait for one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::client::Client;

/// One site's lane.
#[derive(Debug, Default)]
pub(super) struct Lane(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    #[expect(clippy::vec_box, reason = "they are large, and move for every operation")]
    free: Vec<Box<Client>>,
    made: u32,
    /// The intended start of each waiting operation.
    waiting: VecDeque<Duration>,
    dropped: u64,
}

impl Lane {
    /// Takes a client to start an operation that is due. At most `most` clients are created. If
    /// none is free, at most as many operations wait for one, and further ones are dropped.
    pub(super) fn take(
        &self,
        due: Duration,
        most: u32,
        make: impl Fn(u32) -> Client,
    ) -> Option<Box<Client>> {
        let mut lane = self.lock();
        if let Some(client) = lane.free.pop() {
            return Some(client);
        }
        if lane.made < most {
            lane.made += 1;
            return Some(Box::new(make(lane.made - 1)));
        }
        match lane.waiting.len() < most as usize {
            true => lane.waiting.push_back(due),
            false => lane.dropped += 1,
        }
        None
    }

    /// A client has finished. Returns it with its next operation, or keeps it as free.
    pub(super) fn give_back(&self, client: Box<Client>) -> Option<(Box<Client>, Duration)> {
        let mut lane = self.lock();
        match lane.waiting.pop_front() {
            Some(due) => Some((client, due)),
            None => {
                lane.free.push(client);
                None
            }
        }
    }

    /// Removes all waiting operations; returns how many there were, and how many were dropped.
    pub(super) fn close(&self) -> (usize, u64) {
        let mut lane = self.lock();
        (std::mem::take(&mut lane.waiting).len(), lane.dropped)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The code under this lock keeps the lane consistent at every point.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
