//! Sends what the core has put out. Part of the runner.

use super::Runner;
use crate::mesh::{Dropped, Lane};
use crate::node::status::NodeProtocol;
use crate::replica::PeerMessage;
use crate::replica::epochs::Message;
use crate::wire::{PEER_VERSIONS, encode_said};

/// A frame at least this long must not delay the small ones after it.
const BULK_BYTES: usize = 128 << 10;
/// Frames are encoded into buffers of this size.
const BUFFER_BYTES: usize = 64 << 10;

impl<P: NodeProtocol> Runner<P> {
    /// Encodes each message in the version that was agreed on with its receivers, once unless the
    /// cluster is being upgraded, and queues it for all of them. A message that does not fit
    /// into a peer's queue is lost, as on any network; the mesh counts it, and the protocol sends
    /// it again.
    pub(super) fn send(&mut self) {
        for (to, epoch, message) in self.out.messages.drain(..) {
            if self.buffer.capacity() < BUFFER_BYTES / 16 {
                self.buffer.reserve(BUFFER_BYTES);
            }
            let mut encoded = None;
            for peer in to {
                let last = encoded.take();
                // One that was never connected gets nothing, in whichever version.
                let any = last.as_ref().map_or(PEER_VERSIONS.newest, |(version, _)| *version);
                let wanted = self.mesh.frames(peer).unwrap_or(any);
                let (_, frame) = match last {
                    Some((version, frame)) if version == wanted => encoded.insert((version, frame)),
                    _ => {
                        encode_said(wanted, epoch, self.durable, &message, &mut self.buffer);
                        encoded.insert((wanted, self.buffer.split().freeze()))
                    }
                };
                let is_large = frame.len() >= BULK_BYTES;
                if is_large {
                    self.sent_large.insert(peer);
                }
                // A probe follows the large messages, so it takes the same lane.
                let is_probe = matches!(message, Message::Core(PeerMessage::Probe { .. }));
                let lane = if is_large || is_probe { Lane::Bulk } else { Lane::Consensus };
                if let Err(why @ Dropped::TooLarge { .. }) =
                    self.mesh.send(peer, lane, frame.clone())
                {
                    tracing::error!(us = %self.shared.id, %peer, %why, "a message cannot be sent");
                }
            }
        }
    }
}
