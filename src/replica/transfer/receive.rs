//! The receiver's side of a transfer: asks for a snapshot, and fetches it piece by piece.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::super::Limits;
use super::{Arrival, Receiving, SnapshotId, Transfer, WINDOW, Wishes, doubled};
use crate::protocol::View;
use crate::types::{Deps, ReplicaId, ReplicaSet, Time};

/// The time between two rounds of asking all: the first and the longest.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// How long a sender may send nothing before it is asked again: the first and the longest time.
const FETCH_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));
/// How often a silent, unsuspected sender is asked again before all are asked.
const TRIES: u32 = 5;
/// For this many rounds, only an offer of the snapshot already begun is accepted.
const LOYAL_ROUNDS: u32 = 2;

/// The state of the receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// No snapshot is needed.
    Idle,
    /// Asks all replicas; the next round, the `rounds`-th, is at `next`.
    Asking { next: Time, rounds: u32 },
    /// Fetches. Nothing has arrived since `quiet`, after `tries` repeated requests.
    Fetching { quiet: Time, tries: u32 },
    /// All bytes have arrived; the driver decodes them.
    Complete,
}

/// A requested chunk. It may arrive before earlier ones.
#[derive(Debug)]
struct Chunk {
    offset: u64,
    bytes: u32,
    arrived: Option<Bytes>,
}

/// A snapshot that has arrived in part.
#[derive(Debug)]
struct Receipt {
    from: ReplicaId,
    snapshot: SnapshotId,
    bytes: u64,
    /// The most bytes to request in one chunk.
    chunk: u32,
    /// Everything before this offset was requested.
    next: u64,
    /// The requested chunks not yet passed on: contiguous, up to `next`, at most [`WINDOW`].
    window: VecDeque<Chunk>,
}

impl Receipt {
    /// Everything before this offset was passed on.
    fn received(&self) -> u64 {
        self.window.front().map_or(self.next, |chunk| chunk.offset)
    }

    fn fetch(&self, chunk: &Chunk, wish: &mut Wishes) {
        let (snapshot, offset, bytes) = (self.snapshot, chunk.offset, chunk.bytes);
        wish.say(self.from, Transfer::Fetch { snapshot, offset, bytes });
    }

    /// Requests as many chunks as may be on their way.
    fn fill(&mut self, wish: &mut Wishes) {
        while self.window.len() < WINDOW && self.next < self.bytes {
            let left = self.bytes - self.next;
            let bytes = u32::try_from(left).unwrap_or(self.chunk).min(self.chunk);
            let chunk = Chunk { offset: self.next, bytes, arrived: None };
            self.fetch(&chunk, wish);
            self.next += u64::from(bytes);
            self.window.push_back(chunk);
        }
    }

    /// Requests the missing chunks again.
    fn ask_again(&self, wish: &mut Wishes) {
        let missing = self.window.iter().filter(|chunk| chunk.arrived.is_none());
        missing.for_each(|chunk| self.fetch(chunk, wish));
    }

    /// Accepts a chunk. Returns whether it was missing.
    fn take(&mut self, offset: u64, bytes: Bytes, wish: &mut Wishes) -> bool {
        let fits = |chunk: &&mut Chunk| {
            chunk.offset == offset
                && chunk.arrived.is_none()
                && u64::from(chunk.bytes) == bytes.len() as u64
        };
        let Some(chunk) = self.window.iter_mut().find(fits) else { return false };
        chunk.arrived = Some(bytes);
        while let Some(bytes) = self.window.front_mut().and_then(|chunk| chunk.arrived.take()) {
            self.window.pop_front();
            wish.received.push(Arrival::Bytes(bytes));
        }
        true
    }
}

