//! Receives peers' frames and decodes them into messages for the core. The mesh calls it on the
//! replica's own event loop, between two turns of the core, so its lock is never contended.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tracing::warn;

use super::clients::Service;
use super::error::Fault;
use super::panics::lock;
use super::register::Register;
use super::shared::ReplicaShared;
use crate::mesh::{ClientConnection, Closed, Inbound, Introduction, Refusal};
use crate::replica::epochs::Input;
use crate::types::{Known, LogPosition, Member, MemberId, Membership, Presence};
use crate::wire::{self, Said, Wire, decode_said};

/// The first few wrong frames of a peer are logged, and then one in this many.
const LOG_EVERY: u64 = 1000;

/// Messages that wait for the core's next turn.
///
/// Invariants:
///
/// 1. `bytes` is the length of the frames that `inputs` were decoded from.
/// 2. `groups` says where each group of frames ends that arrived together: in `inputs`, and in
///    bytes from the first of them.
struct Messages<M> {
    inputs: Vec<Input<M>>,
    bytes: usize,
    groups: Vec<(usize, usize)>,
}

impl<M> Messages<M> {
    fn new() -> Messages<M> {
        Messages { inputs: Vec::new(), bytes: 0, groups: Vec::new() }
    }

    /// A group has arrived.
    fn end_group(&mut self) {
        self.groups.push((self.inputs.len(), self.bytes));
    }

    /// Moves groups to `taken`, which must be empty: as many as have at most `most` bytes together,
    /// and at least one.
    fn take(&mut self, most: usize, taken: &mut Vec<Input<M>>) {
        let fit = self.groups.iter().take_while(|(_, bytes)| *bytes <= most).count().max(1);
        if fit >= self.groups.len() {
            std::mem::swap(&mut self.inputs, taken);
            self.bytes = 0;
            return self.groups.clear();
        }
        let (inputs, bytes) = self.groups[fit - 1];
        taken.extend(self.inputs.drain(..inputs));
        self.groups.drain(..fit);
        for (end, sum) in &mut self.groups {
            (*end, *sum) = (*end - inputs, *sum - bytes);
        }
        self.bytes -= bytes;
    }
}

pub(super) struct Inbox<M> {
    shared: Arc<ReplicaShared>,
    service: Arc<Service>,
    register: Register,
    /// How long vectors are in each epoch whose list is known.
    limits: Mutex<Vec<(u32, wire::Limits)>>,
    /// How many wrong frames each peer has sent.
    wrong_frames: Mutex<BTreeMap<MemberId, u64>>,
    messages: Mutex<Messages<M>>,
    /// The apply thread is behind, so the core takes no more messages for now.
    held_back: AtomicBool,
}

impl<M: Wire> Inbox<M> {
    pub(super) fn new(
        shared: Arc<ReplicaShared>,
        service: Arc<Service>,
        register: Register,
    ) -> Inbox<M> {
        Inbox {
            shared,
            service,
            register,
            limits: Mutex::default(),
            wrong_frames: Mutex::default(),
            messages: Mutex::new(Messages::new()),
            held_back: AtomicBool::new(false),
        }
    }

    /// Sets the list of the present epoch, if there is one, and all lists that are known.
    /// Returns replicas that are connected under a member's number and are not that member, to be
    /// disconnected.
    pub(super) fn set_lists(
        &self,
        present: Option<&Membership>,
        known: &[Membership],
    ) -> Vec<(MemberId, Refusal)> {
        let limits = known.iter().map(|list| (list.epoch(), wire::Limits::new(list.len())));
        *lock(&self.limits) = limits.collect();
        let Some(list) = present else { return Vec::new() };
        let named = |of: &[Member]| of.iter().map(|it| (it.id, it.directory)).collect();
        let (members, observers) = (named(list.members()), named(list.observers()));
        self.register.set_list(list.epoch(), members, observers)
    }

    /// The data directory of a replica that is connected and no member, or its life if it keeps its
    /// records in memory.
    pub(super) fn newcomer(&self, peer: MemberId) -> Option<u64> {
        self.register.newcomer(peer)
    }

    /// Stores that this replica was removed, by this list.
    pub(super) fn retire(&self, list: &Membership) {
        self.register.retire(list);
    }

    /// Takes what has arrived first, of at most so many bytes, into `taken`, which must be empty.
    /// If more is left, the core is woken for another turn.
    pub(super) fn take(&self, most: usize, taken: &mut Vec<Input<M>>) {
        let mut messages = lock(&self.messages);
        messages.take(most, taken);
        if !messages.inputs.is_empty() {
            self.shared.wake.notify_one();
        }
    }

    /// Sets whether peers' frames are held back.
    pub(super) fn hold_back(&self, hold_back: bool) {
        self.held_back.store(hold_back, Ordering::Relaxed);
    }

    /// Notes how much of the local log is durable.
    pub(super) fn note_durable(&self, durable: LogPosition) {
        self.register.note_durable(durable);
    }

    /// Notes whether a majority is connected. From then on a peer that counts quorums differently
    /// is refused.
    pub(super) fn note_agreement(&self) {
        self.register.note_agreement(&self.shared.connected.borrow());
    }

    /// How many other members are not connected.
    pub(super) fn missing(&self) -> usize {
        self.register.missing(&self.shared.connected.borrow())
    }

