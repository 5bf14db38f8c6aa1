//! The encoding of a snapshot: the part for other replicas first, then this replica's own part.
//!
//! | part | bytes |
//! |---|---|
//! | header | magic 8 · version 1 · length of the shared part 8 |
//! | shared | epoch (varint) · cluster (text) · members · executed · the protocol's shared part |
//! | state | the state machine and the sessions, in their own encoding, in pieces |
//! | *other replicas get everything above this line* | |
//! | own | name 8 · number of records 8 · for each its length (varint) and the record |
//!
//! The members are those of the epoch. In the first epoch they are left out: they are those that
//! the cluster was configured with, and each replica may know them by other addresses.
//!
//! A piece is: length 4 · XXH3-64 of its bytes 8 · the bytes. All pieces but the last have
//! [`STATE_PIECE`] bytes. After the last piece come a length of 0 and the length of the whole state
//! 8. So the length of the state need not be known before it is written, and neither the writer nor
//! the reader holds more than one piece. Fixed-width numbers are little-endian.
//!
//! The name is the XXH3-64 of the part for others, and so also its checksum. A replica serves a
//! snapshot by reading ranges from its start, and the receiver can tell whether it is complete.
//!
//! Version 1 had another header, with the length of the state at its end, and the state was not
//! divided. It can still be read.

mod decode;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use bytes::BytesMut;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

pub use decode::{Front, ReadSnapshotError, SnapshotDecoder, SnapshotEnd};

use super::values::{put_varint, take_slot, too_high};
use super::{DecodeError, FIRST_EPOCH, Reader, Wire, encode_record};
use crate::replica::{Checkpoint, OwnSnapshot, SnapshotId};
use crate::types::{Deps, Executed, MAX_SLOT, Membership, Versions};

/// The version of snapshots.
pub const SNAPSHOT_VERSION: u8 = 2;
/// The versions of the snapshots that replicas send each other.
pub const SNAPSHOT_VERSIONS: Versions = Versions::only(SNAPSHOT_VERSION);
/// The previous version, which can still be read. Its state is not divided.
const UNDIVIDED: u8 = 1;
/// The length of each piece of a state except the last, in bytes.
pub const STATE_PIECE: usize = 256 << 10;

const MAGIC: [u8; 8] = *b"isonomyS";
const HEADER: usize = 17;
/// The length and the checksum of a piece.
const PIECE_HEADER: usize = 12;
/// Records are handed on in pieces of about this many bytes.
const PIECE: usize = 256 << 10;

/// Why a snapshot cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The bytes differ from those written: the disk or the network changed them.
    #[error("the snapshot is damaged: it was written as {expected:016x} and is {found:016x}")]
    Damaged {
        /// The name under which it was written.
        expected: u64,
        /// The hash of its bytes.
        found: u64,
    },
    /// One piece of the state is not what was written.
    #[error("the snapshot is damaged in piece {piece} of its state, at byte {offset}")]
    DamagedPiece {
        /// The number of the piece, from 0.
        piece: u64,
        /// Where the piece starts.
        offset: u64,
    },
    /// Its state is shorter or longer than its end says.
    #[error("the snapshot has {found} bytes of state where its end says {expected}")]
    Length {
        /// The length at its end.
        expected: u64,
        /// The length found.
        found: u64,
    },
    /// It is sound but belongs to another cluster; it was put here by mistake.
    #[error("the snapshot is of cluster {found:?}, not of {expected:?}")]
    OtherCluster {
        /// This cluster.
        expected: String,
        /// The snapshot's cluster.
        found: String,
    },
    /// Its writer encoded it differently: [`Flaw::Version`](super::Flaw::Version) if that was
    /// another version; otherwise the writer has a bug.
    #[error("the snapshot cannot be read: {0}")]
    Decode(#[from] DecodeError),
}

/// Why a snapshot was not written.
#[derive(Debug)]
pub enum WriteSnapshotError<E> {
    /// The writer failed.
    Write(E),
    /// The state failed to write itself.
    State(io::Error),
}

/// A snapshot that was written.
#[derive(Clone, PartialEq, Debug)]
pub struct Encoded {
    /// What to tell the core once the snapshot is durable.
    pub own: OwnSnapshot,
    /// The length of the state.
    pub state_bytes: u64,
}

