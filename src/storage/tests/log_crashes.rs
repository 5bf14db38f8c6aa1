//! A log compared with what was appended to it. After any crash, everything acknowledged is there
//! in order, followed by at most a prefix of the other appended records.

use std::ops::Range;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::storage::{
    Durability, Faults, FaultyDisk, Log, LogOptions, MIN_SEGMENT_BYTES, Operation, StorageError,
};
use crate::types::LogPosition;

const DIRECTORY: u64 = 7;
const CAPACITY: u64 = 1 << 20;

pub(super) fn options() -> LogOptions {
    LogOptions { segment_bytes: MIN_SEGMENT_BYTES, keep_free: 0, durability: Durability::Fsync }
}

/// All records from `first` on.
pub(super) fn open(disk: &FaultyDisk) -> Result<(Log, Vec<Vec<u8>>), StorageError> {
    open_from(disk, LogPosition::default())
}

pub(super) fn open_from(
    disk: &FaultyDisk,
    from: LogPosition,
) -> Result<(Log, Vec<Vec<u8>>), StorageError> {
    let mut records = Vec::new();
    let mut expected = from.records();
    let mut visit = |position: LogPosition, record: &[u8]| {
        assert_eq!(position.records(), expected, "records come in order, each with its position");
        expected += 1;
        records.push(record.to_vec());
        Ok(())
    };
    let log = Log::open(Arc::new(disk.clone()), options(), DIRECTORY, from, &mut visit)?;
    assert_eq!(log.end().records(), from.records() + records.len() as u64);
    Ok((log, records))
}

pub(super) fn create(disk: &FaultyDisk) -> Log {
    Log::create(Arc::new(disk.clone()), options(), DIRECTORY, LogPosition::default())
        .expect("a disk without faults")
}

/// The expected contents of a log.
#[derive(Default)]
struct Model {
    /// Every record ever appended that may still be there.
    records: Vec<Vec<u8>>,
    acknowledged: usize,
    /// Records before this one were dropped.
    truncated: usize,
}

impl Model {
    fn append(&mut self, log: &mut Log, rng: &mut ChaCha8Rng) -> Result<(), StorageError> {
        let length = if rng.random_bool(0.1) { 1500 } else { rng.random_range(0..200) };
        let mut record = vec![0; length];
        rng.fill(&mut record[..]);
        self.records.push(record);
        let end = log.append(self.records.last().expect("just pushed"))?;
        assert_eq!(end.records(), self.records.len() as u64);
        Ok(())
    }

    fn step(&mut self, log: &mut Log, rng: &mut ChaCha8Rng) -> Result<(), StorageError> {
        // Sometimes more than a segment holds.
        let most = if rng.random_bool(0.05) { 60 } else { 6 };
        for _ in 0..rng.random_range(0..most) {
            self.append(log, rng)?;
        }
        let durable = if rng.random_bool(0.05) { log.rotate()? } else { log.flush()? };
        assert_eq!(durable.position(), log.end());
        self.acknowledged = self.records.len();
        if rng.random_bool(0.7) {
            log.maintain()?;
        }
        if rng.random_bool(0.1) {
            self.truncated = rng.random_range(self.truncated..=self.acknowledged);
            log.truncate(LogPosition::new(self.truncated as u64))?;
        }
        // Records that are appended but never flushed may be lost.
        if rng.random_bool(0.3) {
            self.append(log, rng)?;
        }
        Ok(())
    }

    /// Compares with the records found, and adopts them.
    fn check(&mut self, found: &[Vec<u8>], what: &str) {
        let end = self.truncated + found.len();
        assert!(end >= self.acknowledged, "{what}: {end} records, {} promised", self.acknowledged);
        assert!(end <= self.records.len(), "{what}: more records than were appended");
        assert!(found == &self.records[self.truncated..end], "{what}: other records than appended");
        self.records.truncate(end);
        self.acknowledged = end;
    }

    fn reopen(&mut self, disk: &FaultyDisk, what: &str) -> Result<Log, StorageError> {
        let (log, found) = open_from(disk, LogPosition::new(self.truncated as u64))?;
        self.check(&found, what);
        Ok(log)
    }
}

#[derive(Clone, Copy, Debug)]
enum Crash {
    Process,
    Power,
}

fn crash(disk: &FaultyDisk, how: Crash) {
    match how {
        Crash::Process => disk.restart_process(),
        Crash::Power => disk.lose_power(),
    }
}

#[test]
fn a_crash_at_any_boundary_loses_nothing_that_was_acknowledged() {
    crash_at_every_boundary(0..4, 60, 3);
}

#[test]
#[ignore = "takes a minute: for the figures"]
fn a_crash_at_any_boundary_of_1000_operations_loses_nothing_either() {
    crash_at_every_boundary(0..2, 500, 10);
}

