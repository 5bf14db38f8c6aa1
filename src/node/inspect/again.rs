//! Reading a directory again that seems damaged while a replica uses it.

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use crate::storage::{Report, StorageError};

/// How often it is read at the most.
const ATTEMPTS: u32 = 40;
/// How long it is left alone after the first time.
const PAUSE: Duration = Duration::from_millis(5);

/// Tells damage in a directory that is in use from what its replica did while it was read: files
/// come and go, and the last segment grows. Damage stays where it is, byte for byte; what a replica
/// does leaves another trace each time, or none.
#[derive(Default)]
pub(super) struct Again {
    attempts: u32,
    /// The problems found so far, in their own words.
    before: HashSet<String>,
}

impl Again {
    /// Whether a report can be believed; otherwise the directory is to be read once more. Problems
    /// that only one reading has met are taken out of the last report.
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

    /// Leaves the directory alone for a moment, a little longer each time.
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
