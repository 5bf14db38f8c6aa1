//! The small figures that an outcome is made of: quantiles, spreads, rows of a series.

use std::time::Duration;

use serde::Serialize;

use crate::load::driver::Recent;
use crate::node::Latency;

/// A figure over all runs.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Spread {
    /// The one in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of at least one figure.
    pub(super) fn of(mut all: Vec<f64>) -> Spread {
        all.sort_by(f64::total_cmp);
        let at = |index: usize| all.get(index).copied().unwrap_or_default();
        Spread { median: at(all.len() / 2), min: at(0), max: at(all.len().saturating_sub(1)) }
    }
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Quantiles {
    /// How many there are.
    pub count: u64,
    /// Half are no longer.
    pub p50: f64,
    /// 90 of 100.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// 9,999 of 10,000.
    pub p9999: f64,
    /// The longest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

impl Quantiles {
    /// Those of these latencies.
    pub fn of(latency: &Latency) -> Quantiles {
        let at = |share| millis(latency.quantile(share));
        Quantiles {
            count: latency.count(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: millis(latency.max()),
            mean: millis(latency.mean()),
        }
    }
}

fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

/// A fault, as it came about.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Event {
    /// When, in seconds after the warm-up.
    pub at_s: f64,
    /// What, in the words of the schedule.
    pub what: String,
    /// Who the leader was, if it was about the leader.
    pub replica: Option<u8>,
    /// How long it took to do.
    pub took_s: f64,
    /// Why it could not be done.
    pub failed: Option<String>,
}

/// One interval.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// Its end, in seconds after the warm-up; negative during it.
    pub at_s: f64,
    /// Its length.
    pub seconds: f64,
    /// Answers a second.
    pub rate: f64,
    /// Operations that failed.
    pub errors: u64,
    /// Of the answers that came in it.
    pub p50_ms: f64,
    /// Likewise.
    pub p99_ms: f64,
    /// Likewise.
    pub max_ms: f64,
    /// Answers by replica.
    pub by_site: Vec<u64>,
}

impl Row {
    pub(in crate::load) fn of(at_s: f64, seconds: f64, recent: &Recent, by_site: Vec<u64>) -> Row {
        let Quantiles { count, p50, p99, max, .. } = Quantiles::of(&recent.latency);
        Row {
            at_s: (at_s * 1e3).round() / 1e3,
            seconds: (seconds * 1e3).round() / 1e3,
            rate: (count as f64 / seconds * 10.0).round() / 10.0,
            errors: recent.errors,
            p50_ms: p50,
            p99_ms: p99,
            max_ms: max,
            by_site,
        }
    }

    /// Whether it is of the time that counts. The warm-up's last row may end a little after it.
    pub(in crate::load) fn counts(&self) -> bool {
        self.at_s > self.seconds / 2.0
    }
}
