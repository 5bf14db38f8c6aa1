//! How EPaxos implementations break, as stories: real replicas, one message at a time. If a rule of
//! PROTOCOL.md prevents the failure, the story is also told without that rule and ends badly. That
//! shows which rule the story is about.

mod chaos;
mod durability;
mod progress;
mod quick;
mod recoveries;
mod stage;
mod truncation;

use std::time::Duration;

use crate::execute::Executor;
use crate::protocol::epaxos::Plant;
use crate::types::{
    Batch, ClientId, Command, Decision, Deps, Footprint, InstanceId, ReplicaId, RequestId, Value,
};
use stage::{Stage, deps, id};

/// Sutra, "On the correctness of Egalitarian Paxos" (2020). With one ballot per instance, a replica
/// that accepted a value long ago and has only promised since looks as if it had just accepted the
/// value.
fn three_recoveries(plant: Option<Plant>) -> Stage {
    let mut s = Stage::new(5).with(plant);
    // r1's x takes the slow path, since r5 knows y; no other replica hears of it.
    s.propose(5, "k");
    let x = s.propose(1, "k");
    s.deliver("PreAccept", x, 1, 4);
    s.deliver("PreAccept", x, 1, 5);
    s.deliver("PreAcceptOk", x, 4, 1);
    s.deliver("PreAcceptOk", x, 5, 1);
    s.lose_all();
    // r2 finds no fast vote at r3 and itself. It proposes Nop, which reaches only itself.
    s.recover(2, x);
    s.deliver("Recover", x, 2, 3);
    s.deliver("Recover", x, 2, 5);
    s.deliver("RecoverOk", x, 3, 2);
    s.deliver("RecoverOk", x, 5, 2);
    s.lose_all();
    // r3 finds x accepted by r1, and r1, r3 and r4 decide it. Only r3 learns that.
    s.recover(3, x);
    s.deliver("Recover", x, 3, 1);
    s.deliver("Recover", x, 3, 4);
    s.deliver("RecoverOk", x, 1, 3);
    s.deliver("RecoverOk", x, 4, 3);
    s.deliver("Accept", x, 3, 1);
    s.deliver("Accept", x, 3, 4);
    s.deliver("AcceptOk", x, 1, 3);
    s.deliver("AcceptOk", x, 4, 3);
    s.lose_all();
    // r1 has accepted x at the second ballot and r2 Nop at the first. r1 now promises the third.
    s.recover(1, x);
    s.deliver("Recover", x, 1, 2);
    s.deliver("Recover", x, 1, 5);
    s.deliver("RecoverOk", x, 2, 1);
    s.deliver("RecoverOk", x, 5, 1);
    s.deliver_among(&[1, 2, 5]);
    s
}

#[test]
fn one_ballot_is_not_enough() {
    let x = id(1, 1);
    let sound = three_recoveries(None);
    assert_eq!(sound.decided(3, x), Some(deps([0, 0, 0, 0, 1])));
    assert_eq!(sound.decided(1, x), sound.decided(3, x));
    let single = three_recoveries(Some(Plant::SingleBallot));
    assert_eq!(single.decided(3, x), Some(deps([0, 0, 0, 0, 1])));
    assert_eq!(single.decided(1, x), None, "r1 decides Nop where r3 decided x");
}

/// Whittaker (2021): x, y, z conflict. z lists y, the latest of its owner, and not x, which its
/// proposer never heard of; y ends as a Nop. If "lists y" did not mean "covers everything up to y",
/// no order would be left between x and z.
#[test]
fn what_is_covered_is_a_prefix() {
    let mut s = Stage::new(3);
    let x = s.propose(1, "k");
    s.deliver("PreAccept", x, 1, 3);
    s.deliver("PreAcceptOk", x, 3, 1);
    assert_eq!(s.decided(1, x), Some(deps([0, 0, 0])));
    s.lose_all();
    let y = s.propose(1, "k");
    s.deliver("PreAccept", y, 1, 2);
    s.lose_all();
    let z = s.propose(2, "k");
    s.deliver("PreAccept", z, 2, 3);
    s.deliver("PreAcceptOk", z, 3, 2);
    let covered = s.decided(2, z).expect("z is not a Nop");
    assert!(covered.covers(x), "z never heard of x, and covers it");
    // y becomes a Nop, and z still waits for x.
    s.lose_all();
    s.recover(2, y);
    s.deliver_among(&[1, 2]);
    assert_eq!(s.decided(2, y), None);
    assert_eq!(s.executed(2), [], "z has to come after x");
    s.pass(&[1, 2, 3], Duration::from_secs(1));
    for at in 1..=3 {
        assert_eq!(s.executed(at)[..2], [x, z]);
    }
}

