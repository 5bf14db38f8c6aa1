//! Stories of PROTOCOL.md §8a: replicas drop records while another is away, and a snapshot brings
//! it back.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::stage::{Snapshot, Stage, deps, id};
use crate::protocol::epaxos::{Message, Path, Plant};
use crate::types::Deps;

/// x of r2 has r3's vote for the fast path and no other. y conflicts and does not cover x. It
/// commits in one round trip among r1, r4 and r5, which execute it and drop its record. r1 and r2
/// fail, and r4 recovers x with r3 and r5.
fn dropped_then_validated(plant: Option<Plant>) -> Stage {
    let mut s = Stage::durable(5).with(plant);
    let x = s.propose(2, "k");
    s.deliver("PreAccept", x, 2, 3);
    s.lose_all();
    let y = s.propose(1, "k");
    for voter in [4, 5] {
        s.deliver("PreAccept", y, 1, voter);
        s.deliver("PreAcceptOk", y, voter, 1);
    }
    s.deliver_among(&[1, 4, 5]);
    s.truncate(&[1, 4, 5]);
    assert_eq!(s.remembered(4), 0, "no record of y is left");
    s.recover(4, x);
    s.deliver_among(&[3, 4, 5]);
    s
}

#[test]
fn what_is_dropped_still_speaks_against_others() {
    let x = id(2, 1);
    let sound = dropped_then_validated(None);
    assert_eq!(sound.decided(4, x), None, "y speaks against x");
    assert_eq!(sound.count(5, Path::DroppedReported), 1);
    assert!(sound.count(4, Path::DroppedInterferes) > 0, "r4 has dropped it, too");
    let forgetful = dropped_then_validated(Some(Plant::ForgetAtCut));
    assert_eq!(forgetful.decided(4, x), Some(Deps::none(5)), "neither covers the other");
}

/// r1, r2 and r3 decide x, execute it, and drop its record. r5 has seen x, and recovers it.
fn recovered_though_dropped(plant: Option<Plant>) -> Stage {
    let mut s = Stage::durable(5).with(plant);
    let x = s.propose(1, "k");
    s.deliver("PreAccept", x, 1, 5);
    for voter in [2, 3] {
        s.deliver("PreAccept", x, 1, voter);
        s.deliver("PreAcceptOk", x, voter, 1);
    }
    s.deliver_among(&[1, 2, 3]);
    s.truncate(&[1, 2, 3]);
    s.recover(5, x);
    s.deliver_among(&[1, 4, 5]);
    s
}

#[test]
fn who_has_dropped_an_instance_has_no_vote() {
    let x = id(1, 1);
    let mut sound = recovered_though_dropped(None);
    assert_eq!(sound.decision(5, x), None);
    assert_eq!(sound.wanted(5), Some(deps([1, 0, 0, 0, 0])), "a snapshot that holds x");
    let counted = recovered_though_dropped(Some(Plant::TruncatedVote));
    assert_eq!(counted.decided(5, x), None, "r5 decides Nop where r1 decided x");
    assert_eq!(counted.decided(1, x), Some(Deps::none(5)));
}

#[test]
fn who_hears_of_what_is_dropped_goes_on_from_a_snapshot() {
    let mut s = recovered_though_dropped(None);
    let snapshot = s.save(2);
    assert!(s.install(5, &snapshot));
    assert_eq!(s.look(5).executed, snapshot.executed);
    assert!(!s.install(5, &snapshot), "it has all that is in it now");
    // Its own snapshot is as good as any, and it can serve others.
    let own = s.save(5);
    assert_eq!(own.executed, snapshot.executed);
    assert_eq!(own.shared.dropped, snapshot.shared.dropped);
    assert_eq!(own.shared.index.commands, snapshot.shared.index.commands);
    let next = s.propose(5, "k");
    s.deliver_among(&[1, 2, 3, 4, 5]);
    assert_eq!(s.decided(5, next), Some(deps([1, 0, 0, 0, 0])), "it covers what was dropped");
}

