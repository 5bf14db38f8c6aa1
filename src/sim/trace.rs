//! What happens in a world, hashed for comparison, and written down for people if they ask.

use std::io::Write;

use crate::protocol::epaxos::Message;
use crate::replica::{PeerMessage, Transfer};
use crate::types::{Ballot, InstanceId, Time};

/// The trace of one world.
pub(super) struct Trace<'a> {
    hash: u64,
    transcript: Option<&'a mut dyn Write>,
}

impl<'a> Trace<'a> {
    /// Hashes, and writes a line for each event to `transcript`, if there is one.
    pub(super) fn new(transcript: Option<&'a mut dyn Write>) -> Trace<'a> {
        Trace { hash: 0, transcript }
    }

    /// Takes in a fact.
    pub(super) fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Writes a line. Text costs much more than the world it is about, so it is made on demand.
    pub(super) fn say(&mut self, now: Time, line: impl FnOnce() -> String) {
        if let Some(transcript) = &mut self.transcript {
            // A transcript nobody can read any more is no reason to stop the world.
            let _ = writeln!(transcript, "{now:?} {}", line());
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

/// A word about snapshots in one word.
fn digest_transfer(message: &Transfer) -> u64 {
    match message {
        Transfer::Request { at_least, .. } => 14 << 56 ^ at_least.as_slots().iter().sum::<u64>(),
        Transfer::Offer { snapshot, .. } => 15 << 56 ^ snapshot.0,
        Transfer::Fetch { snapshot, offset, .. } => 16 << 56 ^ snapshot.0 ^ offset,
        Transfer::Chunk { snapshot, offset, .. } => 17 << 56 ^ snapshot.0 ^ offset,
        Transfer::Gone { snapshot } => 18 << 56 ^ snapshot.0,
    }
}

/// A message in one word: enough to tell two worlds apart.
pub(super) fn digest(message: &PeerMessage<Message>) -> u64 {
    let about = |kind: u64, id: InstanceId, ballot: Ballot| {
        let ballot = u64::from(ballot.round()) << 8 | u64::from(ballot.leader(id.replica).number());
        kind << 56 ^ u64::from(id.replica.number()) << 48 ^ id.slot << 20 ^ ballot
    };
    let message = match message {
        PeerMessage::Ping { sent } => return sent.as_nanos(),
        PeerMessage::Pong { echo } => return !echo.as_nanos(),
        PeerMessage::Transfer(message) => return digest_transfer(message),
        PeerMessage::Protocol(message) => message,
    };
    match message {
        Message::PreAccept { id, .. } => about(1, *id, Ballot::OWNER),
        Message::PreAcceptOk { id, .. } => about(2, *id, Ballot::OWNER),
        Message::Accept { id, ballot, .. } => about(3, *id, *ballot),
        Message::AcceptOk { id, ballot } => about(4, *id, *ballot),
        Message::Commit { id, .. } => about(5, *id, Ballot::OWNER),
        Message::Recover { id, ballot } => about(6, *id, *ballot),
        Message::RecoverOk { id, ballot, .. } => about(7, *id, *ballot),
        Message::Validate { id, ballot, .. } => about(8, *id, *ballot),
        Message::ValidateOk { id, ballot, .. } => about(9, *id, *ballot),
        Message::Waiting { id, fast_votes } => {
            about(10, *id, Ballot::OWNER) ^ u64::from(*fast_votes)
        }
        Message::Reject { id, ballot } => about(11, *id, *ballot),
        Message::Marks { proposed, known, executed, cut } => {
            let slots = known.as_slots().iter().chain(executed.as_slots()).chain(cut.as_slots());
            slots.fold(12 ^ proposed, |hash: u64, slot| hash.wrapping_mul(31).wrapping_add(*slot))
        }
        Message::Fetch { owner, from, to } => {
            about(13, InstanceId::new(*owner, *from), Ballot::OWNER) ^ to
        }
        Message::Truncated { id } => about(14, *id, Ballot::OWNER),
        Message::Cut { cut } | Message::CutOk { cut } => {
            let kind = if matches!(message, Message::Cut { .. }) { 15 } else { 16 };
            cut.as_slots().iter().fold(kind, |hash, slot| hash.wrapping_mul(31).wrapping_add(*slot))
        }
    }
}
