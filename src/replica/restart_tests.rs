//! Replicas that stop and restart from their records.

use std::time::Duration;

use super::core_tests::{Cluster, key, replica};
use super::{Core, Input, Limits, PeerMessage};
use crate::protocol::Protocol;
use crate::protocol::epaxos::{EPaxos, Message, Path, Plant};
use crate::types::{Footprint, Optimisations, Quorums, RequestId, Retention, Settings, Timing};

/// The commands that a replica has executed, in order.
fn requests(cluster: &Cluster, at: usize) -> Vec<RequestId> {
    let executions = cluster.executed[at].iter();
    executions.flat_map(|e| e.batch.commands()).map(|command| command.request).collect()
}

#[test]
fn all_stop_at_once_and_come_back_with_all_they_had_executed() {
    let mut cluster = Cluster::new(3, Limits::default());
    for sequence in 1..=30 {
        for at in 0..3 {
            cluster.propose(at, sequence, Footprint::write(b"k"));
        }
        cluster.run();
        cluster.pass(Duration::from_millis(10));
    }
    cluster.pass(Duration::from_secs(1));
    let before = requests(&cluster, 0);
    assert_eq!(before.len(), 90);
    (0..3).for_each(|at| cluster.restart(at));
    (0..3).for_each(|at| assert_eq!(requests(&cluster, at), before, "at {at}"));
    for at in 0..3 {
        cluster.propose(at, 31, Footprint::write(b"k"));
    }
    cluster.pass(Duration::from_secs(1));
    assert_eq!(requests(&cluster, 0).len(), 93);
    (1..3).for_each(|at| assert_eq!(requests(&cluster, at), requests(&cluster, 0)));
}

#[test]
fn a_slot_that_was_used_is_not_used_again() {
    let mut cluster = Cluster::new(3, Limits::default());
    cluster.propose(0, 1, key(1));
    cluster.network.clear();
    cluster.restart(0);
    cluster.network.clear();
    cluster.propose(0, 2, key(2));
    let proposed = cluster.network.iter().find_map(|(_, _, message)| match message {
        PeerMessage::Protocol(Message::PreAccept { id, .. }) => Some(id.slot),
        _ => None,
    });
    assert_eq!(proposed, Some(2));
}

#[test]
fn a_proposal_whose_owner_stopped_is_taken_up_where_its_records_end() {
    for delivered in 0..6 {
        let mut cluster = Cluster::new(5, Limits::default());
        cluster.propose(4, 1, Footprint::write(b"k"));
        cluster.network.clear();
        cluster.propose(0, 1, Footprint::write(b"k"));
        for _ in 0..delivered {
            let Some((from, to, message)) = cluster.network.pop_front() else { break };
            cluster.step(to, super::Input::Peer { from, message });
        }
        cluster.network.clear();
        cluster.restart(0);
        cluster.pass(Duration::from_secs(3));
        for at in 0..5 {
            assert_eq!(requests(&cluster, at).len(), 2, "after {delivered} messages, at {at}");
        }
        assert_eq!(cluster.count(Path::Recovery), 0, "nobody had to help");
    }
}

#[test]
fn what_was_not_flushed_was_not_said() {
    let mut cluster = Cluster::new(3, Limits::default());
    cluster.held = Some(replica(0));
    cluster.propose(0, 1, key(1));
    assert!(cluster.network.is_empty());
    cluster.restart(0);
    cluster.held = None;
    cluster.propose(0, 2, key(2));
    cluster.pass(Duration::from_secs(1));
    let [only] = &requests(&cluster, 1)[..] else { panic!("the first is as if it had never been") };
    assert_eq!(only.sequence, 2);
}

