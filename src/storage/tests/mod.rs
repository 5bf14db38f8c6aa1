//! Tests of this room's promises, on disks that fail.

mod directories;
mod faulty_disk;
mod full_disks;
mod log_crashes;
mod log_damage;
mod log_stories;
mod snapshots;
mod stores;
mod threads;

use crate::types::{Held, Journal, MemberId};

use super::*;

/// Options of a small directory: two snapshots kept, in chunks of 100 bytes.
fn store_options() -> StoreOptions {
    StoreOptions {
        cluster: "test".into(),
        replica: MemberId::new(2).unwrap(),
        protocol: "epaxos".to_owned(),
        members: crate::types::MemberId::all(3).collect(),
        joins: false,
        log: log_crashes::options(),
        snapshots: SnapshotOptions { keep: 2, chunk_bytes: 100 },
    }
}

#[test]
fn what_is_appended_in_memory_is_durable_at_once_and_not_before() {
    let (mut journal, mut log) = (Journal::default(), MemoryLog::new());
    log.append(2);
    let second = (journal.append(), journal.append()).1;
    let third = journal.append();
    assert!(Held::new(second, ()).release(log.durable()).is_ok());
    assert!(Held::new(third, ()).release(log.durable()).is_err());
    log.append(1);
    assert!(Held::new(third, ()).release(log.durable()).is_ok());
}
