//! A log on a thread of its own: while one flush is under way, what comes meanwhile waits and is
//! flushed together next. After `log`; the node hands it records and hears how far they are safe.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::StorageError;
use super::log::{Log, LogCounts};
use crate::types::{Durable, LogPosition};

/// What a record costs in the queue besides its bytes.
const RECORD_COST: usize = 64;
/// How much goes into one flush at most, so that a long queue is reported piece by piece.
const FLUSH_BYTES: usize = 1024 * 1024;
/// How often a full disk is looked at when nothing else happens.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the log thread has to tell.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LogEvent {
    /// Everything before this position is durable.
    Durable(Durable),
    /// Whether the disk is too full for another segment: see [`Log::space_low`].
    SpaceLow(bool),
    /// [`LogThread::truncate`] was done, durably: the log begins here.
    Truncated(LogPosition),
    /// The log has failed: nothing that was not reported as durable may be spoken of any more.
    /// Comes once, and nothing comes after it.
    Failed(StorageError),
}

/// A log that runs on its own thread. Dropped, it finishes what it was given.
#[derive(Debug)]
pub struct LogThread {
    jobs: Option<Sender<Job>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Durable, StorageError>>>,
    queue_bytes: usize,
    record_limit: usize,
}

#[derive(Debug)]
enum Job {
    Append { records: Vec<Bytes>, cost: usize },
    Rotate,
    Truncate(LogPosition),
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told whenever the queue gets shorter or the log fails.
    room: Condvar,
}

#[derive(Debug)]
struct State {
    /// What the records handed over and not yet flushed cost in bytes.
    queued: usize,
    /// The position behind the last of them.
    end: LogPosition,
    failed: Option<StorageError>,
    counts: LogCounts,
}

impl LogThread {
    /// Starts the thread. `queue_bytes` bounds what may wait to be flushed; `tell` is called on the
    /// thread and must not block for long, since nothing is flushed meanwhile.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the system gives no thread.
    pub fn start(
        log: Log,
        queue_bytes: usize,
        tell: impl FnMut(LogEvent) + Send + 'static,
    ) -> Result<LogThread, StorageError> {
        let state = State { queued: 0, end: log.end(), failed: None, counts: LogCounts::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), room: Condvar::new() });
        let (jobs, incoming) = unbounded();
        let record_limit = log.record_limit();
        let runner = Runner { log, incoming, shared: shared.clone(), tell, low: false };
        let thread = thread::Builder::new().name("isonomy-log".into());
        let thread = thread.spawn(move || runner.run());
        let thread =
            thread.map_err(|error| StorageError::io("starting", "the log thread", error))?;
        let (jobs, thread) = (Some(jobs), Some(thread));
        Ok(LogThread { jobs, shared, thread, queue_bytes, record_limit })
    }

    /// Hands over records that end at position `end`. Waits while the queue is full, which keeps
    /// memory bounded and slows the caller to the disk's pace; see [`LogThread::queued_bytes`] for
    /// not getting there. Records of more than the bound are taken when nothing else waits.
    ///
    /// # Errors
    /// What the log failed with; [`StorageError::TooLarge`] if one of them is, and then none was
    /// taken.
    ///
    /// # Panics
    /// If `end` is not where these records end: the caller and the log count differently.
    pub fn append(&self, records: Vec<Bytes>, end: LogPosition) -> Result<(), StorageError> {
        let limit = self.record_limit;
        if let Some(record) = records.iter().find(|record| record.len() > limit) {
            return Err(StorageError::TooLarge { bytes: record.len(), limit });
        }
        let cost = records.iter().map(|record| RECORD_COST + record.len()).sum();
        let mut state = self.shared.state();
        let next = LogPosition::new(state.end.records() + records.len() as u64);
        assert_eq!(next, end, "the log and its caller count the same records");
        while state.failed.is_none() && state.queued > 0 && state.queued + cost > self.queue_bytes {
            state = self.shared.room.wait(state).expect("the log thread panics without the lock");
        }
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        state.queued += cost;
        state.end = end;
        drop(state);
        self.send(Job::Append { records, cost })
    }

    /// Ends the current segment behind all records handed over so far: see [`Log::rotate`].
    ///
    /// # Errors
    /// What the log failed with.
    pub fn rotate(&self) -> Result<(), StorageError> {
        self.send(Job::Rotate)
    }

    /// Lets go of records before `position`: see [`Log::truncate`].
    ///
    /// # Errors
    /// What the log failed with.
    pub fn truncate(&self, position: LogPosition) -> Result<(), StorageError> {
        self.send(Job::Truncate(position))
    }

    /// Bytes of records, with what each costs besides, that wait to be flushed.
    pub fn queued_bytes(&self) -> usize {
        self.shared.state().queued
    }

    /// What the log has done in this life.
    pub fn counts(&self) -> LogCounts {
        self.shared.state().counts
    }

    /// Flushes everything handed over, seals the log and ends the thread.
    ///
    /// # Errors
    /// What the log failed with, now or before.
    pub fn close(mut self) -> Result<Durable, StorageError> {
        self.end().expect("closed once")
    }

    fn send(&self, job: Job) -> Result<(), StorageError> {
        if let Some(error) = &self.shared.state().failed {
            return Err(error.clone());
        }
        // A thread that ends meanwhile leaves the job undone, as one that ends right after.
        let jobs = self.jobs.as_ref().expect("there until dropped");
        jobs.send(job).map_err(|_| StorageError::Closed)
    }

    fn end(&mut self) -> Option<Result<Durable, StorageError>> {
        self.jobs = None;
        // A panic over there has been reported as a failure already.
        Some(self.thread.take()?.join().unwrap_or(Err(StorageError::Closed)))
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        // Whoever wants to know how it ended calls `close`.
        let _ = self.end();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }

    fn fail(&self, error: StorageError) {
        self.state().failed.get_or_insert(error);
        self.room.notify_all();
    }
}

