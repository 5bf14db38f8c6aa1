//! What a run showed, as one value: printed as a table for people, or as JSON for programs. The
//! last stop of a run.

use std::fmt;

use serde::Serialize;

use crate::load::number::{grouped, rounded};
use crate::load::result::Checked;
use crate::node::{FastSlow, Latency};

/// What a run showed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The version of this program.
    pub version: &'static str,
    /// The agreement protocol.
    pub protocol: &'static str,
    /// How many replicas the cluster has.
    pub replicas: usize,
    /// What was asked for.
    pub config: Config,
    /// How long the clients asked; less than planned when they were interrupted.
    pub seconds: f64,
    /// Whether the run was ended early.
    pub interrupted: bool,
    /// Operations answered in that time.
    pub operations: u64,
    /// Operations a second.
    pub throughput_ops_s: f64,
    /// From the call at a replica to the commit of its instance, for each command.
    pub commit_ms: Summary,
    /// From a client's call, wherever it had to ask, to its answer, which comes after execution.
    pub execute_ms: Summary,
    /// The share of commands that were committed after one round trip, from 0 to 1.
    pub fast_path_share: f64,
    /// Instances proposed; a batch of commands is one.
    pub instances: u64,
    /// Instances that took more than one round trip, mostly for a conflict.
    pub conflicts: u64,
    /// Recoveries begun, at any replica.
    pub recoveries: u64,
    /// Commands proposed again because their instance was decided to be empty.
    pub resubmitted: u64,
    /// Instances in the largest component executed.
    pub largest_component: usize,
    /// The replica that was crashed.
    pub crash: Option<Crash>,
    /// The same, for each replica.
    pub per_replica: Vec<PerReplica>,
    /// Operations that had no answer in the end, though a majority lives.
    pub unanswered: usize,
    /// What the replicas' logs did; null if they keep their records in memory.
    pub log: Option<Flushing>,
    /// Whether all live replicas hold the same state; null if they did not come to rest.
    pub digests_equal: Option<bool>,
    /// Whether the recorded history is linearizable; null if that could not be decided.
    pub linearizable: Option<bool>,
    /// What that was decided on.
    pub history: Checked,
    /// What went wrong, in words; empty when all is well.
    pub failures: Vec<String>,
}

/// What was asked for.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Config {
    /// For how long.
    pub seconds: f64,
    /// Clients at each replica, each with one operation under way.
    pub clients: u32,
    /// The share of commands on the hot key, in per cent.
    pub conflict_percent: f64,
    /// The share of `get`, in per cent.
    pub read_percent: f64,
    /// The length of values.
    pub value_bytes: usize,
    /// The seed of the workload.
    pub seed: u64,
    /// What a vote had to survive: `fsync`, `os` or `memory`.
    pub durability: &'static str,
    /// Whether commits were answered before they were durable; of no meaning in memory.
    pub silent_orphans: bool,
    /// How many slots were reserved at a time for proposals to leave before they were durable, 0
    /// for none; likewise.
    pub reserved_slots: u64,
    /// The sites of the emulated wide area.
    pub sites: Option<Vec<String>>,
}

/// What the logs of all replicas together did.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Flushing {
    /// How often one wrote records and, with `fsync`, flushed.
    pub flushes: u64,
    /// The same for 1,000 operations, at all replicas together.
    pub flushes_per_1000: f64,
    /// Bytes that one flush covered.
    pub bytes_per_flush: f64,
    /// Bytes written for an operation, at all replicas together.
    pub bytes_per_operation: f64,
    /// From a record to the news that it is durable.
    pub durable_ms: Summary,
}

/// A crash, and what it cost.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Crash {
    /// The replica that was stopped at once and for good.
    pub replica: u8,
    /// When, in seconds after the start.
    pub at_s: f64,
    /// Operations a second before.
    pub before_ops_s: f64,
    /// Operations a second from then on.
    pub after_ops_s: f64,
}

/// One replica's part.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PerReplica {
    /// Its number.
    pub replica: u8,
    /// Where it stands, in an emulated wide area.
    pub site: Option<String>,
    /// Whether it was crashed.
    pub crashed: bool,
    /// Operations of this replica's clients, wherever they were answered in the end.
    pub operations: u64,
    /// As for all.
    pub commit_ms: Summary,
    /// As for all.
    pub execute_ms: Summary,
    /// As for all.
    pub fast_path_share: f64,
    /// In an emulated wide area: the round trip to the nearest fast quorum.
    pub lower_bound_ms: Option<f64>,
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

impl Summary {
    /// The figures of these latencies.
    pub fn of(latency: &Latency) -> Summary {
        let millis = |took: std::time::Duration| (took.as_secs_f64() * 1e6).round() / 1e3;
        let at = |share| millis(latency.quantile(share));
        Summary { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: millis(latency.max()) }
    }
}

/// The share of the fast path, rounded for reading.
pub(super) fn share(commands: FastSlow) -> f64 {
    (commands.fast_share() * 1e4).round() / 1e4
}

impl Report {
    /// Whether everything that was checked is as it has to be.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_head(f)?;
        self.fmt_table(f)?;
        self.fmt_counts(f)?;
        self.fmt_checks(f)
    }
}

