//! Clients of a running cluster over QUIC.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::time::Duration;

use common::*;
use isonomy::LocalCluster;
use isonomy::client::{Client, ClientConfig, ClientError, ConnectError, Rejected};
use isonomy::machine::{Kv, KvCommand, KvOutput};
use isonomy::network::WanControl;
use isonomy::node::Limits;
use isonomy::types::Consistency;

fn config(cluster: &LocalCluster<Kv>) -> ClientConfig {
    let credentials = cluster.client_credentials("alice").unwrap();
    let name = LocalCluster::<Kv>::NAME;
    let mut config = ClientConfig::new(name, "alice", credentials, cluster.addrs());
    config.attempt = Duration::from_millis(500);
    config
}

async fn connect(config: ClientConfig) -> Client<Kv> {
    Client::connect(config).await.unwrap()
}

#[tokio::test]
async fn commands_and_reads_over_the_network() {
    let cluster = LocalCluster::<Kv>::start(3).await.unwrap();
    let client = connect(config(&cluster)).await;
    assert_eq!(client.connected().len(), 3);
    assert_eq!(client.execute(create("a", "1")).await, Ok(KvOutput::Swapped));
    for consistency in [Consistency::Local, Consistency::Linearizable] {
        assert_eq!(client.read(get("a"), consistency).await, Ok(value("1")));
        let refused = client.read(put("a", "2"), consistency).await;
        assert_eq!(refused, Err(Rejected::Writes.into()));
    }
    let info = client.server().await.unwrap();
    assert_eq!(info.cluster.as_str(), LocalCluster::<Kv>::NAME);
    assert_eq!(info.list.unwrap().len(), 3);
    let all: Vec<_> = (0..500)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move { client.execute(put(&format!("k{i}"), "v")).await })
        })
        .collect();
    for answer in all {
        assert_eq!(answer.await.unwrap(), Ok(KvOutput::Done));
    }
    client.close().await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn the_nearest_replica_is_asked_unless_another_is_preferred() {
    let wan = WanControl::uniform(1, 3, Duration::from_millis(5));
    wan.set_delay(0, 1, Duration::from_millis(30));
    let cluster = LocalCluster::<Kv>::builder(3).wan(wan.clone()).start().await.unwrap();
    let mut beside_three = config(&cluster);
    beside_three.network.wan = Some(wan.at(2));
    let client = connect(beside_three.clone()).await;
    assert_eq!(client.server().await.unwrap().replica, id(3));
    beside_three.prefer = Some(id(1));
    let client = connect(beside_three).await;
    eventually("the preferred one", async || client.connected()[0].0 == id(1)).await;
    assert_eq!(client.server().await.unwrap().replica, id(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_on_at_another_replica_and_nothing_happens_twice() {
    let cluster = LocalCluster::<Kv>::builder(3).timing(hasty()).start().await.unwrap();
    let mut config = config(&cluster);
    config.prefer = Some(id(2));
    config.patience = PATIENCE;
    let client = connect(config).await;
    let mut tasks = Vec::new();
    for task in 0..4 {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            for i in 0..300 {
                let created = client.execute(create(&format!("{task}-{i}"), "v")).await;
                assert_eq!(created, Ok(KvOutput::Swapped), "executed once, answered once");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.crash(2);
    for task in tasks {
        task.await.unwrap();
    }
    let executed = cluster.replica(1).metrics().await.unwrap().executed;
    assert!(executed >= 1200, "{executed}");
    assert_same(&cluster, 2).await;
}

#[tokio::test]
async fn an_overloaded_replica_is_asked_again() {
    let limits = Limits { commands: 4, ..Limits::default() };
    let cluster = LocalCluster::<Kv>::builder(1).limits(limits).start().await.unwrap();
    let client = connect(config(&cluster)).await;
    let all: Vec<_> = (0..100)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move { client.execute(create(&format!("k{i}"), "v")).await })
        })
        .collect();
    for answer in all {
        assert_eq!(answer.await.unwrap(), Ok(KvOutput::Swapped));
    }
    assert!(cluster.replica(1).metrics().await.unwrap().overloaded > 0);
}

#[tokio::test]
async fn errors_say_what_may_be_concluded() {
    let build = LocalCluster::<Kv>::builder(3);
    let build = build.configure(|replica| replica.shutdown_patience(Duration::from_millis(50)));
    let cluster = build.start().await.unwrap();
    let mut config = config(&cluster);
    (config.attempt, config.patience) = (Duration::from_millis(100), Duration::from_millis(400));
    let client = connect(config.clone()).await;
    let keys = (0..5000).map(|i| bytes(format!("k{i}"))).collect();
    let wide = client.execute(KvCommand::GetMany { keys }).await;
    assert!(matches!(wide, Err(ClientError::Rejected(Rejected::BadCommand(_)))), "{wide:?}");
    let huge = client.execute(put("a", &"x".repeat(5 << 20))).await;
    assert!(matches!(huge, Err(ClientError::Rejected(Rejected::TooLarge { .. }))), "{huge:?}");
    // Replica 1 alone accepts a command but cannot finish it.
    cluster.crash(2);
    cluster.crash(3);
    let lost = client.execute(put("a", "1")).await;
    assert!(matches!(lost, Err(ClientError::Unknown(_))), "{lost:?}");
    // No replica is left to accept the command.
    cluster.replica(1).shutdown().await;
    eventually("no connection", async || client.connected().is_empty()).await;
    let patience = config.patience;
    let unreachable = client.execute(put("a", "1")).await;
    assert_eq!(unreachable, Err(Rejected::Unreachable(patience).into()));
    let nobody = Client::<Kv>::connect(config.clone()).await.unwrap_err();
    assert!(matches!(nobody, ConnectError::Unreachable(_)), "{nobody}");
    config.replicas.clear();
    let none = Client::<Kv>::connect(config).await.unwrap_err();
    assert!(matches!(none, ConnectError::NoReplicas));
}
