//! Every rule that holds an epoch together is broken once, and found.

use std::time::Duration;

use super::run_seed;
use super::tally::Tally;
use super::world::{World, id, member};
use crate::protocol::epaxos::EPaxos;
use crate::protocol::fast_paxos::FastPaxos;
use crate::protocol::multipaxos::MultiPaxos;
use crate::protocol::paxos::Paxos;
use crate::protocol::{Protocol, ProtocolKind};
use crate::replica::epochs::Plant;
use crate::sim::run::catch;
use crate::types::{Change, Known, LogPosition};

/// Runs worlds with a rule broken, and adds up what happened in them.
fn run<P: Protocol>(seeds: std::ops::Range<u64>, plant: Option<Plant>) -> Result<Tally, String> {
    let mut all = Tally::default();
    for seed in seeds {
        let tally = catch(|| World::<P>::new(seed).with(plant).judge()).and_then(|ended| ended);
        all += tally.map_err(|what| format!("seed {seed}: {what}"))?;
    }
    Ok(all)
}

#[test]
fn every_protocol_keeps_its_promises_while_members_change() {
    for protocol in ProtocolKind::ALL {
        for seed in 0..25 {
            let ended = run_seed(seed, *protocol);
            assert!(ended.is_ok(), "{protocol:?} seed {seed}: {ended:?}");
        }
    }
}

#[test]
fn a_seed_gives_the_same_world_twice() {
    let one = run::<EPaxos>(3..5, None).expect("no violation");
    assert_eq!(run::<EPaxos>(3..5, None), Ok(one));
}

#[test]
fn a_log_is_read_past_the_end_of_an_epoch() {
    let tally = run::<EPaxos>(0..25, None).expect("no violation");
    assert!(tally.replayed > 0, "{tally:?}");
}

#[test]
fn leaders_answer_reads_without_a_proposal() {
    let tally = run::<MultiPaxos>(0..10, None).expect("no violation");
    assert!(tally.reads > 0, "{tally:?}");
}

/// Panics if none of so many worlds finds the planted bug.
fn caught<P: Protocol>(plant: Plant, seeds: u64) {
    let ended = run::<P>(0..seeds, Some(plant));
    assert!(ended.is_err(), "{} {plant:?} was not found in {seeds} worlds: {ended:?}", P::NAME);
}

#[test]
fn a_removed_replica_that_keeps_nothing_is_found() {
    caught::<EPaxos>(Plant::RetiresAtOnce, 400);
}

#[test]
fn a_removed_replica_that_leaves_too_soon_is_found() {
    caught::<EPaxos>(Plant::RetiresOnHearsay, 400);
}

#[test]
fn a_replica_that_joins_before_its_state_is_durable_is_found() {
    caught::<EPaxos>(Plant::JoinsAtOnce, 400);
    caught::<MultiPaxos>(Plant::JoinsAtOnce, 400);
    caught::<FastPaxos>(Plant::JoinsAtOnce, 400);
    caught::<Paxos>(Plant::JoinsAtOnce, 400);
}

#[test]
fn a_replica_that_acts_on_frames_of_an_epoch_before_is_found() {
    caught::<EPaxos>(Plant::ActsOnOldFrames, 400);
    caught::<MultiPaxos>(Plant::ActsOnOldFrames, 400);
    caught::<FastPaxos>(Plant::ActsOnOldFrames, 400);
    caught::<Paxos>(Plant::ActsOnOldFrames, 400);
}

#[test]
fn an_observer_that_is_counted_is_found() {
    caught::<EPaxos>(Plant::CountsObservers, 400);
    caught::<MultiPaxos>(Plant::CountsObservers, 400);
}

#[test]
fn an_observer_that_does_not_say_what_it_has_is_found() {
    caught::<EPaxos>(Plant::SaysItHasNothing, 400);
}

#[test]
fn a_feeder_that_does_not_notice_what_it_no_longer_keeps_is_found() {
    caught::<EPaxos>(Plant::FeedsPastAGap, 400);
    caught::<Paxos>(Plant::FeedsPastAGap, 400);
}

