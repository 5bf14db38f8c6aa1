//! What each client certificate uses of a replica: incomplete frames and waiting answers. The
//! bounds are per certificate, so that one client with many connections cannot use up everyone's
//! share. `places` bounds the number of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::config::ConnectionLimits;

/// The unit in which incomplete frames are counted, in bytes.
pub(super) const UNIT_BYTES: usize = 1024;

/// What all connections of one certificate use together. The node adds to `waiting` the expected
/// length of answers under way.
#[derive(Debug)]
pub struct Account {
    number: u64,
    /// Bytes of answers that are queued or expected.
    waiting: AtomicUsize,
    most_waiting: usize,
    /// Room for frames that are not complete yet, in units of [`UNIT_BYTES`].
    half_frames: Arc<Semaphore>,
}

impl Account {
    pub(super) fn new(number: u64, limits: &ConnectionLimits) -> Arc<Account> {
        // The largest frame must fit.
        let bytes = limits.certificate_frame_bytes.max(limits.client_frame_bytes);
        let units = bytes.div_ceil(UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Arc::new(Account {
            number,
            waiting: AtomicUsize::new(0),
            most_waiting: limits.certificate_queue_bytes,
            half_frames: Arc::new(Semaphore::new(units)),
        })
    }

    /// Unique among the accounts of a replica.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Bytes of answers that are queued or expected for the client.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Adds `bytes`. The caller must call [`Account::give_back`] later.
    pub fn take(&self, bytes: usize) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Subtracts bytes taken before, once they are sent or are known never to come.
    pub fn give_back(&self, bytes: usize) {
        let before = self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "only what was taken is given back");
    }

    /// Whether `bytes` more would exceed what one certificate may have waiting.
    pub(super) fn is_full(&self, bytes: usize) -> bool {
        self.waiting().saturating_add(bytes) > self.most_waiting
    }

    pub(super) fn half_frames(&self) -> &Arc<Semaphore> {
        &self.half_frames
    }
}
