//! The figures of a comparison and their spread over repeats. Reports show them, and two
//! comparisons are compared by them.

use super::kept::{Comparison, KeptOutcome, KeptRun, Point, Seen};
use crate::load::result::Spread;

/// A figure that a run has a value for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Figure {
    /// Answered operations per second.
    Throughput,
    /// A percentile of a latency, in milliseconds.
    Latency(Until, Of, usize),
    /// The share decided in one round trip, in per cent.
    FastShare,
    /// The size of the largest component.
    LargestComponent,
    /// CPU microseconds per operation, summed over all replicas.
    Cpu,
    /// CPU microseconds per operation of the busiest replica.
    BusiestCpu,
    /// Bytes sent per operation.
    Bytes,
    /// Messages sent per operation.
    Messages,
    /// Messages sent and received per operation by the busiest replica.
    Busiest,
}

/// The end of a latency, which begins with the client's call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// The decision.
    Commit,
    /// The answer, after execution.
    Execution,
}

/// The commands of a latency.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Of {
    /// All commands.
    All,
    /// Those of one site's clients.
    Site(usize),
    /// Those on the fast path (true), or off it.
    Path(bool),
}

/// The direction in which a figure improves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Better {
    /// Higher is better.
    Higher,
    /// Lower is better.
    Lower,
}

impl Figure {
    /// The figures over all sites, in the order of reports.
    pub const OVERALL: [Figure; 12] = [
        Figure::Throughput,
        Figure::execution(50),
        Figure::execution(99),
        Figure::Latency(Until::Commit, Of::All, 50),
        Figure::Latency(Until::Commit, Of::All, 99),
        Figure::FastShare,
        Figure::LargestComponent,
        Figure::Cpu,
        Figure::BusiestCpu,
        Figure::Bytes,
        Figure::Messages,
        Figure::Busiest,
    ];

    /// A percentile of the execution latency of all commands.
    pub const fn execution(percentile: usize) -> Figure {
        Figure::Latency(Until::Execution, Of::All, percentile)
    }

    /// The value in a run, if it was measured.
    pub fn of(self, seen: &Seen) -> Option<f64> {
        match self {
            Figure::Throughput => Some(seen.throughput()),
            Figure::Latency(until, of, percentile) => {
                let latencies = match of {
                    Of::All => Some(&seen.all),
                    Of::Site(site) => seen.sites.get(site)?.latencies.as_ref(),
                    Of::Path(true) => seen.paths.fast.as_ref(),
                    Of::Path(false) => seen.paths.slow.as_ref(),
                };
                let until = match until {
                    Until::Commit => latencies?.commit.as_ref()?,
                    Until::Execution => &latencies?.execute,
                };
                Some(until.percentile_ms(percentile))
            }
            Figure::FastShare => seen.fast_share.map(|share| 100.0 * share),
            Figure::LargestComponent => seen.largest_component().map(|size| size as f64),
            Figure::Cpu => seen.cpu_us,
            Figure::BusiestCpu => seen.busiest_cpu_us,
            Figure::Bytes => seen.bytes,
            Figure::Messages => seen.messages,
            Figure::Busiest => seen.busiest,
        }
    }

    /// The direction in which it improves.
    pub fn better(self) -> Better {
        match self {
            Figure::Throughput | Figure::FastShare => Better::Higher,
            _ => Better::Lower,
        }
    }

    /// The figure's name with its unit.
    pub fn name(self) -> String {
        match self {
            Figure::Throughput => "throughput (operations/s)".into(),
            Figure::Latency(until, of, percentile) => {
                let what = if until == Until::Commit { "commit" } else { "execution" };
                let of = match of {
                    Of::All => String::new(),
                    Of::Site(site) => format!(" at site {}", site + 1),
                    Of::Path(true) => " on the fast path".to_owned(),
                    Of::Path(false) => " on the slow path".to_owned(),
                };
                format!("{what} p{percentile}{of} (ms)")
            }
            Figure::FastShare => "fast path (%)".into(),
            Figure::LargestComponent => "largest component (instances)".into(),
            Figure::Cpu => "CPU (µs per operation)".into(),
            Figure::BusiestCpu => "busiest replica (µs of CPU per operation)".into(),
            Figure::Bytes => "sent (bytes per operation)".into(),
            Figure::Messages => "sent (messages per operation)".into(),
            Figure::Busiest => "busiest replica (messages per operation)".into(),
        }
    }
}

impl Comparison {
    /// The contenders, in order of first appearance.
    pub fn whos(&self) -> Vec<&str> {
        distinct(self.runs.iter().map(|run| &run.who[..]))
    }

    /// The loads, in order of first appearance.
    pub fn points(&self) -> Vec<Point> {
        distinct(self.runs.iter().map(|run| run.point))
    }

    /// The names of the sites, in order.
    pub fn sites(&self) -> Vec<&str> {
        let sites = self.seen().map(|(_, seen)| &seen.sites);
        let most = sites.max_by_key(|sites| sites.len());
        most.into_iter().flatten().map(|site| &site.name[..]).collect()
    }

    /// All runs that were measured.
    pub fn seen(&self) -> impl Iterator<Item = (&KeptRun, &Seen)> {
        self.runs.iter().filter_map(|run| match &run.outcome {
            KeptOutcome::Seen(seen) => Some((run, &**seen)),
            KeptOutcome::Failed(_) => None,
        })
    }

    /// The repeats of one contender under one load.
    pub fn repeats<'a>(&'a self, who: &'a str, point: Point) -> impl Iterator<Item = &'a Seen> {
        let same = move |(run, _): &(&KeptRun, &Seen)| run.who == who && run.point == point;
        self.seen().filter(same).map(|(_, seen)| seen)
    }

    /// The values of a figure in all these repeats.
    pub fn values(&self, who: &str, point: Point, figure: Figure) -> Vec<f64> {
        let values = self.repeats(who, point).filter_map(|seen| figure.of(seen));
        values.filter(|value| value.is_finite()).collect()
    }

    /// Their spread; `None` if there are none.
    pub fn range(&self, who: &str, point: Point, figure: Figure) -> Option<Spread> {
        Spread::of(&self.values(who, point, figure))
    }
}

/// Each value once, in order of first appearance.
pub(in crate::load) fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in all {
        if !distinct.contains(&one) {
            distinct.push(one);
        }
    }
    distinct
}
