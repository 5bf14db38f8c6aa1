//! The bytes of one example of every kind, derived by hand from the table in `wire`. If one of them
//! changes, deployed replicas and logs no longer understand each other: raise the version instead.

use std::fmt::Debug;
use std::sync::Arc;

use super::*;
use crate::protocol::epaxos::{CommitValue, Interfering, Phase, Report, Standing};
use crate::replica::{Heard, MAX_CHUNK, Record as OfReplica, Since, SnapshotId, Transfer};
use crate::types::member_id as id;
use crate::types::{
    Access, Address, Ballot, Batch, Change, ClientId, Command, Deps, Era, Footprint, InstanceId,
    KeyHash, LogPosition, MAX_SLOT, Member, MemberId, ReplicaId, RequestId, Time, Value,
};

/// A batch of two commands: one with two keys and one with everything; the second has no payload.
pub(super) const BATCH: &str = "02
    0807060504030201 ac02 07 02  03 0100000000000000 00 a8a7a6a5a4a3a2a1 01  03 706179
    ffffffffffffffff 01   00 01  00                                          00";
const DEPS: &str = "03 00 ac02 05";
const NAME: &str = "0b0000000000000a";

pub(super) fn hex(text: &str) -> Bytes {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    let bytes = digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]));
    bytes.collect::<Result<Vec<u8>, _>>().expect("two digits make a byte").into()
}

pub(super) fn replica(number: u8) -> ReplicaId {
    ReplicaId::new(number).expect("a replica's number")
}

pub(super) fn request_id() -> RequestId {
    RequestId::new(ClientId(0x0102_0304_0506_0708), 300)
}

pub(super) fn batch() -> Arc<Batch> {
    let keys = [(KeyHash(1), Access::Read), (KeyHash(0xa1a2_a3a4_a5a6_a7a8), Access::Write)];
    let first = Command {
        request: request_id(),
        floor: 7,
        origin: replica(2),
        footprint: Footprint::from_keys(keys),
        payload: Bytes::from_static(b"pay"),
    };
    let second = Command {
        request: RequestId::new(ClientId(u64::MAX), 1),
        floor: 0,
        origin: replica(1),
        footprint: Footprint::Everything,
        payload: Bytes::new(),
    };
    Batch::new(vec![first, second])
}