#[test]
fn a_promise_outlives_its_maker() {
    let mut cluster = Cluster::new(3, Limits::default());
    cluster.propose(0, 1, key(1));
    let proposals = std::mem::take(&mut cluster.network);
    let id = crate::types::InstanceId::new(replica(0), 1);
    let ballot = crate::types::Ballot::new(1, replica(2)).expect("a recovery's round");
    let recover = PeerMessage::Protocol(Message::Recover { id, ballot });
    cluster.step(replica(1), super::Input::Peer { from: replica(2), message: recover });
    cluster.network.clear();
    cluster.restart(1);
    // The owner's proposal comes late: replica 2 has promised not to vote for it.
    for (from, to, message) in proposals.into_iter().filter(|(_, to, _)| *to == replica(1)) {
        cluster.step(to, super::Input::Peer { from, message });
    }
    let voted = |(_, _, message): &(_, _, PeerMessage<Message>)| {
        matches!(message, PeerMessage::Protocol(Message::PreAcceptOk { .. }))
    };
    assert!(!cluster.network.iter().any(voted));
}

/// Whether replica 2, whose disk is slow, answers a recovery of 1.1 before its promise is durable.
fn promises_early(plant: Option<Plant>) -> bool {
    let mut cluster = Cluster::new(3, Limits::default());
    if let Some(plant) = plant {
        cluster.cores[1].protocol_mut().plant(plant);
    }
    cluster.propose(0, 1, key(1));
    cluster.network.clear();
    cluster.held = Some(replica(1));
    let id = crate::types::InstanceId::new(replica(0), 1);
    let ballot = crate::types::Ballot::new(1, replica(2)).expect("a recovery's round");
    let recover = PeerMessage::Protocol(Message::Recover { id, ballot });
    cluster.step(replica(1), super::Input::Peer { from: replica(2), message: recover });
    cluster
        .network
        .iter()
        .any(|(_, _, message)| matches!(message, PeerMessage::Protocol(Message::RecoverOk { .. })))
}

/// The simulator needs tens of thousands of seeds to see a consequence (PROTOCOL.md §9).
#[test]
fn a_promise_that_is_not_durable_is_not_given() {
    assert!(!promises_early(None));
    assert!(promises_early(Some(Plant::EarlyPromise)), "this test can fail");
}

/// A replica that reserves as many slots at a time as the setting allows.
fn reserving(me: usize) -> Core<EPaxos> {
    let settings = Settings {
        me: replica(me),
        quorums: Quorums::new(3).expect("a supported size"),
        seed: me as u64,
        timing: Timing::default(),
        optimisations: Optimisations {
            reserved_slots: Optimisations::MOST_RESERVED,
            ..Optimisations::NONE
        },
        retention: Retention { volatile: false, ..Retention::default() },
        leases: true,
    };
    Core::new(settings.clone(), Limits::default(), EPaxos::new(settings))
}

/// Every lost slot, 131,000 a life, was recovered on its own, and all at once.
#[test]
fn what_a_restart_costs_does_not_grow_with_the_slots_reserved() {
    let mut cluster = Cluster::new(3, Limits::default());
    cluster.cores = (0..3).map(reserving).collect();
    cluster.pass(Duration::from_millis(200));
    for life in 1..=2 {
        cluster.propose(0, life, key(life));
        cluster.network.clear();
        cluster.logs[0].truncate(cluster.flushed[0]);
        let (mut core, mut out) = (reserving(0), super::Output::default());
        for record in cluster.logs[0].clone() {
            core.restore(record, &mut out);
        }
        core.resume(cluster.now, cluster.end(0), &mut out);
        cluster.cores[0] = core;
        cluster.logs[0].append(&mut out.records);
        let durable = cluster.durable(replica(0));
        cluster.step(replica(0), durable);
    }
    cluster.propose(0, 3, key(3));
    let (mut messages, began) = (0, cluster.now);
    while !requests(&cluster, 0).iter().any(|request| request.sequence == 3) {
        assert!(cluster.now.since(began) < Duration::from_secs(1), "{messages} messages so far");
        cluster.now = cluster.now + Duration::from_millis(10);
        (0..3).for_each(|at| cluster.step(replica(at), Input::Tick));
        while let Some((from, to, message)) = cluster.network.pop_front() {
            messages += 1;
            cluster.step(to, Input::Peer { from, message });
        }
    }
    let lost = cluster.count(Path::LostSlot);
    assert!(lost > Optimisations::RESERVED_AT_ONCE, "{lost} slots");
    assert!(messages < 100_000, "{messages} messages for {lost} slots");
}
