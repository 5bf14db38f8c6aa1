//! A feeder and an observer, one message at a time. What whole clusters do is simulated.

use std::time::Duration;

use bytes::Bytes;

use super::super::rules::{Plant, Rules};
use super::follower::Saying;
use super::{Fed, Feed, Feeder, Follower, LAST_WINDOW, WINDOW};
use crate::replica::core_tests::{command, key, replica};
use crate::replica::{Arrival, Execution, Limits, SnapshotId, Transfer};
use crate::types::{
    Batch, Deps, Executed, InstanceId, MemberId, ReplicaId, ReplicaSet, Slot, Time, Timing,
};

const GOSSIP: Duration = Duration::from_millis(100);

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

fn observer() -> MemberId {
    MemberId::new(9).expect("not 0")
}

fn instance(owner: usize, slot: Slot) -> InstanceId {
    InstanceId::new(ReplicaId::from_index(owner), slot)
}

/// An execution with this many bytes.
fn execution((owner, slot): (usize, Slot), bytes: usize) -> Execution {
    let payload = Bytes::from(vec![0; bytes]);
    let batch = Batch::new(vec![command(owner, slot, key(slot), payload)]);
    let (id, me) = (instance(owner, slot), replica(0));
    Execution { id, batch, ends_component: true, me }
}

fn fed((owner, slot): (usize, Slot), ends_component: bool) -> Fed {
    let Execution { id, batch, .. } = execution((owner, slot), 1);
    Fed { id, batch, ends_component }
}

fn set(ids: &[(usize, Slot)]) -> Executed {
    let mut set = Executed::none(2);
    for (owner, slot) in ids {
        set.insert(instance(*owner, *slot));
    }
    set
}

/// A feeder that has executed these, one a step.
fn feeder(order: &[(usize, Slot)], most: usize) -> Feeder {
    planted(order, most, None)
}

/// The same with a rule broken.
fn planted(order: &[(usize, Slot)], most: usize, broken: Option<Plant>) -> Feeder {
    let none = Executed::none(2);
    let rules = Rules { broken };
    let mut feeder = Feeder::new(none.clone(), none.floor().clone(), most, rules);
    let mut done = none;
    for id in order {
        done.insert(instance(id.0, id.1));
        feeder.note(&[execution(*id, 1)], done.floor());
    }
    feeder
}

/// What is sent to the observer.
fn sent(feeder: &mut Feeder, now: Time) -> Vec<Feed> {
    feeder.feed((now, GOSSIP));
    feeder.take_said().into_iter().map(|(_, feed)| feed).collect()
}

fn say(feeder: &mut Feeder, feed: Feed, now: Time) {
    feeder.on_feed(observer(), feed, (now, GOSSIP));
}

/// What sends an observer to a snapshot that reaches so far.
fn behind(slot: Slot) -> Feed {
    Feed::Behind { feed: 1, at_least: Deps::from_slots([slot, 0]) }
}

