//! The encoding of messages about snapshots between replicas.

use bytes::{BufMut, BytesMut};

use super::{DecodeError, Flaw, Reader, Wire};
use crate::replica::{MAX_CHUNK, SnapshotId, Transfer};

/// The first kind byte of a [`Transfer`].
pub(super) const TRANSFER_FIRST: u8 = 0x03;
/// The last one.
pub(super) const TRANSFER_LAST: u8 = 0x07;

impl Wire for SnapshotId {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.0);
    }

    fn decode(from: &mut Reader<'_>) -> Result<SnapshotId, DecodeError> {
        from.fixed("a snapshot's name").map(SnapshotId)
    }
}

impl Wire for Transfer {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Transfer::Request { at_least, part_of } => {
                out.put_u8(0x03);
                at_least.encode(out);
                part_of.encode(out);
            }
            Transfer::Offer { snapshot, executed, bytes } => {
                out.put_u8(0x04);
                snapshot.encode(out);
                executed.encode(out);
                bytes.encode(out);
            }
            Transfer::Fetch { snapshot, offset, bytes } => {
                out.put_u8(0x05);
                snapshot.encode(out);
                offset.encode(out);
                u64::from(*bytes).encode(out);
            }
            Transfer::Chunk { snapshot, offset, bytes } => {
                out.put_u8(0x06);
                snapshot.encode(out);
                offset.encode(out);
                bytes.encode(out);
            }
            Transfer::Gone { snapshot } => {
                out.put_u8(0x07);
                snapshot.encode(out);
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Transfer, DecodeError> {
        let start = from.offset();
        match from.byte("a message about snapshots")? {
            0x03 => Ok(Transfer::Request { at_least: from.read()?, part_of: from.read()? }),
            0x04 => {
                let (snapshot, executed) = (from.read()?, from.read()?);
                let bytes = positive(from, "a snapshot's length", u64::MAX)?;
                Ok(Transfer::Offer { snapshot, executed, bytes })
            }
            0x05 => {
                let (snapshot, offset) = (from.read()?, from.read()?);
                let bytes = positive(from, CHUNK, MAX_CHUNK.into())?;
                let bytes = u32::try_from(bytes).expect("at most a chunk's length");
                Ok(Transfer::Fetch { snapshot, offset, bytes })
            }
            0x06 => {
                let (snapshot, offset, start) = (from.read()?, from.read()?, from.offset());
                let bytes = from.bytes(CHUNK)?;
                match bounded(bytes.len() as u64, CHUNK, MAX_CHUNK.into()) {
                    None => Ok(Transfer::Chunk { snapshot, offset, bytes }),
                    Some(flaw) => from.refuse(start, flaw),
                }
            }
            0x07 => Ok(Transfer::Gone { snapshot: from.read()? }),
            kind => from.refuse(start, Flaw::Kind { what: "a message about snapshots", kind }),
        }
    }
}

const CHUNK: &str = "a chunk's length";

/// Reads a number from 1 to `limit`.
fn positive(from: &mut Reader<'_>, what: &'static str, limit: u64) -> Result<u64, DecodeError> {
    let start = from.offset();
    let found = from.varint(what)?;
    match bounded(found, what, limit) {
        None => Ok(found),
        Some(flaw) => from.refuse(start, flaw),
    }
}

/// What is wrong with a number that must be from 1 to `limit`.
fn bounded(found: u64, what: &'static str, limit: u64) -> Option<Flaw> {
    match found {
        0 => Some(Flaw::Zero { what }),
        _ => (found > limit).then_some(Flaw::TooMany { what, found, limit }),
    }
}
