//! Changes of the list that are of no use, and commands that wait, one replica at a time. What
//! whole clusters do is simulated.

use bytes::Bytes;

use super::{Epochs, Input, Output, Record};
use crate::protocol::epaxos::{EPaxos, Message, Record as EPaxosRecord};
use crate::replica::core_tests::{Cluster, command, key, replica};
use crate::replica::executions::list_after;
use crate::replica::{Checkpoint, Input as CoreInput, Limits, Rejection};
use crate::types::{
    Batch, Change, Command, Durable, LogPosition, Member, Membership, Optimisations, Quorums,
    Retention, Settings, Time, Timing, member_id,
};

type Out = Output<Message, EPaxosRecord>;

fn member(number: u32) -> Member {
    let address = format!("10.0.0.{number}:7400").parse().expect("an address");
    Member { id: member_id(number), address, directory: u64::from(number) }
}

fn list(n: u32) -> Membership {
    Membership::first((1..=n).map(member).collect()).expect("a list")
}

fn after(list: &Membership, number: u32) -> Membership {
    list.after(&Change::Add(member(number))).expect("it is new")
}

fn settings() -> Settings {
    Settings {
        me: replica(0),
        quorums: Quorums::new(1).expect("a size"),
        seed: 1,
        timing: Timing::default(),
        optimisations: Optimisations::NONE,
        retention: Retention::default(),
        leases: false,
    }
}

fn single(limits: Limits) -> Epochs<EPaxos> {
    Epochs::new(member(1).id, 1, Some(list(1)), settings(), limits)
}

fn propose(epochs: &mut Epochs<EPaxos>, commands: impl IntoIterator<Item = Command>) -> Out {
    let mut out = Out::default();
    let inputs = commands.into_iter().map(|it| Input::Core(CoreInput::Propose(it)));
    epochs.step(Time::ZERO, inputs, &mut out);
    out
}

/// A list that is to follow, with other bytes instead.
fn unreadable(list: &Membership) -> Command {
    Command { payload: Bytes::from_static(b"\xff?"), ..list.command(replica(0)) }
}

#[test]
fn what_is_no_list_of_the_next_epoch_is_not_proposed() {
    let mut epochs = single(Limits::default());
    let next = after(&list(1), 2);
    let later = after(&next, 3);
    for useless in [unreadable(&next), later.command(replica(0)), list(1).command(replica(0))] {
        let request = useless.request;
        let out = propose(&mut epochs, [useless]);
        assert_eq!((&out.superseded[..], out.records.len()), (&[request][..], 0));
    }
}

#[test]
fn of_two_lists_at_one_replica_the_first_is_proposed() {
    let mut epochs = single(Limits::default());
    let (one, two) = (after(&list(1), 2), after(&list(1), 3));
    let mut out = propose(&mut epochs, [one.command(replica(0)), two.command(replica(0))]);
    assert!(out.ended.is_empty(), "nothing is durable");
    for _ in 0..3 {
        let end = LogPosition::new(out.records.len() as u64);
        let durable = Input::Core(CoreInput::Durable(Durable::flushed(end)));
        epochs.step(Time::ZERO, [durable], &mut out);
    }
    assert_eq!((out.ended, out.changed), (vec![one.clone()], vec![one.request()]));
    assert!(out.superseded.is_empty(), "the two have one request id");
}

#[test]
fn a_list_that_cannot_be_decoded_has_no_effect_anywhere() {
    let mut cluster = Cluster::new(3, Limits::default());
    let next = after(&list(3), 4);
    cluster.step(replica(0), CoreInput::Propose(unreadable(&next)));
    cluster.run();
    cluster.propose(1, 1, key(1));
    cluster.run();
    for (core, executed) in cluster.cores.iter().zip(&cluster.executed) {
        assert_eq!((executed.len(), core.ended()), (2, None), "the epoch goes on");
    }
    let (ends, other) = (next.command(replica(0)), command(0, 1, key(1), Bytes::new()));
    assert_eq!(list_after(&Batch::new(vec![ends.clone()]), 0), Some(next));
    for together in [vec![ends.clone(), other.clone()], vec![other, ends]] {
        assert_eq!(list_after(&Batch::new(together), 0), None);
    }
}

/// What a replica is left with that was cut off while its command was under way, and the rest went
/// on; and whether it then installs their state.
fn left(installs: bool) -> (Vec<Command>, bool) {
    let mut cluster = Cluster::new(3, Limits::default());
    cluster.away.insert(replica(0));
    cluster.propose(0, 1, key(1));
    cluster.propose(1, 1, key(2));
    cluster.run();
    if installs {
        let Checkpoint { shared, executed, .. } = cluster.cores[1].checkpoint();
        let mut out = Default::default();
        assert!(cluster.cores[0].install(cluster.now, shared, &executed, &mut out));
    }
    let remains = cluster.cores.remove(0).into_remains();
    assert!(remains.waiting.is_empty());
    (remains.proposed, remains.unsure)
}

#[test]
fn what_was_proposed_may_be_in_a_state_that_was_installed() {
    let ours = command(0, 1, key(1), Bytes::from_static(b"x"));
    assert_eq!(left(false), (vec![ours.clone()], false), "nobody has executed it");
    assert_eq!(left(true), (vec![ours], true));
}

#[test]
fn who_has_no_epoch_or_has_not_begun_it_lets_only_so_much_wait() {
    let mut large = command(0, 1, key(1), Bytes::from(vec![0; Command::MAX_BYTES + 1]));
    let small = |sequence| command(0, sequence, key(1), Bytes::new());
    let mut stranger = Epochs::<EPaxos>::new(member(2).id, 2, None, settings(), Limits::default());
    let out = propose(&mut stranger, [small(1)]);
    assert_eq!(out.rejected, [(small(1).request, Rejection::NoQuorum)]);
    let mut epochs = single(Limits { commands: 2, ..Limits::default() });
    let next = list(1).after(&Change::Move { id: member(1).id, address: member(9).address });
    let mut out = propose(&mut epochs, [next.expect("it can").command(replica(0))]);
    while !out.records.iter().any(|(_, record)| matches!(record, Record::Start(_))) {
        let end = LogPosition::new(out.records.len() as u64);
        let durable = Input::Core(CoreInput::Durable(Durable::flushed(end)));
        epochs.step(Time::ZERO, [durable], &mut out);
    }
    large.request.sequence = 4;
    let out = propose(&mut epochs, [small(1), small(2), small(3), large.clone()]);
    let refused = [(small(3).request, Rejection::Overloaded), (large.request, Rejection::TooLarge)];
    assert_eq!(out.rejected, refused);
}