/// r5 continues with commands that do not wait for x. If the snapshot it asks for had to hold all
/// of them, no snapshot would ever be enough.
#[test]
fn what_is_asked_for_does_not_grow_with_what_goes_on() {
    let mut s = recovered_though_dropped(None);
    let x = id(1, 1);
    assert_eq!(s.wanted(5), Some(deps([1, 0, 0, 0, 0])));
    s.lose_all();
    let y = s.propose(4, "other");
    s.deliver_among(&[1, 4, 5]);
    assert_eq!(s.executed(5), [y]);
    s.recover(5, x);
    s.deliver_among(&[1, 5]);
    assert_eq!(s.wanted(5), Some(deps([1, 0, 0, 0, 0])));
    s.save(5);
    s.recover(5, x);
    s.deliver_among(&[1, 5]);
    assert_eq!(s.wanted(5), Some(deps([1, 0, 0, 1, 0])), "this it may not lose any more");
}

/// No replica asks for ever: not the owner, nor one that wants a vote or a decision.
#[test]
fn every_question_about_the_dropped_is_answered_with_that() {
    let mut s = recovered_though_dropped(None);
    let x = id(1, 1);
    s.lose_all();
    s.pass(&[2, 3, 5], Duration::from_secs(1));
    assert!(s.wanted(5).is_some(), "what it fetches is dropped, too");
    let before = (s.look(2), s.count(2, Path::Truncated));
    s.recover(5, x);
    for to in [2, 3] {
        s.deliver("Recover", x, 5, to);
        s.deliver("Truncated", x, to, 5);
    }
    assert_eq!((s.look(2), s.count(2, Path::Truncated)), (before.0, before.1 + 1));
    s.pass(&[2, 3, 5], Duration::from_secs(30));
    let asked = s.count(2, Path::Truncated) + s.count(3, Path::Truncated);
    assert!(asked < 700, "{asked} answers in half a minute");
}

/// PROTOCOL.md §3, but at the end of the story records are dropped: r3.1 becomes a Nop that r1 and
/// r3 drop, and r3 even restarts from its snapshot. It proposes again, commits with r1, and fails.
/// r2 knows the Nop as it was proposed, and recovers.
#[test]
fn a_dropped_nop_still_counts_for_its_owner() {
    let mut s = Stage::durable(3);
    let first = s.propose(3, "k");
    s.deliver("PreAccept", first, 3, 2);
    s.lose_all();
    s.recover(1, first);
    s.deliver_among(&[1, 3]);
    assert_eq!(s.decided(3, first), None);
    s.lose_all();
    s.truncate(&[1, 3]);
    let snapshot = s.save(3);
    assert!(snapshot.shared.decisions.is_empty() && snapshot.shared.index.nops.keys().len() == 1);
    s.restart_from(3, &snapshot);
    let second = s.propose(3, "k");
    s.deliver("PreAccept", second, 3, 1);
    s.deliver("PreAcceptOk", second, 1, 3);
    assert_eq!(s.decided(3, second), Some(deps([0, 0, 1])), "the client has its answer");
    s.lose_all();
    s.recover(2, second);
    s.deliver_among(&[1, 2]);
    assert_eq!(s.decided(2, second), Some(deps([0, 0, 1])));
}

/// y of r4 became a Nop whose payload r3 and r5 never saw, and was dropped. r2 knows y as it was
/// proposed, and reports it when x is validated.
#[test]
fn a_dropped_nop_that_is_reported_is_harmless() {
    let mut s = Stage::durable(5);
    let y = s.propose(4, "k");
    s.deliver("PreAccept", y, 4, 2);
    s.lose_all();
    s.recover(3, y);
    s.deliver_among(&[3, 4, 5]);
    assert_eq!(s.decided(3, y), None);
    s.truncate(&[3, 4, 5]);
    let x = s.propose(1, "k");
    s.deliver("PreAccept", x, 1, 3);
    s.lose_all();
    s.recover(3, x);
    for member in [2, 5] {
        s.deliver("Recover", x, 3, member);
        s.deliver("RecoverOk", x, member, 3);
    }
    s.deliver_among(&[2, 3, 5]);
    assert_eq!(s.count(3, Path::DroppedHarmless), 1);
    assert_eq!(s.decided(3, x), Some(Deps::none(5)));
}

