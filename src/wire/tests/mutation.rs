//! Hostile bytes. Each decoder gets a million inputs made from good ones. It must not panic, return
//! more than its input can hold, or accept what it would not have written. `ISONOMY_INPUTS=N` sets
//! another number for long runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::protocol::epaxos::CommitValue;
use crate::replica::{MAX_CHUNK, Transfer};
use crate::types::{Batch, Command, Value};

/// Bytes with a meaning for decoders: limits, signs, continuations.
const TELLING: [u8; 8] = [0x00, 0x01, 0x02, 0x03, 0x7f, 0x80, 0x81, 0xff];

/// The number of inputs for each decoder.
pub(super) fn inputs() -> usize {
    let asked = std::env::var("ISONOMY_INPUTS").ok();
    asked.map_or(1_000_000, |asked| asked.parse().expect("ISONOMY_INPUTS is a number"))
}

/// Makes one wrong frame from one or two good ones.
fn mutate(rng: &mut ChaCha8Rng, good: &[Bytes], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&good[rng.random_range(0..good.len())]);
    for _ in 0..rng.random_range(1..=3) {
        let at = rng.random_range(0..=out.len());
        match rng.random_range(0..8) {
            0 if at < out.len() => out[at] ^= 1 << rng.random_range(0..8),
            1 if at < out.len() => out[at] = rng.random(),
            2 if at < out.len() => out[at] = TELLING[rng.random_range(0..TELLING.len())],
            3 => out.truncate(at),
            4 => out.insert(at, TELLING[rng.random_range(0..TELLING.len())]),
            5 if at < out.len() => {
                out.remove(at);
            }
            6 => {
                let other = &good[rng.random_range(0..good.len())];
                out.truncate(at);
                out.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
            }
            _ => {
                let length = rng.random_range(0..24);
                out.truncate(at);
                out.extend((0..length).map(|_| rng.random::<u8>()));
            }
        }
    }
}

/// What happened to the inputs.
#[derive(Default)]
pub(super) struct Tally {
    inputs: usize,
    accepted: usize,
    flaws: BTreeSet<&'static str>,
}

pub(super) fn survive<T>(
    seed: u64,
    good: &[Bytes],
    decode: impl Fn(Bytes) -> Result<T, DecodeError>,
    encode: impl Fn(&T) -> Bytes,
    weigh: impl Fn(&T) -> usize,
) -> Tally {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tally = Tally { inputs: inputs(), ..Tally::default() };
    let mut input = Vec::new();
    for _ in 0..tally.inputs {
        mutate(&mut rng, good, &mut input);
        match decode(Bytes::copy_from_slice(&input)) {
            Ok(value) => {
                tally.accepted += 1;
                // A frame is written in the oldest version here. The newest has the same layout.
                let mut again = encode(&value).to_vec();
                if (again[0], input[0]) == (PEER_VERSIONS.oldest, PEER_VERSIONS.newest) {
                    again[0] = input[0];
                }
                assert_eq!(again, input, "accepted, but written otherwise");
                assert!(weigh(&value) <= 16 * input.len(), "{} from {input:x?}", weigh(&value));
            }
            Err(error) => {
                assert!(error.offset() <= input.len(), "{error} in {input:x?}");
                tally.flaws.insert(name(error.flaw()));
            }
        }
    }
    tally
}

fn name(flaw: Flaw) -> &'static str {
    match flaw {
        Flaw::Version { .. } => "version",
        Flaw::Kind { .. } => "kind",
        Flaw::Truncated { .. } => "truncated",
        Flaw::Trailing { .. } => "trailing",
        Flaw::Overlong => "overlong",
        Flaw::TooMany { .. } => "too many",
        Flaw::Replica { .. } => "replica",
        Flaw::VectorLength { .. } => "vector length",
        Flaw::Unsorted => "unsorted",
        Flaw::EmptyBatch => "empty batch",
        Flaw::Zero { .. } => "zero",
        Flaw::OwnersBallot => "owner's ballot",
        Flaw::Report => "report",
        Flaw::EmptyRange => "empty range",
        Flaw::NotASnapshot => "not a snapshot",
        Flaw::Members(_) => "members",
        Flaw::Text => "text",
    }
}

