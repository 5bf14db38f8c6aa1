//! The queue before a stream. It is bounded in bytes and filled from any thread. The one task that
//! writes the stream drains it completely, and is woken once per drain instead of once per frame.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::Dropped;
use super::account::Account;

/// What a queued frame costs besides its bytes: its handle, and its header on the wire.
const FRAME_OVERHEAD_BYTES: usize = mem::size_of::<Bytes>() + super::framing::HEADER_BYTES;

/// What a frame counts against a queue's bound.
pub(super) fn cost(frame: &Bytes) -> usize {
    frame.len() + FRAME_OVERHEAD_BYTES
}

/// A frame up to this length only reports how a request ended.
const SMALL_BYTES: usize = 256;
/// Small frames may exceed a client's bound by this much, so that a client whose answer found no
/// room can be told.
const ROOM_FOR_SMALL_BYTES: usize = 1 << 20;

/// Invariants:
/// 1. `bytes` is the cost of `frames` plus what the writer has drained and not released.
/// 2. While closed (`serial` 0) it is empty.
/// 3. The account, if any, counts `bytes` for this queue.
pub(super) struct Outbox {
    limit: usize,
    max_frame: usize,
    account: Option<Arc<Account>>,
    queue: Mutex<Queue>,
    wake: Notify,
    /// Notified when there is more room, or when there will never be any.
    room: Notify,
}

#[derive(Default)]
struct Queue {
    /// The connection that this queue feeds; 0 if none.
    serial: u64,
    /// No more frames are accepted; the writer ends when it has drained the rest.
    finishing: bool,
    frames: Vec<Bytes>,
    bytes: usize,
}

impl Outbox {
    /// A closed queue for at most `limit` bytes, of frames of at most `max_frame` bytes.
    pub(super) fn new(limit: usize, max_frame: usize) -> Outbox {
        let wire_limit = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
        let max_frame = max_frame.min(wire_limit);
        let (queue, wake, room) = (Mutex::default(), Notify::new(), Notify::new());
        Outbox { limit, max_frame, account: None, queue, wake, room }
    }

    /// The same, for a client with this account.
    pub(super) fn of(account: Arc<Account>, limit: usize, max_frame: usize) -> Outbox {
        Outbox { account: Some(account), ..Outbox::new(limit, max_frame) }
    }

