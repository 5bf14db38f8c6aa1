//! Backups of small directories, and what they must refuse.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io;

use bytes::BytesMut;

use super::*;
use crate::machine::{Applier, Kv, KvCommand, encode};
use crate::protocol::epaxos::{ProtocolSnapshot, Record};
use crate::storage::{Identity, MIN_SEGMENT_BYTES, StorageError};
use crate::types::{
    Ballot, Batch, ClientId, Command, Deps, InstanceId, ReplicaId, RequestId, Value,
};
use crate::wire::{FIRST_EPOCH, Front, Limits, SnapshotDecoder, encode_record};

fn replica(number: u8) -> ReplicaId {
    ReplicaId::new(number).expect("a number")
}

fn id(owner: u8, slot: u64) -> InstanceId {
    InstanceId::new(replica(owner), slot)
}

fn put(client: u64, key: &'static str, value: &'static str) -> Command {
    let put = KvCommand::Put { key: key.into(), value: value.into() };
    Command {
        request: RequestId::new(ClientId(client), 1),
        floor: 0,
        origin: replica(2),
        footprint: Kv::footprint(&put),
        payload: encode(&put).expect("it has an encoding"),
    }
}

/// Slot 2 of replica 1 and slot 5 of replica 3 are executed, though the instances before them are
/// unknown here. Replica 2's first own instance is decided and waits for one that is not; its
/// second is open.
fn records() -> Vec<Record> {
    let batch = |command| Batch::new(vec![command]);
    let committed = |id, command, deps| {
        let value = Value::Batch(batch(command));
        Record::Committed { id, value, deps: Deps::from_slots(deps) }
    };
    let none = || Deps::none(3);
    vec![
        Record::Reserved { up_to: 64 },
        committed(id(1, 2), put(7, "a", "1"), [0, 0, 0]),
        committed(id(3, 5), put(8, "b", "2"), [0, 0, 0]),
        committed(id(2, 1), put(9, "a", "3"), [9, 0, 0]),
        Record::PreAccepted {
            id: id(2, 2),
            batch: batch(put(10, "c", "4")),
            initial: none(),
            deps: none(),
        },
        Record::Joined { id: id(3, 11), ballot: Ballot::new(1, replica(1)).expect("a round") },
    ]
}

/// A directory of replica 2 of 3 with these records, closed cleanly.
fn directory(path: &Path, records: &[Record]) {
    let options = StoreOptions {
        cluster: "blue".into(),
        replica: MemberId::of(replica(2)),
        protocol: "epaxos".to_owned(),
        members: MemberId::all(3).collect(),
        joins: false,
        log: LogOptions { segment_bytes: MIN_SEGMENT_BYTES, ..LogOptions::default() },
        snapshots: SnapshotOptions::default(),
    };
    let disk = Arc::new(FileDisk::open(path).expect("a directory"));
    let opening = Store::open(disk, &options).expect("it opens");
    let mut store = opening.replay(&mut |_, _| Ok(())).expect("it is empty");
    for record in records {
        let mut bytes = BytesMut::new();
        encode_record(FIRST_EPOCH, record, &mut bytes);
        store.log.append(&bytes).expect("there is room");
    }
    store.log.close().expect("it closes");
}

/// Every file in a directory.
fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry"));
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().expect("UTF-8");
    entries.map(|entry| (name(&entry), fs::read(entry.path()).expect("a file"))).collect()
}

type Own = Vec<crate::replica::Record<Record>>;

/// What the snapshot in a backup holds.
fn inside(path: &Path) -> (Front<ProtocolSnapshot>, Vec<u8>, Own) {
    let Contents { backup, snapshot } = file::read(path).expect("sound");
    let (mut whole, limits) = (Some(snapshot), Limits::new(backup.replicas));
    let mut decoder = SnapshotDecoder::new(|| Ok::<_, Infallible>(whole.take()));
    let front = decoder.front("blue", &limits).expect("a snapshot");
    let (mut state, mut own) = (Vec::new(), Own::new());
    let read = decoder.state(|from| from.read_to_end(&mut state)).expect("it is sound");
    read.expect("it is in memory");
    decoder.own(&limits, |record| own.push(record)).expect("it is whole");
    (front, state, own)
}

