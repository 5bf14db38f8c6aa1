//! The failure detector: suspects replicas that are silent or deaf for too long, and measures round
//! trips. `Core` passes both to the protocol in its `View`.
//!
//! A replica may send but receive nothing: a firewall or a broken link stops one direction. It goes
//! on proposing and can finish nothing. So hearing a peer is not enough: only an answer shows that
//! the peer hears this replica.
//!
//! A suspicion is a guess, adapted to the measured round trips. A wrong one costs time, never
//! safety.

use std::time::Duration;

use super::Silence;
use crate::types::{ReplicaId, ReplicaSet, Settings, Time, Timing};

/// What the detector knows of one peer.
#[derive(Clone, Debug)]
struct Peer {
    /// When it last sent anything; reset when the clock starts.
    heard: Time,
    /// When it last sent anything; `None` if it never has.
    spoke: Option<Time>,
    /// When it last answered a ping; reset when the clock starts.
    answered: Time,
    /// The smoothed round trip; `None` before the first answer.
    round_trip: Option<Duration>,
}

/// Measures round trips and silence.
#[derive(Debug)]
pub(super) struct Detector {
    me: ReplicaId,
    timing: Timing,
    peers: Vec<Peer>,
    next_ping: Time,
    /// When this replica last started, or resumed after a standstill.
    awake_since: Time,
}

impl Detector {
    pub(super) fn new(settings: &Settings) -> Detector {
        let peer = Peer { heard: Time::ZERO, spoke: None, answered: Time::ZERO, round_trip: None };
        Detector {
            me: settings.me,
            timing: settings.timing.clone(),
            peers: vec![peer; settings.quorums.n],
            next_ping: Time::ZERO,
            awake_since: Time::ZERO,
        }
    }

    /// This replica resumes after doing nothing for `slept`.
    ///
    /// After a long sleep the silence and the long round trips are its own. Counting them, it would
    /// suspect every peer, and afterwards hardly any.
    pub(super) fn stirred(&mut self, now: Time, slept: Duration) {
        if slept > self.timing.suspect / 2 {
            self.start(now);
        }
    }

    /// Silence counts from `now`.
    pub(super) fn start(&mut self, now: Time) {
        self.awake_since = now;
        for peer in &mut self.peers {
            peer.heard = now;
            peer.answered = now;
        }
    }

    /// A peer sent something.
    pub(super) fn heard(&mut self, from: ReplicaId, now: Time) {
        let peer = &mut self.peers[from.index()];
        peer.heard = peer.heard.max(now);
        peer.spoke = Some(peer.heard);
    }

    /// A peer answered a ping that was `sent` at this time.
    pub(super) fn answered(&mut self, from: ReplicaId, sent: Time, now: Time) {
        if sent < self.awake_since {
            return;
        }
        // A peer may send back a wrong time, so no sample counts as more than a minute.
        let sample = now.since(sent).min(Duration::from_secs(60));
        let peer = &mut self.peers[from.index()];
        peer.answered = peer.answered.max(now);
        peer.round_trip = Some(match peer.round_trip {
            // The estimate falls quickly and rises slowly: queues come and go.
            Some(known) if sample < known => (known + sample) / 2,
            Some(known) => (known * 7 + sample) / 8,
            None => sample,
        });
    }

    /// Whether a ping is due; if so, schedules the next.
    pub(super) fn ping_due(&mut self, now: Time) -> bool {
        let due = self.next_ping <= now;
        if due {
            self.next_ping = now + self.timing.gossip;
        }
        due
    }

