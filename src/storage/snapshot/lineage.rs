//! Where the state for the next own snapshot came from, and what that means for the log. Beside
//! `file`; the code that takes snapshots keeps a [`Lineage`].
//!
//! An older snapshot and all later records may replace an own snapshot, as long as the records
//! contain everything that happened in between. They do not after a state from another replica was
//! installed. So the first own snapshot after an install starts a new line. The log is divided at
//! its position before the snapshot is finished, and cut there before the snapshot is reported.
//! From then on nothing older can replace it: if it is damaged, the directory is refused.
//!
//! A log without records cannot be divided, so it must have one before such a snapshot is begun. A
//! log that begins at 0 needs no snapshot, and the loss of this one would not be noticed.
//!
//! Only the division tells a later life that the snapshot is such a one. If the log were divided
//! after the snapshot was finished, a crash in between would leave a snapshot that counts from the
//! next start on and that an older one can replace.

use crate::types::LogPosition;

/// Whether own snapshots and records alone lead to the current state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lineage {
    /// The state came from another replica, and no own snapshot of it was begun.
    foreign: bool,
    /// The snapshot under way is the first with that state.
    first: bool,
}

/// What a finished snapshot makes unnecessary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Records before this position may be dropped.
    pub to: LogPosition,
    /// Whether they must be dropped before the snapshot counts: until then, something older could
    /// replace it.
    pub first: bool,
}

impl Lineage {
    /// Notes that another replica's state was installed.
    pub fn installed(&mut self) {
        self.foreign = true;
    }

    /// Whether an own snapshot must be begun as soon as possible because of that.
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// Notes that an own snapshot is begun. Returns whether the log must be divided at its
    /// position.
    #[must_use]
    pub fn begin(&mut self) -> bool {
        self.first = std::mem::take(&mut self.foreign);
        self.first
    }

    /// Whether the snapshot under way may be finished only once the log is divided at its position.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Notes that the snapshot under way has failed.
    pub fn fail(&mut self) {
        self.foreign |= std::mem::take(&mut self.first);
    }

    /// Notes that the snapshot under way is durable, and covers all records before `position`.
    /// `floor` is what [`super::Snapshots::log_floor`] returns then, or `position` if room is
    /// short, and nothing older is to replace it.
    pub fn finish(&mut self, position: LogPosition, floor: LogPosition) -> Cut {
        let first = std::mem::take(&mut self.first);
        Cut { to: if first { position } else { floor }, first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: LogPosition = LogPosition::new(3);
    const END: LogPosition = LogPosition::new(9);

    #[test]
    fn only_the_first_behind_an_installed_state_ends_the_line() {
        let mut lineage = Lineage::default();
        assert!(!lineage.begin());
        assert_eq!(lineage.finish(END, FLOOR), Cut { to: FLOOR, first: false });
        lineage.installed();
        assert!(lineage.is_foreign() && lineage.begin() && !lineage.is_foreign());
        assert_eq!(lineage.finish(END, FLOOR), Cut { to: END, first: true });
        assert!(!lineage.begin());
    }

    #[test]
    fn what_was_begun_before_is_not_the_first() {
        let mut lineage = Lineage::default();
        assert!(!lineage.begin());
        lineage.installed();
        assert_eq!(lineage.finish(END, FLOOR), Cut { to: FLOOR, first: false });
        assert!(lineage.begin(), "the next one is");
    }

    #[test]
    fn one_that_comes_to_nothing_leaves_it_to_the_next() {
        let mut lineage = Lineage::default();
        lineage.installed();
        assert!(lineage.begin());
        lineage.fail();
        assert!(lineage.is_foreign() && lineage.begin());
        // Another install while it is under way.
        lineage.installed();
        assert!(lineage.finish(END, FLOOR).first);
        assert!(lineage.begin());
    }
}
