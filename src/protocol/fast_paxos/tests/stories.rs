//! Directed stories, one message at a time.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::protocol::Protocol;
use crate::protocol::fast_paxos::{FastPaxos, Message, Path, Plant, Round};
use crate::protocol::log::tests::stage::{Stage, batch, replica};
use crate::protocol::log::{Choice, Upkeep};
use crate::types::{Ballot, InstanceId, Retention, Settings, Value};

const LONG: Duration = Duration::from_secs(20);

/// A cluster whose first replica has opened a fast ballot.
fn opened(n: usize, plant: Option<Plant>) -> Stage<FastPaxos> {
    let mut stage =
        Stage::new(n, Retention { volatile: false, keep: usize::MAX }, move |settings| {
            let mut fast_paxos = FastPaxos::new(settings);
            plant.into_iter().for_each(|plant| fast_paxos.plant(plant));
            fast_paxos
        });
    stage.pass(Duration::from_millis(100));
    for at in 1..=n {
        assert_eq!(stage.at(at).protocol.leader(), Some((replica(1), true)));
    }
    stage
}

#[test]
fn who_is_wished_for_coordinates_a_new_cluster() {
    let wishing = |mut settings: Settings| {
        settings.timing.leader = Some(replica(3));
        FastPaxos::new(settings)
    };
    let mut stage = Stage::new(5, Retention { volatile: false, keep: usize::MAX }, wishing);
    stage.pass(LONG);
    for at in 1..=5 {
        assert_eq!(stage.at(at).protocol.leader(), Some((replica(3), true)));
    }
    assert_eq!(stage.paths.count(Path::Campaign), 1);
    stage.crash(3, 0);
    stage.suspect(3, true);
    stage.pass(LONG);
    let leader = stage.at(1).protocol.leader();
    assert!(leader.is_some_and(|(who, _)| who != replica(3)), "the others go on: {leader:?}");
}

#[track_caller]
fn all_have(stage: &Stage<FastPaxos>, last: u64) {
    assert_eq!(stage.broken, None);
    let executed: Vec<_> = (1..=stage.n()).map(|at| stage.executed(at)).collect();
    assert_eq!(executed, vec![last; stage.n()]);
}

/// The slots in which a replica reports votes, in the messages on their way.
fn votes_under_way(stage: &Stage<FastPaxos>, from: usize) -> Vec<u64> {
    let voted = stage.post.iter().filter_map(|(who, _, message)| match message {
        Message::Voted { slot, .. } if *who == from => Some(*slot),
        _ => None,
    });
    let mut slots: Vec<u64> = voted.collect();
    slots.dedup();
    slots
}

#[test]
fn a_value_alone_is_decided_everywhere_after_two_delays() {
    for n in [1, 2, 3, 4, 5, 7] {
        let mut stage = opened(n, None);
        stage.propose(n, 1);
        stage.delay();
        assert_eq!(stage.executed(n), u64::from(n == 1));
        stage.delay();
        all_have(&stage, 1);
        assert!(stage.paths.count(Path::ChosenFast) > 0);
    }
}

#[test]
fn ballots_are_fast_with_a_fast_quorum_and_classic_without() {
    for (n, spare) in [(3, 0), (4, 1), (5, 1), (7, 1), (9, 2)] {
        let mut stage = opened(n, None);
        for dead in 0..=spare {
            let alive = n - dead;
            stage.pass(Duration::from_secs(3));
            assert_eq!(stage.at(1).protocol.leader(), Some((replica(1), true)), "{alive} of {n}");
            let tag = dead as u64 + 1;
            stage.propose(1, tag);
            stage.deliver_all(|_, _, _| true);
            assert_eq!(stage.slots_of(tag).len(), 1, "{alive} of {n}");
            stage.crash(alive, 0);
            stage.suspect(alive, true);
        }
        stage.pass(Duration::from_secs(1));
        if n == 4 {
            // Two of four are no majority.
            continue;
        }
        assert_eq!(stage.at(2).protocol.leader(), Some((replica(1), false)), "n = {n}");
        stage.post.clear();
        stage.propose(2, 99);
        let before = stage.executed(2);
        // Of three, the proposer's own vote and the coordinator's are a majority.
        let delays = if n == 3 { 2 } else { 3 };
        (1..delays).for_each(|_| stage.delay());
        assert_eq!(stage.executed(2), before, "n = {n}");
        stage.delay();
        assert_eq!(stage.executed(2), before + 1, "n = {n}");
        // The replicas return, and so do fast ballots.
        for back in n - spare..=n {
            stage.restart(back);
            stage.suspect(back, false);
        }
        stage.pass(Duration::from_secs(5));
        assert!(stage.at(2).protocol.leader().is_some_and(|(_, is_fast)| is_fast), "n = {n}");
        all_have(&stage, spare as u64 + 2);
    }
}