    /// The round trips for the protocol; zero if not measured.
    pub(super) fn round_trips(&self) -> impl Iterator<Item = Duration> + '_ {
        self.peers.iter().map(|peer| peer.round_trip.unwrap_or_default())
    }

    /// The peers that have been silent, or have not answered, for too long.
    pub(super) fn suspected(&self, now: Time) -> ReplicaSet {
        self.those(|peer| self.is_silent(peer, now) || self.is_deaf(peer, now))
    }

    /// The suspected peers that still send.
    pub(super) fn deaf(&self, now: Time) -> ReplicaSet {
        self.those(|peer| !self.is_silent(peer, now) && self.is_deaf(peer, now))
    }

    /// Why a suspected peer is suspected.
    pub(super) fn silence(&self, id: ReplicaId, now: Time) -> Silence {
        let peer = &self.peers[id.index()];
        match peer.spoke {
            None => Silence::SinceStart,
            Some(_) if !self.is_silent(peer, now) && self.is_deaf(peer, now) => Silence::Deaf,
            Some(last) => Silence::For(now.since(last)),
        }
    }

    fn those(&self, are: impl Fn(&Peer) -> bool) -> ReplicaSet {
        let others = ReplicaId::all(self.peers.len()).filter(|id| *id != self.me);
        others.filter(|id| are(&self.peers[id.index()])).collect()
    }

    fn is_silent(&self, peer: &Peer, now: Time) -> bool {
        now.since(peer.heard) > self.patience(peer)
    }

    fn is_deaf(&self, peer: &Peer, now: Time) -> bool {
        // Without a known round trip the peer may be far away, so it gets twice the time.
        let patience = self.patience(peer) * if peer.round_trip.is_some() { 1 } else { 2 };
        now.since(peer.answered) > patience
    }

    fn patience(&self, peer: &Peer) -> Duration {
        let adapted = peer.round_trip.unwrap_or_default() * 4 + self.timing.gossip * 2;
        self.timing.suspect.max(adapted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Optimisations, Quorums, Retention};

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    fn detector() -> Detector {
        let settings = Settings {
            me: ReplicaId::from_index(0),
            quorums: Quorums::new(3).expect("a supported size"),
            seed: 0,
            timing: Timing::default(),
            optimisations: Optimisations::NONE,
            retention: Retention::default(),
            leases: true,
        };
        let mut detector = Detector::new(&settings);
        detector.start(at(0));
        detector
    }

    #[test]
    fn silence_makes_suspect_and_an_answer_clears() {
        let mut d = detector();
        let [b, c] = [ReplicaId::from_index(1), ReplicaId::from_index(2)];
        d.heard(b, at(500));
        d.answered(b, at(498), at(500));
        assert_eq!(d.suspected(at(700)), ReplicaSet::from_iter([c]));
        assert!(d.deaf(at(700)).is_empty());
        d.heard(c, at(701));
        assert!(d.suspected(at(702)).is_empty(), "perhaps its answer is on its way");
        d.answered(c, at(700), at(703));
        assert!(d.suspected(at(1100)).is_empty());
    }

    #[test]
    fn a_peer_that_is_heard_and_does_not_answer_is_suspected() {
        let mut d = detector();
        let [b, c] = [ReplicaId::from_index(1), ReplicaId::from_index(2)];
        d.answered(b, at(8), at(10));
        for ms in (10..=1500).step_by(10) {
            d.heard(b, at(ms));
            d.heard(c, at(ms));
            let deaf: &[ReplicaId] = match ms {
                ..=610 => &[],
                // It never answered, so it may be far away.
                611..=1200 => &[b],
                _ => &[b, c],
            };
            let deaf: ReplicaSet = deaf.iter().copied().collect();
            assert_eq!((d.deaf(at(ms)), d.suspected(at(ms))), (deaf, deaf), "after {ms} ms");
        }
        d.answered(b, at(1500), at(1510));
        assert_eq!(d.suspected(at(1510)), ReplicaSet::from_iter([c]));
        assert_eq!(d.suspected(at(3000)), ReplicaSet::from_iter([b, c]));
        assert!(d.deaf(at(3000)).is_empty(), "now both are silent");
    }

    #[test]
    fn silence_counts_from_the_last_word() {
        let mut d = detector();
        let [b, c] = [ReplicaId::from_index(1), ReplicaId::from_index(2)];
        d.start(at(500));
        d.heard(b, at(1000));
        let silence = |d: &Detector, ms| [b, c].map(|id| d.silence(id, at(ms)));
        let four = Silence::For(Duration::from_secs(4));
        assert_eq!(silence(&d, 5000), [four, Silence::SinceStart]);
        // Its own sleep makes no peer suspected, and does not count as hearing one.
        d.stirred(at(5000), Duration::from_secs(4));
        assert_eq!(silence(&d, 5000), [four, Silence::SinceStart]);
        for ms in (5000..=8000).step_by(10) {
            d.heard(c, at(ms));
        }
        assert_eq!(silence(&d, 8000), [Silence::For(Duration::from_secs(7)), Silence::Deaf]);
    }

    #[test]
    fn far_replicas_are_given_more_time() {
        let mut d = detector();
        let [b, c] = [ReplicaId::from_index(1), ReplicaId::from_index(2)];
        d.heard(b, at(400));
        d.answered(b, at(0), at(400));
        assert_eq!(d.suspected(at(1000)), ReplicaSet::from_iter([c]));
        d.heard(b, at(1700));
        assert!(!d.suspected(at(2100)).contains(b));
        assert!(d.deaf(at(2101)).contains(b));
    }

    #[test]
    fn ones_own_sleep_is_nobodys_silence_and_no_long_way() {
        let mut d = detector();
        let b = ReplicaId::from_index(1);
        d.answered(b, at(0), at(80));
        d.stirred(at(9000), Duration::from_millis(8900));
        d.answered(b, at(90), at(9000));
        assert_eq!(d.round_trips().nth(1).expect("three peers"), Duration::from_millis(80));
        assert!(d.suspected(at(9100)).is_empty());
        assert!(d.suspected(at(9601)).contains(b));
    }

    #[test]
    fn the_round_trip_follows_the_samples() {
        let mut d = detector();
        let b = ReplicaId::from_index(1);
        for i in 0..40 {
            d.answered(b, at(i * 100), at(i * 100 + 80));
        }
        let trip = d.round_trips().nth(1).expect("three peers");
        assert_eq!(trip, Duration::from_millis(80));
        d.answered(b, at(5000), at(5240));
        assert_eq!(d.round_trips().nth(1).expect("three peers"), Duration::from_millis(100));
    }
}
