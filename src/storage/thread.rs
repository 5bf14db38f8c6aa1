//! A log on its own thread: records that arrive during a flush wait, and the next flush covers them
//! together. After `log`; the node hands it records and learns which of them are durable.
//!
//! If there is no room for records, they wait here in memory, and the thread retries. Nothing that
//! depends on them has been sent, so waiting is safe. The caller is told, and must bound how much
//! waits.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::StorageError;
use super::log::{Log, LogCounts};
use crate::types::{Durable, LogPosition};

/// What a record takes in the queue besides its bytes.
const RECORD_COST: usize = 64;
/// The most bytes in one flush, so that a long queue is reported in parts.
const FLUSH_BYTES: usize = 1024 * 1024;
/// How often a full disk is checked when nothing else happens.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the log thread reports.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LogEvent {
    /// Everything before this position is durable.
    Durable(Durable),
    /// Whether the disk is too full for another segment: see [`Log::space_low`].
    SpaceLow(bool),
    /// Whether records wait for room on the disk. Nothing becomes durable until there is room.
    Waiting(bool),
    /// [`LogThread::rotate`] is done, durably: a segment begins here.
    Divided(LogPosition),
    /// [`LogThread::truncate`] is done, durably: the log begins here.
    Truncated(LogPosition),
    /// The log has failed. Nothing may be sent that depends on records not reported as durable.
    /// This event comes once and is the last.
    Failed(StorageError),
}

/// A log on its own thread. When dropped, it finishes what it was given.
#[derive(Debug)]
pub struct LogThread {
    jobs: Option<Sender<Job>>,
    handover: Arc<Handover>,
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
struct Handover {
    backlog: Mutex<Backlog>,
    /// Notified when the queue gets shorter or the log fails.
    room: Condvar,
}

#[derive(Debug)]
struct Backlog {
    /// The cost in bytes of the records handed over and not yet flushed.
    queued: usize,
    /// The position after the last of them.
    end: LogPosition,
    failed: Option<StorageError>,
    counts: LogCounts,
}

impl LogThread {
    /// Starts the thread. `queue_bytes` bounds the records that wait for a flush. `tell` is called
    /// on the thread and must not block for long, because nothing is flushed meanwhile.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the system cannot start a thread.
    pub fn start(
        log: Log,
        queue_bytes: usize,
        tell: impl FnMut(LogEvent) + Send + 'static,
    ) -> Result<LogThread, StorageError> {
        let backlog =
            Backlog { queued: 0, end: log.end(), failed: None, counts: LogCounts::default() };
        let handover = Arc::new(Handover { backlog: Mutex::new(backlog), room: Condvar::new() });
        let (jobs, incoming) = unbounded();
        let record_limit = log.record_limit();
        let runner = Runner {
            durable: log.durable().position(),
            log,
            incoming,
            later: VecDeque::new(),
            handover: handover.clone(),
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
        Ok(LogThread { jobs, handover, thread, queue_bytes, record_limit })
    }

    /// Hands over records that end at position `end`. Blocks while the queue is full, which bounds
    /// memory and slows the caller to the disk's pace; [`LogThread::queued_bytes`] helps to avoid
    /// this. Records that exceed the bound together are accepted if nothing else waits.
    ///
    /// # Errors
    /// The log's error; [`StorageError::TooLarge`] if a record is too long. No record is accepted
    /// then.
    ///
    /// # Panics
    /// If `end` is not the position after these records: the caller and the log count differently.
    pub fn append(&self, records: Vec<Bytes>, end: LogPosition) -> Result<(), StorageError> {
        let limit = self.record_limit;
        if let Some(record) = records.iter().find(|record| record.len() > limit) {
            return Err(StorageError::TooLarge { bytes: record.len(), limit });
        }
        let cost = records.iter().map(|record| RECORD_COST + record.len()).sum();
        let mut backlog = self.handover.backlog();
        let next = LogPosition::new(backlog.end.records() + records.len() as u64);
        assert_eq!(next, end, "the log and its caller count the same records");
        while backlog.failed.is_none()
            && backlog.queued > 0
            && backlog.queued + cost > self.queue_bytes
        {
            backlog =
                self.handover.room.wait(backlog).expect("the log thread panics without the lock");
        }
        if let Some(error) = &backlog.failed {
            return Err(error.clone());
        }
        backlog.queued += cost;
        backlog.end = end;
        drop(backlog);
        self.send(Job::Append { records, cost })
    }

    /// Ends the current segment after all records handed over so far: see [`Log::rotate`].
    ///
    /// # Errors
    /// What the log failed with.
    pub fn rotate(&self) -> Result<(), StorageError> {
        self.send(Job::Rotate)
    }

    /// Drops records before `position`: see [`Log::truncate`].
    ///
    /// # Errors
    /// What the log failed with.
    pub fn truncate(&self, position: LogPosition) -> Result<(), StorageError> {
        self.send(Job::Truncate(position))
    }

    /// Bytes of records that wait for a flush, including their framing.
    pub fn queued_bytes(&self) -> usize {
        self.handover.backlog().queued
    }

    /// The log's figures since it was opened.
    pub fn counts(&self) -> LogCounts {
        self.handover.backlog().counts
    }

    /// Flushes everything handed over, seals the log and ends the thread.
    ///
    /// # Errors
    /// The log's error, now or earlier; [`StorageError::Full`] if there is no room for the records
    /// that still wait. Those are lost, and were never reported as durable.
    pub fn close(mut self) -> Result<Durable, StorageError> {
        self.end().expect("closed once")
    }

    fn send(&self, job: Job) -> Result<(), StorageError> {
        if let Some(error) = &self.handover.backlog().failed {
            return Err(error.clone());
        }
        // If the thread ends now, the job stays undone, as if the thread had ended right after it.
        let jobs = self.jobs.as_ref().expect("there until dropped");
        jobs.send(job).map_err(|_| StorageError::Closed)
    }

    fn end(&mut self) -> Option<Result<Durable, StorageError>> {
        self.jobs = None;
        // A panic of the thread has already been reported as a failure.
        Some(self.thread.take()?.join().unwrap_or(Err(StorageError::Closed)))
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        // A caller that wants the result calls `close`.
        let _ = self.end();
    }
}

impl Handover {
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().expect("nothing panics while it holds the lock")
    }