/// r2 hears of a value that its proposer has forgotten, and no other replica hears of r2's vote.
#[test]
fn a_vote_that_nobody_has_heard_of_comes_to_something() {
    for is_fast in [true, false] {
        let mut stage = opened(5, None);
        let proposal = InstanceId::new(replica(3), 999);
        let choice = Choice { proposal, value: Value::Nop };
        stage.hear(3, 2, Message::Propose { choice });
        assert_eq!(votes_under_way(&stage, 2), [1]);
        stage.post.clear();
        if !is_fast {
            for dead in [4, 5] {
                stage.crash(dead, 0);
                stage.suspect(dead, true);
            }
            stage.deliver_all(|from, _, _| from != 2);
        }
        stage.pass(LONG);
        if !is_fast {
            assert_eq!(stage.at(2).protocol.leader(), Some((replica(1), false)));
            [4, 5].into_iter().for_each(|dead| stage.restart(dead));
            stage.pass(LONG);
        }
        all_have(&stage, 1);
    }
}

/// Three of four vote for r2's value in slot 1. One of them, r4, learns from the votes that it is
/// chosen. The coordinator has voted for its own value, and does not hear r4.
fn collision_with_a_chosen_value(plant: Option<Plant>) -> Stage<FastPaxos> {
    let mut stage = opened(4, plant);
    stage.post.clear();
    stage.propose(2, 1);
    stage.propose(1, 2);
    stage.deliver_all(|from, to, message| {
        from == 2 && to > 2 && matches!(message, Message::Propose { .. })
    });
    stage.deliver_all(|from, to, _| to == 4 && (from == 2 || from == 3));
    assert_eq!((stage.slots_of(1), stage.executed(4)), (vec![1], 1));
    stage.post.retain(|(from, to, _)| *from != 4 && *to != 4);
    stage.crash(4, usize::MAX);
    stage.suspect(4, true);
    stage
}

#[test]
fn a_recovery_picks_what_may_have_been_chosen() {
    let mut stage = collision_with_a_chosen_value(None);
    stage.deliver_all(|_, _, _| true);
    assert!(stage.paths.count(Path::Forced) > 0);
    assert_eq!(stage.slots_of(1), [1]);
    stage.restart(4);
    stage.suspect(4, false);
    stage.pass(LONG);
    assert_eq!(stage.slots_of(2).len(), 1, "what has lost is proposed again");
    let last = *stage.truth.last_key_value().expect("two are decided").0;
    all_have(&stage, last);
    assert!(stage.pending().is_empty());
}

#[test]
fn a_recovery_that_overlooks_it_is_noticed() {
    let mut stage = collision_with_a_chosen_value(Some(Plant::IgnoreForced));
    (0..4).for_each(|_| stage.delay());
    assert!(stage.broken.is_some());
}

#[test]
fn all_who_collide_get_through() {
    for n in [3, 4, 5, 7] {
        let mut stage = opened(n, None);
        for round in 0..10 {
            // Each value reaches its own replica first, so all slots are contested.
            (1..=n).for_each(|at| {
                stage.propose(at, (round * n + at) as u64);
            });
            stage.pass(Duration::from_millis(200));
        }
        stage.pass(LONG);
        assert!(stage.pending().is_empty());
        assert!((1..=10 * n as u64).all(|tag| !stage.slots_of(tag).is_empty()));
        assert!(stage.paths.count(Path::Collision) > 0, "n = {n}");
        assert!(stage.paths.count(Path::ToClassic) > 0, "that is too many, n = {n}");
    }
}

#[test]
fn an_acceptor_that_restarts_stands_by_its_votes() {
    let mut stage = opened(3, None);
    stage.propose(1, 1);
    stage.deliver_all(|_, to, _| to == 3);
    assert_eq!(votes_under_way(&stage, 3), [1]);
    stage.crash(3, 0);
    stage.restart(3);
    stage.post.clear();
    stage.propose(2, 2);
    let propose = stage.post.iter().find(|(from, to, _)| (*from, *to) == (2, 3));
    let propose = propose.expect("it goes to everybody").2.clone();
    stage.hear(2, 3, propose.clone());
    assert_eq!(votes_under_way(&stage, 3), [0; 0], "it does not know that the ballot is fast");
    (0..10).for_each(|_| stage.tick(1));
    stage.deliver_all(|_, to, message| to == 3 && matches!(message, Message::Open { .. }));
    stage.hear(2, 3, propose);
    assert_eq!(votes_under_way(&stage, 3), [2], "slot 1 has its vote");
    stage.pass(LONG);
    assert!(stage.pending().is_empty());
    assert_eq!((stage.slots_of(1).len(), stage.slots_of(2).len()), (1, 1));
}