/// Runs scripts of `steps` steps, each once for every boundary and for `seeds` seeds of every
/// crash.
fn crash_at_every_boundary(scripts: Range<u64>, steps: usize, seeds: u64) {
    for script in scripts {
        let disk = FaultyDisk::new(script, CAPACITY);
        let mut log = create(&disk);
        let (mut model, mut rng) = (Model::default(), ChaCha8Rng::seed_from_u64(script));
        let first = disk.operations();
        let done = (0..steps).try_for_each(|_| model.step(&mut log, &mut rng));
        done.expect("a disk without faults");
        let boundaries = disk.operations() - first;
        assert!(boundaries > 100, "only {boundaries} boundaries: the script does too little");
        for boundary in 0..boundaries {
            for seed in 0..seeds {
                let how = if seed == 0 { Crash::Process } else { Crash::Power };
                let what = format!("script {script}, {how:?} at {boundary}, seed {seed}");
                let disk = FaultyDisk::new(script ^ seed << 32, CAPACITY);
                let mut log = create(&disk);
                disk.crash_after(boundary);
                let (mut model, mut rng) = (Model::default(), ChaCha8Rng::seed_from_u64(script));
                let died = (0..steps).try_for_each(|_| model.step(&mut log, &mut rng));
                assert!(died.is_err() && disk.is_dead(), "{what}: the disk did not die");
                crash(&disk, how);
                recover(&disk, &mut model, how, boundary, &what);
            }
        }
    }
}

/// Opens the log and crashes meanwhile, too, continues, and opens it again.
fn recover(disk: &FaultyDisk, model: &mut Model, how: Crash, boundary: u64, what: &str) {
    disk.crash_after(boundary % 12);
    let mut opened = model.reopen(disk, what);
    if opened.is_err() {
        assert!(disk.is_dead(), "{what}: {opened:?}");
        crash(disk, how);
        opened = model.reopen(disk, what);
    }
    disk.crash_after(u64::MAX / 2);
    let mut log = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut rng = ChaCha8Rng::seed_from_u64(boundary);
    for _ in 0..4 {
        model.step(&mut log, &mut rng).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    drop(log);
    crash(disk, how);
    model.reopen(disk, what).unwrap_or_else(|error| panic!("{what}, again: {error}"));
}

#[test]
fn many_crashes_in_a_row_lose_nothing_either() {
    for seed in 0..200 {
        let disk = FaultyDisk::new(seed, CAPACITY);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut model, mut log) = (Model::default(), create(&disk));
        for life in 0..20 {
            disk.crash_after(rng.random_range(0..60));
            while model.step(&mut log, &mut rng).is_ok() {}
            loop {
                let how = if rng.random_bool(0.6) { Crash::Power } else { Crash::Process };
                crash(&disk, how);
                if rng.random_bool(0.3) {
                    disk.crash_after(rng.random_range(0..10));
                }
                match model.reopen(&disk, &format!("seed {seed}, life {life}")) {
                    Ok(opened) => break log = opened,
                    Err(error) => assert!(disk.is_dead(), "seed {seed}, life {life}: {error}"),
                }
            }
        }
    }
}

/// Flushes and writes fail, also while the log is opened, and crashes of every kind follow. The
/// next process reads what a killed one left in memory, marked as clean.
#[test]
fn failures_and_crashes_in_a_row_lose_nothing_either() {
    let mut failed = 0;
    for seed in 0..300 {
        let disk = FaultyDisk::new(seed, CAPACITY);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut model, mut log) = (Model::default(), create(&disk));
        for life in 0..20 {
            let error = rng.random_range(0.0..0.1);
            let faults = Faults { sync_error: error, write_error: error, ..Faults::default() };
            disk.set_faults(faults);
            if rng.random_bool(0.3) {
                disk.crash_after(rng.random_range(0..60));
            }
            let done = (0..100).try_for_each(|_| model.step(&mut log, &mut rng));
            failed += u64::from(done.is_err() && !disk.is_dead());
            log = loop {
                let how = if rng.random_bool(0.4) { Crash::Power } else { Crash::Process };
                crash(&disk, how);
                if rng.random_bool(0.3) {
                    disk.crash_after(rng.random_range(0..10));
                }
                match model.reopen(&disk, &format!("seed {seed}, life {life}")) {
                    Ok(opened) => break opened,
                    Err(StorageError::Io { .. }) => {}
                    Err(error) => panic!("seed {seed}, life {life}: {error}"),
                }
            };
        }
    }
    assert!(failed > 1000, "only {failed} lives ended with a failure");
}

#[test]
fn a_failed_operation_poisons_the_log_and_is_never_tried_again() {
    for (operation, seed) in [Operation::Write, Operation::Sync].into_iter().zip(0..) {
        let disk = FaultyDisk::new(seed, CAPACITY);
        let mut log = create(&disk);
        log.append(b"safe").unwrap();
        log.flush().unwrap();
        disk.fail_next(operation);
        log.append(b"doubtful").unwrap();
        let error = log.flush().expect_err("the disk fails").to_string();
        let before = disk.operations();
        assert_eq!(log.append(b"more").expect_err("poisoned").to_string(), error);
        assert_eq!(log.flush().expect_err("poisoned").to_string(), error);
        assert_eq!(log.maintain().expect_err("poisoned").to_string(), error);
        assert_eq!(log.truncate(LogPosition::new(1)).expect_err("poisoned").to_string(), error);
        assert_eq!(log.durable().position(), LogPosition::new(1));
        assert_eq!(log.close().expect_err("poisoned").to_string(), error);
        assert_eq!(disk.operations(), before, "a poisoned log leaves the disk alone");
    }
}