    /// Whether the log was empty at this start, so that this replica has never voted.
    pub(super) fn is_new(&self) -> bool {
        self.register.is_new()
    }

    /// The number of wrong frames from all peers.
    pub(super) fn wrong_frames(&self) -> u64 {
        lock(&self.wrong_frames).values().sum()
    }

    fn decode(&self, from: MemberId, frame: Bytes) -> Option<Said<M>> {
        let known = lock(&self.limits);
        let limits = |epoch| {
            let found = known.iter().find(|(known, _)| Some(*known) == epoch);
            found.map(|(_, limits)| *limits)
        };
        let why = match decode_said(frame, limits) {
            Ok(said) => return Some(said),
            Err(error) => error,
        };
        let mut wrong = lock(&self.wrong_frames);
        let count = wrong.entry(from).or_default();
        *count += 1;
        if *count <= 3 || count.is_multiple_of(LOG_EVERY) {
            warn!(us = %self.shared.id, %from, %why, count, "dropped a frame");
        }
        None
    }
}

impl<M: Wire + Send + 'static> Inbound for Arc<Inbox<M>> {
    fn on_frames(&self, from: MemberId, frames: &mut Vec<Bytes>) {
        if self.held_back.load(Ordering::Relaxed) {
            return;
        }
        if self.register.is_impostor(from) {
            return frames.clear();
        }
        let mut messages = lock(&self.messages);
        let room = self.shared.limits.inbox_bytes;
        let taken = frames.iter().position(|frame| {
            // An empty inbox takes any frame, so that the largest one can always pass.
            let full = messages.bytes > 0 && messages.bytes + frame.len() > room;
            if !full {
                messages.bytes += frame.len();
            }
            full
        });
        let mut contradiction = None;
        for frame in frames.drain(..taken.unwrap_or(frames.len())) {
            let Some(Said { epoch, held, message }) = self.decode(from, frame) else { continue };
            let news = match self.register.heard(from, held) {
                Ok(news) => news,
                Err(refusal) => {
                    contradiction = Some(Fault::Contradiction(refusal));
                    break;
                }
            };
            messages.inputs.extend(news.map(|known| Input::Heard { peer: from, known }));
            messages.inputs.push(Input::Peer { from, epoch, message });
        }
        messages.end_group();
        drop(messages);
        if let Some(fault) = contradiction {
            self.shared.fail(fault);
        }
        self.shared.wake.notify_one();
    }

    fn introduce(&self) -> Introduction {
        self.register.introduce()
    }

    fn admit(
        &self,
        peer: MemberId,
        shown: Presence,
        knows: &[(MemberId, Known)],
    ) -> Result<(), Refusal> {
        let judged = self.register.admit(peer, shown, knows);
        if let Err(refusal @ Refusal::OlderHere { .. }) = &judged {
            // Fence at once: the replica may send nothing more, whatever happens to this
            // connection.
            self.on_refused(peer, &Closed::Here(refusal.clone()));
        }
        judged
    }

    fn on_refused(&self, peer: MemberId, why: &Closed) {
        if why.is_for_good() {
            self.shared.fail(Fault::Outcast { peer, why: why.to_string() });
            self.register.cast_out();
        } else if why.is_clone() {
            self.shared.fail(Fault::Clone { peer, why: why.to_string() });
        } else if why.is_other_list() && !self.register.others_agree() {
            self.shared.fail(Fault::OtherList { peer, why: why.to_string() });
        }
    }

    fn on_peer_up(&self, peer: MemberId, shown: Presence) {
        self.register.met(peer, shown);
        self.shared.connected.send_modify(|connected| {
            connected.insert(peer);
        });
        // This may be the peer that the runner waits for.
        self.shared.wake.notify_one();
    }

    fn on_peer_down(&self, peer: MemberId) {
        self.register.left(peer);
        self.shared.connected.send_modify(|connected| {
            connected.remove(&peer);
        });
    }

    fn on_client(&self, client: ClientConnection) {
        tokio::spawn(Arc::clone(&self.service).serve(client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group of ticks that stand for frames of `bytes` together.
    fn arrive(messages: &mut Messages<()>, count: usize, bytes: usize) {
        messages.inputs.extend((0..count).map(|_| Input::Core(crate::replica::Input::Tick)));
        messages.bytes += bytes;
        messages.end_group();
    }

    fn take(messages: &mut Messages<()>, most: usize) -> usize {
        let mut taken = Vec::new();
        messages.take(most, &mut taken);
        taken.len()
    }

    #[test]
    fn a_turn_takes_whole_groups_in_order_and_at_least_one() {
        let mut messages = Messages::new();
        assert_eq!(take(&mut messages, 100), 0);
        for (count, bytes) in [(1, 40), (2, 60), (4, 500), (8, 1), (16, 1)] {
            arrive(&mut messages, count, bytes);
        }
        assert_eq!(take(&mut messages, 100), 3);
        assert_eq!((take(&mut messages, 100), messages.bytes), (4, 2), "longer than a turn takes");
        arrive(&mut messages, 32, 99);
        assert_eq!(take(&mut messages, 100), 24);
        assert_eq!((take(&mut messages, 100), messages.bytes), (32, 0));
        assert_eq!((take(&mut messages, 100), messages.groups.len()), (0, 0));
    }
}
