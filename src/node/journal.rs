//! The core's way to the log, and how much of it is durable. Records go to a log on a disk, which
//! has a thread of its own, or to memory. Only the core thread uses it, and never blocks here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};

use super::error::Fault;
use super::latency::Latency;
use super::metrics::{LogMetrics, Restored};
use super::panics::lock;
use super::shared::ReplicaShared;
use crate::storage::{Durability, Log, LogEvent, LogThread, MemoryLog, StorageError};
use crate::types::{Durable, LogPosition, Time};
use crate::wire::{FIRST_EPOCH, Wire, encode_record};

/// Records are encoded into buffers of this size.
const BUFFER_BYTES: usize = 256 << 10;
/// The log thread's own bound. The core must never reach it, because it would block. Instead the
/// core takes in less while [`Journal::unflushed_bytes`] is high, and this bounds the queue.
const NO_BOUND: usize = usize::MAX / 2;

/// Where the core's records go.
pub(super) enum Journal {
    Memory(MemoryLog),
    Disk(Box<DiskLog>),
}

/// A log that flushes on its own thread.
///
/// Invariant: `unflushed` holds all records handed over and not yet reported as durable, in order
/// and grouped by hand-over, and `unflushed_bytes` is the sum of their bytes.
pub(super) struct DiskLog {
    thread: LogThread,
    durability: Durability,
    shared: Arc<ReplicaShared>,
    /// The newest mark, written by the log thread.
    mark: Arc<Mutex<Durable>>,
    /// Where the log begins; set by the log thread.
    start: Arc<Mutex<LogPosition>>,
    /// Where the log was last divided; set by the log thread.
    divided: Arc<Mutex<LogPosition>>,
    durable: Durable,
    end: LogPosition,
    unflushed: VecDeque<Piece>,
    unflushed_bytes: usize,
    buffer: BytesMut,
    latency: Latency,
    restored: Restored,
    /// Bytes of records since the snapshot that the replica started from.
    log_bytes: u64,
}

/// Records that were handed over together.
struct Piece {
    end: LogPosition,
    bytes: usize,
    since: Time,
}

impl Journal {
    /// A journal that continues where `log` ends. If the log fails, the replica fails.
    pub(super) fn start(
        log: Log,
        durability: Durability,
        restored: Restored,
        shared: &Arc<ReplicaShared>,
    ) -> Result<Journal, StorageError> {
        let (durable, end) = (log.durable(), log.end());
        let mark = Arc::new(Mutex::new(durable));
        let start = Arc::new(Mutex::new(log.first()));
        let divided = Arc::new(Mutex::new(LogPosition::default()));
        let thread = LogThread::start(log, NO_BOUND, {
            let (mark, shared) = (Arc::clone(&mark), Arc::clone(shared));
            let (start, divided) = (Arc::clone(&start), Arc::clone(&divided));
            move |event| match event {
                LogEvent::Durable(durable) => {
                    *lock(&mark) = durable;
                    shared.wake.notify_one();
                }
                LogEvent::Divided(position) => {
                    *lock(&divided) = position;
                    shared.wake.notify_one();
                }
                LogEvent::Truncated(position) => {
                    *lock(&start) = position;
                    shared.wake.notify_one();
                }
                LogEvent::SpaceLow(low) => shared.set_space_low(low),
                LogEvent::Waiting(waits) => shared.set_waits_for_room(waits),
                LogEvent::Failed(error) => shared.fail(Fault::Storage(error)),
            }
        })?;
        Ok(Journal::Disk(Box::new(DiskLog {
            thread,
            durability,
            shared: Arc::clone(shared),
            mark,
            start,
            divided,
            durable,
            end,
            unflushed: VecDeque::new(),
            unflushed_bytes: 0,
            buffer: BytesMut::new(),
            latency: Latency::default(),
            restored,
            log_bytes: restored.bytes,
        })))
    }

    /// Takes the records, each with its epoch, out of `records`. `end` is the log's end by the
    /// core's count. The log must count the same, or the core would announce records that are not
    /// durable. If the log has failed, the replica has failed, too.
    pub(super) fn append<R: Wire>(
        &mut self,
        records: &mut Vec<(u32, R)>,
        end: LogPosition,
        now: Time,
    ) {
        match self {
            Journal::Memory(log) => {
                log.append(records.len());
                assert_eq!(log.durable().position(), end, "log and core count the same records");
                records.clear();
            }
            Journal::Disk(log) => log.append(records, end, now),
        }
    }

    /// How much of the log is durable now.
    pub(super) fn durable(&mut self, now: Time) -> Durable {
        match self {
            Journal::Memory(log) => log.durable(),
            Journal::Disk(log) => log.look(now),
        }
    }

