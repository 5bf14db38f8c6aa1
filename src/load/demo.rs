//! The demo: a whole cluster in this process under load, one replica crashed half-way, and a check
//! of everything that was answered. It joins what the other files have: `drive` on a
//! [`LocalCluster`], then `record` to the checker, then `report`.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use super::driver::{Drive, Driven, Figures, Pace, Plan};
use super::report::{Config, Crash, Flushing, PerReplica, Report, Summary, share};
use super::workload::{BadWorkload, Keys};
use crate::load::driver::record::Finished;
use crate::load::result::verify::judge;
use crate::load::scenario::wide_area::WideArea;
use crate::machine::Kv;
use crate::node::{
    Durability, FastSlow, Latency, LocalCluster, Metrics, Optimisations, Replica, StartError,
};
use crate::protocol::ProtocolKind;
use crate::types::{Quorums, UnsupportedSize};

/// Between two looks at the clients.
const LOOK: Duration = Duration::from_millis(100);

/// How long operations may take to be answered once the clients have been told to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// What to show.
#[derive(Clone, PartialEq, Debug)]
pub struct Scenario {
    /// What they run.
    pub protocol: ProtocolKind,
    /// How many replicas.
    pub replicas: usize,
    /// For how long.
    pub time: Duration,
    /// Who asks what.
    pub plan: Plan,
    /// Whether to crash the last replica half-way. Of fewer than three replicas none can be spared.
    pub crash: bool,
    /// Where the replicas stand, unless it is side by side.
    pub wide_area: Option<WideArea>,
    /// What the replicas' votes have to survive.
    pub durability: Durability,
    /// How they are spared waiting for that.
    pub optimisations: Optimisations,
    /// Where they are kept, unless that is in memory: below here, one directory a replica.
    pub data_dir: Option<PathBuf>,
}

