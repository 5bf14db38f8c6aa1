//! Read-only context for every part of a protocol: the settings, and the rules that hold. Each call
//! of a part borrows it.

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

    /// How long to wait for an answer before taking it as lost.
    pub(super) fn retransmit_after(&self, view: &View) -> Duration {
        self.timing().retransmit.max(view.slowest_trip() * 2)
    }

    /// How long to wait for an answer before resending for the `round`-th time. It doubles, up to a
    /// limit: a replica that was cut off must get its messages soon after it is heard again.
    pub(super) fn resend_after(&self, view: &View, round: u32) -> Duration {
        let base = self.retransmit_after(view);
        (base * (1 << round.min(4))).min(base.max(self.timing().retransmit * 10))
    }

    /// The number of live replicas with a lower id. Where one replica is enough, those go first.
    pub(super) fn rank(&self, view: &View) -> u32 {
        let me = self.me();
        let before = ReplicaId::all(self.n()).filter(|r| *r < me && !view.suspected.contains(*r));
        u32::try_from(before.count()).expect("there are few replicas")
    }
}
