//! Backups of small directories, and what they must refuse.

use std::collections::BTreeMap;
use std::fs;

use bytes::{Bytes, BytesMut};

use super::*;
use crate::machine::{Kv, KvCommand, encode};
use crate::protocol::epaxos::{DroppedIndex, ProtocolSnapshot, Record};
use crate::storage::{Identity, MIN_SEGMENT_BYTES, Reading};
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

/// What the snapshot in a file holds, which is a backup or one of a directory.
fn inside(path: &Path) -> (Front<ProtocolSnapshot>, Vec<u8>, Own) {
    let sound = Sound::open(path).expect("sound");
    read(sound.chunks(), sound.head.members.len())
}

/// What the snapshot of a new directory holds.
fn founded(path: &Path, replicas: usize) -> (Front<ProtocolSnapshot>, Vec<u8>, Own) {
    let disk = Arc::new(FileDisk::read_only(path).expect("a directory"));
    let reading = Reading::of(disk).expect("sound").expect("there");
    let mut reader = reading.snapshot.expect("it begins with one");
    read(|| reader.next_chunk(), replicas)
}

fn read<E: std::fmt::Debug>(
    source: impl FnMut() -> Result<Option<Bytes>, E>,
    replicas: usize,
) -> (Front<ProtocolSnapshot>, Vec<u8>, Own) {
    let limits = Limits::new(replicas);
    let mut decoder = SnapshotDecoder::new(source);
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
        self.restore_among(name, number, &[])
    }

    fn restore_among(
        &self,
        name: &str,
        number: u8,
        members: &[u32],
    ) -> Result<Backup, BackupError> {
        let members = members.iter().map(|number| MemberId::new(*number).expect("a number"));
        let options = RestoreOptions { members: members.collect() };
        let number = MemberId::of(replica(number));
        restore::<Kv>(self.path("file"), self.path(name), number, &options)
    }
}

#[test]
fn a_backup_says_what_it_stands_for_and_holds_it() {
    let home = Home::new();
    let made = &home.made;
    assert_eq!(
        (made.replica, made.protocol, made.source),
        (MemberId::of(replica(2)), ProtocolKind::EPaxos, Source::Stopped)
    );
    assert_eq!(made.members, MemberId::all(3).collect());
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
    assert_eq!((front.executed, own), (executed, vec![]), "the backup is of what was executed");
    assert_eq!(founded(&home.path("new"), 3), (fresh(3), state.clone(), vec![]));
    assert_eq!(made.state_bytes, state.len() as u64);

    let mut applier = Applier::<Kv>::restore(&state).expect("a state");
    assert!(!applier.apply(&put(7, "a", "1"), true).first, "it was executed");
    let tried_again = applier.apply(&put(9, "a", "3"), true);
    assert!(tried_again.first, "it was left out, and happens when it is tried again");
}

/// What a member of a new cluster of this size begins with.
fn fresh(replicas: usize) -> Front<ProtocolSnapshot> {
    let none = || Deps::none(replicas);
    let index = DroppedIndex::new(replicas);
    let (floor, cut, dropped, decisions) = (none(), none(), none(), vec![]);
    let shared = ProtocolSnapshot { floor, cut, dropped, index, decisions };
    Front { list: None, executed: Executed::none(replicas), shared }
}

#[test]
fn a_cluster_may_begin_with_other_members() {
    let home = Home::new();
    let state = inside(&home.path("file")).1;
    let five = home.restore_among("five", 5, &[1, 2, 3, 4, 5]).expect("restored");
    assert_eq!(founded(&home.path("five"), 5), (fresh(5), state.clone(), vec![]));
    let one = home.restore_among("one", 9, &[9]).expect("restored");
    assert_eq!(founded(&home.path("one"), 1), (fresh(1), state, vec![]));
    let disk = FileDisk::read_only(home.path("one")).expect("a directory");
    let identity = Identity::read(&disk).expect("sound").expect("there");
    assert_eq!((&identity.members, identity.origin), (&one.members, one.id));
    let again = home.restore_among("again", 2, &[5, 4, 3, 2, 1]).expect("restored");
    assert_eq!(again.id, five.id, "all members have one origin");
    let as_it_was = home.restore_among("same", 1, &[1, 2, 3]).expect("restored");
    assert_eq!(as_it_was.id, home.made.id);
    let origins = BTreeSet::from([home.made.id, five.id, one.id]);
    assert_eq!(origins.len(), 3, "those of another cluster are refused");
    let error = home.restore_among("none", 3, &[1, 2]).expect_err("it is no member");
    assert!(error.to_string().contains("1, 2: name all of them"), "{error}");
    assert!(!home.path("none").exists());
}

#[test]
fn what_was_restored_can_be_backed_up_again() {
    let home = Home::new();
    home.restore("new", 1).expect("restored");
    let again = backup(Kv::new(), home.path("new"), home.path("again"), &BackupOptions::default())
        .expect("a backup");
    let [first, second] =
        ["file", "again"].map(|name| Sound::open(&home.path(name)).expect("sound").head);
    let state = |name| inside(&home.path(name)).1;
    assert_eq!(state("file"), state("again"));
    assert_ne!(first.id, second.id);
    assert_eq!((&again.executed, again.left_out), (&Executed::none(3), 0), "a new history");

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
    let decode = |bytes: &[u8]| {
        let bent = home.path("bent");
        fs::write(&bent, bytes).expect("written");
        Sound::open(&bent).and_then(|mut sound| sound.check())
    };
    assert_eq!(decode(&whole).expect("sound"), home.made);
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
    let head = Sound::open(&home.path("file")).expect("sound").head;
    for path in ["file", "other"] {
        let mut unfinished = Unfinished::begin(&home.path(path), true, &head).expect("begun");
        unfinished.put(b"some of it").expect("there is room");
        assert_eq!(files_only(&home).len(), before.len() + 1);
        drop(unfinished);
        let mut unfinished = Unfinished::begin(&home.path(path), true, &head).expect("begun");
        unfinished.put(b"no snapshot").expect("there is room");
        let error = unfinished.finish().expect_err("it is read before it gets its name");
        assert!(matches!(error, BackupError::Damaged { .. }), "{error}");
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
