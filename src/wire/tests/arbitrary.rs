//! Strategies for any value that a correct replica or client may send.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::protocol::epaxos::{CommitValue, Interfering, Message, Phase, Record, Report, Standing};
use crate::replica::epochs::{Fed, Feed};
use crate::replica::{MAX_CHUNK, PeerMessage, SnapshotId, Transfer};
use crate::types::{
    Access, Address, Ballot, Batch, Change, ClientId, Command, Deps, Era, Executed, Footprint,
    InstanceId, KeyHash, MAX_SLOT, Member, MemberId, Membership, ReplicaId, RequestId, Slot, Time,
    Value,
};
use crate::wire::{
    Ask, Members, NoAnswer, Offer, Outcome, Refusal, Reply, Request, Role, ServerInfo,
};

/// A number of any length.
pub(super) fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(number, shift)| number >> shift)
}

/// A slot of any length that an owner may reach.
pub(super) fn slot() -> impl Strategy<Value = Slot> {
    number().prop_map(|number| number % (MAX_SLOT + 1))
}

pub(super) fn replica(n: usize) -> impl Strategy<Value = ReplicaId> {
    (0..n).prop_map(ReplicaId::from_index)
}

pub(super) fn instance(n: usize) -> impl Strategy<Value = InstanceId> {
    (replica(n), slot()).prop_map(|(replica, slot)| InstanceId::new(replica, slot.max(1)))
}

pub(super) fn recovery_ballot(n: usize) -> impl Strategy<Value = Ballot> {
    let round =
        (1..=Ballot::MAX_ROUND, 0u32..32).prop_map(|(round, shift)| (round >> shift).max(1));
    (round, replica(n)).prop_map(|(round, leader)| Ballot::new(round, leader).expect("not 0"))
}

pub(super) fn ballot(n: usize) -> impl Strategy<Value = Ballot> {
    prop_oneof![Just(Ballot::OWNER), recovery_ballot(n)]
}

pub(super) fn deps(n: usize) -> impl Strategy<Value = Deps> {
    vec(slot(), n).prop_map(Deps::from_slots)
}

pub(super) fn request_id() -> impl Strategy<Value = RequestId> {
    (any::<u64>(), number())
        .prop_map(|(client, sequence)| RequestId::new(ClientId(client), sequence.max(1)))
}

pub(super) fn time() -> impl Strategy<Value = Time> {
    any::<u64>().prop_map(Time::from_nanos)
}

pub(super) fn payload() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

pub(super) fn footprint() -> impl Strategy<Value = Footprint> {
    let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
    let keys = vec((any::<u64>().prop_map(KeyHash), access), 0..5);
    prop_oneof![1 => Just(Footprint::Everything), 9 => keys.prop_map(Footprint::from_keys)]
}

pub(super) fn command(n: usize) -> impl Strategy<Value = Command> {
    (request_id(), number(), replica(n), footprint(), payload()).prop_map(
        |(request, floor, origin, footprint, payload)| Command {
            request,
            floor,
            origin,
            footprint,
            payload,
        },
    )
}

pub(super) fn batch(n: usize) -> impl Strategy<Value = Arc<Batch>> {
    vec(command(n), 1..5).prop_map(Batch::new)
}

pub(super) fn value(n: usize) -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Nop), batch(n).prop_map(Value::Batch)]
}

pub(super) fn commit_value(n: usize) -> impl Strategy<Value = CommitValue> {
    prop_oneof![
        Just(CommitValue::Nop),
        batch(n).prop_map(CommitValue::Batch),
        Just(CommitValue::OwnersBatch),
    ]
}

pub(super) fn interfering(n: usize) -> impl Strategy<Value = Interfering> {
    let standing =
        prop_oneof![Just(Standing::Unknown), Just(Standing::Open), Just(Standing::Committed)];
    (instance(n), standing).prop_map(|(id, standing)| Interfering { id, standing })
}

pub(super) fn report(n: usize) -> impl Strategy<Value = Report> {
    let initial = || option::of((batch(n), deps(n)));
    let unvoted = (ballot(n), option::of((value(n), deps(n))), initial()).prop_map(
        |(accepted, value, initial)| Report { phase: Phase::Initial, accepted, value, initial },
    );
    let phase = prop_oneof![Just(Phase::PreAccepted), Just(Phase::Accepted)];
    let voted = (phase, ballot(n), value(n), deps(n), initial()).prop_map(
        |(phase, accepted, value, deps, initial)| Report {
            phase,
            accepted,
            value: Some((value, deps)),
            initial,
        },
    );
    prop_oneof![unvoted, voted]
}

