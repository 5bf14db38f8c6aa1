//! Snapshots are decoded as they were encoded, and any change is noticed.

use std::convert::Infallible;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::protocol::epaxos::{
    DroppedIndex, ExecutedDecision, ExecutedValue, ProtocolSnapshot, Record, SlotIndex,
};
use crate::types::{Ballot, InstanceId, KeyHash, LogPosition, ReplicaId};

const LIMITS: Limits = Limits::new(3);
/// The length of the example up to its state.
const FRONT: usize = HEADER + 100;

type Point = Checkpoint<ProtocolSnapshot, Record>;

fn id(replica: usize, slot: u64) -> InstanceId {
    InstanceId::new(ReplicaId::from_index(replica), slot)
}

fn checkpoint(records: u64) -> Point {
    let mut executed = Executed::up_to(Deps::from_slots([0, 300, 5]));
    for (owner, first, last) in [(0, 3, 3), (0, 5, 400), (2, 7, MAX_SLOT)] {
        assert!(executed.extend(ReplicaId::from_index(owner), first, last));
    }
    let ballot = Ballot::new(200, ReplicaId::from_index(2)).expect("a round above 0");
    let own = (1..=records).map(|slot| Record::Joined { id: id(1, slot), ballot }.into()).collect();
    let vector = |slots: [u64; 3]| Deps::from_slots(slots);
    let keys = [(5, [0, 0, 0, 3, 0, 0]), (7, [0, 300, 0, 0, 0, 0])];
    let keys = keys.map(|(key, slots)| (KeyHash(key), slots.into_iter().collect()));
    let commands = SlotIndex::from_parts(vector([0, 300, 0]), Deps::none(3), keys.into());
    let commands = commands.expect("two slots a replica");
    let shared = ProtocolSnapshot {
        floor: Deps::none(3),
        cut: vector([0, 300, 5]),
        dropped: vector([0, 300, 0]),
        index: DroppedIndex { commands, nops: SlotIndex::new(3) },
        decisions: vec![ExecutedDecision {
            id: id(0, 3),
            value: ExecutedValue::Nop,
            deps: Deps::none(3),
        }],
    };
    Checkpoint { position: LogPosition::new(9), executed, shared, own }
}

fn file(point: &Point, state: &[u8]) -> (Bytes, OwnSnapshot) {
    let mut file = BytesMut::new();
    let own = encode_snapshot::<_, _, Infallible>(0, "Köln", point, state, |bytes| {
        file.extend_from_slice(bytes);
        Ok(())
    });
    (file.freeze(), own.expect("memory takes all"))
}

fn read(
    file: &Bytes,
) -> Result<(Snapshot<ProtocolSnapshot>, Vec<crate::replica::Record<Record>>), SnapshotError> {
    decode_own_snapshot(file, "Köln", &LIMITS)
}

#[test]
fn a_snapshot_comes_back_to_its_own_replica_and_to_others() {
    for (records, state) in [(0, &b""[..]), (3, b"state"), (100_000, &[7; 1_000_000])] {
        let point = checkpoint(records);
        let (file, own) = file(&point, state);
        let (snapshot, of_its_own) = read(&file).expect("as it was written");
        assert_eq!((&snapshot.own, &of_its_own), (&own, &point.own));
        assert_eq!((&snapshot.own.executed, &snapshot.shared), (&point.executed, &point.shared));
        assert_eq!((&snapshot.state[..], snapshot.epoch), (state, 0));
        let part = file.slice(..usize::try_from(own.bytes).expect("small"));
        assert_eq!(decode_snapshot(&part, own.id, "Köln", &LIMITS), Ok(snapshot));
    }
}

#[test]
fn these_are_its_bytes() {
    let (file, own) = file(&checkpoint(1), b"state");
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let most = "faffffffffffffff0f";
    let front = [
        "69736f6e6f6d7953 01 6400000000000000 0500000000000000",
        // The epoch, the cluster, the executed instances.
        "00 05 4bc3b66c6e 03 00ac0205 02 0201 018c03 00 01 01",
        most,
        // The protocol's part: floor, cut, dropped; the vectors and two keys of dropped commands;
        // nothing of dropped Nops; one executed decision.
        "03 000000 03 00ac0205 03 00ac0200",
        "03 00ac0200 03 000000 02",
        "0500000000000000 000000 030000 0700000000000000 00ac0200 000000",
        "03 000000 03 000000 00",
        "01 0103 00 03 000000",
    ];
    let front = front.concat().replace(' ', "");
    assert_eq!(hex(&file[..FRONT]), front);
    assert_eq!(&file[FRONT..FRONT + 5], b"state");
    assert_eq!(own.bytes, FRONT as u64 + 5);
    let behind = hex(&own.id.0.to_le_bytes()) + "0100000000000000" + "08" + "0100120201c80103";
    assert_eq!(hex(&file[FRONT + 5..]), behind);
}

