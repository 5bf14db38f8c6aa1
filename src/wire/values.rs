//! The encoding of the values in `types`. Decoding checks each one's invariants.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::{DecodeError, Flaw, Reader, Wire};
use crate::types::{
    Access, Ballot, Batch, ClientId, Command, Deps, Era, Footprint, InstanceId, KeyHash, MAX_SLOT,
    ReplicaId, RequestId, Slot, Time, Value,
};

/// The bytes of the shortest command: client 8, sequence, floor, origin, footprint, length of the
/// payload.
const LEAST_COMMAND: usize = 13;
/// The bytes of a key's hash and access.
const KEY: usize = 9;

/// Appends a number in its shortest form.
#[inline]
pub(super) fn put_varint(out: &mut BytesMut, value: u64) {
    if value < 0x80 {
        out.put_u8((value & 0x7f) as u8);
    } else {
        put_long_varint(out, value);
    }
}

fn put_long_varint(out: &mut BytesMut, mut value: u64) {
    let mut bytes = [0; 10];
    let mut length = 0;
    while value >= 0x80 {
        bytes[length] = (value & 0x7f) as u8 | 0x80;
        value >>= 7;
        length += 1;
    }
    bytes[length] = (value & 0x7f) as u8;
    out.put_slice(&bytes[..=length]);
}

/// Appends a length and the bytes.
#[inline]
pub(super) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

impl Wire for u8 {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(*self);
    }

    fn decode(from: &mut Reader<'_>) -> Result<u8, DecodeError> {
        from.byte("a byte")
    }
}

impl Wire for u64 {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, *self);
    }

    fn decode(from: &mut Reader<'_>) -> Result<u64, DecodeError> {
        from.varint("a number")
    }
}

impl Wire for bool {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(*self));
    }

    fn decode(from: &mut Reader<'_>) -> Result<bool, DecodeError> {
        let start = from.offset();
        match from.byte("a flag")? {
            0 => Ok(false),
            1 => Ok(true),
            kind => from.refuse(start, Flaw::Kind { what: "a flag", kind }),
        }
    }
}

impl<T: Wire> Wire for Option<T> {
    fn encode(&self, out: &mut BytesMut) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Option<T>, DecodeError> {
        if from.read()? { Ok(Some(from.read()?)) } else { Ok(None) }
    }
}

impl<T: Wire> Wire for Box<T> {
    fn encode(&self, out: &mut BytesMut) {
        (**self).encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Box<T>, DecodeError> {
        from.read().map(Box::new)
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn encode(&self, out: &mut BytesMut) {
        self.0.encode(out);
        self.1.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<(A, B), DecodeError> {
        Ok((from.read()?, from.read()?))
    }
}

impl Wire for Bytes {
    fn encode(&self, out: &mut BytesMut) {
        put_bytes(out, self);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
        from.bytes("a payload")
    }
}

impl Wire for String {
    fn encode(&self, out: &mut BytesMut) {
        put_bytes(out, self.as_bytes());
    }

    fn decode(from: &mut Reader<'_>) -> Result<String, DecodeError> {
        from.text("a text")
    }
}

impl Wire for Time {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.as_nanos());
    }

    fn decode(from: &mut Reader<'_>) -> Result<Time, DecodeError> {
        from.fixed("a clock reading").map(Time::from_nanos)
    }
}

impl Wire for ReplicaId {
    #[inline]
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.number());
    }

    #[inline]
    fn decode(from: &mut Reader<'_>) -> Result<ReplicaId, DecodeError> {
        let start = from.offset();
        let number = from.byte("a replica")?;
        let replicas = from.limits().replicas;
        match ReplicaId::new(number) {
            Some(replica) if replica.index() < replicas => Ok(replica),
            _ => from.refuse(start, Flaw::Replica { number, replicas }),
        }
    }
}

impl Wire for InstanceId {
    #[inline]
    fn encode(&self, out: &mut BytesMut) {
        self.replica.encode(out);
        put_varint(out, self.slot);
    }

    #[inline]
    fn decode(from: &mut Reader<'_>) -> Result<InstanceId, DecodeError> {
        Ok(InstanceId { replica: from.read()?, slot: take_slot(from)? })
    }
}

impl Wire for Era {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, u64::from(self.number()));
    }

    fn decode(from: &mut Reader<'_>) -> Result<Era, DecodeError> {
        let start = from.offset();
        let number = from.varint32("an era")?;
        match Era::new(number) {
            Some(era) => Ok(era),
            None => {
                let (found, limit) = (u64::from(number), u64::from(Era::LAST.number()));
                from.refuse(start, Flaw::TooMany { what: "eras", found, limit })
            }
        }
    }
}

impl Wire for RequestId {
    #[inline]
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.client.0);
        put_varint(out, self.sequence);
    }

    #[inline]
    fn decode(from: &mut Reader<'_>) -> Result<RequestId, DecodeError> {
        let client = ClientId(from.fixed("a client id")?);
        let sequence = nonzero(from, "a sequence number")?;
        Ok(RequestId { client, sequence })
    }
}

/// Reads a slot's number or a number of slots, from one.
#[inline]
pub(super) fn take_slot(from: &mut Reader<'_>) -> Result<Slot, DecodeError> {
    let start = from.offset();
    let slot = nonzero(from, "a slot")?;
    if slot > MAX_SLOT {
        return too_high(from, start, slot);
    }
    Ok(slot)
}

