//! What is known of the other replicas: which are silent (`detector`), whether a quorum can be
//! reached (`reach`), and how long large messages take to them (`large`). Before the core.

use std::time::Duration;

use super::detector::Detector;
use super::large::LargeLanes;
use super::reach::{Reach, Watch};
use crate::protocol::View;
use crate::types::{ReplicaId, ReplicaSet, Settings, Time};

/// What is known of the other replicas.
pub(super) struct Peers {
    detector: Detector,
    large: LargeLanes,
    watch: Watch,
}

/// What is due at a tick.
pub(super) struct Due {
    /// The replicas to probe on the lane of large messages.
    pub(super) probes: ReplicaSet,
    /// Whether to ping all others.
    pub(super) ping: bool,
}

impl Peers {
    pub(super) fn new(settings: &Settings) -> Peers {
        Peers {
            detector: Detector::new(settings),
            large: LargeLanes::new(settings.quorums.n, &settings.timing),
            watch: Watch::new(settings.quorums, settings.timing.suspect),
        }
    }

    /// This replica takes its first step.
    pub(super) fn start(&mut self, now: Time) {
        self.detector.start(now);
    }

    /// A step begins, so long after the one before.
    pub(super) fn stirred(&mut self, now: Time, slept: Duration) {
        self.detector.stirred(now, slept);
    }

    /// A message arrived.
    pub(super) fn heard(&mut self, from: ReplicaId, now: Time) {
        self.detector.heard(from, now);
    }

    /// A ping was answered.
    pub(super) fn answered(&mut self, from: ReplicaId, sent: Time, now: Time) {
        self.detector.answered(from, sent, now);
    }

    /// A probe was answered.
    pub(super) fn probe_answered(&mut self, from: ReplicaId, sent: Time, now: Time) {
        self.large.answered(from, sent, now);
    }

    /// Large messages were sent to these.
    pub(super) fn sent_large(&mut self, to: ReplicaSet) {
        self.large.sent(to);
    }

    /// Updates what `view` says of the others at its time.
    pub(super) fn tick(&mut self, view: &mut View) -> Due {
        let now = view.now;
        view.suspected = self.detector.suspected(now);
        view.deaf = self.detector.deaf(now);
        view.round_trips.clear();
        view.round_trips.extend(self.detector.round_trips());
        self.watch.look(now, view.suspected);
        let probes = self.large.probes(now, view.suspected);
        view.large_trips.clear();
        view.large_trips.extend(self.large.trips(now));
        Due { probes, ping: self.detector.ping_due(now) }
    }

    /// Whether no quorum has been reachable for so long that new commands are rejected.
    pub(super) fn has_lost_quorum(&self, now: Time) -> bool {
        self.watch.is_lost(now)
    }

    /// Which replicas can be reached.
    pub(super) fn reach(&self, now: Time) -> Reach {
        self.watch.reach(|id| self.detector.silence(id, now))
    }
}
