//! Members that are away, return, or receive nothing. Real replicas in memory mode, on links with a
//! delay that may lose everything in one direction, with snapshots that take time to make and send.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use bytes::Bytes;

use super::core_tests::{command, key, replica};
use super::{
    Arrival, Checkpoint, Core, Input, Limits, Output, OwnSnapshot, PeerMessage, Rejection,
    SnapshotId, Transfer,
};
use crate::protocol::Protocol;
use crate::protocol::epaxos::EPaxos;
use crate::protocol::fast_paxos::FastPaxos;
use crate::protocol::multipaxos::MultiPaxos;
use crate::protocol::paxos::Paxos;
use crate::types::{Durable, Optimisations, Quorums, ReplicaId, Retention, Settings, Time, Timing};

/// The length of every snapshot, in bytes.
const BYTES: u64 = 8 << 20;
/// How long a chunk occupies the link to its receiver.
const CHUNK: Duration = Duration::from_millis(3);
/// How long a snapshot takes to write.
const WRITING: Duration = Duration::from_millis(300);
/// The time between two own snapshots if no replica asks for one.
const OFTEN: Duration = Duration::from_secs(1);
/// The replica that is away, or deaf.
const AWAY: usize = 2;
/// The links to the replica that is away, and those from it.
const TO_IT: [(usize, usize); 2] = [(0, AWAY), (1, AWAY)];
const OF_IT: [(usize, usize); 2] = [(AWAY, 0), (AWAY, 1)];
/// The key that clients write unless they write keys of their own.
const SHARED: u64 = u64::MAX;

enum Event<P: Protocol> {
    Tick(usize),
    Input(usize, Box<Input<P::Message>>),
    /// A snapshot begins; the next one follows later.
    Snapshot(usize),
    /// The snapshot with this number is written.
    Written(usize, usize),
    /// A client of this replica writes the shared key or one of its own, and repeats it after the
    /// given time.
    Write(usize, Duration, bool),
}

/// Three replicas that keep little for one that is away, with drivers for their snapshots.
struct World<P: Protocol> {
    cores: Vec<Core<P>>,
    appended: [u64; 3],
    now: Time,
    heap: BinaryHeap<Reverse<(Time, usize)>>,
    events: Vec<Option<Event<P>>>,
    /// The one-way delay between any two replicas.
    delay: Duration,
    /// The links that lose everything, as (sender, receiver).
    cut: Vec<(usize, usize)>,
    link_free: Time,
    /// All snapshots ever begun; the index is the name.
    shelf: Vec<Checkpoint<P::Snapshot, P::Record>>,
    writing: [bool; 3],
    receiving: usize,
    written: u64,
    clients_rest: bool,
    /// How many commands each replica's state has executed.
    state: [u64; 3],
    states: Vec<u64>,
    installed: Option<Time>,
    /// When each replica last executed a command, and the longest time between two.
    executed: [(Time, Duration); 3],
}

impl<P: Protocol> World<P> {
    fn new() -> World<P> {
        let core = |me: ReplicaId| {
            let settings = Settings {
                me,
                quorums: Quorums::new(3).expect("a supported size"),
                seed: u64::from(me.number()),
                timing: Timing::default(),
                optimisations: Optimisations::NONE,
                retention: Retention { volatile: true, keep: 50_000 },
                leases: true,
            };
            Core::new(settings.clone(), Limits::default(), P::new(settings))
        };
        let mut world = World {
            cores: ReplicaId::all(3).map(core).collect(),
            appended: [0; 3],
            now: Time::ZERO,
            heap: BinaryHeap::new(),
            events: Vec::new(),
            delay: Duration::from_millis(1),
            cut: Vec::new(),
            link_free: Time::ZERO,
            shelf: Vec::new(),
            writing: [false; 3],
            receiving: 0,
            written: 0,
            clients_rest: false,
            state: [0; 3],
            states: Vec::new(),
            installed: None,
            executed: [(Time::ZERO, Duration::ZERO); 3],
        };
        for at in 0..3 {
            world.later(Duration::ZERO, Event::Tick(at));
            world.later(OFTEN, Event::Snapshot(at));
        }
        world
    }

    fn later(&mut self, after: Duration, event: Event<P>) {
        self.heap.push(Reverse((self.now + after, self.events.len())));
        self.events.push(Some(event));
    }

