//! One run as a comparison stores it: the contender, the load and the result. Written as JSON as
//! soon as it ends; reports need nothing else.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::durations::{Durations, millis};
use crate::load::result::figures::Row;
use crate::load::result::run::{OnPath, Run, Site};

/// The version of the file format.
pub const FORMAT: u32 = 1;

/// All runs of a comparison.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// [`FORMAT`].
    pub format: u32,
    /// What is compared, as text.
    pub title: String,
    /// The version of the program that ran it.
    pub version: String,
    /// The machine, as text.
    pub machine: String,
    /// The text of the plan's file.
    pub config: String,
    /// The runs in the order in which they ran.
    pub runs: Vec<KeptRun>,
}

/// One run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KeptRun {
    /// The contender's name for lines and rows: its protocol, and what distinguishes it from others
    /// of the same protocol.
    pub who: String,
    /// The load.
    pub point: Point,
    /// The number of the repeat, from 1.
    pub repeat: u32,
    /// The seed of the load and the network.
    pub seed: u64,
    /// Whether time was virtual.
    pub virtual_time: bool,
    /// The result.
    pub outcome: KeptOutcome,
}

/// The result of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptOutcome {
    /// It was measured.
    Seen(Box<Seen>),
    /// It failed, for this reason.
    Failed(String),
}

/// A load under which protocols are compared.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Point {
    /// The percentage of commands that use a key shared by all clients.
    pub conflict_percent: f64,
    /// The rate or the number of clients.
    pub load: Demand,
    /// Whether a replica stops during the run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub crash: bool,
}

/// The rate or the number of clients.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// Clients at each site, each with one operation at a time.
    Clients(u32),
    /// Operations per second over all sites.
    Rate(f64),
}

impl Demand {
    /// The bare number.
    pub fn amount(self) -> f64 {
        match self {
            Demand::Clients(clients) => clients.into(),
            Demand::Rate(rate) => rate,
        }
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Demand::Clients(1) => write!(f, "1 client a site"),
            Demand::Clients(clients) => write!(f, "{clients} clients a site"),
            Demand::Rate(rate) => write!(f, "{rate} operations/s"),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}% conflicts, {}", self.conflict_percent, self.load)?;
        if self.crash { f.write_str(", a replica stops") } else { Ok(()) }
    }
}

/// The measurements of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The length of the counted time, in seconds.
    pub seconds: f64,
    /// Operations answered in that time.
    pub operations: u64,
    /// Operations without an answer.
    pub unanswered: u64,
    /// The share decided in one round trip, from 0 to 1.
    pub fast_share: Option<f64>,
    /// How many components of each size one replica executed.
    pub components: Vec<(u64, u64)>,
    /// CPU microseconds per operation, summed over all replicas.
    pub cpu_us: Option<f64>,
    /// CPU microseconds per operation of the busiest replica.
    pub busiest_cpu_us: Option<f64>,
    /// Bytes sent per operation, summed over all replicas.
    pub bytes: Option<f64>,
    /// Messages sent per operation, summed over all replicas.
    pub messages: Option<f64>,
    /// Messages sent and received per operation by the busiest replica.
    pub busiest: Option<f64>,
    /// Latencies at each site.
    pub sites: Vec<KeptSite>,
    /// Latencies over all sites.
    pub all: Latencies,
    /// Latencies of commands decided in one round trip, and of the others.
    #[serde(default)]
    pub paths: Paths,
    /// The replica that stopped.
    pub crash: Option<Stopped>,
    /// The course of the run in slices, including the warm-up.
    pub over_time: Vec<Slice>,
}

/// One site.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KeptSite {
    /// Its name.
    pub name: String,
    /// Lower bound for leaderless protocols at this site, in milliseconds. Meaningless on one
    /// machine.
    pub bound_ms: Option<f64>,
    /// Of its clients' commands; `None` if there are none, for example because the replica is down.
    pub latencies: Option<Latencies>,
}

/// Latencies of commands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Latencies {
    /// Until the decision was known at their site, if measured.
    pub commit: Option<Percentiles>,
    /// Until they were executed and answered there.
    pub execute: Percentiles,
}

/// Latencies by the path on which a command was decided.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Paths {
    /// Decided in one round trip; `None` if no command was.
    pub fast: Option<Latencies>,
    /// Decided in more round trips.
    pub slow: Option<Latencies>,
}

/// A distribution of durations.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Percentiles {
    /// The number of durations.
    pub count: u64,
    /// Their mean, in milliseconds.
    pub mean_ms: f64,
    /// The percentiles from 0 (minimum) to 100 (maximum), in milliseconds: 101 values.
    pub percentiles_ms: Vec<f64>,
    /// The 99.9th percentile, in milliseconds.
    pub p999_ms: f64,
}

/// A replica that stopped.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Stopped {
    /// The name of its site.
    pub site: String,
    /// Whether it was chosen because it led, or stood in for a leader.
    #[serde(default)]
    pub as_leader: bool,
    /// When it stopped, in seconds.
    pub at_s: f64,
    /// When it was back, in seconds; `None` if never.
    pub back_s: Option<f64>,
}

/// A part of a run's time.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Slice {
    /// When it ends, in seconds.
    pub at_s: f64,
    /// Answered operations per second.
    pub ops_s: f64,
    /// The median latency of operations answered in it, in milliseconds; `None` if there are none.
    pub p50_ms: Option<f64>,
    /// The longest latency of operations answered in it, in milliseconds.
    pub max_ms: Option<f64>,
}