/// r3 proposes for its client and is cut off. The others decide that and go on to the next epoch,
/// r3 fetches its state, and loses all others before it takes part.
fn a_command_crosses_in_a_state(plant: Option<Plant>) -> Result<(), String> {
    let mut world = World::<EPaxos>::story(3, plant);
    let passes = |world: &mut World<EPaxos>, among: &[u32], time: Duration| {
        let until = world.now() + time;
        world.run_among(among, |world| world.now() > until);
    };
    passes(&mut world, &[1, 2, 3], Duration::from_secs(1));
    world.write(3);
    passes(&mut world, &[1, 2, 3], Duration::from_millis(20));
    world.run_among(&[1, 2], |world| [1, 2].iter().all(|at| world.has_executed(*at, 1)));
    world.propose_change(1, &Change::Move { id: id(2), address: member(12).address });
    world.run_among(&[1, 2], |world| [1, 2].iter().all(|at| world.epoch(*at) == Some(1)));
    world.stall(3);
    world.run_among(&[1, 3], |world| world.is_joining(3));
    passes(&mut world, &[3], Duration::from_secs(10));
    world.flush(3);
    world.end_story()
}

#[test]
fn what_may_be_in_a_state_that_was_fetched_is_not_said_to_have_had_no_effect() {
    assert_eq!(a_command_crosses_in_a_state(None), Ok(()));
    let denied = a_command_crosses_in_a_state(Some(Plant::TakesCommandsForFresh));
    assert!(denied.is_err_and(|what| what.contains("had no effect")));
}

/// r3 sleeps through a change, and fetches the state. Then r1, the last that r3 heard much of, is
/// down, and r3 restarts.
fn a_replica_joins_by_a_fetch(plant: Option<Plant>) -> (Option<Known>, Option<Known>) {
    let mut world = World::<EPaxos>::story(3, plant);
    world.run_among(&[1, 2, 3], |world| world.remembers(3, 1).is_some());
    world.propose_change(1, &Change::Add(member(4)));
    world.add(4);
    world.run_among(&[1, 2], |world| [1, 2].iter().all(|at| world.epoch(*at) == Some(1)));
    world.lose_all_messages();
    let before = world.remembers(3, 1);
    // It is told of the epoch, and fetches from r2 alone.
    world.run_among(&[2, 3], |world| world.epoch(3) == Some(1));
    world.restart(3);
    (before, world.remembers(3, 1))
}

#[test]
fn what_is_remembered_of_the_others_crosses_to_an_epoch_that_was_fetched() {
    let (before, after) = a_replica_joins_by_a_fetch(None);
    assert!(before.is_some());
    assert_eq!(before, after);
    let forgotten = catch(|| a_replica_joins_by_a_fetch(Some(Plant::ForgetsTheOthers)));
    assert!(forgotten.is_err(), "{forgotten:?}");
}

#[test]
fn what_is_heard_of_a_replica_before_it_is_a_member_is_kept_until_it_is() {
    let mut world = World::<EPaxos>::story(3, None);
    let known = |held| Known {
        directory: 4,
        life: 7,
        began: Some(LogPosition::default()),
        held: LogPosition::new(held),
    };
    world.add(5);
    for at in [1, 5] {
        world.hear(at, 4, known(3));
        (6..200).for_each(|of| world.hear(at, of, known(1)));
        world.hear(at, 4, known(2));
        assert_eq!(world.remembers(at, 4), None, "so many higher numbers are known");
    }
    let mut world = World::<EPaxos>::story(3, None);
    world.add(5);
    for at in [1, 5] {
        world.hear(at, 4, known(3));
        world.hear(at, 4, known(2));
        assert_eq!(world.remembers(at, 4), Some(known(3)));
    }
    world.propose_change(2, &Change::Add(member(4)));
    world.stall(1);
    world.run_among(&[1, 2, 3], |world| world.is_starting(1));
    world.hear(1, 4, known(8));
    assert_eq!(world.remembers(1, 4), Some(known(8)), "the record of the epoch is not durable");
    world.flush(1);
    world.run_among(&[1, 2, 3], |world| (1..=3).all(|at| world.epoch(at) == Some(1)));
    assert_eq!(world.remembers(1, 4), Some(known(8)));
    // So that r2 knows that it can reach a quorum.
    let start = world.now();
    world.run_among(&[1, 2, 3], |world| world.now() > start + Duration::from_secs(1));
    world.propose_change(2, &Change::Add(member(5)));
    world.run_among(&[1, 2, 3, 5], |world| world.epoch(5) == Some(2));
    assert_eq!(world.remembers(5, 4), Some(known(3)), "it has fetched the state");
    world.restart(5);
    assert_eq!(world.remembers(5, 4), Some(known(3)), "its own snapshot holds it");
}

