//! The small parts of a result: spreads, events, rows of a series.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::load::durations::{Durations, Quantiles};
use crate::load::number::{median, number};

/// A figure over the repeats of a run.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Spread {
    /// The middle value, or the mean of the two middle ones.
    pub median: f64,
    /// The minimum.
    pub min: f64,
    /// The maximum.
    pub max: f64,
}

impl Spread {
    /// The spread of these values; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Spread> {
        (!values.is_empty()).then(|| Spread {
            median: median(values),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

impl fmt::Display for Spread {
    /// The median, with the extremes in brackets if they differ.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, min, max) = (number(self.median), number(self.min), number(self.max));
        match min == max {
            true => write!(f, "{median}"),
            false => write!(f, "{median} [{min}–{max}]"),
        }
    }
}

/// A fault that was carried out.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Event {
    /// When, in seconds after the warm-up.
    pub at_s: f64,
    /// The fault, as written in the schedule.
    pub what: String,
    /// The leader's number, if the fault targeted the leader.
    pub replica: Option<u8>,
    /// How long it took to carry out.
    pub took_s: f64,
    /// Why it failed, if it did.
    pub failed: Option<String>,
    /// The replica that it stopped, if any.
    #[serde(skip)]
    pub stop: Option<Stop>,
}

/// A replica that stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop {
    /// Its number.
    pub replica: u8,
    /// When, after the start.
    pub at: Duration,
    /// When it was back; `None` if never.
    pub back: Option<Duration>,
    /// Operations answered by then.
    pub answered: u64,
}

/// One interval of a time series.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// Its end, in seconds after the warm-up; negative during it.
    pub at_s: f64,
    /// Its length.
    pub seconds: f64,
    /// Answers per second.
    pub rate: f64,
    /// Operations that failed.
    pub errors: u64,
    /// The median latency of the answers in it.
    pub p50_ms: f64,
    /// The 99th percentile of their latency.
    pub p99_ms: f64,
    /// Their longest latency.
    pub max_ms: f64,
    /// Answers by replica; unknown in virtual time.
    pub by_site: Vec<u64>,
    /// Its end after the start, exact to the nanosecond.
    #[serde(skip)]
    pub end: Duration,
    /// Its length, exact to the nanosecond.
    #[serde(skip)]
    pub length: Duration,
    /// The number of answers in it.
    #[serde(skip)]
    pub answers: u64,
}

impl Row {
    /// The row of an interval with this `end` and `length`, and the latencies of its answers.
    pub(in crate::load) fn of(
        warm_up: Duration,
        end: Duration,
        length: Duration,
        answers: &Durations,
        errors: u64,
        by_site: Vec<u64>,
    ) -> Row {
        let Quantiles { count, p50, p99, max, .. } = Quantiles::of(answers);
        let at_s = end.as_secs_f64() - warm_up.as_secs_f64();
        let seconds = length.as_secs_f64().max(1e-9);
        Row {
            at_s: (at_s * 1e3).round() / 1e3,
            seconds: (seconds * 1e3).round() / 1e3,
            rate: (count as f64 / seconds * 10.0).round() / 10.0,
            errors,
            p50_ms: p50,
            p99_ms: p99,
            max_ms: max,
            by_site,
            end,
            length,
            answers: count,
        }
    }

    /// Whether it is in the counted time. The last row of the warm-up may end a little later.
    pub(in crate::load) fn counts(&self) -> bool {
        self.at_s > self.seconds / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_shows_only_where_there_is_one() {
        let shown = |values: &[f64]| Spread::of(values).expect("some values").to_string();
        assert_eq!(shown(&[70.5, 70.5]), "70.5");
        assert_eq!(shown(&[70.0, 72.0, 75.0]), "72 [70–75]");
        assert_eq!(Spread::of(&[]), None);
        let two = Spread { median: 2.5, min: 1.0, max: 4.0 };
        assert_eq!(Spread::of(&[4.0, 1.0]), Some(two), "of an even number, the mean of two");
    }
}
