//! Replicas that stop and start again in this process, on disks that fail when the test tells them
//! to.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::io;
use std::sync::{Arc, Condvar, Mutex};

use common::machines::{Machines, ROOM};
use common::*;
use isonomy::internals::storage::{Disk, DiskFile, FaultyDisk, Mode, Operation, StorageError};
use isonomy::machine::KvOutput;
use isonomy::node::ProtocolKind;
use isonomy::node::{Fault, ProposeError, Rejected, StartError};
use isonomy::types::{ClientId, Consistency, MemberId, RequestId};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_lose_power_and_every_answer_holds() {
    let machines = Machines::new(3);
    let mut replicas = machines.start_all().await;
    let request = |round: u64| RequestId::new(ClientId(7), round);
    for round in 1..=5 {
        for number in 1..=3 {
            let (key, replica) = (format!("k{round}/{number}"), &replicas[number - 1]);
            assert_eq!(replica.propose(create(&key, "v")).await, Ok(KvOutput::Swapped));
        }
        let key = format!("session{round}");
        let answer = replicas[0].submit(request(round), 1, create(&key, "v")).await;
        assert_eq!(answer, Ok(KvOutput::Swapped));
        machines.lose_power(replicas).await;

        replicas = machines.start_all().await;
        // The command was neither lost nor executed twice: a second execution would answer
        // `Mismatch`.
        let again = replicas[1].submit(request(round), 1, create(&key, "v")).await;
        assert_eq!(again, Ok(KvOutput::Swapped));
        for number in 1..=3 {
            let seen = replicas[2].propose(get(&format!("k{round}/{number}"))).await;
            assert_eq!(seen, Ok(value("v")));
        }
        let metrics = replicas[0].metrics().await.unwrap();
        let restored = metrics.log.restored;
        assert!(restored.records >= 4 * round && restored.bytes > restored.records, "{restored:?}");
    }
    eventually("one state", async || {
        let mut digests = Vec::new();
        for replica in &replicas {
            digests.push(replica.digest().await.unwrap());
        }
        digests.windows(2).all(|two| two[0] == two[1])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_fails_fences_the_replica_and_the_others_go_on() {
    for operation in [Operation::Sync, Operation::Write] {
        let machines = Machines::new(3);
        let replicas = machines.start_all().await;
        assert_eq!(replicas[0].propose(put("a", "1")).await, Ok(KvOutput::Done));
        machines.disks[0].fail_next(operation);
        let failed = replicas[0].propose(put("a", "2")).await;
        let Err(ProposeError::Fatal(why)) = failed else { panic!("{failed:?}") };
        assert!(why.starts_with("its storage failed: "), "{why}");
        replicas[0].wait_stopped().await;
        assert!(matches!(replicas[0].fault(), Some(Fault::Storage(StorageError::Io { .. }))));
        let late = replicas[0].read(get("a"), Consistency::Local).await;
        assert_eq!(late, Err(ProposeError::Fatal(why)));
        assert_eq!(replicas[1].propose(put("b", "1")).await, Ok(KvOutput::Done));
        // After a restart, it reads what is on its disk and takes part.
        let again = machines.start(1).await;
        assert_eq!(again.propose(get("b")).await, Ok(value("1")));
    }
}

#[tokio::test]
async fn many_commands_share_a_flush() {
    let machines = Machines::new(1);
    let replica = machines.start(1).await;
    let commands = (0..2_000).map(|number| {
        let replica = replica.clone();
        tokio::spawn(async move { replica.propose(put(&format!("k{number}"), "v")).await })
    });
    for command in commands.collect::<Vec<_>>() {
        assert_eq!(command.await.unwrap(), Ok(KvOutput::Done));
    }
    let log = replica.metrics().await.unwrap().log;
    assert!(log.flushes > 0 && log.flushes < 500, "{} flushes", log.flushes);
    assert!(log.records >= log.flushes && log.bytes_per_flush() > 200.0, "{log:?}");
    assert_eq!((log.unflushed_bytes, log.space_low), (0, false));
    assert!(log.latency.count() > 0 && log.latency.max() < PATIENCE);
}

#[tokio::test]
async fn a_disk_that_fills_up_turns_callers_away_before_it_is_full() {
    let mut machines = Machines::new(1);
    machines.limits.keep_free_bytes = 0;
    // Room for two segments, but not for a third.
    machines.disks[0].set_capacity(20 << 20);
    let replica = machines.start(1).await;
    let long = "x".repeat(100_000);
    let mut done = 0;
    let refused = loop {
        match replica.propose(put("key", &format!("{done}{long}"))).await {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
        assert!(done < 1_000, "it never gets full");
    };
    assert_eq!(refused, Rejected::DiskFull.into());
    assert!(done > 40, "{done}");
    assert!(replica.status().await.unwrap().space_low);
    assert!(replica.read(get("key"), Consistency::Local).await.is_ok());
    machines.disks[0].set_capacity(ROOM);
    eventually("room", async || replica.propose(put("key", "room")).await.is_ok()).await;
    assert!(!replica.status().await.unwrap().space_low);
    replica.shutdown().await;
    let again = machines.start(1).await;
    assert_eq!(again.propose(get("key")).await, Ok(value("room")));
}

/// Lets the disk take no more bytes and no more files.
fn fill_up(disk: &FaultyDisk) {
    let files = disk.files();
    disk.set_capacity(files.values().map(|bytes| bytes.len() as u64).sum());
    disk.set_most_files(files.len());
}

/// A replica without room for its votes takes no steps, says so, and does not use ever more memory.
/// The others keep working. When there is room again, it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_room_for_its_votes_stands_still_and_goes_on() {
    for protocol in [ProtocolKind::EPaxos, ProtocolKind::MultiPaxos] {
        let mut machines = Machines::new(3);
        machines.protocol = protocol;
        let replicas = machines.start_all().await;
        assert_eq!(replicas[0].propose(put("before", "1")).await, Ok(KvOutput::Done));
        // Another program takes all the room, and all the files.
        fill_up(&machines.disks[0]);
        let long = "x".repeat(100_000);
        let fill = async |number: usize| {
            let (key, other) = (format!("k{}", number % 10), &replicas[1 + number % 2]);
            let done = async || other.propose(put(&key, &long)).await.is_ok();
            eventually("the others do not need it", done).await;
        };
        let mut done = 0;
        let stands = async || replicas[0].status().await.unwrap();
        while !stands().await.waits_for_room {
            fill(done).await;
            done += 1;
            assert!(done < 1_000, "it never gets full");
        }
        let held = stands().await.unflushed_bytes;
        for number in 0..100 {
            fill(number).await;
        }
        let now = stands().await;
        assert!(now.waits_for_room && now.space_low, "{now:?}");
        assert_eq!(now.unflushed_bytes, held, "what it holds does not grow");
        let refused = replicas[0].propose(put("mine", "1")).await;
        assert_eq!(refused, Err(Rejected::DiskFull.into()));
        let seen = replicas[0].read(get("before"), Consistency::Local).await;
        assert_eq!(seen, Ok(value("1")));
        assert!(replicas[0].snapshot().await.is_err(), "nor is there room for a snapshot");

        machines.disks[0].set_capacity(ROOM);
        machines.disks[0].set_most_files(usize::MAX);
        eventually("room", async || replicas[0].propose(put("mine", "2")).await.is_ok()).await;
        assert!(!stands().await.waits_for_room);
        assert_eq!(replicas[0].propose(get("k1")).await, Ok(value(&long)));
        assert!(replicas[0].fault().is_none());
        // Everything that the replica said, before and after, is still there after a power loss
        // everywhere.
        machines.lose_power(replicas).await;
        let replicas = machines.start_all().await;
        assert_eq!(replicas[0].propose(get("mine")).await, Ok(value("2")));
        assert_eq!(replicas[0].propose(get("before")).await, Ok(value("1")));
    }
}

/// Only the log fills the disk, and it is not long enough to make a snapshot due.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_fills_its_disk_is_cut_by_itself() {
    let mut machines = Machines::new(3);
    machines.limits.keep_free_bytes = 40 << 20;
    let capacity = 80 << 20;
    machines.disks[0].set_capacity(capacity);
    machines.limits.snapshot_every = 1 << 40;
    let mut replicas = vec![machines.start(1).await];
    machines.limits.snapshot_every = 8 << 20;
    replicas.extend([machines.start(2).await, machines.start(3).await]);
    let long = "x".repeat(200_000);
    // Write three times the capacity of the disk.
    for number in 0..3 * capacity / 200_000 {
        // Replica 2's own disk may also be short of room for a moment, because its snapshots take
        // time. While replica 1 takes one, the quorum depends on replica 3, which may be late.
        let command = put(&format!("k{}", number % 4), &long);
        let done = async || match replicas[1].propose(command.clone()).await {
            Err(ProposeError::Rejected(Rejected::DiskFull | Rejected::NoQuorum(_))) => false,
            done => done.map(|_| true).expect("nothing else is wrong"),
        };
        eventually("a write at a replica with room", done).await;
    }
    let mine = async || replicas[0].propose(put("mine", "1")).await.is_ok();
    eventually("room that it made itself", mine).await;
    let metrics = replicas[0].metrics().await.unwrap();
    assert!(metrics.snapshots.taken >= 2 && metrics.snapshots.log_start > 0, "{metrics:?}");
}

/// A gate in front of the snapshot thread, which waits while the test keeps it closed.
#[derive(Clone, Debug, Default)]
struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Debug, Default)]
struct GateState {
    is_open: bool,
    somebody_waits: bool,
}