/// One message of every kind, with its frame.
pub(super) fn messages() -> Vec<(Peer, Bytes)> {
    let id = InstanceId::new(replica(2), 17);
    let ballot = Ballot::new(200, replica(3)).expect("a round above 0");
    let deps = || Deps::from_slots([0, 300, 5]);
    let (time, batch) = (Time::from_nanos(0x0001_0000_0002), batch());
    let value = || Value::Batch(Arc::clone(&batch));
    let report = Report {
        phase: Phase::Accepted,
        accepted: Ballot::OWNER,
        value: Some((value(), deps())),
        initial: None,
    };
    let blank = Report {
        phase: Phase::Initial,
        accepted: Ballot::OWNER,
        value: None,
        initial: Some((Arc::clone(&batch), deps())),
    };
    let interfering = vec![
        Interfering { id, standing: Standing::Open },
        Interfering { id: InstanceId::new(replica(3), MAX_SLOT), standing: Standing::Committed },
        Interfering { id: InstanceId::new(replica(1), 1), standing: Standing::Unknown },
    ];
    let said = |message, bytes: String| (PeerMessage::Protocol(message), bytes);
    let about = |message, bytes: String| (PeerMessage::Transfer(message), bytes);
    let snapshot = SnapshotId(0x0a00_0000_0000_000b);
    let all = [
        (PeerMessage::Ping { sent: time }, "01 0200000001000000".to_owned()),
        (PeerMessage::Pong { echo: time }, "02 0200000001000000".to_owned()),
        (PeerMessage::Probe { sent: time }, "08 0200000001000000".to_owned()),
        (PeerMessage::Probed { echo: time }, "09 0200000001000000".to_owned()),
        about(
            Transfer::Request { at_least: deps(), part_of: Some(snapshot) },
            format!("03 {DEPS} 01 {NAME}"),
        ),
        about(
            Transfer::Offer { snapshot, executed: deps(), bytes: 300 },
            format!("04 {NAME} {DEPS} ac02"),
        ),
        about(
            Transfer::Fetch { snapshot, offset: 300, bytes: MAX_CHUNK },
            format!("05 {NAME} ac02 808010"),
        ),
        about(
            Transfer::Chunk { snapshot, offset: 0, bytes: Bytes::from_static(b"part") },
            format!("06 {NAME} 00 04 70617274"),
        ),
        about(Transfer::Gone { snapshot }, format!("07 {NAME}")),
        said(
            Message::PreAccept { id, batch: Arc::clone(&batch), deps: deps() },
            format!("10 0211 {BATCH} {DEPS}"),
        ),
        said(Message::PreAcceptOk { id, deps: deps() }, format!("11 0211 {DEPS}")),
        said(
            Message::Accept { id, ballot, value: value(), deps: deps() },
            format!("12 0211 c80103 01 {BATCH} {DEPS}"),
        ),
        said(
            Message::Accept { id, ballot, value: Value::Nop, deps: deps() },
            format!("12 0211 c80103 00 {DEPS}"),
        ),
        said(Message::AcceptOk { id, ballot: Ballot::OWNER }, "13 0211 00".to_owned()),
        said(
            Message::Commit { id, value: CommitValue::Nop, deps: deps() },
            format!("14 0211 00 {DEPS}"),
        ),
        said(
            Message::Commit { id, value: CommitValue::Batch(Arc::clone(&batch)), deps: deps() },
            format!("14 0211 01 {BATCH} {DEPS}"),
        ),
        said(
            Message::Commit { id, value: CommitValue::OwnersBatch, deps: deps() },
            format!("14 0211 02 {DEPS}"),
        ),
        said(Message::Recover { id, ballot }, "15 0211 c80103".to_owned()),
        said(
            Message::RecoverOk { id, ballot, report },
            format!("16 0211 c80103 02 00 01 01 {BATCH} {DEPS} 00"),
        ),
        said(
            Message::RecoverOk { id, ballot, report: blank },
            format!("16 0211 c80103 00 00 00 01 {BATCH} {DEPS}"),
        ),
        said(
            Message::Validate { id, ballot, batch, deps: deps() },
            format!("17 0211 c80103 {BATCH} {DEPS}"),
        ),
        said(
            Message::ValidateOk { id, ballot, interfering },
            "18 0211 c80103 03 0211 00 03 808080808080808010 01 0101 02".to_owned(),
        ),
        said(Message::Waiting { id, fast_votes: 3 }, "19 0211 03".to_owned()),
        said(Message::Reject { id, ballot }, "1a 0211 c80103".to_owned()),
        said(
            Message::Marks {
                proposed: 300,
                known: deps(),
                executed: Deps::none(3),
                by_all: Box::new(Deps::from_slots([1, 0, 2])),
                cut: deps(),
            },
            format!("1b ac02 {DEPS} 03 000000 03 010002 {DEPS}"),
        ),
        said(Message::Fetch { owner: replica(1), from: 127, to: 128 }, "1c 01 7f 8001".to_owned()),
        said(Message::Truncated { id }, "1d 0211".to_owned()),
        said(Message::Cut { cut: deps() }, format!("1e {DEPS}")),
        said(Message::CutOk { cut: deps() }, format!("1f {DEPS}")),
    ];
    all.into_iter().map(|(message, bytes)| (message, hex(&format!("02 00 00 {bytes}")))).collect()
}

