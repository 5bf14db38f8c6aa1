//! Tests on the real file system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::store_options;
use crate::storage::{
    Disk, FaultyDisk, FileDisk, LogOptions, Mode, Privacy, StorageError, Store, StoreOptions,
    verify,
};
use crate::types::LogPosition;

fn start(path: &Path, options: &StoreOptions) -> Result<(Store, Vec<Vec<u8>>), StorageError> {
    let mut records = Vec::new();
    let mut visit = |_: LogPosition, record: &[u8]| {
        records.push(record.to_vec());
        Ok(())
    };
    let opening = Store::open(Arc::new(FileDisk::open(path)?), options)?;
    let store = opening.replay(&mut visit)?;
    Ok((store, records))
}

#[test]
fn a_directory_lives_through_restarts() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("new/and/deep");
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for life in 1..=5_u8 {
        let (mut store, found) = start(&path, &store_options()).unwrap();
        assert_eq!(found, expected);
        assert_eq!(store.identity.incarnation, u64::from(life));
        for number in 0..60_u8 {
            let record = vec![number; usize::from(life) * 30];
            store.log.append(&record).unwrap();
            expected.push(record);
            store.log.flush().unwrap();
            store.log.maintain().unwrap();
        }
        if life % 2 == 0 {
            store.log.close().unwrap();
        }
    }
    let disk = FileDisk::read_only(&path).unwrap();
    let mut seen = 0;
    let report = verify(&disk, &mut |_, _| {
        seen += 1;
        Ok(())
    });
    let report = report.unwrap();
    assert!(report.is_sound(), "{:?}", report.problems);
    assert_eq!((seen, report.holder), (300, None));
    assert!(report.segments.len() >= 2, "{:?}", report.segments);
}

#[test]
fn a_directory_in_use_is_refused_by_name_and_may_be_looked_at() {
    let home = tempfile::tempdir().unwrap();
    let held = start(home.path(), &store_options()).unwrap();
    let error = FileDisk::open(home.path()).expect_err("in use").to_string();
    assert!(error.contains(&home.path().display().to_string()), "{error}");
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    let disk = FileDisk::read_only(home.path()).unwrap();
    let report = verify(&disk, &mut |_, _| Ok(())).unwrap();
    assert_eq!(report.holder, Some(std::process::id()));
    drop(held);
    FileDisk::open(home.path()).expect("free again");
}

/// A check whether a directory is in use takes its lock for a moment. No start may fail because of
/// it.
#[test]
fn looking_at_a_directory_keeps_nobody_out() {
    let home = tempfile::tempdir().unwrap();
    drop(FileDisk::open(home.path()).unwrap());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                FileDisk::read_only(home.path()).unwrap().holder();
            }
        });
        let opened = (0..1000).map(|_| FileDisk::open(home.path())).find(Result::is_err);
        over.store(true, Ordering::Relaxed);
        assert!(opened.is_none(), "{opened:?}");
    });
}

/// A segment of normal length takes many writes before the next one is due. The end of a shortage
/// must be noticed even though the shortage stops all writes.
#[test]
fn space_that_comes_back_is_noticed_without_a_write() {
    let home = tempfile::tempdir().unwrap();
    let mut options = store_options();
    options.log =
        LogOptions { segment_bytes: 1 << 20, keep_free: 1 << 60, ..LogOptions::default() };
    let (store, _) = start(home.path(), &options).unwrap();
    assert!(store.log.space_low(), "nobody has that much");
    drop(store);
    let disk = FaultyDisk::new(0, (3 << 20) + 4096);
    let shared = Arc::new(disk.clone());
    options.log.keep_free = 1 << 20;
    let mut log = Store::open(shared, &options).unwrap().replay(&mut |_, _| Ok(())).unwrap().log;
    log.maintain().unwrap();
    assert!(!log.space_low());
    disk.set_capacity(0);
    for _ in 0..900 {
        log.append(&[1; 1000]).unwrap();
    }
    log.flush().unwrap();
    log.maintain().unwrap();
    assert!(log.space_low());
    disk.set_capacity(4 << 20);
    log.maintain().unwrap();
    assert!(!log.space_low());
}

/// An earlier version or `cp` left the directory readable; the next start makes it private.
#[test]
fn a_directory_that_others_could_read_is_closed_to_them() {
    let home = tempfile::tempdir().unwrap();
    drop(start(home.path(), &store_options()).unwrap());
    fs::write(home.path().join("notes"), b"somebody else's").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let files = || fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path());
    for path in files().chain([home.path().to_owned()]) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let disk = FileDisk::open(home.path()).unwrap();
    assert_eq!(disk.privacy(), &Privacy::Tightened);
    drop(disk);
    assert_eq!(mode(home.path()), 0o700);
    for path in files() {
        let expected = if path.ends_with("notes") { 0o755 } else { 0o600 };
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
    assert_eq!(FileDisk::open(home.path()).unwrap().privacy(), &Privacy::Private);
}

#[test]
fn a_disk_for_reading_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("file"), b"text").unwrap();
    let disk = FileDisk::read_only(home.path()).unwrap();
    disk.open("file", Mode::Write).expect_err("for reading only");
    disk.open("new", Mode::Create).expect_err("for reading only");
    disk.rename("file", "other").expect_err("for reading only");
    disk.remove("file").expect_err("for reading only");
    assert_eq!(disk.list().unwrap(), ["file"]);
    let mut bytes = [0; 4];
    disk.open("file", Mode::Read).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"text");
    assert!(disk.free_space().unwrap() > 0);
    FileDisk::read_only(home.path().join("none")).expect_err("no such directory");
}

#[test]
fn segments_of_the_usual_length_are_filled_ahead_and_used_again() {
    let home = tempfile::tempdir().unwrap();
    let mut options = store_options();
    options.log = LogOptions { segment_bytes: 1 << 20, keep_free: 0, ..LogOptions::default() };
    let (mut store, _) = start(home.path(), &options).unwrap();
    let record = [7; 1000];
    for _ in 0..100 {
        for _ in 0..64 {
            store.log.append(&record).unwrap();
        }
        let durable = store.log.flush().unwrap();
        store.log.maintain().unwrap();
        store.log.truncate(durable.position()).unwrap();
    }
    assert!(store.log.counts().segments >= 5);
    let bytes: u64 = fs::read_dir(home.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 5 << 20, "{bytes} bytes in use");
    let end = store.log.end();
    let mut writer = store.snapshots.begin(end).unwrap();
    writer.write(b"state").unwrap();
    writer.finish().unwrap();
    store.log.append(&record).unwrap();
    store.log.flush().unwrap();
    // The lock is released with the last of them.
    drop(store);

    // Use other lengths from now on; existing segments are still read.
    options.log.segment_bytes = 1 << 16;
    let (mut store, found) = start(home.path(), &options).unwrap();
    assert_eq!(found, [record]);
    for _ in 0..2000 {
        store.log.append(&record).unwrap();
    }
    store.log.flush().unwrap();
    drop(store);
    let (store, found) = start(home.path(), &options).unwrap();
    assert_eq!(found.len(), 2001);
    assert_eq!(store.log.end().records(), end.records() + 2001);
}
