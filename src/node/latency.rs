//! Distributions of durations, kept as counts instead of single values.

use std::fmt;
use std::time::Duration;

/// Counts durations in microseconds, up to [`Latency::LONGEST`]. With the feature `metrics` it
/// keeps them to three digits; without it, only their number, mean and maximum.
#[derive(Clone)]
pub struct Latency(Kept);

#[cfg(feature = "metrics")]
type Kept = hdrhistogram::Histogram<u64>;

#[cfg(not(feature = "metrics"))]
type Kept = Sums;

impl Latency {
    /// A longer duration counts as this one.
    pub const LONGEST: Duration = Duration::from_secs(600);

    /// Counts a duration.
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros.max(1));
    }

    /// Adds everything that `other` has counted.
    pub fn add(&mut self, other: &Latency) {
        self.0.add(&other.0).expect("all have the same range");
    }

    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The longest duration; zero if there are none.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    /// The mean duration; zero if there are none.
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean() / 1e6)
    }
}

#[cfg(feature = "metrics")]
impl Latency {
    /// Subtracts an earlier state of the same counter. If `other` is anything else, the result is
    /// meaningless.
    pub fn subtract(&mut self, other: &Latency) {
        let _ = self.0.subtract(&other.0);
    }

    /// The quantile for `share`, from 0 to 1; zero if there are no durations.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(share))
    }

    /// The histogram itself, in microseconds.
    #[cfg(feature = "load")]
    pub(crate) fn histogram(&self) -> &hdrhistogram::Histogram<u64> {
        &self.0
    }
}

impl fmt::Debug for Latency {
    /// Shows the figures that a person needs; the histogram has thousands of counters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Latency");
        shown.field("count", &self.count()).field("mean", &self.mean());
        #[cfg(feature = "metrics")]
        for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
            shown.field(name, &self.quantile(share));
        }
        shown.field("max", &self.max()).finish()
    }
}

impl Default for Latency {
    fn default() -> Latency {
        let longest = u64::try_from(Latency::LONGEST.as_micros()).unwrap_or(u64::MAX);
        let kept = Kept::new_with_bounds(1, longest, 3);
        Latency(kept.expect("these bounds are in order"))
    }
}

/// Replaces the histogram where it is not compiled, with the same methods.
#[cfg(not(feature = "metrics"))]
#[derive(Clone, Debug)]
struct Sums {
    most: u64,
    count: u64,
    total: u64,
    max: u64,
}

#[cfg(not(feature = "metrics"))]
impl Sums {
    fn new_with_bounds(
        _least: u64,
        most: u64,
        _digits: u8,
    ) -> Result<Sums, std::convert::Infallible> {
        Ok(Sums { most, count: 0, total: 0, max: 0 })
    }

    fn saturating_record(&mut self, value: u64) {
        let value = value.min(self.most);
        self.count += 1;
        self.total = self.total.saturating_add(value);
        self.max = self.max.max(value);
    }

    fn add(&mut self, other: &Sums) -> Result<(), std::convert::Infallible> {
        self.count += other.count;
        self.total = self.total.saturating_add(other.total);
        self.max = self.max.max(other.max);
        Ok(())
    }

    fn len(&self) -> u64 {
        self.count
    }

    fn max(&self) -> u64 {
        self.max
    }

    fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.total as f64 / self.count as f64 }
    }
}

#[cfg(test)]
#[cfg(feature = "metrics")]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_can_be_taken_away() {
        let mut latency = Latency::default();
        latency.record(Duration::from_millis(900));
        let before = latency.clone();
        latency.record(Duration::from_millis(5));
        latency.subtract(&before);
        assert_eq!(latency.count(), 1);
        assert!(latency.max() < Duration::from_millis(6), "{:?}", latency.max());
    }

    #[test]
    fn latencies_are_kept_to_three_digits_and_never_refused() {
        let mut latency = Latency::default();
        assert_eq!((latency.max(), latency.count()), (Duration::ZERO, 0));
        for took in [Duration::ZERO, Duration::from_millis(20), Duration::MAX] {
            latency.record(took);
        }
        assert_eq!(latency.count(), 3);
        let middle = latency.quantile(0.5).as_secs_f64();
        assert!((middle / 0.020 - 1.0).abs() < 0.001, "{middle}");
        assert!(latency.max() >= Latency::LONGEST);
    }

    #[test]
    fn what_is_shown_of_many_fits_in_a_line() {
        let mut latency = Latency::default();
        for millis in 1..=1_000 {
            latency.record(Duration::from_millis(millis));
        }
        let shown = format!("{latency:?}");
        assert!(shown.starts_with("Latency { count: 1000, mean: 500."), "{shown}");
        let names = ["p50: 500.", "p90: 90", "p99: 99", "max: 1."];
        assert!(names.iter().all(|name| shown.contains(name)), "{shown}");
        assert!(shown.len() < 120, "{shown}");
    }
}

#[cfg(test)]
#[cfg(not(feature = "metrics"))]
mod tests {
    use super::*;

    #[test]
    fn number_mean_and_maximum_are_kept() {
        let mut latency = Latency::default();
        assert_eq!((latency.mean(), latency.max()), (Duration::ZERO, Duration::ZERO));
        latency.record(Duration::from_millis(1));
        latency.record(Duration::from_millis(5));
        assert_eq!(latency.count(), 2);
        assert_eq!(latency.mean(), Duration::from_millis(3));
        assert_eq!(latency.max(), Duration::from_millis(5));
        let mut all = Latency::default();
        all.record(Duration::MAX);
        all.add(&latency);
        assert_eq!((all.count(), all.max()), (3, Latency::LONGEST));
    }
}
