//! The encoding of Fast Paxos messages and records.

use bytes::{BufMut, BytesMut};

use super::kinds::kinds;
use super::log::{no_slot, nobodys, too_high};
use super::values::put_varint;
use super::{DecodeError, Flaw, Reader, Wire};
use crate::protocol::fast_paxos::{Message, Record, Round};
use crate::types::{Ballot, Slot};

/// The most slots in one promise: twice the number that may be open.
const MOST_REPORTED: usize = 1 << 17;

kinds! { Message, "a message of Fast Paxos", _limits:
    0x40 Prepare { ballot } refused for nobodys(ballot);
    0x41 Promise { ballot, known, reported }
        refused for nobodys(ballot).or_else(|| above(known, Vec::<Slot>::as_slice(&reported)));
    0x42 Report { ballot, slot, round, choice } refused for unsound(slot, ballot);
    0x43 Open { ballot, is_fast, from } refused for unsound(from, ballot);
    0x44 Propose { choice };
    0x45 Suggest { ballot, slot, choice } refused for unsound(slot, ballot);
    0x46 Accept { ballot, slot, choice } refused for unsound(slot, ballot);
    0x47 Voted { slot, round, proposal } refused for no_slot(slot);
    0x48 Rejected { ballot } refused for nobodys(ballot);
    0x49 Upkeep (upkeep);
}

kinds! { Record, "a record of Fast Paxos", _limits:
    0x40 Promised { ballot } refused for nobodys(ballot);
    0x41 Voted { slot, round, choice } refused for no_slot(slot);
    0x42 Log (record);
}

fn unsound(slot: Slot, ballot: Ballot) -> Option<Flaw> {
    no_slot(slot).or_else(|| nobodys(ballot))
}

/// Reports must be of slots above `known`, in ascending order and each once.
fn above(known: Slot, reported: &[Slot]) -> Option<Flaw> {
    let all = || std::iter::once(&known).chain(reported);
    let sorted = all().zip(reported).all(|(before, slot)| before < slot);
    let last = all().next_back().copied().unwrap_or_default();
    too_high(last).or((!sorted).then_some(Flaw::Unsorted))
}

impl Wire for Round {
    fn encode(&self, out: &mut BytesMut) {
        self.ballot.encode(out);
        self.is_coordinated.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Round, DecodeError> {
        let start = from.offset();
        let round = Round { ballot: from.read()?, is_coordinated: from.read()? };
        match nobodys(round.ballot) {
            Some(flaw) => from.refuse(start, flaw),
            None => Ok(round),
        }
    }
}

impl Wire for Vec<Slot> {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.len() as u64);
        self.iter().for_each(|slot| slot.encode(out));
    }

    fn decode(from: &mut Reader<'_>) -> Result<Vec<Slot>, DecodeError> {
        let count = from.count("reported slots", MOST_REPORTED, 1)?;
        let mut slots = Vec::with_capacity(count);
        for _ in 0..count {
            slots.push(from.read()?);
        }
        Ok(slots)
    }
}
