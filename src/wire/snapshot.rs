//! The encoding of a snapshot: the part for other replicas first, then this replica's own part.
//!
//! | part | bytes |
//! |---|---|
//! | header | magic 8 · version 1 · length of the shared part 8 · length of the state 8 |
//! | shared | epoch (varint) · cluster (text) · executed · the protocol's shared part |
//! | state | the state machine and the sessions, in their own encoding |
//! | *other replicas get everything above this line* | |
//! | own | name 8 · number of records 8 · for each its length (varint) and the record |
//!
//! The name is the XXH3-64 of the part for others, and so also its checksum. A replica serves a
//! snapshot by reading ranges from its start, and the receiver can tell whether it is complete.

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

use super::peer::take_version;
use super::values::{put_varint, take_slot, too_high};
use super::{DecodeError, Flaw, Limits, Reader, Wire, decode_record, encode_record};
use crate::replica::{Checkpoint, OwnSnapshot, Record, SnapshotId};
use crate::types::{Deps, Executed, MAX_REPLICAS, MAX_SLOT};

/// The version of snapshots.
pub const SNAPSHOT_VERSION: u8 = 1;

const MAGIC: [u8; 8] = *b"isonomyS";
const HEADER: usize = 25;
/// The length of the name and the number of records.
const OWN_HEADER: usize = 16;
/// Records are written in pieces of about this many bytes.
const PIECE: usize = 256 << 10;