/// r3 votes for x, r1 commits it, and no other replica hears of it. r3 then installs a snapshot
/// without x, and r2 recovers x.
fn installed_behind_a_vote(plant: Option<Plant>) -> Stage {
    let mut s = Stage::durable(3).with(plant);
    let x = s.propose(1, "k");
    s.deliver("PreAccept", x, 1, 3);
    s.deliver("PreAcceptOk", x, 3, 1);
    assert_eq!(s.decided(1, x), Some(Deps::none(3)));
    s.lose_all();
    let y = s.propose(2, "other");
    s.deliver("PreAccept", y, 2, 1);
    s.deliver("PreAcceptOk", y, 1, 2);
    s.lose_all();
    let snapshot = s.save(2);
    assert!(s.install(3, &snapshot));
    s.recover(2, x);
    s.deliver_among(&[2, 3]);
    s
}

#[test]
fn votes_outlive_a_snapshot_that_they_are_not_in() {
    let x = id(1, 1);
    let sound = installed_behind_a_vote(None);
    assert_eq!(sound.decided(2, x), Some(Deps::none(3)));
    let forgetful = installed_behind_a_vote(Some(Plant::InstallForgets));
    assert_eq!(forgetful.decided(2, x), None, "an answered command is lost");
}

/// What r3 executed and r2's snapshot lacks is executed again on top of it. What r3 proposed inside
/// the snapshot is decided there, one way or the other. Its other proposals continue.
#[test]
fn an_install_keeps_what_is_outside_and_settles_what_is_inside() {
    let mut s = Stage::durable(3);
    let inside = s.propose(3, "a");
    s.deliver("PreAccept", inside, 3, 2);
    s.lose_all();
    s.recover(2, inside);
    s.deliver_among(&[1, 2]);
    let snapshot = s.save(2);
    assert!(snapshot.executed.contains(inside));
    s.lose_all();
    let theirs = s.propose(1, "b");
    s.deliver("PreAccept", theirs, 1, 3);
    s.deliver("PreAcceptOk", theirs, 3, 1);
    s.deliver("Commit", theirs, 1, 3);
    s.lose_all();
    let open = s.propose(3, "c");
    s.lose_all();
    assert_eq!(s.executed(3), [theirs]);
    assert!(s.install(3, &snapshot));
    assert_eq!(s.executed(3), [theirs], "once more, on top");
    let sender = snapshot.shared.decisions.iter().find(|decision| decision.id == inside);
    let here = s.look(3);
    assert_eq!(here.shared.decisions.iter().find(|decision| decision.id == inside), sender);
    assert_eq!(s.propose(3, "d"), id(3, 3), "no slot is used twice");
    s.pass(&[1, 2, 3], Duration::from_secs(1));
    assert!(s.decision(3, open).is_some_and(|d| !d.value.is_nop()), "its owner went on");
    // A restart gives the same state.
    let own = s.save(3);
    assert_eq!(s.look_reborn(3, Some(&own)), (s.look(3), true));
}

/// An install must not take back promises, nor lose instances that have no record any more.
#[test]
fn a_snapshot_that_lacks_something_is_refused() {
    let mut s = Stage::durable(3);
    let x = s.propose(1, "a");
    s.deliver_among(&[1, 2, 3]);
    let early = s.save(2);
    let y = s.propose(2, "b");
    s.deliver_among(&[1, 2]);
    s.lose_all();
    let z = s.propose(3, "c");
    s.deliver_among(&[1, 3]);
    s.lose_all();
    assert_eq!((s.executed(2), s.executed(3)), (&[x, y][..], &[x, z][..]));
    s.save(3);
    let without_z = s.look(2);
    assert!(!s.install(3, &without_z), "r3 has said that it has z for good");
    assert!(!s.install(3, &early), "there is nothing new in it");
    let without_y = s.look(3);
    assert!(s.install(2, &without_y), "r2 has y for now, and executes it again");
    assert_eq!(s.look(2).executed.floor(), &deps([1, 1, 1]));
}

/// A waiting recovery stops when a snapshot holds the outcome.
#[test]
fn an_install_ends_the_recoveries_it_decides() {
    let mut s = Stage::durable(3);
    let x = s.propose(1, "k");
    s.deliver("PreAccept", x, 1, 3);
    s.deliver("PreAcceptOk", x, 3, 1);
    s.deliver("Commit", x, 1, 2);
    s.recover(3, x);
    s.lose_all();
    // r2 has it without a payload, and fetches that.
    s.pass(&[1, 2], Duration::from_millis(500));
    assert_eq!(s.executed(2), [x]);
    s.lose_all();
    let snapshot = s.save(2);
    assert_eq!(s.recovering(3), 1);
    assert!(s.install(3, &snapshot));
    assert_eq!(s.recovering(3), 0);
    s.pass(&[2, 3], Duration::from_secs(5));
    assert_eq!(s.count(3, Path::Recovery), 1);
}

