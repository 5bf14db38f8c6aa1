//! What each client certificate has of a replica: half frames, and answers that wait. The bounds
//! are per certificate, or one client with many connections would take what is everybody's. How
//! many connections it may have is the business of `places`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::config::Limits;

/// Half frames are accounted for in units of this many bytes.
pub(super) const UNIT_BYTES: usize = 1024;

/// What the connections of one certificate have together. The node adds to `waiting` what it
/// expects the answers under way to come to.
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
    pub(super) fn new(number: u64, limits: &Limits) -> Arc<Account> {
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

    /// Tells the accounts of one replica apart.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Bytes of answers that wait for the client, or are expected to.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes note of `bytes` more. Whoever calls it calls [`Account::give_back`] later.
    pub fn take(&self, bytes: usize) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was taken before is sent, or will not come.
    pub fn give_back(&self, bytes: usize) {
        let before = self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "only what was taken is given back");
    }

    /// Whether `bytes` more are above what one certificate may have waiting.
    pub(super) fn is_full(&self, bytes: usize) -> bool {
        self.waiting().saturating_add(bytes) > self.most_waiting
    }

    pub(super) fn half_frames(&self) -> &Arc<Semaphore> {
        &self.half_frames
    }
}