pub(super) fn message(n: usize) -> impl Strategy<Value = Message> {
    let (id, deps, batch) = (|| instance(n), || deps(n), || batch(n));
    let ballot = || recovery_ballot(n);
    let votes = 0..=u8::try_from(n).expect("a small cluster");
    let interfering = vec(interfering(n), 0..20);
    let commit = prop_oneof![
        (id(), batch(), deps()).prop_map(|(id, batch, deps)| Message::PreAccept {
            id,
            batch,
            deps
        }),
        (id(), deps()).prop_map(|(id, deps)| Message::PreAcceptOk { id, deps }),
        (id(), self::ballot(n), value(n), deps())
            .prop_map(|(id, ballot, value, deps)| Message::Accept { id, ballot, value, deps }),
        (id(), self::ballot(n)).prop_map(|(id, ballot)| Message::AcceptOk { id, ballot }),
        (id(), commit_value(n), deps()).prop_map(|(id, value, deps)| Message::Commit {
            id,
            value,
            deps
        }),
    ];
    let recovery = prop_oneof![
        (id(), ballot()).prop_map(|(id, ballot)| Message::Recover { id, ballot }),
        (id(), ballot(), report(n)).prop_map(|(id, ballot, report)| Message::RecoverOk {
            id,
            ballot,
            report
        }),
        (id(), ballot(), batch(), deps()).prop_map(|(id, ballot, batch, deps)| {
            Message::Validate { id, ballot, batch, deps }
        }),
        (id(), ballot(), interfering).prop_map(|(id, ballot, interfering)| {
            Message::ValidateOk { id, ballot, interfering }
        }),
        (id(), votes).prop_map(|(id, fast_votes)| Message::Waiting { id, fast_votes }),
        (id(), ballot()).prop_map(|(id, ballot)| Message::Reject { id, ballot }),
    ];
    let upkeep = prop_oneof![
        (any::<u64>(), deps(), deps(), deps(), deps()).prop_map(
            |(proposed, known, executed, by_all, cut)| {
                Message::Marks { proposed, known, executed, by_all: Box::new(by_all), cut }
            }
        ),
        id().prop_map(|id| Message::Truncated { id }),
        deps().prop_map(|cut| Message::Cut { cut }),
        deps().prop_map(|cut| Message::CutOk { cut }),
        (replica(n), 1..=u64::MAX, number()).prop_map(|(owner, from, more)| Message::Fetch {
            owner,
            from,
            to: from.saturating_add(more)
        }),
    ];
    prop_oneof![5 => commit, 6 => recovery, 2 => upkeep]
}

fn transfer(n: usize) -> impl Strategy<Value = Transfer> {
    let id = || any::<u64>().prop_map(SnapshotId);
    prop_oneof![
        (deps(n), option::of(id()))
            .prop_map(|(at_least, part_of)| Transfer::Request { at_least, part_of }),
        (id(), deps(n), number()).prop_map(|(snapshot, executed, bytes)| Transfer::Offer {
            snapshot,
            executed,
            bytes: bytes.max(1)
        }),
        (id(), number(), 1..=MAX_CHUNK).prop_map(|(snapshot, offset, bytes)| Transfer::Fetch {
            snapshot,
            offset,
            bytes
        }),
        (id(), number(), vec(any::<u8>(), 1..200)).prop_map(|(snapshot, offset, bytes)| {
            Transfer::Chunk { snapshot, offset, bytes: bytes.into() }
        }),
        id().prop_map(|snapshot| Transfer::Gone { snapshot }),
    ]
}

/// A set with a few ranges.
pub(super) fn executed(n: usize) -> impl Strategy<Value = Executed> {
    (deps(n), vec((replica(n), 1..=1u64 << 40, 1..=1u64 << 40), 0..8)).prop_map(
        |(floor, ranges)| {
            let mut executed = Executed::up_to(floor);
            for (owner, gap, length) in ranges {
                let floor = executed.floor().slot(owner);
                let end = executed.above(owner).last().map_or(floor, |(_, last)| *last);
                if end + gap + length <= MAX_SLOT {
                    assert!(executed.extend(owner, end + gap + 1, end + gap + length));
                }
            }
            executed
        },
    )
}

