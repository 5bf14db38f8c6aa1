//! What the two optimisations of PROTOCOL.md §7 gain: the latency of the fast path at its owner, in
//! message delays and flushes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use bytes::Bytes;

use super::{Core, Input, Limits, Output, PeerMessage};
use crate::protocol::Protocol;
use crate::protocol::epaxos::{EPaxos, Message};
use crate::types::{
    ClientId, Command, Durable, Footprint, LogPosition, Optimisations, Quorums, ReplicaId,
    RequestId, Retention, Settings, Time, Timing,
};

/// The one-way delay between any two replicas.
const DELAY: Duration = Duration::from_millis(10);
/// The time of each flush.
const FLUSH: Duration = Duration::from_millis(4);

/// An event at one replica.
enum Event {
    Message { from: ReplicaId, message: PeerMessage<Message> },
    Flushed(u64),
}

/// Five replicas on a perfect network, with disks that take time.
struct Cluster {
    cores: Vec<Core<EPaxos>>,
    now: Time,
    heap: BinaryHeap<Reverse<(Time, usize)>>,
    /// The events of the heap, by number.
    events: Vec<Option<(ReplicaId, Event)>>,
    appended: [u64; 5],
    flushing: [bool; 5],
    /// When the first replica last executed a command.
    executed: Time,
}

impl Cluster {
    fn new(optimisations: Optimisations) -> Cluster {
        let core = |me: ReplicaId| {
            let settings = Settings {
                me,
                quorums: Quorums::new(5).expect("a supported size"),
                seed: u64::from(me.number()),
                timing: Timing::default(),
                optimisations,
                retention: Retention::default(),
                leases: true,
            };
            Core::new(settings.clone(), Limits::default(), EPaxos::new(settings))
        };
        Cluster {
            cores: ReplicaId::all(5).map(core).collect(),
            now: Time::ZERO,
            heap: BinaryHeap::new(),
            events: Vec::new(),
            appended: [0; 5],
            flushing: [false; 5],
            executed: Time::ZERO,
        }
    }

    fn later(&mut self, after: Duration, to: ReplicaId, event: Event) {
        self.heap.push(Reverse((self.now + after, self.events.len())));
        self.events.push(Some((to, event)));
    }

    fn step(&mut self, me: ReplicaId, input: Input<Message>) {
        let mut out = Output::default();
        self.cores[me.index()].step(self.now, [input], &mut out);
        self.appended[me.index()] += out.records.len() as u64;
        if !out.records.is_empty() {
            self.flush(me);
        }
        for (to, message) in out.messages {
            for to in to.iter() {
                let message = message.clone();
                self.later(DELAY, to, Event::Message { from: me, message });
            }
        }
        if !out.execute.is_empty() && me.index() == 0 {
            self.executed = self.now;
        }
    }

    /// One flush at a time, of everything appended before it began.
    fn flush(&mut self, me: ReplicaId) {
        if !std::mem::replace(&mut self.flushing[me.index()], true) {
            self.later(FLUSH, me, Event::Flushed(self.appended[me.index()]));
        }
    }

    /// How long the first replica takes for a command on an idle cluster.
    fn execute(&mut self, sequence: u64) -> Duration {
        let (began, origin) = (self.now, ReplicaId::from_index(0));
        let command = Command {
            request: RequestId::new(ClientId(1), sequence),
            floor: 0,
            origin,
            footprint: Footprint::write(b"k"),
            payload: Bytes::new(),
        };
        self.step(origin, Input::Propose(command));
        while let Some(Reverse((at, number))) = self.heap.pop() {
            self.now = at;
            let (me, event) = self.events[number].take().expect("it happens once");
            match event {
                Event::Message { from, message } => self.step(me, Input::Peer { from, message }),
                Event::Flushed(position) => {
                    self.flushing[me.index()] = false;
                    let durable = Durable::flushed(LogPosition::new(position));
                    self.step(me, Input::Durable(durable));
                    if position < self.appended[me.index()] {
                        self.flush(me);
                    }
                }
            }
        }
        self.executed.since(began)
    }
}

/// The latency of the first command, and of a later one.
fn fast_path(optimisations: Optimisations) -> [Duration; 2] {
    let mut cluster = Cluster::new(optimisations);
    let first = cluster.execute(1);
    let later = (2..2 + 2 * Optimisations::RESERVED_BLOCK).map(|number| cluster.execute(number));
    let later: Vec<_> = later.collect();
    assert!(later.iter().all(|took| *took == later[0]), "always the same: {later:?}");
    [first, later[0]]
}

#[test]
fn the_owner_waits_for_three_flushes_two_or_one() {
    let silent = Optimisations { silent_orphans: true, ..Optimisations::NONE };
    let reserving = Optimisations { silent_orphans: false, ..Optimisations::ALL };
    let round_trip = DELAY * 2;
    // Flushes: the proposal's, a voter's, the commit's.
    assert_eq!(fast_path(Optimisations::NONE), [round_trip + FLUSH * 3; 2]);
    // Flushes: the proposal's, a voter's.
    assert_eq!(fast_path(silent), [round_trip + FLUSH * 2; 2]);
    // Flushes: a voter's and the commit's; at first also the reservation's.
    assert_eq!(fast_path(reserving), [round_trip + FLUSH * 3, round_trip + FLUSH * 2]);
    // Flushes: a voter's alone; at first also the reservation's.
    assert_eq!(fast_path(Optimisations::ALL), [round_trip + FLUSH * 2, round_trip + FLUSH]);
}
