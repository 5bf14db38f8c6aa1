//! When to retry after a failed snapshot.

use std::time::Duration;

use super::worker::Room;
use crate::types::Time;

/// The wait after a failed attempt.
const PAUSE: Duration = Duration::from_secs(10);
/// The same for a snapshot that is to free room. It is short, because the log keeps growing, and a
/// snapshot of a longer log needs more room.
const SHORT_PAUSE: Duration = Duration::from_secs(2);

/// The results of the last attempts, by kind. An attempt that must leave room for the log may fail
/// where one that may take all room succeeds, so neither result predicts the other.
pub(super) struct Attempts {
    /// When the next attempt that leaves room for the log may begin.
    spare_not_before: Time,
    /// When the next attempt that frees room may begin.
    all_not_before: Time,
    /// How much of the disk the last attempt was allowed to take.
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

    /// The attempt failed.
    pub(super) fn failed(&mut self, now: Time) {
        match self.room {
            Room::Spare => self.spare_not_before = now + PAUSE,
            Room::All => self.all_not_before = now + SHORT_PAUSE,
        }
    }

    /// The attempt succeeded, so an earlier failure of its kind no longer matters.
    pub(super) fn succeeded(&mut self) {
        match self.room {
            Room::Spare => self.spare_not_before = Time::ZERO,
            Room::All => self.all_not_before = Time::ZERO,
        }
    }

    /// How much of the disk the last attempt was allowed to take.
    pub(super) fn room(&self) -> Room {
        self.room
    }

    /// Whether an attempt that may take this much may begin.
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
