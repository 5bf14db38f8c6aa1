//! Limits how often a repeated failure is logged: once, and then again after a while, so that the
//! log does not fill up. Used by `snapshots`.

use std::time::Duration;

use crate::types::Time;

/// How long until the same failure is logged again.
const AGAIN: Duration = Duration::from_secs(60);

/// The failure that was logged last.
#[derive(Default)]
pub(super) struct Reminder {
    said: Option<(String, Time)>,
    left_out: u64,
}

impl Reminder {
    /// Whether to log this failure. `Some(n)`: log it, `n` repetitions were left out since the last
    /// time.
    pub(super) fn is_due(&mut self, now: Time, error: &str) -> Option<u64> {
        // Ignore digits, because each attempt may name a file with another number.
        let reason: String = error.chars().filter(|c| !c.is_ascii_digit()).collect();
        let is_known =
            self.said.as_ref().is_some_and(|(last, at)| *last == reason && now < *at + AGAIN);
        if is_known {
            self.left_out += 1;
            return None;
        }
        self.said = Some((reason, now));
        Some(std::mem::take(&mut self.left_out))
    }

    /// The operation has succeeded.
    pub(super) fn is_over(&mut self) {
        *self = Reminder::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_again_after_a_while_and_another_thing_at_once() {
        let mut reminder = Reminder::default();
        let said: Vec<_> = (0..90)
            .step_by(2)
            .filter_map(|second| {
                let error = format!("no room for snapshot-unfinished-{second}");
                let left_out = reminder.is_due(Time::ZERO + Duration::from_secs(second), &error);
                left_out.map(|left_out| (second, left_out))
            })
            .collect();
        assert_eq!(said, [(0, 0), (60, 29)]);
        let at = Time::ZERO + Duration::from_secs(90);
        assert_eq!(reminder.is_due(at, "the disk has failed"), Some(14));
        reminder.is_over();
        assert_eq!(reminder.is_due(at, "the disk has failed"), Some(0));
    }
}
