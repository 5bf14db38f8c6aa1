//! Frames between replicas and records of the log: a header, followed by the protocol's part.

use bytes::{BufMut, Bytes, BytesMut};

use super::transfer::{TRANSFER_FIRST, TRANSFER_LAST};
use super::values::put_varint;
use super::{DecodeError, Flaw, Limits, Reader, Wire};
use crate::replica::{Heard, PeerMessage, Record, Since};
use crate::types::{LogPosition, MAX_REPLICAS, Time};

/// The version of the frames between replicas.
pub const PEER_VERSION: u8 = 3;
/// The version of the log's records.
pub const RECORD_VERSION: u8 = 1;

const PING: u8 = 0x01;
const PONG: u8 = 0x02;
const PROBE: u8 = 0x08;
const PROBED: u8 = 0x09;
/// The kind of a replica's own record.
const HEARD: u8 = 0x01;
/// This and the next two say what follows a replica that was heard. Here nothing follows: it is in
/// the same life as in the record before.
const SAME_LIFE: u8 = 0;
/// Its directory and its life follow.
const WITHOUT_BEGAN: u8 = 1;
/// Its directory, its life and where that life began follow.
const WITH_BEGAN: u8 = 2;

/// Appends the frame of a message in `epoch`, from a replica whose log is durable up to `held`.
///
/// The message must respect the [`Limits`] of its receivers. A correct replica's message does, if
/// its batches are formed under them.
pub fn encode_peer<M: Wire>(
    epoch: u32,
    held: LogPosition,
    message: &PeerMessage<M>,
    out: &mut BytesMut,
) {
    put_peer_header(epoch, held, out);
    message.encode(out);
}

pub(super) fn put_peer_header(epoch: u32, held: LogPosition, out: &mut BytesMut) {
    put_header(PEER_VERSION, epoch, out);
    put_varint(out, held.records());
}

/// A received frame.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame<M> {
    /// The frame's epoch.
    pub epoch: u32,
    /// How much of the sender's log was durable when it sent this.
    pub held: LogPosition,
    /// The message.
    pub message: PeerMessage<M>,
}

/// Decodes a frame. Payloads are slices of it and keep it alive.
///
/// # Errors
/// If the frame is not the encoding of a message of such a cluster.
pub fn decode_peer<M: Wire>(frame: Bytes, limits: &Limits) -> Result<Frame<M>, DecodeError> {
    let mut from = Reader::new(&frame, limits);
    let (epoch, held) = take_peer_header(&mut from)?;
    let message = from.read()?;
    from.finish()?;
    Ok(Frame { epoch, held, message })
}

pub(super) fn take_peer_header(from: &mut Reader<'_>) -> Result<(u32, LogPosition), DecodeError> {
    let epoch = take_header(PEER_VERSION, from)?;
    Ok((epoch, LogPosition::new(from.varint("a position")?)))
}

impl<M: Wire> Wire for PeerMessage<M> {
    fn encode(&self, out: &mut BytesMut) {
        let (kind, time) = match self {
            PeerMessage::Ping { sent } => (PING, sent),
            PeerMessage::Pong { echo } => (PONG, echo),
            PeerMessage::Probe { sent } => (PROBE, sent),
            PeerMessage::Probed { echo } => (PROBED, echo),
            PeerMessage::Transfer(message) => return message.encode(out),
            PeerMessage::Protocol(message) => return message.encode(out),
        };
        out.put_u8(kind);
        time.encode(out);
    }

    #[inline]
    fn decode(from: &mut Reader<'_>) -> Result<PeerMessage<M>, DecodeError> {
        let of_time: fn(Time) -> PeerMessage<M> = match from.peek("a message")? {
            PING => |sent| PeerMessage::Ping { sent },
            PONG => |echo| PeerMessage::Pong { echo },
            PROBE => |sent| PeerMessage::Probe { sent },
            PROBED => |echo| PeerMessage::Probed { echo },
            TRANSFER_FIRST..=TRANSFER_LAST => return from.read().map(PeerMessage::Transfer),
            _ => return from.read().map(PeerMessage::Protocol),
        };
        from.byte("a message")?;
        from.read().map(of_time)
    }
}

