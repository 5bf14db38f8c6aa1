//! What a replica does while its log has no room for the records it was given: it stands still, as
//! one whose machine was suspended, and the others go on without it. Beside the runner's turns.
//!
//! Nothing that rests on those records may be said, and a replica that cannot vote must not look as
//! if it could: it answers no pings, so that nobody waits for its votes or for its lead. It takes
//! nothing in either, so what waits in memory does not grow. Room for the log, or a snapshot that
//! lets go of some of it, ends this.

use super::{EXPIRY, Runner};
use crate::node::error::Rejected;
use crate::node::status::NodeProtocol;
use crate::types::Time;

impl<P: NodeProtocol> Runner<P> {
    /// Whether it stands still.
    pub(super) fn stands_still(&self) -> bool {
        self.journal.waits_for_room()
    }

    /// A turn without a step.
    pub(super) fn stand_still(&mut self, now: Time) {
        self.next_tick = now + self.tick;
        self.snapshots.look(now, &mut self.journal);
        self.snapshots.make_room(now, &mut self.journal);
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
    }
}