/// The receiver's side; one transfer at a time.
///
/// Invariants: `need` is set unless the stage is `Idle`; there is a `receipt` while the stage is
/// `Fetching` or `Complete`.
#[derive(Debug)]
pub(in crate::replica) struct Receiver {
    others: ReplicaSet,
    max_bytes: u64,
    chunk: u32,
    need: Option<Deps>,
    /// What the requested snapshot has to hold. It stays the same while the others are asked: a
    /// snapshot takes time to make, and `need` may keep growing.
    asked: Deps,
    stage: Stage,
    receipt: Option<Receipt>,
    /// Replicas whose snapshot was unusable: their next offer is ignored.
    shunned: ReplicaSet,
}

impl Receiver {
    /// For a replica that may ask `others`.
    pub(in crate::replica) fn new(others: ReplicaSet, limits: &Limits) -> Receiver {
        let (max_bytes, chunk) = (limits.snapshot_bytes, limits.chunk_bytes);
        let (need, receipt, shunned) = (None, None, ReplicaSet::EMPTY);
        let (asked, stage) = (Deps::none(0), Stage::Idle);
        Receiver { others, max_bytes, chunk, need, asked, stage, receipt, shunned }
    }

    /// Whether a snapshot is needed.
    pub(in crate::replica) fn needs_any(&self) -> bool {
        self.need.is_some()
    }

    /// The progress of the transfer, if one is running.
    pub(in crate::replica) fn receiving(&self) -> Option<Receiving> {
        let receipt = self.receipt.as_ref()?;
        let (from, received, bytes) = (receipt.from, receipt.received(), receipt.bytes);
        Some(Receiving { from, received, bytes })
    }

    /// A snapshot is needed that also holds this.
    pub(in crate::replica) fn need(&mut self, at_least: &Deps, now: Time) {
        match &mut self.need {
            // The present request stays the same; the additional need is requested after it.
            Some(need) => need.merge(at_least),
            None => {
                self.need = Some(at_least.clone());
                self.stage = Stage::Asking { next: now, rounds: 0 };
            }
        }
    }

    /// Notes what is executed here. Returns whether that ends the need for a snapshot.
    pub(in crate::replica) fn executed(&mut self, executed: &Deps, wish: &mut Wishes) -> bool {
        // A complete snapshot is being decoded; `install` decides whether it is still of use.
        let needless = self.need.as_ref().is_some_and(|need| executed.includes(need));
        let ends = needless && self.stage != Stage::Complete;
        if ends {
            self.need = None;
            self.stage = Stage::Idle;
            if self.receipt.take().is_some() {
                wish.received.push(Arrival::GivenUp);
            }
        }
        ends
    }

    /// Time passed.
    pub(in crate::replica) fn tick(&mut self, view: &View, wish: &mut Wishes) {
        let now = view.now;
        match self.stage {
            Stage::Asking { next, rounds } if next <= now => {
                if rounds == 0 {
                    self.asked = self.need.clone().expect("it asks for what it needs");
                }
                let at_least = self.asked.clone();
                let part_of = self.receipt.as_ref().map(|receipt| receipt.snapshot);
                wish.messages.push((self.others, Transfer::Request { at_least, part_of }));
                let next = now + doubled(ASK_AGAIN.0, rounds, ASK_AGAIN.1);
                self.stage = Stage::Asking { next, rounds: rounds + 1 };
            }
            Stage::Fetching { quiet, tries } => {
                let receipt = self.receipt.as_ref().expect("a transfer is under way");
                let dead = view.suspected.contains(receipt.from);
                // A removed replica that serves the last state of its epoch has no place there.
                let of = |trips: &[Duration]| {
                    trips.get(receipt.from.index()).copied().unwrap_or_default()
                };
                let patience = FETCH_AGAIN.0.max(of(&view.round_trips) * 4);
                let patience = patience.max(of(&view.large_trips) * 2);
                let in_vain = if dead { 0 } else { tries };
                if now.since(quiet) < doubled(patience, in_vain, FETCH_AGAIN.1.max(patience)) {
                    return;
                }
                if dead || tries == TRIES {
                    self.stage = Stage::Asking { next: now, rounds: 0 };
                    return;
                }
                receipt.ask_again(wish);
                self.stage = Stage::Fetching { quiet: now, tries: tries + 1 };
            }
            Stage::Idle | Stage::Asking { .. } | Stage::Complete => {}
        }
    }

