//! Multi-Paxos on the wire: the bytes of every kind, round trips of any value, hostile bytes, and
//! each reason to refuse.

use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::arbitrary as any;
use super::golden::{BATCH, batch, hex, replica};
use super::mutation::{batch_weight, survive, value_weight, worked};
use super::*;
use crate::protocol::multipaxos::{
    Entry, MAX_RUN, Message, Proposal, ProtocolSnapshot, Record, Vote,
};
use crate::replica::PeerMessage;
use crate::types::{Ballot, InstanceId, LogPosition, MAX_SLOT, Time, Value};

type Peer = PeerMessage<Message>;

fn frame_bytes(frame: &Frame<Message>) -> Bytes {
    encoded(|out| encode_peer(frame.epoch, frame.held, &frame.message, out))
}

fn record_bytes(epoch: u32, record: &Record) -> Bytes {
    encoded(|out| encode_record(epoch, record, out))
}

/// The 300th proposal of r2, and a `Nop`.
fn entries() -> (Vec<Entry>, String) {
    let name = InstanceId::new(replica(2), 300);
    let value = Value::Batch(batch());
    let nop = Entry { proposal: InstanceId::new(replica(1), 1), value: Value::Nop };
    (vec![Entry { proposal: name, value }, nop], format!("02  02ac02 01 {BATCH}  0101 00"))
}

/// One message of every kind, with its frame.
fn messages() -> Vec<(Peer, Bytes)> {
    let ballot = Ballot::new(200, replica(3)).expect("a round above 0");
    let (entries, run) = entries();
    let name = InstanceId::new(replica(2), 300);
    let votes = vec![
        Vote { slot: 300, ballot, entry: entries[1].clone() },
        Vote { slot: 302, ballot: Ballot::OWNER, entry: entries[1].clone() },
    ];
    let (sent, lease) = (Time::from_nanos(0x0001_0000_0002), Duration::from_nanos(300));
    let all = [
        (Message::PreVote { ballot, commit: 300 }, "30 c80103 ac02".to_owned()),
        (Message::PreVoteOk { ballot }, "31 c80103".to_owned()),
        (Message::Prepare { ballot, first: 5 }, "32 c80103 05".to_owned()),
        (
            Message::Promise { ballot, first: 300, commit: 5, votes, next: 303 },
            "33 c80103 ac02 05 02  ac02 c80103 0101 00  ae02 00 0101 00  af02".to_owned(),
        ),
        (
            Message::Accept { ballot, commit: 4, first: 5, entries: entries.clone() },
            format!("34 c80103 04 05 {run}"),
        ),
        (Message::AcceptOk { ballot, first: 5, last: 300 }, "35 c80103 05 ac02".to_owned()),
        (Message::Commit { ballot, commit: 0 }, "36 c80103 00".to_owned()),
        (
            Message::Heartbeat { ballot, commit: 7, forget: 6, barrier: 300, sent, lease },
            "3e c80103 07 06 ac02 0200000001000000 ac02".to_owned(),
        ),
        (
            Message::HeartbeatOk { ballot, sent, lease, saved: 6 },
            "38 c80103 0200000001000000 ac02 06".to_owned(),
        ),
        (Message::Reject { ballot }, "39 c80103".to_owned()),
        (
            Message::Forward { proposals: vec![Proposal { name, batch: batch() }] },
            format!("3a 01 02ac02 {BATCH}"),
        ),
        (Message::Fetch { first: 1 }, "3b 01".to_owned()),
        (Message::Decided { first: 5, entries }, format!("3c 05 {run}")),
        (Message::Truncated { floor: 300 }, "3d ac02".to_owned()),
    ];
    let framed = all.into_iter().map(|(message, bytes)| {
        (PeerMessage::Protocol(message), hex(&format!("02 ac02 00 {bytes}")))
    });
    framed.collect()
}

/// One record of every kind, with its bytes.
fn records() -> Vec<(Record, Bytes)> {
    let ballot = Ballot::new(200, replica(3)).expect("a round above 0");
    let (entries, run) = entries();
    let all = [
        (Record::Promised { ballot }, "30 c80103".to_owned()),
        (
            Record::Accepted { ballot, commit: 4, first: 5, entries: entries.clone() },
            format!("31 c80103 04 05 {run}"),
        ),
        (Record::Committed { commit: 300 }, "32 ac02".to_owned()),
        (Record::Decided { first: 5, entries }, format!("33 05 {run}")),
        (Record::Granted { lease: Duration::from_nanos(300) }, "34 ac02".to_owned()),
        (Record::Named { up_to: MAX_SLOT }, "35 808080808080808010".to_owned()),
        (Record::Installed { executed: 300 }, "36 ac02".to_owned()),
    ];
    let framed = all.into_iter().map(|(record, bytes)| (record, hex(&format!("01 ac02 {bytes}"))));
    framed.collect()
}

