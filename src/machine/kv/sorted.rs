//! A snapshot of the key-value store: the encoding of a list of all keys with their values, sorted
//! by key. Stores in memory and on disk write the same bytes.

use std::io::{self, BufReader, Read, Write};

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::machine::RestoreError;
use crate::machine::stream::{finish, put_varint, take_bytes, take_varint};

/// Snapshots are written and read in pieces of about this many bytes, or of one longer value.
const PIECE: usize = 64 << 10;

/// Writes a snapshot entry by entry.
pub(in crate::machine) struct SortedWriter<'a> {
    to: &'a mut dyn Write,
    piece: Vec<u8>,
}

impl<'a> SortedWriter<'a> {
    /// Begins a snapshot of this many entries.
    pub(in crate::machine) fn begin(to: &'a mut dyn Write, count: u64) -> SortedWriter<'a> {
        let mut piece = Vec::with_capacity(PIECE);
        put_varint(&mut piece, count);
        SortedWriter { to, piece }
    }

    /// Writes the next entry.
    pub(in crate::machine) fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        for bytes in [key, value] {
            put_varint(&mut self.piece, bytes.len() as u64);
            self.piece.extend_from_slice(bytes);
        }
        if self.piece.len() >= PIECE {
            self.to.write_all(&self.piece)?;
            self.piece.clear();
        }
        Ok(())
    }

    /// Writes what is left.
    pub(in crate::machine) fn end(self) -> io::Result<()> {
        self.to.write_all(&self.piece)
    }
}

/// Reads a snapshot to its end, and gives each entry to `take`.
pub(in crate::machine) fn read_sorted(
    from: &mut dyn Read,
    mut take: impl FnMut(Bytes, Bytes) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let mut from = BufReader::with_capacity(PIECE, from);
    let mut last: Option<Bytes> = None;
    for _ in 0..take_varint(&mut from)? {
        let (key, value) = (take_one(&mut from)?, take_one(&mut from)?);
        if last.is_some_and(|last| last >= key) {
            return Err(RestoreError::new("keys are not in order"));
        }
        last = Some(key.clone());
        take(key, value)?;
    }
    finish(&mut from)
}

/// Reads a key or a value.
fn take_one(from: &mut dyn Read) -> Result<Bytes, RestoreError> {
    let (length, mut bytes) = (take_varint(from)?, Vec::new());
    take_bytes(from, length, &mut bytes)?;
    Ok(Bytes::copy_from_slice(&bytes))
}

/// An entry's part of the digest, which is the sum of them. The key's hash seeds the value's, so
/// swapping two values changes the digest.
pub(in crate::machine) fn entry_digest(key: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64(key))
}
