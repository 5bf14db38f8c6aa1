//! "Not before it is durable", as a type.
//!
//! A replica may say only what it can still say after a crash (PROTOCOL.md §7). So every outgoing
//! item is wrapped in [`Held`] with the journal position it depends on. It is released only against
//! a [`Durable`] mark at or after that position, and only the storage room issues those marks.

/// The number of records that a replica has appended, in all its lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct LogPosition(u64);

impl LogPosition {
    /// The position after `records` records.
    pub const fn new(records: u64) -> LogPosition {
        LogPosition(records)
    }

    /// The number of records before this position.
    pub const fn records(self) -> u64 {
        self.0
    }
}

/// Shows that a record and all before it were *appended*; not that they are durable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Written(LogPosition);

/// Counts a replica's records. The only source of [`Written`].
#[derive(Debug, Default)]
pub struct Journal {
    end: LogPosition,
}

impl Journal {
    /// Continues after the records of an earlier life.
    pub const fn starting_at(end: LogPosition) -> Journal {
        Journal { end }
    }

    /// The position after everything appended so far.
    pub const fn end(&self) -> LogPosition {
        self.end
    }

    /// Counts one more appended record.
    pub fn append(&mut self) -> Written {
        self.end = LogPosition(self.end.0 + 1);
        Written(self.end)
    }

    /// Everything appended so far.
    pub fn everything(&self) -> Written {
        Written(self.end)
    }
}

/// Shows that all records before a position are durable, as far as the storage settings demand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Durable(LogPosition);

impl Durable {
    /// For the storage room and the simulator's disk only, after a successful flush.
    pub const fn flushed(position: LogPosition) -> Durable {
        Durable(position)
    }

    /// The position before which everything is durable.
    pub const fn position(self) -> LogPosition {
        self.0
    }
}

/// An item that must not leave before the records it depends on are durable.
#[derive(Clone, Debug)]
pub struct Held<T> {
    after: Written,
    item: T,
}

impl<T> Held<T> {
    /// Holds `item` back until everything in `after` is durable.
    pub fn new(after: Written, item: T) -> Held<T> {
        Held { after, item }
    }

    /// The position that has to be durable first.
    pub fn after(&self) -> LogPosition {
        self.after.0
    }

    /// Returns the item, or `self` if it is too early.
    ///
    /// # Errors
    /// `self`, if `durable` lies before the position it waits for.
    pub fn release(self, durable: Durable) -> Result<T, Held<T>> {
        if self.after.0 <= durable.0 { Ok(self.item) } else { Err(self) }
    }

    /// Breaks a rule on purpose: an item for which `is_one` holds no longer waits.
    #[cfg(test)]
    pub(crate) fn forget_if(&mut self, is_one: impl Fn(&T) -> bool) {
        if is_one(&self.item) {
            self.after = Written::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_before_its_records_are_durable() {
        let mut journal = Journal::default();
        let free = Held::new(journal.everything(), "no record");
        let first = Held::new(journal.append(), "first");
        let second = Held::new(journal.append(), "second");
        let durable = |records| Durable::flushed(LogPosition::new(records));
        assert_eq!(free.release(durable(0)).ok(), Some("no record"));
        let first = first.release(durable(0)).expect_err("one record is missing");
        assert_eq!(first.release(durable(1)).ok(), Some("first"));
        let second = second.release(durable(1)).expect_err("one record is missing");
        assert_eq!(second.release(durable(7)).ok(), Some("second"));
    }
}