    /// Queues a frame, or returns why it is dropped. An empty queue accepts any frame within
    /// `max_frame`, so that the largest frame can always be sent, unless the client has too much
    /// waiting on its other connections.
    pub(super) fn push(&self, frame: Bytes) -> Result<(), Dropped> {
        if frame.len() > self.max_frame {
            return Err(Dropped::TooLarge { bytes: frame.len(), limit: self.max_frame });
        }
        let cost = cost(&frame);
        let mut queue = self.lock();
        if queue.serial == 0 || queue.finishing {
            return Err(Dropped::NotConnected);
        }
        let (mut limit, mut account_is_full) = (self.limit, false);
        if let Some(account) = &self.account {
            if frame.len() <= SMALL_BYTES {
                limit += ROOM_FOR_SMALL_BYTES;
            } else {
                account_is_full = account.is_full(cost);
            }
        }
        if account_is_full || (queue.bytes > 0 && queue.bytes + cost > limit) {
            return Err(Dropped::Full);
        }
        queue.bytes += cost;
        if let Some(account) = &self.account {
            account.take(cost);
        }
        let first = queue.frames.is_empty();
        queue.frames.push(frame);
        drop(queue);
        if first {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Starts feeding connection `serial` from an empty queue. Returns how many frames for the one
    /// before are dropped.
    pub(super) fn open(&self, serial: u64) -> usize {
        self.replace(Queue { serial, ..Queue::default() })
    }

    /// Stops feeding connection `serial`, if it still does. Returns how many frames are dropped.
    pub(super) fn close(&self, serial: u64) -> usize {
        if self.lock().serial == serial { self.replace(Queue::default()) } else { 0 }
    }

    fn replace(&self, with: Queue) -> usize {
        let before = mem::replace(&mut *self.lock(), with);
        self.give_back(before.bytes);
        self.wake.notify_one();
        self.room.notify_waiters();
        before.frames.len()
    }

    /// Lets the writer end once the queue is empty.
    pub(super) fn finish(&self) {
        self.lock().finishing = true;
        self.wake.notify_one();
    }

    /// Waits for frames and moves all of them into `batch`, which must be empty. False if
    /// connection `serial` is not fed any more.
    pub(super) async fn drain(&self, serial: u64, batch: &mut Vec<Bytes>) -> bool {
        loop {
            {
                let mut queue = self.lock();
                if queue.serial != serial {
                    // The wake-up may have been meant for the next writer.
                    self.wake.notify_one();
                    return false;
                }
                if !queue.frames.is_empty() {
                    mem::swap(&mut queue.frames, batch);
                    return true;
                }
                if queue.finishing {
                    return false;
                }
            }
            self.wake.notified().await;
        }
    }

    /// Returns the cost of drained frames once QUIC has accepted them.
    pub(super) fn release(&self, serial: u64, bytes: usize) {
        let mut queue = self.lock();
        if queue.serial == serial {
            queue.bytes = queue.bytes.checked_sub(bytes).expect("only what was drained comes back");
            self.give_back(bytes);
            drop(queue);
            self.room.notify_waiters();
        }
    }

    /// The bytes that wait.
    pub(super) fn queued(&self) -> usize {
        self.lock().bytes
    }

    /// Completes when there is more room than at the call, or when there will never be any.
    pub(super) fn room(&self) -> Notified<'_> {
        self.room.notified()
    }

    fn give_back(&self, bytes: usize) {
        if let Some(account) = &self.account {
            account.give_back(bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The code under this lock does not panic, and keeps the frames consistent.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::ConnectionLimits;

    fn frame(bytes: usize) -> Bytes {
        Bytes::from(vec![0; bytes])
    }

    #[test]
    fn the_bound_covers_what_is_being_written() {
        let queue = Outbox::new(3 * (10 + FRAME_OVERHEAD_BYTES), 1000);
        assert_eq!(queue.push(frame(10)), Err(Dropped::NotConnected));
        assert_eq!(queue.open(1), 0);
        for _ in 0..3 {
            assert_eq!(queue.push(frame(10)), Ok(()));
        }
        assert_eq!(queue.push(frame(10)), Err(Dropped::Full));
        let mut batch = Vec::new();
        assert!(block_on(queue.drain(1, &mut batch)));
        assert_eq!(batch.len(), 3);
        assert_eq!(queue.push(frame(10)), Err(Dropped::Full));
        queue.release(1, cost(&batch[0]));
        assert_eq!(queue.push(frame(10)), Ok(()));
        assert_eq!(queue.push(frame(10)), Err(Dropped::Full));
        assert_eq!(queue.close(1), 1);
        assert_eq!(queue.push(frame(10)), Err(Dropped::NotConnected));
    }

    #[test]
    fn a_frame_larger_than_the_queue_passes_alone_and_one_above_the_limit_never() {
        let queue = Outbox::new(10, 1000);
        queue.open(1);
        let too_large = Err(Dropped::TooLarge { bytes: 1001, limit: 1000 });
        assert_eq!(queue.push(frame(1001)), too_large);
        assert_eq!(queue.push(frame(1000)), Ok(()));
        assert_eq!(queue.push(frame(0)), Err(Dropped::Full));
    }

    #[test]
    fn a_clients_queues_share_a_bound_beyond_which_there_is_room_for_a_few_words() {
        let limits =
            ConnectionLimits { certificate_queue_bytes: 10_000, ..ConnectionLimits::default() };
        let account = Account::new(1, &limits);
        let [one, other] = [1, 2].map(|_| Outbox::of(Arc::clone(&account), 8000, 1 << 20));
        assert_eq!((one.open(1), other.open(1)), (0, 0));
        assert_eq!(one.push(frame(6000)), Ok(()));
        assert_eq!(one.push(frame(3000)), Err(Dropped::Full), "its own bound");
        assert_eq!(other.push(frame(6000)), Err(Dropped::Full), "the bound of both");
        assert_eq!(other.push(frame(3000)), Ok(()));
        let words = |queue: &Outbox| {
            (0..1 << 20).take_while(|_| queue.push(frame(SMALL_BYTES)).is_ok()).count()
        };
        let some = ROOM_FOR_SMALL_BYTES / (SMALL_BYTES + FRAME_OVERHEAD_BYTES);
        assert!((some..some + 20).contains(&words(&one)));
        assert_eq!(account.waiting(), one.queued() + other.queued());
        let mut batch = Vec::new();
        assert!(block_on(one.drain(1, &mut batch)));
        one.release(1, cost(&batch[0]));
        assert_eq!(account.waiting(), one.queued() + other.queued());
        assert_eq!((one.close(1), other.close(1)), (0, 1));
        assert_eq!(account.waiting(), 0);
    }

    #[test]
    fn the_writer_of_an_old_connection_gets_and_gives_nothing() {
        let queue = Outbox::new(1000, 1000);
        queue.open(1);
        queue.push(frame(1)).unwrap();
        assert_eq!(queue.open(2), 1);
        queue.push(frame(2)).unwrap();
        let mut batch = Vec::new();
        assert!(!block_on(queue.drain(1, &mut batch)));
        queue.release(1, 1_000_000);
        assert!(block_on(queue.drain(2, &mut batch)));
        assert_eq!(batch, [frame(2)]);
    }

    #[test]
    fn finishing_drains_the_rest_first() {
        let queue = Outbox::new(1000, 1000);
        queue.open(1);
        queue.push(frame(1)).unwrap();
        queue.finish();
        assert_eq!(queue.push(frame(1)), Err(Dropped::NotConnected));
        let mut batch = Vec::new();
        assert!(block_on(queue.drain(1, &mut batch)));
        assert!(!block_on(queue.drain(1, &mut Vec::new())));
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }
}
