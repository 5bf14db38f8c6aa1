//! Stories of recoveries that make progress: what they wait for, and that others let them finish.
//! Safety does not depend on it, but without it a cluster with many recoveries never finishes.

use std::time::Duration;

use super::stage::{Stage, id};
use crate::types::{Ballot, Deps, Optimisations, Slot};

const SILENT: Optimisations = Optimisations { silent_orphans: true, ..Optimisations::NONE };

/// Found by the simulator: the length of a block limited how many were recovered at a time. With
/// short blocks, the lost slots of many lives took two round trips each, and every recovery that
/// they might interfere with waited for the last.
#[test]
fn lost_slots_of_many_lives_are_recovered_at_a_time() {
    const LIVES: Slot = 40;
    let mut s = Stage::optimised(3, Optimisations { reserved_slots: 1, ..Optimisations::NONE });
    for life in 0..LIVES {
        assert_eq!(s.propose(1, "k"), id(1, 2 * life + 1));
        s.lose_all();
        s.restart(1);
    }
    for life in 0..LIVES {
        let lost = s.inspect(1, id(1, 2 * life + 2)).expect("its recovery has begun");
        assert!(lost.recovering, "{lost:?}");
    }
}

/// r4 recovers the orphan x of r1, and waits for y, which r5 does not finish.
fn a_recovery_that_waits() -> (Stage, Ballot) {
    let mut s = Stage::optimised(5, SILENT);
    let y = s.propose(5, "k");
    s.deliver("PreAccept", y, 5, 4);
    s.lose_all();
    let x = s.propose(1, "k");
    s.stall(1);
    for voter in [2, 3] {
        s.deliver("PreAccept", x, 1, voter);
        s.deliver("PreAcceptOk", x, voter, 1);
    }
    assert_eq!(s.decided(1, x), Some(Deps::none(5)), "the client has its answer");
    s.restart(1);
    s.lose_all();
    s.recover(4, x);
    for kind in [("Recover", "RecoverOk"), ("Validate", "ValidateOk")] {
        for member in [2, 3] {
            s.deliver(kind.0, x, 4, member);
            s.deliver(kind.1, x, member, 4);
        }
    }
    assert!(s.decision(4, y).is_none());
    let waiting = s.inspect(4, x).expect("it is being recovered");
    (s, waiting.ballot)
}

fn ballots(s: &Stage) -> [Option<Ballot>; 4] {
    [1, 2, 3, 4].map(|at| s.inspect(at, id(1, 1)).map(|instance| instance.ballot))
}

/// Found by the simulator: a replica that takes a higher ballot has to ask again, and then to wait
/// for the same instances.
#[test]
fn a_recovery_that_waits_is_left_alone() {
    let (mut s, ballot) = a_recovery_that_waits();
    // y is recovered only after a long wait.
    s.pass(&[1, 2, 3, 4], Duration::from_millis(2500));
    assert_eq!(ballots(&s), [Some(ballot); 4]);
    s.pass(&[1, 2, 3, 4], Duration::from_secs(3));
    assert_eq!((s.decided(4, id(5, 1)), s.decided(4, id(1, 1))), (None, Some(Deps::none(5))));
}

/// The leader announces that it waits, but may never hear how the wait ends.
#[test]
fn a_recovery_that_waits_is_taken_from_a_replica_that_hears_nothing() {
    let (mut s, ballot) = a_recovery_that_waits();
    s.pass(&[1, 2, 3, 4], Duration::from_millis(500));
    assert_eq!(ballots(&s), [Some(ballot); 4]);
    s.suspect(&[1, 2, 3], 4);
    s.pass(&[1, 2, 3, 4], Duration::from_secs(2));
    assert!(ballots(&s).iter().all(|joined| *joined > Some(ballot)), "{:?}", ballots(&s));
}

/// r1 recovers its x for the second time, and r3 is away. With the owner in the quorum x becomes a
/// `Nop`, whatever r3 would answer.
#[test]
fn who_may_end_it_at_once_does_not_hope_for_more_promises() {
    let mut s = Stage::new(3);
    let x = s.propose(1, "k");
    s.recover(1, x);
    s.lose_all();
    s.recover(1, x);
    s.deliver("Recover", x, 1, 2);
    s.deliver("RecoverOk", x, 2, 1);
    s.deliver("Accept", x, 1, 2);
    s.deliver("AcceptOk", x, 2, 1);
    assert_eq!(s.decided(1, x), None);
}

/// The same with an orphan: its owner waits for the promises of all others, not for its own.
#[test]
fn an_orphans_owner_does_not_hope_for_itself() {
    let mut s = Stage::optimised(3, SILENT);
    let x = s.propose(1, "k");
    s.deliver("PreAccept", x, 1, 2);
    s.lose_all();
    s.restart(1);
    s.lose_all();
    s.recover(1, x);
    s.deliver("Recover", x, 1, 2);
    s.deliver("RecoverOk", x, 2, 1);
    s.deliver("Recover", x, 1, 3);
    s.deliver("RecoverOk", x, 3, 1);
    s.deliver("Validate", x, 1, 2);
}

/// r3 takes x over from r1, which has just restarted, and then goes silent. Does r1 continue before
/// any other replica would?
fn its_owner_goes_first(optimisations: Optimisations) -> bool {
    let mut s = Stage::optimised(3, optimisations);
    let x = s.propose(1, "k");
    s.deliver("PreAccept", x, 1, 2);
    s.lose_all();
    s.restart(1);
    s.lose_all();
    s.recover(3, x);
    s.deliver("Recover", x, 3, 1);
    s.pass(&[1], Duration::from_millis(190));
    s.inspect(1, x).expect("it was proposed").recovering
}

/// With the promise of its owner an instance ends at once. The owner of an orphan promises nothing;
/// it would only take the orphan away from replicas that have got further.
#[test]
fn the_owner_goes_first_unless_it_is_an_orphan() {
    assert!(its_owner_goes_first(Optimisations::NONE));
    assert!(!its_owner_goes_first(SILENT));
}
