//! A replica needs a snapshot, and others have some, on a network that loses many messages.

use std::collections::VecDeque;
use std::time::Duration;

use super::*;
use crate::protocol::View;
use crate::replica::{Limits, MAX_CHUNK};
use crate::types::Time;

const N: usize = 3;

fn replica(index: usize) -> ReplicaId {
    ReplicaId::from_index(index)
}

fn upto(slot: u64) -> Deps {
    Deps::from_slots([slot; N])
}

/// The content of a snapshot: longer than one window, and no two chunks alike.
fn contents(name: u64, chunks: u64) -> Vec<u8> {
    let words = 0..chunks * u64::from(MAX_CHUNK) / 8 - 1;
    let mix = |word: u64| (word ^ name).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    words.flat_map(|word| mix(word).to_le_bytes()).collect()
}

/// Replica 0 needs a snapshot; the others serve theirs.
struct World {
    now: Time,
    receiver: Receiver,
    servers: Vec<Server>,
    /// What each replica has executed.
    executed: Vec<Deps>,
    files: Vec<(SnapshotId, Vec<u8>)>,
    /// Each message with its sender and receiver.
    network: VecDeque<(usize, usize, Transfer)>,
    /// One of this many messages is lost; 0 for none.
    loss: u64,
    said: u64,
    away: ReplicaSet,
    /// The replicas that replica 0 suspects.
    suspected: ReplicaSet,
    arrived: Vec<Arrival>,
    /// How often each replica was asked to take a snapshot.
    wanted: [usize; N],
    fetched: usize,
}

impl World {
    fn new() -> World {
        World {
            now: Time::ZERO,
            receiver: Receiver::new(
                ReplicaSet::from_iter([replica(1), replica(2)]),
                &Limits { snapshot_bytes: 1 << 30, ..Limits::default() },
            ),
            servers: (0..N).map(|_| Server::default()).collect(),
            executed: vec![upto(0); N],
            files: Vec::new(),
            network: VecDeque::new(),
            loss: 0,
            said: 0,
            away: ReplicaSet::EMPTY,
            suspected: ReplicaSet::EMPTY,
            arrived: Vec::new(),
            wanted: [0; N],
            fetched: 0,
        }
    }

    /// A snapshot of `at` is durable.
    fn own(&mut self, at: usize, name: u64, slot: u64, chunks: u64) {
        let bytes = contents(name, chunks);
        let (id, executed) = (SnapshotId(name), Executed::up_to(upto(slot)));
        let own = OwnSnapshot { id, executed, bytes: bytes.len() as u64 };
        self.files.push((id, bytes));
        self.executed[at].merge(&upto(slot));
        let mut wish = Wishes::default();
        self.servers[at].on_own(&own, self.now, &mut wish);
        self.grant(at, wish);
    }

    fn grant(&mut self, at: usize, wish: Wishes) {
        self.wanted[at] += usize::from(wish.wanted);
        self.arrived.extend(wish.received);
        for (to, message) in wish.messages {
            for to in to.iter().map(ReplicaId::index) {
                self.said += 1;
                self.fetched += usize::from(matches!(message, Transfer::Fetch { .. }));
                let dice = self.said.wrapping_mul(7919) % 97;
                let lost = self.loss > 0 && dice.is_multiple_of(self.loss);
                let reach = [at, to].iter().all(|end| !self.away.contains(replica(*end)));
                if !lost && reach {
                    self.network.push_back((at, to, message.clone()));
                }
            }
        }
        for read in wish.reads {
            let (_, file) = self.files.iter().find(|(id, _)| *id == read.snapshot).expect("kept");
            let from = usize::try_from(read.offset).expect("a small file");
            let bytes = Bytes::copy_from_slice(&file[from..from + read.bytes as usize]);
            let mut wish = Wishes::default();
            self.servers[at].on_read(read, Some(bytes), &mut wish);
            self.grant(at, wish);
        }
    }

