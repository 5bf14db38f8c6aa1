//! The encoding of what a replica says and writes in its epochs: that of a single epoch, and a few
//! kinds of messages and records more.
//!
//! An epoch's number on the wire and on the disk is higher by one than in memory. A replica that
//! has heard of no epoch says 0.

use bytes::{BufMut, Bytes, BytesMut};

use super::feed::FEED;
use super::peer::{put_peer_header, take_peer_header};
use super::values::{put_bytes, put_varint};
use super::{DecodeError, Flaw, Limits, Reader, Wire};
use crate::replica::epochs::{Message, Record};
use crate::types::{Address, Change, LogPosition, MAX_REPLICAS, Member, MemberId, Membership};

/// The number of the first epoch on the wire and on the disk.
pub const FIRST_EPOCH: u32 = 1;

const OVER: u8 = 0x0a;
const ENTERED: u8 = 0x0b;
const START: u8 = 0x02;
const JOINING: u8 = 0x03;
const JOINED: u8 = 0x04;

/// A received frame of a replica in any epoch.
#[derive(Clone, PartialEq, Debug)]
pub struct Said<M> {
    /// The sender's epoch; `None` if it has heard of none.
    pub epoch: Option<u32>,
    /// How much of the sender's log was durable when it sent this.
    pub held: LogPosition,
    /// The message; `None` if it can only be read with the list of that epoch.
    pub message: Option<Message<M>>,
}

/// Appends the frame of a message from a replica in `epoch`, whose log is durable up to `held`; of
/// one that has heard of no epoch if that is `None`. The receiver understands `version`.
pub fn encode_said<M: Wire>(
    version: u8,
    epoch: Option<u32>,
    held: LogPosition,
    message: &Message<M>,
    out: &mut BytesMut,
) {
    put_peer_header(version, epoch.map_or(0, |epoch| epoch + FIRST_EPOCH), held, out);
    message.encode(out);
}

/// Decodes a frame of a replica in any epoch. `limits` tells those of an epoch whose list is known.
/// Of the frame of another epoch only the header is decoded, unless it tells of epochs.
///
/// # Errors
/// If the frame is not the encoding of a message of such a cluster.
pub fn decode_said<M: Wire>(
    frame: Bytes,
    limits: impl FnOnce(Option<u32>) -> Option<Limits>,
) -> Result<Said<M>, DecodeError> {
    let any = Limits::default();
    let mut from = Reader::new(&frame, &any);
    let (number, held) = take_peer_header(&mut from)?;
    let epoch = number.checked_sub(FIRST_EPOCH);
    let known = limits(epoch);
    if known.is_none() && !matches!(from.peek("a message")?, OVER | ENTERED) {
        return Ok(Said { epoch, held, message: None });
    }
    let known = known.unwrap_or(any);
    let mut from = from.with_limits(&known);
    let message = Some(from.read()?);
    from.finish()?;
    Ok(Said { epoch, held, message })
}

impl Wire for Membership {
    fn encode(&self, out: &mut BytesMut) {
        put_bytes(out, &self.to_bytes());
    }

    fn decode(from: &mut Reader<'_>) -> Result<Membership, DecodeError> {
        let start = from.offset();
        match Membership::from_bytes(&from.bytes("a list of members")?) {
            Ok(list) => Ok(list),
            Err(why) => from.refuse(start, Flaw::Members(why)),
        }
    }
}

/// A member's number.
impl Wire for MemberId {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, u64::from(self.number()));
    }

    fn decode(from: &mut Reader<'_>) -> Result<MemberId, DecodeError> {
        let start = from.offset();
        match MemberId::new(from.varint32("a member")?) {
            Some(member) => Ok(member),
            None => from.refuse(start, Flaw::Zero { what: "a member" }),
        }
    }
}

