//! The result of a measurement: every answered command, and counters.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::Time;

/// A command that was sent during the counted time and executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// The site whose client asked, from 0.
    pub site: usize,
    /// When it was sent, counted from the clients' start.
    pub asked: Duration,
    /// From then until its decision was known at its site, at the latest at its execution.
    pub commit: Duration,
    /// From then until it was executed and answered at its site.
    pub execute: Duration,
    /// Whether it was decided in one round trip.
    pub fast: bool,
}

/// A replica's traffic during the counted time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Messages sent, one for each receiver.
    pub messages: u64,
    /// Their bytes in the codec's encoding, without headers of a carrier.
    pub bytes: u64,
    /// Messages received.
    pub received: u64,
    /// How long it was busy; zero if CPU time is free.
    pub busy: Duration,
}

/// The result of a measurement.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// The protocol's name.
    pub protocol: &'static str,
    /// Commands in the order of their answers.
    pub samples: Vec<Sample>,
    /// The length of the counted time.
    pub time: Duration,
    /// Commands answered during the counted time, whenever they were sent.
    pub answered: u64,
    /// Each site's replica's traffic.
    pub traffic: Vec<Traffic>,
    /// How many components of each size were executed at the first replica that never stopped.
    pub components: BTreeMap<usize, u64>,
    /// When each command was answered and how long it took, including the warm-up.
    pub over_time: Vec<(Duration, Duration)>,
    /// Commands whose replica stopped, or that had no answer at the end.
    pub unanswered: u64,
    /// Commands refused by a replica, or sent to one that was down.
    pub refused: u64,
}

impl Measured {
    /// Latencies of commit at one site, or at all.
    pub fn commit(&self, site: Option<usize>) -> Exact {
        Exact::new(self.at(site).map(|sample| sample.commit).collect())
    }

    /// Latencies of execution at one site, or at all.
    pub fn execute(&self, site: Option<usize>) -> Exact {
        Exact::new(self.at(site).map(|sample| sample.execute).collect())
    }

    /// The share of commands decided in one round trip, from 0 to 1, at one site or at all. `None`
    /// if there are none.
    pub fn fast_share(&self, site: Option<usize>) -> Option<f64> {
        let fast = self.at(site).filter(|sample| sample.fast).count();
        let all = self.at(site).count();
        (all > 0).then(|| fast as f64 / all as f64)
    }

    /// Answered commands per second.
    pub fn throughput(&self) -> f64 {
        self.answered as f64 / self.time.as_secs_f64()
    }

    /// The sum of a figure over all traffic, per answered command; 0 if there is none.
    pub fn per_command(&self, of: impl Fn(&Traffic) -> u64) -> f64 {
        let sum: u64 = self.traffic.iter().map(of).sum();
        if self.answered == 0 { 0.0 } else { sum as f64 / self.answered as f64 }
    }

    fn at(&self, site: Option<usize>) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| site.is_none_or(|site| sample.site == site))
    }
}

/// Exact durations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exact(Vec<Duration>);

impl Exact {
    /// From these durations, in any order.
    pub fn new(mut all: Vec<Duration>) -> Exact {
        all.sort_unstable();
        Exact(all)
    }

    /// The smallest duration that is at least as long as `share` of all, from 0 to 1; always a
    /// measured one. `None` if there are none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = (share * self.0.len() as f64).ceil().max(1.0);
        // Rounds to the nearest index; there are far fewer than 2^53.
        #[expect(clippy::cast_possible_truncation, reason = "a rank among what is in memory")]
        let index = rank as usize - 1;
        self.0.get(index.min(self.0.len().checked_sub(1)?)).copied()
    }

    /// All of them, ascending.
    pub fn all(&self) -> &[Duration] {
        &self.0
    }

    /// Their mean. `None` if there are none.
    pub fn mean(&self) -> Option<Duration> {
        let count = u32::try_from(self.0.len()).ok().filter(|count| *count > 0)?;
        Some(self.0.iter().sum::<Duration>() / count)
    }
}

/// Counts a measurement while it runs.
pub(super) struct Counting {
    pub(super) measured: Measured,
    /// When clients start.
    pub(super) zero: Time,
    from: Time,
    pub(super) to: Time,
    component: usize,
}

/// A command under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) site: usize,
    pub(super) client: u32,
    pub(super) asked: Time,
    pub(super) committed: Option<(Time, bool)>,
}

impl Counting {
    pub(super) fn new(measured: Measured, zero: Time, warm_up: Duration) -> Counting {
        let from = zero + warm_up;
        let to = from + measured.time;
        Counting { measured, zero, from, to, component: 0 }
    }

    /// Whether it counts now.
    pub(super) fn counts(&self, now: Time) -> bool {
        self.from <= now && now < self.to
    }

    /// A command was executed at its site.
    pub(super) fn answered(&mut self, now: Time, pending: &Pending) {
        let Pending { site, asked, committed, .. } = *pending;
        let execute = now.since(asked);
        self.measured.over_time.push((now.since(self.zero), execute));
        if self.counts(now) {
            self.measured.answered += 1;
        }
        if self.counts(asked) {
            let (at, fast) = committed.unwrap_or((now, false));
            let (asked, commit) = (asked.since(self.zero), at.since(asked));
            self.measured.samples.push(Sample { site, asked, commit, execute, fast });
        }
    }

    /// An instance was executed at the replica where components are counted.
    pub(super) fn executed(&mut self, now: Time, ends_component: bool) {
        self.component += 1;
        if ends_component {
            let size = std::mem::take(&mut self.component);
            if self.counts(now) {
                *self.measured.components.entry(size).or_default() += 1;
            }
        }
    }
}
