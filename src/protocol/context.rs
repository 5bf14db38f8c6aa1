//! What every part of a protocol may look at and none changes: who this replica is, what it was
//! told about the cluster, and which rules hold. Lent to each part with each call.

use std::time::Duration;

use super::View;
use crate::types::{Quorums, ReplicaId, ReplicaSet, Settings, Timing};

/// The settings and the protocol's rules.
#[derive(Debug)]
pub(super) struct Context<R> {
    pub(super) settings: Settings,
    pub(super) rules: R,
}

impl<R: Default> Context<R> {
    pub(super) fn new(settings: Settings) -> Context<R> {
        Context { settings, rules: R::default() }
    }
}

impl<R> Context<R> {
    pub(super) fn me(&self) -> ReplicaId {
        self.settings.me
    }

    pub(super) fn n(&self) -> usize {
        self.settings.quorums.n
    }

    pub(super) fn quorums(&self) -> Quorums {
        self.settings.quorums
    }

    pub(super) fn timing(&self) -> &Timing {
        &self.settings.timing
    }

    pub(super) fn all(&self) -> ReplicaSet {
        ReplicaSet::all(self.n())
    }

    pub(super) fn others(&self) -> ReplicaSet {
        let mut others = self.all();
        others.remove(self.me());
        others
    }

    /// How long an answer may take: what is not answered by then was lost.
    pub(super) fn retransmit_after(&self, view: &View) -> Duration {
        self.timing().retransmit.max(view.slowest_trip() * 2)
    }

    /// How long to wait for an answer before asking again, for the `round`-th time: longer each
    /// time, but never so long that what was cut off stays so after it is heard of again.
    pub(super) fn resend_after(&self, view: &View, round: u32) -> Duration {
        let base = self.retransmit_after(view);
        (base * (1 << round.min(4))).min(base.max(self.timing().retransmit * 10))
    }

    /// How many live replicas go before this one in what one replica is enough for.
    pub(super) fn rank(&self, view: &View) -> u32 {
        let me = self.me();
        let before = ReplicaId::all(self.n()).filter(|r| *r < me && !view.suspected.contains(*r));
        u32::try_from(before.count()).expect("there are few replicas")
    }
}
