//! What a command produces: answers have a limited length and are made only where a caller waits.
//! Also commands that make a state machine fail.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::*;
use isonomy::machine::{
    Kv, KvCommand, KvOutput, MAX_ANSWER, RestoreError, StateMachine, decode, encode,
};
use isonomy::node::{
    BackupError, BackupOptions, Durability, Fault, Inspection, ProposeError, Rejected, StartError,
    backup,
};
use isonomy::types::{ClientId, Consistency, Footprint, RequestId};
use isonomy::{LocalCluster, Replica};

const REQUEST: RequestId = RequestId::new(ClientId(0x1f), 1);
/// The number that makes [`Adder`] panic.
const POISON: u64 = u64::MAX;

/// A sum. It counts the reads it is asked for, and waits at each command until the test lets it go
/// on.
struct Adder {
    sum: u64,
    reads: Arc<AtomicUsize>,
    gate: Option<Arc<Mutex<Receiver<()>>>>,
}

#[derive(serde::Serialize, serde::Deserialize)]
enum Adding {
    Sum,
    Add(u64),
    /// Adds 1, and answers with this many bytes.
    Loud(usize),
}

impl Adder {
    fn new() -> Adder {
        Adder { sum: 0, reads: Arc::default(), gate: None }
    }
}

impl StateMachine for Adder {
    type Command = Adding;
    type Output = (u64, Bytes);

    fn footprint(command: &Adding) -> Footprint {
        match command {
            Adding::Sum => Footprint::read(b"sum"),
            Adding::Add(_) | Adding::Loud(_) => Footprint::write(b"sum"),
        }
    }

    fn apply(&mut self, command: Adding) -> (u64, Bytes) {
        if let Some(gate) = &self.gate {
            // An error means that the sender is gone: go on.
            let _ = gate.lock().unwrap().recv();
        }
        let mut long = Bytes::new();
        match command {
            Adding::Sum => drop(self.reads.fetch_add(1, Ordering::Relaxed)),
            Adding::Add(POISON) => panic!("too much for me"),
            Adding::Add(number) => self.sum += number,
            Adding::Loud(bytes) => {
                self.sum += 1;
                long = vec![7; bytes].into();
            }
        }
        (self.sum, long)
    }

    fn snapshot(&self) -> Vec<u8> {
        encode(&self.sum).unwrap().into()
    }

    fn restore(snapshot: &[u8]) -> Result<Adder, RestoreError> {
        Ok(Adder { sum: decode(snapshot)?, ..Adder::new() })
    }
}

