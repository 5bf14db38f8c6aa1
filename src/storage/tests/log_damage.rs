//! Every byte of a log damaged, every file cut or removed: the log refuses it, or it has no effect.

use std::collections::BTreeMap;

use super::log_crashes::{create, open};
use crate::storage::{FaultyDisk, FoundEnd, MIN_SEGMENT_BYTES, Operation, StorageError};

type Files = BTreeMap<String, Vec<u8>>;

const CAPACITY: u64 = 1 << 20;

/// The files of a log of a few KiB: two full segments and a third one begun.
fn small_log(close: bool) -> (Files, Vec<Vec<u8>>) {
    log_of(36, close)
}

fn log_of(count: usize, close: bool) -> (Files, Vec<Vec<u8>>) {
    let disk = FaultyDisk::new(5, CAPACITY);
    let mut log = create(&disk);
    let mut records = Vec::new();
    for number in 0..count {
        let record = vec![u8::try_from(number % 251).unwrap(); number * 53 % 600];
        log.append(&record).unwrap();
        records.push(record);
        if number % 3 == 2 {
            log.flush().unwrap();
            log.maintain().unwrap();
        }
    }
    assert!(log.counts().segments >= 1, "the log has more than one segment");
    if close {
        log.close().unwrap();
    }
    (disk.files(), records)
}

fn reopen(files: &Files) -> Result<Vec<Vec<u8>>, StorageError> {
    open(&FaultyDisk::with_files(0, CAPACITY, files)).map(|(_, records)| records)
}

#[test]
fn every_damaged_byte_is_refused_or_has_no_effect() {
    damage_every_byte(&small_log(false));
}

#[test]
#[ignore = "takes minutes: for the figures"]
fn every_damaged_byte_of_64_kib_is_refused_or_has_no_effect() {
    let (files, records) = log_of(240, false);
    assert!(records.concat().len() >= 64 * 1024);
    damage_every_byte(&(files, records));
}

fn damage_every_byte((files, records): &(Files, Vec<Vec<u8>>)) {
    let (mut refused, mut harmless) = (0_u64, 0_u64);
    for (name, bytes) in files {
        for at in 0..bytes.len() {
            let mut damaged = files.clone();
            damaged.get_mut(name).unwrap()[at] ^= 1 << (at % 8);
            match reopen(&damaged) {
                Err(StorageError::Damaged { file, offset, .. }) => {
                    assert!(file == *name, "{name}, byte {at}: blamed {file}");
                    assert!(offset <= at as u64, "{name}, byte {at}: blamed byte {offset}");
                    refused += 1;
                }
                Err(error) => panic!("{name}, byte {at}: {error}"),
                Ok(found) => {
                    assert!(found == *records, "{name}, byte {at}: records changed silently");
                    harmless += 1;
                }
            }
        }
    }
    let written: usize = records.iter().map(|record| 4 + record.len()).sum();
    assert!(refused >= written as u64, "{refused} refused, {harmless} harmless");
    assert!(harmless > 0, "headers are there twice, and not all of a file is used");
}