#[test]
fn a_dead_coordinator_is_replaced_and_what_it_left_is_finished() {
    let mut stage = opened(5, None);
    stage.propose(2, 1);
    stage.propose(3, 2);
    stage.deliver_all(|_, to, message| to < 4 && matches!(message, Message::Propose { .. }));
    stage.crash(1, usize::MAX);
    stage.post.clear();
    stage.suspect(1, true);
    stage.pass(Duration::from_secs(5));
    let leader = stage.at(5).protocol.leader().expect("somebody leads");
    assert!(leader.0 != replica(1) && leader.1, "{leader:?}");
    assert!(stage.pending().is_empty());
    assert_eq!((stage.slots_of(1).len(), stage.slots_of(2).len()), (1, 1));
    stage.restart(1);
    stage.suspect(1, false);
    stage.pass(Duration::from_secs(5));
    assert_eq!(stage.at(1).protocol.leader(), Some(leader), "who comes back follows");
    all_have(&stage, stage.executed(5));
}

#[test]
fn a_name_is_not_used_again_after_a_restart() {
    for plant in [None, Some(Plant::EarlyBallot)] {
        let mut stage = opened(3, plant);
        stage.stall(2, true);
        stage.propose(2, 1);
        let left = stage.post.iter().filter(|(from, _, _)| *from == 2).count();
        assert_eq!(left > 0, plant.is_some());
        stage.deliver_all(|from, to, _| (from, to) == (2, 3));
        stage.crash(2, 0);
        stage.post.clear();
        stage.restart(2);
        stage.stall(2, false);
        stage.pass(Duration::from_millis(60));
        let is_caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            stage.propose(2, 2);
            stage.pass(LONG);
            // If one name has two values, the replicas disagree, or one waits for ever.
            stage.broken.is_some() || stage.slots_of(2).is_empty()
        }));
        assert_eq!(is_caught.unwrap_or(true), plant.is_some(), "{plant:?}");
    }
}

/// Any message that a peer may send.
fn babble(rng: &mut ChaCha8Rng) -> Message {
    let slot = [0, 1, 2, 3, 70_000, u64::MAX][rng.random_range(0..6)];
    let round = [1, 2, 9, Ballot::MAX_ROUND][rng.random_range(0..4)];
    let leader = replica(rng.random_range(1..=5));
    let ballot = Ballot::new(round, leader).expect("not round 0");
    let ballot = if rng.random_range(0..9) == 0 { Ballot::OWNER } else { ballot };
    let number = rng.random_range(1..4);
    let proposal = InstanceId::new(replica(5), number);
    let choice = Choice { proposal, value: Value::Batch(batch(number)) };
    let round = Round { ballot, is_coordinated: rng.random() };
    match rng.random_range(0..12) {
        0 => Message::Prepare { ballot },
        1 => Message::Promise { ballot, known: slot, reported: vec![1, 2, slot] },
        2 => Message::Report { ballot, slot, round: Some(round), choice },
        3 => Message::Open { ballot, is_fast: rng.random(), from: slot },
        4 => Message::Propose { choice },
        5 => Message::Suggest { ballot, slot, choice },
        6 => Message::Accept { ballot, slot, choice },
        7 => Message::Voted { slot, round, proposal },
        8 => Message::Rejected { ballot },
        9 => Message::Upkeep(Upkeep::Marks { known: slot, saved: 0 }),
        10 => Message::Upkeep(Upkeep::Fetch { from: slot, to: slot }),
        _ => Message::Upkeep(Upkeep::Truncated { up_to: slot }),
    }
}

#[test]
fn one_that_babbles_makes_nobody_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut stage = opened(5, None);
    for tag in 1..=300 {
        stage.propose(1, 100 + tag);
        for _ in 0..50 {
            stage.hear(5, 1, babble(&mut rng));
        }
        stage.tick(1);
        stage.post.clear();
    }
    assert!(stage.truth.is_empty(), "one peer alone decides nothing");
}
