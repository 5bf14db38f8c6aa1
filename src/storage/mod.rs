//! Where a replica's records go before anything is said that depends on them. This room moves
//! bytes and counts them; what an instance is, it never learns. Before `node`, which appends what a
//! step asks for and hands the marks back to the replica.
//!
//! There is one kind of storage so far, [`MemoryLog`], which keeps nothing: a replica that has
//! crashed must not come back under its id. A log on disk takes its place behind the same two
//! calls: append, and some time later a mark that moved.

use crate::types::{Durable, LogPosition};

/// What has to have happened to a record before the replica speaks of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: records live as long as the process. Up to `f` of `2f + 1` replicas may crash in
    /// the life of a cluster, and none of them comes back.
    #[default]
    Memory,
}

/// The log of a replica that keeps its state in memory alone: every record is as durable as it will
/// ever be when it is appended, so only their number matters.
#[derive(Debug, Default)]
pub struct MemoryLog {
    records: u64,
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> MemoryLog {
        MemoryLog::default()
    }

    /// Takes note of this many more records.
    pub fn append(&mut self, records: usize) {
        self.records += records as u64;
    }

    /// How far the log is durable: all of it.
    pub fn durable(&self) -> Durable {
        Durable::flushed(LogPosition::new(self.records))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Held, Journal};

    #[test]
    fn what_is_appended_is_durable_at_once_and_not_before() {
        let (mut journal, mut log) = (Journal::default(), MemoryLog::new());
        log.append(2);
        let second = (journal.append(), journal.append()).1;
        let third = journal.append();
        assert!(Held::new(second, ()).release(log.durable()).is_ok());
        assert!(Held::new(third, ()).release(log.durable()).is_err());
        log.append(1);
        assert!(Held::new(third, ()).release(log.durable()).is_ok());
    }
}
