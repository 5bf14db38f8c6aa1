//! A whole directory through crashes: identity, snapshots and log together.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::store_options;
use crate::storage::{Disk, FaultyDisk, Identity, Met, Opening, StorageError, Store, verify};
use crate::types::{LogPosition, MemberId};

const CAPACITY: u64 = 1 << 20;

fn opening(disk: &FaultyDisk) -> Result<Opening, StorageError> {
    Store::open(Arc::new(disk.clone()), &store_options())
}

/// The state of these records: their number and a checksum over all of them.
fn state(records: &[Vec<u8>]) -> Vec<u8> {
    let mut state = records.len().to_le_bytes().to_vec();
    // Long enough for several chunks.
    state.extend(crc32fast::hash(&records.concat()).to_le_bytes().repeat(60));
    state
}

/// Every appended record that may still count, and how many were acknowledged.
#[derive(Default)]
struct Model {
    records: Vec<Vec<u8>>,
    acknowledged: usize,
    incarnation: u64,
    installed: u64,
}

impl Model {
    fn step(&mut self, store: &mut Store, rng: &mut ChaCha8Rng) -> Result<(), StorageError> {
        for _ in 0..rng.random_range(1..10) {
            let mut record = vec![0; rng.random_range(0..400)];
            rng.fill(&mut record[..]);
            store.log.append(&record)?;
            self.records.push(record);
        }
        let durable = store.log.flush()?;
        self.acknowledged = self.records.len();
        store.log.maintain()?;
        if rng.random_bool(0.2) {
            let position = durable.position();
            let cut = rng.random_bool(0.3);
            if cut {
                store.log.rotate()?;
            }
            let mut writer = store.snapshots.begin(position)?;
            writer.write(&state(&self.records))?;
            writer.finish()?;
            let floor = if cut { position } else { store.snapshots.log_floor() };
            store.log.truncate(floor)?;
            self.installed += 1;
        }
        Ok(())
    }

    fn reopen(&mut self, disk: &FaultyDisk) -> Result<Store, StorageError> {
        let mut opening = opening(disk)?;
        assert!(opening.damaged.is_empty(), "nothing was damaged: {:?}", opening.damaged);
        let mut start = 0;
        if let Some(reader) = &mut opening.snapshot {
            start = usize::try_from(reader.info().position.records()).unwrap();
            let mut contents = Vec::new();
            while let Some(chunk) = reader.next_chunk()? {
                contents.extend(chunk);
            }
            assert_eq!(contents, state(&self.records[..start]), "the snapshot's contents");
        }
        let mut found = self.records[..start].to_vec();
        let mut visit = |position: LogPosition, record: &[u8]| {
            assert_eq!(position.records(), found.len() as u64);
            found.push(record.to_vec());
            Ok(())
        };
        let store = opening.replay(&mut visit)?;
        assert!(store.identity.incarnation > self.incarnation, "each life has its own number");
        let began = store.identity.chain.present().unwrap().at;
        assert_eq!(began, store.log.end(), "it begins where the log ends");
        self.incarnation = store.identity.incarnation;
        assert!(found.len() >= self.acknowledged, "acknowledged records are missing");
        assert!(found == self.records[..found.len()], "other records than were appended");
        self.acknowledged = found.len();
        self.records = found;
        Ok(store)
    }
}

#[test]
fn a_directory_survives_crashes_at_every_boundary() {
    let mut snapshots = 0;
    for boundary in 0..250 {
        let disk = FaultyDisk::new(boundary, CAPACITY);
        let mut rng = ChaCha8Rng::seed_from_u64(boundary % 10);
        let mut model = Model::default();
        disk.crash_after(boundary);
        let mut died = false;
        // The first life ends at the boundary, while the directory is made or later. The others end
        // while it is opened, or soon after.
        for life in 0..6 {
            if let Ok(mut store) = model.reopen(&disk) {
                while model.step(&mut store, &mut rng).is_ok() {}
            }
            assert!(disk.is_dead(), "boundary {boundary}: only the crash is an error");
            died = true;
            if rng.random_bool(0.7) {
                disk.lose_power()
            } else {
                disk.restart_process()
            }
            disk.crash_after(rng.random_range(0..40) + life * 10);
        }
        assert!(died);
        disk.restart_process();
        drop(model.reopen(&disk).unwrap_or_else(|error| panic!("boundary {boundary}: {error}")));
        let report = verify(&disk, &mut |_, _| Ok(())).unwrap();
        assert!(report.is_sound(), "boundary {boundary}: {:?}", report.problems);
        snapshots += model.installed;
    }
    assert!(snapshots > 500, "only {snapshots} snapshots were taken");
}

/// A directory with records in two segments and two snapshots.
fn files() -> (BTreeMap<String, Vec<u8>>, usize) {
    let disk = FaultyDisk::new(0, CAPACITY);
    let (mut model, mut rng) = (Model::default(), ChaCha8Rng::seed_from_u64(3));
    let mut store = model.reopen(&disk).unwrap();
    while model.installed < 3 {
        model.step(&mut store, &mut rng).unwrap();
    }
    model.step(&mut store, &mut rng).unwrap();
    store.log.close().unwrap();
    (disk.files(), model.records.len())
}

