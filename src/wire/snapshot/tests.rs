//! Snapshots are decoded as they were encoded, and any change is noticed.

use std::convert::Infallible;
use std::io::Read;

use bytes::{BufMut, Bytes};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::protocol::epaxos::{
    DroppedIndex, ExecutedDecision, ExecutedValue, ProtocolSnapshot, Record, SlotIndex,
};
use crate::types::{Ballot, InstanceId, KeyHash, LogPosition, ReplicaId};
use crate::wire::{Flaw, Limits};

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

/// The file of a snapshot whose state is written in parts of these lengths, in turn.
fn file_in_parts(point: &Point, state: &[u8], parts: &[usize]) -> (Bytes, Encoded) {
    let mut file = BytesMut::new();
    let write_state = |to: &mut dyn Write| {
        let (mut left, mut parts) = (state, parts.iter().cycle());
        while !left.is_empty() {
            let (now, later) = left.split_at(left.len().min(*parts.next().expect("a cycle")));
            // A view may not look at how much was taken.
            assert_eq!(to.write(now)?, now.len(), "all of it is taken");
            left = later;
        }
        Ok(())
    };
    let encoded = encode_snapshot::<_, _, Infallible>(None, "Köln", point, write_state, |bytes| {
        file.extend_from_slice(bytes);
        Ok(())
    });
    (file.freeze(), encoded.expect("memory takes all"))
}

fn file(point: &Point, state: &[u8]) -> (Bytes, Encoded) {
    file_in_parts(point, state, &[usize::MAX])
}

/// The same snapshot in version 1.
fn undivided(point: &Point, state: &[u8]) -> (Bytes, OwnSnapshot) {
    let (file, encoded) = file(point, &[]);
    let others = usize::try_from(encoded.own.bytes).expect("small");
    let front = &file[HEADER..others - PIECE_HEADER];
    let mut out = BytesMut::from(&MAGIC[..]);
    out.put_u8(1);
    out.put_u64_le(front.len() as u64);
    out.put_u64_le(state.len() as u64);
    out.put_slice(front);
    out.put_slice(state);
    let (id, bytes) = (SnapshotId(xxh3_64(&out)), out.len() as u64);
    out.put_u64_le(id.0);
    out.put_slice(&file[others + 8..]);
    (out.freeze(), OwnSnapshot { id, bytes, ..encoded.own })
}

/// A decoded snapshot.
#[derive(PartialEq, Debug)]
struct Found {
    front: Front<ProtocolSnapshot>,
    state: Vec<u8>,
    end: SnapshotEnd,
    own: Vec<crate::replica::Record<Record>>,
}

fn chunks(file: &Bytes, length: usize) -> impl FnMut() -> Result<Option<Bytes>, Infallible> {
    let mut left = file.clone();
    move || Ok((!left.is_empty()).then(|| left.split_to(length.min(left.len()))))
}

/// Decodes an own snapshot from chunks of this length, or another replica's if a name is given.
fn read_in(file: &Bytes, length: usize, name: Option<SnapshotId>) -> Result<Found, SnapshotError> {
    let wrong = |error| match error {
        ReadSnapshotError::Snapshot(error) => error,
        ReadSnapshotError::Source(never) => match never {},
    };
    let mut decoder = SnapshotDecoder::new(chunks(file, length));
    let front = decoder.front("Köln", &LIMITS).map_err(wrong)?;
    let take = |from: &mut dyn Read| {
        let mut state = Vec::new();
        from.read_to_end(&mut state).map(|_| state)
    };
    let state = decoder.state(take).map_err(wrong)?.expect("or the decoder has failed");
    let mut own = Vec::new();
    let end = match name {
        Some(name) => decoder.end(name),
        None => decoder.own(&LIMITS, |record| own.push(record)),
    };
    Ok(Found { front, state, end: end.map_err(wrong)?, own })
}

fn read(file: &Bytes) -> Result<Found, SnapshotError> {
    read_in(file, usize::MAX, None)
}

