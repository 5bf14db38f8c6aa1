//! Stories of the two optimisations of PROTOCOL.md §7: silent orphans, and reserved slots.

use std::time::Duration;

use super::stage::{Stage, deps, id};
use crate::protocol::epaxos::Plant;
use crate::types::{Deps, InstanceId, Optimisations, Slot};

const SILENT: Optimisations = Optimisations { silent_orphans: true, ..Optimisations::NONE };
const RESERVING: Optimisations =
    Optimisations { reserved_slots: Optimisations::RESERVED_BLOCK, ..Optimisations::NONE };

/// r1 commits x with r2's vote, answers, and stops before its commit is durable; no other replica
/// hears of it. Then r1 restarts, but its messages are lost.
fn an_orphan(plant: Option<Plant>) -> Stage {
    let mut s = an_orphan_to_be(plant);
    s.restart(1);
    assert_eq!(s.executed(1), [], "all that r1 knows of it is its proposal");
    s
}

fn an_orphan_to_be(plant: Option<Plant>) -> Stage {
    let mut s = Stage::optimised(3, SILENT).with(plant);
    let x = s.propose(1, "k");
    s.stall(1);
    s.deliver("PreAccept", x, 1, 2);
    s.deliver("PreAcceptOk", x, 2, 1);
    assert_eq!(s.executed(1), [x], "the client has its answer");
    s.lose_all();
    s
}

/// r3 recovers x, and hears r1 first, if r1 answers.
fn recovered_by_another(mut s: Stage) -> Option<Deps> {
    let x = id(1, 1);
    s.lose_all();
    s.recover(3, x);
    s.deliver("Recover", x, 3, 1);
    s.deliver_among(&[1, 3]);
    s.pass(&[1, 2, 3], Duration::from_secs(1));
    s.decided(3, x)
}

#[test]
fn an_orphans_owner_promises_nothing() {
    assert_eq!(recovered_by_another(an_orphan(None)), Some(deps([0, 0, 0])));
    let talkative = recovered_by_another(an_orphan(Some(Plant::OrphanAnswers)));
    assert_eq!(talkative, None, "an answered command is lost");
}

/// r1's attempt to recover its orphan leaves a promise behind, and r1 stops again.
fn an_orphan_for_two_lives(plant: Option<Plant>) -> Option<Deps> {
    let mut s = an_orphan(plant);
    s.restart(1);
    // The first ballot that r3 takes is below r1's last one.
    s.recover(3, id(1, 1));
    recovered_by_another(s)
}

#[test]
fn an_orphan_stays_one_at_whatever_ballot() {
    assert_eq!(an_orphan_for_two_lives(None), Some(deps([0, 0, 0])));
    let forgetful = an_orphan_for_two_lives(Some(Plant::OrphanOnlyAtOwnersBallot));
    assert_eq!(forgetful, None, "an answered command is lost");
}

/// r1 restarts without early commit, from its log or from a snapshot.
fn an_orphan_of_old(plant: Option<Plant>, snapshot: bool) -> Stage {
    let mut s = an_orphan_to_be(plant);
    s.switch(Optimisations::NONE);
    s.restart(1);
    if snapshot {
        let snapshot = s.save(1);
        s.restart_from(1, &snapshot);
    }
    s
}

#[test]
fn an_orphan_stays_one_whatever_its_owner_does_now() {
    for snapshot in [false, true] {
        let sound = recovered_by_another(an_orphan_of_old(None, snapshot));
        assert_eq!(sound, Some(deps([0, 0, 0])));
        let forgetful = an_orphan_of_old(Some(Plant::SilenceForgotten), snapshot);
        assert_eq!(recovered_by_another(forgetful), None, "an answered command is lost");
    }
}

/// Whether r1, after a restart, is silent about what it proposes now.
fn is_silent_about_the_next(s: &mut Stage) -> bool {
    s.lose_all();
    let next = s.propose(1, "k");
    s.lose_all();
    s.restart(1);
    s.asks_at(1, next).is_some()
}

#[test]
fn who_does_not_answer_early_any_more_makes_no_orphans() {
    let mut s = an_orphan_of_old(None, true);
    assert!(!is_silent_about_the_next(&mut s));
    assert!(s.asks_at(1, id(1, 1)).is_some(), "but what is older still is one");
    s.switch(SILENT);
    s.restart(1);
    assert!(is_silent_about_the_next(&mut s));
}

/// r1 recovers x itself, and for a while only r2 can answer.
fn recovered_by_its_owner(plant: Option<Plant>) -> Option<Deps> {
    let mut s = an_orphan(plant);
    let x = id(1, 1);
    s.deliver("Recover", x, 1, 2);
    s.deliver_among(&[1, 2]);
    s.deliver_among(&[1, 2, 3]);
    s.decided(1, x)
}

