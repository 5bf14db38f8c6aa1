//! Frames in, messages out: what the mesh calls when something arrives. It runs on the replica's
//! own event loop, between two turns of the core, so there is nothing to contend for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tracing::warn;

use super::clients::Service;
use super::error::Fault;
use super::register::Register;
use super::shared::{Shared, lock};
use crate::mesh::{ClientConnection, Closed, Inbound, Refusal};
use crate::replica::{Input, PeerMessage};
use crate::storage::Life;
use crate::types::ReplicaId;
use crate::wire::{self, Wire, decode_peer};

/// The cluster's membership never changes yet, so there is one epoch.
pub(super) const EPOCH: u32 = 1;
/// A peer's first few wrong frames are logged, and after that every so many.
const LOG_EVERY: u64 = 1000;

/// Messages that wait for the core's next turn.
///
/// Invariant: `bytes` is the length of the frames that `inputs` were decoded from.
struct Messages<M> {
    inputs: Vec<Input<M>>,
    bytes: usize,
}

pub(super) struct Inbox<M> {
    shared: Arc<Shared>,
    service: Arc<Service>,
    register: Register,
    limits: wire::Limits,
    /// How often each peer has sent what makes no sense.
    wrong_frames: Vec<AtomicU64>,
    messages: Mutex<Messages<M>>,
    /// The core has more than it can have applied: no more for now.
    held_back: AtomicBool,
}

impl<M: Wire> Inbox<M> {
    pub(super) fn new(
        shared: Arc<Shared>,
        service: Arc<Service>,
        register: Register,
        replicas: usize,
    ) -> Inbox<M> {
        Inbox {
            shared,
            service,
            register,
            limits: wire::Limits::new(replicas),
            wrong_frames: (0..replicas).map(|_| AtomicU64::new(0)).collect(),
            messages: Mutex::new(Messages { inputs: Vec::new(), bytes: 0 }),
            held_back: AtomicBool::new(false),
        }
    }

    /// Takes everything that has arrived, leaving `empty`, which must be, in its place.
    pub(super) fn take(&self, empty: &mut Vec<Input<M>>) {
        let mut messages = lock(&self.messages);
        std::mem::swap(&mut messages.inputs, empty);
        messages.bytes = 0;
    }

    /// Whether the peers are held back.
    pub(super) fn hold_back(&self, hold_back: bool) {
        self.held_back.store(hold_back, Ordering::Relaxed);
    }

    /// Frames of peers that made no sense.
    pub(super) fn wrong_frames(&self) -> u64 {
        self.wrong_frames.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn decode(&self, from: ReplicaId, frame: Bytes) -> Option<PeerMessage<M>> {
        let why = match decode_peer(frame, &self.limits) {
            Ok((EPOCH, message)) => return Some(message),
            Ok((epoch, _)) => format!("epoch {epoch}, where {EPOCH} is the only one"),
            Err(error) => error.to_string(),
        };
        let before = self.wrong_frames[from.index()].fetch_add(1, Ordering::Relaxed);
        if before < 3 || before.is_multiple_of(LOG_EVERY) {
            warn!(us = %self.shared.id, %from, %why, count = before + 1, "dropped a frame");
        }
        None
    }
}

impl<M: Wire + Send + 'static> Inbound for Arc<Inbox<M>> {
    fn on_frames(&self, from: ReplicaId, frames: &mut Vec<Bytes>) {
        if from.index() >= self.wrong_frames.len() {
            return frames.clear();
        }
        if self.held_back.load(Ordering::Relaxed) {
            return;
        }
        let mut messages = lock(&self.messages);
        let room = self.shared.limits.inbox_bytes;
        let taken = frames.iter().position(|frame| {
            // An empty inbox takes any frame, so that the largest can always pass.
            let full = messages.bytes > 0 && messages.bytes + frame.len() > room;
            if !full {
                messages.bytes += frame.len();
            }
            full
        });
        for frame in frames.drain(..taken.unwrap_or(frames.len())) {
            let message = self.decode(from, frame);
            messages.inputs.extend(message.map(|message| Input::Peer { from, message }));
        }
        drop(messages);
        self.shared.wake.notify_one();
    }

    fn admit(&self, peer: ReplicaId, directory: u64, incarnation: u64) -> Result<(), Refusal> {
        self.register.admit(peer, Life { directory, incarnation })
    }

    fn on_outcast(&self, peer: ReplicaId, why: &Closed) {
        self.shared.fail(Fault::Outcast { peer, why: why.to_string() });
        self.register.cast_out();
    }

    fn on_peer_up(&self, peer: ReplicaId, _incarnation: u64) {
        self.shared.connected.send_modify(|connected| {
            connected.insert(peer);
        });
    }

    fn on_peer_down(&self, peer: ReplicaId) {
        self.shared.connected.send_modify(|connected| {
            connected.remove(peer);
        });
    }

    fn on_client(&self, client: ClientConnection) {
        tokio::spawn(Arc::clone(&self.service).serve(client));
    }
}