#[cold]
pub(super) fn too_high<T>(from: &Reader<'_>, start: usize, found: Slot) -> Result<T, DecodeError> {
    from.refuse(start, Flaw::TooMany { what: "slots", found, limit: MAX_SLOT })
}

/// Reads a number that counts from one.
#[inline]
fn nonzero(from: &mut Reader<'_>, what: &'static str) -> Result<u64, DecodeError> {
    let start = from.offset();
    match from.varint(what)? {
        0 => from.refuse(start, Flaw::Zero { what }),
        number => Ok(number),
    }
}

impl Wire for Ballot {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, u64::from(self.round()));
        if !self.is_owner() {
            // The argument matters only for the owner's ballot, and this is not one.
            self.leader(ReplicaId::from_index(0)).encode(out);
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Ballot, DecodeError> {
        let start = from.offset();
        match from.varint32("a ballot's round")? {
            0 => Ok(Ballot::OWNER),
            round if round > Ballot::MAX_ROUND => {
                let (found, limit) = (u64::from(round), u64::from(Ballot::MAX_ROUND));
                from.refuse(start, Flaw::TooMany { what: "rounds", found, limit })
            }
            round => {
                let leader = from.read()?;
                Ok(Ballot::new(round, leader).expect("the round is not 0"))
            }
        }
    }
}

impl Wire for Deps {
    #[inline]
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.len() as u64);
        for slot in self.as_slots() {
            put_varint(out, *slot);
        }
    }

    #[inline]
    fn decode(from: &mut Reader<'_>) -> Result<Deps, DecodeError> {
        let start = from.offset();
        let found = from.varint("a vector")?;
        let replicas = from.limits().replicas;
        if found != replicas as u64 {
            return from.refuse(start, Flaw::VectorLength { found, replicas });
        }
        let mut flaw = None;
        let mut highest = 0;
        let slots = (0..replicas).map(|_| match from.varint("a vector") {
            Ok(slot) => {
                highest = slot.max(highest);
                slot
            }
            Err(error) => {
                flaw.get_or_insert(error);
                0
            }
        });
        let deps = Deps::from_slots(slots);
        if highest > MAX_SLOT {
            return too_high(from, start, highest);
        }
        flaw.map_or(Ok(deps), Err)
    }
}

impl Wire for Footprint {
    #[inline]
    fn encode(&self, out: &mut BytesMut) {
        let Some(keys) = self.keys() else { return out.put_u8(0) };
        put_varint(out, keys.len() as u64 + 1);
        for (key, access) in keys {
            out.put_u64_le(key.0);
            (*access == Access::Write).encode(out);
        }
    }

    #[inline]
    fn decode(from: &mut Reader<'_>) -> Result<Footprint, DecodeError> {
        let start = from.offset();
        let marked = from.varint("a footprint")?;
        let Some(count) = marked.checked_sub(1) else { return Ok(Footprint::Everything) };
        let count = from.bounded("keys", start, count, from.limits().max_keys, KEY)?;
        if count == 1 {
            // Nearly every command has one key, so skip the bookkeeping.
            let (key, access) = take_key(from, None)?;
            return Ok(Footprint::one(key, access));
        }
        let mut flaw = None;
        let mut last = None;
        let keys = (0..count).map_while(|_| match take_key(from, last) {
            Ok((key, access)) => {
                last = Some(key);
                Some((key, access))
            }
            Err(error) => {
                flaw = Some(error);
                None
            }
        });
        let footprint = Footprint::from_keys(keys);
        flaw.map_or(Ok(footprint), Err)
    }
}

/// Reads a key, which must be greater than the last one.
#[inline]
fn take_key(
    from: &mut Reader<'_>,
    last: Option<KeyHash>,
) -> Result<(KeyHash, Access), DecodeError> {
    let start = from.offset();
    let key = KeyHash(from.fixed("a key")?);
    if last.is_some_and(|last| last >= key) {
        return from.refuse(start, Flaw::Unsorted);
    }
    let access = if from.read()? { Access::Write } else { Access::Read };
    Ok((key, access))
}

impl Wire for Command {
    #[inline]
    fn encode(&self, out: &mut BytesMut) {
        self.request.encode(out);
        put_varint(out, self.floor);
        self.origin.encode(out);
        self.footprint.encode(out);
        put_bytes(out, &self.payload);
    }

    #[inline]
    fn decode(from: &mut Reader<'_>) -> Result<Command, DecodeError> {
        Ok(Command {
            request: from.read()?,
            floor: from.varint("a floor")?,
            origin: from.read()?,
            footprint: from.read()?,
            payload: from.read()?,
        })
    }
}

impl Wire for Arc<Batch> {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.commands().len() as u64);
        for command in self.commands() {
            command.encode(out);
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Arc<Batch>, DecodeError> {
        let start = from.offset();
        let count = from.count("commands", from.limits().max_commands, LEAST_COMMAND)?;
        if count == 0 {
            return from.refuse(start, Flaw::EmptyBatch);
        }
        let mut commands = Vec::with_capacity(count);
        for _ in 0..count {
            commands.push(from.read()?);
        }
        Ok(Batch::new(commands))
    }
}

impl Wire for Value {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Value::Nop => out.put_u8(0),
            Value::Batch(batch) => {
                out.put_u8(1);
                batch.encode(out);
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Value, DecodeError> {
        let start = from.offset();
        match from.byte("a value")? {
            0 => Ok(Value::Nop),
            1 => Ok(Value::Batch(from.read()?)),
            kind => from.refuse(start, Flaw::Kind { what: "a value", kind }),
        }
    }
}