/// What runs on the thread.
struct Runner<T> {
    log: Log,
    incoming: Receiver<Job>,
    shared: Arc<Shared>,
    tell: T,
    /// What was last told about space.
    low: bool,
}

/// What one round of the thread found in its queue.
#[derive(Default)]
struct Round {
    cost: usize,
    rotate: bool,
    truncate: Option<LogPosition>,
}

impl<T: FnMut(LogEvent)> Runner<T> {
    fn run(mut self) -> Result<Durable, StorageError> {
        // If this thread panics, nobody must wait for it.
        let _guard = StopGuard(self.shared.clone());
        match self.work() {
            Ok(()) => self.log.close(),
            Err(error) => {
                self.shared.fail(error.clone());
                (self.tell)(LogEvent::Failed(error.clone()));
                Err(error)
            }
        }
    }

    /// Until the other end is gone and the queue empty.
    fn work(&mut self) -> Result<(), StorageError> {
        loop {
            self.tell_space();
            let job = if self.low {
                match self.incoming.recv_timeout(LOOK_AGAIN) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        self.log.settle()?;
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            } else {
                match self.incoming.recv() {
                    Ok(job) => job,
                    Err(_) => return Ok(()),
                }
            };
            let mut round = Round::default();
            self.take(job, &mut round)?;
            while !round.rotate && self.log.buffered_bytes() < FLUSH_BYTES {
                let Ok(job) = self.incoming.try_recv() else { break };
                self.take(job, &mut round)?;
            }
            self.finish(round)?;
        }
    }

    fn take(&mut self, job: Job, round: &mut Round) -> Result<(), StorageError> {
        match job {
            Job::Append { records, cost } => {
                round.cost += cost;
                for record in &records {
                    self.log.append(record)?;
                }
            }
            Job::Rotate => round.rotate = true,
            Job::Truncate(position) => round.truncate = round.truncate.max(Some(position)),
        }
        Ok(())
    }

    fn finish(&mut self, round: Round) -> Result<(), StorageError> {
        if round.cost > 0 {
            let durable = self.log.flush()?;
            (self.tell)(LogEvent::Durable(durable));
            let mut state = self.shared.state();
            state.queued -= round.cost;
            state.counts = self.log.counts();
            drop(state);
            self.shared.room.notify_all();
        }
        if round.rotate {
            self.log.rotate()?;
        }
        if let Some(position) = round.truncate {
            self.log.truncate(position)?;
            (self.tell)(LogEvent::Truncated(self.log.first()));
        }
        self.log.settle()
    }

    fn tell_space(&mut self) {
        if self.low != self.log.space_low() {
            self.low = !self.low;
            (self.tell)(LogEvent::SpaceLow(self.low));
        }
    }
}

/// Leaves no caller waiting when the thread ends.
struct StopGuard(Arc<Shared>);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.fail(StorageError::Closed);
    }
}
