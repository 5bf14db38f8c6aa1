//! Backups of running clusters, with each protocol. What was answered before the backup was asked
//! for is in it, and nothing is done twice in a cluster that begins with it, whatever its size.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{create, eventually, get, id, put};
use isonomy::machine::{Kv, KvOutput};
use isonomy::node::{
    Backup, BackupError, Durability, ProtocolKind, RestoreOptions, Source, backup, restore,
};
use isonomy::types::{ClientId, MemberId, RequestId};
use isonomy::{LocalCluster, Replica};

/// A cluster with durable replicas, in directories below `dir`.
async fn start(protocol: ProtocolKind, n: usize, dir: &Path) -> LocalCluster<Kv> {
    let cluster = LocalCluster::<Kv>::builder(n).configure(move |it| it.protocol(protocol));
    cluster.data_dirs(dir, Durability::Os).start().await.unwrap()
}

fn members(n: u32) -> BTreeSet<MemberId> {
    (1..=n).map(id).collect()
}

/// Makes the directories of a new cluster of `n`, and starts it.
async fn begin_anew(made: &Backup, file: &Path, n: u32, dir: &Path) -> LocalCluster<Kv> {
    let options = RestoreOptions { members: members(n) };
    for number in 1..=n {
        let to = dir.join(number.to_string());
        let restored = restore::<Kv>(file, to, id(number), &options).unwrap();
        assert_eq!((&restored.members, restored.era), (&members(n), made.era));
    }
    start(made.protocol, n as usize, dir).await
}

/// A client that writes ascending numbers under a key of its own.
struct Writer {
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    fn begin(replica: &Replica<Kv>, name: u64) -> Writer {
        let (answered, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let session = replica.session(ClientId(name));
        let (told, over) = (Arc::clone(&answered), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            for number in 1.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let put = put(&format!("own{name}"), &number.to_string());
                assert_eq!(session.propose(put).await, Ok(KvOutput::Done));
                told.store(number, Ordering::SeqCst);
            }
        });
        Writer { answered, stop, task }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.answered.load(Ordering::SeqCst)
    }
}

async fn number_under(replica: &Replica<Kv>, key: &str) -> u64 {
    let KvOutput::Value(Some(found)) = replica.propose(get(key)).await.unwrap() else {
        panic!("{key} has no value")
    };
    std::str::from_utf8(&found).unwrap().parse().unwrap()
}

async fn of_a_running_cluster(protocol: ProtocolKind) {
    let home = tempfile::tempdir().unwrap();
    let cluster = start(protocol, 3, &home.path().join("old")).await;
    let request = |client: u64| RequestId::new(ClientId(1000 + client), 1);
    for number in 1..=3 {
        let key = format!("once{number}");
        let replica = cluster.replica(number);
        let answer = replica.submit(request(number.into()), 1, create(&key, "v")).await;
        assert_eq!(answer, Ok(KvOutput::Swapped));
    }
    let writers: Vec<_> =
        (1..=6).map(|n| Writer::begin(&cluster.replicas()[n % 2], n as u64)).collect();
    eventually("some writes", async || writers.iter().all(|it| it.answered() > 5)).await;

    let file = home.path().join("backup");
    let before: Vec<u64> = writers.iter().map(Writer::answered).collect();
    let made = cluster.replica(3).backup(&file, false).await.unwrap();
    let mut after = Vec::new();
    for writer in writers {
        after.push(writer.end().await);
    }
    assert_eq!((made.source, made.protocol), (Source::Running, protocol));
    assert_eq!((made.replica, &made.members), (id(3), &members(3)));
    let again = cluster.replica(3).backup(&file, false).await;
    assert!(matches!(again, Err(BackupError::Exists(_))), "{again:?}");
    cluster.shutdown().await;
    // What a stopped replica holds can be backed up as well, and begins a cluster that goes on.
    let stopped = home.path().join("stopped");
    let of_old = home.path().join("old").join("1");
    backup(Kv::new(), of_old, &stopped, &Default::default()).unwrap();

    for (from, n) in [(&file, 1), (&file, 3), (&file, 5), (&stopped, 5)] {
        let dir = home.path().join(format!("new{n}{}", from == &stopped));
        let cluster = begin_anew(&made, from, n, &dir).await;
        let replica = cluster.replica(n);
        for number in 1..=3 {
            let create = create(&format!("once{number}"), "v");
            let answer = replica.submit(request(number), 1, create).await;
            assert_eq!(answer, Ok(KvOutput::Swapped), "it is not done twice");
        }
        for (name, (before, after)) in (1..).zip(before.iter().zip(&after)) {
            let found = number_under(replica, &format!("own{name}")).await;
            assert!((*before..=*after).contains(&found), "{before} <= {found} <= {after}");
        }
        for replica in cluster.replicas() {
            assert_eq!(replica.propose(put("new", "life")).await, Ok(KvOutput::Done));
        }
        cluster.digests().await.unwrap();
        cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_epaxos_is_backed_up() {
    of_a_running_cluster(ProtocolKind::EPaxos).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_multi_paxos_is_backed_up() {
    of_a_running_cluster(ProtocolKind::MultiPaxos).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_fast_paxos_is_backed_up() {
    of_a_running_cluster(ProtocolKind::FastPaxos).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_paxos_is_backed_up() {
    of_a_running_cluster(ProtocolKind::Paxos).await;
}

/// The replica that is backed up has heard nothing of the last writes when it is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lags_catches_up_before_it_is_backed_up() {
    for protocol in ProtocolKind::ALL {
        let home = tempfile::tempdir().unwrap();
        let cluster = start(*protocol, 3, &home.path().join("old")).await;
        for round in 0..5u32 {
            let pause = cluster.replica(3).pause().await.unwrap();
            for number in 0..50 {
                let put = put("last", &format!("{round}/{number}"));
                assert_eq!(cluster.replica(1).propose(put).await, Ok(KvOutput::Done));
            }
            let file = home.path().join(format!("backup{round}"));
            let (replica, to) = (cluster.replica(3).clone(), file.clone());
            let asked = tokio::spawn(async move { replica.backup(to, false).await });
            tokio::task::yield_now().await;
            drop(pause);
            let made = asked.await.unwrap().unwrap();
            let dir = home.path().join(format!("new{round}"));
            let new = begin_anew(&made, &file, 1, &dir).await;
            let last = new.replica(1).propose(get("last")).await;
            assert_eq!(last, Ok(common::value(&format!("{round}/49"))), "{protocol}");
            new.shutdown().await;
        }
        cluster.shutdown().await;
    }
}

/// A cluster in memory has no directory, and its state can be kept nevertheless.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_in_memory_is_backed_up() {
    let home = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::<Kv>::start(3).await.unwrap();
    // Some parts long.
    for number in 0..40 {
        let put = put(&format!("k{number}"), &"x".repeat(100_000));
        assert_eq!(cluster.replica(1).propose(put).await, Ok(KvOutput::Done));
    }
    let file = home.path().join("backup");
    let made = cluster.replica(2).backup(&file, false).await.unwrap();
    assert!(made.state_bytes > 4_000_000, "{made:?}");
    let new = begin_anew(&made, &file, 3, &home.path().join("new")).await;
    let digests = [cluster.digests().await.unwrap(), new.digests().await.unwrap()];
    assert_eq!(digests[0][&id(1)], digests[1][&id(1)], "the same state");
    assert_eq!(new.replica(3).propose(get("k39")).await, Ok(common::value(&"x".repeat(100_000))));
    new.shutdown().await;
    cluster.shutdown().await;
}
