//! The file of one snapshot.
//!
//! ```text
//! header:  magic 8 | version 4 | chunk length 4 | directory 8 | position 8 | crc 4
//! chunks:  length 4 | number 4 | crc of body 4 | crc of these 4 | body
//! footer:  magic 8 | version 4 | chunks 4 | bytes 8 | crc of all bodies 4 | crc of these 4
//! ```
//!
//! All chunks but the last have the length in the header, so any chunk can be read alone. Checksums
//! cover every byte, and nothing may follow the footer. Numbers are little-endian.

use bytes::Bytes;
use crc32fast::Hasher;

use super::MAX_CHUNK_BYTES;
use crate::storage::StorageError;
use crate::storage::disk::{Disk, Mode, Named};
use crate::types::LogPosition;

const VERSION: u32 = 1;
const HEADER_MAGIC: [u8; 8] = *b"isonosna";
const FOOTER_MAGIC: [u8; 8] = *b"isonoend";
const HEADER: usize = 36;
const CHUNK_HEADER: usize = 16;
const FOOTER: usize = 32;
/// A flush after this many bytes, so that the log's flushes never wait for a whole snapshot.
const FLUSH_EVERY: u64 = 4 * 1024 * 1024;

/// A snapshot's description, without its contents.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// The file's name.
    pub file: String,
    /// The snapshot covers all records before this position of its own directory's log.
    pub position: LogPosition,
    /// The length of the contents in bytes.
    pub bytes: u64,
    /// The number of chunks.
    pub chunks: u32,
    /// The length of all chunks but the last.
    pub chunk_bytes: u32,
    /// CRC-32 of the contents.
    pub checksum: u32,
}

/// Writes a file from start to end.
#[derive(Debug)]
pub(super) struct FileWriter {
    file: Named,
    info: SnapshotInfo,
    /// The chunk being built: room for its header, then its bytes.
    chunk: Vec<u8>,
    chunk_bytes: usize,
    contents: Hasher,
    /// Where the next chunk goes.
    end: u64,
    flushed: u64,
}

impl FileWriter {
    pub(super) fn create(
        disk: &dyn Disk,
        name: &str,
        directory: u64,
        position: LogPosition,
        chunk_bytes: usize,
    ) -> Result<FileWriter, StorageError> {
        let file = Named::open(disk, name, Mode::Create)?;
        let info = SnapshotInfo {
            file: name.to_owned(),
            position,
            bytes: 0,
            chunks: 0,
            chunk_bytes: u32::try_from(chunk_bytes).expect("chunks are bounded"),
            checksum: 0,
        };
        let mut header = Vec::with_capacity(HEADER);
        header.extend(HEADER_MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend(info.chunk_bytes.to_le_bytes());
        header.extend(directory.to_le_bytes());
        header.extend(position.records().to_le_bytes());
        header.extend(crc32fast::hash(&header).to_le_bytes());
        file.write(&header, 0)?;
        let chunk = vec![0; CHUNK_HEADER];
        let (end, contents) = (HEADER as u64, Hasher::new());
        Ok(FileWriter { file, info, chunk, chunk_bytes, contents, end, flushed: 0 })
    }

    pub(super) fn name(&self) -> &str {
        &self.file.name
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), StorageError> {
        while !bytes.is_empty() {
            let room = self.chunk_bytes - (self.chunk.len() - CHUNK_HEADER);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if now.len() == room {
                self.write_chunk()?;
            }
        }
        Ok(())
    }

    fn write_chunk(&mut self) -> Result<(), StorageError> {
        let (header, body) = self.chunk.split_at_mut(CHUNK_HEADER);
        self.contents.update(body);
        let length = u32::try_from(body.len()).expect("chunks are bounded");
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..8].copy_from_slice(&self.info.chunks.to_le_bytes());
        header[8..12].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        let crc = crc32fast::hash(&header[..12]);
        header[12..].copy_from_slice(&crc.to_le_bytes());
        self.file.write(&self.chunk, self.end)?;
        self.end += self.chunk.len() as u64;
        self.info.bytes += u64::from(length);
        self.info.chunks = self.info.chunks.checked_add(1).expect("fewer than 2^32 chunks");
        self.chunk.truncate(CHUNK_HEADER);
        if self.end - self.flushed >= FLUSH_EVERY {
            self.file.sync_new()?;
            self.flushed = self.end;
        }
        Ok(())
    }

    /// Writes the last chunk and the footer and flushes the file.
    pub(super) fn finish(&mut self) -> Result<SnapshotInfo, StorageError> {
        if self.chunk.len() > CHUNK_HEADER {
            self.write_chunk()?;
        }
        self.info.checksum = self.contents.clone().finalize();
        let mut footer = Vec::with_capacity(FOOTER);
        footer.extend(FOOTER_MAGIC);
        footer.extend(VERSION.to_le_bytes());
        footer.extend(self.info.chunks.to_le_bytes());
        footer.extend(self.info.bytes.to_le_bytes());
        footer.extend(self.info.checksum.to_le_bytes());
        footer.extend(crc32fast::hash(&footer).to_le_bytes());
        self.file.write(&footer, self.end)?;
        self.file.sync_new()?;
        Ok(self.info.clone())
    }
}

/// A finished snapshot, open for reading in order or by chunk number. It stays readable after its
/// file is removed.
#[derive(Debug)]
pub struct SnapshotReader {
    file: Named,
    info: SnapshotInfo,
    directory: u64,
    next: u32,
}