#[test]
fn an_orphans_owner_does_not_count_itself() {
    assert_eq!(recovered_by_its_owner(None), Some(deps([0, 0, 0])));
    let sure = recovered_by_its_owner(Some(Plant::OrphanCountsItself));
    assert_eq!(sure, None, "an answered command is lost");
}

/// r1 commits x with the votes of r2 and r3. r4 and r5 know y, which r4 has not finished. r1 loses
/// its commit, and counts votes again: this time it hears r4 and r5.
fn counted_again(plant: Option<Plant>) -> Option<Deps> {
    let mut s = Stage::optimised(5, SILENT).with(plant);
    let y = s.propose(4, "k");
    s.deliver("PreAccept", y, 4, 5);
    s.lose_all();
    let x = s.propose(1, "k");
    s.stall(1);
    for voter in [2, 3] {
        s.deliver("PreAccept", x, 1, voter);
        s.deliver("PreAcceptOk", x, voter, 1);
    }
    assert_eq!(s.decided(1, x), Some(Deps::none(5)), "the client has its answer");
    s.lose_all();
    s.restart(1);
    s.deliver_among(&[1, 4, 5]);
    s.pass(&[1, 2, 3, 4, 5], Duration::from_secs(2));
    s.decided(1, x)
}

#[test]
fn an_orphans_owner_does_not_count_votes_again() {
    assert_eq!(counted_again(None), Some(Deps::none(5)));
    let resumed = counted_again(Some(Plant::OrphanResumed));
    assert_eq!(resumed, Some(deps([0, 0, 0, 1, 0])), "decided twice, differently");
}

/// Of two replicas, none may be silent.
fn two_of_two(plant: Option<Plant>) -> bool {
    let mut s = Stage::optimised(2, SILENT).with(plant);
    let x = s.propose(1, "k");
    s.lose_all();
    s.restart(1);
    s.pass(&[1, 2], Duration::from_secs(5));
    s.decision(2, x).is_some()
}

#[test]
fn where_nobody_may_fail_nobody_is_silent() {
    assert!(two_of_two(None));
    assert!(!two_of_two(Some(Plant::SilentWithoutFailures)), "x is never decided");
}

/// r1 has reserved slots, and proposes x while its disk is slow.
fn a_proposal_under_way(s: &mut Stage, key: &'static str) {
    let first = s.propose(1, "first");
    s.stall(1);
    let x = s.propose(1, key);
    assert_eq!((first, x), (id(1, 1), id(1, 2)));
}

#[test]
fn a_proposal_leaves_before_it_is_durable_and_its_slot_is_never_used_again() {
    let mut s = Stage::optimised(3, RESERVING);
    a_proposal_under_way(&mut s, "k");
    let x = id(1, 2);
    s.deliver("PreAccept", x, 1, 2);
    s.lose_all();
    s.restart(1);
    // Its owner recovers all reserved slots at once.
    s.deliver_among(&[1, 3]);
    let next = s.propose(1, "k");
    assert!(next.slot > 2 * Optimisations::RESERVED_BLOCK);
    for slot in 2..next.slot {
        assert_eq!(s.decided(1, id(1, slot)), None);
    }
    s.pass(&[1, 2, 3], Duration::from_secs(1));
    assert_eq!(s.executed(2).last(), Some(&next));
    assert_eq!(s.decided(2, next), Some(deps([next.slot - 1, 0, 0])));
}

/// r1 has lost all that it reserved in `lives` lives, each as much as allowed. The recovery of y
/// asks r1 what speaks against y. Returns its answer, and all that it has lost.
fn much_is_lost(lives: Slot) -> (Option<Vec<InstanceId>>, Vec<InstanceId>) {
    let many = Optimisations { reserved_slots: Optimisations::MOST_RESERVED, ..RESERVING };
    let mut s = Stage::optimised(5, many);
    let block = 2 * Optimisations::RESERVED_AT_ONCE;
    for life in 0..lives {
        assert_eq!(s.propose(1, "other"), id(1, life * block + 1));
        s.lose_all();
        s.restart(1);
        s.lose_all();
    }
    let y = s.propose(5, "k");
    s.deliver("PreAccept", y, 5, 4);
    s.lose_all();
    s.recover(3, y);
    for member in [1, 4] {
        s.deliver("Recover", y, 3, member);
        s.deliver("RecoverOk", y, member, 3);
    }
    s.deliver("Validate", y, 3, 1);
    let lost = (1..=lives * block).filter(|slot| slot % block != 1).map(|slot| id(1, slot));
    let (reported, lost) = (s.reports(1, y), lost.collect::<Vec<_>>());
    // Only a limited number is recovered at a time.
    assert!(s.inspect(1, lost[0]).is_some() && s.inspect(1, lost[lost.len() - 1]).is_none());
    (reported, lost)
}

