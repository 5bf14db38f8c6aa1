//! Reads a directory again when it looks damaged while a replica uses it.

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use crate::storage::{Report, StorageError};

/// The most times that a directory is read.
const ATTEMPTS: u32 = 40;
/// The pause after the first reading.
const PAUSE: Duration = Duration::from_millis(5);

/// Tells damage in a directory in use from changes that its replica made during the reading: files
/// come and go, and the last segment grows. Damage stays the same, byte for byte. A change by the
/// replica looks different at each reading, or disappears.
#[derive(Default)]
pub(super) struct Again {
    attempts: u32,
    /// The problems found so far, as text.
    before: HashSet<String>,
}

impl Again {
    /// Whether the report is final; otherwise read the directory once more. A final report keeps
    /// only the problems that an earlier reading has found too.
    pub(super) fn is_settled(&mut self, report: &mut Report) -> bool {
        self.attempts += 1;
        if report.problems.is_empty() || report.holder.is_none() {
            return true;
        }
        let is_new = |problem: &StorageError| !self.before.contains(&problem.to_string());
        if !report.problems.iter().any(is_new) {
            return true;
        }
        if self.attempts == ATTEMPTS {
            report.problems.retain(|problem| !is_new(problem));
            return true;
        }
        self.before.extend(report.problems.iter().map(StorageError::to_string));
        false
    }

    /// Waits a moment before the next reading, a little longer each time.
    pub(super) fn pause(&self) {
        thread::sleep(PAUSE * self.attempts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(holder: Option<u32>, problems: &[&str]) -> Report {
        let missing = |what: &&str| StorageError::Missing { what: (*what).to_owned() };
        Report {
            holder,
            identity: None,
            segments: Vec::new(),
            snapshots: Vec::new(),
            problems: problems.iter().map(missing).collect(),
        }
    }

    fn settled(again: &mut Again, holder: Option<u32>, problems: &[&str]) -> Option<usize> {
        let mut report = report(holder, problems);
        again.is_settled(&mut report).then_some(report.problems.len())
    }

    #[test]
    fn what_is_wrong_with_nobody_there_is_wrong() {
        assert_eq!(settled(&mut Again::default(), None, &["a", "b"]), Some(2));
        assert_eq!(settled(&mut Again::default(), Some(1), &[]), Some(0));
    }

    #[test]
    fn only_what_is_met_twice_is_damage() {
        let mut again = Again::default();
        assert_eq!(settled(&mut again, Some(1), &["a", "b"]), None);
        assert_eq!(settled(&mut again, Some(1), &["b", "c"]), None);
        assert_eq!(settled(&mut again, Some(1), &["b"]), Some(1));
        let mut moving = Again::default();
        for attempt in 1..ATTEMPTS {
            let other = attempt.to_string();
            assert_eq!(settled(&mut moving, Some(1), &["stays", &other]), None, "{attempt}");
        }
        assert_eq!(settled(&mut moving, Some(1), &["stays", "last"]), Some(1));
    }
}