/// The part of a file that others get.
fn part(file: &Bytes, own: &OwnSnapshot) -> Bytes {
    file.slice(..usize::try_from(own.bytes).expect("small"))
}

#[test]
fn a_snapshot_comes_back_to_its_own_replica_and_to_others() {
    let long = |len: usize| (0..len).map(|at| at.to_le_bytes()[at % 3]).collect::<Vec<u8>>();
    let states = [0, 5, STATE_PIECE - 1, STATE_PIECE, STATE_PIECE + 1, 1_000_000].map(long);
    for (records, state) in [0, 3, 1, 0, 20_000, 7].into_iter().zip(&states) {
        let point = checkpoint(records);
        let (new, Encoded { own, state_bytes }) = file(&point, state);
        assert_eq!(state_bytes, state.len() as u64);
        let (old, old_own) = undivided(&point, state);
        for (file, own) in [(&new, &own), (&old, &old_own)] {
            for length in [usize::MAX, 4096, 613] {
                let found = read_in(file, length, None).expect("as it was written");
                assert_eq!((&found.state, &found.own), (state, &point.own));
                let end = SnapshotEnd { id: own.id, bytes: own.bytes, state_bytes };
                assert_eq!((found.end, &found.front.list), (end, &None));
                assert_eq!(found.front.executed, point.executed);
                assert_eq!(found.front.shared, point.shared);
                let other = read_in(&part(file, own), length, Some(own.id));
                assert_eq!(other, Ok(Found { own: Vec::new(), ..found }));
            }
            let mut decoder = SnapshotDecoder::new(chunks(file, 100));
            assert_eq!(decoder.replicas().expect("a snapshot"), Some(3));
            decoder.front::<ProtocolSnapshot>("Köln", &LIMITS).expect("as it was written");
        }
    }
}

/// Equal snapshots have equal names, however their state was written.
#[test]
fn how_a_state_is_cut_depends_on_the_state_alone() {
    let state: Vec<u8> = (0..700_000u32).map(|at| at.to_le_bytes()[0]).collect();
    let whole = file(&checkpoint(2), &state);
    for parts in [&[1, 70_000][..], &[STATE_PIECE, 1], &[300_000], &[4096, 0, 5]] {
        assert!(file_in_parts(&checkpoint(2), &state, parts) == whole, "{parts:?}");
    }
}

