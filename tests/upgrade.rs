//! Rolling upgrades. Replicas and clients of an earlier release, which speak only older versions,
//! work with those of this one. One after the other is replaced under load, and nothing that was
//! answered is lost or done twice. And what an earlier release has written is read.
//!
//! `tests/fixtures/release-0.1` has what the first release with members left: the directory of a
//! cluster's only replica for each protocol, with a snapshot and records after it; one after its
//! cluster had grown to two and shrunk again; and a backup of each version of that file, of EPaxos*
//! and of Multi-Paxos. The segments of the logs are cut off where only zeros follow.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::machines::Machines;
use common::{create, eventually, get, id, put, value};
use isonomy::Replica;
use isonomy::client::{Client, ClientConfig, NoBackup};
use isonomy::internals::storage::Identity;
use isonomy::internals::wire::CLIENT_VERSIONS;
use isonomy::machine::{Kv, KvOutput};
use isonomy::network::Authority;
use isonomy::node::{ProtocolKind, RestoreOptions, Source, restore};
use isonomy::types::{ClientId, RequestId, Versions};

/// The length of each segment of the log.
const SEGMENT: u64 = 16 << 20;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/release-0.1").join(name)
}

/// A copy of a directory, with logs of their full length.
fn copy(name: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        let to = home.path().join(entry.file_name());
        fs::copy(entry.path(), &to).unwrap();
        if entry.file_name().to_string_lossy().starts_with("log-") {
            fs::OpenOptions::new().write(true).open(to).unwrap().set_len(SEGMENT).unwrap();
        }
    }
    home
}

async fn alone(directory: &Path, protocol: ProtocolKind) -> Replica<Kv> {
    let authority = Authority::new("kept").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    Replica::builder(Kv::new())
        .cluster("kept")
        .id(1)
        .protocol(protocol)
        .peers([(1, socket.local_addr().unwrap())])
        .socket(socket)
        .tls(authority.issue_replica(id(1)).unwrap().credentials().unwrap())
        .data_dir(directory)
        .start()
        .await
        .unwrap()
}

/// Everything is there that was answered, and it goes on, also after a restart.
async fn goes_on(directory: &Path, protocol: ProtocolKind, holds: &[(&str, Option<&str>)]) {
    for life in 0..2 {
        let replica = alone(directory, protocol).await;
        for (key, expected) in holds {
            let found = replica.propose(get(key)).await.unwrap();
            let expected = expected.map_or(KvOutput::Value(None), value);
            assert_eq!(found, expected, "{protocol}, {key}, life {life}");
        }
        let written = replica.propose(put("new", &life.to_string())).await;
        assert_eq!(written, Ok(KvOutput::Done));
        replica.snapshot().await.unwrap();
        assert_eq!(replica.propose(get("new")).await, Ok(value(&life.to_string())));
        replica.shutdown().await;
    }
}

const KEPT: [(&str, Option<&str>); 7] = [
    ("in-snapshot1", Some("v1")),
    ("in-snapshot2", Some("v2")),
    ("in-snapshot3", Some("v3")),
    ("once", Some("v")),
    ("in-log1", Some("v1")),
    ("in-log2", Some("v2")),
    ("in-log3", None),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_each_protocol_is_gone_on_from() {
    for protocol in ProtocolKind::ALL {
        let home = copy(protocol.name());
        let disk = isonomy::internals::storage::FileDisk::read_only(home.path()).unwrap();
        let identity = Identity::read(&disk).unwrap().unwrap();
        assert_eq!((identity.replica, identity.protocol.as_str()), (id(1), protocol.name()));
        goes_on(home.path(), *protocol, &KEPT).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_after_changes_of_the_members_is_gone_on_from() {
    let home = copy("changed");
    let holds = [("first", Some("v1")), ("second", Some("v2")), ("third", Some("v3"))];
    goes_on(home.path(), ProtocolKind::EPaxos, &holds).await;
    let replica = alone(home.path(), ProtocolKind::EPaxos).await;
    let list = replica.members().await.unwrap().list.unwrap();
    assert_eq!((list.epoch(), list.len()), (2, 1));
    replica.shutdown().await;
}

/// Its replica had no member but itself. It is restored as it was, and into a cluster of another
/// size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_restored() {
    for (file, protocol) in
        [("backup-2", ProtocolKind::EPaxos), ("backup-3", ProtocolKind::MultiPaxos)]
    {
        is_restored(&fixture(file), protocol).await;
    }
}

async fn is_restored(file: &Path, protocol: ProtocolKind) {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("as-it-was");
    let options = RestoreOptions::default();
    let made = restore::<Kv>(file, &directory, id(1), &options).unwrap();
    assert_eq!((made.source, made.protocol), (Source::Stopped, protocol));
    goes_on(&directory, protocol, &KEPT).await;

    let members = (1..=3).map(id).collect();
    let options = RestoreOptions { members };
    let machines = Machines { protocol, ..Machines::named("kept", 3) };
    let mut replicas = Vec::new();
    for number in 1..=3 {
        let directory = home.path().join(number.to_string());
        let made = restore::<Kv>(file, &directory, id(number), &options).unwrap();
        assert_eq!(made.members.len(), 3);
        replicas.push(machines.builder(number).data_dir(directory).start().await.unwrap());
    }
    for (replica, (key, expected)) in replicas.iter().cycle().zip(KEPT) {
        let expected = expected.map_or(KvOutput::Value(None), value);
        assert_eq!(replica.propose(get(key)).await, Ok(expected), "{key}");
    }
    stop(&replicas).await;
}

async fn stop(replicas: &[Replica<Kv>]) {
    for replica in replicas {
        replica.shutdown().await;
    }
}

/// Clients that write ascending numbers, each under a key of its own, and each at all replicas.
struct Writers {
    answered: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Writers {
    async fn begin(machines: &Machines, count: u64) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut answered, mut tasks) = (Vec::new(), Vec::new());
        for name in 0..count {
            let mut config = client_config(machines, &format!("writer{name}"));
            if name % 2 == 0 {
                config.network.frames = Versions::only(CLIENT_VERSIONS.oldest);
            }
            let client = Client::<Kv>::connect(config).await.unwrap();
            let (told, over) = (Arc::new(AtomicU64::new(0)), Arc::clone(&stop));
            answered.push(Arc::clone(&told));
            tasks.push(tokio::spawn(async move {
                for number in 1.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    // Done twice, the second would find another value than it expects.
                    let key = format!("own{name}/{number}");
                    assert_eq!(client.execute(create(&key, "v")).await, Ok(KvOutput::Swapped));
                    told.store(number, Ordering::SeqCst);
                }
            }));
        }
        Writers { answered, stop, tasks }
    }

    fn counts(&self) -> Vec<u64> {
        self.answered.iter().map(|it| it.load(Ordering::SeqCst)).collect()
    }

    /// Waits until each has had some more answered.
    async fn go_on(&self) {
        let before = self.counts();
        eventually("answers", async || {
            self.counts().iter().zip(&before).all(|(now, before)| *now > before + 5)
        })
        .await;
    }

    /// Ends, and finds everything that was answered at every replica.
    async fn end(self, replicas: &[Replica<Kv>]) {
        self.stop.store(true, Ordering::Relaxed);
        let answered = self.answered;
        for task in self.tasks {
            task.await.unwrap();
        }
        for replica in replicas {
            for (name, told) in answered.iter().enumerate() {
                for number in 1..=told.load(Ordering::SeqCst) {
                    let key = format!("own{name}/{number}");
                    assert_eq!(replica.propose(get(&key)).await, Ok(value("v")), "{key}");
                }
            }
        }
    }
}

