//! What a measurement saw: every command that was answered, and counts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::Time;

/// One command that was asked while it counted, and executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// The site whose client asked, from 0.
    pub site: usize,
    /// When, from the moment when clients came.
    pub asked: Duration,
    /// From then until its decision was known at its site; at its execution at the latest.
    pub commit: Duration,
    /// From then until it was executed at its site, and answered.
    pub execute: Duration,
    /// Whether it was decided in one round trip.
    pub fast: bool,
}

/// What replicas said while it counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Messages sent: one for each receiver.
    pub messages: u64,
    /// Their bytes as the codec writes them, without a carrier's headers.
    pub bytes: u64,
    /// Messages received.
    pub received: u64,
    /// How long it was busy. Zero if CPU costs nothing.
    pub busy: Duration,
}

/// What was seen.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// The protocol's name.
    pub protocol: &'static str,
    /// Commands in the order of their answers.
    pub samples: Vec<Sample>,
    /// For how long it counted.
    pub time: Duration,
    /// Commands answered while it counted, whenever they were asked.
    pub answered: u64,
    /// Each site's replica's traffic.
    pub traffic: Vec<Traffic>,
    /// How many components of each size were executed at the first replica that never stopped.
    pub components: BTreeMap<usize, u64>,
    /// When commands were answered and how long each had taken, warm-up included.
    pub over_time: Vec<(Duration, Duration)>,
    /// Commands whose replica stopped, or that had no answer in the end.
    pub unanswered: u64,
    /// Commands that came to a replica that was down or turned them away.
    pub refused: u64,
}

impl Measured {
    /// Latencies of commit at a site, or at all.
    pub fn commit(&self, site: Option<usize>) -> Exact {
        Exact::new(self.at(site).map(|sample| sample.commit).collect())
    }

    /// Latencies of execution at a site, or at all.
    pub fn execute(&self, site: Option<usize>) -> Exact {
        Exact::new(self.at(site).map(|sample| sample.execute).collect())
    }

    /// The share of commands decided in one round trip, from 0 to 1, at a site, or at all. `None`
    /// if there are none.
    pub fn fast_share(&self, site: Option<usize>) -> Option<f64> {
        let fast = self.at(site).filter(|sample| sample.fast).count();
        let all = self.at(site).count();
        (all > 0).then(|| fast as f64 / all as f64)
    }

    /// Commands answered in a second.
    pub fn throughput(&self) -> f64 {
        self.answered as f64 / self.time.as_secs_f64()
    }

    /// Something of all traffic for each command answered; 0 if there is none.
    pub fn per_command(&self, of: impl Fn(&Traffic) -> u64) -> f64 {
        let sum: u64 = self.traffic.iter().map(of).sum();
        if self.answered == 0 { 0.0 } else { sum as f64 / self.answered as f64 }
    }

    fn at(&self, site: Option<usize>) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| site.is_none_or(|site| sample.site == site))
    }
}

/// Durations, all of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exact(Vec<Duration>);

impl Exact {
    /// Of these, in any order.
    pub fn new(mut all: Vec<Duration>) -> Exact {
        all.sort_unstable();
        Exact(all)
    }

    /// The smallest that is not below a share, from 0 to 1, of all: one that was measured. `None`
    /// if there are none.
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

/// What is counted on the way, and when.
pub(super) struct Counting {
    pub(super) measured: Measured,
    /// When clients come.
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

    /// An instance was executed where components are counted.
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
