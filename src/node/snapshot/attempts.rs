//! When a snapshot may be tried again after one that failed.

use std::time::Duration;

use super::worker::Room;
use crate::types::Time;

/// After a failure, so long until the next attempt.
const PAUSE: Duration = Duration::from_secs(10);
/// The same when the disk is almost full. The log grows on, and the longer it is, the more room a
/// snapshot of it takes.
const SHORT_PAUSE: Duration = Duration::from_secs(2);

/// How the last attempt went.
pub(super) struct Attempts {
    not_before: Time,
    /// How much of the disk it might take.
    room: Room,
}

impl Attempts {
    pub(super) fn new() -> Attempts {
        Attempts { not_before: Time::ZERO, room: Room::Spare }
    }

    pub(super) fn began(&mut self, room: Room) {
        self.room = room;
    }

    /// It came to nothing, on a disk that is almost full or is not.
    pub(super) fn failed(&mut self, now: Time, low: bool) {
        self.not_before = now + if low { SHORT_PAUSE } else { PAUSE };
    }

    /// It is done. A failure before it says nothing any more.
    pub(super) fn succeeded(&mut self) {
        self.not_before = Time::ZERO;
    }

    /// How much of the disk the last one might take.
    pub(super) fn room(&self) -> Room {
        self.room
    }

    /// Whether another may begin.
    pub(super) fn may_begin(&self, now: Time) -> bool {
        now >= self.not_before
    }

    /// Whether one may begin that makes room. The last one may have failed for no more than having
    /// had to leave room for the log.
    pub(super) fn may_make_room(&self, now: Time) -> bool {
        self.may_begin(now) || self.room == Room::Spare
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn one_that_makes_room_does_not_wait_for_what_failed_before_the_last_success() {
        let mut attempts = Attempts::new();
        attempts.began(Room::Spare);
        attempts.failed(at(1), false);
        assert!(!attempts.may_begin(at(2)), "what is not urgent waits");
        assert!(attempts.may_make_room(at(2)), "it failed for want of room to spare");
        attempts.began(Room::All);
        attempts.succeeded();
        assert!(attempts.may_make_room(at(3)), "the disk may be full again at once");
        attempts.began(Room::All);
        attempts.failed(at(3), true);
        assert!(!attempts.may_make_room(at(4)), "it would fail again");
        assert!(attempts.may_make_room(at(5)));
    }
}
