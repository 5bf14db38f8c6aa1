//! When a replica stands still for want of room on its disk, as one whose machine was suspended,
//! and the others go on without it. Beside the runner's turns.
//!
//! Its log has no room for the records it was given. Nothing that rests on them may be said, and a
//! replica that cannot vote must not look as if it could: it answers no pings, so that nobody waits
//! for its votes or for its lead. It takes nothing in either, so what waits in memory does not
//! grow. Only room on the disk ends this: a snapshot holds what those records say, so it must not
//! be finished before they are durable.
//!
//! So it must not come to that while a snapshot can still make room. A replica whose disk is almost
//! full stands still, too, while it takes one: what the log grew by meanwhile would be taken from
//! the room that the snapshot needs.

use super::{EXPIRY, Runner};
use crate::node::error::Rejected;
use crate::node::status::NodeProtocol;
use crate::types::Time;

impl<P: NodeProtocol> Runner<P> {
    /// Whether it stands still.
    pub(super) fn stands_still(&self) -> bool {
        self.journal.waits_for_room() || self.snapshots.needs_quiet()
    }

    /// A turn without a step.
    pub(super) fn stand_still(&mut self, now: Time) {
        self.next_tick = now + self.tick;
        self.snapshots.look(now, &mut self.journal);
        if self.journal.waits_for_room() {
            self.snapshots.make_room(now, &mut self.journal);
        }
        while let Some(command) = self.shared.proposals.pop() {
            self.shared.pending.turn_away(command.request, Rejected::DiskFull);
        }
        // What was decided before is still applied and answered.
        self.hand_on();
        self.inbox.hold_back(true);
        while let Some(question) = self.shared.questions.pop() {
            self.answer(question);
        }
        if self.next_expiry <= now {
            self.next_expiry = now + EXPIRY;
            self.expire(now);
        }
        if !self.stands_still() {
            // It goes on at once, not at the next tick.
            self.shared.wake.notify_one();
        }
    }
}
