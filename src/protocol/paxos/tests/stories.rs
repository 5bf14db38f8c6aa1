//! Directed stories, one message at a time.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::protocol::Protocol;
use crate::protocol::log::tests::stage::{Stage, replica};
use crate::protocol::log::{Choice, Upkeep};
use crate::protocol::paxos::{Message, Path, Paxos, Plant};
use crate::types::{Ballot, InstanceId, Retention, Timing, Value};

const LONG: Duration = Duration::from_secs(20);

fn stage(n: usize) -> Stage<Paxos> {
    planted(n, None)
}

fn planted(n: usize, plant: Option<Plant>) -> Stage<Paxos> {
    Stage::new(n, Retention { volatile: false, keep: usize::MAX }, move |settings| {
        let mut paxos = Paxos::new(settings);
        plant.into_iter().for_each(|plant| paxos.plant(plant));
        paxos
    })
}

/// All replicas have executed `last` slots, and nothing is contradictory.
#[track_caller]
fn all_have(stage: &Stage<Paxos>, last: u64) {
    assert_eq!(stage.broken, None);
    let executed: Vec<_> = (1..=stage.n()).map(|at| stage.executed(at)).collect();
    assert_eq!(executed, vec![last; stage.n()]);
}

#[test]
fn a_value_is_known_decided_to_its_proposer_and_all_others_after_four_delays() {
    for n in [3, 4, 5, 7] {
        let mut stage = stage(n);
        stage.propose(2, 1);
        (0..3).for_each(|_| stage.delay());
        assert_eq!(stage.executed(2), 0);
        stage.delay();
        all_have(&stage, 1);
        assert_eq!(stage.slots_of(1), [1]);
    }
}

#[test]
fn several_slots_go_at_a_time() {
    let mut stage = stage(3);
    (1..=10).for_each(|tag| {
        stage.propose(1, tag);
    });
    (0..4).for_each(|_| stage.delay());
    all_have(&stage, 10);
}

#[test]
fn two_that_collide_both_get_through_once() {
    for _ in 0..4 {
        let mut stage = stage(5);
        for tag in 0..10 {
            stage.propose(1, 2 * tag + 1);
            stage.propose(2, 2 * tag + 2);
            stage.pass(Duration::from_millis(20));
        }
        stage.pass(LONG);
        assert!(stage.pending().is_empty());
        assert!((1..=20).all(|tag| stage.slots_of(tag).len() == 1), "{:?}", stage.truth);
        assert!(stage.paths.count(Path::Collision) > 0);
    }
}

/// r1 gets one vote for its value besides its own, and fails.
#[test]
fn a_value_with_a_vote_is_finished_by_who_is_blocked() {
    let mut stage = stage(5);
    stage.propose(1, 1);
    stage.delay();
    stage.delay();
    stage.deliver_all(|from, to, _| (from, to) == (1, 2));
    stage.crash(1, usize::MAX);
    stage.post.clear();
    stage.suspect(1, true);
    stage.propose(3, 2);
    stage.pass(LONG);
    assert_eq!((stage.slots_of(1), stage.slots_of(2)), (vec![1], vec![2]));
    assert!(stage.paths.count(Path::Gap) > 0 && stage.paths.count(Path::Adopted) > 0);
    stage.restart(1);
    stage.pass(LONG);
    all_have(&stage, 2);
}

#[test]
fn a_slot_that_was_only_prepared_ends_as_nothing() {
    let mut stage = stage(3);
    stage.propose(1, 1);
    stage.delay();
    stage.crash(1, usize::MAX);
    stage.post.clear();
    stage.suspect(1, true);
    stage.propose(3, 2);
    stage.propose(3, 3);
    stage.pass(LONG);
    assert!(stage.slots_of(1).is_empty(), "its proposer has died and nobody else knows it");
    assert!(!stage.slots_of(2).is_empty() && !stage.slots_of(3).is_empty());
    assert!(stage.pending().is_empty());
}

/// Time stands still: a proposer without votes does not back off.
#[test]
fn who_loses_a_slot_goes_on_to_another_at_once() {
    for (one, other) in [(1, 2), (2, 1), (1, 5), (3, 4), (5, 2)] {
        let mut stage = stage(5);
        stage.propose(one, 1);
        stage.propose(other, 2);
        (0..8).for_each(|_| stage.delay());
        assert!(stage.paths.count(Path::Collision) > 0);
        assert!(stage.pending().is_empty(), "{one} and {other}: {:?}", stage.truth);
    }
}