    fn deliver(&mut self) -> bool {
        let Some((from, to, message)) = self.network.pop_front() else { return false };
        let (from, now, mut wish) = (replica(from), self.now, Wishes::default());
        let (server, receiver) = (&mut self.servers[to], &mut self.receiver);
        match message {
            Transfer::Request { at_least, part_of } => {
                server.on_request(from, at_least, part_of, &self.executed[to], now, &mut wish);
            }
            Transfer::Fetch { snapshot, offset, bytes } => {
                server.on_fetch(from, snapshot, (offset, bytes), now, &mut wish);
            }
            Transfer::Offer { snapshot, executed, bytes } => {
                receiver.on_offer(from, snapshot, (&executed, bytes), now, &mut wish);
            }
            Transfer::Chunk { snapshot, offset, bytes } => {
                receiver.on_chunk(snapshot, offset, bytes, now, &mut wish);
            }
            Transfer::Gone { snapshot } => receiver.on_gone(from, snapshot, now, &mut wish),
        }
        self.grant(to, wish);
        true
    }

    fn tick(&mut self) {
        let mut wish = Wishes::default();
        self.receiver.executed(&self.executed[0], &mut wish);
        let (now, suspected) = (self.now, self.suspected);
        let round_trips = vec![Duration::from_millis(20); N];
        let view = View { now, suspected, round_trips, ..View::new(N) };
        self.receiver.tick(&view, &mut wish);
        self.grant(0, wish);
        self.servers.iter_mut().for_each(|server| server.let_go(self.now));
    }

    fn pass(&mut self, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        while self.now < until {
            self.tick();
            while self.deliver() {}
            self.now = self.now + Duration::from_millis(100);
        }
    }

    /// The bytes received in the last transfer, and whether it is complete.
    fn come(&self) -> (Vec<u8>, bool) {
        let (mut bytes, mut complete) = (Vec::new(), false);
        for arrival in &self.arrived {
            match arrival {
                Arrival::Begins { .. } | Arrival::GivenUp => (bytes, complete) = (vec![], false),
                Arrival::Bytes(more) => bytes.extend_from_slice(more),
                Arrival::Complete => complete = true,
            }
        }
        (bytes, complete)
    }

    fn begun(&self) -> Vec<u64> {
        let begun = self.arrived.iter().filter_map(|arrival| match arrival {
            Arrival::Begins { snapshot, .. } => Some(snapshot.0),
            _ => None,
        });
        begun.collect()
    }
}

#[test]
fn a_snapshot_arrives_whole_whatever_is_lost() {
    for loss in [0, 2, 3, 5] {
        let mut world = World::new();
        world.own(1, 11, 100, 20);
        world.loss = loss;
        world.receiver.need(&upto(100), world.now);
        world.pass(if loss == 0 { 1 } else { 600 });
        assert_eq!(world.come(), (contents(11, 20), true), "one of {loss} lost");
        if loss == 0 {
            assert_eq!((world.begun(), world.fetched), (vec![11], 20), "each chunk once");
        }
        world.receiver.installed(&upto(100), world.now);
        let before = world.said;
        world.pass(100);
        assert_eq!((world.said, world.receiver.receiving()), (before, None), "it is content");
    }
}

#[test]
fn only_who_has_executed_enough_answers_and_takes_one_if_need_be() {
    let mut world = World::new();
    world.own(1, 11, 50, 1);
    world.own(2, 22, 90, 1);
    world.executed[2] = upto(120);
    world.receiver.need(&upto(100), world.now);
    world.pass(10);
    assert!(world.arrived.is_empty(), "no snapshot is far enough");
    assert_eq!(world.wanted[1], 0, "it could not help if it wanted");
    assert!(world.wanted[2] > 0);
    let wanted = world.wanted[2];
    world.own(2, 23, 95, 1);
    assert_eq!(world.wanted[2], wanted + 1, "that one began too early");
    world.own(2, 24, 110, 1);
    world.pass(1);
    assert_eq!(world.begun(), [24]);
    assert!(world.come().1);
}