    fn input(&mut self, after: Duration, at: usize, input: Input<P::Message>) {
        self.later(after, Event::Input(at, Box::new(input)));
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(Reverse((at, _))) = self.heap.peek()
            && *at <= until
        {
            let Reverse((at, number)) = self.heap.pop().expect("it was there");
            self.now = at;
            match self.events[number].take().expect("it happens once") {
                Event::Tick(at) => {
                    self.later(Timing::default().tick, Event::Tick(at));
                    self.step(at, Input::Tick);
                }
                Event::Input(at, input) => self.step(at, *input),
                Event::Snapshot(at) => {
                    self.later(OFTEN, Event::Snapshot(at));
                    self.begin_snapshot(at);
                }
                Event::Written(at, number) => {
                    self.writing[at] = false;
                    let executed = self.shelf[number].executed.clone();
                    let own = OwnSnapshot { id: SnapshotId(number as u64), executed, bytes: BYTES };
                    self.step(at, Input::Snapshot(own));
                }
                Event::Write(at, pause, shared) => {
                    if self.clients_rest {
                        continue;
                    }
                    self.later(pause, Event::Write(at, pause, shared));
                    self.written += 1;
                    let on = key(if shared { SHARED } else { self.written });
                    let write = command(at, self.written, on, Bytes::from(vec![0; 64]));
                    self.step(at, Input::Propose(write));
                }
            }
        }
        self.now = until;
    }

    fn begin_snapshot(&mut self, at: usize) {
        if !std::mem::replace(&mut self.writing[at], true) {
            self.later(WRITING, Event::Written(at, self.shelf.len()));
            self.shelf.push(self.cores[at].checkpoint());
            self.states.push(self.state[at]);
        }
    }

    fn step(&mut self, at: usize, input: Input<P::Message>) {
        let mut out = Output::default();
        self.cores[at].step(self.now, [input], &mut out);
        self.follow(at, out);
    }

    fn follow(&mut self, at: usize, mut out: Output<P::Message, P::Record>) {
        // A replica that is cut off rejects commands.
        let alone = |why: &Rejection| at == AWAY && *why == Rejection::NoQuorum;
        assert!(out.rejected.iter().all(|(_, why)| alone(why)), "{:?}", out.rejected);
        self.appended[at] += out.records.len() as u64;
        if !out.records.is_empty() {
            let position = crate::types::LogPosition::new(self.appended[at]);
            self.input(Duration::ZERO, at, Input::Durable(Durable::flushed(position)));
        }
        for (to, message) in out.messages {
            for to in to.iter().map(ReplicaId::index) {
                if self.cut.contains(&(at, to)) {
                    continue;
                }
                let mut takes = self.delay;
                if matches!(message, PeerMessage::Transfer(Transfer::Chunk { .. })) {
                    self.link_free = self.link_free.max(self.now) + CHUNK;
                    takes += self.link_free.since(self.now);
                }
                let message = message.clone();
                self.input(takes, to, Input::Peer { from: replica(at), message });
            }
        }
        if !out.execute.is_empty() {
            let (last, longest) = self.executed[at];
            self.executed[at] = (self.now, longest.max(self.now.since(last)));
        }
        let executed = out.execute.iter().map(|it| it.batch.commands().len() as u64);
        self.state[at] += executed.sum::<u64>();
        if out.snapshot_wanted {
            self.begin_snapshot(at);
        }
        for read in out.snapshot_reads {
            let bytes = Some(Bytes::from(vec![0; read.bytes as usize]));
            self.input(Duration::ZERO, at, Input::SnapshotRead { read, bytes });
        }
        for arrival in std::mem::take(&mut out.snapshot_received) {
            match arrival {
                Arrival::Begins { snapshot, .. } => {
                    self.receiving = usize::try_from(snapshot.0).expect("a place");
                }
                Arrival::Complete => self.install(at),
                Arrival::Bytes(_) | Arrival::GivenUp => {}
            }
        }
    }

    fn install(&mut self, at: usize) {
        let Checkpoint { executed, shared, .. } = self.shelf[self.receiving].clone();
        let mut out = Output::default();
        if self.cores[at].install(self.now, shared, &executed, &mut out) {
            self.installed = Some(self.now);
            self.state[at] = self.states[self.receiving];
            self.begin_snapshot(at);
        }
        self.follow(at, out);
    }

    /// r3 is cut off for eight seconds while the others continue; then its own clients write.
    fn return_under_load(&mut self) -> Duration {
        for at in [0, 1] {
            self.later(Duration::from_secs(1), Event::Write(at, Duration::from_millis(10), false));
        }
        self.cut = [TO_IT, OF_IT].concat();
        self.pass(Duration::from_secs(8));
        self.cut.clear();
        let back = self.now;
        self.later(Duration::ZERO, Event::Write(AWAY, Duration::from_millis(5), false));
        while self.installed.is_none() && self.now < back + Duration::from_secs(30) {
            self.pass(Duration::from_millis(100));
        }
        self.installed.map_or(Duration::MAX, |at| at.since(back))
    }
}

