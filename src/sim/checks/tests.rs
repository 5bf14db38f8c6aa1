//! Tests of the checkers, with worlds that went wrong.

use bytes::Bytes;

use super::*;
use crate::machine::Outcome;
use crate::protocol::epaxos::{EPaxos, Record};
use crate::types::{Ballot, ClientId, Executed, Footprint};

fn replica(index: usize) -> ReplicaId {
    ReplicaId::from_index(index)
}

fn id(owner: usize, slot: Slot) -> InstanceId {
    InstanceId::new(replica(owner), slot)
}

fn command(client: u64, footprint: Footprint) -> Command {
    Command {
        request: RequestId::new(ClientId(client), 1),
        floor: 0,
        origin: replica(0),
        footprint,
        payload: Bytes::from(vec![1, 2, 3]),
    }
}

/// A cluster of three in which r1.1, r2.1, r3.1 were proposed, all writing one key.
struct Story {
    checks: Checks,
    batches: Vec<Arc<Batch>>,
}

impl Story {
    fn new() -> Story {
        let mut story =
            Story { checks: Checks::new(3, ExecutionOrder::Dependencies), batches: Vec::new() };
        for owner in 0..3 {
            let command = command(owner as u64, Footprint::write(b"k"));
            story.checks.asked(&command);
            story.batches.push(Batch::new(vec![command]));
            assert_eq!(story.propose(owner, 1, owner), Ok(()));
        }
        story
    }

    fn propose(&mut self, owner: usize, slot: Slot, batch: usize) -> Result<(), Breach> {
        let record = Record::PreAccepted {
            id: id(owner, slot),
            batch: self.batches[batch].clone(),
            initial: Deps::none(3),
            deps: Deps::none(3),
        };
        self.checks.written::<EPaxos>(replica(owner), &record.clone().into())
    }

    fn commit(
        &mut self,
        at: usize,
        of: usize,
        value: Value,
        deps: [Slot; 3],
    ) -> Result<(), Breach> {
        let record = Record::Committed { id: id(of, 1), value, deps: Deps::from_slots(deps) };
        self.checks.written::<EPaxos>(replica(at), &record.clone().into())
    }

    fn value(&self, batch: usize) -> Value {
        Value::Batch(self.batches[batch].clone())
    }

    fn execute(&mut self, at: usize, of: usize) -> Result<(), Breach> {
        let batch = self.batches[of].clone();
        let execution = Execution { id: id(of, 1), batch, ends_component: true, me: replica(at) };
        self.checks.executed(replica(at), &execution)
    }
}

#[track_caller]
fn broken(result: Result<(), Breach>) -> Broken {
    result.expect_err("something is wrong with this").0
}

#[test]
fn a_world_in_order_is_left_alone() {
    let mut story = Story::new();
    for at in 0..3 {
        let [first, second] = [story.value(0), story.value(1)];
        assert_eq!(story.commit(at, 0, first, [0, 0, 0]), Ok(()));
        assert_eq!(story.commit(at, 1, second, [1, 0, 0]), Ok(()));
        assert_eq!(story.commit(at, 2, Value::Nop, [0, 0, 0]), Ok(()));
        assert_eq!(story.execute(at, 0), Ok(()));
        assert_eq!(story.execute(at, 1), Ok(()));
    }
    assert!(story.checks.executed_alike(replica(0), replica(2)));
    assert_eq!(story.checks.open(replica(0)), None);
}

#[test]
fn two_decisions_of_one_instance() {
    let mut story = Story::new();
    let value = story.value(0);
    assert_eq!(story.commit(0, 0, value.clone(), [0, 0, 0]), Ok(()));
    assert_eq!(broken(story.commit(1, 0, value.clone(), [0, 1, 0])), Broken::Agreement);
    assert_eq!(broken(story.commit(2, 0, Value::Nop, [0, 0, 0])), Broken::Agreement);
    assert_eq!(broken(story.commit(0, 0, value, [0, 0, 0])), Broken::Agreement);
}

#[test]
fn two_conflicting_commits_that_miss_each_other() {
    let mut story = Story::new();
    let [first, second] = [story.value(0), story.value(1)];
    assert_eq!(story.commit(0, 0, first, [0, 0, 0]), Ok(()));
    assert_eq!(broken(story.commit(1, 1, second, [0, 0, 0])), Broken::Visibility);
}

#[test]
fn a_commit_that_misses_one_that_conflicts_with_everything() {
    for everything_first in [true, false] {
        let mut story = Story::new();
        let all = command(9, Footprint::Everything);
        story.checks.asked(&all);
        story.batches[1] = Batch::new(vec![all]);
        story.checks.proposed.insert(id(1, 1), story.batches[1].clone());
        let order = if everything_first { [1, 0] } else { [0, 1] };
        let value = story.value(order[0]);
        assert_eq!(story.commit(0, order[0], value, [0, 0, 0]), Ok(()));
        let value = story.value(order[1]);
        assert_eq!(broken(story.commit(0, order[1], value, [0, 0, 0])), Broken::Visibility);
    }
}

