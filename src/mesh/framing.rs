//! Frames on a stream: a length in four bytes, little-endian, and then that many bytes. The writer
//! joins many small frames into one buffer. The reader cuts many frames out of one packet without
//! copying.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;

use super::refusal::Refusal;

/// The length of a frame's header.
pub(super) const HEADER_BYTES: usize = 4;
/// Frames of at least this length are passed to QUIC as they are; copying is cheaper for shorter
/// ones.
const COPY_BELOW_BYTES: usize = 1024;
/// Joined frames go into buffers of this size.
const BUFFER_BYTES: usize = 64 << 10;
/// A body's buffer never starts larger than this, whatever length its header announces.
const FIRST_RESERVE_BYTES: usize = 64 << 10;

/// Joins frames into few chunks.
#[derive(Default)]
pub(super) struct FrameWriter {
    buffer: BytesMut,
    chunks: Vec<Bytes>,
}

impl FrameWriter {
    /// Adds a frame. Its length must fit into 32 bits; every limit on frames ensures that.
    pub(super) fn push(&mut self, frame: Bytes) {
        let length = u32::try_from(frame.len()).expect("a frame's length was checked at `send`");
        if self.buffer.capacity() - self.buffer.len() < HEADER_BYTES + COPY_BELOW_BYTES {
            self.cut();
            self.buffer.reserve(BUFFER_BYTES);
        }
        self.buffer.put_u32_le(length);
        if frame.len() < COPY_BELOW_BYTES {
            self.buffer.put_slice(&frame);
        } else {
            self.cut();
            self.chunks.push(frame);
        }
    }

    /// Everything pushed since the last call, in order.
    pub(super) fn take(&mut self) -> &mut Vec<Bytes> {
        self.cut();
        &mut self.chunks
    }

    fn cut(&mut self) {
        if !self.buffer.is_empty() {
            self.chunks.push(self.buffer.split().freeze());
        }
    }
}

/// Cuts frames out of a stream's chunks.
pub(super) struct FrameReader {
    limit: usize,
    /// The start of a header that is split over chunks.
    header: [u8; HEADER_BYTES],
    header_len: usize,
    /// A frame that is split over chunks, and its length.
    body: Option<(Vec<u8>, usize)>,
    /// A longer frame that does not arrive in one chunk needs a grant before it is read.
    grant_above: usize,
    /// The length of a frame that waits for its grant.
    announced: Option<usize>,
    /// The grant of the frame in `body`.
    grant: Option<OwnedSemaphorePermit>,
}

impl FrameReader {
    /// A reader that refuses frames of more than `limit` bytes.
    pub(super) fn new(limit: usize) -> FrameReader {
        FrameReader {
            limit,
            header: [0; HEADER_BYTES],
            header_len: 0,
            body: None,
            grant_above: usize::MAX,
            announced: None,
            grant: None,
        }
    }

    /// The same, but a long frame that does not arrive in one chunk needs a grant.
    pub(super) fn granted(limit: usize) -> FrameReader {
        FrameReader { grant_above: FIRST_RESERVE_BYTES, ..FrameReader::new(limit) }
    }

    /// Takes the stream's next chunk and appends the frames that it completes to `frames`. Frames
    /// within the chunk share its memory. Bytes left in the chunk wait for a grant.
    pub(super) fn feed(
        &mut self,
        chunk: &mut Bytes,
        frames: &mut Vec<Bytes>,
    ) -> Result<(), Refusal> {
        while !chunk.is_empty() && self.announced.is_none() {
            if self.body.is_some() {
                self.continue_body(chunk, frames);
                continue;
            }
            let Some(length) = self.take_header(chunk)? else { break };
            if length <= chunk.len() {
                frames.push(chunk.split_to(length));
            } else if length > self.grant_above {
                self.announced = Some(length);
            } else {
                self.begin(length);
            }
        }
        Ok(())
    }

    /// The length of the frame that waits for a grant, if any.
    pub(super) fn announced(&self) -> Option<usize> {
        self.announced
    }

    /// Grants the announced frame, which holds `room` until it is complete.
    pub(super) fn grant(&mut self, room: OwnedSemaphorePermit) {
        if let Some(length) = self.announced.take() {
            self.grant = Some(room);
            self.begin(length);
        }
    }

    /// Whether a frame has begun and is not complete.
    pub(super) fn is_amid(&self) -> bool {
        self.header_len > 0 || self.body.is_some()
    }

    fn begin(&mut self, length: usize) {
        let body = Vec::with_capacity(length.min(FIRST_RESERVE_BYTES));
        self.body = Some((body, length));
    }

    fn continue_body(&mut self, chunk: &mut Bytes, frames: &mut Vec<Bytes>) {
        let Some((body, length)) = &mut self.body else { return };
        let missing = *length - body.len();
        let more = chunk.split_to(missing.min(chunk.len()));
        if body.capacity() - body.len() < more.len() {
            // Double the capacity each time but never exceed the frame, because it may be kept for
            // long.
            body.reserve_exact(missing.min(body.len().max(more.len())));
        }
        body.extend_from_slice(&more);
        if body.len() == *length {
            frames.push(Bytes::from(std::mem::take(body)));
            self.body = None;
            self.grant = None;
        }
    }

