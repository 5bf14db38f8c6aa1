//! What a snapshot holds of EPaxos* for every replica alike, as bytes. Its own records are bytes of
//! `epaxos`, like those of the log.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};

use super::values::put_varint;
use super::{DecodeError, Flaw, Reader, Wire};
use crate::protocol::epaxos::{DroppedIndex, KeySlots, Settled, SettledValue, Shared, SlotIndex};
use crate::types::{KeyHash, MAX_SLOT};

/// A key's hash; its slots come besides.
const KEY: usize = 8;
/// The shortest executed decision: owner, slot, kind, length of the vector.
const LEAST_SETTLED: usize = 4;

const NOP: u8 = 0;
const BATCH: u8 = 1;
const NOP_OF: u8 = 2;

impl Wire for Shared {
    fn encode(&self, out: &mut BytesMut) {
        self.floor.encode(out);
        self.cut.encode(out);
        self.dropped.encode(out);
        self.index.commands.encode(out);
        self.index.nops.encode(out);
        put_varint(out, self.settled.len() as u64);
        self.settled.iter().for_each(|settled| settled.encode(out));
    }

    fn decode(from: &mut Reader<'_>) -> Result<Shared, DecodeError> {
        let (floor, cut, dropped) = (from.read()?, from.read()?, from.read()?);
        let index = DroppedIndex { commands: from.read()?, nops: from.read()? };
        let count = from.count("executed decisions", usize::MAX, LEAST_SETTLED)?;
        // Room is made as they come: one takes more memory than the fewest bytes it may have.
        let mut settled: Vec<Settled> = Vec::new();
        for _ in 0..count {
            let start = from.offset();
            let next: Settled = from.read()?;
            if settled.last().is_some_and(|last| last.id >= next.id) {
                return from.refuse(start, Flaw::Unsorted);
            }
            settled.push(next);
        }
        Ok(Shared { floor, cut, dropped, index, settled })
    }
}

impl Wire for Settled {
    fn encode(&self, out: &mut BytesMut) {
        self.id.encode(out);
        match &self.value {
            SettledValue::Nop => out.put_u8(NOP),
            SettledValue::Batch(batch) => {
                out.put_u8(BATCH);
                batch.encode(out);
            }
            SettledValue::NopOf(batch) => {
                out.put_u8(NOP_OF);
                batch.encode(out);
            }
        }
        self.deps.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Settled, DecodeError> {
        let id = from.read()?;
        let start = from.offset();
        let value = match from.byte("an executed decision")? {
            NOP => SettledValue::Nop,
            BATCH => SettledValue::Batch(from.read()?),
            NOP_OF => SettledValue::NopOf(from.read()?),
            kind => {
                return from.refuse(start, Flaw::Kind { what: "an executed decision", kind });
            }
        };
        Ok(Settled { id, value, deps: from.read()? })
    }
}

impl Wire for SlotIndex {
    fn encode(&self, out: &mut BytesMut) {
        let (any, everything) = self.overall();
        any.encode(out);
        everything.encode(out);
        let keys = self.keys();
        put_varint(out, keys.len() as u64);
        for (key, slots) in keys {
            out.put_u64_le(key.0);
            slots.iter().for_each(|slot| put_varint(out, *slot));
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<SlotIndex, DecodeError> {
        let (any, everything) = (from.read()?, from.read()?);
        let slots = 2 * from.limits().replicas;
        let count = from.count("keys", usize::MAX, KEY + slots)?;
        let mut keys = BTreeMap::new();
        for _ in 0..count {
            let start = from.offset();
            let key = KeyHash(from.fixed("a key")?);
            if keys.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return from.refuse(start, Flaw::Unsorted);
            }
            keys.insert(key, take_slots(from, slots)?);
        }
        let index = SlotIndex::from_parts(any, everything, keys);
        Ok(index.expect("vectors and keys have as many slots as there are replicas"))
    }
}

fn take_slots(from: &mut Reader<'_>, count: usize) -> Result<KeySlots, DecodeError> {
    let mut slots = KeySlots::new();
    for _ in 0..count {
        let start = from.offset();
        let slot = from.varint("a slot")?;
        if slot > MAX_SLOT {
            let flaw = Flaw::TooMany { what: "slots", found: slot, limit: MAX_SLOT };
            return from.refuse(start, flaw);
        }
        slots.push(slot);
    }
    Ok(slots)
}