/// The memory of a batch outside its frame.
pub(super) fn batch_weight(batch: &Arc<Batch>) -> usize {
    assert!(batch.commands().len() <= SMALL.max_commands);
    let keys = |command: &Command| {
        let keys = command.footprint.keys().unwrap_or_default();
        assert!(keys.len() <= SMALL.max_keys);
        // Once in the command and once in the union.
        2 * size_of_val(keys)
    };
    size_of_val(batch.commands()) + batch.commands().iter().map(keys).sum::<usize>()
}

pub(super) fn value_weight(value: &Value) -> usize {
    value.batch().map_or(0, batch_weight)
}

fn peer_weight(frame: &Frame<Message>) -> usize {
    let message = &frame.message;
    if let PeerMessage::Transfer(Transfer::Chunk { bytes, .. }) = message {
        assert!(bytes.len() <= MAX_CHUNK as usize);
    }
    let PeerMessage::Protocol(message) = message else { return 0 };
    match message {
        Message::PreAccept { batch, .. }
        | Message::Validate { batch, .. }
        | Message::Commit { value: CommitValue::Batch(batch), .. } => batch_weight(batch),
        Message::Accept { value, .. } => value_weight(value),
        Message::RecoverOk { report, .. } => {
            let value = report.value.as_ref().map_or(0, |(value, _)| value_weight(value));
            value + report.initial.as_ref().map_or(0, |(batch, _)| batch_weight(batch))
        }
        Message::ValidateOk { interfering, .. } => {
            assert!(interfering.len() <= SMALL.max_interfering);
            size_of_val(&interfering[..])
        }
        _ => 0,
    }
}

fn record_weight((_, record): &(u32, Record)) -> usize {
    match record {
        Record::PreAccepted { batch, .. }
        | Record::Validated { batch, .. }
        | Record::Learned { batch, .. } => batch_weight(batch),
        Record::Accepted { value, .. } | Record::Committed { value, .. } => value_weight(value),
        Record::Joined { .. }
        | Record::Reserved { .. }
        | Record::EarlyCommit { .. }
        | Record::Agreed { .. } => 0,
    }
}

/// Checks that enough inputs were accepted and that every reason to refuse occurred.
pub(super) fn worked(tally: &Tally, flaws: &[&'static str]) {
    assert!(tally.accepted > tally.inputs / 200, "only {} were accepted", tally.accepted);
    assert_eq!(tally.flaws, flaws.iter().copied().collect());
}

#[test]
fn peer_frames() {
    let good: Vec<Bytes> = golden::messages().into_iter().map(|(_, bytes)| bytes).collect();
    let tally =
        survive(1, &good, |frame| decode_peer::<Message>(frame, &SMALL), frame_bytes, peer_weight);
    let flaws = [
        "version",
        "kind",
        "truncated",
        "trailing",
        "overlong",
        "too many",
        "replica",
        "vector length",
        "unsorted",
        "empty batch",
        "zero",
        "owner's ballot",
        "report",
        "empty range",
    ];
    worked(&tally, &flaws);
}

#[test]
fn records() {
    let good: Vec<Bytes> = golden::records().into_iter().map(|(_, bytes)| bytes).collect();
    let tally = survive(
        2,
        &good,
        |bytes| decode_record::<Record>(bytes, &SMALL),
        |(epoch, record)| record_bytes(*epoch, record),
        record_weight,
    );
    let flaws = [
        "version",
        "kind",
        "truncated",
        "trailing",
        "overlong",
        "too many",
        "replica",
        "vector length",
        "unsorted",
        "empty batch",
        "zero",
    ];
    worked(&tally, &flaws);
}

#[test]
fn requests() {
    let good: Vec<Bytes> = golden::requests().into_iter().map(|(_, bytes)| bytes).collect();
    let tally = survive(3, &good, decode_request, request_bytes, |_| 0);
    let flaws = [
        "version",
        "kind",
        "truncated",
        "trailing",
        "overlong",
        "zero",
        "members",
        "text",
        "too many",
    ];
    worked(&tally, &flaws);
}

#[test]
fn replies() {
    let good: Vec<Bytes> = golden::replies().into_iter().map(|(_, bytes)| bytes).collect();
    let tally = survive(4, &good, decode_reply, reply_bytes, |reply| match &reply.outcome {
        Outcome::Status(info) => info.cluster.len() + info.version.len(),
        Outcome::Unknown(text) | Outcome::Rejected(Refusal::BadRequest(text)) => text.len(),
        _ => 0,
    });
    let flaws = [
        "version",
        "kind",
        "truncated",
        "trailing",
        "overlong",
        "members",
        "zero",
        "text",
        "too many",
    ];
    worked(&tally, &flaws);
}
