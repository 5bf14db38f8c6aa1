//! Counters of a running load: latencies by site and kind, late starts, failures, and the recent
//! interval. The clients of `drive` write them. Each site has its own page, so that few clients
//! contend for one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::load::workload::Kind;
use crate::node::Latency;

/// An operation that starts this much later than intended counts as late.
pub const LATE: Duration = Duration::from_millis(1);

/// At most this many different error texts are kept.
const WORDS: usize = 8;

/// Counters of one run, by site.
#[derive(Debug, Default)]
pub(super) struct Book {
    pages: Vec<Mutex<Page>>,
    /// Answered so far, including operations that do not count.
    pub(super) answered: AtomicU64,
    /// Ended without an answer so far, likewise.
    pub(super) failed: AtomicU64,
    /// Operations that count and started late.
    pub(super) late: AtomicU64,
    words: Mutex<Vec<(String, u64)>>,
}

/// One site's counters.
#[derive(Debug, Default)]
struct Page {
    /// Of the operations that count.
    figures: Figures,
    /// Of all since the last call of [`Book::take_recent`].
    recent: Figures,
}

/// Figures of operations.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// From the intended start to the answer, for each kind that occurred.
    latency: [Option<Box<Latency>>; Kind::ALL.len()],
    /// From the intended start to the start.
    pub lateness: Latency,
    /// Operations that ended without an answer.
    pub errors: u64,
}

impl Figures {
    fn record(&mut self, kind: Kind, took: Duration) {
        self.latency[kind as usize].get_or_insert_default().record(took);
    }

    /// Adds everything that `other` has counted.
    pub fn add(&mut self, other: &Figures) {
        for (own, others) in self.latency.iter_mut().zip(&other.latency) {
            if let Some(others) = others {
                own.get_or_insert_default().add(others);
            }
        }
        self.lateness.add(&other.lateness);
        self.errors += other.errors;
    }

    /// From the intended start to the answer, for all kinds.
    pub fn latency(&self) -> Latency {
        let mut all = Latency::default();
        self.latency.iter().flatten().for_each(|one| all.add(one));
        all
    }

    /// The same for each kind that occurred.
    pub fn kinds(&self) -> impl Iterator<Item = (Kind, &Latency)> {
        let kinds = Kind::ALL.into_iter().zip(&self.latency);
        kinds.filter_map(|(kind, latency)| Some((kind, latency.as_deref()?)))
    }
}

impl Book {
    pub(super) fn new(sites: usize) -> Book {
        Book { pages: (0..sites).map(|_| Mutex::default()).collect(), ..Book::default() }
    }

    /// Notes an operation of this site's clients: how much later than intended it started, and the
    /// time from the intended start to the answer, or why there is no answer. It counts if its
    /// intended start was after the warm-up.
    pub(super) fn note(
        &self,
        site: usize,
        kind: Kind,
        counts: bool,
        lateness: Duration,
        outcome: Result<Duration, String>,
    ) {
        let mut page = lock(&self.pages[site]);
        if counts {
            page.figures.lateness.record(lateness);
            if lateness > LATE {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
        }
        match outcome {
            Ok(took) => {
                page.recent.record(kind, took);
                if counts {
                    page.figures.record(kind, took);
                }
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(why) => {
                page.recent.errors += 1;
                page.figures.errors += u64::from(counts);
                drop(page);
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.take_word(why);
            }
        }
    }

    fn take_word(&self, why: String) {
        let mut words = lock(&self.words);
        if let Some((_, count)) = words.iter_mut().find(|(known, _)| *known == why) {
            *count += 1;
        } else if words.len() < WORDS {
            words.push((why, 1));
        }
    }

    /// The figures since the last call, by site.
    pub(super) fn take_recent(&self) -> Vec<Figures> {
        self.pages.iter().map(|page| std::mem::take(&mut lock(page).recent)).collect()
    }

    /// All figures by site, at the end.
    pub(super) fn figures(&self) -> Vec<Figures> {
        self.pages.iter().map(|page| lock(page).figures.clone()).collect()
    }

    /// Error texts and how often each occurred.
    pub(super) fn words(&self) -> Vec<(String, u64)> {
        lock(&self.words).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The values under these locks are always consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