/// r1 and r2 propose cuts of which neither is at or above the other. r3 agrees to one and r4 to the
/// other, so neither gets enough. As all keep executing, a replica proposes one above both.
#[test]
fn cuts_that_do_not_compare_give_way_to_one_above_both() {
    let mut s = Stage::durable(5);
    s.propose(1, "a");
    s.propose(2, "b");
    s.deliver_among(&[1, 2, 3, 4]);
    (1..=4).for_each(|at| drop(s.save(at)));
    s.lose_all();
    let (first, second) = (deps([1, 0, 0, 0, 0]), deps([0, 1, 0, 0, 0]));
    s.cut(1, first.clone());
    s.cut(2, second.clone());
    s.happen_between("Cut", 1, 3);
    s.happen_between("Cut", 2, 4);
    s.deliver_among(&[1, 2, 3, 4]);
    assert!((1..=4).all(|at| *s.established(at) == Deps::none(5)), "neither has three");
    assert!(s.count(3, Path::CutRefused) > 0 && s.count(4, Path::CutRefused) > 0);
    s.pass(&[1, 2, 3, 4], Duration::from_secs(10));
    for at in 1..=4 {
        assert_eq!(*s.established(at), deps([1, 1, 0, 0, 0]), "at r{at}");
        assert_eq!(s.remembered(at), 0);
    }
}

/// r3 has not executed what r1 proposes to drop.
fn agreed_without_having(plant: Option<Plant>) -> Stage {
    let mut s = Stage::durable(3).with(plant);
    s.propose(1, "k");
    s.deliver_among(&[1, 2]);
    s.lose_all();
    let snapshot = s.save(1);
    s.cut(1, snapshot.executed.floor().clone());
    s.deliver_among(&[1, 3]);
    s
}

#[test]
fn who_has_not_executed_it_agrees_to_no_cut() {
    let sound = agreed_without_having(None);
    assert_eq!((sound.established(1), sound.count(3, Path::CutRefused)), (&Deps::none(3), 1));
    let unchecked = agreed_without_having(Some(Plant::CutUnchecked));
    assert_eq!(unchecked.established(1), &deps([1, 0, 0]), "and r1 alone could serve it");
}

/// Whether r3, whose disk is slow, announces its agreement before it is durable.
fn agrees_early(plant: Option<Plant>) -> bool {
    let mut s = Stage::durable(3).with(plant);
    s.propose(1, "k");
    s.deliver_among(&[1, 3]);
    let snapshot = s.save(1);
    s.save(3);
    s.stall(3);
    s.cut(1, snapshot.executed.floor().clone());
    s.happen_between("Cut", 1, 3);
    s.deliver_among(&[1, 3]);
    *s.established(1) != Deps::none(3)
}

#[test]
fn an_agreement_that_is_not_durable_is_not_told() {
    assert!(!agrees_early(None));
    assert!(agrees_early(Some(Plant::EarlyAgreement)), "this test can fail");
}

