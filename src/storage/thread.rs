//! A log on a thread of its own: while one flush is under way, what comes meanwhile waits and is
//! flushed together next. After `log`; the node hands it records and hears how far they are safe.
//!
//! When there is no room for records, they wait here in memory, and the thread tries again: nothing
//! that rests on them is said, so nothing is wrong with waiting. How much may wait is the caller's
//! to bound, who is told.

use std::collections::VecDeque;
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
    /// Whether records wait for room on the disk: nothing gets durable before there is some.
    Waiting(bool),
    /// [`LogThread::rotate`] was done, durably: a segment begins here.
    Divided(LogPosition),
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
    /// The position after the last of them.
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
        let runner = Runner {
            durable: log.durable().position(),
            log,
            incoming,
            later: VecDeque::new(),
            shared: shared.clone(),
            tell,
            truncated: None,
            low: false,
            waiting: false,
        };
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

    /// Ends the current segment after all records handed over so far: see [`Log::rotate`].
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
    /// What the log failed with, now or before; [`StorageError::Full`] if there is no room for the
    /// records that still wait: they are gone, and were never reported as durable.
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
    /// What came while records waited for room, in order.
    later: VecDeque<Job>,
    tell: T,
    /// What was last told of how far it is durable.
    durable: LogPosition,
    /// The highest position that was to be truncated to.
    truncated: Option<LogPosition>,
    /// What was last told about space.
    low: bool,
    /// What was last told about records that wait.
    waiting: bool,
}

/// What one round of the thread found in its queue, and is still to be done.
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
            // It was closed without room for the rest. Who closes it is told, and nobody else.
            Err(error) if error.is_full() => Err(error),
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
            let Some(job) = self.next_job()? else { return Ok(()) };
            let mut round = Round::default();
            self.take(job, &mut round)?;
            while !round.rotate && self.log.buffered_bytes() < FLUSH_BYTES {
                let job = self.later.pop_front().or_else(|| self.incoming.try_recv().ok());
                let Some(job) = job else { break };
                self.take(job, &mut round)?;
            }
            while let Err(error) = self.finish(&mut round) {
                if !error.is_full() || !self.wait_for_room(&mut round)? {
                    return Err(error);
                }
            }
            self.tell_waiting(false);
        }
    }

    /// The next thing to do; `None` once nothing can come any more.
    fn next_job(&mut self) -> Result<Option<Job>, StorageError> {
        loop {
            if let Some(job) = self.later.pop_front() {
                return Ok(Some(job));
            }
            if !self.low {
                return Ok(self.incoming.recv().ok());
            }
            match self.incoming.recv_timeout(LOOK_AGAIN) {
                Ok(job) => return Ok(Some(job)),
                Err(RecvTimeoutError::Timeout) => {
                    self.log.maintain()?;
                    self.tell_space();
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
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

    /// Does what the round is about, and takes out of it what is done: after
    /// [`StorageError::Full`], the rest can be tried again.
    fn finish(&mut self, round: &mut Round) -> Result<(), StorageError> {
        // First, as it may make the room that the others need.
        self.truncate(round)?;
        if round.cost > 0 {
            let flushed = self.log.flush();
            // Without room for all of it there may have been some for a part.
            self.tell_durable();
            flushed?;
            let cost = std::mem::take(&mut round.cost);
            let mut state = self.shared.state();
            state.queued -= cost;
            state.counts = self.log.counts();
            drop(state);
            self.shared.room.notify_all();
        }
        if round.rotate {
            let divided = self.log.rotate()?;
            round.rotate = false;
            (self.tell)(LogEvent::Divided(divided.position()));
            // What was to be let go of may have had to wait for that.
            round.truncate = self.truncated;
            self.truncate(round)?;
        }
        self.log.maintain()
    }

    fn truncate(&mut self, round: &mut Round) -> Result<(), StorageError> {
        if let Some(position) = round.truncate {
            self.truncated = self.truncated.max(Some(position));
            self.log.truncate(position)?;
            round.truncate = None;
            (self.tell)(LogEvent::Truncated(self.log.first()));
        }
        Ok(())
    }

    /// Waits until there may be room for the rest of a round; false if the log is closed instead.
    fn wait_for_room(&mut self, round: &mut Round) -> Result<bool, StorageError> {
        self.tell_space();
        self.tell_waiting(true);
        loop {
            match self.incoming.recv_timeout(LOOK_AGAIN) {
                // What a snapshot makes superfluous does not have to wait for its turn.
                Ok(Job::Truncate(position)) => {
                    round.truncate = round.truncate.max(Some(position));
                    return Ok(true);
                }
                Ok(other) => self.later.push_back(other),
                Err(RecvTimeoutError::Timeout) => return Ok(true),
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
        }
    }

    fn tell_durable(&mut self) {
        let durable = self.log.durable();
        if self.durable < durable.position() {
            self.durable = durable.position();
            (self.tell)(LogEvent::Durable(durable));
        }
    }

    fn tell_waiting(&mut self, waiting: bool) {
        if self.waiting != waiting {
            self.waiting = waiting;
            (self.tell)(LogEvent::Waiting(waiting));
        }
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
