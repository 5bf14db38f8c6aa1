//! Snapshots of running replicas. They are taken while the replicas work, they are read at a
//! restart, and they are sent to replicas that were away for too long. If a snapshot fails, nothing
//! else does.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::machines::{Machines, ROOM};
use common::*;
use isonomy::Replica;
use isonomy::machine::{Kv, KvOutput};
use isonomy::node::{Limits, Metrics, SnapshotError};
use isonomy::types::{ClientId, RequestId};

async fn metrics(replica: &Replica<Kv>) -> Metrics {
    replica.metrics().await.unwrap()
}

async fn same_digests(replicas: &[Replica<Kv>]) {
    eventually("one state", async || {
        let mut digests = Vec::new();
        for replica in replicas {
            digests.push(replica.digest().await.unwrap());
        }
        digests.windows(2).all(|two| two[0] == two[1])
    })
    .await;
}

/// Writes this many values of 16 KiB under few keys, several at a time.
async fn write(replica: &Replica<Kv>, count: usize) {
    write_under(replica, count, 100).await;
}

async fn write_under(replica: &Replica<Kv>, count: usize, keys: usize) {
    let long = "x".repeat(16 << 10);
    for first in (0..count).step_by(64) {
        let puts = (first..count.min(first + 64)).map(|number| {
            let (replica, long) = (replica.clone(), long.clone());
            tokio::spawn(async move {
                let put = put(&format!("w{}", number % keys), &format!("{number}{long}"));
                replica.propose(put).await
            })
        });
        for put in puts.collect::<Vec<_>>() {
            assert_eq!(put.await.unwrap(), Ok(KvOutput::Done));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_begins_with_the_newest_snapshot() {
    let machines = Machines::new(3);
    let mut replicas = machines.start_all().await;
    let request = |round: u64| RequestId::new(ClientId(7), round);
    let mut position = 0;
    for round in 1..=4 {
        let key = format!("before{round}");
        let answer = replicas[0].submit(request(round), 1, create(&key, "v")).await;
        assert_eq!(answer, Ok(KvOutput::Swapped));
        write(&replicas[1], 64).await;
        same_digests(&replicas).await;
        for replica in &replicas {
            let info = replica.snapshot().await.unwrap();
            assert!(info.bytes > 64 << 14);
        }
        let before = position;
        position = metrics(&replicas[0]).await.snapshots.position;
        assert!(position > before);
        let late = format!("behind{round}");
        assert_eq!(replicas[2].propose(create(&late, "v")).await, Ok(KvOutput::Swapped));
        machines.lose_power(replicas).await;

        replicas = machines.start_all().await;
        let restored = metrics(&replicas[0]).await.log.restored;
        assert!(restored.snapshot_bytes > 64 << 14, "{restored:?}");
        assert!(restored.records < 60, "what is in the snapshot is not read again: {restored:?}");
        let again = replicas[1].submit(request(round), 1, create(&key, "v")).await;
        assert_eq!(again, Ok(KvOutput::Swapped), "not done twice, and not forgotten");
        assert_eq!(replicas[2].propose(get(&late)).await, Ok(value("v")));
    }
    same_digests(&replicas).await;
    let snapshots = metrics(&replicas[0]).await.snapshots;
    assert_eq!((snapshots.taken, snapshots.position), (0, position), "in this life, none yet");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_gone_around() {
    let machines = Machines::new(1);
    let replica = machines.start(1).await;
    for round in 0..3 {
        assert_eq!(replica.propose(put("round", &round.to_string())).await, Ok(KvOutput::Done));
        replica.snapshot().await.unwrap();
    }
    let disk = &machines.disks[0];
    replica.shutdown().await;
    let snapshots = || -> Vec<String> {
        let files = disk.files();
        files.into_keys().filter(|name| name.starts_with("snapshot-0")).collect()
    };
    let kept = snapshots();
    assert_eq!(kept.len(), 2, "{kept:?}");
    disk.flip(&kept[1], 100, 0x10);
    let again = machines.start(1).await;
    assert_eq!(again.propose(get("round")).await, Ok(value("2")));
    assert!(metrics(&again).await.log.restored.records > 0);
    // The damaged snapshot is removed once there is a new one.
    again.snapshot().await.unwrap();
    again.shutdown().await;
    assert!(!snapshots().contains(&kept[1]), "{:?}", snapshots());
    let again = machines.start(1).await;
    assert_eq!(again.propose(get("round")).await, Ok(value("2")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_cannot_be_written_is_no_harm() {
    let machines = Machines::new(1);
    let replica = machines.start(1).await;
    write(&replica, 64).await;
    let disk = &machines.disks[0];
    let used: usize = disk.files().values().map(Vec::len).sum();
    // Room for the log, but not for a snapshot.
    disk.set_capacity(used as u64 + (40 << 20));
    let error = replica.snapshot().await.unwrap_err();
    assert!(error.to_string().contains("the disk is full"), "{error}");
    assert_eq!(replica.propose(put("a", "1")).await, Ok(KvOutput::Done));
    let snapshots = metrics(&replica).await.snapshots;
    assert_eq!((snapshots.taken, snapshots.failed), (0, 1));
    disk.set_capacity(common::machines::ROOM);
    replica.snapshot().await.unwrap();
    assert!(
        disk.files().keys().all(|name| !name.contains("snapshot-unfinished")),
        "nothing is left"
    );
    replica.shutdown().await;
    let again = machines.start(1).await;
    assert_eq!(again.propose(get("a")).await, Ok(value("1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_constant_load_the_disk_holds_no_more_than_it_must() {
    let mut machines = Machines::new(3);
    machines.limits.snapshot_every = 4 << 20;
    let replicas = machines.start_all().await;
    let mut most = 0;
    for _ in 0..20 {
        write(&replicas[0], 512).await;
        let used: usize = machines.disks[0].files().values().map(Vec::len).sum();
        most = most.max(used);
    }
    // The state is 1.6 MiB long, and the kept decisions are about ten times as long.
    let written = metrics(&replicas[0]).await.log.bytes;
    assert!(most < 160 << 20 && written > 300 << 20, "{most} of {written} bytes");
    eventually("less is kept", async || {
        metrics(&replicas[0]).await.snapshots.kept_bytes < 16 << 20
    })
    .await;
    let figures = metrics(&replicas[0]).await;
    assert!(figures.snapshots.taken >= 8, "{:?}", figures.snapshots);
    assert!(figures.snapshots.log_start > 0, "{:?}", figures.snapshots);
    same_digests(&replicas).await;
}

/// Writes until the replicas drop decisions that a third replica has not executed.
async fn go_on_without(replicas: &[Replica<Kv>]) {
    eventually("something is dropped", async || {
        write(&replicas[0], 128).await;
        metrics(&replicas[0]).await.paths.named("dropped") > Some(0)
    })
    .await;
    write(&replicas[1], 64).await;
}

/// Two replicas write more than they keep for a third. Then the third comes back, or starts for the
/// first time, and needs a snapshot to catch up.
async fn comes_late(machines: &Machines, mut replicas: Vec<Replica<Kv>>) -> Vec<Replica<Kv>> {
    assert_eq!(replicas[0].propose(create("once", "v")).await, Ok(KvOutput::Swapped));
    go_on_without(&replicas).await;
    let late = machines.start(3).await;
    eventually("an install", async || late.status().await.unwrap().core.unwrap().installed > 0)
        .await;
    assert_eq!(late.propose(create("once", "w")).await, Ok(KvOutput::Mismatch(Some(bytes("v")))));
    replicas.push(late);
    write(&replicas[2], 64).await;
    same_digests(&replicas).await;
    replicas
}

fn forgetful(replicas: u64) -> Machines {
    let mut machines = Machines::new(replicas);
    machines.limits =
        Limits { snapshot_every: 1 << 20, keep_for_absent_bytes: 2 << 20, ..machines.limits };
    machines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_too_long_installs_a_snapshot() {
    let machines = forgetful(3);
    let mut replicas = machines.start_all().await;
    write(&replicas[2], 20).await;
    let away = replicas.pop().unwrap();
    away.shutdown().await;
    let replicas = comes_late(&machines, replicas).await;
    // The state that it received is its own now, and a restart begins with it.
    eventually("its own snapshot", async || metrics(&replicas[2]).await.snapshots.taken > 0).await;
    machines.lose_power(replicas).await;
    let replicas = machines.start_all().await;
    let restored = metrics(&replicas[2]).await.log.restored;
    assert!(restored.snapshot_bytes > 1 << 20, "{restored:?}");
    assert_eq!(replicas[2].propose(get("once")).await, Ok(value("v")));
    same_digests(&replicas).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_starts_late_installs_a_snapshot() {
    let machines = forgetful(3);
    let replicas = vec![machines.start(1).await, machines.start(2).await];
    comes_late(&machines, replicas).await;
}

/// After a replica has installed another replica's state, its first own snapshot of that state must
/// not be replaced by an older one. A later life finds this in the log, which is divided at that
/// point. So while there is no room to divide the log, the replica takes no such snapshot, even if
/// there is room for the snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_installed_state_is_in_no_snapshot_before_the_log_is_divided() {
    let mut machines = forgetful(3);
    machines.limits.keep_free_bytes = 0;
    machines.limits.segment_bytes = 16 << 20;
    let mut replicas = vec![machines.start(1).await, machines.start(2).await];
    // Six MiB of state. The snapshots that the replica takes before it has this state are far
    // shorter.
    write_under(&replicas[0], 384, 384).await;
    go_on_without(&replicas).await;
    // One segment of the log and a few small files, but not a second segment.
    let segment = machines.limits.segment_bytes as u64;
    machines.disks[2].set_capacity(2 * segment - (1 << 20));
    let late = machines.start(3).await;
    eventually("an install", async || late.status().await.unwrap().core.unwrap().installed > 0)
        .await;
    // The log needs one more record, so that it can be divided after it.
    write(&replicas[0], 8).await;
    let large = || {
        let files = machines.disks[2].files();
        let is_large =
            |name: &str, bytes: &[u8]| name.starts_with("snapshot-0") && bytes.len() > 5 << 20;
        files.iter().any(|(name, bytes)| is_large(name, bytes))
    };
    eventually("no room to divide the log", async || {
        let (snapshots, waits) = (metrics(&late).await.snapshots, late.status().await.unwrap());
        large() || waits.waits_for_room && snapshots.failed > 0 && !snapshots.is_being_taken
    })
    .await;
    assert!(!large(), "a later life would take it for one that an older one can stand in for");
    machines.disks[2].set_capacity(ROOM);
    eventually("its own snapshot", async || large()).await;
    eventually("the log is cut there", async || {
        let snapshots = metrics(&late).await.snapshots;
        snapshots.position > 0 && snapshots.log_start >= snapshots.position
    })
    .await;
    replicas.push(late);
    machines.lose_power(replicas).await;
    let replicas = machines.start_all().await;
    same_digests(&replicas).await;
}

/// Waits until part of a snapshot has arrived, but not all of it. Returns the sender.
async fn half_way(late: &Replica<Kv>) -> usize {
    let start = std::time::Instant::now();
    loop {
        let core = late.status().await.unwrap().core;
        assert_eq!(
            core.as_ref().unwrap().installed,
            0,
            "the transfer was too quick to be interrupted"
        );
        if let Some(receiving) = core.unwrap().receiving.filter(|it| it.received > 0) {
            assert!(receiving.received < receiving.bytes, "the transfer was too quick");
            return receiving.from.index();
        }
        assert!(start.elapsed() < PATIENCE, "no snapshot comes");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_transfer_goes_on_or_begins_anew() {
    let machines = forgetful(3);
    let mut replicas = vec![machines.start(1).await, machines.start(2).await];
    write_under(&replicas[0], 2500, 2500).await;
    go_on_without(&replicas).await;

    // The receiver dies in the middle, twice.
    for _ in 0..2 {
        let late = machines.start(3).await;
        half_way(&late).await;
        late.kill();
        late.wait_stopped().await;
        machines.disks[2].lose_power();
    }
    // Then the sender dies.
    let late = machines.start(3).await;
    let from = half_way(&late).await;
    replicas[from].kill();
    replicas[from].wait_stopped().await;
    replicas[from] = machines.start(u32::try_from(from + 1).unwrap()).await;
    eventually("an install", async || late.status().await.unwrap().core.unwrap().installed > 0)
        .await;
    replicas.push(late);
    write(&replicas[2], 64).await;
    same_digests(&replicas).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_in_memory_help_who_comes_late() {
    let mut machines = forgetful(3);
    machines.durable = false;
    let replicas = vec![machines.start(1).await, machines.start(2).await];
    assert!(matches!(replicas[0].snapshot().await, Err(SnapshotError::InMemory)));
    let replicas = comes_late(&machines, replicas).await;
    assert!(machines.disks.iter().all(|disk| disk.files().is_empty()));
    let taken = async |at: usize| metrics(&replicas[at]).await.snapshots.taken;
    assert!(taken(0).await + taken(1).await > 0);
}