fn start(files: &BTreeMap<String, Vec<u8>>) -> Result<u64, StorageError> {
    let disk = FaultyDisk::with_files(0, CAPACITY, files);
    let store = opening(&disk)?.replay(&mut |_, _| Ok(()))?;
    Ok(store.log.end().records())
}

#[test]
fn every_damaged_or_missing_byte_of_the_identity_is_noticed() {
    let (files, _) = files();
    let identity = files["identity"].clone();
    for at in 0..identity.len() {
        let mut damaged = files.clone();
        damaged.get_mut("identity").unwrap()[at] ^= 1 << (at % 8);
        let error = start(&damaged).expect_err("damaged");
        assert!(error.to_string().starts_with("identity, byte"), "byte {at}: {error}");
        damaged.insert("identity".into(), identity[..at].to_vec());
        start(&damaged).expect_err("cut");
    }
    let mut lost = files.clone();
    lost.remove("identity");
    let error = start(&lost).expect_err("records without an identity").to_string();
    assert!(error.contains("identity is missing"), "{error}");
}

#[test]
fn a_lost_log_is_noticed() {
    let (mut files, records) = files();
    assert_eq!(start(&files).unwrap(), records as u64);
    files.retain(|name, _| !name.starts_with("log-"));
    let error = start(&files).expect_err("no log").to_string();
    assert!(error.contains("the log is gone"), "{error}");
}

#[test]
fn a_newer_format_is_named_and_left_alone() {
    let (files, _) = files();
    let with = |name: &str, at: usize, crc: std::ops::Range<usize>, end: usize| {
        let mut files = files.clone();
        let file = files.get_mut(name).unwrap();
        file[at] = 9;
        let sum = crc32fast::hash(&file[..end]).to_le_bytes();
        file[crc].copy_from_slice(&sum);
        files
    };
    let length = files["identity"].len();
    let identity = with("identity", 8, length - 4..length, length - 4);
    let error = start(&identity).expect_err("of another version").to_string();
    assert_eq!(error, "identity: format version 9, where version 6 is known here");
    let log = files.keys().find(|name| name.starts_with("log-")).unwrap().clone();
    let mut segment = with(&log, 8, 52..56, 52);
    let copy = segment[&log][..512].to_vec();
    segment.get_mut(&log).unwrap()[512..1024].copy_from_slice(&copy);
    let error = start(&segment).expect_err("of another version").to_string();
    assert!(error.contains("format version 9"), "{error}");
}

#[test]
fn a_directory_of_another_replica_or_cluster_is_refused() {
    let disk = FaultyDisk::new(0, CAPACITY);
    drop(opening(&disk).unwrap());
    assert!(
        Identity::read(&disk).unwrap().is_none(),
        "a start that goes no further leaves nothing"
    );
    drop(opening(&disk).unwrap().replay(&mut |_, _| Ok(())).unwrap());
    let mut options = store_options();
    options.replica = MemberId::new(3).unwrap();
    let error = Store::open(Arc::new(disk.clone()), &options).expect_err("another replica");
    let text = "this directory belongs to replica 2 of cluster \"test\", \
                not to replica 3 of cluster \"test\"";
    assert_eq!(error.to_string(), text);
    options = store_options();
    options.cluster = "other".into();
    let error = Store::open(Arc::new(disk.clone()), &options).expect_err("another cluster");
    assert!(matches!(error, StorageError::Foreign { .. }));
    assert_eq!(Identity::read(&disk).unwrap().unwrap().incarnation, 1, "neither was a start");
}

#[test]
fn a_directory_keeps_its_terms_from_its_first_record_on() {
    let disk = FaultyDisk::new(0, CAPACITY);
    let start = |protocol: &str, replicas| {
        let mut options = store_options();
        options.protocol = protocol.into();
        options.members = MemberId::all(replicas).collect();
        Store::open(Arc::new(disk.clone()), &options)?.replay(&mut |_, _| Ok(()))
    };
    let directory = start("paxos", 5).unwrap().identity.directory;
    // No vote was cast under the first terms, so they were at most a mistake.
    let mut store = start("epaxos", 3).unwrap();
    assert_eq!(store.identity.directory, directory, "others may have met it");
    store.log.append(b"a vote").unwrap();
    store.log.close().unwrap();
    let opened = start("epaxos", 5).expect("the members of a later epoch may be others");
    let other = opened.identity.check_members(&MemberId::all(5).collect()).unwrap_err();
    drop(opened);
    assert!(matches!(other, StorageError::OtherMembers { .. }), "{other}");
    assert!(other.to_string().contains("the list differs, the directory is sound"), "{other}");
    let other = start("paxos", 3).unwrap_err();
    assert!(matches!(other, StorageError::OtherProtocol { .. }), "{other}");
    start("epaxos", 3).expect("its own terms");
}

