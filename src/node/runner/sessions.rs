//! The cluster's own commands about sessions: when this replica proposes to end an era, and to
//! close what sessions have finished. Part of the runner.

use std::time::Duration;

use super::Runner;
use crate::node::status::NodeProtocol;
use crate::types::{ReplicaId, Time};

/// Replicas do not all end a long enough era at the same time. The second waits this share of the
/// era's length longer, the third twice that.
const STAGGER: u32 = 50;
/// Nor do they all close sessions at the same time. The second replica lets the table grow this
/// many thousandths beyond the bound, the third twice that.
const CLOSE_STAGGER: usize = 40;
/// A close that has had no effect is proposed again after this time.
const CLOSE_AGAIN: Duration = Duration::from_secs(5);

impl<P: NodeProtocol> Runner<P> {
    /// How many members come before this one, so that not all do the same at the same time.
    fn place(&self) -> usize {
        let list = self.epochs.list();
        let position = list.and_then(|list| list.position(self.epochs.me()));
        position.map_or(0, ReplicaId::index)
    }

    /// Proposes to end an era that has lasted long enough, if there is a session that can expire.
    pub(super) fn end_era(&mut self, now: Time) {
        let (era, idle) = (self.shared.era(), self.session_idle);
        if self.era != Some(era) {
            let place = u32::try_from(self.place()).expect("few replicas");
            self.era = Some(era);
            self.era_ends = now + idle + (idle / STAGGER).saturating_mul(place);
        }
        if now < self.era_ends || self.shared.sessions() == 0 {
            return;
        }
        // If this has no effect, it is tried again. The queue may have room then.
        self.era_ends = now + idle / 4;
        let _ = self.shared.proposals.push(era.end(ReplicaId::from_index(0)));
        self.shared.wake.notify_one();
    }

    /// Proposes to close what sessions have finished, once their table has grown to its bound.
    pub(super) fn close_sessions(&mut self, now: Time) {
        let (era, (nth, growth)) = (self.shared.era(), self.shared.next_close());
        let under_way = self.closing.is_some_and(|(in_era, last, since)| {
            (in_era, last) == (era, nth) && now.since(since) < CLOSE_AGAIN
        });
        if under_way || growth < 1000 + CLOSE_STAGGER * self.place() {
            return;
        }
        self.closing = Some((era, nth, now));
        let _ = self.shared.proposals.push(era.close(nth, ReplicaId::from_index(0)));
        self.shared.wake.notify_one();
    }
}
