//! Snapshots from other replicas: where they are stored, and what is said of damaged ones.

use std::io::{self, Read};
use std::sync::Arc;

use crossbeam::channel::bounded;

use super::*;
use crate::machine::{Given, Kv, KvCommand, RestoreError};
use crate::node::Limits;
use crate::protocol::epaxos::{DroppedIndex, ProtocolSnapshot, Record};
use crate::replica::{Checkpoint, OwnSnapshot};
use crate::storage::{FaultyDisk, LogOptions, SnapshotOptions, Store, StoreOptions};
use crate::types::{Deps, Footprint, LogPosition, MemberId, ReplicaId};
use crate::wire::encode_snapshot;

fn me() -> ReplicaId {
    ReplicaId::from_index(0)
}

/// The room that is left for the log.
const LEAVE: u64 = 1 << 20;

fn applier() -> Applier<Kv> {
    let mut kv = Kv::new();
    for number in 0..3000u32 {
        let value = Bytes::from(vec![number.to_le_bytes()[0]; 1000]);
        kv.apply(KvCommand::Put { key: Bytes::copy_from_slice(&number.to_le_bytes()), value });
    }
    Applier::new(kv)
}

/// A snapshot of this state, without the replica's own part.
fn snapshot(applier: &Applier<Kv>) -> (OwnSnapshot, Vec<u8>) {
    let none = || Deps::none(3);
    let shared = ProtocolSnapshot {
        floor: none(),
        cut: none(),
        dropped: none(),
        index: DroppedIndex::new(3),
        decisions: Vec::new(),
    };
    let (position, executed) = (LogPosition::new(1), Executed::up_to(none()));
    let checkpoint = Checkpoint::<_, Record> { position, executed, shared, own: Vec::new() };
    let (view, mut bytes) = (applier.view(), Vec::new());
    let state = |to: &mut dyn io::Write| view.write_to(to);
    let encoded = encode_snapshot(None, "blue", &checkpoint, state, |piece| {
        bytes.extend_from_slice(piece);
        Ok::<_, Infallible>(())
    });
    let own = encoded.expect("memory takes all").own;
    bytes.truncate(usize::try_from(own.bytes).expect("small"));
    (own, bytes)
}

struct Place {
    disk: FaultyDisk,
    store: SnapshotStore,
    shared: ReplicaShared,
    limits: wire::Limits,
}

impl Place {
    /// A disk with this much room for a snapshot.
    fn new(room: u64) -> Place {
        let disk = FaultyDisk::new(1, 1 << 30);
        let options = StoreOptions {
            cluster: "blue".into(),
            replica: MemberId::of(me()),
            protocol: "epaxos".to_owned(),
            members: MemberId::all(3).collect(),
            joins: false,
            log: LogOptions { segment_bytes: 8192, ..LogOptions::default() },
            snapshots: SnapshotOptions::default(),
        };
        let opening = Store::open(Arc::new(disk.clone()), &options).expect("a new disk");
        let store = opening.replay(&mut |_, _| Ok(())).expect("it is empty");
        let used: usize = disk.files().values().map(Vec::len).sum();
        disk.set_capacity(used as u64 + LEAVE + room);
        let store = SnapshotStore::Disk {
            snapshots: store.snapshots,
            disk: Arc::new(disk.clone()),
            leave_free: LEAVE,
        };
        let (sender, _queue) = bounded(1);
        let shared = ReplicaShared::new(
            MemberId::of(me()),
            Limits::default(),
            std::time::Duration::MAX,
            sender,
        );
        Place { disk, store, shared, limits: wire::Limits::new(3) }
    }

    fn receive(&self, own: &OwnSnapshot, bytes: &[u8]) -> Incoming {
        let mut incoming = Incoming::begin(&self.store, own.id, own.bytes);
        bytes.chunks(70_000).for_each(|piece| incoming.take_in(&self.store, piece));
        assert_eq!(incoming.bytes(), bytes.len() as u64);
        incoming
    }

    fn home(&self) -> Home<'_> {
        Home { shared: &self.shared, cluster: "blue", limits: &self.limits }
    }

    fn build(&self, incoming: Incoming) -> Result<Applier<Kv>, String> {
        let arrived =
            incoming.build::<Kv, ProtocolSnapshot>(&self.home(), &Given::new(Kv::new()))?;
        Ok(*arrived.applier.downcast().expect("an applier of the same machine"))
    }

    /// The files of snapshots that are not complete.
    fn files(&self) -> Vec<String> {
        let files = self.disk.files().into_keys();
        files.filter(|name| name.starts_with("snapshot-unfinished")).collect()
    }
}