/// One record of every kind, with its bytes.
pub(super) fn records() -> Vec<(Record, Bytes)> {
    let id = InstanceId::new(replica(2), 17);
    let ballot = Ballot::new(200, replica(3)).expect("a round above 0");
    let deps = || Deps::from_slots([0, 300, 5]);
    let (batch, initial) = (batch(), Deps::none(3));
    let value = Value::Batch(Arc::clone(&batch));
    let all = [
        (
            Record::PreAccepted {
                id,
                batch: Arc::clone(&batch),
                initial: initial.clone(),
                deps: deps(),
            },
            format!("10 0211 {BATCH} 03 000000 {DEPS}"),
        ),
        (
            Record::Accepted { id, ballot, value: Value::Nop, deps: deps() },
            format!("11 0211 c80103 00 {DEPS}"),
        ),
        (Record::Joined { id, ballot }, "12 0211 c80103".to_owned()),
        (
            Record::Validated { id, ballot, batch: Arc::clone(&batch), initial },
            format!("13 0211 c80103 {BATCH} 03 000000"),
        ),
        (Record::Committed { id, value, deps: deps() }, format!("14 0211 01 {BATCH} {DEPS}")),
        (Record::Reserved { up_to: 200 }, "15 c801".to_owned()),
        (Record::Agreed { cut: deps() }, format!("16 {DEPS}")),
        (Record::Learned { id, batch }, format!("17 0211 {BATCH}")),
        (Record::EarlyCommit { up_to: 200 }, "18 c801".to_owned()),
    ];
    all.into_iter().map(|(record, bytes)| (record, hex(&format!("01 00 {bytes}")))).collect()
}

/// One request of every kind, with its frame.
pub(super) fn requests() -> Vec<(Request, Bytes)> {
    let payload = || Bytes::from_static(b"pay");
    let address: Address = "a:9".parse().expect("an address");
    let member = |number, address: &str| {
        let address = address.parse().expect("an address");
        Member { id: id(number), address, directory: 0 }
    };
    let ask = |change| Ask::ChangeMembers { change, force: true };
    let all = [
        (Ask::Execute(payload()), "01 03 706179"),
        (Ask::ReadLocal(payload()), "02 03 706179"),
        (Ask::ReadLinearizable(payload()), "03 03 706179"),
        (Ask::Status, "04"),
        (Ask::Snapshot, "05"),
        (Ask::Members, "06"),
        (ask(Change::Add(member(300, "[::1]:9"))), "07 01 ac02 07 5b3a3a315d3a39 01"),
        (ask(Change::Remove(id(3))), "07 02 03 01"),
        (ask(Change::Replace { old: id(3), new: member(4, "a:9") }), "07 03 03 04 03 613a39 01"),
        (ask(Change::Move { id: id(3), address }), "07 04 03 03 613a39 01"),
        (ask(Change::Observe(member(4, "a:9"))), "07 05 04 03 613a39 01"),
        (ask(Change::Promote(id(3))), "07 06 03 01"),
        (Ask::Backup, "08"),
        (Ask::Fetch { snapshot: 7, offset: 300, bytes: 9 }, "09 0700000000000000 ac02 09"),
    ];
    let frame = |(ask, bytes)| {
        let request = Request { request: request_id(), floor: 299, ask };
        (request, hex(&format!("02 0807060504030201 ac02 ab02 {bytes}")))
    };
    all.into_iter().map(frame).collect()
}