pub(super) fn peer(n: usize) -> impl Strategy<Value = PeerMessage<Message>> {
    prop_oneof![
        1 => time().prop_map(|sent| PeerMessage::Ping { sent }),
        1 => time().prop_map(|echo| PeerMessage::Pong { echo }),
        1 => time().prop_map(|sent| PeerMessage::Probe { sent }),
        1 => time().prop_map(|echo| PeerMessage::Probed { echo }),
        3 => transfer(n).prop_map(PeerMessage::Transfer),
        13 => message(n).prop_map(PeerMessage::Protocol),
    ]
}

pub(super) fn feed(n: usize) -> impl Strategy<Value = Feed> {
    let fed = (instance(n), batch(n), any::<bool>());
    let fed = fed.prop_map(|(id, batch, ends_component)| Fed { id, batch, ends_component });
    prop_oneof![
        (time(), deps(n)).prop_map(|(sent, executed)| Feed::Look { sent, executed }),
        (time(), deps(n)).prop_map(|(echo, executed)| Feed::Here { echo, executed }),
        (any::<u64>(), executed(n)).prop_map(|(feed, have)| Feed::Ask { feed, have }),
        (any::<u64>(), number(), vec(fed, 0..4), option::of(deps(n))).prop_map(
            |(feed, number, executions, floor)| Feed::Piece { feed, number, executions, floor }
        ),
        (any::<u64>(), number()).prop_map(|(feed, pieces)| Feed::Got { feed, pieces }),
        (any::<u64>(), deps(n)).prop_map(|(feed, at_least)| Feed::Behind { feed, at_least }),
    ]
}

pub(super) fn record(n: usize) -> impl Strategy<Value = Record> {
    let (id, deps, batch) = (|| instance(n), || deps(n), || batch(n));
    prop_oneof![
        (id(), batch(), deps(), deps()).prop_map(|(id, batch, initial, deps)| {
            Record::PreAccepted { id, batch, initial, deps }
        }),
        (id(), ballot(n), value(n), deps())
            .prop_map(|(id, ballot, value, deps)| Record::Accepted { id, ballot, value, deps }),
        slot().prop_map(|up_to| Record::Reserved { up_to }),
        slot().prop_map(|up_to| Record::EarlyCommit { up_to }),
        deps().prop_map(|cut| Record::Agreed { cut }),
        (id(), batch()).prop_map(|(id, batch)| Record::Learned { id, batch }),
        (id(), ballot(n)).prop_map(|(id, ballot)| Record::Joined { id, ballot }),
        (id(), ballot(n), batch(), deps()).prop_map(|(id, ballot, batch, initial)| {
            Record::Validated { id, ballot, batch, initial }
        }),
        (id(), value(n), deps()).prop_map(|(id, value, deps)| Record::Committed {
            id,
            value,
            deps
        }),
    ]
}

pub(super) fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        payload().prop_map(Ask::Execute),
        payload().prop_map(Ask::ReadLocal),
        payload().prop_map(Ask::ReadLinearizable),
        Just(Ask::Status),
        Just(Ask::Snapshot),
        Just(Ask::Members),
        (change(), any::<bool>()).prop_map(|(change, force)| Ask::ChangeMembers { change, force }),
        Just(Ask::Backup),
        (any::<u64>(), any::<u64>(), any::<u32>())
            .prop_map(|(snapshot, offset, bytes)| Ask::Fetch { snapshot, offset, bytes }),
    ]
}

pub(super) fn request() -> impl Strategy<Value = Request> {
    (request_id(), number(), ask()).prop_map(|(request, floor, ask)| Request {
        request,
        floor,
        ask,
    })
}

fn offer() -> impl Strategy<Value = Offer> {
    (member(), any::<String>(), list(), any::<(u64, u64, u64)>()).prop_map(
        |(replica, protocol, list, (position, snapshot, bytes))| Offer {
            replica,
            protocol,
            list,
            position,
            snapshot,
            bytes,
        },
    )
}

