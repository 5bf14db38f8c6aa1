//! The room's promises: one encoding for each value, nothing else accepted, no panic, bounded
//! memory.

mod arbitrary;
mod epochs;
mod golden;
mod logs;
mod multipaxos;
mod mutation;
mod refusals;

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use self::arbitrary as any;
use super::*;
use crate::protocol::epaxos::{Message, Record};
use crate::replica::PeerMessage;
use crate::types::LogPosition;

type Peer = PeerMessage<Message>;

/// Three replicas and small bounds, so that tests reach them.
const SMALL: Limits = Limits { replicas: 3, max_commands: 8, max_keys: 4, max_interfering: 8 };

fn encoded(encode: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    encode(&mut out);
    out.freeze()
}

fn frame_bytes(frame: &Frame<Message>) -> Bytes {
    encoded(|out| encode_peer(frame.epoch, frame.held, &frame.message, out))
}

fn peer_bytes(epoch: u32, message: &Peer) -> Bytes {
    frame_bytes(&Frame { epoch, held: LogPosition::default(), message: message.clone() })
}

fn record_bytes(epoch: u32, record: &Record) -> Bytes {
    encoded(|out| encode_record(epoch, record, out))
}

fn request_bytes(request: &Request) -> Bytes {
    encoded(|out| encode_request(CLIENT_VERSIONS.oldest, request, out))
}

fn reply_bytes(reply: &Reply) -> Bytes {
    encoded(|out| encode_reply(CLIENT_VERSIONS.oldest, reply, out))
}

/// Decoding a bare value, without a frame's header, returns it and uses exactly its bytes.
fn comes_back<T: Wire + PartialEq + Debug>(value: &T, limits: &Limits) {
    let bytes = encoded(|out| value.encode(out));
    let mut from = Reader::new(&bytes, limits);
    assert_eq!(from.read::<T>().as_ref(), Ok(value));
    assert_eq!(from.finish(), Ok(()));
}

/// No proper prefix of a frame is a frame.
fn no_prefix<T: Debug>(frame: &Bytes, decode: impl Fn(Bytes) -> Result<T, DecodeError>) {
    for length in 0..frame.len() {
        let error = decode(frame.slice(..length)).expect_err("a prefix was accepted");
        assert!(error.offset() <= length, "{error} in a frame of {length} bytes");
    }
}

