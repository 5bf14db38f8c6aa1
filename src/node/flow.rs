//! Bounds how many requests of one client connection are admitted, so that answers do not pile up
//! faster than the connection sends them. The length of an answer is unknown in advance and
//! estimated from the answers before. While queued and expected answers exceed the connection's
//! share, nothing more is read from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::turns::Turn;
use crate::mesh::{Account, FrameSender};

/// Expected length of the first answer of a kind, in bytes. A few long values fill a connection's
/// share, so only a few reads are admitted at first.
const FIRST_READ: usize = 1 << 20;
const FIRST_WRITE: usize = 16 << 10;
/// An answer shorter than expected lowers the estimate by this fraction.
const DECAY: usize = 8;
/// The least an answer costs: its frame's header and its place in the queue.
const LEAST: usize = 64;

/// Kinds of requests whose answers are similar in length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write,
}

/// One connection's requests under way.
///
/// Invariant: `expected` is the sum of the estimates that the requests under way were admitted
/// with, and the account holds the same amount for them.
pub(super) struct Flow {
    sender: FrameSender,
    account: Arc<Account>,
    /// Bounds in bytes for this connection and for all connections of its certificate.
    own_most: usize,
    account_most: usize,
    under_way: AtomicUsize,
    expected: AtomicUsize,
    estimates: [Estimate; 2],
    answered: Notify,
}

/// The expected length of the next answer.
struct Estimate(AtomicUsize);

impl Estimate {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Adopts a longer answer at once, and falls slowly after shorter ones.
    fn note(&self, bytes: usize) {
        let now = self.get();
        self.0.store((now - now / DECAY).max(bytes).max(LEAST), Ordering::Relaxed);
    }
}

/// A request under way. It ends when it is answered or dropped.
pub(super) struct Expected {
    flow: Arc<Flow>,
    kind: Kind,
    bytes: usize,
    /// The request's place among the commands under way at this replica.
    _turn: Option<Turn>,
}

impl Flow {
    pub(super) fn new(
        sender: FrameSender,
        account: Arc<Account>,
        limits: &crate::mesh::ConnectionLimits,
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

    /// The number of requests without an answer.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Waits until one more request may be admitted; false if the connection has ended.
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

    /// A connection with nothing waiting may always send a request.
    fn has_room(&self, kind: Kind) -> bool {
        let (own, next) = (self.sender.queued() + self.expected(), self.estimate(kind).get());
        let fits =
            own + next <= self.own_most && self.account.waiting() + next <= self.account_most;
        own == 0 || fits
    }

    /// Admits a request.
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
    /// The answer is ready and has this length. Dropping `self` releases the estimate.
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
