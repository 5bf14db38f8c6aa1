//! The log on its own thread: marks come in order, flushes are shared, failures are reported once.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;

use super::log_crashes::{create, open};
use crate::storage::{
    FaultyDisk, LogEvent, LogThread, MIN_SEGMENT_BYTES, Operation, Snapshots, StorageError, Store,
};
use crate::types::LogPosition;

const CAPACITY: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

fn start(disk: &FaultyDisk, queue_bytes: usize) -> (LogThread, Receiver<LogEvent>) {
    let (tell, told) = channel();
    let tell = move |event| drop(tell.send(event));
    (LogThread::start(create(disk), queue_bytes, tell).unwrap(), told)
}

fn record(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

#[test]
fn every_record_is_durable_in_order_and_flushes_are_shared() {
    let disk = FaultyDisk::new(0, CAPACITY);
    let (log, told) = start(&disk, 1 << 16);
    let mut end = 0;
    for batch in 0..500 {
        let records: Vec<Bytes> = (end..end + batch % 4).map(record).collect();
        end += batch % 4;
        log.append(records, LogPosition::new(end)).unwrap();
    }
    assert_eq!(log.close().unwrap().position().records(), end);
    let mut last = 0;
    for event in told.iter() {
        let LogEvent::Durable(durable) = event else { panic!("{event:?}") };
        assert!(durable.position().records() > last, "marks only move forward");
        last = durable.position().records();
    }
    assert_eq!(last, end);
    disk.lose_power();
    let (_, found) = open(&disk).unwrap();
    let expected: Vec<Vec<u8>> = (0..end).map(|number| record(number).to_vec()).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_full_queue_slows_the_caller_down_and_loses_nothing() {
    let disk = FaultyDisk::new(0, CAPACITY);
    let (log, told) = start(&disk, 200);
    for number in 0..300 {
        log.append(vec![record(number)], LogPosition::new(number + 1)).unwrap();
        assert!(log.queued_bytes() <= 200);
    }
    // More than the bound is accepted at once if nothing else waits.
    log.append((300..400).map(record).collect(), LogPosition::new(400)).unwrap();
    assert_eq!(log.close().unwrap().position().records(), 400);
    drop(told);
}

#[test]
fn a_failure_is_told_once_and_nothing_is_durable_after_it() {
    let disk = FaultyDisk::new(0, CAPACITY);
    let (log, told) = start(&disk, 100);
    log.append(vec![record(0)], LogPosition::new(1)).unwrap();
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(LogEvent::Durable(_))));
    disk.fail_next(Operation::Sync);
    let mut end = 1;
    // Callers that wait for room are released, too.
    let error = loop {
        end += 1;
        if let Err(error) = log.append(vec![record(0)], LogPosition::new(end)) {
            break error;
        }
    };
    assert!(error.to_string().contains("flush"), "{error}");
    assert_eq!(log.rotate().expect_err("failed").to_string(), error.to_string());
    assert_eq!(log.close().expect_err("failed").to_string(), error.to_string());
    let events: Vec<LogEvent> = told.iter().collect();
    let failures = events.iter().filter(|event| matches!(event, LogEvent::Failed(_))).count();
    assert!(matches!(events.last(), Some(LogEvent::Failed(_))), "{events:?}");
    assert_eq!(failures, 1);
}

#[test]
fn a_record_too_long_is_the_callers_fault() {
    let disk = FaultyDisk::new(0, CAPACITY);
    let (log, _told) = start(&disk, 1 << 20);
    let long = Bytes::from(vec![0; MIN_SEGMENT_BYTES]);
    let error = log.append(vec![record(0), long], LogPosition::new(2)).expect_err("too long");
    assert!(matches!(error, StorageError::TooLarge { .. }));
    log.append(vec![record(0)], LogPosition::new(1)).expect("nothing was taken");
    assert_eq!(log.close().unwrap().position().records(), 1);
}

#[test]
#[should_panic(expected = "count the same records")]
fn a_caller_that_counts_otherwise_is_stopped() {
    let disk = FaultyDisk::new(0, CAPACITY);
    let (log, _told) = start(&disk, 100);
    let _ = log.append(vec![record(0)], LogPosition::new(2));
}

#[test]
fn little_space_is_told_and_so_is_its_end() {
    let disk = FaultyDisk::new(0, MIN_SEGMENT_BYTES as u64);
    let (log, told) = start(&disk, 1 << 16);
    log.append(vec![record(0)], LogPosition::new(1)).unwrap();
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(LogEvent::Durable(_))));
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(LogEvent::SpaceLow(true))));
    disk.set_capacity(CAPACITY);
    // Nothing is appended: the thread looks again by itself.
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(LogEvent::SpaceLow(false))));
    log.close().unwrap();
}

#[test]
fn the_log_is_cut_behind_a_snapshot_while_it_runs() {
    let disk = FaultyDisk::new(0, CAPACITY);
    let opening = Store::open(Arc::new(disk.clone()), &super::store_options()).unwrap();
    let store = opening.replay(&mut |_, _| Ok(())).unwrap();
    let snapshots: Snapshots = store.snapshots;
    let log = LogThread::start(store.log, 1 << 16, |_| {}).unwrap();
    for number in 0..1000 {
        log.append(vec![Bytes::from(vec![1; 100])], LogPosition::new(number + 1)).unwrap();
        if number % 100 == 99 {
            let mut writer = snapshots.begin(LogPosition::new(number - 50)).unwrap();
            writer.write(b"state").unwrap();
            writer.finish().unwrap();
            log.truncate(snapshots.log_floor()).unwrap();
        }
    }
    assert!(log.counts().flushes > 0);
    log.close().unwrap();
    // Room is reserved for the identity, whatever the log does.
    let files = disk.files();
    let logged = files.iter().filter(|(name, _)| !name.starts_with("identity"));
    let bytes: usize = logged.map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes < 10 * MIN_SEGMENT_BYTES, "{bytes} bytes are left");
    disk.restart_process();
    let opening = Store::open(Arc::new(disk.clone()), &super::store_options()).unwrap();
    let mut replayed = 0;
    let mut visit = |_: LogPosition, _: &[u8]| {
        replayed += 1;
        Ok(())
    };
    let store = opening.replay(&mut visit).unwrap();
    assert_eq!((store.log.end().records(), replayed), (1000, 1000 - 949));
}