fn client_config(machines: &Machines, name: &str) -> ClientConfig {
    let credentials = machines.authority.issue_client(name).unwrap().credentials().unwrap();
    let addresses = (1..).map(id).zip(machines.addrs.iter().copied());
    let mut config = ClientConfig::new(machines.authority.cluster(), name, credentials, addresses);
    config.patience = common::PATIENCE;
    config.attempt = std::time::Duration::from_millis(500);
    config
}

/// One replica after the other is restarted as one of this release, and then all of them once more
/// the other way, as when an upgrade is undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_two_releases_work_together_while_one_after_the_other_is_replaced() {
    for protocol in ProtocolKind::ALL {
        let machines = Machines { protocol: *protocol, ..Machines::new(3) };
        let start = async |number: u32, is_old: bool| {
            let old = |number| machines.builder(number).oldest_frames();
            let builder = if is_old { old(number) } else { machines.builder(number) };
            let disk = Arc::new(machines.disks[number as usize - 1].clone());
            builder.disk(disk).start().await.unwrap()
        };
        let mut replicas = Vec::new();
        for number in 1..=3 {
            replicas.push(start(number, true).await);
        }
        let answer = replicas[0].submit(RequestId::new(ClientId(7), 1), 1, create("c", "v")).await;
        assert_eq!(answer, Ok(KvOutput::Swapped));
        let writers = Writers::begin(&machines, 6).await;
        // To undo it is the same for every protocol.
        let ways: &[bool] =
            if *protocol == ProtocolKind::EPaxos { &[false, true] } else { &[false] };
        for &is_old in ways {
            for number in 1..=3 {
                writers.go_on().await;
                let at = number as usize - 1;
                replicas[at].shutdown().await;
                writers.go_on().await;
                replicas[at] = start(number, is_old).await;
                assert!(replicas[at].wait_connected(2).await, "both others are of either release");
            }
            writers.go_on().await;
        }
        let answer = replicas[2].submit(RequestId::new(ClientId(7), 1), 1, create("c", "v")).await;
        assert_eq!(answer, Ok(KvOutput::Swapped), "it is not done twice");
        writers.end(&replicas).await;
        stop(&replicas).await;
    }
}

/// What an older end cannot do is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_end_is_asked_for_nothing_that_it_does_not_know() {
    let machines = Machines::new(1);
    let disk = Arc::new(machines.disks[0].clone());
    let replica = machines.builder(1).oldest_frames().disk(disk).start().await.unwrap();
    let mut config = client_config(&machines, "new");
    config.patience = std::time::Duration::from_secs(1);
    let client = Client::<Kv>::connect(config.clone()).await.unwrap();
    assert_eq!(client.execute(put("k", "v")).await, Ok(KvOutput::Done));
    let home = tempfile::tempdir().unwrap();
    let refused = client.backup(home.path().join("file"), false).await.unwrap_err();
    assert!(matches!(refused, NoBackup::Client(_)), "{refused}");
    assert!(refused.to_string().contains("r1 is of an older release"), "{refused}");
    assert_eq!(client.execute(put("k", "w")).await, Ok(KvOutput::Done), "it goes on");

    // No version in common.
    config.network.frames = Versions { oldest: 9, newest: 10 };
    let refused = Client::<Kv>::connect(config).await.unwrap_err().to_string();
    for words in ["the client speaks versions 9 to 10", "the replica version 2", "upgrade"] {
        assert!(refused.contains(words), "{words} in {refused}");
    }
    replica.shutdown().await;
}