/// A recovery that used only its own view would lose what only the owner and its voters knew.
#[test]
fn a_recovery_keeps_the_owners_dependencies() {
    let mut s = Stage::new(3);
    let y = s.propose(2, "k");
    s.deliver("PreAccept", y, 2, 1);
    s.lose_all();
    let x = s.propose(1, "k");
    s.deliver("PreAccept", x, 1, 2);
    s.deliver("PreAcceptOk", x, 2, 1);
    assert_eq!(s.decided(1, x), Some(deps([0, 1, 0])), "one round trip");
    s.lose_all();
    // r1 fails. r3 has never heard of y.
    s.recover(3, x);
    s.deliver_among(&[2, 3]);
    assert_eq!(s.decided(3, x), Some(deps([0, 1, 0])));
}

/// PROTOCOL.md §3: r3.1 becomes a Nop that r1 and r3 know and r2 does not. r3 proposes its command
/// again, commits it in one round trip with r1, answers, and fails. r2 recovers from r1's vote. Its
/// knowledge of r3.1 speaks against the fast path, unless r3.2 covers r3.1.
fn nop_of_the_same_owner(plant: Option<Plant>) -> Stage {
    let mut s = Stage::new(3).with(plant);
    let first = s.propose(3, "k");
    s.deliver("PreAccept", first, 3, 2);
    s.lose_all();
    s.recover(1, first);
    s.deliver_among(&[1, 3]);
    assert_eq!(s.decided(3, first), None);
    s.lose_all();
    let second = s.propose_again(3);
    s.deliver("PreAccept", second, 3, 1);
    s.deliver("PreAcceptOk", second, 1, 3);
    assert!(s.decided(3, second).is_some(), "the client has its answer");
    s.lose_all();
    s.recover(2, second);
    s.deliver_among(&[1, 2]);
    s
}

#[test]
fn a_nop_still_counts_for_its_owner() {
    let second = id(3, 2);
    let sound = nop_of_the_same_owner(None);
    assert_eq!(sound.decided(2, second), Some(deps([0, 0, 1])));
    let forgetful = nop_of_the_same_owner(Some(Plant::ForgetNop));
    assert_eq!(forgetful.decided(2, second), None, "an answered command is lost");
}

/// The same with the Nop of a third replica: r1, r4 and r5 know that r4.1 is a Nop. r5 commits in
/// one round trip with r1 and r4, and both owners fail. r2 knows r4.1 as it was proposed.
fn nop_of_another_owner(plant: Option<Plant>) -> Stage {
    let mut s = Stage::new(5).with(plant);
    let nop = s.propose(4, "k");
    s.deliver("PreAccept", nop, 4, 2);
    s.deliver("PreAccept", nop, 4, 5);
    s.lose_all();
    s.recover(5, nop);
    s.deliver_among(&[1, 4, 5]);
    assert_eq!(s.decided(5, nop), None);
    s.lose_all();
    let x = s.propose(5, "k");
    s.deliver("PreAccept", x, 5, 1);
    s.deliver("PreAccept", x, 5, 4);
    s.deliver("PreAcceptOk", x, 1, 5);
    s.deliver("PreAcceptOk", x, 4, 5);
    assert!(s.decided(5, x).is_some(), "the client has its answer");
    s.lose_all();
    s.recover(2, x);
    s.deliver_among(&[1, 2, 3]);
    s
}

#[test]
fn a_nop_still_counts_for_others() {
    let x = id(5, 1);
    let sound = nop_of_another_owner(None);
    assert_eq!(sound.decided(2, x), Some(deps([0, 0, 0, 1, 0])));
    let forgetful = nop_of_another_owner(Some(Plant::ForgetNop));
    assert_eq!(forgetful.decided(2, x), None, "an answered command is lost");
}