impl Percentiles {
    /// `None` if there are no durations.
    fn of(durations: &Durations) -> Option<Percentiles> {
        let at = |share| durations.quantile_ms(share);
        (durations.count() > 0).then(|| Percentiles {
            count: durations.count(),
            mean_ms: millis(durations.mean()),
            percentiles_ms: (0..=100).map(|p| at(f64::from(p) / 100.0)).collect(),
            p999_ms: at(0.999),
        })
    }

    /// A percentile, from 0 to 100, in milliseconds.
    pub fn percentile_ms(&self, percentile: usize) -> f64 {
        self.percentiles_ms.get(percentile).copied().unwrap_or(f64::NAN)
    }
}

impl Latencies {
    /// `None` if there are no execution latencies.
    fn of(commit: &Durations, execute: &Durations) -> Option<Latencies> {
        Some(Latencies { commit: Percentiles::of(commit), execute: Percentiles::of(execute)? })
    }

    fn on(path: &OnPath) -> Option<Latencies> {
        Latencies::of(&path.commit, &path.execute)
    }
}

impl Seen {
    /// The measurements of a run over `time`, at sites with these names, cut into slices of equal
    /// length. `None` if no operation was answered.
    pub(super) fn of(
        run: &Run,
        names: &[String],
        time: Duration,
        crash: Option<Stopped>,
        (slice, count): (Duration, u32),
    ) -> Option<Seen> {
        let cluster = run.cluster.as_ref()?;
        let costs = run.costs.as_ref()?;
        let site = |(name, site): (&String, &Site)| KeptSite {
            name: name.clone(),
            bound_ms: site.lower_bound_ms,
            latencies: site.commit.as_ref().and_then(|it| Latencies::of(it, &site.latency)),
        };
        let each = |sum: u64| match costs.answered {
            0 => 0.0,
            answered => sum as f64 / answered as f64,
        };
        let counts = || costs.replicas.iter().map(|(counts, _)| counts);
        let micros = |cpu: Duration| {
            (!cpu.is_zero()).then(|| cpu.as_secs_f64() * 1e6 / costs.answered.max(1) as f64)
        };
        let cpu = || costs.replicas.iter().map(|(_, cpu)| *cpu);
        let share = cluster.commands;
        Some(Seen {
            seconds: time.as_secs_f64(),
            operations: run.answered,
            unanswered: run.unanswered as u64 + run.dropped,
            fast_share: (share.total() > 0).then(|| share.fast_share()),
            components: cluster.components.clone(),
            cpu_us: micros(cpu().sum()),
            busiest_cpu_us: micros(cpu().max().unwrap_or_default()),
            bytes: Some(each(counts().map(|it| it.bytes_out).sum())),
            messages: Some(each(counts().map(|it| it.frames_out).sum())),
            busiest: counts().map(|it| it.frames_out + it.frames_in).max().map(each),
            sites: names.iter().zip(&run.sites).map(site).collect(),
            all: Latencies::of(&cluster.commit, &run.latency)?,
            paths: Paths {
                fast: Latencies::on(&cluster.fast_path),
                slow: Latencies::on(&cluster.slow_path),
            },
            crash,
            over_time: slices(&run.series, slice, count),
        })
    }

    /// Answered operations per second.
    pub fn throughput(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    /// The size of the largest component.
    pub fn largest_component(&self) -> Option<u64> {
        self.components.iter().map(|(size, _)| *size).max()
    }
}

/// Cuts a run into `count` slices of equal length. A slice shows the interval that contains its
/// middle.
fn slices(series: &[Row], length: Duration, count: u32) -> Vec<Slice> {
    let slice = |index| {
        let middle = length * index + length / 2;
        let row = series.iter().find(|row| row.end > middle)?;
        let any = row.answers > 0;
        Some(Slice {
            at_s: f64::from(index + 1) * length.as_secs_f64(),
            ops_s: row.answers as f64 / row.length.as_secs_f64(),
            p50_ms: any.then_some(row.p50_ms),
            max_ms: any.then_some(row.max_ms),
        })
    };
    (0..count).map_while(slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::virtual_time::Exact;

    #[test]
    fn intervals_of_any_length_become_slices_of_one_and_silence_is_seen() {
        let ms = Duration::from_millis;
        let mut end = Duration::ZERO;
        let mut row = |length, took: &[u64]| {
            end += ms(length);
            let exact = Exact::new(took.iter().map(|took| ms(*took)).collect());
            Row::of(Duration::ZERO, end, ms(length), &exact.into(), 0, Vec::new())
        };
        let series = [
            row(100, &[5, 7, 9]),
            row(100, &[]),
            // A late interval: two slices show its rate.
            row(190, &[100; 38]),
            row(110, &[1; 11]),
            row(100, &[]),
        ];
        let slices = slices(&series, ms(100), 6);
        let rates: Vec<f64> = slices.iter().map(|slice| slice.ops_s).collect();
        // A cluster that stops answering stays silent to the end.
        assert_eq!(rates, [30.0, 0.0, 200.0, 200.0, 100.0, 0.0]);
        assert_eq!((slices[0].p50_ms, slices[0].max_ms), (Some(7.0), Some(9.0)));
        assert_eq!((slices[1].p50_ms, slices[1].at_s), (None, 0.2));
    }

    #[test]
    fn a_distribution_knows_its_percentiles() {
        let exact = Exact::new((1..=1_000).map(Duration::from_millis).collect());
        let spread = Percentiles::of(&exact.into()).expect("there are some");
        assert_eq!(spread.percentile_ms(50), 500.0);
        assert_eq!((spread.percentile_ms(100), spread.p999_ms), (1_000.0, 999.0));
        assert_eq!((spread.mean_ms, spread.count), (500.5, 1_000));
        assert_eq!(Percentiles::of(&Durations::default()), None);
    }
}
