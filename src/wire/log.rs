//! The encoding of what the log-based protocols share.

use bytes::{BufMut, BytesMut};

use super::kinds::kinds;
use super::values::put_varint;
use super::{DecodeError, Flaw, Reader, Wire};
use crate::protocol::log::{Choice, LogRecord, ProtocolSnapshot, Upkeep};
use crate::types::{Ballot, MAX_SLOT, Slot};

kinds! { Upkeep, "a word about decided slots", _limits:
    0x00 Marks { known, saved } refused for too_high(Slot::max(known, saved));
    0x01 Fetch { from, to } refused for empty(from, to);
    0x02 Decided { slot, choice } refused for no_slot(slot);
    0x03 Truncated { up_to } refused for no_slot(up_to);
}

/// Refuses a slot that is 0 or above the maximum.
pub(super) fn no_slot(slot: Slot) -> Option<Flaw> {
    match slot {
        0 => Some(Flaw::Zero { what: "a slot" }),
        _ => too_high(slot),
    }
}

/// Refuses a position above the maximum; it may be 0.
pub(super) fn too_high(slot: Slot) -> Option<Flaw> {
    let (found, limit) = (slot, MAX_SLOT);
    (found > limit).then_some(Flaw::TooMany { what: "slots", found, limit })
}

/// Refuses the owner's ballot: every ballot of a log has a leader.
pub(super) fn nobodys(ballot: Ballot) -> Option<Flaw> {
    ballot.is_owner().then_some(Flaw::OwnersBallot)
}

fn empty(from: Slot, to: Slot) -> Option<Flaw> {
    no_slot(from).or_else(|| too_high(to)).or((from > to).then_some(Flaw::EmptyRange))
}

impl Wire for Choice {
    fn encode(&self, out: &mut BytesMut) {
        self.proposal.encode(out);
        self.value.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Choice, DecodeError> {
        Ok(Choice { proposal: from.read()?, value: from.read()? })
    }
}

const DECIDED: u8 = 0;
const RESERVED: u8 = 1;

impl Wire for LogRecord {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            LogRecord::Decided { slot, proposal, value } => {
                out.put_u8(DECIDED);
                slot.encode(out);
                proposal.encode(out);
                value.encode(out);
            }
            LogRecord::Reserved { names, rounds } => {
                out.put_u8(RESERVED);
                names.encode(out);
                put_varint(out, u64::from(*rounds));
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<LogRecord, DecodeError> {
        let start = from.offset();
        match from.byte("a record of a log")? {
            DECIDED => {
                let (slot, proposal, value) = (from.read()?, from.read()?, from.read()?);
                match no_slot(slot) {
                    Some(flaw) => from.refuse(start, flaw),
                    None => Ok(LogRecord::Decided { slot, proposal, value }),
                }
            }
            RESERVED => {
                let (names, rounds) = (from.read()?, from.varint32("a ballot's round")?);
                match too_high(names) {
                    Some(flaw) => from.refuse(start, flaw),
                    None => Ok(LogRecord::Reserved { names, rounds }),
                }
            }
            kind => from.refuse(start, Flaw::Kind { what: "a record of a log", kind }),
        }
    }
}

impl Wire for ProtocolSnapshot {
    fn encode(&self, out: &mut BytesMut) {
        self.floor.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<ProtocolSnapshot, DecodeError> {
        let start = from.offset();
        let floor = from.read()?;
        match too_high(floor) {
            Some(flaw) => from.refuse(start, flaw),
            None => Ok(ProtocolSnapshot { floor }),
        }
    }
}