/// One reply of every kind, with its frame.
pub(super) fn replies() -> Vec<(Reply, Bytes)> {
    let info = ServerInfo {
        cluster: "Köln".to_owned(),
        replica: MemberId::of(replica(3)),
        list: None,
        version: "0.1".to_owned(),
    };
    let members = Members {
        begun: vec![id(5)],
        reached: vec![id(6)],
        receiving: Some((7, 8)),
        ..Members::unknown(id(3), Role::Stranger)
    };
    let address = "a:9".parse().expect("an address");
    let only = Member { id: id(3), address, directory: 0 };
    let offer = Offer {
        replica: id(3),
        protocol: "p".to_owned(),
        list: crate::types::Membership::first(vec![only]).expect("a list"),
        position: 300,
        snapshot: 7,
        bytes: 9,
    };
    let all = [
        (Outcome::Output(Bytes::from_static(b"out")), "01 03 6f7574"),
        (Outcome::Status(info), "02 05 4bc3b66c6e 03 00 03 302e31"),
        (Outcome::Rejected(Refusal::Overloaded), "03 01"),
        (Outcome::Rejected(Refusal::BadRequest("no".to_owned())), "03 02 02 6e6f"),
        (Outcome::Rejected(Refusal::Stopping), "03 03"),
        (Outcome::Rejected(Refusal::Redirect(MemberId::of(replica(2)))), "03 04 02"),
        (Outcome::Rejected(Refusal::DiskFull), "03 05"),
        (Outcome::Rejected(Refusal::Expired(Era::of(300 << 40))), "03 06 ac02"),
        (Outcome::Rejected(Refusal::NoQuorum("no".to_owned())), "03 07 02 6e6f"),
        (Outcome::Rejected(Refusal::TooManySessions), "03 08"),
        (Outcome::Rejected(Refusal::NoMember), "03 09"),
        (Outcome::Rejected(Refusal::Observes), "03 0e"),
        (Outcome::Rejected(Refusal::NotChanged("no".to_owned())), "03 0a 02 6e6f"),
        (Outcome::Rejected(Refusal::NoBackup("no".to_owned())), "03 0b 02 6e6f"),
        (Outcome::Rejected(Refusal::Gone), "03 0c"),
        (Outcome::Rejected(Refusal::Older(MemberId::of(replica(2)))), "03 0d 02"),
        (Outcome::Unknown("?".to_owned()), "04 01 3f"),
        (Outcome::Snapshot { position: 300, bytes: 7 }, "05 ac02 07"),
        (Outcome::NoAnswer(NoAnswer::TooLarge { bytes: 300, limit: 7 }), "06 01 ac02 07"),
        (Outcome::NoAnswer(NoAnswer::Forgotten), "06 02"),
        (Outcome::Members(members), "07 03 04 00 01 05 01 06 01 07 08"),
        (
            Outcome::Backup(offer),
            "09 03 01 70 0a 01 00 03 01 03 03 613a39 00 ac02 0700000000000000 09",
        ),
        (Outcome::Part(Bytes::from_static(b"out")), "0a 03 6f7574"),
    ];
    let frame = |(outcome, bytes)| {
        let reply = Reply { request: request_id(), outcome };
        (reply, hex(&format!("02 0807060504030201 ac02 {bytes}")))
    };
    all.into_iter().map(frame).collect()
}

fn agree<T: Debug + PartialEq>(
    examples: Vec<(T, Bytes)>,
    encode: impl Fn(&T) -> Bytes,
    decode: impl Fn(Bytes) -> Result<T, DecodeError>,
) {
    for (value, bytes) in examples {
        assert_eq!(encode(&value), bytes, "{value:?}");
        assert_eq!(decode(bytes), Ok(value));
    }
}

#[test]
fn peer_frames_are_these_bytes() {
    agree(
        messages(),
        |message| peer_bytes(0, message),
        |frame| decode_peer(frame, &SMALL).map(|frame| frame.message),
    );
}

#[test]
fn records_are_these_bytes() {
    agree(
        records(),
        |record| record_bytes(0, record),
        |bytes| decode_record(bytes, &SMALL).map(|(_, record)| record),
    );
}

#[test]
fn requests_are_these_bytes() {
    agree(requests(), request_bytes, decode_request);
}

#[test]
fn replies_are_these_bytes() {
    agree(replies(), reply_bytes, decode_reply);
}