#[test]
fn the_bytes_of_every_kind_stay_as_they_are() {
    for (message, bytes) in messages() {
        let frame = Frame { epoch: 300, held: LogPosition::default(), message };
        assert_eq!(frame_bytes(&frame), bytes, "{frame:?}");
        assert_eq!(decode_peer(bytes, &SMALL), Ok(frame));
    }
    for (record, bytes) in records() {
        assert_eq!(record_bytes(300, &record), bytes, "{record:?}");
        assert_eq!(decode_record(bytes, &SMALL), Ok((300, record)));
    }
    comes_back(&ProtocolSnapshot, &SMALL);
}

fn entry(n: usize) -> impl Strategy<Value = Entry> {
    (any::instance(n), any::value(n)).prop_map(|(proposal, value)| Entry { proposal, value })
}

fn vote(n: usize) -> impl Strategy<Value = Vote> {
    (any::instance(n), any::ballot(n), entry(n)).prop_map(|(id, ballot, entry)| Vote {
        slot: id.slot,
        ballot,
        entry,
    })
}

/// A first slot, and a run from there that ends within the maximum.
fn run(n: usize) -> impl Strategy<Value = (u64, Vec<Entry>)> {
    (any::slot(), vec(entry(n), 1..4))
        .prop_map(|(first, entries)| (first.clamp(1, MAX_SLOT - 3), entries))
}

fn lease() -> impl Strategy<Value = Duration> {
    any::number().prop_map(Duration::from_nanos)
}

fn message(n: usize) -> impl Strategy<Value = Message> {
    let (ballot, slot) = (move || any::recovery_ballot(n), any::slot);
    let first = || any::slot().prop_map(|slot| slot.max(1));
    let proposal =
        (any::instance(n), any::batch(n)).prop_map(|(name, batch)| Proposal { name, batch });
    let elect = prop_oneof![
        (ballot(), slot()).prop_map(|(ballot, commit)| Message::PreVote { ballot, commit }),
        ballot().prop_map(|ballot| Message::PreVoteOk { ballot }),
        (ballot(), first()).prop_map(|(ballot, first)| Message::Prepare { ballot, first }),
        (ballot(), first(), slot(), vec(vote(n), 0..4), slot()).prop_map(
            |(ballot, first, commit, votes, next)| Message::Promise {
                ballot,
                first,
                commit,
                votes,
                next
            }
        ),
        ballot().prop_map(|ballot| Message::Reject { ballot }),
    ];
    let lead = prop_oneof![
        (ballot(), slot(), run(n)).prop_map(|(ballot, commit, (first, entries))| {
            Message::Accept { ballot, commit, first, entries }
        }),
        (ballot(), first(), first()).prop_map(|(ballot, a, b)| Message::AcceptOk {
            ballot,
            first: a.min(b),
            last: a.max(b)
        }),
        (ballot(), slot()).prop_map(|(ballot, commit)| Message::Commit { ballot, commit }),
        (ballot(), slot(), slot(), slot(), any::time(), lease()).prop_map(
            |(ballot, commit, forget, barrier, sent, lease)| Message::Heartbeat {
                ballot,
                commit,
                forget,
                barrier,
                sent,
                lease
            }
        ),
        (ballot(), any::time(), lease(), slot()).prop_map(|(ballot, sent, lease, saved)| {
            Message::HeartbeatOk { ballot, sent, lease, saved }
        }),
    ];
    prop_oneof![
        elect,
        lead,
        vec(proposal, 0..4).prop_map(|proposals| Message::Forward { proposals }),
        first().prop_map(|first| Message::Fetch { first }),
        run(n).prop_map(|(first, entries)| Message::Decided { first, entries }),
        slot().prop_map(|floor| Message::Truncated { floor }),
    ]
}

fn record(n: usize) -> impl Strategy<Value = Record> {
    prop_oneof![
        any::recovery_ballot(n).prop_map(|ballot| Record::Promised { ballot }),
        (any::recovery_ballot(n), any::slot(), run(n)).prop_map(
            |(ballot, commit, (first, entries))| Record::Accepted {
                ballot,
                commit,
                first,
                entries
            }
        ),
        any::slot().prop_map(|commit| Record::Committed { commit }),
        run(n).prop_map(|(first, entries)| Record::Decided { first, entries }),
        lease().prop_map(|lease| Record::Granted { lease }),
        any::slot().prop_map(|up_to| Record::Named { up_to }),
        any::slot().prop_map(|executed| Record::Installed { executed }),
    ]
}

