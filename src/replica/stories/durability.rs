//! Stories of the table of PROTOCOL.md §7: a replica must still know after a crash what it said.
//! They cover the rows that a simulated world hardly ever shows.

use std::time::Duration;

use super::stage::{Stage, id};
use crate::protocol::epaxos::Plant;
use crate::types::{Ballot, Deps};

/// r2 promises r3 not to vote for x any more, and loses power. Then the owner's proposal arrives,
/// and r3 counts the promise.
fn a_promise(plant: Option<Plant>) -> Stage {
    let mut s = Stage::new(3).with(plant);
    let x = s.propose(1, "k");
    s.stall(2);
    s.recover(3, x);
    s.deliver("Recover", x, 3, 2);
    s.restart(2);
    s.deliver("PreAccept", x, 1, 2);
    s.deliver("PreAcceptOk", x, 2, 1);
    assert_eq!(s.decided(1, x), Some(Deps::none(3)), "two of three: one round trip");
    s.deliver_among(&[2, 3]);
    s.pass(&[2, 3], Duration::from_secs(3));
    s
}

#[test]
fn a_promise_is_durable_before_it_is_given() {
    let x = id(1, 1);
    assert_eq!(a_promise(None).decided(3, x), Some(Deps::none(3)));
    let early = a_promise(Some(Plant::EarlyPromise));
    assert_eq!(early.decided(3, x), None, "r3 decides Nop where r1 decided x");
}

/// r4 and r5 have told r3 that nothing speaks against x, and lose power. After their restart they
/// know nothing of x when r5 proposes z, nor does r2, so z does not cover x. One of the two alone
/// could do no harm: z needs three votes, and r1 and r3 know x.
fn two_validations(plant: Option<Plant>) -> Stage {
    let mut s = Stage::new(5).with(plant);
    let x = s.propose(1, "k");
    s.deliver("PreAccept", x, 1, 3);
    s.lose_all();
    s.recover(3, x);
    for member in [4, 5] {
        s.deliver("Recover", x, 3, member);
        s.deliver("RecoverOk", x, member, 3);
    }
    for member in [4, 5] {
        s.stall(member);
        s.deliver("Validate", x, 3, member);
        s.restart(member);
    }
    let z = s.propose(5, "k");
    for voter in [2, 4] {
        s.deliver("PreAccept", z, 5, voter);
        s.deliver("PreAcceptOk", z, voter, 5);
    }
    assert_eq!(s.decided(5, z), Some(Deps::none(5)));
    s.deliver_among(&[3, 4, 5]);
    s.pass(&[3, 4, 5], Duration::from_secs(3));
    s
}

#[test]
fn a_validated_payload_is_durable_before_the_answer() {
    let (x, z) = (id(1, 1), id(5, 1));
    assert_eq!(two_validations(None).decided(3, x), None, "z speaks against x");
    let early = two_validations(Some(Plant::EarlyValidateOk));
    let both = (early.decided(3, x), early.decided(3, z));
    assert_eq!(both, (Some(Deps::none(5)), Some(Deps::none(5))), "neither covers the other");
}

/// The ballots at which r3 asks for promises before and after it loses power.
fn two_lives(plant: Option<Plant>) -> [Option<Ballot>; 2] {
    let mut s = Stage::new(3).with(plant);
    let x = s.propose(1, "k");
    s.lose_all();
    s.stall(3);
    s.recover(3, x);
    let first = s.asks_at(3, x);
    s.lose_all();
    s.restart(3);
    s.recover(3, x);
    [first, s.asks_at(3, x)]
}

/// A life never resumes a recovery of an earlier one (PROTOCOL.md §5.1): promises to one must not
/// count for the other.
#[test]
fn a_ballot_is_not_used_by_two_lives() {
    let sound = two_lives(None);
    assert_eq!(sound[0], None);
    assert!(sound[1].is_some());
    let early = two_lives(Some(Plant::EarlyRecover));
    assert!(early[0].is_some());
    assert_eq!(early[0], early[1], "one ballot, two recoveries");
}
