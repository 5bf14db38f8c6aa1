//! Where the state came from that the next own snapshot will hold, and what follows for the log.
//! Beside `file`; whoever takes snapshots keeps one of these.
//!
//! An own snapshot may be replaced by an older one and every record after that, as long as the
//! records say all that happened in between. They don't once a state was installed that came from
//! elsewhere. So the first own snapshot after it ends a line: the log is divided at its position
//! before it is finished, and cut there before anybody hears of it. Nothing older can stand in for
//! it then: if it is damaged, the directory is refused.
//!
//! A log without a record cannot be divided, so it has to have one before such a snapshot is begun:
//! one that begins at 0 needs no snapshot, and the loss of this one would not be noticed.
//!
//! The division is all that a later life can tell such a snapshot by. If it came after the
//! snapshot, a crash in between would leave one that counts from the next start on, and that an
//! older one can stand in for.

use crate::types::LogPosition;

/// Whether the state is what the own snapshots and records make it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lineage {
    /// The state came from elsewhere, and is in no own snapshot that was begun.
    foreign: bool,
    /// The snapshot that was begun is the first that holds it.
    first: bool,
}

/// What a finished snapshot lets go of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Records before this one may go.
    pub to: LogPosition,
    /// Whether they have to be gone before the snapshot counts: until then, something older could
    /// take its place.
    pub first: bool,
}

impl Lineage {
    /// The state is one now that came from elsewhere.
    pub fn installed(&mut self) {
        self.foreign = true;
    }

    /// Whether an own snapshot has to be begun for that, as soon as can be.
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// An own snapshot is begun: whether the log has to be divided at its position.
    #[must_use]
    pub fn begin(&mut self) -> bool {
        self.first = std::mem::take(&mut self.foreign);
        self.first
    }

    /// Whether what was begun may be finished only once the log is divided at its position.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// What was begun came to nothing.
    pub fn fail(&mut self) {
        self.foreign |= std::mem::take(&mut self.first);
    }

    /// What was begun is durable, and stands for all records before `position`; `floor` is what
    /// [`super::Snapshots::log_floor`] says with it, or `position` where room is short: nothing
    /// older can take its place then.
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
        // Once more, from elsewhere, while it is under way.
        lineage.installed();
        assert!(lineage.finish(END, FLOOR).first);
        assert!(lineage.begin());
    }
}
