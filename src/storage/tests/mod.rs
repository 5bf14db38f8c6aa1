//! What this room promises, tried on disks that break.

mod log_crashes;
mod log_damage;

use crate::types::{Held, Journal};

use super::*;

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