proptest! {
    #[test]
    fn numbers_come_back(number in any::number(), byte: u8, flag: bool) {
        comes_back(&number, &SMALL);
        comes_back(&byte, &SMALL);
        comes_back(&flag, &SMALL);
    }

    /// Numbers at the end of a frame are decoded by a different path than numbers before it.
    #[test]
    fn numbers_come_back_from_anywhere(number in any::number(), behind in 0usize..20, fill: u8) {
        let mut out = BytesMut::new();
        number.encode(&mut out);
        let length = out.len();
        out.resize(length + behind, fill);
        let frame = out.freeze();
        let mut from = Reader::new(&frame, &SMALL);
        prop_assert_eq!(from.read::<u64>(), Ok(number));
        prop_assert_eq!(from.offset(), length);
    }

    /// A number padded with zeros is refused, wherever it is.
    #[test]
    fn longer_numbers_are_refused(
        number in any::number(), zeros in 1usize..5, behind in 0usize..20,
    ) {
        let mut out = BytesMut::new();
        number.encode(&mut out);
        *out.last_mut().expect("a number has a byte") |= 0x80;
        out.resize(out.len() + zeros - 1, 0x80);
        out.resize(out.len() + 1 + behind, 0);
        let frame = out.freeze();
        let refused = Reader::new(&frame, &SMALL).read::<u64>().expect_err("two forms of a number");
        prop_assert_eq!((refused.offset(), refused.flaw()), (0, Flaw::Overlong));
    }

    #[test]
    fn names_come_back(
        id in any::instance(9), ballot in any::ballot(9), request in any::request_id(),
        time in any::time(), replica in any::replica(9),
    ) {
        let limits = Limits::new(9);
        comes_back(&id, &limits);
        comes_back(&ballot, &limits);
        comes_back(&request, &limits);
        comes_back(&time, &limits);
        comes_back(&replica, &limits);
    }

    #[test]
    fn commands_come_back(
        footprint in any::footprint(), command in any::command(9), batch in any::batch(9),
        value in any::value(9), text: String, some in proptest::option::of(any::deps(9)),
        executed in any::executed(9),
    ) {
        let limits = Limits::new(9);
        comes_back(&footprint, &limits);
        comes_back(&command, &limits);
        comes_back(&batch, &limits);
        comes_back(&value, &limits);
        comes_back(&text, &limits);
        comes_back(&command.payload, &limits);
        comes_back(&some, &limits);
        comes_back(&executed, &limits);
    }

    #[test]
    fn parts_of_messages_come_back(
        commit in any::commit_value(9), report in any::report(9), ask in any::ask(),
        interfering in proptest::collection::vec(any::interfering(9), 0..9),
        outcome in any::outcome(),
    ) {
        let limits = Limits::new(9);
        comes_back(&commit, &limits);
        comes_back(&report.phase, &limits);
        comes_back(&report, &limits);
        comes_back(&interfering, &limits);
        comes_back(&ask, &limits);
        // A client does not know the size of the cluster.
        let limits = Limits::default();
        comes_back(&outcome, &limits);
        match outcome {
            Outcome::Rejected(refusal) => comes_back(&refusal, &limits),
            Outcome::Status(info) => comes_back(&info, &limits),
            Outcome::NoAnswer(why) => comes_back(&why, &limits),
            Outcome::Members(members) => comes_back(&members, &limits),
            Outcome::Changed(list) => comes_back(&list, &limits),
            Outcome::Backup(offer) => comes_back(&offer, &limits),
            Outcome::Output(_)
            | Outcome::Unknown(_)
            | Outcome::Snapshot { .. }
            | Outcome::Part(_) => {}
        }
    }

    #[test]
    fn peer_frames_come_back(
        (n, message) in (1usize..=9).prop_flat_map(|n| (Just(n), any::peer(n))), epoch: u32,
        held: u64,
    ) {
        let limits = Limits::new(n);
        let frame = Frame { epoch, held: LogPosition::new(held), message };
        let bytes = frame_bytes(&frame);
        prop_assert_eq!(decode_peer(bytes.clone(), &limits), Ok(frame));
        no_prefix(&bytes, |cut| decode_peer::<Message>(cut, &limits));
    }

    #[test]
    fn records_come_back(
        (n, record) in (1usize..=9).prop_flat_map(|n| (Just(n), any::record(n))), epoch: u32,
    ) {
        let limits = Limits::new(n);
        let bytes = record_bytes(epoch, &record);
        prop_assert_eq!(decode_record(bytes.clone(), &limits), Ok((epoch, record)));
        no_prefix(&bytes, |cut| decode_record::<Record>(cut, &limits));
    }

    #[test]
    fn requests_come_back(request in any::request()) {
        let frame = request_bytes(&request);
        prop_assert_eq!(decode_request(frame.clone()), Ok(request));
        no_prefix(&frame, decode_request);
    }

    #[test]
    fn replies_come_back(reply in any::reply()) {
        let frame = reply_bytes(&reply);
        prop_assert_eq!(decode_reply(frame.clone()), Ok(reply));
        no_prefix(&frame, decode_reply);
    }

    #[test]
    fn a_count_is_not_believed(
        claim in any::number(), rest in 0usize..64, limit in 0usize..64, least in 1usize..16,
    ) {
        let mut out = BytesMut::new();
        claim.encode(&mut out);
        let at = out.len();
        out.resize(at + rest, 0);
        let frame = out.freeze();
        let count = Reader::new(&frame, &SMALL).count("things", limit, least);
        let fits = claim <= limit as u64 && claim.saturating_mul(least as u64) <= rest as u64;
        prop_assert_eq!(count.is_ok(), fits);
        if let Ok(count) = count {
            prop_assert_eq!(count as u64, claim);
        }
    }
}

#[test]
fn a_payload_is_a_slice_of_the_frame() {
    let payload = Bytes::from_static(b"sixteen bytes ..");
    let ask = Ask::Execute(payload.clone());
    let request = Request { request: golden::request_id(), floor: 0, ask };
    let frame = request_bytes(&request);
    let decoded = decode_request(frame.clone()).expect("a good frame");
    let Ask::Execute(inner) = decoded.ask else { panic!("{decoded:?}") };
    assert_eq!(inner, payload);
    let range = frame.as_ptr_range();
    assert!(range.contains(&inner.as_ptr()), "the payload was copied");
}
