//! Disks that run out of room or files: the log waits, loses nothing and continues.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::log_crashes::{create, open, open_from};
use super::store_options;
use crate::storage::{
    FaultyDisk, Log, LogEvent, LogThread, MIN_SEGMENT_BYTES, StorageError, Store,
};
use crate::types::LogPosition;

const SEGMENT: u64 = MIN_SEGMENT_BYTES as u64;
const CAPACITY: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

fn place(position: u64) -> usize {
    usize::try_from(position).unwrap()
}

/// What a log was given in all its lives.
#[derive(Default)]
struct Story {
    records: Vec<Vec<u8>>,
    acknowledged: usize,
    truncated: u64,
    waits: u32,
    /// The waits that came after the log had begun to move to the next segment.
    resumed: u32,
}

impl Story {
    fn append(&mut self, log: &mut Log, rng: &mut ChaCha8Rng) {
        for _ in 0..rng.random_range(1..8) {
            let mut record = vec![0; rng.random_range(0..900)];
            rng.fill(&mut record[..]);
            log.append(&record).expect("a log that waits for room still takes records");
            self.records.push(record);
        }
    }

    /// One attempt. Returns whether everything is written.
    fn flush(&mut self, log: &mut Log, rotate: bool) -> bool {
        let done = if rotate { log.rotate() } else { log.flush() };
        let durable = place(log.durable().position().records());
        assert!(durable >= self.acknowledged, "what is durable stays so");
        self.acknowledged = durable;
        match done {
            Ok(durable) => assert_eq!(durable.position(), log.end()),
            Err(ref error) => assert!(error.is_full(), "{error}"),
        }
        log.maintain().expect("a full disk is no error here");
        done.is_ok()
    }

    fn truncate(&mut self, log: &mut Log, rng: &mut ChaCha8Rng) {
        let to = rng.random_range(self.truncated..=self.acknowledged as u64);
        log.truncate(LogPosition::new(to)).expect("files are renamed or removed");
        self.truncated = log.first().records();
    }

    fn reopen(&mut self, disk: &FaultyDisk, seed: u64) -> Log {
        let from = LogPosition::new(self.truncated);
        let (log, found) =
            open_from(disk, from).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let first = place(self.truncated);
        let end = first + found.len();
        assert!(end >= self.acknowledged, "seed {seed}: acknowledged records are missing");
        assert!(found == self.records[first..end], "seed {seed}: other records");
        self.records.truncate(end);
        self.acknowledged = end;
        log
    }
}

/// Room comes and goes, by itself and by truncation. Records appended meanwhile are written later
/// with the rest. Processes crash and the power fails in between. This runs on file systems that
/// write in place and on copy-on-write ones.
#[test]
fn a_log_without_room_waits_and_loses_nothing() {
    let (mut waits, mut resumed) = (0, 0);
    for seed in 0..400 {
        let disk = FaultyDisk::new(seed, CAPACITY);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut log, mut story) = (create(&disk), Story::default());
        if seed % 2 == 0 {
            disk.copy_on_write();
        }
        for _ in 0..12 {
            disk.set_capacity(rng.random_range(0..6 * SEGMENT));
            for _ in 0..rng.random_range(1..6) {
                story.append(&mut log, &mut rng);
                let rotate = rng.random_ratio(1, 4);
                while !story.flush(&mut log, rotate) {
                    story.waits += 1;
                    match rng.random_range(0..4) {
                        0 => story.truncate(&mut log, &mut rng),
                        1 if !rotate => story.append(&mut log, &mut rng),
                        // Just enough for a header, or for anything.
                        2 => disk.set_capacity(rng.random_range(0..10 * SEGMENT)),
                        _ => break,
                    }
                    story.resumed += u32::from(log.buffered_bytes() > 0);
                }
                if rotate {
                    break;
                }
            }
            match rng.random_range(0..3) {
                0 => disk.lose_power(),
                1 => disk.restart_process(),
                _ => continue,
            }
            disk.set_capacity(CAPACITY);
            drop(log);
            log = story.reopen(&disk, seed);
        }
        disk.set_capacity(CAPACITY);
        assert!(story.flush(&mut log, false), "seed {seed}: there is room");
        assert_eq!(story.acknowledged, story.records.len(), "seed {seed}");
        drop(log);
        disk.lose_power();
        drop(story.reopen(&disk, seed));
        (waits, resumed) = (waits + story.waits, resumed + story.resumed);
    }
    assert!(waits > 1000 && resumed > 500, "{waits} waits, {resumed} of them gone on with");
}