#[test]
fn these_are_its_bytes() {
    let (file, Encoded { own, .. }) = file(&checkpoint(1), b"state");
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let most = "faffffffffffffff0f";
    let front = [
        // The epoch, the cluster, the executed instances.
        "01 05 4bc3b66c6e 03 00ac0205 02 0201 018c03 00 01 01",
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
    let header = "69736f6e6f6d7953 02 6400000000000000".replace(' ', "");
    assert_eq!(hex(&file[..FRONT]), header + &front);
    let sum = hex(&xxh3_64(b"state").to_le_bytes());
    let state = "05000000".to_owned() + &sum + "7374617465" + "00000000" + "0500000000000000";
    assert_eq!(hex(&file[FRONT..FRONT + 29]), state);
    assert_eq!(own.bytes, FRONT as u64 + 29);
    let behind = "0100000000000000".to_owned() + "08" + "0101120201c80103";
    assert_eq!(hex(&file[FRONT + 29..]), hex(&own.id.0.to_le_bytes()) + &behind);

    // Version 1.
    let (file, own) = undivided(&checkpoint(1), b"state");
    let header = "69736f6e6f6d7953 01 6400000000000000 0500000000000000".replace(' ', "");
    let name = hex(&own.id.0.to_le_bytes());
    assert_eq!(hex(&file), header + &front + "7374617465" + &name + &behind);
}

#[test]
fn what_is_cut_or_changed_is_noticed() {
    let new = file(&checkpoint(2), b"state");
    let new = (new.0, new.1.own);
    for (file, own) in [new, undivided(&checkpoint(2), b"state")] {
        for length in 0..file.len() {
            let error = read(&file.slice(..length)).expect_err("it was cut");
            let SnapshotError::Decode(error) = error else { panic!("cut at {length}: {error}") };
            assert!(matches!(error.flaw(), Flaw::Truncated { .. }), "cut at {length}: {error}");
        }
        let others = part(&file, &own).len();
        for at in 0..others + 8 {
            let mut changed = BytesMut::from(&file[..]);
            changed[at] ^= 0x10;
            assert!(read(&changed.freeze()).is_err(), "changed at {at}");
        }
        let longer = [&file[..], b"x"].concat().into();
        let Err(SnapshotError::Decode(error)) = read(&longer) else { panic!("one byte too many") };
        assert_eq!(error.flaw(), Flaw::Trailing { bytes: 1 });
        let Err(SnapshotError::Decode(error)) = read_in(&file, 50, Some(own.id)) else {
            panic!("too much for another replica")
        };
        assert!(matches!(error.flaw(), Flaw::Trailing { .. }));
    }
}

/// The reader gets no byte of it.
#[test]
fn a_damaged_piece_is_named() {
    let state: Vec<u8> = (0..900_000u32).map(|at| at.to_le_bytes()[0]).collect();
    let (file, _) = file(&checkpoint(0), &state);
    let at = |piece: usize| FRONT + piece * (STATE_PIECE + PIECE_HEADER);
    for (piece, byte) in [(0, 0), (1, 77), (2, STATE_PIECE - 1), (3, 5)] {
        let mut changed = BytesMut::from(&file[..]);
        changed[at(piece) + PIECE_HEADER + byte] ^= 1;
        let changed = changed.freeze();
        let damaged = SnapshotError::DamagedPiece { piece: piece as u64, offset: at(piece) as u64 };
        assert_eq!(read(&changed), Err(damaged));
        let mut decoder = SnapshotDecoder::new(chunks(&changed, 9999));
        decoder.front::<ProtocolSnapshot>("Köln", &LIMITS).expect("it is sound");
        let (mut taken, mut again) = (Vec::new(), 0);
        let result = decoder.state(|from| {
            // Another attempt gets an error, too.
            while again < 3 {
                again += usize::from(from.read_to_end(&mut taken).is_err());
            }
        });
        assert!(result.is_err());
        assert!(taken == state[..piece * STATE_PIECE]);
    }
    // A wrong length at the end, and a short piece that is not the last.
    let mut changed = BytesMut::from(&file[..]);
    let end = at(3) + PIECE_HEADER + 900_000 - 3 * STATE_PIECE;
    changed[end + 4] ^= 1;
    let expected = 900_001;
    let wrong = SnapshotError::Length { expected, found: 900_000 };
    assert_eq!(read(&changed.freeze()), Err(wrong));
    let short = [&file[..end], &file[at(3)..]].concat().into();
    let Err(SnapshotError::Decode(error)) = read(&short) else { panic!("it is not the last") };
    assert!(matches!(error.flaw(), Flaw::TooMany { what: "a piece of the state", .. }));
    assert_eq!(error.offset(), end + PIECE_HEADER);
}

#[test]
fn who_is_to_blame_is_said() {
    let (file, Encoded { own, .. }) = file(&checkpoint(0), b"state");
    let mut decoder = SnapshotDecoder::new(chunks(&file, 50));
    let other = decoder.front::<ProtocolSnapshot>("Bonn", &LIMITS);
    let Err(ReadSnapshotError::Snapshot(SnapshotError::OtherCluster { found, .. })) = other else {
        panic!("{other:?}")
    };
    assert_eq!(found, "Köln");
    let name = SnapshotId(own.id.0 ^ 1);
    let damaged = read_in(&part(&file, &own), 50, Some(name));
    assert!(matches!(damaged, Err(SnapshotError::Damaged { found, .. }) if found == own.id.0));
    let flaw = |at: usize, byte: u8| {
        let mut changed = BytesMut::from(&file[..]);
        changed[at] = byte;
        let Err(SnapshotError::Decode(error)) = read(&changed.freeze()) else { panic!("at {at}") };
        (error.offset(), error.flaw())
    };
    assert_eq!(flaw(3, b'O'), (0, Flaw::NotASnapshot));
    assert_eq!(flaw(8, 3), (8, Flaw::Version { found: 3, known: 2 }));
    assert!(matches!(flaw(16, 0x7f), (9, Flaw::TooMany { what: "a snapshot's bytes", .. })));
    // An error of the source is returned as it is.
    let mut decoder = SnapshotDecoder::new(|| Err("the disk"));
    let failed = decoder.front::<ProtocolSnapshot>("Köln", &LIMITS);
    assert!(matches!(failed, Err(ReadSnapshotError::Source("the disk"))));
}

/// With matching checksums, as from a replica with a bug in its encoder.
#[test]
fn no_bytes_make_the_decoder_panic_or_reserve_much() {
    let (file, Encoded { own, .. }) = file(&checkpoint(0), b"state");
    let sound = part(&file, &own);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut accepted = 0;
    for round in 0..200_000 {
        let mut bytes = sound.to_vec();
        let until = if round % 2 == 0 { FRONT } else { bytes.len() };
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(HEADER..until);
            bytes[at] = [0, 1, 2, 0x7f, 0x80, 0xff, rng.random()][rng.random_range(0..7)];
        }
        if round % 4 == 1 {
            let sum = xxh3_64(&bytes[FRONT + PIECE_HEADER..FRONT + PIECE_HEADER + 5]);
            bytes[FRONT + 4..FRONT + PIECE_HEADER].copy_from_slice(&sum.to_le_bytes());
        }
        let id = SnapshotId(xxh3_64(&bytes));
        let bytes = Bytes::from(bytes);
        let Ok(found) = read_in(&bytes, 40, Some(id)) else { continue };
        accepted += 1;
        let Front { list, executed, shared } = found.front;
        let position = LogPosition::default();
        let point = Checkpoint::<_, Record> { position, executed, shared, own: Vec::new() };
        let mut again = Vec::new();
        let write = |piece: &[u8]| {
            again.extend_from_slice(piece);
            Ok::<_, Infallible>(())
        };
        let state = |to: &mut dyn Write| to.write_all(&found.state);
        encode_snapshot(list.as_ref(), "Köln", &point, state, write).expect("memory takes all");
        assert!(again.starts_with(&bytes), "accepted, but written otherwise");
    }
    assert!(accepted > 1000, "only {accepted} were accepted");
    // Lengths that are too large.
    for at in [9, 16] {
        let mut bytes = sound.to_vec();
        bytes[at] = 0x3f;
        let error = read(&bytes.into()).expect_err("there is not so much");
        assert!(matches!(error, SnapshotError::Decode(_)), "{error}");
    }
}

