//! Stories of PROTOCOL.md §5.4 and §5.5: why Validate is needed.

use super::stage::{Stage, deps, id};
use crate::protocol::epaxos::Plant;
use crate::types::Deps;

/// y has r3's vote for the fast path and no other; x conflicts, and commits on the fast path
/// without them. Both owners fail. r3 must not take its vote for a decision.
fn a_vote_and_a_commit(plant: Option<Plant>) -> Stage {
    let mut s = Stage::new(5).with(plant);
    let y = s.propose(2, "k");
    s.deliver("PreAccept", y, 2, 3);
    s.lose_all();
    let x = s.propose(1, "k");
    for voter in [4, 5] {
        s.deliver("PreAccept", x, 1, voter);
        s.deliver("PreAcceptOk", x, voter, 1);
    }
    assert_eq!(s.decided(1, x), Some(Deps::none(5)));
    s.lose_all();
    s.recover(3, y);
    s.deliver_among(&[3, 4, 5]);
    s
}

#[test]
fn a_recovery_asks_what_speaks_against_the_fast_path() {
    let y = id(2, 1);
    assert_eq!(a_vote_and_a_commit(None).decided(3, y), None, "x speaks against y");
    let hasty = a_vote_and_a_commit(Some(Plant::NoValidate));
    assert_eq!(hasty.decided(3, y), Some(Deps::none(5)), "neither covers the other");
}

/// r5 has answered that nothing speaks against x, and then proposes z. It had not heard of x
/// before.
fn a_proposal_behind_a_validation(plant: Option<Plant>) -> Stage {
    let mut s = Stage::new(5).with(plant);
    let x = s.propose(1, "k");
    s.deliver("PreAccept", x, 1, 3);
    s.lose_all();
    s.recover(4, x);
    for member in [3, 5] {
        s.deliver("Recover", x, 4, member);
        s.deliver("RecoverOk", x, member, 4);
    }
    s.deliver("Validate", x, 4, 3);
    s.deliver("Validate", x, 4, 5);
    let z = s.propose(5, "k");
    for voter in [2, 4] {
        s.deliver("PreAccept", z, 5, voter);
        s.deliver("PreAcceptOk", z, voter, 5);
    }
    s.deliver("ValidateOk", x, 3, 4);
    s.deliver("ValidateOk", x, 5, 4);
    s.deliver_among(&[2, 3, 4, 5]);
    s
}

#[test]
fn what_was_validated_counts_as_a_conflict() {
    let (x, z) = (id(1, 1), id(5, 1));
    let sound = a_proposal_behind_a_validation(None);
    assert_eq!(sound.decided(4, x), Some(Deps::none(5)));
    assert_eq!(sound.decided(4, z), Some(deps([1, 0, 0, 0, 0])));
    let blind = a_proposal_behind_a_validation(Some(Plant::NoIndexAtValidate));
    let both = (blind.decided(4, x), blind.decided(4, z));
    assert_eq!(both, (Some(Deps::none(5)), Some(Deps::none(5))), "neither covers the other");
}

/// Two recoveries wait for each other: y's counted one fast vote, x's two. x was decided on the
/// fast path and its client has the answer, so y has to yield.
fn two_that_wait(plant: Option<Plant>) -> Stage {
    let mut s = Stage::new(5).with(plant);
    let x = s.propose(1, "k");
    s.deliver("PreAccept", x, 1, 3);
    s.deliver("PreAccept", x, 1, 4);
    let y = s.propose(2, "k");
    s.deliver("PreAccept", y, 2, 5);
    // r5 recovers y with r1 and r3, while x is on its way to them.
    s.recover(5, y);
    for member in [1, 3] {
        s.deliver("Recover", y, 5, member);
        s.deliver("RecoverOk", y, member, 5);
    }
    for member in [1, 3] {
        s.deliver("Validate", y, 5, member);
        s.deliver("ValidateOk", y, member, 5);
    }
    s.deliver("Waiting", y, 5, 4);
    // Only now does x commit; then r1 fails.
    s.deliver("PreAcceptOk", x, 3, 1);
    s.deliver("PreAcceptOk", x, 4, 1);
    assert_eq!(s.decided(1, x), Some(Deps::none(5)));
    s.lose_all();
    s.recover(4, x);
    s.deliver_among(&[3, 4, 5]);
    s
}

#[test]
fn of_two_that_wait_the_one_with_more_votes_stays() {
    let (x, y) = (id(1, 1), id(2, 1));
    let sound = two_that_wait(None);
    assert_eq!(sound.decided(4, x), Some(Deps::none(5)));
    assert_eq!(sound.decided(4, y), None);
    let hasty = two_that_wait(Some(Plant::YieldTooEarly));
    assert_eq!(hasty.decided(4, x), None, "an answered command is lost");
}

/// r3 accepts r1's x at the owner's ballot, then r2 and r1 accept Nop at a higher one, and then r3,
/// r4 and r5 decide x. They tell r1 "your batch", since it has the payload.
fn the_owner_accepted_a_nop(plant: Option<Plant>) -> Stage {
    let mut s = Stage::new(5).with(plant);
    s.propose(5, "k");
    let x = s.propose(1, "k");
    for voter in [3, 5] {
        s.deliver("PreAccept", x, 1, voter);
        s.deliver("PreAcceptOk", x, voter, 1);
    }
    s.deliver("Accept", x, 1, 3);
    s.lose_all();
    s.recover(2, x);
    for member in [4, 5] {
        s.deliver("Recover", x, 2, member);
        s.deliver("RecoverOk", x, member, 2);
    }
    s.deliver("Accept", x, 2, 1);
    s.lose_all();
    s.recover(3, x);
    s.deliver_among(&[3, 4, 5]);
    assert_eq!(s.decided(3, x), Some(deps([0, 0, 0, 0, 1])));
    s.lose_all();
    s.recover(1, x);
    s.deliver("Recover", x, 1, 3);
    s.deliver("Commit", x, 3, 1);
    s
}

#[test]
fn the_owners_batch_is_not_what_was_accepted() {
    let x = id(1, 1);
    assert_eq!(the_owner_accepted_a_nop(None).decided(1, x), Some(deps([0, 0, 0, 0, 1])));
    let confused = the_owner_accepted_a_nop(Some(Plant::CommitTakesAccepted));
    assert_eq!(confused.decided(1, x), None, "r1 decides Nop where others decided x");
}