pub(super) fn outcome() -> impl Strategy<Value = Outcome> {
    let refusal = prop_oneof![
        Just(Refusal::Overloaded),
        any::<String>().prop_map(Refusal::BadRequest),
        Just(Refusal::Stopping),
        member().prop_map(Refusal::Redirect),
        Just(Refusal::DiskFull),
        any::<u64>().prop_map(|sequence| Refusal::Expired(Era::of(sequence))),
        ".*".prop_map(Refusal::NoQuorum),
        Just(Refusal::TooManySessions),
        Just(Refusal::NoMember),
        Just(Refusal::Observes),
        any::<String>().prop_map(Refusal::NotChanged),
        any::<String>().prop_map(Refusal::NoBackup),
        Just(Refusal::Gone),
        member().prop_map(Refusal::Older),
    ];
    let info = (any::<String>(), member(), option::of(list()), any::<String>()).prop_map(
        |(cluster, replica, list, version)| ServerInfo { cluster, replica, list, version },
    );
    prop_oneof![
        payload().prop_map(Outcome::Output),
        info.prop_map(Outcome::Status),
        refusal.prop_map(Outcome::Rejected),
        any::<String>().prop_map(Outcome::Unknown),
        any::<(u64, u64)>().prop_map(|(position, bytes)| Outcome::Snapshot { position, bytes }),
        any::<(u64, u64)>()
            .prop_map(|(bytes, limit)| Outcome::NoAnswer(NoAnswer::TooLarge { bytes, limit })),
        Just(Outcome::NoAnswer(NoAnswer::Forgotten)),
        members().prop_map(Outcome::Members),
        list().prop_map(Outcome::Changed),
        offer().prop_map(Outcome::Backup),
        payload().prop_map(Outcome::Part),
    ]
}

pub(super) fn member() -> impl Strategy<Value = MemberId> {
    (1..=u32::MAX, 0u32..32)
        .prop_map(|(number, shift)| MemberId::new((number >> shift).max(1)).expect("not 0"))
}

fn address() -> impl Strategy<Value = Address> {
    any::<(Ipv6Addr, u16)>().prop_map(|(host, port)| SocketAddr::from((host, port)).into())
}

/// A list of any epoch.
pub(super) fn list() -> impl Strategy<Value = Membership> {
    let members = btree_map(member(), (address(), any::<u64>()), 1..=63);
    (members, 0u32..4, 0usize..8).prop_map(|(members, changes, observers)| {
        let of = |(id, (address, directory))| Member { id, address, directory };
        let mut members: Vec<_> = members.into_iter().map(of).collect();
        let observers = members.split_off(members.len() - observers.min(members.len() - 1));
        let last = members[0].clone();
        let list = Membership::first(members).expect("a list");
        let observe = |list: Membership, observer| {
            // Another member may be there.
            list.after(&Change::Observe(observer)).unwrap_or(list)
        };
        let list = observers.into_iter().fold(list, observe);
        (0..changes).fold(list, |list, change| {
            let port = list.members()[0].address.port() ^ u16::try_from(change + 1).expect("few");
            let change = Change::Move { id: last.id, address: last.address.at_port(port) };
            // Another member may be there.
            list.after(&change).unwrap_or(list)
        })
    })
}

fn members() -> impl Strategy<Value = Members> {
    let role = prop_oneof![
        Just(Role::Member),
        Just(Role::Joining),
        Just(Role::Removed),
        Just(Role::Stranger),
        Just(Role::Observer),
    ];
    let some = || vec(member(), 0..=63);
    let behind = vec((member(), any::<u64>()), 0..4);
    let receiving = any::<Option<(u64, u64)>>();
    (member(), role, option::of(list()), some(), some(), receiving, behind).prop_map(
        |(replica, role, list, begun, reached, receiving, behind)| {
            let observed = list.as_ref().is_some_and(|list| !list.observers().is_empty());
            let behind = if observed { behind } else { Vec::new() };
            let unknown = Members::unknown(replica, role);
            Members { list, begun, reached, receiving, behind, ..unknown }
        },
    )
}

pub(super) fn change() -> impl Strategy<Value = Change> {
    let new =
        || (member(), address()).prop_map(|(id, address)| Member { id, address, directory: 0 });
    prop_oneof![
        new().prop_map(Change::Add),
        new().prop_map(Change::Observe),
        member().prop_map(Change::Promote),
        member().prop_map(Change::Remove),
        (member(), new()).prop_map(|(old, new)| Change::Replace { old, new }),
        (member(), address()).prop_map(|(id, address)| Change::Move { id, address }),
    ]
}

pub(super) fn reply() -> impl Strategy<Value = Reply> {
    (request_id(), outcome()).prop_map(|(request, outcome)| Reply { request, outcome })
}
