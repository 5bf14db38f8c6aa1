//! The store against the one in memory, with checkpoints at any time and crashes at every write.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redb::StorageBackend;

use super::file::File;
use super::*;
use crate::machine::{Kv, MachineSource};

const SMALL: RedbOptions = RedbOptions { cache_bytes: 1 << 20, changes_bytes: 1 << 20 };

fn key(number: u8) -> Bytes {
    Bytes::from(vec![number; 1 + usize::from(number)])
}

#[derive(Clone, Debug)]
enum Step {
    Command(KvCommand),
    /// Begins a checkpoint; the one before it is given up, if it is not written.
    Freeze,
    Write,
    GiveUp,
    /// A view, which is written after the next steps.
    View,
    /// Through a snapshot and a file of its own.
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    let value = (0u8..4, 0usize..40).prop_map(|(byte, length)| Bytes::from(vec![byte; length]));
    let put = (0u8..12, value.clone())
        .prop_map(|(number, value)| KvCommand::Put { key: key(number), value });
    let del = (0u8..12).prop_map(|number| KvCommand::Del { key: key(number) });
    let cas = (0u8..12, proptest::option::of(value.clone()), value)
        .prop_map(|(number, expected, value)| KvCommand::Cas { key: key(number), expected, value });
    let get = proptest::collection::vec(0u8..12, 1..4)
        .prop_map(|all| KvCommand::GetMany { keys: all.into_iter().map(key).collect() });
    prop_oneof![
        8 => prop_oneof![put, del, cas, get].prop_map(Step::Command),
        2 => Just(Step::Freeze),
        2 => Just(Step::Write),
        1 => Just(Step::GiveUp),
        1 => Just(Step::View),
        1 => Just(Step::Restore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_does_what_the_store_in_memory_does(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let (mut store, mut model) = (RedbKv::in_memory().unwrap(), Kv::new());
        let (mut number, mut frozen) = (0, None);
        let mut views: Vec<(View, Vec<u8>)> = Vec::new();
        for step in steps {
            match step {
                Step::Command(command) => {
                    prop_assert_eq!(store.apply(command.clone()), model.apply(command));
                }
                Step::Freeze => {
                    number += 1;
                    frozen = store.freeze(number);
                }
                Step::Write => {
                    if let Some(checkpoint) = frozen.take() {
                        checkpoint.write().unwrap();
                    }
                }
                Step::GiveUp => frozen = None,
                Step::View => views.push((store.view(), model.snapshot())),
                Step::Restore => {
                    frozen = None;
                    store = RedbKv::restore(&store.snapshot()).unwrap();
                }
            }
            prop_assert_eq!(store.digest(), model.digest());
        }
        prop_assert_eq!(store.snapshot(), model.snapshot());
        for (view, expected) in views {
            let mut written = Vec::new();
            view.write_to(&mut written).unwrap();
            prop_assert_eq!(written, expected);
        }
    }
}

/// A disk in memory that keeps what was flushed, and of the rest what chance wants.
#[derive(Clone, Debug)]
struct Disk(Arc<Mutex<Contents>>);

#[derive(Debug)]
struct Contents {
    durable: Vec<u8>,
    /// What the process sees.
    now: Vec<u8>,
    /// Since the last flush; a new length has no bytes.
    writes: Vec<(u64, Option<Vec<u8>>)>,
    /// How many more operations succeed.
    left: usize,
}

impl Contents {
    fn count(&mut self) -> io::Result<()> {
        let dead = || io::Error::other("the power is off");
        self.left = self.left.checked_sub(1).ok_or_else(dead)?;
        Ok(())
    }
}

fn put(all: &mut Vec<u8>, offset: u64, bytes: Option<&[u8]>) {
    let offset = usize::try_from(offset).unwrap();
    match bytes {
        None => all.resize(offset, 0),
        Some(bytes) => {
            if all.len() < offset + bytes.len() {
                all.resize(offset + bytes.len(), 0);
            }
            all[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }
}

impl Disk {
    fn new() -> Disk {
        let (durable, now, writes) = (Vec::new(), Vec::new(), Vec::new());
        Disk(Arc::new(Mutex::new(Contents { durable, now, writes, left: usize::MAX })))
    }

    /// What is there after a loss of power.
    fn after_crash(&self, random: &mut StdRng) -> Disk {
        let contents = self.0.lock().unwrap();
        let mut durable = contents.durable.clone();
        for (offset, bytes) in &contents.writes {
            // A write may be torn between two sectors.
            let cut = |bytes: &Vec<u8>, random: &mut StdRng| {
                let sectors = bytes.len() / 512;
                if random.random_bool(0.2) {
                    random.random_range(0..=sectors) * 512
                } else {
                    bytes.len()
                }
            };
            match bytes {
                None => put(&mut durable, *offset, None),
                Some(bytes) if random.random_bool(0.5) => {
                    let kept = cut(bytes, random);
                    put(&mut durable, *offset, Some(&bytes[..kept]));
                }
                Some(_) => {}
            }
        }
        let now = durable.clone();
        Disk(Arc::new(Mutex::new(Contents { durable, now, writes: Vec::new(), left: usize::MAX })))
    }

    fn fail_after(&self, operations: usize) {
        self.0.lock().unwrap().left = operations;
    }

    fn left(&self) -> usize {
        self.0.lock().unwrap().left
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let contents = self.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let bytes = contents.now.get(offset..offset + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut contents = self.0.lock().unwrap();
        contents.count()?;
        put(&mut contents.now, len, None);
        contents.writes.push((len, None));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut contents = self.0.lock().unwrap();
        contents.count()?;
        contents.durable = contents.now.clone();
        contents.writes.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut contents = self.0.lock().unwrap();
        contents.count()?;
        put(&mut contents.now, offset, Some(data));
        contents.writes.push((offset, Some(data.to_vec())));
        Ok(())
    }
}

fn open(disk: &Disk) -> File {
    File::begin(disk.clone(), None, SMALL.cache_bytes).unwrap()
}

/// The store is cut off in the middle of its third checkpoint, at each operation of the disk.
#[test]
fn a_crash_at_any_write_leaves_a_whole_checkpoint() {
    let mut random = StdRng::seed_from_u64(7);
    let (mut old, mut new, mut at) = (0, 0, 0);
    loop {
        let disk = Disk::new();
        let mut store = RedbKv::on(open(&disk), 0, SMALL).unwrap();
        let mut states = BTreeMap::new();
        let mut written = Vec::new();
        for number in 1..=3u64 {
            for _ in 0..40 {
                let (key, value) =
                    (key(random.random_range(0..60)), vec![7; random.random_range(0..900)]);
                store.apply(KvCommand::Put { key, value: value.into() });
            }
            store.apply(KvCommand::Del { key: key(random.random_range(0..60)) });
            states.insert(number, store.snapshot());
            let checkpoint = store.freeze(number).unwrap();
            if number == 3 {
                disk.fail_after(at);
            }
            if checkpoint.write().is_ok() {
                written.push(number);
            }
        }
        let whole = disk.left() > 0;
        let after = disk.after_crash(&mut random);
        drop(store);
        let file = open(&after);
        let found = file.checkpoint().unwrap().unwrap();
        assert!(found >= *written.last().unwrap(), "{found} is left of {written:?}");
        let store = RedbKv::on(file, found, SMALL).unwrap();
        assert!(store.snapshot() == states[&found], "checkpoint {found}, cut at {at}");
        *(if found == 3 { &mut new } else { &mut old }) += 1;
        if whole {
            break;
        }
        at += 1;
    }
    assert!(old > 5 && new > 0, "{old} and {new} of {at}");
}

fn fill(store: &mut RedbKv, keys: std::ops::Range<u8>, value: &'static str) {
    for number in keys {
        let value = Bytes::from_static(value.as_bytes());
        store.apply(KvCommand::Put { key: key(number), value });
    }
}

fn files_in(directory: &std::path::Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_store_is_opened_at_its_checkpoint_and_without_later_commands() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("state");
    let source = RedbSource::new(&place, SMALL);
    assert!(source.checkpoints().unwrap().is_empty());
    let mut store = source.open(None).unwrap();
    fill(&mut store, 0..20, "one");
    let state = store.snapshot();
    store.freeze(41).unwrap().write().unwrap();
    fill(&mut store, 10..30, "two");
    drop(store.freeze(42));
    drop(store);
    assert_eq!(source.checkpoints().unwrap(), [41]);
    let error = source.open(Some(42)).unwrap_err().to_string();
    assert!(
        error.contains("has no checkpoint 42 (") && error.contains("kv-1.redb has 41"),
        "{error}"
    );
    let store = source.open(Some(41)).unwrap();
    assert_eq!(store.snapshot(), state);
    let error = source.open(Some(41)).unwrap_err().to_string();
    assert!(error.contains("already open"), "{error}");
}

#[test]
fn what_is_restored_takes_the_place_of_the_old_with_its_first_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let source = RedbSource::new(place, SMALL);
    let mut old = source.open(None).unwrap();
    fill(&mut old, 0..20, "old");
    old.freeze(1).unwrap().write().unwrap();
    let mut model = Kv::new();
    model.apply(KvCommand::Put { key: key(3), value: Bytes::from_static(b"new") });
    let snapshot = model.snapshot();

    for cut in 0..snapshot.len() {
        assert!(source.restore_from(&mut &snapshot[..cut]).is_err(), "cut at {cut}");
        assert_eq!(files_in(place), ["kv-1.redb"]);
    }
    drop(source.restore_from(&mut &snapshot[..]).unwrap());
    assert_eq!(files_in(place), ["kv-1.redb"], "nobody took it");

    let mut new = source.restore_from(&mut &snapshot[..]).unwrap();
    assert_eq!(new.snapshot(), snapshot);
    drop(old);
    let checkpoint = new.freeze(2).unwrap();
    assert_eq!(source_numbers(place), [1], "until it is written, the old one counts");
    checkpoint.write().unwrap();
    assert_eq!(files_in(place), ["kv-2.redb"]);
    drop(new);
    assert_eq!(source.open(Some(2)).unwrap().snapshot(), snapshot);
}

/// The numbers that another process would find.
fn source_numbers(place: &std::path::Path) -> Vec<u64> {
    RedbSource::new(place, SMALL).checkpoints().unwrap()
}

#[test]
fn it_asks_for_a_checkpoint_before_changes_fill_the_memory() {
    let mut store = RedbKv::in_memory().unwrap();
    store.changes_bytes = 1 << 20;
    let value = Bytes::from(vec![7; 1000]);
    let put = |store: &mut RedbKv, number: u32| {
        let key = Bytes::copy_from_slice(&number.to_be_bytes());
        store.apply(KvCommand::Put { key, value: value.clone() });
    };
    let mut number = 0;
    while !store.wants_checkpoint() {
        put(&mut store, number);
        number += 1;
    }
    assert!((400..600).contains(&number), "{number} commands of a kilobyte");
    // The same keys again take no more memory.
    (0..number).for_each(|number| put(&mut store, number));
    let bytes = store.changes();
    (0..number).for_each(|number| put(&mut store, number));
    assert_eq!(store.changes(), bytes);
    store.freeze(1).unwrap().write().unwrap();
    store.look();
    assert_eq!((store.changes(), store.wants_checkpoint()), (0, false));
}
