//! Decodes a snapshot from its start to its end, from chunks of any length, without holding all of
//! it.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{HEADER, MAGIC, PIECE_HEADER, SNAPSHOT_VERSION, STATE_PIECE, SnapshotError, UNDIVIDED};
use crate::replica::{Record, SnapshotId};
use crate::types::{BadMembership, Executed, MAX_REPLICAS, Membership};
use crate::wire::{DecodeError, FIRST_EPOCH, Flaw, Limits, Reader, Wire, decode_record};

/// The part of a snapshot before the state.
#[derive(Clone, PartialEq, Debug)]
pub struct Front<S> {
    /// The list of the epoch in which it was taken; `None` in the first epoch.
    pub list: Option<Membership>,
    /// The instances that its state has executed.
    pub executed: Executed,
    /// The protocol's shared part.
    pub shared: S,
}

/// What is known of a snapshot at the end of the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotEnd {
    /// The name. It matches the bytes.
    pub id: SnapshotId,
    /// The length of the part that others get.
    pub bytes: u64,
    /// The length of the state.
    pub state_bytes: u64,
}

/// Why a snapshot could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadSnapshotError<E> {
    /// The source of its bytes failed.
    #[error("{0}")]
    Source(E),
    /// Its bytes cannot be used.
    #[error("{0}")]
    Snapshot(SnapshotError),
}

impl<E> ReadSnapshotError<E> {
    /// Converts it to an error of the source.
    pub fn either(self, wrong: impl FnOnce(SnapshotError) -> E) -> E {
        match self {
            ReadSnapshotError::Source(error) => error,
            ReadSnapshotError::Snapshot(error) => wrong(error),
        }
    }
}

impl<E> From<SnapshotError> for ReadSnapshotError<E> {
    fn from(error: SnapshotError) -> ReadSnapshotError<E> {
        ReadSnapshotError::Snapshot(error)
    }
}

impl<E> From<DecodeError> for ReadSnapshotError<E> {
    fn from(error: DecodeError) -> ReadSnapshotError<E> {
        ReadSnapshotError::Snapshot(error.into())
    }
}

type Result<T, E> = std::result::Result<T, ReadSnapshotError<E>>;

/// How far the state has been read.
enum Place {
    /// The front has not been read.
    Front,
    /// In the undivided state of version 1.
    Undivided { left: u64 },
    /// In a piece: its rest, whether it has the full length, and the number of the next piece.
    Piece { rest: Bytes, full: bool, next: u64 },
    /// At the end of the state.
    End,
}

/// Decodes a snapshot. Call [`front`](SnapshotDecoder::front), then
/// [`state`](SnapshotDecoder::state), and then [`end`](SnapshotDecoder::end) for a snapshot from
/// another replica or [`own`](SnapshotDecoder::own) for an own one.
///
/// The bytes may be damaged or hostile. Memory grows with the bytes that are there, not with the
/// lengths in them. It holds the front, one piece of the state, or one record.
pub struct SnapshotDecoder<F, E> {
    /// Returns the next bytes, and none after the last.
    source: F,
    /// The bytes of the last chunk that are not decoded yet.
    chunk: Bytes,
    /// The hash of what has been decoded of the part that others get.
    hash: Xxh3,
    offset: u64,
    front: Bytes,
    place: Place,
    state_bytes: u64,
    /// Why the rest of the state cannot be read.
    failed: Option<ReadSnapshotError<E>>,
}

impl<E, F: FnMut() -> std::result::Result<Option<Bytes>, E>> SnapshotDecoder<F, E> {
    /// Decodes the bytes of `source`, which returns `None` after the last.
    pub fn new(source: F) -> SnapshotDecoder<F, E> {
        SnapshotDecoder {
            source,
            chunk: Bytes::new(),
            hash: Xxh3::new(),
            offset: 0,
            front: Bytes::new(),
            place: Place::Front,
            state_bytes: 0,
            failed: None,
        }
    }

