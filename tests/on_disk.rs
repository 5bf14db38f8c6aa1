//! A state machine that keeps its state on disk itself: the order of its part of a snapshot and the
//! replica's, with an end at each step, and states that move between the two kinds of store.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::{PATIENCE, bytes, eventually, get, hasty, put, value};
use isonomy::Replica;
use isonomy::machine::{
    Checkpoint, Kv, KvCommand, KvOutput, MachineSource, RedbKv, RedbOptions, RedbSource,
    RestoreError, StateMachine, View,
};
use isonomy::network::Authority;
use isonomy::node::{
    Fault, Limits, ProposeError, ReplicaBuilder, SnapshotError, SnapshotInfo, StartError,
};
use isonomy::types::{Footprint, MemberId};

const SMALL: RedbOptions = RedbOptions { cache_bytes: 4 << 20, changes_bytes: 4 << 20 };

/// What happens when a checkpoint is written.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Writes,
    Waits,
    Full,
    /// The disk fails before or after the checkpoint is durable.
    FailsBefore,
    FailsAfter,
}

type Control = Arc<(Mutex<Way>, Condvar)>;

fn set(control: &Control, way: Way) {
    *control.0.lock().unwrap() = way;
    control.1.notify_all();
}

/// Stores on redb whose checkpoints do what the control says.
#[derive(Debug)]
struct Source {
    redb: RedbSource,
    control: Control,
}

struct Store {
    redb: RedbKv,
    control: Control,
}

impl Source {
    fn store(&self, redb: RedbKv) -> Store {
        Store { redb, control: Arc::clone(&self.control) }
    }
}

impl MachineSource for Source {
    type Machine = Store;

    fn checkpoints(&self) -> io::Result<Vec<u64>> {
        self.redb.checkpoints()
    }

    fn open(&self, checkpoint: Option<u64>) -> io::Result<Store> {
        Ok(self.store(self.redb.open(checkpoint)?))
    }

    fn restore_from(&self, from: &mut dyn Read) -> Result<Store, RestoreError> {
        Ok(self.store(self.redb.restore_from(from)?))
    }
}

impl StateMachine for Store {
    type Command = KvCommand;
    type Output = KvOutput;

    fn footprint(command: &KvCommand) -> Footprint {
        Kv::footprint(command)
    }

    fn apply(&mut self, command: KvCommand) -> KvOutput {
        self.redb.apply(command)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.redb.snapshot()
    }

    fn restore(_: &[u8]) -> Result<Store, RestoreError> {
        Err(RestoreError::new("only a source knows the disk"))
    }

    fn view(&self) -> View {
        self.redb.view()
    }

    fn wants_checkpoint(&self) -> bool {
        self.redb.wants_checkpoint()
    }

    fn freeze(&mut self, number: u64) -> Option<Checkpoint> {
        let (inner, control) = (self.redb.freeze(number)?, Arc::clone(&self.control));
        Some(Checkpoint::new(move || {
            let waits = |way: &mut Way| *way == Way::Waits;
            let way = control.0.lock().unwrap();
            let way = *control.1.wait_timeout_while(way, PATIENCE, waits).unwrap().0;
            match way {
                Way::Full => return Err(io::ErrorKind::StorageFull.into()),
                Way::FailsBefore => return Err(io::Error::other("the power is off")),
                _ => inner.write()?,
            }
            if way == Way::FailsAfter {
                return Err(io::Error::other("the power is off"));
            }
            Ok(())
        }))
    }
}

/// The only replica of a cluster, in a directory.
struct Place {
    temporary: tempfile::TempDir,
    authority: Authority,
    control: Control,
}

impl Place {
    fn new() -> Place {
        let control = Arc::new((Mutex::new(Way::Writes), Condvar::new()));
        let authority = Authority::new("disk").unwrap();
        Place { temporary: tempfile::tempdir().unwrap(), authority, control }
    }

    fn data(&self) -> PathBuf {
        self.temporary.path().join("data")
    }