#[test]
fn a_value_that_is_not_its_owners() {
    let mut story = Story::new();
    let value = story.value(1);
    assert_eq!(broken(story.commit(0, 0, value, [0, 0, 0])), Broken::Integrity);
}

#[test]
fn a_proposal_that_nobody_asked_for_or_in_a_used_slot() {
    let mut story = Story::new();
    story.batches.push(Batch::new(vec![command(77, Footprint::write(b"k"))]));
    assert_eq!(broken(story.propose(0, 2, 3)), Broken::Integrity);
    assert_eq!(broken(story.propose(0, 1, 1)), Broken::Integrity);
}

#[test]
fn executing_what_is_not_committed_or_again_or_in_another_order() {
    let mut story = Story::new();
    assert_eq!(broken(story.execute(0, 0)), Broken::Order);
    for at in 0..2 {
        let [first, second] = [story.value(0), story.value(1)];
        assert_eq!(story.commit(at, 0, first, [0, 0, 0]), Ok(()));
        assert_eq!(story.commit(at, 1, second, [1, 0, 0]), Ok(()));
    }
    assert_eq!(story.execute(0, 0), Ok(()));
    assert_eq!(broken(story.execute(0, 0)), Broken::Once);
    assert_eq!(broken(story.execute(1, 1)), Broken::Order);
}

#[test]
fn applying_twice_or_refusing_once() {
    let mut story = Story::new();
    let asked = command(0, Footprint::write(b"k"));
    let applied = |first| Applied {
        request: RequestId::new(ClientId(0), 1),
        origin: replica(0),
        outcome: Outcome::Forgotten,
        first,
    };
    assert_eq!(broken(story.checks.applied(replica(1), &asked, &applied(false))), Broken::Once);
    assert_eq!(story.checks.applied(replica(0), &asked, &applied(true)), Ok(()));
    assert_eq!(story.checks.applied(replica(0), &asked, &applied(false)), Ok(()));
    assert_eq!(broken(story.checks.applied(replica(0), &asked, &applied(true))), Broken::Once);
}

#[test]
fn what_is_undecided_shows() {
    let mut story = Story::new();
    let joined = Record::Joined { id: id(2, 1), ballot: Ballot::OWNER };
    assert_eq!(story.checks.written::<EPaxos>(replica(0), &joined.clone().into()), Ok(()));
    assert_eq!(story.checks.open(replica(0)), Some(id(0, 1)));
    let value = story.value(0);
    assert_eq!(story.commit(0, 0, value, [0, 0, 0]), Ok(()));
    assert_eq!(story.checks.open(replica(0)), Some(id(2, 1)));
}

#[test]
fn what_nobody_was_told_of_may_be_lost() {
    let mut story = Story::new();
    let proposed = |batch: &Arc<Batch>| Record::PreAccepted {
        id: id(0, 1),
        batch: batch.clone(),
        initial: Deps::none(3),
        deps: Deps::none(3),
    };
    let value = story.value(0);
    let committed = Record::Committed { id: id(0, 1), value, deps: Deps::none(3) };
    assert_eq!(story.checks.written::<EPaxos>(replica(0), &committed.clone().into()), Ok(()));
    let kept = [proposed(&story.batches[0]).into()];
    assert!(story.checks.stopped::<EPaxos>(replica(0), &kept, &[committed.into()]));
    assert!(story.checks.has_open_proposal(replica(0)));
    assert_eq!(story.commit(1, 0, Value::Nop, [0, 0, 0]), Ok(()), "no fast commit is known");
    let mut story = Story::new();
    assert!(!story.checks.stopped::<EPaxos>(
        replica(0),
        &[],
        &[proposed(&story.batches[0]).into()]
    ));
    assert_eq!(story.propose(0, 1, 1), Ok(()), "the slot is free again");
}

#[test]
fn what_somebody_knows_or_a_quorum_has_accepted_is_not_lost() {
    for voted in [false, true] {
        let mut story = Story::new();
        let (value, deps) = (story.value(0), Deps::none(3));
        let accepted = Record::Accepted {
            id: id(0, 1),
            ballot: Ballot::OWNER,
            value: value.clone(),
            deps: deps.clone(),
        };
        let committed = Record::Committed { id: id(0, 1), value: value.clone(), deps };
        assert_eq!(story.commit(0, 0, value.clone(), [0, 0, 0]), Ok(()));
        if !voted {
            assert_eq!(story.commit(1, 0, value.clone(), [0, 0, 0]), Ok(()));
        }
        let kept = if voted { vec![accepted.into()] } else { Vec::new() };
        assert!(!story.checks.stopped::<EPaxos>(replica(0), &kept, &[committed.into()]));
        assert_eq!(broken(story.commit(0, 0, Value::Nop, [0, 0, 0])), Broken::Agreement);
    }
}

