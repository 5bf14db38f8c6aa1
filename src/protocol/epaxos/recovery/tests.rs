//! The recoveries of one replica, driven message by message.

use std::time::Duration;

use super::Recoveries;
use crate::protocol::epaxos::early_commit::EarlyCommit;
use crate::protocol::epaxos::instances::Proposal;
use crate::protocol::epaxos::step::Alone;
use crate::protocol::epaxos::{Message, Phase, Report};
use crate::types::{Ballot, InstanceId, Optimisations, ReplicaId, Value};

fn replica(number: u8) -> ReplicaId {
    ReplicaId::new(number).expect("a number")
}

/// Replica 1 of three recovers an instance of replica 3.
fn started() -> (Alone, Recoveries, InstanceId, Ballot) {
    let (mut alone, mut recoveries) = (Alone::new(3, Optimisations::NONE), Recoveries::default());
    let id = InstanceId::new(replica(3), 1);
    recoveries.start(&mut alone.step(), id);
    let ballot = recoveries.ballot_of(id).expect("it was started");
    (alone, recoveries, id, ballot)
}

fn promise(
    alone: &mut Alone,
    recoveries: &mut Recoveries,
    id: InstanceId,
    from: u8,
    ballot: Ballot,
) -> Option<Proposal> {
    let (accepted, value, initial) = (Ballot::OWNER, None, None);
    let report = Report { phase: Phase::Initial, accepted, value, initial };
    recoveries.on_recover_ok(
        &mut alone.step(),
        &EarlyCommit::new(),
        replica(from),
        id,
        ballot,
        report,
    )
}

#[test]
fn a_quorum_that_knows_nothing_makes_it_a_nop_at_the_ballot_asked_for() {
    let (mut alone, mut recoveries, id, ballot) = started();
    let asked = alone.said();
    assert_eq!(asked, [(vec![1, 2, 3], Message::Recover { id, ballot })]);
    assert!(promise(&mut alone, &mut recoveries, id, 1, ballot).is_none(), "no quorum yet");
    assert!(promise(&mut alone, &mut recoveries, id, 1, ballot).is_none(), "counted once");
    let below = Ballot::OWNER;
    assert!(promise(&mut alone, &mut recoveries, id, 2, below).is_none(), "another ballot");
    let proposal = promise(&mut alone, &mut recoveries, id, 2, ballot).expect("a quorum");
    assert_eq!((proposal.ballot, proposal.value), (ballot, Value::Nop));
    assert!(promise(&mut alone, &mut recoveries, id, 3, ballot).is_none(), "it has proposed");
}

#[test]
fn a_higher_ballot_ends_it_and_a_lower_one_does_not() {
    let (mut alone, mut recoveries, id, ballot) = started();
    recoveries.yield_to(&mut alone.step(), &EarlyCommit::new(), id, ballot);
    assert!(recoveries.is_led(id), "its own ballot");
    let higher = ballot.next_for(replica(2));
    recoveries.yield_to(&mut alone.step(), &EarlyCommit::new(), id, higher);
    assert!(!recoveries.is_led(id));
    let instance = alone.core.store.instances.get(id).expect("it was recovered");
    assert!(instance.not_before > alone.view.now, "the other one gets time");
    assert!(promise(&mut alone, &mut recoveries, id, 2, ballot).is_none());
}

#[test]
fn what_takes_too_long_begins_again_above_its_ballot() {
    let (mut alone, mut recoveries, id, ballot) = started();
    assert!(recoveries.due(&alone.view).contains(&id), "a first attempt hopes for nothing");
    assert!(recoveries.drive(&mut alone.step(), &EarlyCommit::new(), id).is_none());
    assert_eq!(recoveries.ballot_of(id), Some(ballot), "it has its time");
    alone.view.now = alone.view.now + Duration::from_secs(60);
    assert_eq!(recoveries.due(&alone.view), [id]);
    assert!(recoveries.drive(&mut alone.step(), &EarlyCommit::new(), id).is_none());
    assert!(recoveries.ballot_of(id).is_some_and(|again| again > ballot));
}