    /// Whether records wait for room on the disk. Until there is room, nothing more becomes
    /// durable.
    pub(super) fn waits_for_room(&self) -> bool {
        match self {
            Journal::Memory(_) => false,
            Journal::Disk(log) => log.shared.waits_for_room(),
        }
    }

    /// Bytes of records that are not durable yet.
    pub(super) fn unflushed_bytes(&self) -> usize {
        match self {
            Journal::Memory(_) => 0,
            Journal::Disk(log) => log.unflushed_bytes,
        }
    }

    /// Bytes of records so far, including the restored ones; 0 if nothing is written.
    pub(super) fn log_bytes(&self) -> u64 {
        match self {
            Journal::Memory(_) => 0,
            Journal::Disk(log) => log.log_bytes,
        }
    }

    /// Allows the log to drop everything before this position.
    pub(super) fn truncate(&mut self, position: LogPosition) {
        if let Journal::Disk(log) = self
            && let Err(error) = log.thread.truncate(position)
        {
            log.shared.fail(Fault::Storage(error));
        }
    }

    /// Divides the log at its end, which must be `position`, so that everything before it can be
    /// dropped.
    pub(super) fn divide(&mut self, position: LogPosition) {
        if let Journal::Disk(log) = self {
            assert_eq!(log.end, position, "it is divided where it ends");
            if let Err(error) = log.thread.rotate() {
                log.shared.fail(Fault::Storage(error));
            }
        }
    }

    /// Whether there is a log that never held a record.
    pub(super) fn is_new(&self) -> bool {
        match self {
            Journal::Memory(_) => false,
            Journal::Disk(log) => log.end == LogPosition::default(),
        }
    }

    /// Whether the log has been divided here, as [`Journal::divide`] asked.
    pub(super) fn is_divided_at(&self, position: LogPosition) -> bool {
        match self {
            Journal::Memory(_) => true,
            // The log thread divides in the order of the calls.
            Journal::Disk(log) => *lock(&log.divided) >= position,
        }
    }

    /// Whether everything before this position is dropped.
    pub(super) fn begins_at(&self, position: LogPosition) -> bool {
        self.first() >= position
    }

    /// Where the log begins.
    pub(super) fn first(&self) -> LogPosition {
        match self {
            Journal::Memory(_) => LogPosition::default(),
            Journal::Disk(log) => *lock(&log.start),
        }
    }

    /// The log's figures so far.
    pub(super) fn metrics(&self) -> LogMetrics {
        let Journal::Disk(log) = self else { return LogMetrics::default() };
        let counts = log.thread.counts();
        LogMetrics {
            durability: log.durability,
            flushes: counts.flushes,
            records: counts.records,
            bytes: counts.bytes,
            unflushed_bytes: log.unflushed_bytes,
            latency: log.latency.clone(),
            space_low: log.shared.space_is_low(),
            restored: log.restored,
        }
    }

    /// Flushes everything and ends the log thread.
    pub(super) fn close(self) -> Result<(), StorageError> {
        match self {
            Journal::Memory(_) => Ok(()),
            Journal::Disk(log) => log.thread.close().map(drop),
        }
    }
}

impl DiskLog {
    fn append<R: Wire>(&mut self, records: &mut Vec<(u32, R)>, end: LogPosition, now: Time) {
        if records.is_empty() {
            assert_eq!(self.end, end, "log and core count the same records");
            return;
        }
        if self.buffer.capacity() < BUFFER_BYTES / 16 {
            self.buffer.reserve(BUFFER_BYTES);
        }
        let encoded: Vec<Bytes> = records
            .drain(..)
            .map(|(epoch, record)| {
                encode_record(epoch + FIRST_EPOCH, &record, &mut self.buffer);
                self.buffer.split().freeze()
            })
            .collect();
        let bytes = encoded.iter().map(Bytes::len).sum();
        self.end = end;
        self.unflushed.push_back(Piece { end, bytes, since: now });
        self.unflushed_bytes += bytes;
        self.log_bytes += bytes as u64;
        if let Err(error) = self.thread.append(encoded, end) {
            self.shared.fail(Fault::Storage(error));
        }
    }

    fn look(&mut self, now: Time) -> Durable {
        self.durable = *lock(&self.mark);
        while let Some(piece) = self.unflushed.front()
            && piece.end <= self.durable.position()
        {
            self.unflushed_bytes -= piece.bytes;
            self.latency.record(now.since(piece.since));
            self.unflushed.pop_front();
        }
        self.durable
    }
}