#[test]
fn lost_slots_whose_recovery_has_not_begun_are_reported() {
    let (reported, lost) = much_is_lost(1);
    assert_eq!(reported, Some(lost));
}

#[test]
fn who_has_lost_more_than_it_can_tell_says_nothing_yet() {
    assert_eq!(much_is_lost(3).0, None);
}

/// The durable part of the block is lost too; that is safe if nothing has left.
#[test]
fn nothing_leaves_before_its_slot_is_reserved() {
    let mut s = Stage::optimised(3, RESERVING);
    s.stall(1);
    let x = s.propose(1, "k");
    s.pass(&[1, 2, 3], Duration::from_millis(200));
    assert!(s.inspect(2, x).is_none(), "nobody has heard of it");
    s.restart(1);
    s.flush(1);
    assert_eq!(s.propose(1, "k"), x);
}

/// With both optimisations: r2 votes for x while r1's own vote is not yet durable.
fn a_vote_too_early(plant: Option<Plant>) -> (bool, Option<Deps>) {
    let mut s = Stage::optimised(3, Optimisations::ALL).with(plant);
    a_proposal_under_way(&mut s, "k");
    let x = id(1, 2);
    s.deliver("PreAccept", x, 1, 2);
    s.deliver("PreAcceptOk", x, 2, 1);
    let answered = s.executed(1) == [x];
    s.lose_all();
    s.restart(1);
    s.pass(&[1, 2, 3], Duration::from_secs(2));
    (answered, s.decided(2, x))
}

#[test]
fn no_commit_without_the_owners_own_durable_vote() {
    assert_eq!(a_vote_too_early(None), (false, None));
    let hasty = a_vote_too_early(Some(Plant::EarlyOwnVote));
    assert_eq!(hasty, (true, None), "an answered command is lost");
}

/// r1 has lost x, which r2 knows. r1 and r4 vote for y of r5. If that commits y, r5 answers and
/// fails. To the remaining replicas x speaks against y, unless y covers it: they would conclude
/// that r1 voted for y without knowing x.
fn a_lost_slot(plant: Option<Plant>, decided: bool) -> (bool, Option<Deps>) {
    let mut s = Stage::optimised(5, RESERVING).with(plant);
    a_proposal_under_way(&mut s, "k");
    let x = id(1, 2);
    s.deliver("PreAccept", x, 1, 2);
    s.lose_all();
    s.restart(1);
    if decided {
        s.deliver_among(&[1, 3, 4]);
        assert_eq!(s.decided(4, x), None);
    }
    s.lose_all();
    let y = s.propose(5, "k");
    for voter in [1, 4] {
        s.deliver("PreAccept", y, 5, voter);
        s.deliver("PreAcceptOk", y, voter, 5);
    }
    let answered = s.decision(5, y).is_some();
    s.lose_all();
    s.recover(3, y);
    s.deliver_among(&[2, 3, 4]);
    (answered, s.decided(3, y))
}

#[test]
fn a_lost_slot_conflicts_with_everything() {
    assert!(!a_lost_slot(None, false).0, "r1's vote is not for the fast path");
    let forgetful = a_lost_slot(Some(Plant::LostNotInConf), false);
    assert_eq!(forgetful, (true, None), "an answered command is lost");
}

#[test]
fn a_lost_slot_conflicts_with_everything_for_good() {
    assert!(!a_lost_slot(None, true).0, "r1's vote is not for the fast path");
    let forgetful = a_lost_slot(Some(Plant::LostNopForgotten), true);
    assert_eq!(forgetful, (true, None), "an answered command is lost");
}

/// Whether `at` commits its next command with r1's vote alone.
fn is_fast_with_r1(s: &mut Stage, at: usize) -> bool {
    s.lose_all();
    let x = s.propose(at, "other");
    s.deliver("PreAccept", x, at, 1);
    s.deliver("PreAcceptOk", x, 1, at);
    let fast = s.decision(at, x).is_some();
    s.pass(&[1, 2], Duration::from_secs(1));
    fast
}