/// Writes a snapshot of `checkpoint` and of the state that `state` writes, in pieces, to `write`.
/// `list` is that of the epoch in which it is taken; without one it is the first epoch.
///
/// # Errors
/// The first error of `write`, which is then not called again, or the error of `state`.
pub fn encode_snapshot<S: Wire, R: Wire, E>(
    list: Option<&Membership>,
    cluster: &str,
    checkpoint: &Checkpoint<S, R>,
    state: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<Encoded, WriteSnapshotError<E>> {
    let mut out = BytesMut::zeroed(HEADER);
    let epoch = list.map_or(0, Membership::epoch) + FIRST_EPOCH;
    put_varint(&mut out, u64::from(epoch));
    cluster.to_owned().encode(&mut out);
    if let Some(list) = list.filter(|list| list.epoch() > 0) {
        list.encode(&mut out);
    }
    checkpoint.executed.encode(&mut out);
    checkpoint.shared.encode(&mut out);
    let length = (out.len() - HEADER) as u64;
    out[..8].copy_from_slice(&MAGIC);
    out[8] = SNAPSHOT_VERSION;
    out[9..HEADER].copy_from_slice(&length.to_le_bytes());
    let mut pieces = Pieces::new(&mut write);
    pieces.put(&out).map_err(WriteSnapshotError::Write)?;

    let written = state(&mut pieces);
    if let Some(error) = pieces.error.take() {
        return Err(WriteSnapshotError::Write(error));
    }
    written.map_err(WriteSnapshotError::State)?;
    pieces.end().map_err(WriteSnapshotError::Write)?;
    let Pieces { hash, bytes, state_bytes, .. } = pieces;
    let id = SnapshotId(hash.digest());

    write_own(epoch, id, checkpoint, write).map_err(WriteSnapshotError::Write)?;
    let own = OwnSnapshot { id, executed: checkpoint.executed.clone(), bytes };
    Ok(Encoded { own, state_bytes })
}

/// Writes the replica's own part.
fn write_own<S, R: Wire, E>(
    epoch: u32,
    id: SnapshotId,
    checkpoint: &Checkpoint<S, R>,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut out = BytesMut::new();
    out.extend_from_slice(&id.0.to_le_bytes());
    out.extend_from_slice(&(checkpoint.own.len() as u64).to_le_bytes());
    let mut one = BytesMut::new();
    for record in &checkpoint.own {
        one.clear();
        encode_record(epoch, record, &mut one);
        put_varint(&mut out, one.len() as u64);
        out.extend_from_slice(&one);
        if out.len() >= PIECE {
            write(&out)?;
            out.clear();
        }
    }
    write(&out)
}

/// Divides a state into pieces as it is written. The pieces depend on the state alone, so that
/// equal snapshots have equal names.
struct Pieces<'a, W, E> {
    write: &'a mut W,
    /// The next piece: room for its header, then its bytes so far.
    piece: Vec<u8>,
    hash: Xxh3,
    bytes: u64,
    state_bytes: u64,
    /// The error of `write`. The state's writer gets only a hint of it, and may ignore that.
    error: Option<E>,
}

impl<'a, W: FnMut(&[u8]) -> Result<(), E>, E> Pieces<'a, W, E> {
    fn new(write: &'a mut W) -> Pieces<'a, W, E> {
        let piece = vec![0; PIECE_HEADER];
        Pieces { write, piece, hash: Xxh3::new(), bytes: 0, state_bytes: 0, error: None }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        (self.write)(bytes)
    }

    fn put_piece(&mut self) -> Result<(), E> {
        let mut piece = std::mem::take(&mut self.piece);
        let (header, bytes) = piece.split_at_mut(PIECE_HEADER);
        let length = u32::try_from(bytes.len()).expect("pieces are short");
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..].copy_from_slice(&xxh3_64(bytes).to_le_bytes());
        self.state_bytes += u64::from(length);
        self.put(&piece)?;
        piece.truncate(PIECE_HEADER);
        self.piece = piece;
        Ok(())
    }

    /// Writes the last piece and the end of the state.
    fn end(&mut self) -> Result<(), E> {
        if self.piece.len() > PIECE_HEADER {
            self.put_piece()?;
        }
        let mut end = [0; 12];
        end[4..].copy_from_slice(&self.state_bytes.to_le_bytes());
        self.put(&end)
    }
}

impl<W: FnMut(&[u8]) -> Result<(), E>, E> Write for Pieces<'_, W, E> {
    /// Takes all of it: a view that ignores how much was taken must not end up with a state that
    /// looks whole.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut left = bytes;
        while !left.is_empty() {
            if self.error.is_some() {
                return Err(io::Error::other("the snapshot could not be written"));
            }
            let room = STATE_PIECE - (self.piece.len() - PIECE_HEADER);
            let now;
            (now, left) = left.split_at(left.len().min(room));
            self.piece.extend_from_slice(now);
            if now.len() == room
                && let Err(error) = self.put_piece()
            {
                self.error = Some(error);
            }
        }
        match self.error {
            Some(_) => Err(io::Error::other("the snapshot could not be written")),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A set of executed instances: the floor; then for each owner the number of ranges, and for each
/// range how many slots are missing before it and how many it has, each from 1.
impl Wire for Executed {
    fn encode(&self, out: &mut BytesMut) {
        self.floor().encode(out);
        for (owner, floor) in self.floor().iter() {
            let ranges = self.above(owner);
            put_varint(out, ranges.len() as u64);
            let mut end = floor;
            for (first, last) in ranges {
                put_varint(out, first - end - 1);
                put_varint(out, last - first + 1);
                end = *last;
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Executed, DecodeError> {
        let floor: Deps = from.read()?;
        let mut executed = Executed::up_to(floor.clone());
        for (owner, mut end) in floor.iter() {
            for _ in 0..from.count("ranges", usize::MAX, 2)? {
                let start = from.offset();
                let (gap, length) = (take_slot(from)?, take_slot(from)?);
                let first = end + gap + 1;
                let last = first + length - 1;
                if last > MAX_SLOT {
                    return too_high(from, start, last);
                }
                assert!(executed.extend(owner, first, last), "a gap lies before it");
                end = last;
            }
        }
        Ok(executed)
    }
}