    fn source(&self) -> Source {
        let redb = RedbSource::new(self.data().join("state"), SMALL);
        Source { redb, control: Arc::clone(&self.control) }
    }

    fn with<S: StateMachine>(&self, builder: ReplicaBuilder<S>) -> ReplicaBuilder<S> {
        let credentials = self.authority.issue_replica(MemberId::new(1).unwrap()).unwrap();
        builder
            .cluster("disk")
            .id(1)
            .tls(credentials.credentials().unwrap())
            .timing(hasty())
            .limits(Limits { segment_bytes: 8 << 20, ..Limits::default() })
            .data_dir(self.data())
    }

    async fn start(&self) -> Replica<Store> {
        self.with(Replica::builder_from(self.source())).start().await.unwrap()
    }

    /// The replica's files that begin like this.
    fn files(&self, prefix: &str) -> Vec<String> {
        names(&self.data(), prefix)
    }
}

fn names(directory: &Path, prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

/// A value that is much longer than everything else in a snapshot.
fn long(number: usize) -> String {
    format!("{number} {}", "x".repeat(100_000))
}

/// Proposes a command until the replica has reached the others.
async fn propose<S: StateMachine<Command = KvCommand, Output = KvOutput>>(
    replica: &Replica<S>,
    command: KvCommand,
) -> KvOutput {
    let start = std::time::Instant::now();
    loop {
        match replica.propose(command.clone()).await {
            Ok(output) => return output,
            Err(ProposeError::Rejected(why)) => assert!(start.elapsed() < PATIENCE, "{why}"),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Takes a snapshot once the protocol keeps nothing of what was decided, and only then is its part
/// short.
async fn short_snapshot(replica: &Replica<Store>) -> SnapshotInfo {
    let mut last = None;
    eventually("a snapshot without the state", async || {
        let taken = replica.snapshot().await.unwrap();
        let bytes = taken.bytes;
        last = Some(taken);
        bytes < 10_000
    })
    .await;
    last.unwrap()
}

async fn fill<S: StateMachine<Command = KvCommand, Output = KvOutput>>(
    replica: &Replica<S>,
    keys: std::ops::Range<usize>,
) {
    for number in keys {
        let put = put(&format!("k{number}"), &long(number));
        assert_eq!(propose(replica, put).await, KvOutput::Done);
    }
}

async fn check<S: StateMachine<Command = KvCommand, Output = KvOutput>>(
    replica: &Replica<S>,
    keys: std::ops::Range<usize>,
) {
    for number in keys {
        let found = propose(replica, get(&format!("k{number}"))).await;
        assert_eq!(found, value(&long(number)), "k{number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_has_no_state_and_the_log_before_it_goes() {
    let place = Place::new();
    let replica = place.start().await;
    fill(&replica, 0..20).await;
    short_snapshot(&replica).await;
    fill(&replica, 10..130).await;
    let second = short_snapshot(&replica).await;
    // An older one cannot be used any more: the machine has moved on.
    assert_eq!(place.files("snapshot-0"), [second.file.as_str()]);
    // As far as it consists of whole files.
    let cut = async || replica.metrics().await.unwrap().snapshots.log_start > 0;
    eventually("the log is cut", cut).await;
    fill(&replica, 120..135).await;
    replica.kill();
    replica.wait_stopped().await;
    let replica = place.start().await;
    check(&replica, 0..135).await;
    replica.shutdown().await;
    // The only snapshot is damaged: nothing may be guessed.
    let path = place.data().join(&second.file);
    let mut damaged = std::fs::read(&path).unwrap();
    damaged[90] ^= 0x10;
    std::fs::write(&path, damaged).unwrap();
    let error = place.with(Replica::builder_from(place.source())).start().await.unwrap_err();
    assert!(matches!(&error, StartError::Storage { .. }), "{error}");
    assert!(error.to_string().contains(&second.file), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_between_the_two_parts_of_a_snapshot_leaves_one_or_the_other() {
    for way in [Way::FailsBefore, Way::FailsAfter] {
        let place = Place::new();
        let replica = place.start().await;
        fill(&replica, 0..10).await;
        let first = replica.snapshot().await.unwrap();
        fill(&replica, 5..15).await;
        set(&place.control, way);
        replica.snapshot().await.unwrap_err();
        // After a failed flush nobody knows what is durable.
        replica.wait_stopped().await;
        let fault = replica.fault().unwrap();
        assert!(matches!(fault, Fault::Storage(_)), "{fault}");
        assert!(fault.to_string().contains("the power is off"), "{fault}");
        // This replica's part was durable before.
        assert_eq!(place.files("snapshot-prepared-").len(), 1);
        assert_eq!(place.files("snapshot-0"), [first.file.as_str()]);
        // A replica that cannot know is refused, and does no harm.
        let error = place.with(Replica::builder(Kv::new())).start().await.unwrap_err();
        assert!(error.to_string().contains("that keeps it on disk itself"), "{error}");

        set(&place.control, Way::Writes);
        let replica = place.start().await;
        assert!(place.files("snapshot-prepared-").is_empty());
        let whole = place.files("snapshot-0");
        assert_eq!(whole == [first.file.as_str()], way == Way::FailsBefore, "{whole:?}");
        assert_eq!(whole.len(), 1);
        check(&replica, 0..15).await;
        fill(&replica, 15..20).await;
        replica.snapshot().await.unwrap();
        replica.kill();
        replica.wait_stopped().await;
        let replica = place.start().await;
        check(&replica, 0..20).await;
        replica.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_go_on_while_a_checkpoint_is_written_and_when_the_disk_is_full() {
    let place = Place::new();
    let replica = place.start().await;
    fill(&replica, 0..5).await;
    set(&place.control, Way::Waits);
    let asked = tokio::spawn({
        let replica = replica.clone();
        async move { replica.snapshot().await }
    });
    let prepared = async || !place.files("snapshot-prepared-").is_empty();
    eventually("it is written", prepared).await;
    fill(&replica, 5..10).await;
    check(&replica, 0..10).await;
    assert!(!asked.is_finished());
    set(&place.control, Way::Full);
    let error = asked.await.unwrap().unwrap_err();
    assert!(matches!(&error, SnapshotError::Failed(why) if why.is_full()), "{error}");
    assert!(place.files("snapshot-").iter().all(|name| name.starts_with("snapshot-spare")));
    check(&replica, 0..10).await;
    set(&place.control, Way::Writes);
    // The next one has what was frozen for this one, too.
    replica.snapshot().await.unwrap();
    fill(&replica, 10..12).await;
    replica.kill();
    replica.wait_stopped().await;
    let replica = place.start().await;
    check(&replica, 0..12).await;
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_changes_in_memory_bring_a_checkpoint() {
    let place = Place::new();
    let replica = place.start().await;
    // 4 MiB are allowed, and 64 MiB of log would pass without a snapshot.
    fill(&replica, 0..60).await;
    let taken = async || replica.metrics().await.unwrap().snapshots.taken > 0;
    eventually("a snapshot is taken", taken).await;
    replica.shutdown().await;
    let replica = place.start().await;
    check(&replica, 0..60).await;
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_in_memory_goes_on_with_redb_and_the_way_back_is_refused() {
    let place = Place::new();
    let replica = place.with(Replica::builder(Kv::new())).start().await.unwrap();
    fill(&replica, 0..10).await;
    replica.snapshot().await.unwrap();
    fill(&replica, 10..12).await;
    replica.shutdown().await;
    let replica = place.start().await;
    check(&replica, 0..12).await;
    replica.kill();
    replica.wait_stopped().await;
    // Nothing was moved yet, so both can go on.
    let replica = place.with(Replica::builder(Kv::new())).start().await.unwrap();
    check(&replica, 0..12).await;
    replica.shutdown().await;
    let replica = place.start().await;
    short_snapshot(&replica).await;
    replica.shutdown().await;
    let error = place.with(Replica::builder(Kv::new())).start().await.unwrap_err();
    assert!(error.to_string().contains("that keeps it on disk itself"), "{error}");
    // The machine's files belong to this directory.
    let state = place.data().join("state");
    std::fs::rename(&state, place.data().join("gone")).unwrap();
    let error = place.with(Replica::builder_from(place.source())).start().await.unwrap_err();
    assert!(error.to_string().contains("has no checkpoint"), "{error}");
    std::fs::remove_dir_all(&state).ok();
    std::fs::rename(place.data().join("gone"), &state).unwrap();
    let replica = place.start().await;
    check(&replica, 0..12).await;
    replica.shutdown().await;
}

/// One replica of three is in memory. Each is away until the others have dropped what it missed,
/// and then gets the state of one with the other kind of store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_of_both_kinds_serve_each_other() {
    let temporary = tempfile::tempdir().unwrap();
    let authority = Authority::new("disk").unwrap();
    let socket = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addrs: Vec<_> = (0..3).map(|_| socket().local_addr().unwrap()).collect();
    let limits =
        Limits { snapshot_every: 64 << 10, keep_for_absent_bytes: 64 << 10, ..Limits::default() };
    let data = |number: u32| temporary.path().join(number.to_string());
    macro_rules! start {
        ($builder:expr, $number:expr) => {{
            let id = MemberId::new($number).unwrap();
            let start = std::time::Instant::now();
            loop {
                let builder = $builder
                    .cluster("disk")
                    .id($number)
                    .peers((1..).zip(addrs.iter().copied()))
                    .tls(authority.issue_replica(id).unwrap().credentials().unwrap())
                    .limits(limits.clone())
                    .timing(hasty())
                    .data_dir(data($number));
                match builder.start().await {
                    Ok(replica) => break replica,
                    Err(StartError::Mesh(_)) if start.elapsed() < PATIENCE => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }};
    }
    let redb = |number| RedbSource::new(data(number).join("state"), SMALL);
    let one = start!(Replica::builder_from(redb(1)), 1);
    let two = start!(Replica::builder_from(redb(2)), 2);
    let three = start!(Replica::builder(Kv::new()), 3);
    fill(&one, 0..10).await;

    // In memory, from one on redb.
    three.kill();
    three.wait_stopped().await;
    fill(&one, 5..40).await;
    let three = start!(Replica::builder(Kv::new()), 3);
    check(&three, 0..40).await;
    let installed =
        async |replica: &Replica<Kv>| replica.metrics().await.unwrap().snapshots.installed > 0;
    eventually("it has another's state", async || installed(&three).await).await;
    let unread = |number| names(&data(number), "snapshot-unfinished").is_empty();
    assert!(unread(1) && unread(2), "a copy has no name");

    // On redb, from whichever offers first; then it goes on from its own disk.
    one.kill();
    one.wait_stopped().await;
    // Enough that each of the others takes a snapshot of all of it meanwhile: it does once its log
    // has grown by as much as its state.
    for _ in 0..4 {
        fill(&two, 30..80).await;
    }
    let one = start!(Replica::builder_from(redb(1)), 1);
    check(&one, 0..80).await;
    let installed = async || one.metrics().await.unwrap().snapshots.installed > 0;
    eventually("it has another's state", installed).await;
    one.snapshot().await.unwrap();
    assert_eq!(names(&data(1).join("state"), "kv-").len(), 1);
    one.kill();
    one.wait_stopped().await;
    let one = start!(Replica::builder_from(redb(1)), 1);
    check(&one, 0..80).await;
    let read = KvCommand::Get { key: bytes("k79") };
    assert_eq!(propose(&two, read).await, value(&long(79)));
    let same = async || {
        let digests = [one.digest().await, two.digest().await, three.digest().await];
        digests[0].is_some() && digests[0] == digests[1] && digests[0] == digests[2]
    };
    eventually("all have the same state", same).await;
    one.shutdown().await;
    two.shutdown().await;
    three.shutdown().await;
}
