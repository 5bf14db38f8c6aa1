//! An observer, and what a driver asks of it.

use super::feed::Follower;
use super::{Epochs, Stage};
use crate::protocol::Protocol;
use crate::types::{MemberId, Membership, Time};

/// An observer in one epoch.
pub(super) struct Observer {
    pub(super) follower: Follower,
    /// The state machine is in some state of the cluster, of this epoch or an earlier one.
    pub(super) is_readable: bool,
    /// A later epoch, and since when it is known.
    pub(super) later: Option<(Membership, Time)>,
    /// Bytes of commands that were fed since the start.
    pub(super) fed_bytes: u64,
}

impl<P: Protocol> Epochs<P> {
    /// Whether it observes the present epoch.
    pub fn observes(&self) -> bool {
        matches!(self.stage, Stage::Observer(_))
    }

    /// Roughly the bytes of commands that this observer was fed since its start. It has no log that
    /// grows with them.
    pub fn fed_bytes(&self) -> u64 {
        match &self.stage {
            Stage::Observer(observer) => observer.fed_bytes,
            _ => 0,
        }
    }

    /// A later epoch that it has heard of as an observer.
    pub(super) fn list_to_observe(&self) -> Option<&Membership> {
        match &self.stage {
            Stage::Observer(observer) => observer.later.as_ref().map(|(list, _)| list),
            _ => None,
        }
    }

    /// How many instances an observer lacks that others have executed: of this one, if it observes;
    /// else of each observer that has looked lately.
    pub fn observed(&self) -> Vec<(MemberId, u64)> {
        if let Stage::Observer(observer) = &self.stage {
            return vec![(self.me, observer.follower.behind())];
        }
        self.heard_observers()
    }

    /// The members that this observer reaches.
    pub fn reached_by_observer(&self) -> Option<Vec<MemberId>> {
        let (Stage::Observer(observer), Some(list)) = (&self.stage, &self.list) else {
            return None;
        };
        let reached = observer.follower.reached(self.now);
        Some(reached.iter().filter_map(|position| list.at(position)).collect())
    }
}
