//! Keeps strangers and clients from filling the log: in each interval the first few lines that they
//! cause are logged, and the rest are counted.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The length of an interval.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// Lines logged in one interval.
const SAID: u32 = 8;

/// Counts the lines of one kind.
#[derive(Default)]
pub(super) struct Tally(Mutex<State>);

#[derive(Default)]
struct State {
    since: Option<Instant>,
    said: u32,
    unsaid: u64,
}

impl Tally {
    /// Whether to log the line that is due at `now`.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *state.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= INTERVAL {
            state.said = 0;
            state.since = Some(now);
        }
        let admits = state.said < SAID;
        if admits {
            state.said += 1;
        } else {
            state.unsaid += 1;
        }
        admits
    }

    /// How many lines were left out since the last call.
    pub(super) fn left_out(&self) -> u64 {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_a_few_lines_and_a_count() {
        let (tally, start) = (Tally::default(), Instant::now());
        let said = |from: u64, count: u64| {
            let at = |n| start + Duration::from_millis(from + n);
            (0..count).filter(|n| tally.admits(at(*n))).count()
        };
        assert_eq!(said(0, 5000), 8);
        assert_eq!((tally.left_out(), tally.left_out()), (4992, 0));
        assert_eq!(said(9000, 10), 0);
        assert_eq!(said(10_000, 5000), 8, "in the next interval");
        assert_eq!(tally.left_out(), 5002);
    }
}