/// A demo that cannot be held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The workload.
    #[error(transparent)]
    Workload(#[from] BadWorkload),
    /// No clients, or more than can be numbered.
    #[error("{0} clients at each replica: take between 1 and 10000")]
    Clients(u32),
    /// No time.
    #[error("{0:?} is no time to run for: take between 0.1 and 86400 seconds")]
    Time(Duration),
    /// The number of replicas.
    #[error(transparent)]
    Size(#[from] UnsupportedSize),
    /// More replicas than sites.
    #[error("{replicas} replicas, but the wide area has {sites} sites: take fewer, or add sites")]
    Sites {
        /// The replicas.
        replicas: usize,
        /// The sites.
        sites: usize,
    },
    /// The cluster does not start.
    #[error("the cluster does not start: {0}")]
    Start(#[from] StartError),
}

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Progress {
    /// Since its start.
    pub elapsed: Duration,
    /// Operations answered.
    pub operations: u64,
    /// The replica that was crashed, if one was.
    pub crashed: Option<u8>,
}

/// Holds the demo, in the tokio runtime this is called in. `watch` is told how it goes, ten times a
/// second; when `interrupt` completes, the clients stop early.
///
/// # Errors
/// When the scenario makes no sense or the cluster does not start. What goes wrong under load is in
/// the report.
pub async fn run(
    scenario: &Scenario,
    watch: impl FnMut(Progress),
    interrupt: impl Future<Output = ()>,
) -> Result<(Report, Finished), DemoError> {
    let quorums = scenario.check()?;
    let mut cluster = LocalCluster::<Kv>::builder(scenario.replicas);
    let (protocol, optimisations) = (scenario.protocol, scenario.optimisations);
    cluster =
        cluster.configure(move |replica| replica.protocol(protocol).optimisations(optimisations));
    if let Some(dir) = &scenario.data_dir {
        cluster = cluster.data_dirs(dir, scenario.durability);
    }
    if let Some(area) = &scenario.wide_area {
        cluster = cluster.wan(area.control(scenario.plan.workload.seed));
    }
    let cluster = cluster.start().await?;
    let drive = Drive::start(&scenario.plan, cluster.replicas().to_vec(), 1);
    let can_crash = scenario.crash && quorums.f > 0;
    let (early, crash) = load(scenario, &cluster, &drive, can_crash, watch, interrupt).await;
    let driven = drive.finish(PATIENCE).await;
    let digests = match cluster.digests().await {
        Ok(digests) => Ok(digests.into_values().collect::<BTreeSet<u64>>().len() == 1),
        Err(unsettled) => Err(unsettled.to_string()),
    };
    let mut metrics = Vec::new();
    for replica in cluster.replicas() {
        metrics.push(replica.metrics().await);
    }
    cluster.shutdown().await;
    let finished = driven.record.finish();
    let report = Summing { scenario, driven: &driven, metrics: &metrics, crash, early };
    Ok((report.report(&finished, digests), finished))
}

impl Scenario {
    /// Clients at each replica.
    fn clients(&self) -> u32 {
        match self.plan.pace {
            Pace::Closed { clients, .. } => clients,
            Pace::Open { outstanding, .. } => outstanding,
        }
    }

    fn check(&self) -> Result<Quorums, DemoError> {
        self.plan.workload.check()?;
        if !(1..=10_000).contains(&self.clients()) {
            return Err(DemoError::Clients(self.clients()));
        }
        if !(0.1..=86_400.0).contains(&self.time.as_secs_f64()) {
            return Err(DemoError::Time(self.time));
        }
        match &self.wide_area {
            Some(area) if area.sites.len() < self.replicas => {
                let (replicas, sites) = (self.replicas, area.sites.len());
                Err(DemoError::Sites { replicas, sites })
            }
            _ => Ok(Quorums::new(self.replicas)?),
        }
    }
}

/// When the crash was, and what had been answered by then.
#[derive(Clone, Copy)]
struct Crashed {
    replica: u8,
    at: Duration,
    operations: u64,
}

/// Lets the clients work for their time; whether it was cut short, and the crash.
async fn load(
    scenario: &Scenario,
    cluster: &LocalCluster<Kv>,
    drive: &Drive<Replica<Kv>>,
    can_crash: bool,
    mut watch: impl FnMut(Progress),
    interrupt: impl Future<Output = ()>,
) -> (bool, Option<Crashed>) {
    tokio::pin!(interrupt);
    let mut crash: Option<Crashed> = None;
    loop {
        let (elapsed, operations) = (drive.elapsed(), drive.answered());
        watch(Progress { elapsed, operations, crashed: crash.map(|it| it.replica) });
        if elapsed >= scenario.time || drive.failed() > 0 {
            return (elapsed < scenario.time, crash);
        }
        if can_crash && crash.is_none() && elapsed >= scenario.time / 2 {
            let replica = u8::try_from(scenario.replicas).expect("a checked number of replicas");
            cluster.crash(replica);
            crash = Some(Crashed { replica, at: elapsed, operations });
        }
        let next = if crash.is_none() && can_crash { scenario.time / 2 } else { scenario.time };
        let pause = next.saturating_sub(elapsed).min(LOOK);
        tokio::select! {
            () = &mut interrupt => return (true, crash),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// All that a report is made of.
struct Summing<'a> {
    scenario: &'a Scenario,
    driven: &'a Driven,
    metrics: &'a [Option<Metrics>],
    crash: Option<Crashed>,
    early: bool,
}

impl Summing<'_> {
    fn report(&self, finished: &Finished, digests: Result<bool, String>) -> Report {
        let Summing { scenario, driven, .. } = self;
        let metrics = || self.metrics.iter().flatten();
        let (mut commit, mut execute) = (Latency::default(), Latency::default());
        metrics().for_each(|it| commit.add(&it.commit));
        driven.figures.iter().for_each(|it| execute.add(&it.latency()));
        let mut commands = FastSlow::default();
        metrics().for_each(|it| {
            commands.fast += it.commands.fast;
            commands.slow += it.commands.slow;
        });
        let mut failures = Vec::new();
        failures.extend(driven.errors.iter().map(|(why, _)| format!("a client gave up: {why}")));
        if driven.unanswered > 0 {
            let (count, patience) = (driven.unanswered, PATIENCE);
            failures.push(format!("{count} operations were not answered within {patience:?}"));
        }
        if digests == Ok(false) {
            failures.push("the live replicas hold different states".to_owned());
        }
        failures.extend(digests.clone().err());
        let (linearizable, history) = judge(finished, &mut failures);
        let operations = driven.answered;
        Report {
            version: env!("CARGO_PKG_VERSION"),
            protocol: scenario.protocol.name(),
            replicas: scenario.replicas,
            config: self.config(),
            seconds: driven.seconds,
            interrupted: self.early,
            operations,
            throughput_ops_s: (operations as f64 / driven.seconds).round(),
            commit_ms: Summary::of(&commit),
            execute_ms: Summary::of(&execute),
            fast_path_share: share(commands),
            instances: metrics().map(|it| it.instances.total()).sum(),
            conflicts: metrics().map(Metrics::conflicts).sum(),
            recoveries: metrics().map(|it| it.recoveries).sum(),
            resubmitted: metrics().map(|it| it.resubmitted).sum(),
            largest_component: metrics().map(|it| it.largest_component).max().unwrap_or(0),
            crash: self.crash.map(|crash| self.cost(crash)),
            per_replica: (0..scenario.replicas).map(|index| self.part(index)).collect(),
            unanswered: driven.unanswered,
            log: self.log(operations),
            digests_equal: digests.ok(),
            linearizable,
            history,
            failures,
        }
    }

    /// What all logs have done, unless there are none.
    fn log(&self, operations: u64) -> Option<Flushing> {
        let logs: Vec<_> = self.metrics.iter().flatten().map(|it| &it.log).collect();
        let (flushes, bytes) = (logs.iter().map(|it| it.flushes), logs.iter().map(|it| it.bytes));
        let (flushes, bytes): (u64, u64) = (flushes.sum(), bytes.sum());
        let mut latency = Latency::default();
        logs.iter().for_each(|it| latency.add(&it.latency));
        let ratio = |of: u64, to: u64| if to == 0 { 0.0 } else { of as f64 / to as f64 };
        (self.scenario.durability != Durability::Memory).then(|| Flushing {
            flushes,
            flushes_per_1000: (ratio(flushes, operations) * 1e6).round() / 1e3,
            bytes_per_flush: ratio(bytes, flushes).round(),
            bytes_per_operation: ratio(bytes, operations).round(),
            durable_ms: Summary::of(&latency),
        })
    }

    fn config(&self) -> Config {
        let Scenario { time, plan, wide_area, replicas, durability, optimisations, .. } =
            self.scenario;
        Config {
            seconds: time.as_secs_f64(),
            clients: self.scenario.clients(),
            conflict_percent: match plan.workload.keys {
                Keys::Conflict { percent, .. } => percent,
                _ => 100.0,
            },
            read_percent: plan.workload.mix.read,
            value_bytes: plan.workload.values.most(),
            seed: plan.workload.seed,
            durability: match durability {
                Durability::Fsync => "fsync",
                Durability::Os => "os",
                _ => "memory",
            },
            silent_orphans: optimisations.silent_orphans,
            reserved_slots: optimisations.reserved_slots,
            sites: wide_area.as_ref().map(|area| area.sites[..*replicas].to_vec()),
        }
    }

    fn cost(&self, Crashed { replica, at, operations }: Crashed) -> Crash {
        let at_s = at.as_secs_f64();
        let after = (self.driven.answered - operations) as f64;
        Crash {
            replica,
            at_s,
            before_ops_s: (operations as f64 / at_s).round(),
            after_ops_s: (after / (self.driven.seconds - at_s)).round(),
        }
    }

    fn part(&self, index: usize) -> PerReplica {
        let replica = u8::try_from(index + 1).expect("a checked number of replicas");
        let area = self.scenario.wide_area.as_ref();
        let metrics = self.metrics[index].as_ref();
        let latency = Figures::latency(&self.driven.figures[index]);
        PerReplica {
            replica,
            site: area.map(|area| area.sites[index].clone()),
            crashed: self.crash.is_some_and(|crash| crash.replica == replica),
            operations: latency.count(),
            commit_ms: metrics.map(|it| Summary::of(&it.commit)).unwrap_or_default(),
            execute_ms: Summary::of(&latency),
            fast_path_share: share(metrics.map(|it| it.commands).unwrap_or_default()),
            lower_bound_ms: area.map(|area| area.lower_bound_ms(index, self.scenario.replicas)),
        }
    }
}
