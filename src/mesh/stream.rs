//! The two loops on a stream: one writes whatever its queue has gathered, in large writes; one
//! reads whatever has arrived, in batches. A write for each frame would cost twenty times as much.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};

use super::framing::{FrameReader, FrameWriter, HEADER_BYTES};
use super::queue::{self, Outbox};
use super::refusal::{Closed, Refusal};

/// At most this much goes into one write: room in the queue is given back write by write.
const WRITE_BYTES: usize = 256 << 10;
/// At most this many packets' worth of data makes one batch.
const CHUNKS_PER_READ: usize = 64;

/// What passed and what didn't, counted by both loops and by `send`.
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

/// Writes what `outbox` gathers for connection `serial` until it is finished (then the stream
/// ends, and this returns when the other end has everything) or belongs to another connection.
pub(super) async fn write_frames(
    outbox: &Outbox,
    serial: u64,
    stream: &mut SendStream,
    counters: &Counters,
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
            if let Err(error) = stream.write_all_chunks(chunks).await {
                count(&counters.frames_dropped, taken + frames.len());
                return Err(write_error(error));
            }
            chunks.clear();
            outbox.release(serial, cost);
            count(&counters.frames_sent, taken);
            count(&counters.bytes_sent, bytes);
        }
    }
    // An error says that the stream is closed already, which is what is wanted.
    let _ = stream.finish();
    let _ = stream.stopped().await;
    Ok(())
}

/// The receiving end of a stream of frames.
pub(super) struct FrameStream {
    stream: RecvStream,
    reader: FrameReader,
    chunks: Vec<Bytes>,
}

impl FrameStream {
    /// Reads frames of at most `limit` bytes.
    pub(super) fn new(stream: RecvStream, limit: usize) -> FrameStream {
        let chunks = vec![Bytes::new(); CHUNKS_PER_READ];
        FrameStream { stream, reader: FrameReader::new(limit), chunks }
    }

    /// Waits for at least one frame and appends all that is there to `frames`. False at the end of
    /// the stream. May be cancelled without loss.
    pub(super) async fn read(&mut self, frames: &mut Vec<Bytes>) -> Result<bool, Closed> {
        let before = frames.len();
        while frames.len() == before {
            let read = self.stream.read_chunks(&mut self.chunks).await.map_err(read_error)?;
            let Some(read) = read else { return Ok(false) };
            for chunk in &mut self.chunks[..read] {
                self.reader.feed(std::mem::take(chunk), frames)?;
            }
            // Reading never waits while there is data: others on this thread get their turn here.
            tokio::task::consume_budget().await;
        }
        Ok(true)
    }
}

fn write_error(error: WriteError) -> Closed {
    match error {
        WriteError::ConnectionLost(lost) => lost.into(),
        _ => Refusal::Protocol("end of a stream that should stay open").into(),
    }
}

/// As for frames, where a stream ends before what it must begin with.
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