/// Members, at most as many as a list has.
impl Wire for Vec<MemberId> {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.len() as u64);
        self.iter().for_each(|member| member.encode(out));
    }

    fn decode(from: &mut Reader<'_>) -> Result<Vec<MemberId>, DecodeError> {
        (0..from.count("members", MAX_REPLICAS, 1)?).map(|_| from.read()).collect()
    }
}

impl Wire for Address {
    fn encode(&self, out: &mut BytesMut) {
        put_bytes(out, self.to_string().as_bytes());
    }

    fn decode(from: &mut Reader<'_>) -> Result<Address, DecodeError> {
        let start = from.offset();
        let text = from.text("an address")?;
        match Membership::address(&text) {
            Ok(address) => Ok(address),
            Err(why) => from.refuse(start, Flaw::Members(why)),
        }
    }
}

/// A change that a client asks for: it knows no directory.
impl Wire for Change {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Change::Add(new) => {
                out.put_u8(1);
                put_place(new.id, &new.address, out);
            }
            Change::Observe(new) => {
                out.put_u8(5);
                new.id.encode(out);
                new.address.encode(out);
            }
            Change::Promote(observer) => {
                out.put_u8(6);
                observer.encode(out);
            }
            Change::Remove(member) => {
                out.put_u8(2);
                member.encode(out);
            }
            Change::Replace { old, new } => {
                out.put_u8(3);
                old.encode(out);
                put_place(new.id, &new.address, out);
            }
            Change::Move { id, address } => {
                out.put_u8(4);
                put_place(*id, address, out);
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Change, DecodeError> {
        let new = |from: &mut Reader<'_>| -> Result<Member, DecodeError> {
            Ok(Member { id: from.read()?, address: from.read()?, directory: 0 })
        };
        let start = from.offset();
        match from.byte("a change")? {
            1 => Ok(Change::Add(new(from)?)),
            2 => Ok(Change::Remove(from.read()?)),
            3 => Ok(Change::Replace { old: from.read()?, new: new(from)? }),
            4 => Ok(Change::Move { id: from.read()?, address: from.read()? }),
            5 => Ok(Change::Observe(new(from)?)),
            6 => Ok(Change::Promote(from.read()?)),
            kind => from.refuse(start, Flaw::Kind { what: "a change", kind }),
        }
    }
}

/// Appends who a member is, and where.
fn put_place(id: MemberId, address: &Address, out: &mut BytesMut) {
    id.encode(out);
    address.encode(out);
}

impl<M: Wire> Wire for Message<M> {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Message::Over { list, safe } => {
                out.put_u8(OVER);
                safe.encode(out);
                list.encode(out);
            }
            Message::Entered { asks } => {
                out.put_u8(ENTERED);
                asks.encode(out);
            }
            Message::Feed(feed) => feed.encode(out),
            Message::Core(message) => message.encode(out),
        }
    }

    #[inline]
    fn decode(from: &mut Reader<'_>) -> Result<Message<M>, DecodeError> {
        match from.peek("a message")? {
            OVER => {
                from.byte("a message")?;
                let safe = from.read()?;
                Ok(Message::Over { safe, list: from.read()? })
            }
            ENTERED => {
                from.byte("a message")?;
                Ok(Message::Entered { asks: from.read()? })
            }
            FEED => from.read().map(Message::Feed),
            _ => from.read().map(Message::Core),
        }
    }
}

impl<R: Wire> Wire for Record<R> {
    fn encode(&self, out: &mut BytesMut) {
        let (kind, list) = match self {
            Record::Start(list) => (START, list),
            Record::Joining(list) => (JOINING, list),
            Record::Joined(list) => (JOINED, list),
            Record::Core(record) => return record.encode(out),
        };
        out.put_u8(kind);
        list.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Record<R>, DecodeError> {
        let of_list: fn(Membership) -> Record<R> = match from.peek("a record")? {
            START => Record::Start,
            JOINING => Record::Joining,
            JOINED => Record::Joined,
            _ => return from.read().map(Record::Core),
        };
        from.byte("a record")?;
        from.read().map(of_list)
    }
}