    /// The size of the snapshot's cluster, for callers that do not know it; `None` if it makes no
    /// sense. It checks nothing else. To be called before [`front`](SnapshotDecoder::front).
    ///
    /// # Errors
    /// If it cannot be read or is not a snapshot.
    pub fn replicas(&mut self) -> Result<Option<usize>, E> {
        self.read_front()?;
        let limits = Limits::new(1);
        let mut from = Reader::new(&self.front, &limits);
        from.skip(self.header());
        take_epoch(&mut from)?;
        // The set of executed instances starts with a vector, which starts with its length.
        let replicas = usize::try_from(from.varint("a vector")?).unwrap_or(usize::MAX);
        Ok((1..=MAX_REPLICAS).contains(&replicas).then_some(replicas))
    }

    /// Decodes the part before the state of a snapshot of `cluster`. `limits` are those of the
    /// first epoch; a snapshot of a later one has its list. Only the name at the end of the
    /// snapshot tells whether it is sound.
    ///
    /// # Errors
    /// If it cannot be read, or is not a snapshot of this cluster.
    pub fn front<S: Wire>(&mut self, cluster: &str, limits: &Limits) -> Result<Front<S>, E> {
        self.read_front()?;
        let front = std::mem::take(&mut self.front);
        // Offsets in errors count from the start of the snapshot.
        let mut from = Reader::new(&front, limits);
        from.skip(self.header());
        let (found, list) = take_epoch(&mut from)?;
        if found != cluster {
            return Err(SnapshotError::OtherCluster { expected: cluster.to_owned(), found }.into());
        }
        let limits = limits.of(list.as_ref());
        let mut from = from.with_limits(&limits);
        let (executed, shared) = (from.read()?, from.read()?);
        from.finish()?;
        Ok(Front { list, executed, shared })
    }

    /// Gives the bytes of the state to `take`, which need not read all of them, and returns its
    /// result.
    ///
    /// # Errors
    /// If the part of the state that `take` read is damaged or incomplete, whatever `take` returns.
    pub fn state<T>(&mut self, take: impl FnOnce(&mut dyn Read) -> T) -> Result<T, E> {
        let taken = take(self);
        match self.failed.take() {
            Some(error) => Err(error),
            None => Ok(taken),
        }
    }

    /// Checks the rest of a snapshot that another replica offered under this name.
    ///
    /// # Errors
    /// If it is damaged, incomplete or too long.
    pub fn end(mut self, id: SnapshotId) -> Result<SnapshotEnd, E> {
        let end = self.end_of_state()?;
        check_name(id, end.id)?;
        self.finish()?;
        Ok(end)
    }

    /// Decodes the rest of an own snapshot. Gives its own records to `record`, in order. `limits`
    /// are those of its epoch.
    ///
    /// # Errors
    /// As for [`end`](SnapshotDecoder::end). `record` may have got some of the records by then.
    pub fn own<R: Wire>(
        mut self,
        limits: &Limits,
        mut record: impl FnMut(Record<R>),
    ) -> Result<SnapshotEnd, E> {
        let end = self.end_of_state()?;
        check_name(SnapshotId(self.number("the snapshot's name")?), end.id)?;
        for _ in 0..self.number("the number of records")? {
            let length = self.varint("a record")?;
            // A separate buffer, because payloads are slices of it and live long.
            record(decode_record(self.gather(length, "a record")?.into(), limits)?.1);
        }
        self.finish()?;
        Ok(end)
    }

    /// Reads the rest of the state and checks its end.
    fn end_of_state(&mut self) -> Result<SnapshotEnd, E> {
        while !matches!(self.place, Place::End) {
            let most = self.more_state()?;
            self.skip_state(most);
        }
        let id = SnapshotId(self.hash.digest());
        Ok(SnapshotEnd { id, bytes: self.offset, state_bytes: self.state_bytes })
    }

    /// Checks that nothing follows.
    fn finish(&mut self) -> Result<(), E> {
        if self.more()? {
            return Err(self.refuse(Flaw::Trailing { bytes: self.chunk.len() }));
        }
        Ok(())
    }