proptest! {
    #[test]
    fn frames_come_back(
        (n, message) in (1usize..=9).prop_flat_map(|n| (Just(n), message(n))), epoch: u32,
        held: u64,
    ) {
        let limits = Limits::new(n);
        let message = PeerMessage::Protocol(message);
        let frame = Frame { epoch, held: LogPosition::new(held), message };
        let bytes = frame_bytes(&frame);
        prop_assert_eq!(decode_peer(bytes.clone(), &limits), Ok(frame));
        no_prefix(&bytes, |cut| decode_peer::<Message>(cut, &limits));
    }

    #[test]
    fn records_come_back(
        (n, record) in (1usize..=9).prop_flat_map(|n| (Just(n), record(n))), epoch: u32,
    ) {
        let limits = Limits::new(n);
        let bytes = record_bytes(epoch, &record);
        prop_assert_eq!(decode_record(bytes.clone(), &limits), Ok((epoch, record)));
        no_prefix(&bytes, |cut| decode_record::<Record>(cut, &limits));
    }
}

fn run_weight(entries: &[Entry]) -> usize {
    assert!(entries.len() <= MAX_RUN);
    entries.iter().map(|entry| value_weight(&entry.value)).sum()
}

const FLAWS: [&str; 10] = [
    "version",
    "kind",
    "truncated",
    "trailing",
    "overlong",
    "too many",
    "replica",
    "unsorted",
    "empty batch",
    "zero",
];

#[test]
fn hostile_frames_are_refused() {
    let good: Vec<Bytes> = messages().into_iter().map(|(_, bytes)| bytes).collect();
    let weigh = |frame: &Frame<Message>| match &frame.message {
        PeerMessage::Protocol(
            Message::Accept { entries, .. } | Message::Decided { entries, .. },
        ) => run_weight(entries),
        PeerMessage::Protocol(Message::Promise { votes, .. }) => {
            votes.iter().map(|vote| value_weight(&vote.entry.value)).sum()
        }
        PeerMessage::Protocol(Message::Forward { proposals }) => {
            proposals.iter().map(|proposal| batch_weight(&proposal.batch)).sum()
        }
        _ => 0,
    };
    let decode = |frame| decode_peer::<Message>(frame, &SMALL);
    let tally = survive(11, &good, decode, frame_bytes, weigh);
    // The runtime's messages are decoded, too, and may contain a vector.
    let own = ["owner's ballot", "empty range", "vector length"];
    worked(&tally, &[&FLAWS[..], &own].concat());
}

#[test]
fn hostile_records_are_refused() {
    let good: Vec<Bytes> = records().into_iter().map(|(_, bytes)| bytes).collect();
    let weigh = |(_, record): &(u32, Record)| match record {
        Record::Accepted { entries, .. } | Record::Decided { entries, .. } => run_weight(entries),
        _ => 0,
    };
    let decode = |bytes| decode_record::<Record>(bytes, &SMALL);
    let tally = survive(12, &good, decode, |(epoch, it)| record_bytes(*epoch, it), weigh);
    worked(&tally, &[&FLAWS[..], &["owner's ballot", "empty range"]].concat());
}

#[test]
fn each_reason_to_refuse_has_its_place() {
    let flaw = |frame: &str| {
        let error = decode_peer::<Message>(hex(frame), &SMALL).expect_err("it was accepted");
        (error.offset(), error.flaw())
    };
    let kind = Flaw::Kind { what: "a message of Multi-Paxos", kind: 0x3f };
    assert_eq!(flaw("03 00 00 3f"), (3, kind));
    assert_eq!(flaw("03 00 00 31 00"), (3, Flaw::OwnersBallot));
    assert_eq!(flaw("03 00 00 35 0101 03 02"), (3, Flaw::EmptyRange));
    assert_eq!(flaw("03 00 00 34 0101 00 01 00"), (3, Flaw::EmptyRange));
    assert_eq!(flaw("03 00 00 3b 00"), (3, Flaw::Zero { what: "a slot" }));
    let far = |found| Flaw::TooMany { what: "slots", found, limit: MAX_SLOT };
    assert_eq!(flaw("03 00 00 3d 818080808080808010"), (3, far(MAX_SLOT + 1)));
    // A run whose last slot is one above the maximum.
    let run = "03 00 00 3c 808080808080808010 02 0101 00 0101 00";
    assert_eq!(flaw(run), (3, far(MAX_SLOT + 1)));
    let limit = MAX_RUN as u64;
    let many = Flaw::TooMany { what: "proposals", found: limit + 1, limit };
    assert_eq!(flaw("03 00 00 3a 8108"), (4, many));
}
