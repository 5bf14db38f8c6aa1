//! The faulty disk itself: it must fail as specified, and reproducibly for a seed.

use std::collections::BTreeSet;

use crate::storage::{Disk, DiskFile, Faults, FaultyDisk, Mode};

const SECTOR: usize = 512;

fn create(disk: &FaultyDisk, name: &str) -> Box<dyn DiskFile> {
    disk.open(name, Mode::Create).unwrap()
}

#[test]
fn what_is_flushed_survives_and_what_is_not_may_go_in_any_part() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let disk = FaultyDisk::new(seed, 1 << 20);
        let file = create(&disk, "f");
        file.write_all_at(&[1; 3 * SECTOR], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_directory().unwrap();
        file.write_all_at(&[2; 3 * SECTOR], 0).unwrap();
        assert_eq!(disk.files()["f"], [2; 3 * SECTOR], "a reader sees what was written");
        disk.lose_power();
        let files = disk.files();
        let sectors: Vec<u8> = files["f"].chunks(SECTOR).map(|sector| sector[0]).collect();
        for sector in files["f"].chunks(SECTOR) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "sectors are whole");
        }
        outcomes.insert(sectors);
        file.sync_data().expect_err("the file was opened before the crash");
    }
    assert_eq!(outcomes.len(), 8, "every subset of three sectors: {outcomes:?}");
}

#[test]
fn names_need_a_flush_of_the_directory() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..100 {
        let disk = FaultyDisk::new(seed, 1 << 20);
        for name in ["old", "gone"] {
            create(&disk, name).sync_data().unwrap();
        }
        disk.sync_directory().unwrap();
        create(&disk, "new").sync_data().unwrap();
        disk.rename("old", "renamed").unwrap();
        disk.remove("gone").unwrap();
        disk.lose_power();
        let names = disk.list().unwrap();
        let either = |one: &str, other: &str| {
            names.iter().filter(|name| *name == one || *name == other).count() == 1
        };
        assert!(either("old", "renamed"), "a renaming happens or not: {names:?}");
        outcomes.insert(names);
    }
    assert_eq!(outcomes.len(), 8, "every subset of three changes: {outcomes:?}");
}

#[test]
fn the_end_of_a_process_loses_nothing_written() {
    let disk = FaultyDisk::new(0, 1 << 20);
    create(&disk, "f").write_all_at(b"written", 0).unwrap();
    disk.restart_process();
    assert_eq!(disk.files()["f"], b"written");
}

#[test]
fn a_failed_flush_is_forgotten_and_the_next_one_lies() {
    let mut lost = 0;
    for seed in 0..20 {
        let disk = FaultyDisk::new(seed, 1 << 20);
        let file = create(&disk, "f");
        file.write_all_at(&[0; SECTOR], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_directory().unwrap();
        file.write_all_at(&[1; SECTOR], 0).unwrap();
        disk.set_faults(Faults { sync_error: 1.0, ..Faults::default() });
        file.sync_data().expect_err("every flush fails");
        disk.set_faults(Faults::default());
        file.sync_data().unwrap();
        assert_eq!(disk.files()["f"], [1; SECTOR], "a reader still sees it");
        disk.lose_power();
        lost += u32::from(disk.files()["f"] == [0; SECTOR]);
    }
    assert!((1..20).contains(&lost), "{lost} of 20 lost");
}

#[test]
fn space_ends_and_overwriting_needs_none() {
    let disk = FaultyDisk::new(0, 1000);
    let file = create(&disk, "f");
    file.write_all_at(&[1; 1000], 0).unwrap();
    assert_eq!(disk.free_space().unwrap(), 0);
    let error = file.write_all_at(&[1], 1000).expect_err("no room");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    file.write_all_at(&[2; 1000], 0).unwrap();
    disk.remove("f").unwrap();
    assert_eq!(disk.free_space().unwrap(), 1000);
}

/// The same operations on two disks with one seed give the same bytes, errors and crashes.
#[test]
fn one_seed_is_one_story() {
    let story = |seed| {
        let disk = FaultyDisk::new(seed, 1 << 16);
        let faults = Faults { read_error: 0.1, write_error: 0.1, sync_error: 0.1, bit_flip: 0.1 };
        let mut told = Vec::new();
        for life in 0..20_u8 {
            let Ok(file) = disk.open(&format!("f{}", life % 3), Mode::Create) else { continue };
            disk.set_faults(faults);
            disk.crash_after(u64::from(life) * 3 % 17);
            for round in 0..10_u64 {
                told.push(file.write_all_at(&[life; 700], round * 300).is_ok());
                told.push(file.sync_data().is_ok());
                let mut bytes = [0; 100];
                told.push(file.read_exact_at(&mut bytes, round * 7).is_ok());
                told.extend(bytes.map(|byte| byte == life));
            }
            told.push(disk.sync_directory().is_ok());
            disk.set_faults(Faults::default());
            disk.lose_power();
        }
        (told, disk.files(), disk.operations(), disk.entropy())
    };
    assert_eq!(story(1), story(1));
    assert_ne!(story(1), story(2));
}

#[test]
fn the_disk_dies_where_it_is_told() {
    let disk = FaultyDisk::new(3, 1 << 20);
    let file = create(&disk, "f");
    disk.crash_after(2);
    file.write_all_at(b"a", 0).unwrap();
    file.sync_data().unwrap();
    assert!(!disk.is_dead());
    file.write_all_at(b"b", 0).expect_err("dies");
    assert!(disk.is_dead());
    disk.list().expect_err("dead");
    file.read_exact_at(&mut [0], 0).expect_err("dead");
    disk.restart_process();
    disk.list().expect("alive again");
}

/// A replica may run while its power fails. A flush that still succeeds covers everything that was
/// written before it.
#[test]
fn no_flush_succeeds_after_a_write_is_lost() {
    for seed in 0..200 {
        let disk = FaultyDisk::new(seed, 1 << 30);
        let file = create(&disk, "file");
        disk.sync_directory().unwrap();
        let (tell, flushes) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            let mut flushed = 0;
            loop {
                let first = file.write_all_at(&[7; SECTOR], flushed);
                let second =
                    first.and_then(|()| file.write_all_at(&[7; SECTOR], flushed + SECTOR as u64));
                if second.and_then(|()| file.sync_data()).is_err() {
                    return flushed;
                }
                flushed += 2 * SECTOR as u64;
                let _ = tell.send(());
            }
        });
        (0..seed % 7 + 1).for_each(|_| flushes.recv().unwrap());
        disk.lose_power();
        let flushed = usize::try_from(writer.join().unwrap()).unwrap();
        let bytes = &disk.files()["file"][..flushed];
        assert!(bytes.iter().all(|byte| *byte == 7), "seed {seed}: {flushed} bytes were flushed");
    }
}
