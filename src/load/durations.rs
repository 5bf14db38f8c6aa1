//! Distributions of durations: a histogram in real time, all samples in virtual time. Every latency
//! in a result is computed here.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::node::Latency;
use crate::sim::virtual_time::Exact;

/// A distribution of durations. Its JSON form is its [`Quantiles`].
#[derive(Clone, Debug)]
pub enum Durations {
    /// A histogram with three digits.
    Counted(Latency),
    /// All durations, exact to the nanosecond.
    Exact(Exact),
}

impl Durations {
    /// The number of durations.
    pub fn count(&self) -> u64 {
        match self {
            Durations::Counted(latency) => latency.count(),
            Durations::Exact(exact) => exact.all().len() as u64,
        }
    }

    /// The quantile for `share`, from 0 to 1; zero if there are no durations.
    pub fn quantile(&self, share: f64) -> Duration {
        match self {
            Durations::Counted(latency) => latency.quantile(share),
            Durations::Exact(exact) => exact.quantile(share).unwrap_or_default(),
        }
    }

    /// The longest duration; zero if there are none.
    pub fn max(&self) -> Duration {
        match self {
            Durations::Counted(latency) => latency.max(),
            Durations::Exact(exact) => exact.all().last().copied().unwrap_or_default(),
        }
    }

    /// The mean duration; zero if there are none.
    pub fn mean(&self) -> Duration {
        match self {
            Durations::Counted(latency) => latency.mean(),
            Durations::Exact(exact) => exact.mean().unwrap_or_default(),
        }
    }

    /// A quantile in milliseconds.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        millis(self.quantile(share))
    }

    /// The longest duration in milliseconds.
    pub fn max_ms(&self) -> f64 {
        millis(self.max())
    }
}

impl Default for Durations {
    fn default() -> Durations {
        Durations::Exact(Exact::default())
    }
}

impl From<Latency> for Durations {
    fn from(latency: Latency) -> Durations {
        Durations::Counted(latency)
    }
}

impl From<Exact> for Durations {
    fn from(exact: Exact) -> Durations {
        Durations::Exact(exact)
    }
}

impl Serialize for Durations {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Quantiles::of(self).serialize(to)
    }
}

/// The figures shown of a distribution, in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Quantiles {
    /// The number of durations.
    pub count: u64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
    /// The 99.99th percentile.
    pub p9999: f64,
    /// The longest duration.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

impl Quantiles {
    /// Computes the figures of a distribution.
    pub fn of(durations: &Durations) -> Quantiles {
        let at = |share| durations.quantile_ms(share);
        Quantiles {
            count: durations.count(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: durations.max_ms(),
            mean: millis(durations.mean()),
        }
    }
}

/// Milliseconds, rounded to the microsecond.
pub(super) fn millis(duration: Duration) -> f64 {
    (duration.as_nanos() as f64 / 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_in_milliseconds() {
        let mut latency = Latency::default();
        (1..=1_000).for_each(|ms| latency.record(Duration::from_millis(ms)));
        let exact = Exact::new((1..=1_000).map(Duration::from_millis).collect());
        for durations in [Durations::from(latency), Durations::from(exact)] {
            let Quantiles { count, p50, p99, p999, max, mean, .. } = Quantiles::of(&durations);
            let wanted = [(p50, 500.0), (p99, 990.0), (p999, 999.0), (max, 1_000.0)];
            for (found, wanted) in wanted.into_iter().chain([(mean, 500.5)]) {
                assert!((found - wanted).abs() <= wanted / 500.0, "{found} for {wanted}");
            }
            assert_eq!(count, 1_000);
        }
        for none in [Durations::default(), Durations::from(Latency::default())] {
            assert_eq!(Quantiles::of(&none), Quantiles::default());
        }
    }
}