fn comes_back<P: Protocol>() {
    let mut world = World::<P>::new();
    let took = world.return_under_load();
    assert!(took < Duration::from_secs(10), "{}: installed after {took:?}", P::NAME);
    // Its clients made progress all the time, and now all states are equal.
    let status = |world: &World<P>, at: usize| world.cores[at].status();
    world.clients_rest = true;
    world.pass(Duration::from_secs(10));
    let executed = status(&world, 0).executed;
    for at in 0..3 {
        assert_eq!(status(&world, at).executed, executed, "{}: r{}", P::NAME, at + 1);
        assert_eq!(status(&world, at).receiving, None);
        assert_eq!(world.cores[at].protocol().kept_bytes(), 0, "{}: r{}", P::NAME, at + 1);
    }
}

/// Whatever a replica executed counted as durable at once. So each request for a snapshot asked for
/// more than any other replica had, and none came until the clients stopped.
#[test]
fn who_was_away_comes_back_while_its_own_clients_go_on() {
    comes_back::<EPaxos>();
    comes_back::<MultiPaxos>();
    comes_back::<FastPaxos>();
    comes_back::<Paxos>();
}

/// All three write one key; from some moment on the links in `cut` lose everything. Returns the
/// longest time without execution at r1 or r2 within the next five seconds, and how much r1
/// executed.
fn contended(cut: &[(usize, usize)]) -> (Duration, u64) {
    let mut world = World::<EPaxos>::new();
    for at in 0..3 {
        let first = Duration::from_millis(1000 + 7 * at as u64);
        world.later(first, Event::Write(at, Duration::from_millis(20), true));
    }
    // r3 has just proposed, and no replica has answered yet.
    world.pass(Duration::from_micros(3_014_500));
    let before = world.state[0];
    world.executed.iter_mut().for_each(|(_, longest)| *longest = Duration::ZERO);
    world.cut = cut.to_vec();
    world.pass(Duration::from_secs(5));
    let stalls = world.executed[..2].iter().map(|(last, longest)| {
        let now = world.now;
        (*longest).max(now.since(*last))
    });
    (stalls.max().expect("two"), world.state[0] - before)
}

/// The deaf replica's messages counted as a sign of life, so the others waited three seconds for
/// each of its proposals.
#[test]
fn a_deaf_replica_costs_no_more_than_one_that_is_gone() {
    let (gone, executed) = contended(&[TO_IT, OF_IT].concat());
    let (deaf, executed_beside_it) = contended(&TO_IT);
    let (mute, executed_beside_mute) = contended(&OF_IT);
    assert!(gone < Duration::from_millis(800), "gone: {gone:?}");
    assert!(deaf < gone + Duration::from_millis(100), "deaf: {deaf:?}, gone: {gone:?}");
    assert!(mute < gone + Duration::from_millis(100), "mute: {mute:?}, gone: {gone:?}");
    assert!(executed_beside_it * 10 > executed * 9, "{executed_beside_it} of {executed}");
    assert!(executed_beside_mute * 10 > executed * 9, "{executed_beside_mute} of {executed}");
}

/// r3 does not hear r1, and hears r2. The two are a quorum, and r1 learns what they decide one
/// round trip later, so r1 leaves r3's proposals to them.
#[test]
fn who_is_deaf_to_one_replica_alone_finishes_its_own_proposals() {
    let mut world = World::<EPaxos>::new();
    world.delay = Duration::from_millis(50);
    world.pass(Duration::from_secs(2));
    world.cut = vec![(0, AWAY)];
    world.pass(Duration::from_secs(3));
    assert!(world.cores[0].status().suspected.contains(replica(AWAY)));
    assert!(!world.cores[1].status().suspected.contains(replica(AWAY)));
    world.later(Duration::ZERO, Event::Write(AWAY, Duration::from_millis(300), true));
    world.pass(Duration::from_secs(10));
    world.clients_rest = true;
    world.pass(Duration::from_secs(1));
    assert_eq!(world.state, [world.written; 3]);
    for core in &world.cores {
        assert_eq!(core.status().recoveries, 0);
    }
    // It hears again.
    world.cut.clear();
    world.pass(Duration::from_secs(1));
    assert!(world.cores[0].status().suspected.is_empty());
}