/// Two operators give the number 4 to two machines. One proposes to add the first of these, and
/// that is done.
fn two_machines_have_one_number(plant: Option<Plant>) -> Result<(), String> {
    let mut world = World::<EPaxos>::story(3, plant);
    world.add(4);
    world.add_twin(5, 4);
    world.propose_change(1, &Change::Add(member(4)));
    let began = |world: &World<EPaxos>| [1, 2, 3, 4].iter().all(|at| world.epoch(*at) == Some(1));
    world.run_among(&[1, 2, 3, 4], began);
    assert_eq!(world.epoch(5), None, "its directory is not the one in the list");
    world.end_story()
}

#[test]
fn of_two_machines_with_one_number_a_single_one_takes_part() {
    assert_eq!(two_machines_have_one_number(None), Ok(()));
    let two = catch(|| two_machines_have_one_number(Some(Plant::TakesAnyDirectory)));
    assert!(!matches!(two, Ok(Ok(()))), "two replicas vote as one");
    caught::<EPaxos>(Plant::TakesAnyDirectory, 400);
}

/// Of three replicas, r3 sleeps through a change, fetches the next epoch, and votes there with r1.
/// Then r1 is lost, and the snapshots of r3 cannot be read.
fn the_snapshot_of_a_join_is_damaged(plant: Option<Plant>) -> World<EPaxos> {
    let mut world = World::<EPaxos>::story(3, plant);
    world.propose_change(1, &Change::Move { id: id(2), address: member(12).address });
    world.run_among(&[1, 2], |world| [1, 2].iter().all(|at| world.epoch(*at) == Some(1)));
    world.lose_all_messages();
    world.run_among(&[1, 3], |world| world.epoch(3) == Some(1));
    let start = world.now();
    world.run_among(&[1, 3], |world| world.now() > start + Duration::from_secs(1));
    world.ask(1);
    world.run_among(&[1, 3], |world| world.has_answered(1));
    world.lose_for_good(1);
    world.restart_damaged(3);
    world
}

#[test]
fn a_replica_that_lost_the_state_it_joined_with_is_refused() {
    let world = the_snapshot_of_a_join_is_damaged(None);
    assert!(world.is_refused(3), "it would forget its votes");
    // r2 alone is no quorum.
    assert_eq!(world.end_story(), Ok(()));
    let forgotten = the_snapshot_of_a_join_is_damaged(Some(Plant::SkipsWhatItJoined)).end_story();
    assert!(forgotten.is_err(), "r2 and r3 have lost what r1 and r3 decided");
}

/// The power of both replicas of a cluster fails as soon as they have begun the second epoch, and
/// no snapshot was ever taken.
fn the_log_alone_leads_to_the_next_epoch<P: Protocol>(plant: Option<Plant>) -> Result<(), String> {
    let mut world = World::<P>::story(2, plant);
    world.propose_change(2, &Change::Move { id: id(1), address: member(9).address });
    world.run_among(&[1, 2], |world| [1, 2].iter().all(|at| world.epoch(*at) == Some(1)));
    assert!([1, 2].iter().any(|at| !world.has_saved(*at)), "one ended the epoch by itself");
    world.restart(1);
    world.restart(2);
    world.end_story()
}

#[test]
fn an_epoch_ends_in_the_log_of_every_protocol() {
    assert_eq!(the_log_alone_leads_to_the_next_epoch::<EPaxos>(None), Ok(()));
    assert_eq!(the_log_alone_leads_to_the_next_epoch::<MultiPaxos>(None), Ok(()));
    assert_eq!(the_log_alone_leads_to_the_next_epoch::<FastPaxos>(None), Ok(()));
    assert_eq!(the_log_alone_leads_to_the_next_epoch::<Paxos>(None), Ok(()));
    let plant = Some(Plant::EndsInSilence);
    let lost = catch(|| the_log_alone_leads_to_the_next_epoch::<MultiPaxos>(plant));
    assert!(!matches!(lost, Ok(Ok(()))), "a leader records at intervals what is decided");
}

/// How long it takes until all three members have begun the next epoch, if the leader proposes the
/// change and nothing is lost.
fn a_leader_ends_an_epoch(plant: Option<Plant>) -> Duration {
    let mut world = World::<MultiPaxos>::story(3, plant);
    world.ask(1);
    world.run_among(&[1, 2, 3], |world| world.has_answered(1));
    let leader = (1..=3).find(|at| world.leads(*at)).expect("somebody decided");
    let start = world.now();
    world.propose_change(leader, &Change::Move { id: id(1), address: member(9).address });
    world.run_among(&[1, 2, 3], |world| (1..=3).all(|at| world.epoch(at) == Some(1)));
    world.now().since(start)
}

