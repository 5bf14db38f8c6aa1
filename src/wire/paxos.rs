//! The encoding of Paxos messages and records.

use bytes::{BufMut, BytesMut};

use super::kinds::kinds;
use super::log::{no_slot, nobodys};
use super::{DecodeError, Flaw, Reader, Wire};
use crate::protocol::paxos::{Message, Record};
use crate::types::{Ballot, Slot};

kinds! { Message, "a message of Paxos", _limits:
    0x50 Prepare { slot, ballot } refused for unsound(slot, ballot);
    0x51 Promise { slot, ballot, vote } refused for unsound(slot, ballot);
    0x52 Accept { slot, ballot, choice } refused for unsound(slot, ballot);
    0x53 Accepted { slot, ballot } refused for unsound(slot, ballot);
    0x54 Rejected { slot, ballot } refused for unsound(slot, ballot);
    0x55 Upkeep (upkeep);
}

kinds! { Record, "a record of Paxos", _limits:
    0x50 Promised { slot, ballot } refused for unsound(slot, ballot);
    0x51 Voted { slot, ballot, choice } refused for unsound(slot, ballot);
    0x52 Log (record);
}

fn unsound(slot: Slot, ballot: Ballot) -> Option<Flaw> {
    no_slot(slot).or_else(|| nobodys(ballot))
}