#[test]
fn a_writer_that_fails_is_left_alone() {
    // Whether or not the state passes the error on.
    let states: [fn(&mut dyn Write) -> io::Result<()>; 2] = [
        |to| to.write_all(&[7; 2_000_000]),
        |to| {
            for _ in 0..2_000 {
                let _ = to.write_all(&[7; 1_000]);
            }
            Ok(())
        },
    ];
    for state in states {
        for fails_at in 1..9 {
            let mut calls = 0;
            let failed = encode_snapshot(None, "Köln", &checkpoint(9), state, |_| {
                calls += 1;
                if calls == fails_at { Err("full") } else { Ok(()) }
            });
            assert!(matches!(failed, Err(WriteSnapshotError::Write("full"))), "{failed:?}");
            assert_eq!(calls, fails_at);
        }
    }
}

#[test]
fn a_state_that_cannot_be_had_is_no_snapshot() {
    let state = |to: &mut dyn Write| {
        to.write_all(b"the first half")?;
        Err(io::Error::other("the database is gone"))
    };
    let mut written = Vec::new();
    let failed = encode_snapshot(None, "Köln", &checkpoint(0), state, |bytes| {
        written.extend_from_slice(bytes);
        Ok::<_, Infallible>(())
    });
    let Err(WriteSnapshotError::State(error)) = failed else { panic!("{failed:?}") };
    assert_eq!(error.to_string(), "the database is gone");
    assert!(read(&written.into()).is_err());
}