    fn read_front(&mut self) -> Result<(), E> {
        if !self.front.is_empty() {
            return Ok(());
        }
        let mut front = self.gather(HEADER as u64, "a snapshot")?;
        if front[..8] != MAGIC {
            return Err(DecodeError::new(0, Flaw::NotASnapshot).into());
        }
        let version = front[8];
        self.place = match version {
            SNAPSHOT_VERSION => Place::Piece { rest: Bytes::new(), full: true, next: 0 },
            UNDIVIDED => {
                let left = self.gather(8, "a length")?;
                front.extend_from_slice(&left);
                Place::Undivided { left: length(&front, 17)? }
            }
            found => {
                return Err(
                    DecodeError::new(8, Flaw::Version { found, known: SNAPSHOT_VERSION }).into()
                );
            }
        };
        let shared = self.gather(length(&front, 9)?, "what is shared")?;
        front.extend_from_slice(&shared);
        self.hash.update(&front);
        self.front = front.into();
        Ok(())
    }

    /// The length of the header.
    fn header(&self) -> usize {
        match self.place {
            Place::Undivided { .. } => HEADER + size_of::<u64>(),
            _ => HEADER,
        }
    }

    /// Makes some bytes of the state available. Returns their number, 0 at the end.
    fn more_state(&mut self) -> Result<usize, E> {
        match &self.place {
            Place::Front => {
                self.read_front()?;
                self.front = Bytes::new();
                self.more_state()
            }
            Place::End | Place::Undivided { left: 0 } => {
                self.place = Place::End;
                Ok(0)
            }
            Place::Undivided { left } => {
                let left = usize::try_from(*left).unwrap_or(usize::MAX);
                if !self.more()? {
                    return Err(self.refuse(Flaw::Truncated { what: "the state" }));
                }
                Ok(self.chunk.len().min(left))
            }
            Place::Piece { rest, .. } if !rest.is_empty() => Ok(rest.len()),
            Place::Piece { full, next, .. } => {
                let (full, next) = (*full, *next);
                self.next_piece(full, next)
            }
        }
    }

    /// The available bytes of the state.
    fn available(&self) -> &[u8] {
        match &self.place {
            Place::Piece { rest, .. } => rest,
            _ => &self.chunk,
        }
    }

    /// Counts this many of the available bytes as read.
    fn skip_state(&mut self, bytes: usize) {
        self.state_bytes += bytes as u64;
        match &mut self.place {
            Place::Undivided { left } => {
                *left -= bytes as u64;
                self.hash.update(&self.chunk[..bytes]);
                self.offset += bytes as u64;
                self.chunk.advance(bytes);
            }
            // The whole piece was hashed when it was read.
            Place::Piece { rest, .. } => rest.advance(bytes),
            Place::Front | Place::End => {}
        }
    }

    /// Reads the next piece, or the end of the state. Only a piece of full length has a next one.
    fn next_piece(&mut self, full: bool, next: u64) -> Result<usize, E> {
        let offset = self.offset;
        let header = self.gather(PIECE_HEADER as u64, "the state")?;
        self.hash.update(&header);
        let (mut length, mut number) = (&header[..4], &header[4..]);
        let (length, number) = (length.get_u32_le(), number.get_u64_le());
        if length == 0 {
            let found = self.state_bytes;
            if number != found {
                return Err(SnapshotError::Length { expected: number, found }.into());
            }
            self.place = Place::End;
            return Ok(0);
        }
        let limit = if full { STATE_PIECE as u64 } else { 0 };
        if u64::from(length) > limit {
            let (what, found) = ("a piece of the state", length.into());
            return Err(self.refuse(Flaw::TooMany { what, found, limit }));
        }
        let rest = Bytes::from(self.gather(length.into(), "the state")?);
        if xxh3_64(&rest) != number {
            return Err(SnapshotError::DamagedPiece { piece: next, offset }.into());
        }
        self.hash.update(&rest);
        let (bytes, full) = (rest.len(), rest.len() == STATE_PIECE);
        self.place = Place::Piece { rest, full, next: next + 1 };
        Ok(bytes)
    }

