//! The cost of the durable log in a real directory: records of 100 bytes, with a varying number of
//! records per flush.
//!
//! The bar is for one replica on its own disk with `fsync`. It is the time of a bare write and
//! `fdatasync` into a zero-filled file, which is measured in the same run.

mod common;

use std::cell::LazyCell;
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use bytes::Bytes;
use common::{Pace, group};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isonomy::internals::storage::{Durability, FileDisk, Log, LogEvent, LogOptions, LogThread};
use isonomy::types::LogPosition;
use tempfile::TempDir;

const RECORD: [u8; 100] = [0x5a; 100];
const SEGMENT: usize = 16 * 1024 * 1024;

/// A directory on the disk that holds the build. Temporary directories are often in memory.
fn directory() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn log(directory: &TempDir, durability: Durability) -> Log {
    let disk = Arc::new(FileDisk::open(directory.path()).expect("a directory of one's own"));
    let options = LogOptions { durability, ..LogOptions::default() };
    Log::create(disk, options, 1, LogPosition::default()).expect("a log")
}

/// The lower limit: a write and a flush, again and again into the same zero-filled file.
fn bare(c: &mut Criterion) {
    let directory = directory();
    let path = directory.path().join("bare");
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(path);
    let file: File = file.expect("a file");
    file.write_all_at(&vec![0; SEGMENT], 0).expect("space");
    file.sync_all().expect("a flush");
    let answers = "the bar for the log: a bare write and `fdatasync`, by records a flush";
    let mut group = group(c, "log/bare_fdatasync", answers, Pace::PART);
    for records in [1_usize, 16, 256] {
        let bytes = RECORD.repeat(records);
        let mut at = 0;
        group.throughput(Throughput::Elements(records as u64));
        group.bench_function(BenchmarkId::from_parameter(records), |b| {
            b.iter(|| {
                at = if at + bytes.len() > SEGMENT { 0 } else { at };
                file.write_all_at(&bytes, at as u64).expect("a write");
                file.sync_data().expect("a flush");
                at += bytes.len();
            });
        });
    }
    group.finish();
}

/// Appending, flushing and everything that belongs to it: seals, new segments and truncation.
fn append(c: &mut Criterion) {
    for (name, durability, answers) in [
        ("log/fsync", Durability::Fsync, "the log with a flush to the disk, by records a flush"),
        ("log/os", Durability::Os, "the log's own work, handed to the kernel, by records a flush"),
    ] {
        let mut group = group(c, name, answers, Pace::PART);
        for records in [1_u64, 16, 256] {
            let directory = directory();
            let mut log = log(&directory, durability);
            let mut flushes = 0_u64;
            group.throughput(Throughput::Elements(records));
            group.bench_function(BenchmarkId::from_parameter(records), |b| {
                b.iter(|| {
                    for _ in 0..records {
                        log.append(&RECORD).expect("a short record");
                    }
                    let durable = log.flush().expect("a flush");
                    log.maintain().expect("a disk that works");
                    flushes += 1;
                    if flushes.is_multiple_of(4096) {
                        log.truncate(durable.position()).expect("a disk that works");
                    }
                });
            });
        }
        group.finish();
    }
}

#[expect(clippy::print_stdout, reason = "criterion has no place for a second figure")]
fn print_shared_flushes(window: u64, thread: &LogThread) {
    let counts = thread.counts();
    let shared = counts.records as f64 / counts.flushes as f64;
    println!("log/thread_in_flight/{window}: {shared:.1} records a flush");
}

/// The log thread with this many records under way at any time, each in its own batch.
fn thread(c: &mut Criterion) {
    let answers = "how well the log's thread lets records share flushes, by records under way";
    let mut group = group(c, "log/thread_in_flight", answers, Pace::PART);
    for window in [1_u64, 16, 256] {
        let directory = directory();
        let (tell, told) = channel();
        let tell = move |event| drop(tell.send(event));
        let thread = log(&directory, Durability::Fsync);
        let thread = LogThread::start(thread, 1 << 24, tell).expect("a thread");
        let record = Bytes::from_static(&RECORD);
        let (mut end, mut durable) = (0, 0);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(window), |b| {
            b.iter_custom(|records| {
                let (last, start) = (end + records, Instant::now());
                while durable < last {
                    while end < last && end - durable < window {
                        end += 1;
                        let batch = vec![record.clone()];
                        thread.append(batch, LogPosition::new(end)).expect("a log that works");
                    }
                    if let LogEvent::Durable(mark) = told.recv().expect("a log that works") {
                        durable = mark.position().records();
                        if durable.is_multiple_of(100_000) {
                            thread.truncate(mark.position()).expect("a log that works");
                        }
                    }
                }
                start.elapsed()
            });
        });
        print_shared_flushes(window, &thread);
    }
    group.finish();
}

/// Opening a log of 64 MiB: reading it, checking every checksum, and showing every record.
fn open(c: &mut Criterion) {
    const BYTES: u64 = 64 * 1024 * 1024;
    let directory = directory();
    let records = LazyCell::new(|| {
        let mut log = log(&directory, Durability::Os);
        while log.counts().bytes < BYTES {
            for _ in 0..256 {
                log.append(&RECORD).expect("a short record");
            }
            log.flush().expect("a write");
        }
        log.close().expect("a disk that works").position().records()
    });
    let answers = "how fast a replica that starts again reads and checks its log";
    let mut group = group(c, "log/open", answers, Pace::LARGE);
    group.throughput(Throughput::Bytes(BYTES));
    group.bench_function("64_MiB", |b| {
        let records = *records;
        b.iter(|| {
            let disk =
                Arc::new(FileDisk::open(directory.path()).expect("a directory of one's own"));
            let (mut seen, mut bytes) = (0, 0);
            let mut visit = |_: LogPosition, record: &[u8]| {
                seen += 1;
                bytes += record.len();
                Ok(())
            };
            let start = LogPosition::default();
            let log = Log::open(disk, LogOptions::default(), 1, start, &mut visit);
            log.expect("a sound log");
            assert_eq!(seen, records);
            black_box(bytes)
        });
    });
    group.finish();
}

criterion_group!(benches, bare, append, thread, open);
criterion_main!(benches);
