//! Every protocol on the same runtime. Callers get the same guarantees from each, and two protocols
//! never meet in one cluster or in one directory.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::time::Duration;

use common::machines::Machines;
use common::*;
use isonomy::machine::{Kv, KvOutput};
use isonomy::node::ProtocolKind;
use isonomy::node::StorageError;
use isonomy::node::{LocalCluster, StartError};
use isonomy::types::{ClientId, Consistency, MemberId, ReplicaId, RequestId, Timing};

fn machines(replicas: u64, protocol: ProtocolKind) -> Machines {
    Machines { protocol, ..Machines::new(replicas) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_goes_on_without_one_and_comes_back_from_the_loss_of_power() {
    for &protocol in ProtocolKind::ALL {
        let machines = machines(3, protocol);
        let mut replicas = machines.start_all().await;
        for (number, replica) in replicas.iter().enumerate() {
            let done = replica.propose(create(&format!("k{number}"), "v")).await;
            assert_eq!(done, Ok(KvOutput::Swapped), "{protocol}");
        }
        let request = RequestId::new(ClientId(7), 1);
        let done = replicas[1].submit(request, 1, create("session", "v")).await;
        assert_eq!(done, Ok(KvOutput::Swapped), "{protocol}");
        for replica in &replicas {
            let seen = replica.read(get("session"), Consistency::Linearizable).await;
            assert_eq!(seen, Ok(value("v")), "{protocol}");
        }
        let status = replicas[0].status().await.unwrap();
        assert_eq!(status.protocol, protocol);
        assert_eq!(status.standing.unwrap().protocol(), protocol);

        let third = replicas.pop().unwrap();
        third.kill();
        third.wait_stopped().await;
        assert_eq!(replicas[0].propose(put("two", "left")).await, Ok(KvOutput::Done), "{protocol}");
        machines.lose_power(replicas).await;

        let replicas = machines.start_all().await;
        let again = replicas[2].submit(request, 1, create("session", "v")).await;
        assert_eq!(again, Ok(KvOutput::Swapped), "{protocol}: not forgotten, and not done twice");
        for key in ["k0", "k1", "k2", "session"] {
            assert_eq!(replicas[2].propose(get(key)).await, Ok(value("v")), "{protocol}: {key}");
        }
        assert_eq!(replicas[1].propose(get("two")).await, Ok(value("left")), "{protocol}");
        eventually("one state", async || {
            let mut digests = Vec::new();
            for replica in &replicas {
                digests.push(replica.digest().await.unwrap());
            }
            digests.windows(2).all(|two| two[0] == two[1])
        })
        .await;
    }
}

#[tokio::test]
async fn a_directory_of_one_protocol_is_not_opened_with_another() {
    let mut machines = machines(1, ProtocolKind::MultiPaxos);
    let replica = machines.start(1).await;
    assert_eq!(replica.propose(put("a", "1")).await, Ok(KvOutput::Done));
    replica.shutdown().await;
    machines.protocol = ProtocolKind::EPaxos;
    let refused = machines.try_start(1).await.unwrap_err();
    let StartError::Storage { error: StorageError::OtherProtocol { found, asked }, .. } = &refused
    else {
        panic!("{refused}");
    };
    assert_eq!((&found[..], &asked[..]), ("multi-paxos", "epaxos"));
    assert!(refused.to_string().contains("set `protocol = \"multi-paxos\"`"), "{refused}");
    machines.protocol = ProtocolKind::MultiPaxos;
    let again = machines.start(1).await;
    assert_eq!(again.propose(get("a")).await, Ok(value("1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_runs_another_protocol_is_let_in_by_nobody() {
    let mut machines = machines(3, ProtocolKind::MultiPaxos);
    machines.durable = false;
    let mut replicas = vec![machines.start(1).await, machines.start(2).await];
    machines.protocol = ProtocolKind::FastPaxos;
    replicas.push(machines.start(3).await);
    assert!(replicas[0].wait_connected(1).await);
    assert_eq!(replicas[0].propose(put("a", "1")).await, Ok(KvOutput::Done));
    let met = tokio::time::timeout(Duration::from_secs(2), replicas[2].wait_connected(1)).await;
    assert!(met.is_err(), "it is refused for as long as it tries");
    assert_eq!(replicas[0].connected().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wished_for_leader_leads_and_latencies_are_told_apart_by_path() {
    let third = MemberId::new(3);
    // No replica may be suspected just because the machine is busy.
    let suspect = Duration::from_secs(3);
    let timing = Timing { leader: ReplicaId::new(3), suspect, ..Timing::default() };
    for &protocol in ProtocolKind::ALL {
        let builder = LocalCluster::<Kv>::builder(3).timing(timing.clone());
        let builder = builder.configure(move |replica| replica.protocol(protocol));
        let cluster = builder.start().await.unwrap();
        let is_led = matches!(protocol, ProtocolKind::MultiPaxos | ProtocolKind::FastPaxos);
        eventually("all know who leads, if somebody does", async || {
            let mut known = 0;
            for replica in cluster.replicas() {
                let leader = replica.metrics().await.unwrap().leader;
                known += usize::from(leader == third.filter(|_| is_led));
            }
            known == 3
        })
        .await;
        for replica in cluster.replicas() {
            let done = replica.propose(put("a", "1")).await;
            assert_eq!(done, Ok(KvOutput::Done), "{protocol}");
            let metrics = replica.metrics().await.unwrap();
            let paths = [&metrics.fast, &metrics.slow].map(|path| path.commit.count());
            assert_eq!(paths, [metrics.commands.fast, metrics.commands.slow], "{protocol}");
            assert_eq!(paths.iter().sum::<u64>(), metrics.commit.count(), "{protocol}");
            let answered = [&metrics.fast, &metrics.slow].map(|path| path.execute.count());
            assert_eq!(answered, paths, "{protocol}");
            if protocol == ProtocolKind::MultiPaxos {
                assert_eq!(paths[0] == 1, Some(replica.id()) == third, "who leads is fast");
            }
        }
        cluster.shutdown().await;
    }
    let none = Timing { leader: ReplicaId::new(4), ..Timing::default() };
    let refused = LocalCluster::<Kv>::builder(3).timing(none).start().await.unwrap_err();
    assert!(refused.to_string().contains("`leader` is none of the replicas"), "{refused}");
}