impl SnapshotReader {
    /// Opens a snapshot and checks header, footer and length.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] or [`StorageError::Format`].
    pub fn open(disk: &dyn Disk, name: &str) -> Result<SnapshotReader, StorageError> {
        let file = Named::open(disk, name, Mode::Read)?;
        let damaged = |offset: u64, what: &str| StorageError::damaged(name, offset, what);
        let len = file.size()?;
        let Some(footer_at) = len.checked_sub(FOOTER as u64).filter(|at| *at >= HEADER as u64)
        else {
            return Err(damaged(len, "the file ends here"));
        };
        let (mut header, mut footer) = ([0; HEADER], [0; FOOTER]);
        file.read(&mut header, 0)?;
        file.read(&mut footer, footer_at)?;
        if header[..8] != HEADER_MAGIC || !crc_fits(&header) {
            return Err(damaged(0, "its header does not fit its checksum"));
        }
        if footer[..8] != FOOTER_MAGIC || !crc_fits(&footer) {
            return Err(damaged(footer_at, "its end does not fit its checksum, or is missing"));
        }
        for version in [u32_at(&header, 8), u32_at(&footer, 8)] {
            if version != VERSION {
                let file = name.to_owned();
                return Err(StorageError::Format { file, found: version, known: VERSION });
            }
        }
        let info = SnapshotInfo {
            file: name.to_owned(),
            position: LogPosition::new(u64_at(&header, 24)),
            bytes: u64_at(&footer, 16),
            chunks: u32_at(&footer, 12),
            chunk_bytes: u32_at(&header, 12),
            checksum: u32_at(&footer, 24),
        };
        let chunk_bytes = u64::from(info.chunk_bytes);
        if chunk_bytes == 0 || chunk_bytes > MAX_CHUNK_BYTES as u64 {
            return Err(damaged(12, "chunks of an impossible length"));
        }
        let frames = u64::from(info.chunks) * CHUNK_HEADER as u64 + HEADER as u64;
        let fits = info.bytes.div_ceil(chunk_bytes) == u64::from(info.chunks)
            && info.bytes.checked_add(frames) == Some(footer_at);
        if !fits {
            return Err(damaged(footer_at, "the file has another length than its end says"));
        }
        Ok(SnapshotReader { file, info, directory: u64_at(&header, 16), next: 0 })
    }

    /// The snapshot's description.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// The number of the directory it was written in.
    pub(super) fn directory(&self) -> u64 {
        self.directory
    }

    /// The next chunk in order; `None` after the last.
    ///
    /// # Errors
    /// As [`SnapshotReader::chunk`].
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, StorageError> {
        if self.next == self.info.chunks {
            return Ok(None);
        }
        let chunk = self.chunk(self.next)?;
        self.next += 1;
        Ok(Some(chunk))
    }

    /// One chunk.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] if the chunk is not as written.
    ///
    /// # Panics
    /// If there is no such chunk.
    pub fn chunk(&self, number: u32) -> Result<Bytes, StorageError> {
        assert!(number < self.info.chunks, "chunk {number} of {}", self.info.chunks);
        let chunk_bytes = u64::from(self.info.chunk_bytes);
        let at = HEADER as u64 + u64::from(number) * (CHUNK_HEADER as u64 + chunk_bytes);
        let length = chunk_bytes.min(self.info.bytes - u64::from(number) * chunk_bytes);
        let length = usize::try_from(length).expect("chunks are bounded");
        let mut chunk = vec![0; CHUNK_HEADER + length];
        self.file.read(&mut chunk, at)?;
        let header: [u8; CHUNK_HEADER] = chunk[..CHUNK_HEADER].try_into().expect("that long");
        let fits = crc_fits(&header)
            && u32_at(&header, 0) as usize == length
            && u32_at(&header, 4) == number
            && u32_at(&header, 8) == crc32fast::hash(&chunk[CHUNK_HEADER..]);
        if !fits {
            let what = format!("chunk {number} does not fit its checksum");
            return Err(StorageError::damaged(&self.info.file, at, what));
        }
        Ok(Bytes::from(chunk).slice(CHUNK_HEADER..))
    }

    /// `bytes` bytes of the contents, from `offset` on.
    ///
    /// # Errors
    /// As [`SnapshotReader::chunk`].
    ///
    /// # Panics
    /// If the contents are shorter.
    pub fn range(&self, offset: u64, bytes: u32) -> Result<Bytes, StorageError> {
        let end = offset.checked_add(bytes.into()).filter(|end| *end <= self.info.bytes);
        let end = end.expect("a range of the contents");
        let chunk_bytes = u64::from(self.info.chunk_bytes);
        let mut range = Vec::new();
        let mut at = offset;
        while at < end {
            let number = u32::try_from(at / chunk_bytes).expect("as many as the file says");
            let start = u64::from(number) * chunk_bytes;
            let chunk = self.chunk(number)?;
            let within = |at: u64| usize::try_from(at - start).expect("chunks are bounded");
            let last = within(end).min(chunk.len());
            if offset == at && end - start <= chunk.len() as u64 {
                return Ok(chunk.slice(within(at)..last));
            }
            range.extend_from_slice(&chunk[within(at)..last]);
            at = start + last as u64;
        }
        Ok(range.into())
    }

    /// Checks everything, and returns to the start.
    ///
    /// # Errors
    /// As [`SnapshotReader::chunk`].
    pub(super) fn verify(&mut self) -> Result<(), StorageError> {
        let mut contents = Hasher::new();
        for number in 0..self.info.chunks {
            contents.update(&self.chunk(number)?);
        }
        if contents.finalize() != self.info.checksum {
            let what = "its contents do not fit the checksum of the whole";
            return Err(StorageError::damaged(&self.info.file, 0, what));
        }
        Ok(())
    }
}

/// Whether the last four bytes are the checksum of those before.
fn crc_fits(bytes: &[u8]) -> bool {
    let (body, crc) = bytes.split_at(bytes.len() - 4);
    crc32fast::hash(body).to_le_bytes() == *crc
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
