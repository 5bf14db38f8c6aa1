//! The wait before a replica's first step. It first hears from the others: one of them may know
//! that this replica has lost its votes, or may count quorums differently. Used by `runner`.

use std::time::Duration;

use crate::types::Time;

/// The wait of a replica that has voted before. Reachable peers connect in less time.
const AGAIN: Duration = Duration::from_millis(500);
/// The wait if this may be the first start of a cluster, at which the members' lists are compared.
const FIRST: Duration = Duration::from_secs(2);

/// The wait for the other replicas.
pub(super) struct Meeting {
    /// The latest end of the wait; `None` once it is over.
    until: Option<Time>,
}

impl Meeting {
    /// Waits for the other members of the list; `is_new` if the replica has never voted.
    pub(super) fn begin(is_new: bool, now: Time) -> Meeting {
        let patience = if is_new { FIRST } else { AGAIN };
        Meeting { until: Some(now + patience) }
    }

    /// Until when no step may be taken, given how many members are not connected. One that does not
    /// connect in time counts as away; the replica never waits for it again.
    pub(super) fn waits(&mut self, missing: impl FnOnce() -> usize, now: Time) -> Option<Time> {
        self.until = self.until.filter(|until| now < *until && missing() > 0);
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_all_have_come_or_time_has_passed_and_does_not_begin_again() {
        let at = |ms| Time::ZERO + Duration::from_millis(ms);
        let mut meeting = Meeting::begin(false, at(100));
        assert_eq!(meeting.waits(|| 2, at(100)), Some(at(600)));
        assert_eq!(meeting.waits(|| 1, at(599)), Some(at(600)));
        assert_eq!(meeting.waits(|| 1, at(600)), None);
        assert_eq!(meeting.waits(|| 2, at(600)), None);
        let mut meeting = Meeting::begin(true, at(0));
        assert_eq!(meeting.waits(|| 1, at(1999)), Some(at(2000)));
        assert_eq!(meeting.waits(|| 0, at(1999)), None);
        assert_eq!(meeting.waits(|| 2, at(1999)), None, "it has begun");
        assert_eq!(Meeting::begin(true, at(0)).waits(|| 0, at(0)), None, "it is alone");
    }
}