    fn fail(&self, error: StorageError) {
        self.backlog().failed.get_or_insert(error);
        self.room.notify_all();
    }
}

/// The thread's state.
struct Runner<T> {
    log: Log,
    incoming: Receiver<Job>,
    handover: Arc<Handover>,
    /// Jobs that came while records waited for room, in order.
    later: VecDeque<Job>,
    tell: T,
    /// The durable position reported last.
    durable: LogPosition,
    /// The highest position requested for truncation.
    truncated: Option<LogPosition>,
    /// What was last reported about space.
    low: bool,
    /// What was last reported about waiting records.
    waiting: bool,
}

/// Jobs that one round of the thread has collected and not yet done.
#[derive(Default)]
struct Round {
    cost: usize,
    rotate: bool,
    truncate: Option<LogPosition>,
}

impl<T: FnMut(LogEvent)> Runner<T> {
    fn run(mut self) -> Result<Durable, StorageError> {
        // If this thread panics, no caller must keep waiting for it.
        let _guard = StopGuard(self.handover.clone());
        match self.work() {
            Ok(()) => self.log.close(),
            // The log was closed without room for the rest. Only the caller of `close` is told.
            Err(error) if error.is_full() => Err(error),
            Err(error) => {
                self.handover.fail(error.clone());
                (self.tell)(LogEvent::Failed(error.clone()));
                Err(error)
            }
        }
    }

    /// Works until the sender is gone and the queue is empty.
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

    /// The next job; `None` once no more can come.
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

    /// Does the jobs of the round and removes them from it. After [`StorageError::Full`] the
    /// remaining ones can be retried.
    fn finish(&mut self, round: &mut Round) -> Result<(), StorageError> {
        // Truncate first, because it may free the room that the other jobs need.
        self.truncate(round)?;
        if round.cost > 0 {
            let flushed = self.log.flush();
            // If there is no room for everything, there may have been some for a part.
            self.tell_durable();
            flushed?;
            let cost = std::mem::take(&mut round.cost);
            let mut backlog = self.handover.backlog();
            backlog.queued -= cost;
            backlog.counts = self.log.counts();
            drop(backlog);
            self.handover.room.notify_all();
        }
        if round.rotate {
            let divided = self.log.rotate()?;
            round.rotate = false;
            (self.tell)(LogEvent::Divided(divided.position()));
            // A truncation may have had to wait for the division.
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
                // A truncation frees room, so it does not wait for its turn.
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

/// Releases every waiting caller when the thread ends.
struct StopGuard(Arc<Handover>);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.fail(StorageError::Closed);
    }
}