#[test]
fn a_transfer_goes_on_where_it_was_cut() {
    let mut world = World::new();
    world.own(1, 11, 100, 40);
    world.receiver.need(&upto(100), world.now);
    world.tick();
    (0..30).for_each(|_| assert!(world.deliver()));
    let before = world.come().0.len();
    assert!(before > 0);
    // The sender is away for longer than the receiver waits, and returns with a newer snapshot.
    world.away.insert(replica(1));
    world.network.clear();
    world.pass(40);
    world.own(1, 12, 200, 40);
    assert!(world.servers[1].serves(SnapshotId(11)), "somebody may still be reading it");
    world.away = ReplicaSet::EMPTY;
    world.pass(60);
    assert_eq!((world.begun(), world.come()), (vec![11], (contents(11, 40), true)));
    world.pass(70);
    assert!(!world.servers[1].serves(SnapshotId(11)), "nobody is");
    assert!(world.servers[1].serves(SnapshotId(12)), "the newest is always kept");
}

#[test]
fn another_replica_with_the_same_snapshot_goes_on_with_it() {
    let mut world = World::new();
    world.own(1, 11, 100, 40);
    world.receiver.need(&upto(100), world.now);
    world.tick();
    (0..30).for_each(|_| assert!(world.deliver()));
    world.away.insert(replica(1));
    world.network.clear();
    world.own(2, 11, 100, 40);
    world.pass(60);
    assert_eq!((world.begun(), world.come()), (vec![11], (contents(11, 40), true)));
    assert_eq!(world.receiver.receiving().map(|it| it.from), Some(replica(2)));
}

#[test]
fn a_sender_that_stays_away_is_replaced() {
    let mut world = World::new();
    world.own(1, 11, 100, 40);
    world.receiver.need(&upto(100), world.now);
    world.tick();
    (0..30).for_each(|_| assert!(world.deliver()));
    world.away.insert(replica(1));
    world.network.clear();
    world.own(2, 22, 150, 30);
    world.pass(120);
    assert_eq!((world.begun(), world.come()), (vec![11, 22], (contents(22, 30), true)));
}

/// In the simulator, seed 50011718, a replica stayed for 31 seconds with a sender that had failed.
#[test]
fn a_sender_that_is_taken_for_dead_is_replaced_soon() {
    let mut world = World::new();
    world.own(1, 11, 100, 40);
    world.receiver.need(&upto(100), world.now);
    world.tick();
    (0..30).for_each(|_| assert!(world.deliver()));
    world.away.insert(replica(1));
    world.network.clear();
    // The sender had not answered for some time before it was suspected.
    world.pass(4);
    world.suspected.insert(replica(1));
    world.own(2, 22, 150, 30);
    world.pass(5);
    assert_eq!((world.begun(), world.come()), (vec![11, 22], (contents(22, 30), true)));
}

/// Each time a snapshot was ready, the need had grown beyond it.
#[test]
fn what_is_asked_for_stays_the_same_until_it_is_there() {
    let mut world = World::new();
    world.executed[1] = upto(1000);
    world.receiver.need(&upto(100), world.now);
    for round in 1..=3 {
        world.pass(2);
        world.receiver.need(&upto(100 * (round + 1)), world.now);
        world.pass(2);
        // The snapshot was begun when this much was executed.
        world.own(1, round, 100 * round + 50, 3);
        world.pass(1);
        assert_eq!(world.begun().last(), Some(&round));
        assert!(world.come().1);
        world.receiver.installed(&upto(100 * round + 50), world.now);
    }
}

#[test]
fn a_snapshot_that_is_gone_is_given_up_at_once() {
    let mut world = World::new();
    world.own(1, 11, 100, 40);
    world.receiver.need(&upto(100), world.now);
    world.tick();
    (0..30).for_each(|_| assert!(world.deliver()));
    world.servers[1] = Server::default();
    world.own(1, 12, 130, 40);
    world.pass(1);
    assert_eq!((world.begun(), world.come()), (vec![11, 12], (contents(12, 40), true)));
    // A snapshot that cannot be read is not offered again.
    let read = SnapshotRead { to: replica(0), snapshot: SnapshotId(12), offset: 0, bytes: 9 };
    let mut wish = Wishes::default();
    let fetch = (read.offset, read.bytes);
    world.servers[1].on_fetch(read.to, read.snapshot, fetch, world.now, &mut wish);
    assert_eq!(wish.reads, [read]);
    world.servers[1].on_read(read, None, &mut wish);
    let gone = Transfer::Gone { snapshot: SnapshotId(12) };
    assert_eq!(wish.messages, [(ReplicaSet::from_iter([replica(0)]), gone)]);
    assert!(!world.servers[1].serves(SnapshotId(12)));
}