#[test]
fn each_life_executes_everything_once_and_in_the_same_order() {
    let mut story = Story::new();
    let [first, second] = [story.value(0), story.value(1)];
    let deps = [Deps::from_slots([0, 0, 0]), Deps::from_slots([1, 0, 0])];
    let records = [(0, first, &deps[0]), (1, second, &deps[1])]
        .map(|(of, value, deps)| Record::Committed { id: id(of, 1), value, deps: deps.clone() });
    for record in &records {
        assert_eq!(story.checks.written::<EPaxos>(replica(0), &record.clone().into()), Ok(()));
    }
    (0..2).for_each(|of| assert_eq!(story.execute(0, of), Ok(())));
    for _ in 0..2 {
        assert!(!story.checks.stopped::<EPaxos>(replica(0), &records.clone().map(Into::into), &[]));
        (0..2).for_each(|of| assert_eq!(story.execute(0, of), Ok(())));
        assert_eq!(broken(story.execute(0, 0)), Broken::Once);
    }
    assert!(!story.checks.stopped::<EPaxos>(replica(0), &records.clone().map(Into::into), &[]));
    assert_eq!(broken(story.execute(0, 1)), Broken::Order);
}

/// A log of three commands, all sent by clients.
fn sequence() -> (Checks, Vec<Arc<Batch>>) {
    let mut checks = Checks::new(3, ExecutionOrder::Log);
    let batches = (0..3).map(|client| {
        let command = command(client, Footprint::write(b"k"));
        checks.asked(&command);
        Batch::new(vec![command])
    });
    let batches = batches.collect();
    (checks, batches)
}

fn execute(checks: &mut Checks, at: usize, slot: Slot, batch: &Arc<Batch>) -> Option<Broken> {
    let id = InstanceId::new(InstanceId::LOG, slot);
    let (batch, me) = (batch.clone(), replica(at));
    let execution = Execution { id, batch, ends_component: true, me };
    checks.executed(replica(at), &execution).err().map(|(broken, _)| broken)
}

#[test]
fn a_sequence_is_the_same_everywhere_and_in_every_life() {
    let (mut checks, batches) = sequence();
    assert_eq!(execute(&mut checks, 0, 1, &batches[0]), None);
    assert_eq!(execute(&mut checks, 0, 3, &batches[1]), None, "a Nop lies between them");
    assert_eq!(execute(&mut checks, 1, 1, &batches[0]), None);
    assert_eq!(execute(&mut checks, 1, 3, &batches[2]), Some(Broken::Agreement));
    assert!(!checks.stopped::<EPaxos>(replica(0), &[], &[]));
    assert_eq!(execute(&mut checks, 0, 1, &batches[1]), Some(Broken::Agreement));
}

#[test]
fn slots_are_executed_in_order_each_once() {
    let (mut checks, batches) = sequence();
    assert_eq!(execute(&mut checks, 0, 2, &batches[0]), None);
    assert_eq!(execute(&mut checks, 0, 2, &batches[0]), Some(Broken::Order));
    assert_eq!(execute(&mut checks, 0, 1, &batches[1]), Some(Broken::Order));
    // One replica executed a Nop and another a command: the next conflicting command shows it.
    assert_eq!(execute(&mut checks, 1, 3, &batches[1]), Some(Broken::Order));
}

#[test]
fn what_nobody_asked_for_has_no_place_in_a_sequence() {
    let (mut checks, _) = sequence();
    let made_up = Batch::new(vec![command(7, Footprint::write(b"k"))]);
    assert_eq!(execute(&mut checks, 0, 1, &made_up), Some(Broken::Integrity));
}

#[test]
fn where_a_snapshot_ends_a_sequence_goes_on() {
    let (mut checks, batches) = sequence();
    assert_eq!(execute(&mut checks, 0, 1, &batches[0]), None);
    assert_eq!(execute(&mut checks, 0, 2, &batches[1]), None);
    let inside = Executed::up_to(Deps::from_slots([2, 0, 0]));
    let shown = checks.shown(replica(0));
    checks.start_from(replica(1), &shown, &inside);
    assert_eq!(execute(&mut checks, 1, 2, &batches[1]), Some(Broken::Order));
    assert_eq!(execute(&mut checks, 1, 3, &batches[2]), None);
    assert!(!checks.executed_alike(replica(0), replica(1)));
}