#[test]
fn the_leader_that_ends_an_epoch_tells_the_others_before_it_forgets() {
    assert!(a_leader_ends_an_epoch(None) < Duration::from_millis(200));
    assert!(a_leader_ends_an_epoch(Some(Plant::EndsInSilence)) > Duration::from_secs(1));
}

/// r1 ends the first epoch of three and begins the next, and r2 hears of it; then the machine of r1
/// is lost. r2 and r3 can end the epoch only together.
fn a_machine_is_lost_that_alone_has_begun(plant: Option<Plant>) -> Result<(), String> {
    let mut world = World::<EPaxos>::story(3, plant);
    world.propose_change(1, &Change::Move { id: id(3), address: member(9).address });
    world.run_among(&[1, 2], |world| world.epoch(1) == Some(1));
    // Among it the decision.
    world.lose_all_messages();
    assert_eq!(world.epoch(2), Some(0), "it has not ended the epoch itself");
    world.run_among(&[1, 2], |world| world.has_heard_of_a_later_epoch(2));
    world.lose_for_good(1);
    world.end_story()
}

#[test]
fn a_replica_takes_part_in_its_epoch_until_it_has_the_state_of_a_later_one() {
    assert_eq!(a_machine_is_lost_that_alone_has_begun(None), Ok(()));
    let stuck = a_machine_is_lost_that_alone_has_begun(Some(Plant::LeavesOnHearsay));
    assert!(stuck.is_err(), "r3 alone is no quorum");
}

/// r2 of two proposes to leave. r1 executes that, and its disk writes nothing of it; then r1 loses
/// its power.
fn the_power_fails_before_the_end_is_durable(plant: Option<Plant>) -> Result<(), String> {
    let mut world = World::<EPaxos>::story(2, plant);
    world.propose_change(2, &Change::Remove(id(2)));
    world.run_among(&[1, 2], |world| world.epoch(2).is_none());
    world.stall(1);
    if plant.is_some() {
        world.run_among(&[1, 2], |world| world.has_retired(2));
    }
    world.restart(1);
    world.end_story()
}

#[test]
fn an_epoch_begins_once_the_end_of_the_one_before_is_durable() {
    assert_eq!(the_power_fails_before_the_end_is_durable(None), Ok(()));
    let stuck = the_power_fails_before_the_end_is_durable(Some(Plant::BeginsAtOnce));
    assert!(stuck.is_err(), "r2 has retired, and r1 alone is no quorum of the first epoch");
}

/// r3 has slept through the first change of three members. r1 alone has begun the epoch of a second
/// one, tells r3 of it, and is lost. r2 and r3 are a quorum of the epoch between.
fn a_late_replica_hears_of_the_last_epoch(second: &Change) -> World<EPaxos> {
    let mut world = World::story(3, None);
    let moved = |number: u32| Change::Move { id: id(number), address: member(number + 10).address };
    world.add(4);
    world.propose_change(1, &moved(1));
    world.run_among(&[1, 2], |world| [1, 2].iter().all(|at| world.epoch(*at) == Some(1)));
    // So that r1 and r2 know that both have begun it.
    let start = world.now();
    world.run_among(&[1, 2], |world| world.now() > start + Duration::from_secs(1));
    world.propose_change(1, second);
    world.run_among(&[1, 2], |world| world.epoch(1) == Some(2));
    world.lose_all_messages();
    assert_eq!((world.epoch(2), world.epoch(3)), (Some(1), Some(0)));
    let start = world.now();
    world.run_among(&[1, 3], |world| world.now() > start + Duration::from_secs(1));
    assert!(!world.has_retired(3), "it may have a vote in the epoch between");
    world.lose_for_good(1);
    world
}

#[test]
fn a_replica_that_is_not_in_the_last_list_may_be_needed_in_the_one_before() {
    let second = Change::Replace { old: id(3), new: member(4) };
    assert_eq!(a_late_replica_hears_of_the_last_epoch(&second).end_story(), Ok(()));
}

#[test]
fn who_was_told_of_an_epoch_whose_state_is_lost_joins_the_one_before() {
    let second = Change::Move { id: id(2), address: member(12).address };
    assert_eq!(a_late_replica_hears_of_the_last_epoch(&second).end_story(), Ok(()));
}
