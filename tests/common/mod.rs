//! What the tests of running clusters have in common.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by it, and says why")]

pub mod changes;
pub mod machines;
pub mod members;
pub mod processes;
pub mod recorded;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use isonomy::internals::protocol::epaxos::Record;
use isonomy::internals::storage::{FileDisk, LogOptions, SnapshotOptions, Store, StoreOptions};
use isonomy::machine::{Kv, KvCommand, KvOutput};
use isonomy::types::{MemberId, Timing};
use isonomy::{LocalCluster, Replica};

/// Long enough for any step, even on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

pub fn id(number: u32) -> MemberId {
    MemberId::new(number).expect("no member has the number 0")
}

pub fn put(key: &str, value: &str) -> KvCommand {
    KvCommand::Put { key: bytes(key), value: bytes(value) }
}

pub fn get(key: &str) -> KvCommand {
    KvCommand::Get { key: bytes(key) }
}

pub fn value(text: &str) -> KvOutput {
    KvOutput::Value(Some(bytes(text)))
}

/// Sets a key that has no value yet. If it were executed a second time, it would answer `Mismatch`.
pub fn create(key: &str, value: &str) -> KvCommand {
    KvCommand::Cas { key: bytes(key), expected: None, value: bytes(value) }
}

/// Time-outs that suspect a replica quickly, so that a crash costs little time.
pub fn hasty() -> Timing {
    Timing {
        suspect: Duration::from_millis(300),
        patience: Duration::from_millis(800),
        ..Timing::default()
    }
}

pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Checks that all live replicas hold the same state.
pub async fn assert_same(cluster: &LocalCluster<Kv>, live: usize) {
    let digests: Vec<u64> = cluster.digests().await.unwrap().into_values().collect();
    assert_eq!(digests.len(), live);
    assert!(digests.windows(2).all(|two| two[0] == two[1]), "{digests:?}");
}

/// Increases the number stored under a key by one, with a linearizable read and a compare and swap.
pub async fn increment(replica: &Replica<Kv>, key: &str) {
    loop {
        let KvOutput::Value(old) = replica.propose(get(key)).await.unwrap() else {
            panic!("a get answers with a value")
        };
        let number = old
            .as_deref()
            .map_or(0, |old| std::str::from_utf8(old).unwrap().parse::<u64>().unwrap());
        let value = bytes((number + 1).to_string());
        let cas = KvCommand::Cas { key: bytes(key), expected: old, value };
        if replica.propose(cas).await.unwrap() == KvOutput::Swapped {
            return;
        }
    }
}

/// Makes a directory with these records, as one of three replicas would leave it.
pub fn directory(path: &Path, cluster: &str, replica: MemberId, records: &[Record]) {
    let options = StoreOptions {
        cluster: cluster.to_owned(),
        replica,
        protocol: "epaxos".to_owned(),
        members: MemberId::all(3).collect(),
        joins: false,
        log: LogOptions::default(),
        snapshots: SnapshotOptions::default(),
    };
    let disk = FileDisk::open(path).unwrap();
    let opening = Store::open(Arc::new(disk), &options).unwrap();
    let mut store = opening.replay(&mut |_, _| Ok(())).unwrap();
    for record in records {
        let mut bytes = bytes::BytesMut::new();
        isonomy::internals::wire::encode_record(1, record, &mut bytes);
        store.log.append(&bytes).unwrap();
    }
    store.log.close().unwrap();
}