struct Home {
    home: tempfile::TempDir,
    made: Backup,
}

impl Home {
    fn new() -> Home {
        let home = tempfile::tempdir().expect("a directory");
        directory(&home.path().join("data"), &records());
        let before = files(&home.path().join("data"));
        let file = home.path().join("file");
        let made = backup(Kv::new(), home.path().join("data"), file, &BackupOptions::default())
            .expect("a backup");
        assert_eq!(files(&home.path().join("data")), before, "it only reads");
        Home { home, made }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    fn restore(&self, name: &str, number: u8) -> Result<Backup, BackupError> {
        restore::<Kv>(self.path("file"), self.path(name), MemberId::of(replica(number)))
    }
}

#[test]
fn a_backup_says_what_it_stands_for_and_holds_it() {
    let home = Home::new();
    let made = &home.made;
    assert_eq!(
        (made.replica, made.replicas, made.source),
        (MemberId::of(replica(2)), 3, Source::Stopped)
    );
    assert_eq!((made.cluster.as_str(), made.position.records()), ("blue", 6));
    let mut executed = Executed::none(3);
    assert!(executed.extend(replica(1), 2, 2) && executed.extend(replica(3), 5, 5));
    assert_eq!((&made.executed, made.left_out, made.sessions), (&executed, 3, 2));

    assert_eq!(&home.restore("new", 3).expect("restored"), made);
    let disk = FileDisk::read_only(home.path("new")).expect("a directory");
    let identity = Identity::read(&disk).expect("sound").expect("there");
    assert_eq!((identity.origin, identity.incarnation), (made.id, 0));
    assert_eq!((identity.replica, identity.cluster.as_str()), (MemberId::of(replica(3)), "blue"));
    let (front, state, own) = inside(&home.path("file"));
    let past = Deps::from_slots([9, 64, 11]);
    assert_eq!(front.executed, Executed::up_to(past.clone()), "no hole, and no slot twice");
    assert_eq!((front.shared.floor, own), (past, vec![]));
    assert_eq!(made.state_bytes, state.len() as u64);

    let mut applier = Applier::<Kv>::restore(&state).expect("a state");
    assert!(!applier.apply(&put(7, "a", "1"), true).first, "it was executed");
    let tried_again = applier.apply(&put(9, "a", "3"), true);
    assert!(tried_again.first, "it was left out, and happens when it is tried again");
}

#[test]
fn what_was_restored_can_be_backed_up_again() {
    let home = Home::new();
    home.restore("new", 1).expect("restored");
    let again = backup(Kv::new(), home.path("new"), home.path("again"), &BackupOptions::default())
        .expect("a backup");
    let [first, second] =
        ["file", "again"].map(|name| file::read(&home.path(name)).expect("sound"));
    let state = |name| inside(&home.path(name)).1;
    assert_eq!(state("file"), state("again"));
    assert_ne!(first.backup.id, second.backup.id);
    assert!(again.executed.includes(&home.made.executed) && again.left_out == 0);

    // The same while another process holds the directory: only its snapshot can be backed up.
    let held = FileDisk::open(home.path("new")).expect("nobody has it");
    let running =
        backup(Kv::new(), home.path("new"), home.path("running"), &BackupOptions::default());
    let running = running.expect("a backup");
    assert_eq!((running.source, &running.executed), (Source::Snapshot, &again.executed));
    assert_eq!(state("running"), state("file"));
    drop(held);
    let held = FileDisk::hold(home.path("new")).expect("nobody has it");
    FileDisk::hold(home.path("new")).expect("two may read");
    let locked = FileDisk::open(home.path("new")).expect_err("it is being read");
    assert!(matches!(locked, StorageError::Locked { .. }), "{locked}");
    drop(held);
    FileDisk::open(home.path("new")).expect("nobody has it");
}

#[test]
fn what_cannot_be_backed_up_is_said() {
    let home = Home::new();
    let attempt = |name: &str| {
        backup(Kv::new(), home.path(name), home.path("none"), &BackupOptions::default())
            .expect_err("no backup")
    };
    assert!(matches!(attempt("nowhere"), BackupError::Storage { .. }));
    assert!(!home.path("nowhere").exists());
    directory(&home.path("fresh"), &[]);
    assert!(matches!(attempt("fresh"), BackupError::Nothing(_)));
    let held = FileDisk::open(home.path("data")).expect("nobody has it");
    assert!(matches!(attempt("data"), BackupError::NoSnapshot(_)));
    drop(held);
    let log = files(&home.path("data")).into_keys().find(|name| name.starts_with("log-"));
    let log = home.path("data").join(log.expect("a segment"));
    let mut bytes = fs::read(&log).expect("a segment");
    bytes[4_200] ^= 1;
    fs::write(&log, bytes).expect("written");
    assert!(matches!(attempt("data"), BackupError::Storage { .. }), "damaged");
    assert!(!home.path("none").exists());
}

#[test]
fn every_byte_and_the_length_of_a_backup_count() {
    let home = Home::new();
    let whole = fs::read(home.path("file")).expect("the backup");
    let decode = |bytes: &[u8]| file::decode(&bytes.to_vec().into(), Path::new("file"));
    decode(&whole).expect("sound");
    for at in 0..whole.len() {
        let mut bent = whole.clone();
        for bit in 0..8 {
            bent[at] = whole[at] ^ 1 << bit;
            decode(&bent).expect_err("damaged");
        }
    }
    for length in 0..whole.len() {
        decode(&whole[..length]).expect_err("cut off");
    }
    let mut longer = whole.clone();
    longer.push(0);
    decode(&longer).expect_err("too long");

    // A damaged backup restores nothing.
    fs::write(home.path("file"), &whole[..whole.len() - 1]).expect("written");
    let error = home.restore("new", 1).expect_err("cut off");
    assert!(matches!(error, BackupError::Damaged { .. }), "{error}");
    assert!(!home.path("new").exists());
}

#[test]
fn a_directory_is_made_whole_or_not_at_all() {
    let home = Home::new();
    let error = home.restore("new", 4).expect_err("there are three");
    assert!(matches!(error, BackupError::NoSuchReplica { .. }), "{error}");
    let before = files(&home.path("data"));
    let error = home.restore("data", 2).expect_err("it is in use");
    assert!(matches!(error, BackupError::NotEmpty(_)), "{error}");
    assert_eq!(files(&home.path("data")), before);
    fs::write(home.path("plain"), "a file").expect("written");
    home.restore("plain", 1).expect_err("no directory");
    home.restore("plain/new", 1).expect_err("no directory");
    fs::create_dir(home.path("empty")).expect("made");
    home.restore("empty", 1).expect("restored");
    home.restore("empty", 1).expect_err("it is there");
}

#[test]
fn a_file_is_written_whole_or_not_at_all() {
    let home = Home::new();
    let before = files_only(&home);
    let error = backup(Kv::new(), home.path("data"), home.path("file"), &BackupOptions::default())
        .expect_err("there");
    assert!(matches!(error, BackupError::Exists(_)), "{error}");
    let full = |path: &str| {
        file::write(&home.path(path), true, &home.made, |put| {
            put(b"some of it")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .expect_err("full")
        .to_string()
    };
    for path in ["file", "other"] {
        assert!(full(path).contains("cannot write"), "{}", full(path));
    }
    assert_eq!(files_only(&home), before, "nothing new, and nothing lost");
    let again = backup(
        Kv::new(),
        home.path("data"),
        home.path("file"),
        &BackupOptions { overwrite: true, ..BackupOptions::default() },
    )
    .expect("replaced");
    assert_ne!(again.id, home.made.id);
    assert_eq!(files_only(&home).len(), before.len());
    let error =
        backup(Kv::new(), home.path("data"), home.path("no/where"), &BackupOptions::default());
    assert!(matches!(error.expect_err("no directory"), BackupError::Io { .. }));
}

/// The files beside the data directory.
fn files_only(home: &Home) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(home.home.path()).expect("a directory").flatten();
    let entries = entries.filter(|entry| entry.path().is_file());
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().expect("UTF-8");
    entries.map(|entry| (name(&entry), fs::read(entry.path()).expect("a file"))).collect()
}