impl Report {
    fn fmt_head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { clients, conflict_percent, read_percent, value_bytes, .. } = self.config;
        writeln!(
            f,
            "isonomy {} · {} · {} replicas · {clients} clients at each\n{conflict_percent}% on one \
             key, {read_percent}% reads, {value_bytes}-byte values",
            self.version, self.protocol, self.replicas,
        )?;
        let early = if self.interrupted { " (interrupted)" } else { "" };
        writeln!(
            f,
            "{} operations in {:.1} s{early}: {} operations/s",
            grouped(self.operations),
            self.seconds,
            rounded(self.throughput_ops_s),
        )?;
        if let Some(Crash { replica, at_s, before_ops_s, after_ops_s }) = self.crash {
            let [before, after] = [before_ops_s, after_ops_s].map(rounded);
            writeln!(
                f,
                "replica {replica} was crashed after {at_s:.1} s: {before} operations/s before, \
                 {after} after"
            )?;
        }
        writeln!(f)
    }

    /// At most 80 columns, as long as sites have short names.
    fn fmt_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_wide = self.config.sites.is_some();
        let bound_title = if is_wide { " bound" } else { "" };
        writeln!(f, "{:<7}{:>10}│{:^24}│{:^24}│  fast", "", "", "commit, ms", "execute, ms")?;
        let columns = format!("{:>6}{:>6}{:>6}{:>6}", "p50", "p99", "p99.9", "max");
        writeln!(f, "{:<7}{:>10}│{columns}│{columns}│  path{bound_title}", "replica", "ops")?;
        for part in &self.per_replica {
            let site = part.site.as_deref().unwrap_or_default();
            let mark = if part.crashed { "†" } else { "" };
            let name = format!("{}{mark} {site}", part.replica);
            write!(f, "{name:<7}{:>10}│", grouped(part.operations))?;
            write!(f, "{}│{}│", Row(part.commit_ms), Row(part.execute_ms))?;
            write!(f, "{:>5.1}%", part.fast_path_share * 100.0)?;
            match part.lower_bound_ms {
                Some(bound) => writeln!(f, "{bound:>6.1}")?,
                None => writeln!(f)?,
            }
        }
        write!(f, "{:<7}{:>10}│", "all", grouped(self.operations))?;
        write!(f, "{}│{}│", Row(self.commit_ms), Row(self.execute_ms))?;
        writeln!(f, "{:>5.1}%", self.fast_path_share * 100.0)?;
        if is_wide {
            writeln!(f, "bound: the round trip to the nearest fast quorum, ms")?;
        }
        writeln!(f)
    }

    fn fmt_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { instances, conflicts, recoveries, resubmitted, .. } = self;
        writeln!(f, "instances            {}", grouped(*instances))?;
        writeln!(f, "  not on fast path   {}", grouped(*conflicts))?;
        writeln!(f, "recoveries           {}", grouped(*recoveries))?;
        writeln!(f, "proposed again       {}", grouped(*resubmitted))?;
        writeln!(f, "largest component    {}", self.largest_component)?;
        if let Some(log) = &self.log {
            let Flushing { flushes, flushes_per_1000, bytes_per_flush, .. } = *log;
            let (mode, p50) = (self.config.durability, log.durable_ms.p50);
            writeln!(f, "log ({mode})")?;
            writeln!(f, "  flushes            {}", grouped(flushes))?;
            writeln!(f, "  for 1,000 commands {flushes_per_1000:.1}")?;
            writeln!(f, "  bytes for each     {}", rounded(bytes_per_flush))?;
            writeln!(f, "  durable after      {p50:.2} ms (median)")?;
        }
        writeln!(f)
    }

    fn fmt_checks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |is: Option<bool>| match is {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "unknown",
        };
        let Checked { operations, keys, one_key_in } = self.history;
        writeln!(f, "same state at all live replicas   {}", word(self.digests_equal))?;
        write!(f, "history linearizable              {}", word(self.linearizable))?;
        let share = match one_key_in {
            1 => "all".to_owned(),
            many => format!("one key in {many}, with all its operations"),
        };
        let [operations, keys] = [operations, keys].map(|count| grouped(count as u64));
        writeln!(f, " ({operations} operations on {keys} keys: {share})")?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "FAILED: {failure}"))
    }
}

/// Four figures of a row.
struct Row(Summary);

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { p50, p99, p999, max } = self.0;
        let figure = |ms: f64| match ms {
            ..10.0 => format!("{ms:.2}"),
            ..1000.0 => format!("{ms:.1}"),
            _ => format!("{ms:.0}"),
        };
        let [p50, p99, p999, max] = [p50, p99, p999, max].map(figure);
        write!(f, "{p50:>6}{p99:>6}{p999:>6}{max:>6}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn figures_are_in_milliseconds() {
        let mut latency = Latency::default();
        (1..=1_000).for_each(|ms| latency.record(Duration::from_millis(ms)));
        let Summary { p50, p99, p999, max } = Summary::of(&latency);
        for (found, wanted) in [(p50, 500.0), (p99, 990.0), (p999, 999.0), (max, 1_000.0)] {
            assert!((found - wanted).abs() <= wanted / 500.0, "{found} for {wanted}");
        }
        assert_eq!(Summary::of(&Latency::default()), Summary::default());
    }

    #[test]
    fn a_row_has_the_columns_of_its_title() {
        let row = Row(Summary { p50: 0.123, p99: 9.876, p999: 1_234.5, max: 12_345.6 }).to_string();
        assert_eq!(row, "  0.12  9.88  1234 12346");
    }
}