#[test]
fn what_is_of_no_use_is_fetched_from_another() {
    let mut world = World::new();
    world.own(1, 11, 100, 3);
    world.own(2, 22, 100, 3);
    world.receiver.need(&upto(100), world.now);
    world.pass(1);
    assert_eq!((world.begun(), world.come().1), (vec![11], true));
    world.receiver.rejected(world.now);
    world.pass(1);
    assert_eq!((world.begun(), world.come()), (vec![11, 22], (contents(22, 3), true)));
    // With no other replica available, the same one is tried again.
    world.receiver.rejected(world.now);
    world.away.insert(replica(1));
    world.pass(3);
    assert_eq!((world.begun(), world.come().1), (vec![11, 22, 22], true));
}

#[test]
fn what_is_too_long_or_not_far_enough_is_not_taken() {
    let mut world = World::new();
    world.receiver.need(&upto(100), world.now);
    world.tick();
    let (from, id, now) = (replica(1), SnapshotId(1), world.now);
    let mut wish = Wishes::default();
    for (slot, bytes) in [(99, 5), (100, 0), (100, (1 << 30) + 1)] {
        world.receiver.on_offer(from, id, (&upto(slot), bytes), now, &mut wish);
        assert_eq!(world.receiver.receiving(), None, "{bytes} bytes up to {slot}");
    }
    world.receiver.on_offer(from, id, (&upto(100), 1 << 30), now, &mut wish);
    assert_eq!(wish.messages.len(), WINDOW);
    // Chunks that were not requested, or have another length, are ignored.
    let chunk = |len: u32| Bytes::from(vec![0; len as usize]);
    let other = SnapshotId(2);
    let too_far = u64::from(MAX_CHUNK) * WINDOW as u64;
    for (snapshot, offset, len) in
        [(other, 0, MAX_CHUNK), (id, 1, MAX_CHUNK), (id, 0, 1), (id, too_far, MAX_CHUNK)]
    {
        world.receiver.on_chunk(snapshot, offset, chunk(len), now, &mut wish);
        assert_eq!(wish.received.len(), 1, "only the beginning");
    }
    world.receiver.on_chunk(id, u64::from(MAX_CHUNK), chunk(MAX_CHUNK), now, &mut wish);
    assert_eq!(wish.received.len(), 1, "it waits for the one before");
    world.receiver.on_chunk(id, 0, chunk(MAX_CHUNK), now, &mut wish);
    assert_eq!(wish.received.len(), 3, "both");
}

#[test]
fn what_a_peer_has_read_at_a_time_is_bounded() {
    let mut world = World::new();
    world.own(1, 11, 100, 40);
    let (mut wish, now) = (Wishes::default(), world.now);
    let server = &mut world.servers[1];
    let id = SnapshotId(11);
    let mut fetch = |from: usize, offset: u64, bytes: u32| {
        server.on_fetch(replica(from), id, (offset, bytes), now, &mut wish);
        wish.reads.len()
    };
    for nonsense in [(0, 0), (0, MAX_CHUNK + 1), (u64::MAX, 1), (40 * u64::from(MAX_CHUNK), 1)] {
        assert_eq!(fetch(0, nonsense.0, nonsense.1), 0, "{nonsense:?}");
    }
    for offset in 0..100 {
        fetch(0, offset, 1);
        fetch(0, 0, 1);
    }
    assert_eq!(fetch(0, 200, 1), WINDOW);
    assert_eq!(fetch(2, 0, 1), WINDOW + 1, "another one has a bound of its own");
}

#[test]
fn what_is_not_needed_any_more_is_given_up() {
    let mut world = World::new();
    world.own(1, 11, 100, 40);
    world.receiver.need(&upto(100), world.now);
    world.tick();
    (0..30).for_each(|_| assert!(world.deliver()));
    world.executed[0] = upto(100);
    world.pass(60);
    assert_eq!(world.arrived.last(), Some(&Arrival::GivenUp));
    assert_eq!(world.receiver.receiving(), None);
}
