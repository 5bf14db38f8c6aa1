//! Shows a run of the demo: a table for people, or JSON for programs.

use std::fmt;

use serde::Serialize;

use super::text::word;
use crate::load::driver::Pace;
use crate::load::durations::Durations;
use crate::load::number::{grouped, rounded};
use crate::load::result::run::{Cluster, Run, Site, rounded_share};
use crate::load::result::verify::Checked;
use crate::load::scenario::{LocalTarget, Scenario, Target};
use crate::load::workload::{Keys, Sort};
use crate::node::Durability;

/// The report of a demo run. Times are in milliseconds unless the name says otherwise.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report<'a> {
    version: &'static str,
    protocol: &'static str,
    replicas: usize,
    config: Config<'a>,
    seconds: f64,
    interrupted: bool,
    operations: u64,
    throughput_ops_s: f64,
    commit_ms: Summary,
    /// From a client's call, at whichever replica, to its answer, which comes after execution.
    execute_ms: Summary,
    fast_path_share: f64,
    instances: u64,
    conflicts: u64,
    recoveries: u64,
    resubmitted: u64,
    largest_component: u64,
    crash: Option<Crash>,
    per_replica: Vec<PerReplica<'a>>,
    unanswered: usize,
    /// Null if the replicas keep their records in memory.
    log: Option<Flushing>,
    digests_equal: Option<bool>,
    linearizable: Option<bool>,
    history: Checked,
    failures: &'a [String],
}

/// The settings.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Config<'a> {
    seconds: f64,
    clients: u32,
    conflict_percent: f64,
    read_percent: f64,
    value_bytes: usize,
    seed: u64,
    durability: &'static str,
    silent_orphans: bool,
    reserved_slots: u64,
    sites: Option<&'a [String]>,
}

/// Figures of all replicas' logs together.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
struct Flushing {
    flushes: u64,
    flushes_per_1000: f64,
    bytes_per_flush: f64,
    bytes_per_operation: f64,
    durable_ms: Summary,
}

/// A crash and its effect.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
struct Crash {
    replica: u8,
    at_s: f64,
    before_ops_s: f64,
    after_ops_s: f64,
}

/// One replica's figures.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct PerReplica<'a> {
    replica: usize,
    site: Option<&'a str>,
    crashed: bool,
    /// Of this replica's clients, whichever replica answered in the end.
    operations: u64,
    commit_ms: Summary,
    execute_ms: Summary,
    fast_path_share: f64,
    lower_bound_ms: Option<f64>,
}

/// The figures shown of a distribution; all zero if it is empty.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
struct Summary {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Summary {
    fn of(durations: &Durations) -> Summary {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| durations.quantile_ms(share));
        Summary { p50, p99, p999, max: durations.max_ms() }
    }
}

impl<'a> Report<'a> {
    /// The report of a run of this scenario, if its cluster was started for it.
    pub fn of(scenario: &'a Scenario, run: &'a Run) -> Option<Report<'a>> {
        let (Target::Local(target), Some(cluster)) = (&scenario.target, &run.cluster) else {
            return None;
        };
        let (operations, counts) = (run.answered_in_time, &cluster.counts);
        let crash = run.events.iter().find_map(|event| event.stop);
        let part = |site: &'a Site| PerReplica {
            replica: site.replica,
            site: site.site.as_deref(),
            crashed: crash.is_some_and(|stop| usize::from(stop.replica) == site.replica),
            operations: site.latency.count(),
            commit_ms: site.commit.as_ref().map(Summary::of).unwrap_or_default(),
            execute_ms: Summary::of(&site.latency),
            fast_path_share: rounded_share(site.commands.unwrap_or_default()),
            lower_bound_ms: site.lower_bound_ms,
        };
        Some(Report {
            version: env!("CARGO_PKG_VERSION"),
            protocol: target.protocol.name(),
            replicas: target.replicas,
            config: Config::of(scenario, target),
            seconds: run.seconds,
            interrupted: run.interrupted,
            operations,
            throughput_ops_s: (operations as f64 / run.seconds).round(),
            commit_ms: Summary::of(&cluster.commit),
            execute_ms: Summary::of(&run.latency),
            fast_path_share: rounded_share(cluster.commands),
            instances: counts.instances,
            conflicts: counts.slow_instances,
            recoveries: counts.recoveries,
            resubmitted: counts.resubmitted,
            largest_component: cluster.largest_component(),
            crash: crash.map(|stop| {
                let at_s = stop.at.as_secs_f64();
                let after = (operations - stop.answered) as f64;
                Crash {
                    replica: stop.replica,
                    at_s,
                    before_ops_s: (stop.answered as f64 / at_s).round(),
                    after_ops_s: (after / (run.seconds - at_s)).round(),
                }
            }),
            per_replica: run.sites.iter().map(part).collect(),
            unanswered: run.unanswered,
            log: (target.durability != Durability::Memory)
                .then(|| Flushing::of(cluster, operations)),
            digests_equal: run.digests_equal,
            linearizable: run.linearizable,
            history: run.history.unwrap_or_default(),
            failures: &run.failures,
        })
    }
}

