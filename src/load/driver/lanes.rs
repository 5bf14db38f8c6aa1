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
    // Boxed, because they move for every operation.
    free: Vec<Box<Client>>,
    made: u32,
    /// The intended start of each waiting operation.
    waiting: VecDeque<Duration>,
}

/// What happens to an operation that is due.
#[derive(Debug)]
pub(super) enum Taken {
    /// This client must start it.
    Client(Box<Client>),
    /// It waits for a client.
    Waits,
    /// Too many wait.
    Dropped,
}

impl Lane {
    /// Takes a client for an operation that is due. At most `most` clients are created, and at most
    /// as many operations wait.
    pub(super) fn take(&self, due: Duration, most: u32, make: impl Fn(u32) -> Client) -> Taken {
        let mut lane = self.lock();
        if let Some(client) = lane.free.pop() {
            return Taken::Client(client);
        }
        if lane.made < most {
            lane.made += 1;
            return Taken::Client(Box::new(make(lane.made - 1)));
        }
        if lane.waiting.len() < most as usize {
            lane.waiting.push_back(due);
            return Taken::Waits;
        }
        Taken::Dropped
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

    /// Removes all waiting operations; returns how many there were.
    pub(super) fn close(&self) -> usize {
        std::mem::take(&mut self.lock().waiting).len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The code under this lock keeps the lane consistent at every point.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
