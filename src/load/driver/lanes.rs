//! The clients of one site in an open loop: free ones, and operations that wait for one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One site's.
#[derive(Debug)]
pub(super) struct Lane<C>(Mutex<Inner<C>>);

#[derive(Debug)]
struct Inner<C> {
    // Boxed: they go from hand to hand for every operation.
    free: Vec<Box<C>>,
    made: u32,
    /// When each was meant to start.
    waiting: VecDeque<Duration>,
}

/// What becomes of an operation that is due.
#[derive(Debug)]
pub(super) enum Taken<C> {
    /// This client is to start it.
    Client(Box<C>),
    /// It waits for a client.
    Waits,
    /// Too many wait.
    Dropped,
}

impl<C> Default for Lane<C> {
    fn default() -> Lane<C> {
        Lane(Mutex::new(Inner { free: Vec::new(), made: 0, waiting: VecDeque::new() }))
    }
}

impl<C> Lane<C> {
    /// A client for an operation that is due. At most `most` of them are made, and as many
    /// operations wait.
    pub(super) fn take(&self, due: Duration, most: u32, make: impl Fn(u32) -> C) -> Taken<C> {
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

    /// A client has done its work: what it is to do next, or else it is free.
    pub(super) fn give_back(&self, client: Box<C>) -> Option<(Box<C>, Duration)> {
        let mut lane = self.lock();
        match lane.waiting.pop_front() {
            Some(due) => Some((client, due)),
            None => {
                lane.free.push(client);
                None
            }
        }
    }

    /// Lets nothing wait any more; how many did.
    pub(super) fn close(&self) -> usize {
        std::mem::take(&mut self.lock().waiting).len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner<C>> {
        // What is in it is whole at every point.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
