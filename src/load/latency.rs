//! Latencies: a histogram that many tasks write, and the figures a report quotes of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer ones count as this long: a minute.
const MAX_MICROS: u64 = 60_000_000;

/// Latencies to within half a per cent, from a microsecond to a minute.
#[derive(Debug)]
pub struct Latency(Mutex<Histogram<u64>>);

impl Default for Latency {
    fn default() -> Latency {
        let histogram = Histogram::new_with_max(MAX_MICROS, 3);
        Latency(Mutex::new(histogram.expect("three digits up to a minute is a valid range")))
    }
}

impl Latency {
    /// Counts one.
    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(MAX_MICROS);
        self.lock().saturating_record(micros.min(MAX_MICROS));
    }

    /// Adds all that another holds.
    pub fn add(&self, other: &Latency) {
        let other = other.lock().clone();
        self.lock().add(other).expect("all have the same range");
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.lock().len()
    }

    /// The figures.
    pub fn summary(&self) -> Summary {
        let histogram = self.lock();
        let millis = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1_000.0;
        let at = |quantile| millis(histogram.value_at_quantile(quantile));
        Summary { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: millis(histogram.max()) }
    }

    fn lock(&self) -> MutexGuard<'_, Histogram<u64>> {
        // Counting cannot be left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is quoted of many latencies, in milliseconds; all zero when there were none.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Summary {
    /// The median.
    pub p50: f64,
    /// 99 of 100 were not longer.
    pub p99: f64,
    /// 999 of 1,000 were not longer.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_in_milliseconds_and_add_up() {
        let (one, other) = (Latency::default(), Latency::default());
        (1..=500).for_each(|ms| one.record(Duration::from_millis(ms)));
        (501..=1000).for_each(|ms| other.record(Duration::from_millis(ms)));
        one.add(&other);
        let Summary { p50, p99, p999, max } = one.summary();
        for (found, wanted) in [(p50, 500.0), (p99, 990.0), (p999, 999.0), (max, 1000.0)] {
            assert!((found - wanted).abs() <= wanted / 200.0, "{found} for {wanted}");
        }
        assert_eq!(one.count(), 1000);
    }

    #[test]
    fn none_is_zero_and_too_long_is_a_minute() {
        let latency = Latency::default();
        assert_eq!(latency.summary(), Summary::default());
        latency.record(Duration::MAX);
        assert!(latency.summary().max >= 60_000.0);
    }
}
