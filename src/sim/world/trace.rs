//! What happens in a world, hashed for comparison, and written down for people if they ask.

use std::io::Write;

use crate::replica::{PeerMessage, Transfer};
use crate::sim::subject::Subject;
use crate::types::Time;

/// The trace of one world.
pub(in crate::sim) struct Trace<'a> {
    hash: u64,
    transcript: Option<&'a mut dyn Write>,
}

impl<'a> Trace<'a> {
    /// Hashes, and writes a line for each event to `transcript`, if there is one.
    pub(in crate::sim) fn new(transcript: Option<&'a mut dyn Write>) -> Trace<'a> {
        Trace { hash: 0, transcript }
    }

    /// Takes in a fact.
    pub(in crate::sim) fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Writes a line. Text costs much more than the world it is about, so it is made on demand.
    pub(in crate::sim) fn say(&mut self, now: Time, line: impl FnOnce() -> String) {
        if let Some(transcript) = &mut self.transcript {
            // A transcript nobody can read any more is no reason to stop the world.
            let _ = writeln!(transcript, "{now:?} {}", line());
        }
    }

    pub(in crate::sim) fn hash(&self) -> u64 {
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
pub(in crate::sim) fn digest<P: Subject>(message: &PeerMessage<P::Message>) -> u64 {
    match message {
        PeerMessage::Ping { sent } => sent.as_nanos(),
        PeerMessage::Pong { echo } => !echo.as_nanos(),
        PeerMessage::Probe { sent } => 19 << 56 ^ sent.as_nanos(),
        PeerMessage::Probed { echo } => !(19 << 56 ^ echo.as_nanos()),
        PeerMessage::Transfer(message) => digest_transfer(message),
        PeerMessage::Protocol(message) => P::digest(message),
    }
}
