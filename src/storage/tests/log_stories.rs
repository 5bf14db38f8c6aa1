//! Single stories of the log.

use std::sync::Arc;

use super::log_crashes::{create, open, open_from, options};
use crate::storage::{Durability, Faults, FaultyDisk, Log, LogOptions, StorageError};
use crate::types::LogPosition;

const CAPACITY: u64 = 1 << 20;

/// The process crashes when the next segment has its header, and before the old one is marked as
/// continued. The next life starts after a snapshot and needs only the new segment. If it did not
/// also read the old one, that one would look damaged as soon as records follow.
#[test]
fn a_segment_that_was_not_marked_as_continued_is_marked_by_the_next_life() {
    let mut unmarked = 0;
    for boundary in 0..6 {
        let disk = FaultyDisk::new(boundary, CAPACITY);
        let mut log = create(&disk);
        log.append(b"one").unwrap();
        log.flush().unwrap();
        disk.crash_after(boundary);
        let done = log.rotate();
        let dead = disk.is_dead();
        assert_eq!(done.is_err(), dead);
        disk.restart_process();
        let segments = |disk: &FaultyDisk| {
            disk.files().values().filter(|file| file.starts_with(b"isonolog")).count()
        };
        unmarked += usize::from(dead && segments(&disk) == 2);
        let (mut log, _) = open_from(&disk, LogPosition::new(1)).unwrap();
        log.append(b"two").unwrap();
        log.flush().unwrap();
        drop(log);
        let (_, found) = open(&disk).unwrap_or_else(|error| panic!("at {boundary}: {error}"));
        assert_eq!(found, [b"one", b"two"]);
    }
    assert!(unmarked > 0, "no crash came between the two segments");
}

/// One flush fails while the log moves to the next segment: the flush of the header, or of the mark
/// that leads there. The process is killed. The next one finds both in memory, marked as clean, and
/// its own flushes write neither. If it believed what it read, a power failure would lose the
/// header with every later record, or the mark, without which the log looks damaged.
#[test]
fn a_header_and_a_mark_that_were_left_in_memory_alone_are_written_again() {
    let (mut headers, mut marks) = (0, 0);
    for seed in 0..100 {
        let disk = FaultyDisk::new(seed, CAPACITY);
        let mut log = create(&disk);
        log.append(b"one").unwrap();
        log.flush().unwrap();
        disk.set_faults(Faults { sync_error: 0.4, ..Faults::default() });
        let error = log.rotate().map_or_else(|error| error.to_string(), |_| String::new());
        headers += u32::from(error.starts_with("flushing log-0000000000000002"));
        marks += u32::from(error.starts_with("flushing log-0000000000000001"));
        disk.set_faults(Faults::default());
        disk.restart_process();
        let (mut log, _) = open(&disk).unwrap();
        log.append(b"two").unwrap();
        log.flush().unwrap();
        drop(log);
        disk.lose_power();
        let (_, found) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(found, [b"one", b"two"], "seed {seed}");
    }
    assert!(headers > 9 && marks > 9, "{headers} headers and {marks} marks were in doubt");
}

#[test]
fn left_to_the_operating_system_records_survive_the_process_without_a_flush() {
    let options = LogOptions { durability: Durability::Os, ..options() };
    let disk = FaultyDisk::new(1, CAPACITY);
    let shared = || Arc::new(disk.clone());
    let mut log = Log::create(shared(), options, 7, LogPosition::default()).unwrap();
    let mut records = Vec::new();
    for number in 0..200_u8 {
        let record = vec![number; 70];
        log.append(&record).unwrap();
        let before = disk.operations();
        let durable = log.flush().unwrap();
        if log.counts().segments == 0 {
            assert_eq!(disk.operations(), before + 1, "one write, no flush");
        }
        records.push(record);
        assert_eq!(durable.position().records(), records.len() as u64);
    }
    assert!(log.counts().segments > 1);
    disk.restart_process();
    let mut found = Vec::new();
    let mut visit = |_: LogPosition, record: &[u8]| {
        found.push(record.to_vec());
        Ok(())
    };
    Log::open(shared(), options, 7, LogPosition::default(), &mut visit).unwrap();
    assert!(found == records);
    // Everything that opening has read is durable, whatever the mode was.
    disk.lose_power();
    assert!(open(&disk).unwrap().1 == records);
}

#[test]
fn a_record_that_the_reader_refuses_is_named_and_nothing_is_changed() {
    let disk = FaultyDisk::new(1, CAPACITY);
    let mut log = create(&disk);
    for text in ["good", "bad", "good"] {
        log.append(text.as_bytes()).unwrap();
    }
    log.flush().unwrap();
    let before = disk.operations();
    let mut visit = |_: LogPosition, record: &[u8]| {
        if record == b"bad" { Err("no such kind".to_owned()) } else { Ok(()) }
    };
    let from = LogPosition::default();
    let error = Log::open(Arc::new(disk.clone()), options(), 7, from, &mut visit);
    let error = error.expect_err("a record is refused");
    let StorageError::Damaged { file, offset, what } = error else { panic!("{error}") };
    assert_eq!(file, "log-0000000000000001");
    assert_eq!((offset, what.as_str()), (4096 + 32 + 8, "record 1: no such kind"));
    assert_eq!(disk.operations(), before, "nothing was changed");
}

#[test]
fn a_log_of_another_directory_is_refused() {
    let disk = FaultyDisk::new(1, CAPACITY);
    drop(create(&disk));
    let from = LogPosition::default();
    let error = Log::open(Arc::new(disk.clone()), options(), 8, from, &mut |_, _| Ok(()));
    assert!(error.expect_err("another's").to_string().contains("another directory"));
}
