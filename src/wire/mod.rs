//! Encodes and decodes the messages between replicas, the records of the log, and the messages
//! between clients and replicas. Pure, versioned, bounded. It sits between `replica` and the code
//! that transports or stores bytes.
//!
//! # The format
//!
//! A *frame* is one message; its carrier delimits it. It starts with the version of its format:
//!
//! | frame | bytes |
//! |---|---|
//! | [peer](encode_peer) | version · epoch (varint, 32 bits) · position (varint) · kind · fields |
//! | [record](encode_record) | version · epoch (varint, 32 bits) · kind · the kind's fields |
//! | [request](encode_request) | version · request · floor · kind · the kind's fields |
//! | [reply](encode_reply) | version · request · kind · the kind's fields |
//!
//! A [snapshot](encode_snapshot) is not a frame; it has a format of its own.
//!
//! | item | bytes |
//! |---|---|
//! | number | varint: seven bits a byte, the lowest first, in its shortest form |
//! | client id, key hash, clock reading, snapshot's name | 8, little-endian: seldom small |
//! | replica | 1: its number, from 1 |
//! | instance | owner · slot (number, from 1) |
//! | ballot | round (number) · leader, unless the round is 0 |
//! | vector | number of entries, exactly one a replica · each slot (number) |
//! | footprint | 0 for everything, or 1 + the number of keys · each hash · 0 read, 1 write |
//! | command | client · sequence · floor · origin · footprint · payload |
//! | batch | number of commands, from 1 · each command |
//! | payload, text | length (number) · the bytes |
//! | choice, flag, what may be missing | 1: its kind; 0 or 1 · what belongs to it |
//!
//! Properties, which the tests check:
//!
//! 1. One value has one encoding, and the decoder accepts no other. Encoding an accepted value
//!    again gives the same bytes.
//! 2. No input makes a decoder panic or reserve more than a fixed multiple of the frame's length.
//! 3. Payloads are slices of the frame, not copies.
//!
//! To add another protocol, implement [`Wire`] for its messages with kind bytes of their own (0x10
//! to 0x2f belong to EPaxos*, 0x30 to 0x3f to Multi-Paxos, 0x40 to 0x4f to Fast Paxos, 0x50 to 0x5f
//! to Paxos, below 0x10 to the runtime).

mod client;
mod epaxos;
mod epaxos_snapshot;
mod epochs;
mod error;
mod fast_paxos;
mod feed;
mod kinds;
mod log;
mod members;
mod multipaxos;
mod offer;
mod paxos;
mod peer;
mod reader;
mod snapshot;
#[cfg(test)]
mod tests;
mod transfer;
mod values;
mod versions;

pub use client::{
    Ask, CLIENT_HEADER_BYTES, MAX_PART, NoAnswer, Outcome, Refusal, Reply, Request, ServerInfo,
    decode_reply, decode_request, encode_reply, encode_request, greeting,
};
pub use epochs::{FIRST_EPOCH, Said, decode_said, encode_said};
pub use error::{DecodeError, Flaw};
pub use members::{Members, Role};
pub use offer::Offer;
pub use peer::{
    Frame, RECORD_VERSION, decode_peer, decode_record, encode_peer, encode_record, record_epoch,
};
pub use reader::{Limits, Reader};
pub use snapshot::{
    Encoded, Front, ReadSnapshotError, SNAPSHOT_VERSION, SNAPSHOT_VERSIONS, STATE_PIECE,
    SnapshotDecoder, SnapshotEnd, SnapshotError, WriteSnapshotError, encode_snapshot,
};

pub use versions::{BACKUPS, CLIENT_VERSIONS, OBSERVERS, PEER_VERSIONS};

use bytes::BytesMut;

/// A value with exactly one encoding.
pub trait Wire: Sized {
    /// Appends the encoding.
    fn encode(&self, out: &mut BytesMut);

    /// Decodes a value from the front of the remaining bytes.
    ///
    /// # Errors
    /// If the bytes are not the encoding of such a value, or exceed the reader's limits.
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError>;
}