    /// Whether there are more bytes.
    fn more(&mut self) -> Result<bool, E> {
        while self.chunk.is_empty() {
            match (self.source)().map_err(ReadSnapshotError::Source)? {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Takes this many bytes, which may be in several chunks.
    fn gather(&mut self, length: u64, what: &'static str) -> Result<Vec<u8>, E> {
        let mut taken = Vec::new();
        while (taken.len() as u64) < length {
            if !self.more()? {
                return Err(self.refuse(Flaw::Truncated { what }));
            }
            let left = usize::try_from(length - taken.len() as u64).unwrap_or(usize::MAX);
            let now = self.chunk.split_to(self.chunk.len().min(left));
            taken.extend_from_slice(&now);
            self.offset += now.len() as u64;
        }
        Ok(taken)
    }

    /// Takes eight bytes as a number.
    fn number(&mut self, what: &'static str) -> Result<u64, E> {
        Ok(self.gather(8, what)?.as_slice().get_u64_le())
    }

    /// Takes a number in its shortest form.
    fn varint(&mut self, what: &'static str) -> Result<u64, E> {
        let (start, mut bytes) = (self.offset, Vec::new());
        while bytes.len() < 10 && bytes.last().is_none_or(|byte| byte & 0x80 != 0) {
            bytes.append(&mut self.gather(1, what)?);
        }
        let (bytes, limits) = (bytes.into(), Limits::new(1));
        let number = Reader::new(&bytes, &limits).varint(what);
        number.map_err(|error| refuse(start, error.flaw()).into())
    }

    #[cold]
    fn refuse(&self, flaw: Flaw) -> ReadSnapshotError<E> {
        refuse(self.offset, flaw).into()
    }
}

/// Reads the state. An error also stays in `failed`, so that the reader cannot hide it.
impl<E, F: FnMut() -> std::result::Result<Option<Bytes>, E>> Read for SnapshotDecoder<F, E> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let failed = || io::Error::other("the snapshot cannot be read any further");
        if self.failed.is_some() {
            return Err(failed());
        }
        match self.more_state() {
            Ok(most) => {
                let bytes = most.min(into.len());
                into[..bytes].copy_from_slice(&self.available()[..bytes]);
                self.skip_state(bytes);
                Ok(bytes)
            }
            Err(error) => {
                self.failed = Some(error);
                Err(failed())
            }
        }
    }
}

/// Reads the cluster's name, and the list of members except in the first epoch.
fn take_epoch(
    from: &mut Reader<'_>,
) -> std::result::Result<(String, Option<Membership>), DecodeError> {
    let start = from.offset();
    let epoch = from.varint32("an epoch")?;
    let cluster = from.read()?;
    match epoch.checked_sub(FIRST_EPOCH) {
        None => from.refuse(start, Flaw::Zero { what: "an epoch" }),
        Some(0) => Ok((cluster, None)),
        Some(epoch) => {
            let start = from.offset();
            let list: Membership = from.read()?;
            if list.epoch() != epoch {
                return from.refuse(start, Flaw::Members(BadMembership::OTHER_EPOCH));
            }
            Ok((cluster, Some(list)))
        }
    }
}

fn check_name(expected: SnapshotId, found: SnapshotId) -> std::result::Result<(), SnapshotError> {
    if expected != found {
        return Err(SnapshotError::Damaged { expected: expected.0, found: found.0 });
    }
    Ok(())
}

#[cold]
fn refuse(offset: u64, flaw: Flaw) -> DecodeError {
    DecodeError::new(usize::try_from(offset).unwrap_or(usize::MAX), flaw)
}

/// Decodes a length in the header.
fn length(front: &[u8], at: usize) -> std::result::Result<u64, DecodeError> {
    let found = (&front[at..]).get_u64_le();
    let (limit, what) = (i64::MAX as u64 / 2, "a snapshot's bytes");
    if found > limit {
        return Err(DecodeError::new(at, Flaw::TooMany { what, found, limit }));
    }
    Ok(found)
}