impl Gate {
    fn pass(&self) {
        let (state, opened) = &*self.0;
        let mut state = state.lock().unwrap();
        state.somebody_waits = true;
        drop(opened.wait_while(state, |state| !state.is_open).unwrap());
    }

    fn open(&self) {
        self.0.0.lock().unwrap().is_open = true;
        self.0.1.notify_all();
    }

    fn is_waited_at(&self) -> bool {
        self.0.0.lock().unwrap().somebody_waits
    }
}

/// Opens its gate when it is dropped. Otherwise a test that fails would wait for the snapshot
/// thread.
struct OpensAtTheEnd(Gate);

impl Drop for OpensAtTheEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A disk with a gate in front of every new snapshot.
#[derive(Debug)]
struct SlowSnapshots(FaultyDisk, Gate);

impl Disk for SlowSnapshots {
    fn open(&self, name: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        if mode == Mode::Create && name.starts_with("snapshot-unfinished") {
            self.1.pass();
        }
        self.0.open(name, mode)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.0.sync_directory()
    }

    fn free_space(&self) -> io::Result<u64> {
        self.0.free_space()
    }

    fn entropy(&self) -> u64 {
        self.0.entropy()
    }
}

/// A snapshot that will free room may take any time. The log does not use up the snapshot's room
/// meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_snapshot_on_a_disk_that_is_almost_full_finds_its_room() {
    let mut machines = Machines::new(3);
    machines.limits.keep_free_bytes = 40 << 20;
    machines.limits.inbox_bytes = 4 << 20;
    machines.limits.snapshot_every = 1 << 40;
    machines.disks[0].set_capacity(80 << 20);
    let gate = Gate::default();
    let slow = SlowSnapshots(machines.disks[0].clone(), gate.clone());
    let replica = machines.builder(1).disk(Arc::new(slow)).start().await.unwrap();
    machines.limits.snapshot_every = 8 << 20;
    let others = [machines.start(2).await, machines.start(3).await];
    let _opens = OpensAtTheEnd(gate.clone());
    let long = "x".repeat(200_000);
    let write = async |number: usize| {
        let command = put(&format!("k{}", number % 4), &long);
        let done = async || others[number % 2].propose(command.clone()).await.is_ok();
        eventually("a write at a replica with room", done).await;
    };
    let mut done = 0;
    while !gate.is_waited_at() {
        write(done).await;
        done += 1;
        assert!(done < 1_000, "it never takes a snapshot");
    }
    // More bytes of log than its disk has left.
    for number in 0..150 {
        write(number).await;
    }
    let now = replica.status().await.unwrap();
    assert!(now.space_low && !now.waits_for_room, "{now:?}");
    gate.open();
    let mine = async || replica.propose(put("mine", "1")).await.is_ok();
    eventually("room that it made itself", mine).await;
    // The replica may be short of room again for a moment, but it catches up.
    let seen = async || replica.propose(get("k1")).await == Ok(value(&long));
    eventually("what the others wrote", seen).await;
    assert!(replica.metrics().await.unwrap().snapshots.log_start > 0);
}

#[tokio::test]
async fn a_record_that_makes_no_sense_is_named() {
    let machines = Machines::new(1);
    let replica = machines.start(1).await;
    assert_eq!(replica.propose(put("a", "1")).await, Ok(KvOutput::Done));
    replica.shutdown().await;
    // The checksums of the log are right, but the record in it is not a replica's.
    {
        use isonomy::internals::storage::{Store, StoreOptions};
        let options = StoreOptions {
            cluster: "again".to_owned(),
            replica: MemberId::new(1).unwrap(),
            protocol: "epaxos".to_owned(),
            members: MemberId::all(1).collect(),
            joins: false,
            log: Default::default(),
            snapshots: Default::default(),
        };
        let disk = Arc::new(machines.disks[0].clone());
        let store = Store::open(disk, &options).unwrap().replay(&mut |_, _| Ok(()));
        let mut log = store.unwrap().log;
        log.append(b"nonsense").unwrap();
        log.close().unwrap();
    }
    let error = machines.try_start(1).await.unwrap_err();
    assert!(matches!(error, StartError::Storage { error: StorageError::Damaged { .. }, .. }));
    assert!(error.to_string().contains("makes no sense"), "{error}");
}