    /// The next frame's length, once its header is complete; never above the limit.
    fn take_header(&mut self, chunk: &mut Bytes) -> Result<Option<usize>, Refusal> {
        let take = (HEADER_BYTES - self.header_len).min(chunk.len());
        self.header[self.header_len..self.header_len + take].copy_from_slice(&chunk[..take]);
        self.header_len += take;
        *chunk = chunk.split_off(take);
        if self.header_len < HEADER_BYTES {
            return Ok(None);
        }
        self.header_len = 0;
        let bytes = usize::try_from(u32::from_le_bytes(self.header)).unwrap_or(usize::MAX);
        if bytes > self.limit {
            return Err(Refusal::FrameTooLarge { bytes, limit: self.limit });
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::*;

    fn wire(frames: &[Bytes]) -> Vec<u8> {
        let mut writer = FrameWriter::default();
        frames.iter().for_each(|f| writer.push(f.clone()));
        writer.take().concat()
    }

    #[test]
    fn an_oversized_frame_is_refused_by_its_header_alone() {
        let mut frames = Vec::new();
        let mut reader = FrameReader::new(10);
        assert_eq!(reader.feed(&mut Bytes::from_static(&[10, 0, 0, 0]), &mut frames), Ok(()));
        let mut reader = FrameReader::new(10);
        let refused = reader.feed(&mut Bytes::from_static(&[11, 0, 0, 0]), &mut frames);
        assert_eq!(refused, Err(Refusal::FrameTooLarge { bytes: 11, limit: 10 }));
    }

    #[test]
    fn an_announced_length_alone_allocates_little() {
        let mut reader = FrameReader::new(usize::MAX);
        reader.feed(&mut Bytes::from_static(&[0, 0, 0, 0x7f, 1]), &mut Vec::new()).unwrap();
        let (body, length) = reader.body.unwrap();
        assert_eq!(length, 0x7f00_0000);
        assert!(body.capacity() <= 2 * FIRST_RESERVE_BYTES);
    }

    #[test]
    fn a_long_frame_takes_as_much_memory_as_it_has_bytes() {
        let (length, mut frames) = (1_000_000u32, Vec::new());
        let mut reader = FrameReader::new(length as usize);
        reader.feed(&mut Bytes::from(length.to_le_bytes().to_vec()), &mut frames).unwrap();
        for _ in 0..length / 1000 - 1 {
            reader.feed(&mut Bytes::from(vec![7; 1000]), &mut frames).unwrap();
        }
        let (body, _) = reader.body.as_ref().unwrap();
        assert!(body.capacity() <= length as usize, "{} for {length}", body.capacity());
        reader.feed(&mut Bytes::from(vec![7; 1000]), &mut frames).unwrap();
        assert_eq!(frames, [vec![7; length as usize]]);
    }

    #[test]
    fn whole_frames_share_the_chunks_memory() {
        let chunk = Bytes::from(wire(&[Bytes::from_static(b"abc")]));
        let mut frames = Vec::new();
        FrameReader::new(100).feed(&mut chunk.clone(), &mut frames).unwrap();
        assert_eq!(frames[0].as_ptr(), chunk[HEADER_BYTES..].as_ptr());
    }

    #[test]
    fn a_long_frame_waits_for_its_grant_and_gives_it_back() {
        let room = Arc::new(Semaphore::new(1));
        let long = Bytes::from(vec![7; FIRST_RESERVE_BYTES + 1]);
        let short = Bytes::from_static(b"short");
        let mut stream = Bytes::from(wire(&[short.clone(), long.clone(), short.clone()]));
        let mut reader = FrameReader::granted(1 << 20);
        let mut frames = Vec::new();
        let mut chunk = stream.split_to(1000);
        reader.feed(&mut chunk, &mut frames).unwrap();
        assert_eq!((frames.len(), reader.announced()), (1, Some(long.len())));
        let left = chunk.len();
        reader.feed(&mut chunk, &mut frames).unwrap();
        assert_eq!((frames.len(), chunk.len()), (1, left), "nothing is taken before");
        reader.grant(Arc::clone(&room).try_acquire_owned().unwrap());
        reader.feed(&mut chunk, &mut frames).unwrap();
        assert_eq!((chunk.len(), reader.is_amid(), room.available_permits()), (0, true, 0));
        reader.feed(&mut stream, &mut frames).unwrap();
        assert_eq!(frames, [short.clone(), long, short]);
        assert_eq!((reader.is_amid(), room.available_permits()), (false, 1));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            lengths in prop::collection::vec(prop_oneof![0..20usize, 1000..3000usize], 0..30),
            cuts in prop::collection::vec(1..2000usize, 1..30),
        ) {
            let frames: Vec<Bytes> = (0u8..)
                .zip(&lengths)
                .map(|(i, &n)| Bytes::from(vec![i; n]))
                .collect();
            let mut stream = Bytes::from(wire(&frames));
            let mut reader = FrameReader::new(3000);
            let mut read = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            while !stream.is_empty() {
                let cut = cuts.next().unwrap().min(stream.len());
                reader.feed(&mut stream.split_to(cut), &mut read).unwrap();
            }
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn garbage_never_yields_a_frame_above_the_limit(
            bytes in prop::collection::vec(any::<u8>(), 0..500),
            limit in 0..200usize,
        ) {
            let mut frames = Vec::new();
            let _ = FrameReader::new(limit).feed(&mut Bytes::from(bytes), &mut frames);
            prop_assert!(frames.iter().all(|f| f.len() <= limit));
        }
    }
}
