//! The encoding of the part of an EPaxos* snapshot that is the same for every replica. The
//! replica's own records are encoded as in `epaxos`, like those of the log.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};

use super::values::put_varint;
use super::{DecodeError, Flaw, Reader, Wire};
use crate::protocol::epaxos::{
    DroppedIndex, ExecutedDecision, ExecutedValue, KeySlots, ProtocolSnapshot, SlotIndex,
};
use crate::types::{KeyHash, MAX_SLOT};

/// The bytes of a key's hash; its slots follow.
const KEY: usize = 8;
/// The bytes of the shortest executed decision: owner, slot, kind, length of the vector.
const LEAST_SETTLED: usize = 4;

const NOP: u8 = 0;
const BATCH: u8 = 1;
const NOP_OF: u8 = 2;

impl Wire for ProtocolSnapshot {
    fn encode(&self, out: &mut BytesMut) {
        self.floor.encode(out);
        self.cut.encode(out);
        self.dropped.encode(out);
        self.index.commands.encode(out);
        self.index.nops.encode(out);
        put_varint(out, self.decisions.len() as u64);
        self.decisions.iter().for_each(|decision| decision.encode(out));
    }

    fn decode(from: &mut Reader<'_>) -> Result<ProtocolSnapshot, DecodeError> {
        let (floor, cut, dropped) = (from.read()?, from.read()?, from.read()?);
        let index = DroppedIndex { commands: from.read()?, nops: from.read()? };
        let count = from.count("executed decisions", usize::MAX, LEAST_SETTLED)?;
        // Do not reserve `count` items: one takes more memory than its shortest encoding.
        let mut decisions: Vec<ExecutedDecision> = Vec::new();
        for _ in 0..count {
            let start = from.offset();
            let next: ExecutedDecision = from.read()?;
            if decisions.last().is_some_and(|last| last.id >= next.id) {
                return from.refuse(start, Flaw::Unsorted);
            }
            decisions.push(next);
        }
        Ok(ProtocolSnapshot { floor, cut, dropped, index, decisions })
    }
}

impl Wire for ExecutedDecision {
    fn encode(&self, out: &mut BytesMut) {
        self.id.encode(out);
        match &self.value {
            ExecutedValue::Nop => out.put_u8(NOP),
            ExecutedValue::Batch(batch) => {
                out.put_u8(BATCH);
                batch.encode(out);
            }
            ExecutedValue::NopOf(batch) => {
                out.put_u8(NOP_OF);
                batch.encode(out);
            }
        }
        self.deps.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<ExecutedDecision, DecodeError> {
        let id = from.read()?;
        let start = from.offset();
        let value = match from.byte("an executed decision")? {
            NOP => ExecutedValue::Nop,
            BATCH => ExecutedValue::Batch(from.read()?),
            NOP_OF => ExecutedValue::NopOf(from.read()?),
            kind => {
                return from.refuse(start, Flaw::Kind { what: "an executed decision", kind });
            }
        };
        Ok(ExecutedDecision { id, value, deps: from.read()? })
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::{
        Batch, ClientId, Command, Deps, Footprint, InstanceId, ReplicaId, RequestId,
    };
    use crate::wire::Limits;

    fn shared() -> ProtocolSnapshot {
        let deps = |slots: [u64; 3]| Deps::from_slots(slots);
        let key = |key: u64, slots: [u64; 6]| (KeyHash(key), KeySlots::from_slice(&slots));
        let keys = [key(3, [0, 1, 0, 200, 0, 4]), key(7, [0, 0, 9, 0, 0, 0])];
        let index = |keys: &[(KeyHash, KeySlots)]| {
            let keys = keys.iter().cloned().collect();
            SlotIndex::from_parts(deps([200, 1, 9]), deps([0, 1, 0]), keys).expect("3 replicas")
        };
        let batch = Batch::new(vec![Command {
            request: RequestId::new(ClientId(5), 1),
            floor: 0,
            origin: ReplicaId::from_index(1),
            footprint: Footprint::write(b"k"),
            payload: Bytes::from_static(b"pay"),
        }]);
        let values =
            [ExecutedValue::Batch(batch.clone()), ExecutedValue::NopOf(batch), ExecutedValue::Nop];
        let decisions = values.into_iter().zip(201..).map(|(value, slot)| ExecutedDecision {
            id: InstanceId::new(ReplicaId::from_index(0), slot),
            value,
            deps: deps([200, 0, 3]),
        });
        ProtocolSnapshot {
            floor: deps([1, 0, 0]),
            cut: deps([300, 1, 9]),
            dropped: deps([200, 1, 9]),
            index: DroppedIndex { commands: index(&keys), nops: index(&keys[1..]) },
            decisions: decisions.collect(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<ProtocolSnapshot, DecodeError> {
        let (frame, limits) = (Bytes::copy_from_slice(bytes), Limits::new(3));
        let mut from = Reader::new(&frame, &limits);
        let shared = from.read()?;
        from.finish()?;
        Ok(shared)
    }

    #[test]
    fn it_comes_back_as_it_was() {
        let mut bytes = BytesMut::new();
        shared().encode(&mut bytes);
        assert_eq!(decode(&bytes).expect("it was just encoded"), shared());
    }

    #[test]
    fn no_damage_makes_it_panic_and_what_is_accepted_has_one_encoding() {
        let mut sound = BytesMut::new();
        shared().encode(&mut sound);
        let mut refused = 0;
        for at in 0..sound.len() {
            assert!(decode(&sound[..at]).is_err(), "cut off at {at}");
            for bit in 0..8 {
                let mut damaged = sound.clone();
                damaged[at] ^= 1 << bit;
                match decode(&damaged) {
                    Ok(other) => {
                        let mut again = BytesMut::new();
                        other.encode(&mut again);
                        assert_eq!(again, damaged);
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused > 100, "{refused}");
    }
}