#[test]
fn a_directory_is_restored_from_a_snapshot_and_needs_it_from_then_on() {
    let disk = FaultyDisk::new(0, CAPACITY);
    let restore = |disk: &FaultyDisk| {
        let disk = Arc::new(disk.clone());
        Store::restore(disk, &store_options(), 5, |writer| writer.write(&[7; 250]))
    };
    assert_eq!(restore(&disk).unwrap().incarnation, 0);
    restore(&disk).expect_err("it is in use");
    let mut opened = opening(&disk).unwrap();
    assert_eq!(opened.identity.incarnation, 0);
    assert_eq!(&opened.snapshot.as_mut().unwrap().next_chunk().unwrap().unwrap()[..], [7; 100]);
    let mut store = opened.replay(&mut |_, _| panic!("no records yet")).unwrap();
    assert_eq!(store.identity.incarnation, 1);
    store.log.append(b"first").unwrap();
    store.log.close().unwrap();
    let mut names = disk.list().unwrap().into_iter();
    let snapshot = names.find(|name| name.starts_with("snapshot-0")).unwrap();
    disk.restart_process();
    disk.flip(&snapshot, 100, 1);
    opening(&disk).expect_err("the state is damaged");
    let mut files = disk.files();
    files.remove(&snapshot);
    start(&files).expect_err("the state is missing");
}

#[test]
fn every_crash_within_a_restore_is_noticed_or_leaves_it_done() {
    for boundary in 0..40 {
        let disk = FaultyDisk::new(boundary, CAPACITY);
        disk.crash_after(boundary);
        let disk_handle = Arc::new(disk.clone());
        let done =
            Store::restore(disk_handle, &store_options(), 5, |writer| writer.write(&[7; 250]));
        disk.lose_power();
        match opening(&disk) {
            Ok(opened) if opened.snapshot.is_some() => {}
            Ok(_) => assert!(done.is_err(), "boundary {boundary}: restored, and empty"),
            Err(error) => {
                assert!(done.is_err(), "boundary {boundary}: {error}");
                assert!(error.to_string().contains("not restored to the end"), "{error}");
            }
        }
    }
}

#[test]
fn verify_sees_what_opening_would_and_changes_nothing() {
    let (files, records) = files();
    let disk = FaultyDisk::with_files(0, CAPACITY, &files);
    let mut seen = 0;
    let report = verify(&disk, &mut |_, _| {
        seen += 1;
        Ok(())
    });
    let report = report.unwrap();
    assert!(report.is_sound(), "{:?}", report.problems);
    assert_eq!(report.identity.as_ref().unwrap().cluster, "test");
    assert_eq!(report.snapshots.len(), 2);
    let (first, last) = (report.segments.first().unwrap(), report.segments.last().unwrap());
    assert_eq!((last.end, last.sealed), (records as u64, true));
    assert_eq!(seen, last.end - first.first);
    assert_eq!(disk.operations(), 0, "nothing was changed");

    for name in files.keys().filter(|name| !files[*name].is_empty()) {
        let in_use = name == "identity"
            || report.segments.iter().any(|segment| segment.file == *name)
            || report.snapshots.iter().any(|snapshot| snapshot.file == *name);
        let mut damaged = files.clone();
        let at = if name.starts_with("log") { 4100 } else { 20 };
        damaged.get_mut(name).unwrap()[at] ^= 4;
        let disk = FaultyDisk::with_files(0, CAPACITY, &damaged);
        let problems = verify(&disk, &mut |_, _| Ok(())).unwrap().problems;
        assert_eq!(problems.len(), usize::from(in_use), "{name}: {problems:?}");
        assert!(problems.iter().all(|problem| problem.to_string().starts_with(name)));
    }
    let refused = verify(&disk, &mut |_, _| Err("not readable".into())).unwrap();
    assert!(refused.problems[0].to_string().contains("not readable"));
    assert!(!verify(&FaultyDisk::new(0, 0), &mut |_, _| Ok(())).unwrap().is_sound());
}

#[test]
fn whom_a_replica_has_met_is_kept_in_one_step() {
    let disk = FaultyDisk::new(7, 1 << 20);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let open = || Store::open(shared.clone(), &store_options());
    let peer = |number| MemberId::new(number).unwrap();
    let replayed = || open()?.replay(&mut |_, _| Ok(()));
    let first = Met { directory: 77, life: 3 };
    let mut identity = replayed().unwrap().identity;
    identity.meet(&*shared, peer(2), first).unwrap();
    // Wherever the power fails, the old or the new identity is there.
    let (before, mut seen) = (disk.files(), [0, 0]);
    for step in 0..6 {
        let disk = FaultyDisk::with_files(step, 1 << 20, &before);
        disk.crash_after(step);
        let second = Met { directory: 77, life: 4 };
        let done = identity.clone().meet(&disk, peer(2), second);
        disk.lose_power();
        let found = Identity::read(&disk).unwrap().unwrap().met[&peer(2)];
        assert!(found == second || done.is_err() && found == first, "step {step}: {found:?}");
        seen[usize::from(found == second)] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    // It also survives the next start, until the directory is refused.
    let mut identity = replayed().unwrap().identity;
    assert_eq!(identity.met, [(peer(2), first)].into());
    identity.cast_out(&*shared).unwrap();
    assert!(matches!(open(), Err(StorageError::Outcast)));
}
