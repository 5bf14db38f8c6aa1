//! Snapshots: complete or absent, the newest sound one is used, and every byte is checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::store_options;
use crate::storage::{FaultyDisk, Opening, Snapshots, StorageError, Store};
use crate::types::LogPosition;

type Files = BTreeMap<String, Vec<u8>>;

const CAPACITY: u64 = 1 << 20;

fn opening(disk: &FaultyDisk) -> Result<Opening, StorageError> {
    Store::open(Arc::new(disk.clone()), &store_options())
}

fn open(disk: &FaultyDisk) -> Store {
    opening(disk).unwrap().replay(&mut |_, _| Ok(())).unwrap()
}

fn contents(opening: &mut Opening) -> Option<Vec<u8>> {
    let reader = opening.snapshot.as_mut()?;
    let mut all = Vec::new();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        all.extend(chunk);
    }
    assert_eq!(all.len() as u64, reader.info().bytes);
    Some(all)
}

fn take(snapshots: &Snapshots, position: u64, contents: &[u8]) {
    let mut writer = snapshots.begin(LogPosition::new(position)).unwrap();
    writer.write(contents).unwrap();
    writer.finish().unwrap();
}

/// A directory with ten records in the log and snapshots of `contents` at these positions.
fn directory(positions: &[u64], contents: impl Fn(u64) -> Vec<u8>) -> FaultyDisk {
    let disk = FaultyDisk::new(1, CAPACITY);
    let mut store = open(&disk);
    for number in 0..10 {
        store.log.append(&[number; 10]).unwrap();
    }
    store.log.flush().unwrap();
    for position in positions {
        take(&store.snapshots, *position, &contents(*position));
    }
    store.log.close().unwrap();
    disk.restart_process();
    disk
}

fn text(position: u64) -> Vec<u8> {
    format!("the state at {position}. ").repeat(20).into_bytes()
}

#[test]
fn the_newest_is_used_and_two_are_kept() {
    let disk = directory(&[2, 5, 7, 9], text);
    let names: Vec<String> =
        disk.files().into_keys().filter(|n| n.starts_with("snapshot-0")).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let mut opened = opening(&disk).unwrap();
    assert_eq!(contents(&mut opened), Some(text(9)));
    let mut replayed = Vec::new();
    let mut visit = |position: LogPosition, record: &[u8]| {
        replayed.push((position.records(), record.to_vec()));
        Ok(())
    };
    let store = opened.replay(&mut visit).unwrap();
    assert_eq!(replayed, [(9, vec![9; 10])]);
    assert_eq!(store.snapshots.log_floor(), LogPosition::new(7), "back to the older one");
    let newest = store.snapshots.newest().unwrap().unwrap();
    assert_eq!(newest.info().position, LogPosition::new(9));
    assert_eq!(&newest.chunk(1).unwrap()[..], &text(9)[100..200]);
}

#[test]
fn the_log_is_kept_until_enough_snapshots_are_there() {
    let disk = directory(&[4], text);
    assert_eq!(open(&disk).snapshots.log_floor(), LogPosition::new(0));
    let disk = directory(&[4, 4], text);
    assert_eq!(open(&disk).snapshots.log_floor(), LogPosition::new(0), "one, taken twice");
}

#[test]
fn a_damaged_one_is_reported_and_the_older_one_takes_its_place() {
    let disk = directory(&[4, 8], text);
    disk.flip("snapshot-00000000000000000008", 300, 1);
    let mut opened = opening(&disk).unwrap();
    assert_eq!(contents(&mut opened), Some(text(4)));
    assert_eq!(opened.damaged.len(), 1);
    assert!(opened.damaged[0].to_string().contains("00008, byte"), "{}", opened.damaged[0]);
    let mut first = None;
    let mut visit = |position: LogPosition, _: &[u8]| {
        first.get_or_insert(position.records());
        Ok(())
    };
    let store = opened.replay(&mut visit).unwrap();
    assert_eq!(first, Some(4), "with every record behind it");
    assert_eq!(store.snapshots.log_floor(), LogPosition::new(0), "one sound one is not enough");
    take(&store.snapshots, 9, b"new");
    assert!(!disk.files().contains_key("snapshot-00000000000000000008"), "no longer of use");
    assert_eq!(store.snapshots.kept_ones().len(), 2);
}