#[test]
fn what_is_cut_or_changed_is_noticed() {
    let (file, own) = file(&checkpoint(2), b"state");
    for length in 0..file.len() {
        assert!(read(&file.slice(..length)).is_err(), "cut at {length}");
    }
    let others = usize::try_from(own.bytes).expect("small");
    for at in 0..others + 8 {
        let mut changed = BytesMut::from(&file[..]);
        changed[at] ^= 0x10;
        let error = read(&changed.freeze()).expect_err("it was changed");
        let is_damaged = matches!(error, SnapshotError::Damaged { .. });
        assert!(is_damaged || at < HEADER, "changed at {at}: {error}");
    }
    let longer = [&file[..], b"x"].concat().into();
    let Err(SnapshotError::Decode(error)) = read(&longer) else { panic!("one byte too many") };
    assert_eq!(error.flaw(), Flaw::Trailing { bytes: 1 });
}

#[test]
fn who_is_to_blame_is_said() {
    let (file, own) = file(&checkpoint(0), b"state");
    let other = decode_own_snapshot::<ProtocolSnapshot, Record>(&file, "Bonn", &LIMITS);
    assert!(matches!(other, Err(SnapshotError::OtherCluster { found, .. }) if found == "Köln"));
    let part = file.slice(..usize::try_from(own.bytes).expect("small"));
    let name = SnapshotId(own.id.0 ^ 1);
    let damaged = decode_snapshot::<ProtocolSnapshot>(&part, name, "Köln", &LIMITS);
    assert!(matches!(damaged, Err(SnapshotError::Damaged { found, .. }) if found == own.id.0));
    let whole = decode_snapshot::<ProtocolSnapshot>(&file, own.id, "Köln", &LIMITS);
    assert!(matches!(whole, Err(SnapshotError::Length { expected, .. }) if expected == own.bytes));
    let flaw = |at: usize, byte: u8| {
        let mut changed = BytesMut::from(&file[..]);
        changed[at] = byte;
        let Err(SnapshotError::Decode(error)) = read(&changed.freeze()) else { panic!("at {at}") };
        (error.offset(), error.flaw())
    };
    assert_eq!(flaw(3, b'O'), (3, Flaw::NotASnapshot));
    assert_eq!(flaw(8, 2), (8, Flaw::Version { found: 2, known: 1 }));
    assert!(matches!(flaw(16, 0x7f), (_, Flaw::TooMany { what: "a snapshot's bytes", .. })));
}

/// With a matching checksum, as from a replica with a bug in its encoder.
#[test]
fn no_bytes_make_the_decoder_panic_or_reserve_much() {
    let (file, own) = file(&checkpoint(0), b"state");
    let part = &file[..usize::try_from(own.bytes).expect("small")];
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut accepted = 0;
    for _ in 0..200_000 {
        let mut bytes = part.to_vec();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(HEADER..bytes.len());
            bytes[at] = [0, 1, 2, 0x7f, 0x80, 0xff, rng.random()][rng.random_range(0..7)];
        }
        let id = SnapshotId(xxhash_rust::xxh3::xxh3_64(&bytes));
        let bytes = Bytes::from(bytes);
        let Ok(snapshot) = decode_snapshot::<ProtocolSnapshot>(&bytes, id, "Köln", &LIMITS) else {
            continue;
        };
        accepted += 1;
        let Snapshot { own, epoch, shared, state } = snapshot;
        let (position, executed) = (LogPosition::default(), own.executed);
        let point = Checkpoint::<_, Record> { position, executed, shared, own: Vec::new() };
        let mut again = Vec::new();
        let write = |piece: &[u8]| {
            again.extend_from_slice(piece);
            Ok::<_, Infallible>(())
        };
        encode_snapshot(epoch, "Köln", &point, &state, write).expect("memory takes all");
        assert!(again.starts_with(&bytes), "accepted, but written otherwise");
    }
    assert!(accepted > 1000, "only {accepted} were accepted");
}

#[test]
fn a_writer_that_fails_is_left_alone() {
    let mut calls = 0;
    let failed = encode_snapshot(0, "Köln", &checkpoint(9), b"state", |_| {
        calls += 1;
        if calls == 2 { Err("full") } else { Ok(()) }
    });
    assert_eq!((failed, calls), (Err("full"), 2));
}
