//! What a snapshot holds of EPaxos* for every replica, as bytes.

use bytes::{BufMut, BytesMut};

use super::values::{put_varint, too_high};
use super::{DecodeError, Flaw, Reader, Wire};
use crate::protocol::epaxos::{ConflictIndex, SavedIndex, Shared};
use crate::types::{InstanceId, KeyHash, MAX_SLOT, Slot};

impl Wire for Shared {
    fn encode(&self, out: &mut BytesMut) {
        self.floor.encode(out);
        self.index.to_saved().encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Shared, DecodeError> {
        Ok(Shared { floor: from.read()?, index: ConflictIndex::from_saved(from.read()?) })
    }
}

impl Wire for SavedIndex {
    fn encode(&self, out: &mut BytesMut) {
        self.floor.encode(out);
        self.any.encode(out);
        self.everything.encode(out);
        put_varint(out, self.wildcards.len() as u64);
        self.wildcards.iter().for_each(|id| id.encode(out));
        put_varint(out, self.keys.len() as u64);
        for (key, slots) in &self.keys {
            out.put_u64_le(key.0);
            slots.iter().for_each(|slot| put_varint(out, *slot));
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<SavedIndex, DecodeError> {
        let (floor, any, everything) = (from.read()?, from.read()?, from.read()?);
        let mut wildcards: Vec<InstanceId> = Vec::new();
        for _ in 0..from.count("wildcards", usize::MAX, 2)? {
            let start = from.offset();
            let id = from.read()?;
            if wildcards.last().is_some_and(|last| *last >= id) {
                return from.refuse(start, Flaw::Unsorted);
            }
            wildcards.push(id);
        }
        let each = 2 * from.limits().replicas;
        let count = from.count("keys", usize::MAX, 8 + each)?;
        let mut keys: Vec<(KeyHash, Vec<Slot>)> = Vec::with_capacity(count);
        for _ in 0..count {
            let start = from.offset();
            let key = KeyHash(from.fixed("a key")?);
            if keys.last().is_some_and(|(last, _)| *last >= key) {
                return from.refuse(start, Flaw::Unsorted);
            }
            let mut slots = Vec::with_capacity(each);
            for _ in 0..each {
                let start = from.offset();
                match from.varint("a slot")? {
                    slot if slot > MAX_SLOT => return too_high(from, start, slot),
                    slot => slots.push(slot),
                }
            }
            keys.push((key, slots));
        }
        Ok(SavedIndex { floor, any, everything, wildcards, keys })
    }
}