/// Found by the simulator: x of r2 has r3's vote for the fast path and no other. y conflicts and
/// does not cover x. It commits in one round trip without r2 and r3, and all replicas execute it.
/// If they forget y now, nothing speaks against the fast path of x any more.
fn forgotten_by_all(plant: Option<Plant>) -> Stage {
    let mut s = Stage::new(5).with(plant);
    let x = s.propose(2, "k");
    s.deliver("PreAccept", x, 2, 3);
    s.lose_all();
    let y = s.propose(1, "k");
    for voter in [4, 5] {
        s.deliver("PreAccept", y, 1, voter);
        s.deliver("PreAcceptOk", y, voter, 1);
    }
    s.deliver_among(&[1, 4, 5]);
    s.deliver("PreAccept", y, 1, 2);
    s.deliver("PreAccept", y, 1, 3);
    for learner in [2, 3] {
        s.deliver("Commit", y, 1, learner);
        assert_eq!(s.executed(learner), [y]);
    }
    s.lose_all();
    // All replicas hear that all have executed y; but x stays undecided.
    for told in [3, 4, 5] {
        for teller in 1..=5 {
            if teller != told {
                s.gossip(&[teller, told]);
            }
        }
    }
    s.pass(&[3, 4, 5], Duration::from_secs(1));
    s.lose_all();
    s.recover(4, x);
    s.deliver_among(&[3, 4, 5]);
    s
}

#[test]
fn nothing_is_forgotten_that_speaks_against_something_undecided() {
    let (x, y) = (id(2, 1), id(1, 1));
    let sound = forgotten_by_all(None);
    assert_eq!(sound.decided(4, x), None, "y speaks against x");
    let forgetful = forgotten_by_all(Some(Plant::ForgetEarly));
    assert_eq!((sound.remembered(5), forgetful.remembered(5)), (2, 1));
    let (x_covers, y_covers) = (forgetful.decided(4, x), forgetful.decided(4, y));
    assert_eq!((x_covers, y_covers), (Some(Deps::none(5)), Some(Deps::none(5))), "both blind");
}

/// An owner used a slot and no other replica heard of it. The slot holds up every instance that
/// covers it, until a recovery decides it as Nop.
#[test]
fn a_gap_is_closed() {
    let mut s = Stage::new(3);
    let lost = s.propose(1, "k");
    s.lose_all();
    let x = s.propose(1, "k");
    s.deliver("PreAccept", x, 1, 2);
    s.deliver("PreAcceptOk", x, 2, 1);
    s.deliver("Commit", x, 1, 2);
    s.lose_all();
    assert_eq!(s.decided(2, x), Some(deps([1, 0, 0])));
    assert_eq!(s.executed(2), [], "nobody knows what r1.1 is");
    s.suspect(&[2, 3], 1);
    s.pass(&[2, 3], Duration::from_secs(3));
    for at in [2, 3] {
        assert_eq!(s.decided(at, lost), None);
        assert_eq!(s.executed(at), [x]);
    }
}

/// A is committed. Then B is proposed; through C they are one component, and B runs first. A
/// replica that answered A's client at commit would have promised that A comes before B.
#[test]
fn a_committed_command_is_not_an_executed_one() {
    let decide = |id: InstanceId, deps| {
        let command = Command {
            request: RequestId::new(ClientId(u64::from(id.replica.number())), 1),
            floor: 0,
            origin: id.replica,
            footprint: Footprint::write(b"k"),
            payload: bytes::Bytes::new(),
        };
        Decision::owned(id, Value::Batch(Batch::new(vec![command])), deps)
    };
    let (a, b, c) = (id(3, 1), id(1, 1), id(2, 1));
    let mut executor = Executor::new(3);
    executor.on_committed(decide(a, deps([0, 1, 0])));
    assert_eq!(executor.next_ready(), None, "A waits for C, so its client waits, too");
    executor.on_committed(decide(b, deps([0, 0, 1])));
    assert_eq!(executor.next_ready(), None);
    executor.on_committed(decide(c, deps([1, 0, 0])));
    let component = executor.next_ready().expect("all is decided");
    let order: Vec<_> = component.instances.iter().map(|(id, _)| *id).collect();
    assert_eq!(order, [b, c, a]);
    assert_eq!(a.replica, ReplicaId::from_index(2));
}