impl Config<'_> {
    fn of<'a>(scenario: &'a Scenario, target: &'a LocalTarget) -> Config<'a> {
        let workload = &scenario.plan.workload;
        Config {
            seconds: scenario.duration.unwrap_or_default().as_secs_f64(),
            clients: match scenario.plan.pace {
                Pace::Closed { clients, .. } => clients,
                Pace::Open { outstanding, .. } => outstanding,
            },
            conflict_percent: match workload.keys {
                Keys::Conflict { percent, .. } => percent,
                _ => 100.0,
            },
            read_percent: workload.mix.share(Sort::Get),
            value_bytes: workload.values.most(),
            seed: workload.seed,
            durability: match target.durability {
                Durability::Fsync => "fsync",
                Durability::Os => "os",
                _ => "memory",
            },
            silent_orphans: target.optimisations.silent_orphans,
            reserved_slots: target.optimisations.reserved_slots,
            sites: target.area.as_ref().map(|area| &area.sites[..target.replicas]),
        }
    }
}

impl Flushing {
    fn of(cluster: &Cluster, operations: u64) -> Flushing {
        let (flushes, bytes) = (cluster.counts.flushes, cluster.counts.log_bytes);
        let ratio = |of: u64, to: u64| if to == 0 { 0.0 } else { of as f64 / to as f64 };
        Flushing {
            flushes,
            flushes_per_1000: (ratio(flushes, operations) * 1e6).round() / 1e3,
            bytes_per_flush: ratio(bytes, flushes).round(),
            bytes_per_operation: ratio(bytes, operations).round(),
            durable_ms: Summary::of(&cluster.durable),
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_head(f)?;
        self.fmt_table(f)?;
        self.fmt_counts(f)?;
        self.fmt_checks(f)
    }
}

impl Report<'_> {
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