    pub(in crate::replica) fn on_offer(
        &mut self,
        from: ReplicaId,
        snapshot: SnapshotId,
        (executed, bytes): (&Deps, u64),
        now: Time,
        wish: &mut Wishes,
    ) {
        let Stage::Asking { rounds, .. } = self.stage else { return };
        if self.shunned.remove(from) {
            return;
        }
        if let Some(receipt) = &mut self.receipt {
            if receipt.snapshot == snapshot && receipt.bytes == bytes {
                receipt.from = from;
                receipt.ask_again(wish);
                self.stage = Stage::Fetching { quiet: now, tries: 0 };
                return;
            }
            if rounds <= LOYAL_ROUNDS {
                return;
            }
        }
        if rounds == 0 || bytes == 0 || bytes > self.max_bytes || !executed.includes(&self.asked) {
            return;
        }
        let (chunk, next, window) = (self.chunk, 0, VecDeque::new());
        let receipt = self.receipt.insert(Receipt { from, snapshot, bytes, chunk, next, window });
        wish.received.push(Arrival::Begins { snapshot, bytes });
        receipt.fill(wish);
        self.stage = Stage::Fetching { quiet: now, tries: 0 };
    }

    pub(in crate::replica) fn on_chunk(
        &mut self,
        snapshot: SnapshotId,
        offset: u64,
        bytes: Bytes,
        now: Time,
        wish: &mut Wishes,
    ) {
        let Stage::Fetching { .. } = self.stage else { return };
        let receipt = self.receipt.as_mut().expect("a transfer is under way");
        if receipt.snapshot != snapshot || !receipt.take(offset, bytes, wish) {
            return;
        }
        if receipt.received() == receipt.bytes {
            wish.received.push(Arrival::Complete);
            self.stage = Stage::Complete;
            return;
        }
        receipt.fill(wish);
        self.stage = Stage::Fetching { quiet: now, tries: 0 };
    }

    pub(in crate::replica) fn on_gone(
        &mut self,
        from: ReplicaId,
        snapshot: SnapshotId,
        now: Time,
        wish: &mut Wishes,
    ) {
        let same = |receipt: &Receipt| receipt.snapshot == snapshot && receipt.from == from;
        if self.stage != Stage::Complete && self.receipt.as_ref().is_some_and(same) {
            self.receipt = None;
            wish.received.push(Arrival::GivenUp);
            self.stage = Stage::Asking { next: now, rounds: 0 };
        }
    }

    /// A snapshot was installed: the state here now holds at least `executed`.
    pub(in crate::replica) fn installed(&mut self, executed: &Deps, now: Time) {
        self.receipt = None;
        self.shunned = ReplicaSet::EMPTY;
        if self.need.as_ref().is_some_and(|need| executed.includes(need)) {
            self.need = None;
        }
        self.stage = match &mut self.need {
            Some(need) => {
                // The next snapshot must also hold what is here now.
                need.merge(executed);
                Stage::Asking { next: now, rounds: 0 }
            }
            None => Stage::Idle,
        };
    }

    /// The complete snapshot is older than the state here, which holds at least `executed`. The
    /// next one must hold that too.
    pub(in crate::replica) fn refused(&mut self, executed: &Deps, now: Time) {
        if let (Stage::Complete, Some(need)) = (self.stage, &mut self.need) {
            need.merge(executed);
        }
        self.rejected(now);
    }

    /// The complete snapshot is unusable: takes the next one from another replica, if possible.
    pub(in crate::replica) fn rejected(&mut self, now: Time) {
        if self.stage != Stage::Complete {
            return;
        }
        let receipt = self.receipt.take().expect("a transfer is complete");
        self.shunned.insert(receipt.from);
        self.stage = Stage::Asking { next: now, rounds: 0 };
    }
}
