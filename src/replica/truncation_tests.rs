//! A member stays away: the cluster cuts down what it keeps for it, and a snapshot brings it back
//! (PROTOCOL.md §8a).

use std::time::Duration;

use super::core_tests::{Cluster, key, replica};
use super::{Core, Limits, Output};
use crate::protocol::Protocol;
use crate::protocol::epaxos::{EPaxos, Path};
use crate::types::{Optimisations, Quorums, ReplicaId, RequestId, Retention, Settings, Timing};

/// Three replicas that keep at most 20,000 bytes for one that is away.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(3, Limits::default());
    for me in ReplicaId::all(3) {
        let settings = Settings {
            me,
            quorums: Quorums::new(3).expect("a supported size"),
            seed: u64::from(me.number()),
            timing: Timing::default(),
            optimisations: Optimisations::NONE,
            retention: Retention { volatile: false, keep: 20_000 },
            leases: true,
        };
        let protocol = EPaxos::new(settings.clone());
        cluster.cores[me.index()] = Core::new(settings, Limits::default(), protocol);
    }
    cluster
}

fn save(cluster: &mut Cluster, at: usize) {
    let executed = cluster.cores[at].checkpoint().executed;
    crate::protocol::Protocol::on_snapshot(cluster.cores[at].protocol_mut(), &executed);
}

fn requests(cluster: &Cluster, at: usize) -> Vec<RequestId> {
    let executions = cluster.executed[at].iter();
    executions.flat_map(|e| e.batch.commands()).map(|command| command.request).collect()
}

/// r3 is away, with a proposal of its own that the others have finished.
fn left_behind() -> Cluster {
    let mut cluster = cluster();
    cluster.pass(Duration::from_millis(200));
    cluster.propose(2, 1, key(9));
    while let Some((from, to, message)) = cluster.network.pop_front() {
        if from == replica(2) {
            cluster.step(to, super::Input::Peer { from, message });
        }
    }
    cluster.network.clear();
    cluster.away.insert(replica(2));
    for sequence in 1..=400 {
        cluster.propose(0, sequence, key(sequence % 10));
        cluster.propose(1, sequence, key(sequence % 10));
        cluster.pass(Duration::from_millis(20));
        if sequence % 50 == 0 {
            (0..2).for_each(|at| save(&mut cluster, at));
        }
    }
    cluster.pass(Duration::from_secs(10));
    cluster
}

#[test]
fn what_is_kept_for_an_absent_member_is_cut_down_to_an_index() {
    let mut cluster = left_behind();
    assert!(cluster.count(Path::CutEstablished) > 0);
    for at in 0..2 {
        let sizes = cluster.cores[at].protocol().footprint();
        assert!(sizes.instances < 100 && sizes.bytes < 60_000, "at {at}: {sizes:?}");
        assert_eq!(requests(&cluster, at).len(), 801);
    }
    // Dropped instances still count as conflicts: later proposals cover all of them.
    cluster.propose(0, 1001, key(9));
    cluster.run();
    let id = cluster.executed[0].last().expect("it is executed").id;
    let deps = cluster.cores[0].protocol().inspect(id).expect("it is kept").deps;
    assert!(deps.slot(replica(1)) >= 390 && deps.slot(replica(2)) == 1, "{deps:?}");
}

#[test]
fn who_was_away_comes_back_by_a_snapshot_and_all_is_forgotten() {
    let mut cluster = left_behind();
    cluster.away = crate::types::ReplicaSet::EMPTY;
    cluster.pass(Duration::from_secs(2));
    assert!(cluster.cores[2].paths().count(Path::NeedsSnapshot) > 0);
    assert_eq!(requests(&cluster, 2).len(), 0);
    let from = cluster.cores[0].checkpoint();
    let mut out = Output::default();
    let now = cluster.now();
    assert!(cluster.cores[2].install(now, from.shared, &from.executed, &mut out));
    assert_eq!(cluster.cores[2].checkpoint().executed, from.executed);
    assert!(out.execute.is_empty(), "it had executed nothing");
    cluster.pass(Duration::from_secs(1));
    // Its own proposal is proposed again: only the sessions know whether it was executed.
    assert_eq!(requests(&cluster, 2).len(), 1);
    assert_eq!(requests(&cluster, 2), requests(&cluster, 0)[801..]);
    (0..3).for_each(|at| save(&mut cluster, at));
    cluster.pass(Duration::from_secs(2));
    for core in &cluster.cores {
        let sizes = core.protocol().footprint();
        assert_eq!((sizes.instances, sizes.keys, sizes.bytes), (0, 0, 0));
    }
}
