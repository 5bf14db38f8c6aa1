//! When a snapshot is due, on the core thread.

use std::time::Duration;

use super::worker::Room;
use super::{Snapshots, Stage};
use crate::node::journal::Journal;
use crate::node::status::NodeProtocol;
use crate::replica::epochs::Epochs;
use crate::types::Time;

/// The shortest time between two snapshots that are taken because many decisions are kept.
const PAUSE: Duration = Duration::from_secs(10);

impl<P: NodeProtocol> Snapshots<P> {
    /// Whether to begin a snapshot, and how much of the disk it may take. Somebody wants one, the
    /// disk is almost full, the log has grown, or much is kept for others.
    pub(super) fn is_due(
        &mut self,
        now: Time,
        epochs: &Epochs<P>,
        journal: &Journal,
    ) -> Option<Room> {
        let kept = epochs.kept_bytes();
        self.least_kept = self.least_kept.min(kept);
        if !self.can_begin(journal) {
            return None;
        }
        if self.must_make_room(now, journal) {
            return Some(Room::All);
        }
        let room = if self.shared.space_is_low() { Room::All } else { Room::Spare };
        if !self.next_askers.is_empty() {
            return Some(room);
        }
        // At least as much log as state, so that a large state is not written too often.
        let limits = &self.shared.limits;
        let every = limits.snapshot_every.max(self.state_bytes);
        let grown = match &self.store {
            Some(_) => {
                let fed = epochs.fed_bytes().saturating_sub(self.fed_bytes);
                journal.log_bytes() - self.log_bytes + fed >= every
            }
            // In memory, snapshots are for others only; anything outside a snapshot is kept for
            // them.
            None => kept > limits.keep_for_absent_bytes && (kept - self.least_kept) as u64 >= every,
        };
        // Only a snapshot releases what is kept. Without one, clients would be refused.
        let filling = kept >= limits.kept_bytes / 2
            && journal.log_bytes() > self.log_bytes
            && now >= self.begun + PAUSE;
        let full = self.numbers.is_some() && self.shared.is_checkpoint_wanted();
        let due = self.is_wanted(now) || self.lineage.is_foreign() || grown || filling || full;
        (due && self.attempts.may_begin(now, room)).then_some(room)
    }

    /// Whether no snapshot is under way, and a new one would not depend on an empty log. A log that
    /// begins at 0 looks like that of a new directory. Suppose the first snapshot after an
    /// installed state were damaged there: the next life would silently start from nothing.
    fn can_begin(&self, journal: &Journal) -> bool {
        let untold = self.lineage.is_foreign() && journal.is_new();
        matches!(self.stage, Stage::Idle) && !untold && self.has_state
    }

    /// Whether another replica waits for a snapshot, and one may be taken for it now.
    pub(super) fn is_wanted(&self, now: Time) -> bool {
        self.wanted && !self.lending && now >= self.lend_not_before
    }

    /// Whether to begin a snapshot at once because the disk is almost full.
    pub(in crate::node) fn must_make_room(&mut self, now: Time, journal: &Journal) -> bool {
        let may = self.attempts.may_begin(now, Room::All);
        self.can_begin(journal) && self.is_short_of_room(journal) && may
    }

    /// Whether the disk is almost full and a snapshot may help, by releasing the log before it.
    fn is_short_of_room(&mut self, journal: &Journal) -> bool {
        if self.store.is_none() || !self.shared.space_is_low() {
            self.while_low = 0;
            return false;
        }
        let grown = journal.log_bytes() - self.log_bytes;
        let half_a_segment = self.shared.limits.segment_bytes as u64 / 2;
        // After the first one, a large state is not written again for little gain.
        self.while_low == 0 || grown >= half_a_segment.max(self.state_bytes)
    }
}