/// Random proposals, losses, recoveries, snapshots and cuts. Whenever a replica restarts, from its
/// log alone or from a snapshot and the log after it, it has the state it had before.
#[test]
fn a_replica_that_comes_back_is_what_it_was() {
    let (mut dropped, mut nops, mut open) = (0, 0, 0);
    for seed in 0..60 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let n = if seed % 2 == 0 { 3 } else { 5 };
        let mut s = Stage::durable(n);
        let mut snapshots: Vec<Option<_>> = vec![None; n + 1];
        let mut proposed = Vec::new();
        for _ in 0..400 {
            let at = rng.random_range(1..=n);
            match rng.random_range(0..40) {
                0..4 => proposed.push(s.propose(at, ["a", "b"][rng.random_range(0..2)])),
                4 if !proposed.is_empty() => {
                    let id = proposed[rng.random_range(0..proposed.len())];
                    if s.decision(at, id).is_none() {
                        s.recover(at, id);
                    }
                }
                5 => snapshots[at] = Some(s.save(at)),
                6 => s.wait(at),
                7 => {
                    if let Some(snapshot) = &snapshots[at] {
                        s.cut(at, snapshot.executed.floor().clone());
                    }
                }
                _ => {
                    let count = s.under_way().count();
                    if count > 0 {
                        s.happen(rng.random_range(0..count), rng.random_range(0..12) == 0);
                    }
                }
            }
        }
        for (at, snapshot) in snapshots.iter().enumerate().skip(1) {
            let is = s.look(at);
            dropped += is.shared.dropped.as_slots().iter().sum::<u64>();
            nops += is.shared.decisions.iter().filter(|one| one.value.value().is_nop()).count();
            open += is.own.len();
            // The others repeat which cut is established.
            let told_again = |(mut reborn, same): (Snapshot, bool)| {
                reborn.shared.cut = is.shared.cut.clone();
                (reborn, same)
            };
            if is.shared.dropped == Deps::none(n) {
                let reborn = told_again(s.look_reborn(at, None));
                assert_eq!(reborn, (is.clone(), true), "seed {seed}, r{at}");
            }
            if let Some(snapshot) = snapshot
                && snapshot.shared.dropped == is.shared.dropped
                // What was forgotten is not written to the log.
                && snapshot.shared.floor == is.shared.floor
            {
                let reborn = told_again(s.look_reborn(at, Some(snapshot)));
                assert_eq!(reborn, (is.clone(), true), "seed {seed}, r{at}");
            }
        }
    }
    assert!(dropped > 50 && nops > 50 && open > 500, "{dropped} {nops} {open}: too tame");
}

#[test]
fn a_commit_without_its_payload_is_not_taken_for_a_nop() {
    let mut s = recovered_though_dropped(None);
    s.lose_all();
    let y = s.propose(1, "k");
    for voter in [2, 3] {
        s.deliver("PreAccept", y, 1, voter);
        s.deliver("PreAcceptOk", y, voter, 1);
    }
    s.deliver("Commit", y, 1, 5);
    assert_eq!(s.decision(5, y), None);
    let fetches = s.under_way().filter(|(from, to, message)| {
        (*from, *to) == (5, 1) && matches!(message, Message::Fetch { .. })
    });
    assert_eq!(fetches.count(), 0, "it is under way");
    s.deliver_among(&[1, 5]);
    assert_eq!(s.decided(5, y), Some(deps([1, 0, 0, 0, 0])));
}

/// Whether `at` commits its next command with the first vote that it receives, from `voter`.
fn is_fast_with(s: &mut Stage, at: usize, voter: usize) -> bool {
    let x = s.propose(at, "other");
    s.deliver("PreAccept", x, at, voter);
    s.deliver("PreAcceptOk", x, voter, at);
    let fast = s.decision(at, x).is_some();
    s.deliver_among(&[at, voter]);
    fast
}

/// All execute x of r3. r3 tells only r2 that its snapshot holds x, and fails. r2 forgets x. Does
/// r1 take the fast path with r2's vote: now; after a restart of r1; after a restart of both, when
/// neither hears r3?
fn told_by_the_dead(plant: Option<Plant>) -> [bool; 3] {
    let mut s = Stage::durable(3).with(plant);
    s.propose(3, "k");
    s.deliver_among(&[1, 2, 3]);
    let first = s.save(1);
    s.save(2);
    s.save(3);
    s.gossip(&[2, 3]);
    for _ in 0..20 {
        s.gossip(&[1, 2]);
    }
    assert_eq!(s.look(2).shared.floor, deps([0, 0, 1]), "r2 has forgotten x");
    assert_eq!(s.look(1).shared.floor, Deps::none(3), "r3 has told r1 nothing");
    let now = is_fast_with(&mut s, 1, 2);
    s.restart_from(1, &first);
    s.gossip(&[1, 2]);
    let back = is_fast_with(&mut s, 1, 2);
    let second = s.save(2);
    s.restart_from(2, &second);
    s.restart_from(1, &first);
    s.gossip(&[1, 2]);
    [now, back, is_fast_with(&mut s, 1, 2)]
}

#[test]
fn what_the_dead_told_one_replica_alone_costs_no_other_the_fast_path() {
    assert_eq!(told_by_the_dead(None), [true; 3]);
    assert_eq!(told_by_the_dead(Some(Plant::KeptToOneself)), [false; 3]);
}
