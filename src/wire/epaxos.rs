//! The encoding of EPaxos* messages and records.

use bytes::{BufMut, BytesMut};

use super::kinds::kinds;
use super::values::put_varint;
use super::{DecodeError, Flaw, Reader, Wire};
use crate::protocol::epaxos::{CommitValue, Interfering, Message, Phase, Record, Report, Standing};
use crate::types::{Ballot, MAX_SLOT, Slot};

/// The bytes of the shortest interfering instance: owner, slot, flag.
const LEAST_INTERFERING: usize = 3;

kinds! { Message, "a message of EPaxos*", limits:
    0x10 PreAccept { id, batch, deps };
    0x11 PreAcceptOk { id, deps };
    0x12 Accept { id, ballot, value, deps };
    0x13 AcceptOk { id, ballot };
    0x14 Commit { id, value, deps };
    0x15 Recover { id, ballot } refused for owners(ballot);
    0x16 RecoverOk { id, ballot, report } refused for owners(ballot);
    0x17 Validate { id, ballot, batch, deps } refused for owners(ballot);
    0x18 ValidateOk { id, ballot, interfering } refused for owners(ballot);
    0x19 Waiting { id, fast_votes } refused for votes_above(fast_votes, limits.replicas);
    0x1a Reject { id, ballot } refused for owners(ballot);
    0x1b Marks { proposed, known, executed, by_all, cut };
    0x1c Fetch { owner, from, to } refused for empty(from, to);
    0x1d Truncated { id };
    0x1e Cut { cut };
    0x1f CutOk { cut };
}

kinds! { Record, "a record of EPaxos*", _limits:
    0x10 PreAccepted { id, batch, initial, deps };
    0x11 Accepted { id, ballot, value, deps };
    0x12 Joined { id, ballot };
    0x13 Validated { id, ballot, batch, initial };
    0x14 Committed { id, value, deps };
    0x15 Reserved { up_to } refused for too_far(up_to);
    0x16 Agreed { cut };
    0x17 Learned { id, batch };
    0x18 EarlyCommit { up_to } refused for too_far(up_to);
}

/// Refuses the owner's ballot: recoveries use rounds from 1 on, and only a higher ballot rejects
/// another (PROTOCOL.md §5.1, §5.2).
fn owners(ballot: Ballot) -> Option<Flaw> {
    ballot.is_owner().then_some(Flaw::OwnersBallot)
}

fn votes_above(votes: u8, replicas: usize) -> Option<Flaw> {
    let (found, limit) = (u64::from(votes), replicas as u64);
    (found > limit).then_some(Flaw::TooMany { what: "fast votes", found, limit })
}

fn too_far(up_to: Slot) -> Option<Flaw> {
    let (found, limit) = (up_to, MAX_SLOT);
    (found > limit).then_some(Flaw::TooMany { what: "slots", found, limit })
}

fn empty(from: Slot, to: Slot) -> Option<Flaw> {
    match from {
        0 => Some(Flaw::Zero { what: "a slot" }),
        _ => (from > to).then_some(Flaw::EmptyRange),
    }
}

impl Wire for CommitValue {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            CommitValue::Nop => out.put_u8(0),
            CommitValue::Batch(batch) => {
                out.put_u8(1);
                batch.encode(out);
            }
            CommitValue::OwnersBatch => out.put_u8(2),
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<CommitValue, DecodeError> {
        let start = from.offset();
        match from.byte("a decision")? {
            0 => Ok(CommitValue::Nop),
            1 => Ok(CommitValue::Batch(from.read()?)),
            2 => Ok(CommitValue::OwnersBatch),
            kind => from.refuse(start, Flaw::Kind { what: "a decision", kind }),
        }
    }
}

impl Wire for Phase {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(match self {
            Phase::Initial => 0,
            Phase::PreAccepted => 1,
            Phase::Accepted => 2,
            Phase::Committed => 3,
        });
    }

    fn decode(from: &mut Reader<'_>) -> Result<Phase, DecodeError> {
        let start = from.offset();
        match from.byte("a phase")? {
            0 => Ok(Phase::Initial),
            1 => Ok(Phase::PreAccepted),
            2 => Ok(Phase::Accepted),
            3 => Ok(Phase::Committed),
            kind => from.refuse(start, Flaw::Kind { what: "a phase", kind }),
        }
    }
}

impl Wire for Report {
    fn encode(&self, out: &mut BytesMut) {
        self.phase.encode(out);
        self.accepted.encode(out);
        self.value.encode(out);
        self.initial.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Report, DecodeError> {
        let start = from.offset();
        let report = Report {
            phase: from.read()?,
            accepted: from.read()?,
            value: from.read()?,
            initial: from.read()?,
        };
        // A replica that has committed answers with the decision. One that has voted has a value.
        let sound = match report.phase {
            Phase::Initial => true,
            Phase::PreAccepted | Phase::Accepted => report.value.is_some(),
            Phase::Committed => false,
        };
        if sound { Ok(report) } else { from.refuse(start, Flaw::Report) }
    }
}

impl Wire for Standing {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(match self {
            Standing::Open => 0,
            Standing::Committed => 1,
            Standing::Unknown => 2,
        });
    }

    fn decode(from: &mut Reader<'_>) -> Result<Standing, DecodeError> {
        let start = from.offset();
        match from.byte("an instance's standing")? {
            0 => Ok(Standing::Open),
            1 => Ok(Standing::Committed),
            2 => Ok(Standing::Unknown),
            kind => from.refuse(start, Flaw::Kind { what: "an instance's standing", kind }),
        }
    }
}

impl Wire for Interfering {
    fn encode(&self, out: &mut BytesMut) {
        self.id.encode(out);
        self.standing.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Interfering, DecodeError> {
        Ok(Interfering { id: from.read()?, standing: from.read()? })
    }
}

impl Wire for Vec<Interfering> {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.len() as u64);
        for interfering in self {
            interfering.encode(out);
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Vec<Interfering>, DecodeError> {
        let limit = from.limits().max_interfering;
        let count = from.count("interfering instances", limit, LEAST_INTERFERING)?;
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(from.read()?);
        }
        Ok(all)
    }
}
