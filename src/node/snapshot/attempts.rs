//! When a snapshot may be tried again after one that failed.

use std::time::Duration;

use super::worker::Room;
use crate::types::Time;

/// After a failure, so long until the next attempt.
const PAUSE: Duration = Duration::from_secs(10);
/// The same after one that was to make room. The log grows on, and the longer it is, the more room
/// a snapshot of it takes.
const SHORT_PAUSE: Duration = Duration::from_secs(2);

/// How the last attempts went, of each kind: one that has to leave the log its room may fail where
/// one that may take all of it succeeds, so neither says anything about the other.
pub(super) struct Attempts {
    /// When another may begin that leaves the log its room.
    spare_not_before: Time,
    /// When another may begin that makes room.
    all_not_before: Time,
    /// How much of the disk the last one might take.
    room: Room,
}

impl Attempts {
    pub(super) fn new() -> Attempts {
        let (spare_not_before, all_not_before) = (Time::ZERO, Time::ZERO);
        Attempts { spare_not_before, all_not_before, room: Room::Spare }
    }

    pub(super) fn began(&mut self, room: Room) {
        self.room = room;
    }

    /// It came to nothing.
    pub(super) fn failed(&mut self, now: Time) {
        match self.room {
            Room::Spare => self.spare_not_before = now + PAUSE,
            Room::All => self.all_not_before = now + SHORT_PAUSE,
        }
    }

    /// It is done. A failure of its kind before it says nothing any more.
    pub(super) fn succeeded(&mut self) {
        match self.room {
            Room::Spare => self.spare_not_before = Time::ZERO,
            Room::All => self.all_not_before = Time::ZERO,
        }
    }

    /// How much of the disk the last one might take.
    pub(super) fn room(&self) -> Room {
        self.room
    }

    /// Whether another may begin that may take so much.
    pub(super) fn may_begin(&self, now: Time, room: Room) -> bool {
        match room {
            Room::Spare => now >= self.spare_not_before,
            Room::All => now >= self.all_not_before,
        }
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
        attempts.failed(at(1));
        assert!(!attempts.may_begin(at(2), Room::Spare), "what is not urgent waits");
        assert!(attempts.may_begin(at(2), Room::All), "it failed for want of room to spare");
        attempts.began(Room::All);
        attempts.succeeded();
        assert!(attempts.may_begin(at(3), Room::All), "the disk may be full again at once");
        assert!(!attempts.may_begin(at(3), Room::Spare), "there is still no room to spare");
        attempts.began(Room::All);
        attempts.failed(at(3));
        assert!(!attempts.may_begin(at(4), Room::All), "it would fail again");
        assert!(attempts.may_begin(at(5), Room::All));
    }
}