/// r1 counts all slots that it had reserved as conflicts, and because r3 is away that does not end.
/// Does r2 nevertheless take the fast path: at once; after a restart from its log; after one from a
/// snapshot; and does r3, with that snapshot?
fn beside_lost_slots(plant: Option<Plant>) -> [bool; 4] {
    let mut s = Stage::optimised(3, RESERVING).with(plant);
    a_proposal_under_way(&mut s, "k");
    s.lose_all();
    s.restart(1);
    s.pass(&[1, 2], Duration::from_secs(1));
    let at_once = is_fast_with_r1(&mut s, 2);
    s.restart(2);
    s.pass(&[1, 2], Duration::from_secs(1));
    let from_log = is_fast_with_r1(&mut s, 2);
    let snapshot = s.save(2);
    s.restart_from(2, &snapshot);
    s.pass(&[1, 2], Duration::from_secs(1));
    let from_snapshot = is_fast_with_r1(&mut s, 2);
    let snapshot = s.save(2);
    assert!(s.install(3, &snapshot));
    [at_once, from_log, from_snapshot, is_fast_with_r1(&mut s, 3)]
}

#[test]
fn what_others_have_lost_is_covered_once_it_is_decided() {
    assert_eq!(beside_lost_slots(None), [true; 4]);
    assert_eq!(beside_lost_slots(Some(Plant::LostNotCovered)), [false; 4]);
}

/// r1 has lost x, which does not conflict with y. But r1 can tell the recovery of y only that there
/// may be a conflict. Then r2 finishes x, which does not cover y, as it need not.
fn nothing_to_do_with_it(plant: Option<Plant>) -> Option<Deps> {
    let mut s = Stage::optimised(5, RESERVING).with(plant);
    a_proposal_under_way(&mut s, "other");
    let x = id(1, 2);
    s.deliver("PreAccept", x, 1, 2);
    s.lose_all();
    s.restart(1);
    s.lose_all();
    let y = s.propose(5, "k");
    for voter in [2, 4] {
        s.deliver("PreAccept", y, 5, voter);
        s.deliver("PreAcceptOk", y, voter, 5);
    }
    assert_eq!(s.decided(5, y), Some(Deps::none(5)), "the client has its answer");
    s.lose_all();
    s.recover(3, y);
    for member in [1, 4] {
        s.deliver("Recover", y, 3, member);
        s.deliver("RecoverOk", y, member, 3);
    }
    for member in [1, 4] {
        s.deliver("Validate", y, 3, member);
        s.deliver("ValidateOk", y, member, 3);
    }
    assert!(s.decision(3, y).is_none(), "it waits");
    s.recover(2, x);
    s.deliver_among(&[2, 3, 4]);
    assert_eq!(s.decided(3, x), Some(Deps::none(5)));
    // The other slots that r1 reserved.
    s.pass(&[1, 2, 3, 4], Duration::from_secs(2));
    s.decided(3, y)
}

#[test]
fn what_may_not_even_conflict_is_nothing_to_yield_to() {
    assert_eq!(nothing_to_do_with_it(None), Some(Deps::none(5)));
    let hasty = nothing_to_do_with_it(Some(Plant::YieldToUnknown));
    assert_eq!(hasty, None, "an answered command is lost");
}

/// r5 commits x with the votes of r1 and r2, answers and fails. r1, which knows x, proposes y to r2
/// and r3, covering x, and loses y. The recovery of y waits for another instance, and announces
/// that y has two fast votes. If y did not cover x, that would speak against x, which r2 recovers.
fn lost_and_covering(plant: Option<Plant>) -> Option<Deps> {
    let mut s = Stage::optimised(5, RESERVING).with(plant);
    let x = s.propose(5, "k");
    for voter in [1, 2] {
        s.deliver("PreAccept", x, 5, voter);
        s.deliver("PreAcceptOk", x, voter, 5);
    }
    assert_eq!(s.decided(5, x), Some(Deps::none(5)), "the client has its answer");
    s.lose_all();
    a_proposal_under_way(&mut s, "k");
    let y = id(1, 2);
    s.deliver("PreAccept", y, 1, 2);
    s.deliver("PreAccept", y, 1, 3);
    s.lose_all();
    s.restart(1);
    s.propose(4, "k");
    s.lose_all();
    s.recover(3, y);
    for kind in [("Recover", "RecoverOk"), ("Validate", "ValidateOk")] {
        for member in [2, 4] {
            s.deliver(kind.0, y, 3, member);
            s.deliver(kind.1, y, member, 3);
        }
    }
    s.deliver("Waiting", y, 3, 2);
    s.recover(2, x);
    for kind in [("Recover", "RecoverOk"), ("Validate", "ValidateOk")] {
        for member in [1, 3] {
            s.deliver(kind.0, x, 2, member);
            s.deliver(kind.1, x, member, 2);
        }
    }
    s.pass(&[1, 2, 3, 4], Duration::from_secs(5));
    s.decided(2, x)
}

#[test]
fn what_is_lost_and_covers_another_is_nothing_to_yield_to() {
    assert_eq!(lost_and_covering(None), Some(Deps::none(5)));
    let covering = lost_and_covering(Some(Plant::YieldToCovering));
    assert_eq!(covering, None, "an answered command is lost");
}
