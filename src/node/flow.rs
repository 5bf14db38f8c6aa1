//! How many requests of one client connection are let in, so that the answers do not outrun it.
//! Nobody knows how long an answer will be; the ones before tell. While the answers that wait and
//! those that are expected come to more than the connection's part, nothing more of it is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::turns::Turn;
use crate::mesh::{Account, FrameSender};

/// What a kind of request is expected to be answered with, in bytes, before any was. A few long
/// values are as much as a connection may have waiting, so of reads only a few come in at first.
const FIRST_READ: usize = 1 << 20;
const FIRST_WRITE: usize = 16 << 10;
/// An answer shorter than expected takes this share off what is expected of the next.
const DECAY: usize = 8;
/// What an answer costs however short it is: its frame's header and its place in the queue.
const LEAST: usize = 64;

/// What answers are alike in length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write,
}

/// One connection's requests under way.
///
/// Invariant: `expected` is what those under way were expected to be answered with when they were
/// let in, and the account has as much taken for them.
pub(super) struct Flow {
    sender: FrameSender,
    account: Arc<Account>,
    /// From here on the connection has to wait, and all of its certificate.
    own_most: usize,
    account_most: usize,
    under_way: AtomicUsize,
    expected: AtomicUsize,
    estimates: [Estimate; 2],
    answered: Notify,
}

/// The length that the next answer is expected to have.
struct Estimate(AtomicUsize);

impl Estimate {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Follows long answers at once and short ones slowly.
    fn note(&self, bytes: usize) {
        let now = self.get();
        self.0.store((now - now / DECAY).max(bytes).max(LEAST), Ordering::Relaxed);
    }
}

/// A request under way, until it is answered or given up.
pub(super) struct Expected {
    flow: Arc<Flow>,
    kind: Kind,
    bytes: usize,
    /// Its place among the commands under way at this replica.
    _turn: Option<Turn>,
}

impl Flow {
    pub(super) fn new(
        sender: FrameSender,
        account: Arc<Account>,
        limits: &crate::mesh::Limits,
    ) -> Arc<Flow> {
        Arc::new(Flow {
            sender,
            account,
            own_most: limits.client_queue_bytes / 2,
            account_most: limits.certificate_queue_bytes / 2,
            under_way: AtomicUsize::new(0),
            expected: AtomicUsize::new(0),
            estimates: [FIRST_READ, FIRST_WRITE].map(|bytes| Estimate(AtomicUsize::new(bytes))),
            answered: Notify::new(),
        })
    }

    pub(super) fn sender(&self) -> &FrameSender {
        &self.sender
    }

    /// How many requests are not answered yet.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Waits until one more request may come in; false if the connection is over.
    pub(super) async fn ready(&self, kind: Kind) -> bool {
        while !self.has_room(kind) {
            let room = self.sender.room();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.sender.closed().is_some() {
                return false;
            }
            if self.has_room(kind) {
                break;
            }
            tokio::select! {
                () = room => {}
                () = self.answered.notified() => {}
            }
        }
        true
    }

    /// Whoever has nothing waiting may always ask.
    fn has_room(&self, kind: Kind) -> bool {
        let (own, next) = (self.sender.queued() + self.expected(), self.estimate(kind).get());
        let fits =
            own + next <= self.own_most && self.account.waiting() + next <= self.account_most;
        own == 0 || fits
    }

    /// Lets a request in.
    pub(super) fn begin(self: &Arc<Self>, kind: Kind, turn: Option<Turn>) -> Expected {
        let bytes = self.estimate(kind).get();
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.expected.fetch_add(bytes, Ordering::Relaxed);
        self.account.take(bytes);
        Expected { flow: Arc::clone(self), kind, bytes, _turn: turn }
    }

    fn expected(&self) -> usize {
        self.expected.load(Ordering::Relaxed)
    }

    fn estimate(&self, kind: Kind) -> &Estimate {
        &self.estimates[kind as usize]
    }
}

impl Expected {
    /// The answer is there, and has this length: what was expected makes room for it.
    pub(super) fn answered(self, bytes: usize) -> FrameSender {
        self.flow.estimate(self.kind).note(bytes);
        self.flow.sender.clone()
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn sender(&self) -> &FrameSender {
        &self.flow.sender
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.flow.under_way.fetch_sub(1, Ordering::Relaxed);
        self.flow.expected.fetch_sub(self.bytes, Ordering::Relaxed);
        self.flow.account.give_back(self.bytes);
        self.flow.answered.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_follows_long_answers_at_once_and_short_ones_soon() {
        let estimate = Estimate(AtomicUsize::new(FIRST_READ));
        estimate.note(2 << 20);
        assert_eq!(estimate.get(), 2 << 20);
        let mut answers = 0;
        while estimate.get() > LEAST {
            estimate.note(1);
            answers += 1;
        }
        assert!((40..100).contains(&answers), "{answers}");
        estimate.note(1000);
        assert_eq!(estimate.get(), 1000);
    }
}