async fn add(replica: &Replica<Adder>, number: u64) -> u64 {
    replica.propose(Adding::Add(number)).await.unwrap().0
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_a_definite_error_at_every_replica() {
    let cluster = LocalCluster::of(3, |_| Adder::new()).start().await.unwrap();
    // The sum and the length come before the bytes.
    let longest = MAX_ANSWER - 5;
    for (replica, before) in cluster.replicas().iter().zip([0, 2, 4]) {
        let over = replica.propose(Adding::Loud(longest + 1)).await.unwrap_err();
        let (bytes, limit) = (MAX_ANSWER + 1, MAX_ANSWER);
        assert_eq!(over, ProposeError::AnswerTooLarge { bytes, limit });
        let words = "executed, but its answer of 4194305 bytes is over the limit of 4194304";
        assert_eq!(over.to_string(), words);
        let fits = replica.propose(Adding::Loud(longest)).await.unwrap();
        assert_eq!((fits.0, fits.1.len()), (before + 2, longest), "both had their effect");
    }
    let digests = cluster.digests().await.unwrap();
    assert!(digests.values().all(|digest| Some(digest) == digests.values().next()));
}

#[tokio::test]
async fn a_read_is_executed_for_whoever_asks_and_nowhere_else() {
    let counters: [Arc<AtomicUsize>; 3] = Default::default();
    let machines = counters.clone();
    let build = LocalCluster::of(3, move |id| {
        let reads = Arc::clone(&machines[id.number() as usize - 1]);
        Adder { reads, ..Adder::new() }
    });
    let cluster = build.start().await.unwrap();
    assert_eq!(add(cluster.replica(1), 1).await, 1);
    for _ in 0..20 {
        let read = cluster.replica(2).read(Adding::Sum, Consistency::Linearizable).await;
        assert_eq!(read.unwrap().0, 1);
    }
    assert_eq!(add(cluster.replica(3), 1).await, 2);
    cluster.digests().await.unwrap();
    let reads = counters.map(|reads| reads.load(Ordering::Relaxed));
    assert_eq!(reads, [0, 20, 0]);
}

fn skipping() -> BackupOptions {
    BackupOptions { skip: BTreeSet::from([REQUEST]), ..BackupOptions::default() }
}

async fn start(dir: &Path, skip: Option<RequestId>) -> Result<LocalCluster<Adder>, StartError> {
    let build = LocalCluster::of(3, |_| Adder::new()).timing(hasty());
    let build = build.data_dirs(dir, Durability::Os).configure(move |replica| match skip {
        Some(request) => replica.skip(request),
        None => replica,
    });
    build.start().await
}

/// The way out when a log stops every replica at every start: the panic names the command, all
/// replicas are started once without it, and they remember that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_no_replica_survives_is_named_and_can_be_skipped() {
    let home = tempfile::tempdir().unwrap();
    let (dir, file) = (home.path().join("data"), |name: &str| home.path().join(name));
    let cluster = start(&dir, None).await.unwrap();
    assert_eq!(add(cluster.replica(2), 5).await, 5);
    let poisoned = cluster.replica(1).submit(REQUEST, 1, Adding::Add(POISON)).await;
    assert!(poisoned.is_err());
    let mut digests = BTreeSet::new();
    for replica in cluster.replicas() {
        replica.wait_stopped().await;
        let fault = replica.fault();
        let Some(Fault::Poisoned(command)) = fault else { panic!("{fault:?}") };
        assert_eq!((command.request, command.panic.as_str()), (REQUEST, "too much for me"));
        digests.insert((command.instance, command.bytes, command.digest));
    }
    assert_eq!(digests.len(), 1, "all of them at the same: {digests:?}");
    drop(cluster);

    let error = start(&dir, None).await.map(drop).unwrap_err();
    let StartError::Restore(Fault::Poisoned(command)) = &error else { panic!("{error}") };
    assert_eq!(command.request, REQUEST);
    let words = error.to_string();
    assert!(words.contains("request c1f#1 in instance r1.1"), "{words}");
    let error = backup(Adder::new(), dir.join("1"), file("a"), &BackupOptions::default());
    let error = error.unwrap_err();
    assert!(matches!(&error, BackupError::Poisoned { command, .. } if command.request == REQUEST));
    backup(Adder::new(), dir.join("1"), file("a"), &skipping()).unwrap();

    let cluster = start(&dir, Some(REQUEST)).await.unwrap();
    assert_eq!(add(cluster.replica(3), 6).await, 11, "all but that was executed");
    let retried = cluster.replica(2).submit(REQUEST, 1, Adding::Add(POISON)).await;
    let Err(ProposeError::Rejected(Rejected::BadCommand(why))) = retried else {
        panic!("{retried:?}")
    };
    assert!(why.contains("skipped"), "{why}");
    cluster.digests().await.unwrap();
    cluster.shutdown().await;
    drop(cluster);

    let cluster = start(&dir, None).await.unwrap();
    assert_eq!(add(cluster.replica(1), 1).await, 12, "they remember");
    cluster.shutdown().await;
    drop(cluster);
    let inspected = Inspection::of(dir.join("1")).unwrap();
    assert_eq!((inspected.skipped, inspected.last_command), (BTreeSet::from([REQUEST]), None));
    backup(Adder::new(), dir.join("1"), file("b"), &BackupOptions::default()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_a_snapshot_cannot_be_skipped_any_more() {
    let home = tempfile::tempdir().unwrap();
    let cluster = start(home.path(), None).await.unwrap();
    let done = cluster.replica(1).submit(REQUEST, 1, Adding::Add(3)).await;
    assert_eq!(done.unwrap().0, 3);
    cluster.replica(1).snapshot().await.unwrap();
    cluster.shutdown().await;
    drop(cluster);
    let error = start(home.path(), Some(REQUEST)).await.map(drop).unwrap_err();
    assert!(matches!(error, StartError::TooLateToSkip { request: REQUEST }), "{error}");
    let late = backup(Adder::new(), home.path().join("1"), home.path().join("b"), &skipping());
    assert!(matches!(late, Err(BackupError::TooLateToSkip { request: REQUEST, .. })), "{late:?}");
    // The failed start has noted nothing that would change the replica.
    let cluster = start(home.path(), None).await.unwrap();
    assert_eq!(add(cluster.replica(2), 1).await, 4);
}

/// A process that aborts cannot say which command it was executing, so the directory has to tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_ends_the_process_can_be_found() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("1");
    let last = || Inspection::of(&dir).ok().and_then(|found| found.last_command);
    for lives in 1..=2 {
        let (go, gate): (Sender<()>, Receiver<()>) = channel();
        let gate = Arc::new(Mutex::new(gate));
        let build =
            LocalCluster::of(1, move |_| Adder { gate: Some(Arc::clone(&gate)), ..Adder::new() });
        let build = build.data_dirs(home.path(), Durability::Os);
        // At the second start, the replica is not ready before the log is read.
        let started = tokio::spawn(async move {
            let cluster = build.start().await.unwrap();
            if lives == 1 {
                let replica = cluster.replica(1).clone();
                tokio::spawn(async move { replica.submit(REQUEST, 1, Adding::Add(1)).await });
            }
            cluster
        });
        eventually("the machine is at the command", async || {
            last().is_some_and(|last| last.lives == lives)
        })
        .await;
        let found = last().unwrap();
        assert_eq!((found.request, found.instance.as_str()), (REQUEST, "r1.1"));
        if lives == 1 {
            let cluster = started.await.unwrap();
            cluster.crash(1);
            drop(go);
            cluster.replica(1).wait_stopped().await;
            assert_eq!(last().map(|last| last.lives), Some(1), "it is left for the next");
        } else {
            drop(go);
            let _cluster = started.await.unwrap();
            eventually("it has got past it", async || last().is_none()).await;
        }
    }
}

fn many(key: &str, count: usize) -> KvCommand {
    KvCommand::GetMany { keys: vec![bytes(key); count] }
}

/// The most memory that a process has used so far, in bytes.
#[cfg(target_os = "linux")]
fn peak(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A request of 80 kB could ask for 20 GB, which ended every replica at every start.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_request_for_a_long_answer_ends_nobody() {
    let mut cluster = processes::Cluster::start(3);
    let client = cluster.connect(1..=3).await;
    let long = Bytes::from(vec![7; (4 << 20) - 64]);
    let put = |key: &str, value: Bytes| KvCommand::Put { key: bytes(key), value };
    assert_eq!(client.execute(put("long", long.clone())).await, Ok(KvOutput::Done));
    for (number, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let value = Bytes::from(vec![u8::try_from(number).unwrap(); 1 << 20]);
        assert_eq!(client.execute(put(key, value)).await, Ok(KvOutput::Done));
    }
    let ask = async |command: fn() -> KvCommand, expected: KvOutput| {
        for consistency in [Consistency::Linearizable, Consistency::Local] {
            assert_eq!(client.read(command(), consistency).await, Ok(expected.clone()));
        }
        assert_eq!(client.execute(command()).await, Ok(expected));
    };
    let limit = MAX_ANSWER as u64;
    ask(|| get("long"), KvOutput::Value(Some(long))).await;
    // Each name counts, even if it is the same key again: one name used to take 16 bytes for as
    // long as the command was kept.
    let why = "the command names 5000 keys; at most 4096 are allowed".to_owned();
    let refused = Err(isonomy::client::Rejected::BadCommand(why).into());
    assert_eq!(client.execute(many("long", 5000)).await, refused);
    for consistency in [Consistency::Linearizable, Consistency::Local] {
        assert_eq!(client.read(many("long", 5000), consistency).await, refused);
    }
    let entries = vec![(bytes("long"), bytes("short")); 5000];
    assert_eq!(client.execute(KvCommand::PutMany { entries }).await, refused);
    let bytes = 3 + 4096 * (1 + 4 + (4 << 20) - 64);
    ask(|| many("long", 4096), KvOutput::TooLarge { bytes, limit }).await;
    let four = || KvCommand::GetMany { keys: ["a", "b", "c", "d"].map(common::bytes).to_vec() };
    ask(four, KvOutput::TooLarge { bytes: 2 + 4 * (1 + 3 + (1 << 20)), limit }).await;
    let three = || KvCommand::GetMany { keys: ["a", "b", "c"].map(common::bytes).to_vec() };
    let Ok(KvOutput::Values(values)) = client.execute(three()).await else { panic!("values") };
    assert!(values.iter().flatten().all(|value| value.len() == 1 << 20));
    client.close().await;
    for number in 1..=3 {
        let most = peak(cluster.process(number).id());
        assert!(most < 1 << 30, "replica {number} has taken {most} bytes");
    }
    cluster.kill(&[1, 2, 3]);
    let made = processes::isonomy()
        .arg("backup")
        .args([cluster.data(1), cluster.dir.join("backup")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    cluster.serve_all();
    let client = cluster.connect(1..=3).await;
    assert_eq!(client.execute(common::put("a", "1")).await, Ok(KvOutput::Done));
    client.close().await;
}

/// Frames that are too short for the longest answer are refused at the start, not discovered later.
#[tokio::test]
async fn frames_too_short_for_an_answer_are_refused() {
    let mut limits = isonomy::node::Limits::default();
    limits.mesh.client_frame_bytes = MAX_ANSWER;
    let error = LocalCluster::<Kv>::builder(1).limits(limits).start().await.map(drop).unwrap_err();
    assert!(error.to_string().contains("`mesh.client_frame_bytes`"), "{error}");
    let cluster = LocalCluster::<Kv>::start(1).await.unwrap();
    let credentials = cluster.client_credentials("c").unwrap();
    let name = LocalCluster::<Kv>::NAME;
    let mut config = isonomy::client::ClientConfig::new(name, "c", credentials, cluster.addrs());
    config.network.limits.client_frame_bytes = MAX_ANSWER;
    let error = isonomy::client::Client::<Kv>::connect(config).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("client_frame_bytes"), "{error}");
}
