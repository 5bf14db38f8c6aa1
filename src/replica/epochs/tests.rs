//! Changes of the list that are of no use, one replica at a time. What whole clusters do is simulated.

use bytes::Bytes;

use crate::replica::core_tests::{Cluster, command, key, replica};
use crate::replica::{Input as CoreInput, Limits};
use crate::types::{Batch, Change, Command, Member, MemberId, Membership};

fn member(number: u32) -> Member {
    let address = format!("10.0.0.{number}:7400").parse().expect("an address");
    Member { id: MemberId::new(number).expect("not 0"), address, directory: u64::from(number) }
}

fn list(n: u32) -> Membership {
    Membership::first((1..=n).map(member).collect()).expect("a list")
}

fn after(list: &Membership, number: u32) -> Membership {
    list.after(&Change::Add(member(number))).expect("it is new")
}

/// A list that is to follow, with other bytes instead.
fn unreadable(list: &Membership) -> Command {
    Command { payload: Bytes::from_static(b"\xff?"), ..list.command(replica(0)) }
}

#[test]
fn a_list_that_cannot_be_decoded_has_no_effect_anywhere() {
    let mut cluster = Cluster::new(3, Limits::default());
    let next = after(&list(3), 4);
    cluster.step(replica(0), CoreInput::Propose(unreadable(&next)));
    cluster.run();
    cluster.propose(1, 1, key(1));
    cluster.run();
    for (core, executed) in cluster.cores.iter().zip(&cluster.executed) {
        assert_eq!((executed.len(), core.ended()), (2, None), "the epoch goes on");
    }
    let [core, ..] = &cluster.cores[..] else { panic!("there are three") };
    let (ends, other) = (next.command(replica(0)), command(0, 1, key(1), Bytes::new()));
    assert_eq!(core.list_after(&Batch::new(vec![ends.clone()])), Some(next));
    for together in [vec![ends.clone(), other.clone()], vec![other, ends]] {
        assert_eq!(core.list_after(&Batch::new(together)), None);
    }
}