/// Appends the encoding of a record in `epoch`.
pub fn encode_record<R: Wire>(epoch: u32, record: &R, out: &mut BytesMut) {
    put_header(RECORD_VERSION, epoch, out);
    record.encode(out);
}

/// The epoch of a record, which decides how it is decoded.
///
/// # Errors
/// If the bytes do not start like a record.
pub fn record_epoch(bytes: &Bytes) -> Result<u32, DecodeError> {
    let limits = Limits::default();
    take_header(RECORD_VERSION, &mut Reader::new(bytes, &limits))
}

/// Decodes a record and its epoch. Payloads are slices of `bytes` and keep it alive.
///
/// # Errors
/// If the bytes are not the encoding of a record of such a cluster.
pub fn decode_record<R: Wire>(bytes: Bytes, limits: &Limits) -> Result<(u32, R), DecodeError> {
    let mut from = Reader::new(&bytes, limits);
    let epoch = take_header(RECORD_VERSION, &mut from)?;
    let record = from.read()?;
    from.finish()?;
    Ok((epoch, record))
}

impl<R: Wire> Wire for Record<R> {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Record::Heard(news) => {
                out.put_u8(HEARD);
                put_varint(out, news.len() as u64);
                for heard in news {
                    heard.peer.encode(out);
                    encode_since(heard.since, out);
                    put_varint(out, heard.held.records());
                }
            }
            Record::Protocol(record) => record.encode(out),
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Record<R>, DecodeError> {
        if from.peek("a record")? != HEARD {
            return from.read().map(Record::Protocol);
        }
        from.byte("a record")?;
        let mut news = Vec::new();
        for _ in 0..from.count("replicas heard", MAX_REPLICAS, 3)? {
            let (peer, since) = (from.read()?, decode_since(from)?);
            let held = LogPosition::new(from.varint("a position")?);
            news.push(Heard { peer, since, held });
        }
        Ok(Record::Heard(news))
    }
}

/// Earlier versions did not know where a life began, so their records have [`WITHOUT_BEGAN`].
fn encode_since(since: Option<Since>, out: &mut BytesMut) {
    let Some(Since { directory, life, began }) = since else { return out.put_u8(SAME_LIFE) };
    out.put_u8(if began.is_some() { WITH_BEGAN } else { WITHOUT_BEGAN });
    out.put_u64_le(directory);
    out.put_u64_le(life);
    if let Some(began) = began {
        put_varint(out, began.records());
    }
}

fn decode_since(from: &mut Reader<'_>) -> Result<Option<Since>, DecodeError> {
    let start = from.offset();
    let with_began = match from.byte("a life")? {
        SAME_LIFE => return Ok(None),
        WITHOUT_BEGAN => false,
        WITH_BEGAN => true,
        kind => return from.refuse(start, Flaw::Kind { what: "a life", kind }),
    };
    let (directory, life) = (from.fixed("a directory")?, from.fixed("a life")?);
    let began = match with_began {
        true => Some(LogPosition::new(from.varint("a position")?)),
        false => None,
    };
    Ok(Some(Since { directory, life, began }))
}

fn put_header(version: u8, epoch: u32, out: &mut BytesMut) {
    out.put_u8(version);
    put_varint(out, u64::from(epoch));
}

fn take_header(version: u8, from: &mut Reader<'_>) -> Result<u32, DecodeError> {
    take_version(version, from)?;
    from.varint32("an epoch")
}

/// Reads the version byte, which must be the known version.
pub(super) fn take_version(known: u8, from: &mut Reader<'_>) -> Result<(), DecodeError> {
    let start = from.offset();
    match from.byte("a version")? {
        version if version == known => Ok(()),
        found => from.refuse(start, Flaw::Version { found, known }),
    }
}
