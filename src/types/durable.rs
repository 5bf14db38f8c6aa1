//! "Not before it is durable", as a type.
//!
//! A replica may only say what it can still say after a crash (PROTOCOL.md §7). So whatever it
//! wants to say is wrapped in [`Held`] together with the journal position it depends on, and
//! nothing gets at what is inside without a [`Durable`] mark at or after that position; only the
//! storage room issues those.

/// The number of records a replica has appended up to some moment of its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct LogPosition(u64);

impl LogPosition {
    /// The position after `records` records.
    pub const fn new(records: u64) -> LogPosition {
        LogPosition(records)
    }

    /// How many records lie before this position.
    pub const fn records(self) -> u64 {
        self.0
    }
}

/// Says that a record, and all before it, were *appended*; not that they are durable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Written(LogPosition);

/// Counts the records of a replica, and so is the only source of [`Written`].
#[derive(Debug, Default)]
pub struct Journal {
    end: LogPosition,
}

impl Journal {
    /// Goes on where the records of an earlier life end.
    pub const fn starting_at(end: LogPosition) -> Journal {
        Journal { end }
    }

    /// The position after everything appended so far.
    pub const fn end(&self) -> LogPosition {
        self.end
    }

    /// Takes note of one more appended record.
    pub fn append(&mut self) -> Written {
        self.end = LogPosition(self.end.0 + 1);
        Written(self.end)
    }

    /// Everything appended so far.
    pub fn everything(&self) -> Written {
        Written(self.end)
    }
}

/// Says that all records before a position are durable, to the degree the storage was asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Durable(LogPosition);

impl Durable {
    /// For the storage room (and the simulator's disk) alone, after a flush that succeeded.
    pub const fn flushed(position: LogPosition) -> Durable {
        Durable(position)
    }

    /// The position before which everything is durable.
    pub const fn position(self) -> LogPosition {
        self.0
    }
}

/// Something that must not leave before the records it depends on are durable.
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

    /// The item, or the whole thing back when it is still too early.
    ///
    /// # Errors
    /// `self`, when `durable` lies before the position it waits for.
    pub fn release(self, durable: Durable) -> Result<T, Held<T>> {
        if self.after.0 <= durable.0 { Ok(self.item) } else { Err(self) }
    }

    /// A bug on purpose: forgets what it waits for, if the item is one of those.
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