/// A decoded snapshot, without the replica's own part.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot<S> {
    /// Its name and length, for serving it.
    pub own: OwnSnapshot,
    /// The epoch in which it was taken.
    pub epoch: u32,
    /// The protocol's shared part.
    pub shared: S,
    /// The state machine and the sessions.
    pub state: Bytes,
}

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
    /// It is shorter or longer than its header says.
    #[error("the snapshot has {found} bytes where its header says {expected}")]
    Length {
        /// The length in its header.
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
    /// Its writer encoded it differently: [`Flaw::Version`] if that was another version; otherwise
    /// the writer has a bug.
    #[error("the snapshot cannot be read: {0}")]
    Decode(#[from] DecodeError),
}

/// Writes a snapshot of `checkpoint` and `state` in pieces to `write`. Returns what to tell the
/// core once the snapshot is durable.
///
/// # Errors
/// The first error of `write`, which is then not called again.
pub fn encode_snapshot<S: Wire, R: Wire, E>(
    epoch: u32,
    cluster: &str,
    checkpoint: &Checkpoint<S, R>,
    state: &[u8],
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<OwnSnapshot, E> {
    let mut out = BytesMut::zeroed(HEADER);
    put_varint(&mut out, u64::from(epoch));
    cluster.to_owned().encode(&mut out);
    checkpoint.executed.encode(&mut out);
    checkpoint.shared.encode(&mut out);
    let lengths = [(out.len() - HEADER) as u64, state.len() as u64];
    out[..8].copy_from_slice(&MAGIC);
    out[8] = SNAPSHOT_VERSION;
    out[9..17].copy_from_slice(&lengths[0].to_le_bytes());
    out[17..HEADER].copy_from_slice(&lengths[1].to_le_bytes());

    let mut hash = Xxh3::new();
    hash.update(&out);
    hash.update(state);
    let (id, bytes) = (SnapshotId(hash.digest()), (out.len() + state.len()) as u64);
    write(&out)?;
    write(state)?;

    out.clear();
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
    write(&out)?;
    Ok(OwnSnapshot { id, executed: checkpoint.executed.clone(), bytes })
}

/// Decodes a snapshot from another replica, of which `id` was expected. The state is a slice of
/// `bytes`.
///
/// # Errors
/// If it is not a complete, sound snapshot of `cluster` with that name.
pub fn decode_snapshot<S: Wire>(
    bytes: &Bytes,
    id: SnapshotId,
    cluster: &str,
    limits: &Limits,
) -> Result<Snapshot<S>, SnapshotError> {
    let (shared, state) = lengths(bytes, limits)?;
    let expected = HEADER as u64 + shared + state;
    let found = bytes.len() as u64;
    if expected != found {
        return Err(SnapshotError::Length { expected, found });
    }
    let hash = xxhash_rust::xxh3::xxh3_64(bytes);
    if hash != id.0 {
        return Err(SnapshotError::Damaged { expected: id.0, found: hash });
    }
    let state_at = HEADER + usize::try_from(shared).expect("it is in memory");
    // A copy, because payloads are slices of it, live long, and must not keep the state in memory.
    // Offsets in errors count from the start of the snapshot.
    let front = Bytes::copy_from_slice(&bytes[..state_at]);
    let mut from = Reader::new(&front, limits);
    from.skip(HEADER);
    let epoch = from.varint32("an epoch")?;
    let found: String = from.read()?;
    if found != cluster {
        return Err(SnapshotError::OtherCluster { expected: cluster.to_owned(), found });
    }
    let (executed, shared) = (from.read()?, from.read()?);
    from.finish()?;
    let own = OwnSnapshot { id, executed, bytes: expected };
    Ok(Snapshot { own, epoch, shared, state: bytes.slice(state_at..) })
}

/// Decodes an own snapshot, with its own records in order.
///
/// # Errors
/// If it is not a complete, sound snapshot of `cluster`.
pub fn decode_own_snapshot<S: Wire, R: Wire>(
    file: &Bytes,
    cluster: &str,
    limits: &Limits,
) -> Result<(Snapshot<S>, Vec<Record<R>>), SnapshotError> {
    let (shared, state) = lengths(file, limits)?;
    let others = HEADER as u64 + shared + state;
    let found = file.len() as u64;
    if others + OWN_HEADER as u64 > found {
        return Err(SnapshotError::Length { expected: others + OWN_HEADER as u64, found });
    }
    let own = file.slice(usize::try_from(others).expect("it is in memory")..);
    let mut from = Reader::new(&own, limits);
    let id = SnapshotId(from.fixed("the snapshot's name")?);
    let count = from.fixed("the number of records")?;
    let prefix = file.slice(..file.len() - own.len());
    let snapshot = decode_snapshot(&prefix, id, cluster, limits)?;
    let mut records = Vec::new();
    for _ in 0..count {
        // A separate copy, for the same reason.
        let bytes = Bytes::copy_from_slice(&from.bytes("a record")?);
        records.push(decode_record(bytes, limits)?.1);
    }
    from.finish()?;
    Ok((snapshot, records))
}

/// The size of a snapshot's cluster, for callers that do not know it; `None` if this is not a
/// snapshot. It checks nothing else.
pub fn replicas_in_snapshot(bytes: &Bytes) -> Option<usize> {
    let limits = Limits::new(1);
    lengths(bytes, &limits).ok()?;
    let mut from = Reader::new(bytes, &limits);
    from.skip(HEADER);
    from.varint32("an epoch").ok()?;
    let _: String = from.read().ok()?;
    // The set of executed instances starts with a vector, which starts with its length.
    let replicas = usize::try_from(from.varint("a vector").ok()?).ok()?;
    (1..=MAX_REPLICAS).contains(&replicas).then_some(replicas)
}

/// The lengths in the header: of the shared part and of the state. Their sum fits into 63 bits.
fn lengths(bytes: &Bytes, limits: &Limits) -> Result<(u64, u64), SnapshotError> {
    let mut from = Reader::new(bytes, limits);
    for byte in MAGIC {
        let start = from.offset();
        if from.byte("a snapshot")? != byte {
            return Ok(from.refuse(start, Flaw::NotASnapshot)?);
        }
    }
    take_version(SNAPSHOT_VERSION, &mut from)?;
    let (shared, state) = (from.fixed("a length")?, from.fixed("a length")?);
    let (limit, what) = (i64::MAX as u64 / 2, "a snapshot's bytes");
    for found in [shared, state] {
        if found > limit {
            return Ok(from.refuse(HEADER - OWN_HEADER, Flaw::TooMany { what, found, limit })?);
        }
    }
    Ok((shared, state))
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

#[cfg(test)]
mod tests;
