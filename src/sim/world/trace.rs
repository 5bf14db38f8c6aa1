//! Hashes the events of a world for comparison, and writes them as text on request.

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
    /// Hashes events, and writes a line for each to `transcript`, if given.
    pub(in crate::sim) fn new(transcript: Option<&'a mut dyn Write>) -> Trace<'a> {
        Trace { hash: 0, transcript }
    }

    /// Adds a word to the hash.
    pub(in crate::sim) fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Writes a line. The text is made only on demand, because it costs much more than the event.
    pub(in crate::sim) fn say(&mut self, now: Time, line: impl FnOnce() -> String) {
        if let Some(transcript) = &mut self.transcript {
            // An unwritable transcript is no reason to stop the world.
            let _ = writeln!(transcript, "{now:?} {}", line());
        }
    }

    pub(in crate::sim) fn hash(&self) -> u64 {
        self.hash
    }
}

/// A message about snapshots as one number.
fn digest_transfer(message: &Transfer) -> u64 {
    match message {
        Transfer::Request { at_least, .. } => 14 << 56 ^ at_least.as_slots().iter().sum::<u64>(),
        Transfer::Offer { snapshot, .. } => 15 << 56 ^ snapshot.0,
        Transfer::Fetch { snapshot, offset, .. } => 16 << 56 ^ snapshot.0 ^ offset,
        Transfer::Chunk { snapshot, offset, .. } => 17 << 56 ^ snapshot.0 ^ offset,
        Transfer::Gone { snapshot } => 18 << 56 ^ snapshot.0,
    }
}

/// A message as one number, to tell two worlds apart.
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