#[test]
fn without_a_seal_only_the_last_group_can_pass_for_torn() {
    let disk = FaultyDisk::new(5, CAPACITY);
    let mut log = create(&disk);
    for number in 0..3 {
        log.append(&[number; 60]).unwrap();
        log.flush().unwrap();
    }
    let files = disk.files();
    let name = files.keys().next().unwrap();
    let (mut refused, mut torn) = (0, 0);
    for at in 4096..4096 + 3 * 96 {
        let mut damaged = files.clone();
        damaged.get_mut(name).unwrap()[at] ^= 0x10;
        match reopen(&damaged) {
            Ok(found) => {
                assert!(at >= 4096 + 2 * 96, "byte {at} belongs to a group with one behind it");
                assert_eq!(found.len(), 2);
                torn += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert_eq!((refused, torn), (2 * 96, 96));
}

#[test]
fn a_header_with_one_copy_damaged_is_made_whole_again() {
    let (files, records) = small_log(true);
    let last = files.iter().rfind(|(_, bytes)| bytes.starts_with(b"isonolog")).unwrap().0;
    for (first, second) in [(20, 532), (532, 20)] {
        let disk = FaultyDisk::with_files(0, CAPACITY, &files);
        disk.flip(last, first, 1);
        drop(open(&disk).expect("the other copy is sound"));
        disk.lose_power();
        disk.flip(last, second, 1);
        assert!(open(&disk).expect("the first is sound again").1 == records);
    }
}

#[test]
fn nothing_of_a_torn_group_is_left_behind_the_end() {
    let mut torn = 0;
    for seed in 0..40 {
        let disk = FaultyDisk::new(seed, CAPACITY);
        let mut log = create(&disk);
        log.append(&[1; 50]).unwrap();
        log.flush().unwrap();
        log.append(&[2; 3000]).unwrap();
        disk.fail_next(Operation::Write);
        log.flush().expect_err("the disk fails");
        disk.restart_process();
        let end = 4096 + 32 + 54;
        let behind = |files: Files| {
            let file = files.values().next().unwrap().clone();
            file[end + 32..].iter().any(|byte| *byte != 0)
        };
        let before = behind(disk.files());
        if open(&disk).expect("a torn tail").1.len() == 1 {
            torn += u32::from(before);
            disk.lose_power();
            assert!(!behind(disk.files()), "seed {seed}: something is left");
        }
    }
    assert!(torn > 10, "only {torn} groups were torn");
}

#[test]
fn a_file_cut_at_any_length_is_refused_or_a_spare() {
    for close in [false, true] {
        let (files, records) = small_log(close);
        for (name, bytes) in &files {
            for len in 0..bytes.len() {
                let mut cut = files.clone();
                cut.get_mut(name).unwrap().truncate(len);
                if let Ok(found) = reopen(&cut) {
                    assert!(found == records, "{name} cut to {len}: records changed silently");
                    let holds = bytes[..512].iter().any(|byte| *byte != 0);
                    assert!(!holds, "{name} cut to {len}: a segment with records has to be whole");
                }
            }
        }
    }
}

#[test]
fn a_lost_or_empty_file_is_refused_or_a_spare() {
    let (files, records) = small_log(false);
    let live = |bytes: &Vec<u8>| bytes[..512].iter().any(|byte| *byte != 0);
    for (name, bytes) in &files {
        let mut lost = files.clone();
        lost.remove(name);
        let mut zeros = files.clone();
        zeros.get_mut(name).unwrap().fill(0);
        for (damaged, what) in [(lost, "lost"), (zeros, "zeros")] {
            match reopen(&damaged) {
                Err(_) => assert!(live(bytes), "{name} {what}"),
                Ok(found) => {
                    assert!(!live(bytes), "{name} {what}: it was in use");
                    assert_eq!(found, records);
                }
            }
        }
    }
}

#[test]
fn segments_from_elsewhere_are_refused() {
    let (mut files, _) = small_log(true);
    let names: Vec<String> = files.keys().cloned().collect();
    let (first, second) = (files[&names[0]].clone(), files[&names[1]].clone());
    files.insert(names[0].clone(), second);
    files.insert(names[1].clone(), first);
    reopen(&files).expect_err("two segments have changed places");
}

/// A client that guesses the format puts what looks like a group into its record, so that a torn
/// end would look like damage.
#[test]
fn a_record_that_looks_like_the_log_is_only_a_record() {
    let (files, _) = small_log(true);
    let forged = files.values().next().unwrap()[4096..6000].to_vec();
    let disk = FaultyDisk::new(6, CAPACITY);
    let mut log = create(&disk);
    log.append(b"first").unwrap();
    log.flush().unwrap();
    log.append(&forged).unwrap();
    log.flush().unwrap();
    // The start of the last group is lost and the rest is there, as after a power failure.
    let name = disk.files().keys().next().unwrap().clone();
    disk.flip(&name, 4096 + 32 + 4 + 5, 0xff);
    let (_, found) = open(&disk).expect("a torn tail");
    assert_eq!(found, [b"first".to_vec()]);
}

/// How a log's end is found: whether a mark confirms it, and what was cut off.
fn end_of(files: &Files) -> FoundEnd {
    let (log, _) = open(&FaultyDisk::with_files(0, CAPACITY, files)).expect("a torn end is cut");
    log.found_end().expect("it was there before").clone()
}

/// A disk cannot tell a lost end from a torn one, but a start reports that it may be either.
#[test]
fn what_is_cut_off_the_end_is_told() {
    let disk = FaultyDisk::new(5, CAPACITY);
    let mut log = create(&disk);
    let mut ends = Vec::new();
    for number in 0..4_u8 {
        for _ in 0..=number {
            log.append(&[number + 1; 100]).unwrap();
        }
        log.flush().unwrap();
        ends.push(
            4096 + u64::from((1..=number + 1).map(|many| 32 + 104 * u16::from(many)).sum::<u16>()),
        );
    }
    log.maintain().unwrap();
    drop(log);
    let name = "log-0000000000000001";
    let sealed = disk.files();
    let end = end_of(&sealed);
    assert_eq!((end.file.as_str(), end.offset), (name, ends[3]));
    assert_eq!((end.is_sealed, end.cut_bytes, end.cut_records), (true, 0, None));
    let zeroed = |from: u64, to: u64| {
        let mut files = sealed.clone();
        let (from, to) = (usize::try_from(from).unwrap(), usize::try_from(to).unwrap());
        files.get_mut(name).unwrap()[from..to].fill(0);
        end_of(&files)
    };
    // Only the mark is lost, or whole groups with it: nothing is left to cut off.
    for (from, left) in [(ends[3], 3), (ends[2], 2), (ends[0], 0)] {
        let end = zeroed(from, MIN_SEGMENT_BYTES as u64);
        assert_eq!((end.is_sealed, end.offset, end.cut_bytes), (false, ends[left], 0));
    }
    // In the middle of the last group.
    let end = zeroed(ends[3] - 50, MIN_SEGMENT_BYTES as u64);
    let told = (end.is_sealed, end.offset, end.cut_bytes, end.cut_records);
    assert_eq!(told, (false, ends[2], 32 + 4 * 104, Some(4)));
    // The start of the group is lost, so that not even its length is known.
    let mut files = sealed.clone();
    let from = usize::try_from(ends[2]).unwrap();
    files.get_mut(name).unwrap()[from..from + 32].fill(0);
    files.get_mut(name).unwrap()[from + 32 + 4 * 104..].fill(0);
    let end = end_of(&files);
    assert_eq!((end.offset, end.cut_bytes, end.cut_records), (ends[2], 32 + 4 * 104, None));
    // Opening the log marks its end.
    let again = FaultyDisk::with_files(0, CAPACITY, &files);
    drop(open(&again).unwrap());
    assert!(end_of(&again.files()).is_sealed);
}