#[test]
fn it_is_kept_in_a_file_where_there_is_room_and_in_memory_where_not() {
    let applier = applier();
    let (own, bytes) = snapshot(&applier);
    for (room, in_file) in [(2 * own.bytes, true), (own.bytes / 2, false)] {
        let place = Place::new(room);
        let incoming = place.receive(&own, &bytes);
        assert_eq!(matches!(incoming.held, Held::File(_)), in_file);
        assert_eq!(place.files().len(), usize::from(in_file));
        let built = place.build(incoming).expect("it is sound");
        assert_eq!(built.digest(), applier.digest());
        assert!(place.files().is_empty(), "{:?}", place.files());
        // Given up half-way.
        drop(place.receive(&own, &bytes[..bytes.len() / 2]));
        assert!(place.files().is_empty());
    }
}

#[test]
fn its_room_is_given_up_for_the_log() {
    let (own, bytes) = snapshot(&applier());
    let place = Place::new(2 * own.bytes);
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let mut incoming = place.receive(&own, first);
    incoming.give_up_room();
    assert!(place.files().is_empty(), "{:?}", place.files());
    incoming.take_in(&place.store, rest);
    assert!(place.files().is_empty(), "what still comes takes none");
    let why = place.build(incoming).expect_err("it is gone");
    assert!(why.contains("could not be stored: the disk is full"), "{why}");
}

#[test]
fn what_is_cut_or_changed_on_the_way_is_named() {
    let (own, bytes) = snapshot(&applier());
    for room in [2 * own.bytes, 0] {
        let place = Place::new(room);
        let refused = |bytes: &[u8]| match place.build(place.receive(&own, bytes)) {
            Ok(_) => panic!("it was taken"),
            Err(why) => why,
        };
        for cut in [0, 10, 60, 1_000, 700_000, bytes.len() - 1] {
            let why = refused(&bytes[..cut]);
            assert!(why.contains("the frame ends inside"), "{cut}: {why}");
        }
        for at in [1_000, 300_000, 2_000_000] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let why = refused(&changed);
            let piece = format!("damaged in piece {} of its state", at / (256 << 10));
            assert!(why.contains(&piece), "{at}: {why}");
        }
        let other = OwnSnapshot { id: SnapshotId(own.id.0 ^ 1), ..own.clone() };
        let why = place.build(place.receive(&other, &bytes)).expect_err("it is another");
        assert!(why.contains("it was written as"), "{why}");
        assert!(place.files().is_empty());
    }
}

/// Damage after the bytes have arrived.
#[test]
fn what_the_disk_makes_of_it_is_named() {
    let (own, bytes) = snapshot(&applier());
    let place = Place::new(2 * own.bytes);
    let incoming = place.receive(&own, &bytes);
    let file = place.files().pop().expect("it is in a file");
    place.disk.flip(&file, 1_000_000, 4);
    let why = place.build(incoming).expect_err("it is damaged");
    assert!(why.contains(&file) && why.contains("chunk 3 does not fit its checksum"), "{why}");

    let mut incoming = place.receive(&own, &bytes[..1_000_000]);
    place.disk.set_capacity(0);
    bytes[1_000_000..].chunks(70_000).for_each(|piece| incoming.take_in(&place.store, piece));
    let why = place.build(incoming).expect_err("it is not whole");
    assert!(why.contains("it could not be stored: the disk is full"), "{why}");
    assert!(place.files().is_empty());
}

struct Panics;

impl StateMachine for Panics {
    type Command = ();
    type Output = ();

    fn footprint((): &()) -> Footprint {
        Footprint::read(b"a")
    }

    fn apply(&mut self, (): ()) {}

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(_: &[u8]) -> Result<Panics, RestoreError> {
        panic!("restored")
    }

    fn restore_from(from: &mut dyn Read) -> Result<Panics, RestoreError> {
        from.read_exact(&mut [0; 100_000])?;
        panic!("half of it is restored")
    }
}

#[test]
fn a_machine_that_panics_over_it_is_no_reason_to_stop() {
    let (own, bytes) = snapshot(&applier());
    let place = Place::new(2 * own.bytes);
    let incoming = place.receive(&own, &bytes);
    let built = incoming.build::<Panics, ProtocolSnapshot>(&place.home(), &Given::new(Panics));
    let Err(why) = built else { panic!("it was taken") };
    assert_eq!(why, "the state machine panicked: half of it is restored");
}