/// r1 and r2 prepare sixteen slots each, and fail. r3's value comes after all of them.
#[test]
fn slots_that_were_left_behind_are_closed_side_by_side() {
    let mut stage = stage(5);
    for dead in [1, 2] {
        (1..=16).for_each(|tag| {
            stage.propose(dead, tag);
        });
        stage.delay();
    }
    for dead in [1, 2] {
        stage.crash(dead, usize::MAX);
        stage.suspect(dead, true);
    }
    stage.post.clear();
    stage.propose(3, 33);
    let patience = Timing::default().retransmit * 2;
    stage.pass(patience + Timing::default().tick * 4);
    assert_eq!(stage.slots_of(33), [33]);
    assert_eq!(stage.executed(3), 33);
}

#[test]
fn a_ballot_is_not_used_again_after_a_restart() {
    for plant in [None, Some(Plant::EarlyBallot)] {
        let mut stage = planted(3, plant);
        stage.stall(1, true);
        stage.propose(1, 1);
        stage.delay();
        stage.delay();
        stage.deliver_all(|from, to, _| (from, to) == (1, 2));
        stage.crash(1, 0);
        // r2's votes reach no replica; r3 gets r1's later messages.
        stage.post.clear();
        stage.restart(1);
        stage.propose(1, 2);
        stage.deliver_all(|from, to, _| from != 2 && to != 2);
        stage.deliver_all(|_, _, _| true);
        let is_caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            stage.pass(LONG);
            stage.broken.is_some()
        }));
        assert_eq!(is_caught.unwrap_or(true), plant.is_some(), "{plant:?}");
    }
}

#[test]
fn who_comes_back_late_catches_up_and_who_is_left_behind_asks_for_a_snapshot() {
    for keep in [usize::MAX, 0] {
        let mut stage = Stage::new(3, Retention { volatile: false, keep }, Paxos::new);
        stage.crash(3, 0);
        for tag in 1..=700 {
            stage.propose(1, tag);
            stage.deliver_all(|_, _, _| true);
        }
        stage.pass(Duration::from_secs(1));
        (1..=2).for_each(|at| stage.save(at));
        stage.pass(Duration::from_secs(1));
        stage.restart(3);
        stage.pass(Duration::from_secs(2));
        let needs = stage.at(3).needs;
        assert_eq!(needs, (keep == 0).then_some(700));
        if keep == 0 {
            assert!(stage.install(3, 1), "it has what is needed");
            assert_eq!(stage.at(1).protocol.kept_bytes(), 0);
        }
        stage.propose(3, 701);
        stage.pass(Duration::from_secs(1));
        all_have(&stage, 701);
        assert!(stage.pending().is_empty());
    }
}

/// Any message that a peer may send.
fn babble(rng: &mut ChaCha8Rng) -> Message {
    let slot = [0, 1, 2, 3, 70_000, u64::MAX][rng.random_range(0..6)];
    let round = [1, 2, 9, Ballot::MAX_ROUND][rng.random_range(0..4)];
    let leader = replica(rng.random_range(1..=5));
    let ballot = Ballot::new(round, leader).expect("not round 0");
    let ballot = if rng.random_range(0..9) == 0 { Ballot::OWNER } else { ballot };
    let proposal = InstanceId::new(leader, rng.random_range(1..4));
    let choice = Choice { proposal, value: Value::Nop };
    match rng.random_range(0..8) {
        0 => Message::Prepare { slot, ballot },
        1 => Message::Promise { slot, ballot, vote: Some((ballot, choice)) },
        2 => Message::Accept { slot, ballot, choice },
        3 => Message::Accepted { slot, ballot },
        4 => Message::Rejected { slot, ballot },
        5 => Message::Upkeep(Upkeep::Marks { known: slot, saved: 0 }),
        6 => Message::Upkeep(Upkeep::Fetch { from: slot, to: slot }),
        _ => Message::Upkeep(Upkeep::Truncated { up_to: slot }),
    }
}

#[test]
fn one_that_babbles_makes_nobody_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut stage = stage(5);
    for tag in 1..=300 {
        stage.propose(1, tag);
        for _ in 0..50 {
            stage.hear(5, 1, babble(&mut rng));
        }
        stage.tick(1);
        stage.post.clear();
    }
    assert!(stage.truth.is_empty(), "one peer alone decides nothing");
}