#[test]
fn an_older_one_that_the_log_does_not_reach_is_refused() {
    let disk = FaultyDisk::new(1, CAPACITY);
    let mut store = open(&disk);
    let mut durable = LogPosition::default();
    for _ in 0..3 {
        for _ in 0..100 {
            store.log.append(&[1; 100]).unwrap();
        }
        durable = store.log.flush().unwrap().position();
        take(&store.snapshots, durable.records(), &text(1));
    }
    // Truncate too far, which a node must not do: to the newest snapshot instead of the oldest.
    store.log.truncate(durable).unwrap();
    store.log.close().unwrap();
    disk.restart_process();
    opening(&disk).expect("the newest is sound");
    disk.flip(&format!("snapshot-{:020}", durable.records()), 300, 1);
    let error = opening(&disk).expect_err("the older one misses records").to_string();
    assert!(error.contains(&format!("{:020}, byte", durable.records())), "{error}");
}

#[test]
fn every_damaged_byte_of_a_snapshot_is_noticed() {
    let disk = directory(&[4, 8], text);
    let files = disk.files();
    let name = "snapshot-00000000000000000008";
    for at in 0..files[name].len() {
        let disk = FaultyDisk::with_files(0, CAPACITY, &files);
        disk.flip(name, at, 1 << (at % 8));
        let mut opened = opening(&disk).unwrap();
        assert_eq!(opened.damaged.len(), 1, "byte {at}");
        assert_eq!(contents(&mut opened), Some(text(4)), "byte {at}");
    }
}

#[test]
fn a_snapshot_cut_at_any_length_is_noticed_and_so_is_more() {
    let files = directory(&[4, 8], text).files();
    let name = "snapshot-00000000000000000008";
    let check = |files: &Files, what: &str| {
        let mut opened = opening(&FaultyDisk::with_files(0, CAPACITY, files)).unwrap();
        assert_eq!(opened.damaged.len(), 1, "{what}");
        assert_eq!(contents(&mut opened), Some(text(4)), "{what}");
    };
    for len in 0..files[name].len() {
        let mut cut = files.clone();
        cut.get_mut(name).unwrap().truncate(len);
        check(&cut, &format!("cut to {len}"));
    }
    let mut more = files.clone();
    more.get_mut(name).unwrap().push(0);
    check(&more, "one byte more");
    // A complete snapshot under the name of another.
    let mut swapped = files.clone();
    let older = files["snapshot-00000000000000000004"].clone();
    swapped.insert(name.into(), older);
    check(&swapped, "an older one under its name");
}

#[test]
fn an_unfinished_one_leaves_nothing_behind() {
    let disk = directory(&[4], text);
    let store = open(&disk);
    let mut writer = store.snapshots.begin(LogPosition::new(8)).unwrap();
    writer.write(&text(8)).unwrap();
    let count = disk.files().len();
    drop(writer);
    let spare = disk.files().remove("snapshot-spare-1").expect("set aside again");
    assert_eq!((disk.files().len(), spare.len()), (count, 0));
    let mut writer = store.snapshots.begin(LogPosition::new(8)).unwrap();
    writer.write(&text(8)).unwrap();
    // The process is killed, so no one tidies up.
    disk.restart_process();
    drop(writer);
    let mut opened = opening(&disk).unwrap();
    assert_eq!(contents(&mut opened), Some(text(4)));
    assert!(opened.damaged.is_empty());
}

#[test]
fn a_full_disk_costs_the_snapshot_and_nothing_else() {
    let disk = directory(&[4], text);
    let mut store = open(&disk);
    store.log.append(b"before").unwrap();
    store.log.flush().unwrap();
    disk.set_capacity(0);
    let writer = store.snapshots.begin(LogPosition::new(8));
    let error = writer.and_then(|mut writer| writer.write(&text(8))).expect_err("full");
    assert!(error.is_full(), "{error}");
    store.log.append(b"after").unwrap();
    store.log.flush().expect("the log has its room already");
    assert_eq!(store.snapshots.kept_ones().len(), 1);
}

