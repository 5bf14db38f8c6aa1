//! When a replica stops taking steps because its disk is full, as if its machine were suspended,
//! while the others go on without it. Part of the runner.
//!
//! The log has no room for the records that it was given. Nothing that depends on them may be sent,
//! and a replica that cannot vote must not look as if it could. So it answers no pings, and no peer
//! waits for its votes or its lead. It takes nothing in either, so its memory does not grow. Only
//! room on the disk ends this: a snapshot covers those records, so it must not be finished before
//! they are durable.
//!
//! So it must not come to this while a snapshot can still free room. A replica whose disk is almost
//! full also stops taking steps while it takes a snapshot. Otherwise the log would grow into the
//! room that the snapshot needs.

use super::Runner;
use crate::node::error::Rejected;
use crate::node::status::NodeProtocol;
use crate::types::Time;

impl<P: NodeProtocol> Runner<P> {
    /// Whether the replica takes no steps.
    pub(super) fn stands_still(&self) -> bool {
        self.journal.waits_for_room() || self.snapshots.needs_quiet()
    }

    /// Makes room for the log if a snapshot can, and takes nothing in.
    pub(super) fn make_room(&mut self, now: Time) {
        self.snapshots.look(now, &mut self.journal);
        if self.journal.waits_for_room() {
            self.snapshots.make_room(now, &mut self.journal);
        }
        while let Some(command) = self.shared.proposals.pop() {
            self.shared.pending.turn_away(command.request, Rejected::DiskFull);
        }
    }
}
