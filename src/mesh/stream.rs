//! The two loops on a stream. One writes everything that its queue has collected, in large writes.
//! One reads everything that has arrived, in batches. A write for each frame would cost twenty
//! times as much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::account::UNIT_BYTES;
use super::framing::{FrameReader, FrameWriter, HEADER_BYTES};
use super::queue::{self, Outbox};
use super::refusal::{Closed, Refusal};

/// The most bytes in one write; the queue gets its room back after each write.
const WRITE_BYTES: usize = 256 << 10;
/// The most packets' worth of data in one batch.
const CHUNKS_PER_READ: usize = 64;

/// Counters of frames sent, received and dropped; both loops and `send` update them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) frames_sent: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    pub(super) frames_received: AtomicU64,
    pub(super) bytes_received: AtomicU64,
    pub(super) frames_dropped: AtomicU64,
    pub(super) connects: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

/// Writes what `outbox` collects for connection `serial`. Returns when the outbox is finished (it
/// then ends the stream and waits until the other end has everything) or belongs to another
/// connection. If `stall` is given, the other end is too slow when it accepts nothing for that
/// long.
pub(super) async fn write_frames(
    outbox: &Outbox,
    serial: u64,
    stream: &mut SendStream,
    counters: &Counters,
    stall: Option<Duration>,
) -> Result<(), Closed> {
    let mut writer = FrameWriter::default();
    let mut batch = Vec::new();
    while outbox.drain(serial, &mut batch).await {
        let mut frames = batch.drain(..);
        loop {
            let (mut taken, mut bytes, mut cost) = (0, 0, 0);
            for frame in frames.by_ref() {
                taken += 1;
                bytes += frame.len() + HEADER_BYTES;
                cost += queue::cost(&frame);
                writer.push(frame);
                if bytes >= WRITE_BYTES {
                    break;
                }
            }
            if taken == 0 {
                break;
            }
            let chunks = writer.take();
            if let Err(why) = write_chunks(stream, chunks, stall).await {
                count(&counters.frames_dropped, taken + frames.len());
                return Err(why);
            }
            chunks.clear();
            outbox.release(serial, cost);
            count(&counters.frames_sent, taken);
            count(&counters.bytes_sent, bytes);
        }
    }
    // An error means that the stream is already closed, as intended.
    let _ = stream.finish();
    let _ = stream.stopped().await;
    Ok(())
}

async fn write_chunks(
    stream: &mut SendStream,
    chunks: &mut [Bytes],
    stall: Option<Duration>,
) -> Result<(), Closed> {
    let Some(stall) = stall else {
        return stream.write_all_chunks(chunks).await.map_err(write_error);
    };
    let mut rest = chunks;
    while !rest.is_empty() {
        let written = timeout(stall, stream.write_chunks(rest)).await;
        let written = written.map_err(|_| Refusal::TooSlow)?.map_err(write_error)?;
        rest = &mut rest[written.chunks..];
    }
    Ok(())
}

/// The receiving end of a stream of frames.
///
/// Invariant: the first `filled` of `chunks` were read; those from `next` on are not cut into
/// frames yet.
pub(super) struct FrameStream {
    stream: RecvStream,
    reader: FrameReader,
    chunks: Vec<Bytes>,
    next: usize,
    filled: usize,
    measure: Option<Measure>,
}

/// Keeps a client from holding memory with frames that it never completes.
pub(super) struct Measure {
    /// Room for incomplete frames on all its connections, in units of [`UNIT_BYTES`].
    pub(super) room: Arc<Semaphore>,
    /// The client is too slow when it sends nothing more of a frame for this long.
    pub(super) stall: Duration,
}

impl FrameStream {
    /// Reads frames of at most `limit` bytes.
    pub(super) fn new(stream: RecvStream, limit: usize) -> FrameStream {
        FrameStream {
            stream,
            reader: FrameReader::new(limit),
            chunks: vec![Bytes::new(); CHUNKS_PER_READ],
            next: 0,
            filled: 0,
            measure: None,
        }
    }

    /// The same from a client, bounded by `measure`.
    pub(super) fn measured(stream: RecvStream, limit: usize, measure: Measure) -> FrameStream {
        let reader = FrameReader::granted(limit);
        FrameStream { reader, measure: Some(measure), ..FrameStream::new(stream, limit) }
    }

    /// Waits for at least one frame and appends all available ones to `frames`. False at the end of
    /// the stream. It is cancel safe.
    pub(super) async fn read(&mut self, frames: &mut Vec<Bytes>) -> Result<bool, Closed> {
        let before = frames.len();
        loop {
            self.cut(frames)?;
            if frames.len() > before {
                return Ok(true);
            }
            if let Some(length) = self.reader.announced() {
                let room = self.room(length).await?;
                self.reader.grant(room);
            } else if !self.receive().await? {
                return Ok(false);
            }
            // Reading never waits while there is data, so let the other tasks of this thread run
            // here.
            tokio::task::consume_budget().await;
        }
    }

    /// Cuts the received chunks into frames, up to one that needs a grant.
    fn cut(&mut self, frames: &mut Vec<Bytes>) -> Result<(), Refusal> {
        while self.next < self.filled {
            let chunk = &mut self.chunks[self.next];
            self.reader.feed(chunk, frames)?;
            if !chunk.is_empty() || self.reader.announced().is_some() {
                break;
            }
            *chunk = Bytes::new();
            self.next += 1;
        }
        Ok(())
    }

    /// Waits for more chunks; false at the end of the stream.
    async fn receive(&mut self) -> Result<bool, Closed> {
        let read = self.stream.read_chunks(&mut self.chunks);
        let read = match &self.measure {
            Some(measure) if self.reader.is_amid() => {
                timeout(measure.stall, read).await.map_err(|_| Refusal::TooSlow)?
            }
            _ => read.await,
        };
        (self.next, self.filled) = (0, read.map_err(read_error)?.unwrap_or(0));
        Ok(self.filled > 0)
    }

    /// Waits until the client's other incomplete frames leave room for one of this length.
    async fn room(&self, length: usize) -> Result<OwnedSemaphorePermit, Closed> {
        let measure = self.measure.as_ref().ok_or(Refusal::Internal)?;
        let units = u32::try_from(length.div_ceil(UNIT_BYTES)).map_err(|_| Refusal::Internal)?;
        let room = Arc::clone(&measure.room).acquire_many_owned(units).await;
        Ok(room.map_err(|_| Refusal::Internal)?)
    }
}

fn write_error(error: WriteError) -> Closed {
    match error {
        WriteError::ConnectionLost(lost) => lost.into(),
        _ => Refusal::Protocol("end of a stream that should stay open").into(),
    }
}

/// Errors as for frames, where a stream ends before its required start.
pub(super) fn read_exact_error(error: ReadExactError) -> Closed {
    match error {
        ReadExactError::ReadError(error) => read_error(error),
        ReadExactError::FinishedEarly(_) => Refusal::Protocol("end of a lane").into(),
    }
}

fn read_error(error: ReadError) -> Closed {
    match error {
        ReadError::ConnectionLost(lost) => lost.into(),
        _ => Refusal::Protocol("end of a stream that should stay open").into(),
    }
}
