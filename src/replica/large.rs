//! Measures how long large messages take to be received. They have a lane of their own, which small
//! messages overtake, so a ping does not tell. A probe follows them on their lane; it is answered
//! once they have been received. Until then they may still be on their way, and need not be resent.

use std::time::Duration;

use crate::types::{ReplicaId, ReplicaSet, Time, Timing};

/// The lane of large messages to one peer.
#[derive(Clone, Debug, Default)]
struct Lane {
    /// Whether large messages were sent since the last probe.
    used: bool,
    /// When the first and the last unanswered probe were sent.
    unanswered: Option<(Time, Time)>,
    /// The time between the last answered probe and its answer.
    took: Duration,
}

/// Measures the lanes of large messages that are in use.
#[derive(Debug)]
pub(super) struct LargeLanes {
    interval: Duration,
    next_probe: Time,
    lanes: Vec<Lane>,
}

impl LargeLanes {
    pub(super) fn new(replicas: usize, timing: &Timing) -> LargeLanes {
        let lanes = vec![Lane::default(); replicas];
        LargeLanes { interval: timing.gossip, next_probe: Time::ZERO, lanes }
    }

    /// Large messages were handed to the network.
    pub(super) fn sent(&mut self, to: ReplicaSet) {
        to.iter().for_each(|peer| {
            if let Some(lane) = self.lanes.get_mut(peer.index()) {
                lane.used = true;
            }
        });
    }

    /// The peers to send a probe to now. A suspected peer has no connection, or will soon have
    /// none: messages on their way to it are lost, so they are not waited for.
    pub(super) fn probes(&mut self, now: Time, suspected: ReplicaSet) -> ReplicaSet {
        for peer in suspected.iter() {
            self.lanes[peer.index()] = Lane::default();
        }
        let (due, interval) = (self.next_probe <= now, self.interval);
        let mut to = ReplicaSet::EMPTY;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            // The first probe follows the messages at once: usually nothing is known of the lane
            // yet.
            let first = lane.used && lane.unanswered.is_none();
            let next = lane.used || lane.unanswered.is_some() || lane.took > interval;
            if first || (due && next) {
                lane.used = false;
                lane.unanswered = Some((lane.unanswered.map_or(now, |(first, _)| first), now));
                to.insert(ReplicaId::from_index(index));
            }
        }
        if due {
            self.next_probe = now + interval;
        }
        to
    }

    /// A peer answered the probe of `sent`: it has received all messages sent before it.
    pub(super) fn answered(&mut self, from: ReplicaId, sent: Time, now: Time) {
        let interval = self.interval;
        let lane = &mut self.lanes[from.index()];
        let Some((first, last)) = lane.unanswered.filter(|(first, _)| *first <= sent) else {
            return;
        };
        lane.took = now.since(sent);
        // The probes between the first and the last were sent one interval apart.
        let next = (sent + interval).max(first).min(last);
        lane.unanswered = (sent < last).then_some((next, last));
    }

    /// How long each lane takes by now, by replica index. The messages before the first unanswered
    /// probe were sent up to an interval earlier.
    pub(super) fn trips(&self, now: Time) -> impl Iterator<Item = Duration> + '_ {
        self.lanes.iter().map(move |lane| {
            let waits = lane.unanswered.map(|(first, _)| now.since(first) + self.interval);
            lane.took.max(waits.unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn trip(lanes: &LargeLanes, now: u64) -> Duration {
        lanes.trips(at(now)).nth(1).expect("three replicas")
    }

    const NOBODY: ReplicaSet = ReplicaSet::EMPTY;

    fn used() -> (LargeLanes, ReplicaId, ReplicaSet) {
        let mut lanes = LargeLanes::new(3, &Timing::default());
        let peer = ReplicaId::from_index(1);
        let only = ReplicaSet::from_iter([peer]);
        assert!(lanes.probes(at(0), NOBODY).is_empty(), "what is not in use is not measured");
        lanes.sent(only);
        assert_eq!(lanes.probes(at(10), NOBODY), only);
        (lanes, peer, only)
    }

    #[test]
    fn a_lane_takes_as_long_as_its_probe_is_not_answered_and_then_what_that_took() {
        let (mut lanes, peer, only) = used();
        assert_eq!(trip(&lanes, 30), ms(70));
        assert!(lanes.probes(at(20), NOBODY).is_empty(), "once an interval is enough");
        assert_eq!(lanes.probes(at(60), NOBODY), only);
        assert_eq!(trip(&lanes, 310), ms(350));
        lanes.answered(peer, at(10), at(330));
        assert_eq!((trip(&lanes, 330), trip(&lanes, 480)), (ms(320), ms(470)));
        lanes.answered(peer, at(60), at(400));
        // A lane that was slow is measured again, even if no more messages are sent.
        assert_eq!(trip(&lanes, 400), ms(340));
        assert_eq!(lanes.probes(at(410), NOBODY), only);
        lanes.answered(peer, at(410), at(412));
        assert_eq!(trip(&lanes, 412), ms(2));
        assert!(lanes.probes(at(500), NOBODY).is_empty());
    }

    #[test]
    fn a_probe_that_is_lost_is_answered_by_the_next() {
        let (mut lanes, peer, _) = used();
        lanes.probes(at(60), NOBODY);
        lanes.answered(peer, at(60), at(65));
        assert_eq!(trip(&lanes, 1000), ms(5));
    }

    #[test]
    fn who_is_suspected_is_not_waited_for() {
        let (mut lanes, peer, only) = used();
        assert!(lanes.probes(at(700), only).is_empty());
        assert_eq!(trip(&lanes, 9000), Duration::ZERO);
        lanes.answered(peer, at(10), at(9000));
        assert_eq!(trip(&lanes, 9000), Duration::ZERO);
    }
}
