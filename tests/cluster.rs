//! What a test can do to a replica of a local cluster: pause it, crash it and start it again.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::time::Duration;

use common::*;
use isonomy::LocalCluster;
use isonomy::machine::{Kv, KvOutput};
use isonomy::node::{Durability, StartError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_replica_stands_still_and_goes_on() {
    let cluster = LocalCluster::<Kv>::builder(3).timing(hasty()).start().await.unwrap();
    let pause = cluster.replica(1).pause().await.unwrap();
    let replica = cluster.replica(1).clone();
    let asked = tokio::spawn(async move { replica.propose(put("a", "1")).await });
    assert_eq!(cluster.replica(2).propose(put("b", "1")).await.unwrap(), KvOutput::Done);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!asked.is_finished(), "it stands still");
    drop(pause);
    assert_eq!(asked.await.unwrap().unwrap(), KvOutput::Done);
    assert_same(&cluster, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_replica_comes_back_from_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let builder = LocalCluster::<Kv>::builder(3).timing(hasty());
    let mut cluster = builder.data_dirs(dir.path(), Durability::Os).start().await.unwrap();
    cluster.replica(3).propose(put("a", "1")).await.unwrap();
    cluster.crash(3);
    cluster.replica(2).propose(put("a", "2")).await.unwrap();
    let addr = cluster.replica(3).local_addr();
    cluster.restart(3).await.unwrap();
    assert_eq!(cluster.replica(3).local_addr(), addr);
    assert_eq!(cluster.replica(3).propose(get("a")).await.unwrap(), value("2"));
    assert_same(&cluster, 3).await;
}

#[tokio::test]
async fn without_a_directory_it_must_not_come_back() {
    let mut cluster = LocalCluster::<Kv>::start(1).await.unwrap();
    cluster.crash(1);
    assert!(matches!(cluster.restart(1).await, Err(StartError::Missing("data_dirs"))));
}