/// A snapshot with a state from elsewhere covers what no record says. With the log cut there,
/// neither an older snapshot nor the log alone may replace it.
#[test]
fn with_the_log_cut_at_a_snapshot_nothing_stands_in_for_it() {
    let disk = directory(&[4], text);
    let mut store = open(&disk);
    let position = store.log.rotate().unwrap().position();
    take(&store.snapshots, position.records(), &text(10));
    store.log.truncate(position).unwrap();
    assert_eq!(store.log.first(), position);
    store.log.append(b"behind").unwrap();
    store.log.close().unwrap();
    disk.restart_process();
    let mut opened = opening(&disk).unwrap();
    assert_eq!(contents(&mut opened), Some(text(10)));
    disk.flip("snapshot-00000000000000000010", 100, 1);
    opening(&disk).expect_err("nothing can replace it");
}

/// Deletes files in every combination. If the log still reaches back to a remaining snapshot,
/// everything is there. Otherwise the start is refused, and the error names what is missing.
#[test]
fn deleted_files_are_noticed_unless_the_rest_holds_everything() {
    let disk = FaultyDisk::new(1, CAPACITY);
    let mut store = open(&disk);
    for round in 0..4 {
        for _ in 0..60 {
            store.log.append(&[round; 300]).unwrap();
            store.log.flush().unwrap();
        }
        take(&store.snapshots, store.log.end().records(), &text(u64::from(round)));
        store.log.truncate(store.snapshots.log_floor()).unwrap();
    }
    store.log.append(b"the last").unwrap();
    store.log.close().unwrap();
    let files = disk.files();
    let of = |kind: &str| -> Vec<String> {
        files.keys().filter(|name| name.starts_with(kind)).cloned().collect()
    };
    let (snapshots, segments) = (of("snapshot-0"), of("log-"));
    assert!(snapshots.len() == 2 && segments.len() > 3, "{snapshots:?} {segments:?}");
    let start = |without: &[&String]| {
        let mut files = files.clone();
        without.iter().for_each(|name| drop(files.remove(*name)));
        let disk = FaultyDisk::with_files(0, CAPACITY, &files);
        let mut last = Vec::new();
        let mut visit = |_: LogPosition, record: &[u8]| {
            last = record.to_vec();
            Ok(())
        };
        let store = opening(&disk).and_then(|opening| opening.replay(&mut visit));
        store.map(|store| (store.log.end().records(), last))
    };
    let whole = start(&[]).unwrap();
    assert_eq!(whole, (241, b"the last".to_vec()));
    // The other snapshot and the log can replace either one.
    assert_eq!(start(&[&snapshots[0]]).unwrap(), whole);
    assert_eq!(start(&[&snapshots[1]]).unwrap(), whole);
    let none = start(&[&snapshots[0], &snapshots[1]]).expect_err("the front is gone").to_string();
    assert!(none.contains("there is no snapshot") && none.contains("is missing"), "{none}");
    // The newest snapshot, and the start of the log that an older one would need.
    let short = start(&[&snapshots[1], &segments[0]]).expect_err("records are gone").to_string();
    assert!(short.contains(&snapshots[0]) && short.contains("is missing"), "{short}");
    for hole in &segments[1..segments.len() - 1] {
        let error = start(&[hole]).expect_err("a hole").to_string();
        assert!(error.contains(&**hole) && error.contains("missing"), "{error}");
    }
    let last = segments.last().unwrap();
    let live = files[last].starts_with(b"isonolog");
    let last = if live { last } else { &segments[segments.len() - 2] };
    let error = start(&[last]).expect_err("the end is gone").to_string();
    assert!(error.contains(&**last), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_pieces_the_contents_come_back(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..250), 0..12),
    ) {
        let disk = FaultyDisk::new(1, CAPACITY);
        let store = open(&disk);
        let mut writer = store.snapshots.begin(LogPosition::default()).unwrap();
        for piece in &pieces {
            writer.write(piece).unwrap();
        }
        let info = writer.finish().unwrap();
        prop_assert_eq!(info.bytes, pieces.concat().len() as u64);
        disk.lose_power();
        prop_assert_eq!(contents(&mut opening(&disk).unwrap()), Some(pieces.concat()));
    }
}
