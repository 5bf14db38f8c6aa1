//! A world's future: one heap of events, and the messages under way.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::clients::Ask;
use super::freshness::Said;
use crate::machine::Outcome;
use crate::replica::{PeerMessage, SnapshotRead};
use crate::types::{ReplicaId, ReplicaSet, RequestId, Time};

/// More events than any correct world needs; beyond that, a replica talks to itself.
const MOST_EVENTS: u64 = 200_000_000;

/// An event of a snapshot.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) enum SnapshotEvent {
    /// Begin a snapshot; if the flag is set, also schedule a later one.
    Begin(ReplicaId, bool),
    /// Everything but its end is written, if the replica is still in that life.
    Finish(ReplicaId, u32),
    /// A part was read for another replica.
    Read(ReplicaId, u32, SnapshotRead),
    /// A snapshot from another replica is complete.
    Install(ReplicaId, u32),
}

/// A future event.
#[derive(Debug)]
pub(in crate::sim) enum Event {
    /// A message arrives: see [`Agenda::arrived`].
    Message(u32),
    /// A replica is free again.
    Free(ReplicaId),
    Tick(ReplicaId),
    /// The time named by `Core::wake`.
    Wake(ReplicaId),
    /// A flush is done up to a position, if the replica is still in that life.
    Flushed(ReplicaId, u64, u32),
    /// An event of a snapshot.
    Snapshot(SnapshotEvent),
    /// There is room on a disk again.
    Freed(ReplicaId),
    /// A replica stops and will come back, if it is still in that life.
    Stop(ReplicaId, u32),
    /// A replica comes back from that life.
    Return(ReplicaId, u32),
    /// A client's command reaches a replica.
    Request(Box<Ask>),
    /// An answer reaches a client.
    Reply(Box<(RequestId, Outcome)>),
    /// A client's request was refused.
    Refused(RequestId),
    /// A client may send another command.
    Next(usize),
    /// A client has waited too long, for the n-th time.
    Overdue(RequestId, u32),
    /// The next fault of one kind, by its place in the plan.
    Fault(usize),
    /// During an absence the others do something, or the absent ones are back.
    Absent(ReplicaSet, bool),
    /// The unrest is over.
    Calm,
    Look,
}

#[derive(Debug)]
struct Entry {
    at: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.number == other.number
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A message under way.
pub(in crate::sim) struct Letter<M> {
    pub(in crate::sim) from: ReplicaId,
    pub(in crate::sim) to: ReplicaId,
    pub(in crate::sim) said: Option<Said>,
    pub(in crate::sim) message: PeerMessage<M>,
}

/// The future events in order.
pub(super) struct Agenda<M> {
    heap: BinaryHeap<Reverse<Entry>>,
    scheduled: u64,
    events: u64,
    /// The messages under way, and the free places.
    letters: Vec<Option<Letter<M>>>,
    unused: Vec<u32>,
}

impl<M> Agenda<M> {
    pub(super) fn new() -> Agenda<M> {
        Agenda {
            heap: BinaryHeap::new(),
            scheduled: 0,
            events: 0,
            letters: Vec::new(),
            unused: Vec::new(),
        }
    }

    /// Schedules an event at this time.
    pub(super) fn add(&mut self, at: Time, event: Event) {
        // Events at the same time happen in the order in which they were scheduled.
        self.scheduled += 1;
        self.heap.push(Reverse(Entry { at, number: self.scheduled, event }));
    }

    /// Schedules a message's arrival.
    pub(super) fn post(&mut self, at: Time, letter: Letter<M>) {
        let place = match self.unused.pop() {
            Some(place) => {
                self.letters[place as usize] = Some(letter);
                place
            }
            None => {
                self.letters.push(Some(letter));
                u32::try_from(self.letters.len() - 1).expect("fewer messages than 2^32")
            }
        };
        self.add(at, Event::Message(place));
    }

    /// The next event and its time; `None` if there were too many.
    pub(super) fn next_event(&mut self) -> Option<(Time, Event)> {
        let Reverse(entry) = self.heap.pop().expect("a world without end has a next event");
        self.events += 1;
        (self.events <= MOST_EVENTS).then_some((entry.at, entry.event))
    }

    /// Takes out the message at this place.
    pub(super) fn arrived(&mut self, place: u32) -> Letter<M> {
        self.unused.push(place);
        self.letters[place as usize].take().expect("it arrives once")
    }
}