/// A flush fails once: the system drops what it could not write and marks it as clean, and the next
/// flush succeeds. Suppose a restart believes what it reads from memory and flushes nothing. A
/// power failure then loses it.
#[test]
fn what_a_failed_flush_left_in_memory_alone_is_written_again_before_it_is_believed() {
    let mut survived = 0;
    for seed in 0..50 {
        let disk = FaultyDisk::new(seed, CAPACITY);
        let mut log = create(&disk);
        log.append(b"doubtful").unwrap();
        disk.fail_next(Operation::Sync);
        log.flush().expect_err("the disk fails");
        disk.restart_process();
        let (log, found) = open(&disk).expect("a torn tail at most");
        drop(log);
        disk.lose_power();
        let (_, again) = open(&disk).expect("nothing was damaged");
        assert_eq!(found, again, "seed {seed}: what was shown once has to stay");
        survived += found.len();
    }
    assert!(survived > 0, "the story was never told");
}

#[test]
fn faults_by_chance_end_the_log_or_do_no_harm() {
    let mut ended = 0;
    for seed in 0..300 {
        let disk = FaultyDisk::new(seed, CAPACITY);
        let (mut model, mut rng) = (Model::default(), ChaCha8Rng::seed_from_u64(seed));
        let mut log = create(&disk);
        disk.set_faults(Faults { write_error: 0.01, sync_error: 0.01, ..Faults::default() });
        let done = (0..50).try_for_each(|_| model.step(&mut log, &mut rng));
        ended += u64::from(done.is_err());
        disk.set_faults(Faults::default());
        disk.lose_power();
        model.reopen(&disk, &format!("seed {seed}")).expect("acknowledged records are sound");
    }
    assert!((100..300).contains(&ended), "{ended} of 300 ended");
}

#[test]
fn a_full_disk_is_announced_a_segment_early_and_loses_nothing() {
    let disk = FaultyDisk::new(0, 3 * MIN_SEGMENT_BYTES as u64);
    let mut log = create(&disk);
    let record = [1; 100];
    let (mut low_at, mut written) = (None, 0);
    let error = loop {
        log.append(&record).unwrap();
        match log.flush() {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        log.maintain().expect("a full disk is no error yet");
        if log.space_low() && low_at.is_none() {
            low_at = Some(written);
        }
    };
    assert!(error.is_full(), "{error}");
    let left = (written - low_at.expect("low before full")) * (100 + 36);
    assert!(left > MIN_SEGMENT_BYTES / 3, "only {left} bytes could be written after the warning");
    drop(log);
    disk.restart_process();
    let (log, found) = open(&disk).expect("nothing is wrong but the room");
    assert_eq!(found.len(), written, "everything that was acknowledged, and nothing else");
    assert!(log.space_low(), "still full");
    drop(log);
    disk.set_capacity(CAPACITY);
    disk.restart_process();
    let (mut log, _) = open(&disk).unwrap();
    assert!(!log.space_low());
    log.append(&record).unwrap();
    assert_eq!(log.flush().unwrap().position().records(), written as u64 + 1);
}

#[test]
fn truncation_makes_room_where_there_was_none() {
    let disk = FaultyDisk::new(0, 3 * MIN_SEGMENT_BYTES as u64);
    let mut log = create(&disk);
    for number in 0_u32..2000 {
        log.append(&[number.to_le_bytes(); 20].concat()).unwrap();
        let durable = log.flush().unwrap();
        log.maintain().unwrap();
        log.truncate(durable.position()).unwrap();
    }
    assert!(disk.files().len() <= 3, "files are used again: {:?}", disk.files().keys());
    let first = log.first();
    assert!(first.records() > 1900, "the front is gone");
    log.close().unwrap();
    let (_, found) = open_from(&disk, first).unwrap();
    assert_eq!(found.len() as u64, 2000 - first.records());
    let error = open(&disk).expect_err("the front is gone").to_string();
    assert!(error.contains("the log starts with record"), "{error}");
}

#[test]
fn batches_longer_than_a_segment_are_split_and_records_that_long_refused() {
    let disk = FaultyDisk::new(0, CAPACITY);
    let mut log = create(&disk);
    let limit = log.record_limit();
    log.append(b"small").unwrap();
    let error = log.append(&vec![0; limit + 1]).expect_err("too long");
    assert!(matches!(error, StorageError::TooLarge { bytes, limit: l } if bytes == l + 1));
    for size in [limit, 0, 1, limit - 1, 2000, 2000, limit] {
        log.append(&vec![7; size]).unwrap();
    }
    assert_eq!(log.flush().unwrap().position(), LogPosition::new(8));
    assert!(log.counts().segments >= 3);
    log.close().unwrap();
    let lengths: Vec<usize> = open(&disk).unwrap().1.iter().map(Vec::len).collect();
    assert_eq!(lengths, [5, limit, 0, 1, limit - 1, 2000, 2000, limit]);
}