#[test]
fn without_files_to_be_had_the_log_waits_as_without_room() {
    let disk = FaultyDisk::new(0, CAPACITY);
    let mut log = create(&disk);
    disk.set_most_files(1);
    let mut written = 0;
    let error = loop {
        log.append(&[1; 500]).unwrap();
        match log.flush() {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        log.maintain().expect("it is no error yet");
    };
    assert!(error.is_full() && log.space_low(), "{error}");
    disk.set_most_files(2);
    assert_eq!(log.flush().unwrap().position().records(), written + 1);
    drop(log);
    disk.restart_process();
    assert_eq!(open(&disk).unwrap().1.len() as u64, written + 1);
    let other = FaultyDisk::new(0, CAPACITY);
    other.set_most_files(0);
    let store = Store::open(Arc::new(other), &store_options());
    assert!(store.expect_err("no file for a log").is_full());
}

/// A failed flush leaves its data in doubt, also if the disk was full.
#[test]
fn a_flush_without_room_is_a_failed_flush() {
    let full = || io::Error::from(io::ErrorKind::StorageFull);
    assert!(StorageError::io("writing", "f", full()).is_full());
    let quota = io::Error::from(io::ErrorKind::QuotaExceeded);
    assert!(StorageError::io("creating", "f", quota).is_full());
    let flush = StorageError::flush("f", full());
    assert!(!flush.is_full() && flush.to_string().starts_with("flushing f"), "{flush}");
}

fn record() -> Bytes {
    Bytes::from(vec![7; 1000])
}

/// On its own thread: the wait is reported once, a truncation ends it, and everything stays in
/// order.
#[test]
fn a_thread_that_waits_for_room_is_helped_by_a_truncation() {
    let disk = FaultyDisk::new(0, 2 * SEGMENT);
    let (tell, told) = channel();
    let tell = move |event| drop(tell.send(event));
    let log = LogThread::start(create(&disk), 1 << 20, tell).unwrap();
    let end = 21;
    for number in 1..end {
        log.append(vec![record()], LogPosition::new(number)).unwrap();
    }
    // Later records wait, too, and keep their order.
    log.rotate().unwrap();
    log.append(vec![record()], LogPosition::new(end)).unwrap();
    let (mut durable, mut waits, mut waiting) = (LogPosition::default(), 0, false);
    let mut divided = None;
    while durable.records() < end {
        match told.recv_timeout(PATIENCE).expect("news in time") {
            LogEvent::Durable(mark) => durable = mark.position(),
            LogEvent::Waiting(now) => (waiting, waits) = (now, waits + u32::from(now)),
            LogEvent::Divided(at) => divided = Some(at.records()),
            LogEvent::SpaceLow(_) | LogEvent::Truncated(_) => continue,
            event @ LogEvent::Failed(_) => panic!("{event:?}"),
        }
        if waiting {
            log.truncate(durable).unwrap();
        }
    }
    assert!(waits > 0, "there was room for all");
    assert_eq!(divided, Some(end - 1), "told before what comes behind is durable");
    assert_eq!(log.close().unwrap().position().records(), end);
}

#[test]
fn a_thread_that_is_closed_without_room_says_what_is_missing_and_does_not_fail() {
    let disk = FaultyDisk::new(0, SEGMENT);
    let (tell, told) = channel();
    let log = LogThread::start(create(&disk), 1 << 20, move |event| drop(tell.send(event)));
    let log = log.unwrap();
    for end in 1..=20 {
        log.append(vec![record()], LogPosition::new(end)).unwrap();
    }
    assert!(log.close().expect_err("there is no room").is_full());
    let events: Vec<LogEvent> = told.iter().collect();
    let failed = events.iter().any(|event| matches!(event, LogEvent::Failed(_)));
    assert!(!failed, "{events:?}");
    let durable = events.iter().rev().find_map(|event| match event {
        LogEvent::Durable(durable) => Some(durable.position().records()),
        _ => None,
    });
    disk.restart_process();
    disk.set_capacity(CAPACITY);
    let found = open(&disk).expect("nothing is wrong but the room").1.len() as u64;
    assert_eq!(found, durable.unwrap_or(0));
}

/// The log takes all files but one. Only a snapshot lets it release others.
#[test]
fn where_no_more_files_are_to_be_had_there_is_one_for_a_snapshot() {
    let disk = FaultyDisk::new(0, CAPACITY);
    let opening = Store::open(Arc::new(disk.clone()), &store_options()).unwrap();
    let Store { mut log, snapshots, .. } = opening.replay(&mut |_, _| Ok(())).unwrap();
    disk.set_most_files(disk.files().len() + 4);
    for _ in 0..3 {
        let error = loop {
            log.append(&[1; 500]).unwrap();
            match log.flush() {
                Ok(_) => log.maintain().expect("it is no error yet"),
                Err(error) => break error,
            }
        };
        assert!(error.is_full(), "{error}");
        let position = log.durable().position();
        let mut writer = snapshots.begin(position).expect("a file was set aside for it");
        writer.write(b"state").unwrap();
        writer.finish().unwrap();
        // As if room is short: the log is cut at the newest snapshot, and older ones are removed.
        snapshots.keep_newest().unwrap();
        log.truncate(position).unwrap();
        log.flush().expect("there are files again");
    }
    assert_eq!(snapshots.kept_ones().len(), 1);
}