fn ids(feed: &Feed) -> Vec<InstanceId> {
    match feed {
        Feed::Piece { executions, .. } => executions.iter().map(|fed| fed.id).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_feeder_leaves_out_what_the_observer_has_and_keeps_its_own_order() {
    let mut feeder = feeder(&[(0, 1), (1, 1), (0, 3), (0, 2)], 100);
    say(&mut feeder, Feed::Ask { feed: 7, have: set(&[(1, 1), (0, 2)]) }, at(0));
    let pieces = sent(&mut feeder, at(0));
    assert_eq!(pieces.iter().map(ids).collect::<Vec<_>>(), [[instance(0, 1), instance(0, 3)]]);
    let floor = Some(Deps::from_slots([3, 1]));
    assert!(
        matches!(&pieces[0], Feed::Piece { feed: 7, number: 0, floor: it, .. } if *it == floor)
    );
    assert!(sent(&mut feeder, at(500)).is_empty(), "it has not confirmed anything");
    say(&mut feeder, Feed::Got { feed: 6, pieces: 1 }, at(500));
    assert!(sent(&mut feeder, at(500)).is_empty(), "that is of another feed");
    say(&mut feeder, Feed::Got { feed: 7, pieces: 9 }, at(500));
    let [Feed::Piece { number: 1, executions, .. }] = &sent(&mut feeder, at(500))[..] else {
        panic!("it gives a sign of life");
    };
    assert!(executions.is_empty());
}

#[test]
fn a_feeder_that_leaves_out_too_much_is_found() {
    let broken = Some(Plant::LeavesOutToTheEnd);
    let mut feeder = planted(&[(0, 1), (1, 1), (0, 3), (0, 2)], 100, broken);
    say(&mut feeder, Feed::Ask { feed: 7, have: set(&[(1, 1), (0, 2)]) }, at(0));
    let sent: Vec<_> = sent(&mut feeder, at(0)).iter().flat_map(ids).collect();
    assert_eq!(sent, [instance(0, 3)], "the observer lacks r1.1, which is before what it has");
}

#[test]
fn an_observer_that_lacks_what_is_no_longer_kept_is_sent_to_a_snapshot() {
    let order: Vec<(usize, Slot)> = (1..=20).map(|slot| (0, slot)).collect();
    let mut feeder = feeder(&order, 4);
    let first: Vec<_> = order[..15].to_vec();
    say(&mut feeder, Feed::Ask { feed: 1, have: set(&first) }, at(0));
    assert_eq!(sent(&mut feeder, at(0)), [behind(16)], "it cannot be fed before");
    say(&mut feeder, Feed::Ask { feed: 2, have: set(&order[..16]) }, at(50));
    assert!(sent(&mut feeder, at(50)).is_empty(), "it asks too often");
    say(&mut feeder, Feed::Ask { feed: 2, have: set(&order[..16]) }, at(100));
    let pieces = sent(&mut feeder, at(100));
    assert_eq!(pieces.iter().map(ids).collect::<Vec<_>>().concat().len(), 4);
}

#[test]
fn a_slow_observer_is_sent_only_so_much_and_then_to_a_snapshot() {
    let mut feeder = feeder(&[], 50);
    say(&mut feeder, Feed::Ask { feed: 1, have: set(&[]) }, at(0));
    let (mut done, mut pieces) = (Executed::none(2), Vec::new());
    for slot in 1..=40 {
        done.insert(instance(0, slot));
        feeder.note(&[execution((0, slot), 100 << 10)], done.floor());
        pieces.extend(sent(&mut feeder, at(1)));
    }
    assert_eq!(pieces.len() as u64, WINDOW, "each has one command, for two are too large");
    feeder.finish(at(2));
    let more = feeder.take_said().len() as u64;
    assert_eq!(pieces.len() as u64 + more, LAST_WINDOW, "at the end of an epoch it is more");
    say(&mut feeder, Feed::Got { feed: 1, pieces: LAST_WINDOW }, at(3));
    assert_eq!(sent(&mut feeder, at(3)).iter().map(ids).collect::<Vec<_>>().len(), 8);
    for slot in 41..=200 {
        feeder.note(&[execution((0, slot), 1)], done.floor());
    }
    assert_eq!(sent(&mut feeder, at(4)), [behind(150)], "that took too long");
    assert!(sent(&mut feeder, at(900)).is_empty(), "it is not fed any more");
}

/// An observer of two members with a state that has executed these. It has heard both.
fn follower(executed: Option<Executed>) -> Follower {
    follower_with(executed, None)
}

/// The same with a rule broken.
fn follower_with(executed: Option<Executed>, broken: Option<Plant>) -> Follower {
    let with = (Timing::default(), &Limits::default(), 100);
    let mut follower = Follower::new(2, executed, with, at(0), Rules { broken });
    follower.tick(at(0), &mut Vec::new());
    let here = |echo| Feed::Here { echo, executed: Deps::none(2) };
    follower.on_feed(replica(0), here(at(0)), at(30));
    follower.on_feed(replica(1), here(at(0)), at(10));
    follower
}

/// Whom it asks, under which name, and what it says that it has.
fn asked(said: &[Saying]) -> Option<(ReplicaSet, u64, Executed)> {
    said.iter().find_map(|(to, feed)| match feed {
        Feed::Ask { feed, have } => Some((*to, *feed, have.clone())),
        _ => None,
    })
}

fn tick(follower: &mut Follower, now: Time) -> Vec<Saying> {
    let mut said = Vec::new();
    follower.tick(now, &mut said);
    said
}

fn piece(feed: u64, number: u64, executions: Vec<Fed>, floor: Option<Deps>) -> Feed {
    Feed::Piece { feed, number, executions, floor }
}

fn names(fed: &[Fed]) -> Vec<InstanceId> {
    fed.iter().map(|fed| fed.id).collect()
}

#[test]
fn an_observer_executes_whole_components_in_order_and_each_once() {
    let mut follower = follower(Some(set(&[(0, 1)])));
    let (to, feed, have) = asked(&tick(&mut follower, at(40))).expect("it asks");
    assert_eq!((to, have), (ReplicaSet::from_iter([replica(1)]), set(&[(0, 1)])), "the nearest");
    let mut on = |number, executions, floor| {
        names(&follower.on_feed(replica(1), piece(feed, number, executions, floor), at(50)))
    };
    assert!(on(1, vec![fed((1, 2), true)], None).is_empty(), "it has overtaken the first");
    let first = vec![fed((0, 1), true), fed((0, 2), true), fed((1, 1), false)];
    let order = [instance(0, 2), instance(1, 1), instance(1, 2)];
    assert_eq!(on(0, first.clone(), None), order);
    assert!(on(0, first, None).is_empty(), "it came twice");
    assert!(on(2, vec![fed((0, 3), false)], None).is_empty(), "a part of a component");
    let floor = Some(Deps::from_slots([6, 2]));
    assert_eq!(on(3, vec![fed((0, 5), true)], floor), [instance(0, 3), instance(0, 5)]);
    assert_eq!(follower.executed(), &Executed::up_to(Deps::from_slots([6, 2])), "4, 6: `Nop`s");
    let mut said = Vec::new();
    follower.confirm(&mut said);
    assert_eq!(said, [(to, Feed::Got { feed, pieces: 4 })]);
    let other = piece(feed, 4, vec![fed((0, 7), true)], None);
    assert!(follower.on_feed(replica(0), other, at(60)).is_empty(), "it feeds from another");
    let far = piece(feed, 4 + LAST_WINDOW, vec![fed((0, 7), true)], None);
    assert!(follower.on_feed(replica(1), far, at(60)).is_empty(), "it holds only so many");
}

#[test]
fn an_observer_leaves_a_feeder_that_is_silent_or_stands_still() {
    let mut silent = follower(Some(set(&[])));
    assert!(asked(&tick(&mut silent, at(40))).is_some());
    let alive = |follower: &mut Follower, of: usize, executed: [Slot; 2], now| {
        let executed = Deps::from_slots(executed);
        follower.on_feed(replica(of), Feed::Here { echo: now, executed }, now);
    };
    let mut next = None;
    for ms in (100..5000).step_by(100) {
        alive(&mut silent, 0, [0, 0], at(ms));
        alive(&mut silent, 1, [0, 0], at(ms));
        next = next.or(asked(&tick(&mut silent, at(ms))).map(|it| it.0));
    }
    assert_eq!(next, Some(ReplicaSet::from_iter([replica(0)])), "it says nothing of the feed");

    let mut still = follower(Some(set(&[])));
    let (_, feed, _) = asked(&tick(&mut still, at(40))).expect("it asks");
    let (mut next, mut number) = (None, 0);
    for ms in (100..9000).step_by(100) {
        alive(&mut still, 0, [ms, 0], at(ms));
        alive(&mut still, 1, [0, 0], at(ms));
        still.on_feed(replica(1), piece(feed, number, Vec::new(), None), at(ms));
        number += 1;
        next = next.or(asked(&tick(&mut still, at(ms))).map(|it| it.0));
    }
    assert_eq!(next, Some(ReplicaSet::from_iter([replica(0)])), "the other one goes on");
}

#[test]
fn a_state_is_replaced_only_by_one_that_includes_it() {
    let mut follower = follower(Some(set(&[(0, 1), (0, 4)])));
    let (_, feed, _) = asked(&tick(&mut follower, at(40))).expect("it asks");
    let at_least = Deps::from_slots([2, 5]);
    follower.on_feed(replica(1), Feed::Behind { feed, at_least }, at(50));
    assert!(asked(&tick(&mut follower, at(60))).is_none(), "it needs a snapshot first");
    let wished = std::mem::take(&mut follower.wishes().messages);
    let at_least = Deps::from_slots([4, 5]);
    assert_eq!(wished[0].1, Transfer::Request { at_least: at_least.clone(), part_of: None });
    let offer = |executed| Transfer::Offer { snapshot: SnapshotId(5), executed, bytes: 1 };
    follower.on_transfer(replica(0), offer(Deps::from_slots([3, 9])), at(70));
    assert!(follower.wishes().received.is_empty(), "it lacks 4");
    follower.on_transfer(replica(0), offer(at_least), at(70));
    let bytes = Bytes::from_static(b"x");
    let chunk = Transfer::Chunk { snapshot: SnapshotId(5), offset: 0, bytes };
    follower.on_transfer(replica(0), chunk, at(80));
    assert_eq!(follower.wishes().received.last(), Some(&Arrival::Complete));
    assert!(!follower.install(&set(&[(0, 1), (0, 2), (0, 3)]), at(90)), "not what was offered");
    assert_eq!(follower.executed(), &set(&[(0, 1), (0, 4)]));
    let whole = Executed::up_to(Deps::from_slots([5, 5]));
    assert!(follower.install(&whole, at(100)));
    let (.., have) = asked(&tick(&mut follower, at(110))).expect("it goes on from there");
    assert_eq!(have, whole);
}

#[test]
fn an_observer_whose_state_goes_back_is_found() {
    let broken = Some(Plant::InstallsTheOlder);
    let mut follower = follower_with(Some(set(&[(0, 1), (0, 4)])), broken);
    assert!(follower.install(&set(&[(0, 1), (0, 2), (0, 3)]), at(10)));
    assert!(!follower.executed().includes(&set(&[(0, 4)])), "its clients have seen that");
}