    /// At most 80 columns if sites have short names.
    fn fmt_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_wide = self.config.sites.is_some();
        let bound_title = if is_wide { " bound" } else { "" };
        writeln!(f, "{:<7}{:>10}│{:^24}│{:^24}│  fast", "", "", "commit, ms", "execute, ms")?;
        let columns = format!("{:>6}{:>6}{:>6}{:>6}", "p50", "p99", "p99.9", "max");
        writeln!(f, "{:<7}{:>10}│{columns}│{columns}│  path{bound_title}", "replica", "ops")?;
        for part in &self.per_replica {
            let site = part.site.unwrap_or_default();
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

/// Four figures of one row.
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
    use crate::load::result::figures::{Event, Stop};
    use crate::load::result::tally::Counts;
    use crate::load::workload::Workload;
    use crate::node::FastSlow;
    use crate::protocol::ProtocolKind;
    use crate::sim::virtual_time::Exact;
    use crate::types::{Optimisations, ReplicaId};

    fn ms(all: &[u64]) -> Durations {
        Exact::new(all.iter().map(|ms| Duration::from_millis(*ms)).collect()).into()
    }

    /// Two replicas with disks; the second stops half-way.
    fn scenario() -> Scenario {
        let cluster = LocalTarget {
            protocol: ProtocolKind::EPaxos,
            replicas: 2,
            leader: None,
            area: None,
            durability: Durability::Os,
            optimisations: Optimisations { silent_orphans: true, reserved_slots: 64 },
            data_dir: None,
        };
        let crash = ReplicaId::new(2);
        Scenario::demo(cluster, Workload::default(), 8, Duration::from_secs(4), crash)
    }

    fn run() -> Run {
        let commands = FastSlow { fast: 3, slow: 1 };
        let site = |replica| Site {
            replica,
            latency: ms(&[2, 20, 2_000]),
            commit: Some(ms(&[1, 10])),
            commands: Some(commands),
            ..Site::default()
        };
        let stop = Stop { replica: 2, at: Duration::from_secs(2), back: None, answered: 3_000 };
        Run {
            seconds: 4.0,
            answered_in_time: 4_000,
            latency: ms(&[2, 20, 2_000]),
            sites: vec![site(1), site(2)],
            cluster: Some(Cluster {
                commit: ms(&[1, 10]),
                commands,
                counts: Counts {
                    instances: 1_200,
                    slow_instances: 12,
                    recoveries: 3,
                    resubmitted: 1,
                    flushes: 500,
                    log_bytes: 100_000,
                    ..Counts::default()
                },
                durable: ms(&[3]),
                components: vec![(7, 1)],
                ..Cluster::default()
            }),
            events: vec![Event { stop: Some(stop), ..Event::default() }],
            linearizable: Some(true),
            digests_equal: None,
            history: Some(Checked { operations: 4_000, keys: 9, one_key_in: 2 }),
            failures: vec!["it did not come to rest".to_owned()],
            ..Run::default()
        }
    }

    #[test]
    fn people_get_a_table() {
        let (scenario, run) = (scenario(), run());
        let shown = Report::of(&scenario, &run).expect("a cluster of its own").to_string();
        let (_, shown) = shown.split_once('·').expect("the version first");
        let wanted = " epaxos · 2 replicas · 8 clients at each
2% on one key, 30% reads, 16-byte values
4,000 operations in 4.0 s: 1,000 operations/s
replica 2 was crashed after 2.0 s: 1,500 operations/s before, 500 after

                 │       commit, ms       │      execute, ms       │  fast
replica       ops│   p50   p99 p99.9   max│   p50   p99 p99.9   max│  path
1               3│  1.00  10.0  10.0  10.0│  20.0  2000  2000  2000│ 75.0%
2†              3│  1.00  10.0  10.0  10.0│  20.0  2000  2000  2000│ 75.0%
all         4,000│  1.00  10.0  10.0  10.0│  20.0  2000  2000  2000│ 75.0%

instances            1,200
  not on fast path   12
recoveries           3
proposed again       1
largest component    7
log (os)
  flushes            500
  for 1,000 commands 125.0
  bytes for each     200
  durable after      3.00 ms (median)

same state at all live replicas   unknown
history linearizable              yes (4,000 operations on 9 keys: one key in 2, with all its \
                      operations)
FAILED: it did not come to rest
";
        assert_eq!(shown, wanted);
    }

    #[test]
    fn programs_get_the_fields_that_they_know_in_their_order() {
        let (scenario, run) = (scenario(), run());
        let report = Report::of(&scenario, &run).expect("a cluster of its own");
        let json = serde_json::to_string(&report).expect("it has a JSON form");
        let commit = r#"{"p50":1.0,"p99":10.0,"p999":10.0,"max":10.0}"#;
        let execute = r#"{"p50":20.0,"p99":2000.0,"p999":2000.0,"max":2000.0}"#;
        let part = |replica, crashed| {
            format!(r#"{{"replica":{replica},"site":null,"crashed":{crashed},"operations":3,"#,)
                + &format!(r#""commit_ms":{commit},"execute_ms":{execute},"#)
                + r#""fast_path_share":0.75,"lower_bound_ms":null}"#
        };
        let wanted = [
            concat!(r#"{"version":""#, env!("CARGO_PKG_VERSION"), r#"","protocol":"epaxos","#),
            r#""replicas":2,"config":{"seconds":4.0,"clients":8,"conflict_percent":2.0,"#,
            r#""read_percent":30.0,"value_bytes":16,"seed":1,"durability":"os","#,
            r#""silent_orphans":true,"reserved_slots":64,"sites":null},"seconds":4.0,"#,
            r#""interrupted":false,"operations":4000,"throughput_ops_s":1000.0,"#,
            &format!(r#""commit_ms":{commit},"execute_ms":{execute},"fast_path_share":0.75,"#),
            r#""instances":1200,"conflicts":12,"recoveries":3,"resubmitted":1,"#,
            r#""largest_component":7,"crash":{"replica":2,"at_s":2.0,"before_ops_s":1500.0,"#,
            r#""after_ops_s":500.0},"per_replica":["#,
            &part(1, false),
            ",",
            &part(2, true),
            r#"],"unanswered":0,"log":{"flushes":500,"flushes_per_1000":125.0,"#,
            r#""bytes_per_flush":200.0,"bytes_per_operation":25.0,"#,
            r#""durable_ms":{"p50":3.0,"p99":3.0,"p999":3.0,"max":3.0}},"#,
            r#""digests_equal":null,"linearizable":true,"#,
            r#""history":{"operations":4000,"keys":9,"one_key_in":2},"#,
            r#""failures":["it did not come to rest"]}"#,
        ];
        assert_eq!(json, wanted.concat());
    }

    #[test]
    fn a_row_has_the_columns_of_its_title() {
        let row = Row(Summary { p50: 0.123, p99: 9.876, p999: 1_234.5, max: 12_345.6 }).to_string();
        assert_eq!(row, "  0.12  9.88  1234 12346");
    }
}