/// The newest version of each has the layout of the oldest.
#[test]
fn frames_are_read_in_every_version() {
    let newer = |bytes: Bytes, version: u8| {
        let mut bytes = bytes.to_vec();
        bytes[0] = version;
        Bytes::from(bytes)
    };
    for (message, bytes) in messages() {
        let frame = newer(bytes, PEER_VERSIONS.newest);
        assert_eq!(decode_peer(frame, &SMALL).map(|frame| frame.message), Ok(message));
    }
    let newest = CLIENT_VERSIONS.newest;
    for (request, bytes) in requests() {
        let frame = encoded(|out| encode_request(newest, &request, out));
        assert_eq!(frame, newer(bytes, newest));
        assert_eq!(decode_request(frame), Ok(request));
    }
    for (reply, bytes) in replies() {
        let frame = encoded(|out| encode_reply(newest, &reply, out));
        assert_eq!(frame, newer(bytes, newest));
        assert_eq!(decode_reply(frame), Ok(reply));
    }
    for version in [PEER_VERSIONS.oldest - 1, PEER_VERSIONS.newest + 1] {
        let (_, bytes) = messages().swap_remove(0);
        decode_peer::<Message>(newer(bytes, version), &SMALL).expect_err("an unknown version");
    }
}

#[test]
fn the_epoch_and_the_position_stand_behind_the_version() {
    let (message, _) = messages().swap_remove(0);
    let frame = Frame { epoch: 300, held: LogPosition::new(301), message };
    let bytes = frame_bytes(&frame);
    assert_eq!(bytes, hex("02 ac02 ad02 01 0200000001000000"));
    assert_eq!(decode_peer::<Message>(bytes, &SMALL), Ok(frame));
}

#[test]
fn what_was_heard_has_these_bytes() {
    let since = |began| Some(Since { directory: 0x0807_0605_0403_0201, life: 5, began });
    let heard =
        |peer, since, held| Heard { peer: replica(peer), since, held: LogPosition::new(held) };
    let news = vec![heard(1, None, 300), heard(2, since(Some(LogPosition::new(301))), 302)];
    let record = OfReplica::<Record>::Heard(news);
    let bytes = encoded(|out| encode_record(300, &record, out));
    let life = "0102030405060708 0500000000000000";
    assert_eq!(bytes, hex(&format!("01 ac02 01 02 01 00 ac02 02 02 {life} ad02 ae02")));
    assert_eq!(decode_record(bytes.clone(), &SMALL), Ok((300, record)));
    // As an earlier version wrote it, without where lives began.
    let record = OfReplica::<Record>::Heard(vec![heard(1, None, 300), heard(2, since(None), 5)]);
    let before = hex(&format!("01 ac02 01 02 01 00 ac02 02 01 {life} 05"));
    assert_eq!(encoded(|out| encode_record(300, &record, out)), before);
    assert_eq!(decode_record(before.clone(), &SMALL), Ok((300, record)));
    no_prefix(&before, |cut| decode_record::<OfReplica<Record>>(cut, &SMALL));
    let error = decode_record::<OfReplica<Record>>(hex("01 00 01 01 02 03 05"), &SMALL);
    assert_eq!(error.expect_err("no life").flaw(), Flaw::Kind { what: "a life", kind: 3 });
    no_prefix(&bytes, |cut| decode_record::<OfReplica<Record>>(cut, &SMALL));
    let many = hex(&format!("01 00 01 40 {}", "01 00 00".repeat(64)));
    let error = decode_record::<OfReplica<Record>>(many, &SMALL).expect_err("too many");
    let limit = crate::types::MAX_REPLICAS as u64;
    assert_eq!(error.flaw(), Flaw::TooMany { what: "replicas heard", found: 64, limit });
    // A protocol's record is written as before.
    for (record, bytes) in records() {
        let record = OfReplica::Protocol(record);
        assert_eq!(encoded(|out| encode_record(0, &record, out)), bytes);
        assert_eq!(decode_record(bytes, &SMALL), Ok((0, record)));
    }
}
