//! What runs of a load have shown: figures as values, for JSON, and the verdicts about them. Their
//! form for people is in `show`, files of them in `files`.

pub mod figures;
pub mod gauge;
pub(super) mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

pub use self::figures::{Event, Quantiles, Row, Spread};
use self::gauge::{Busy, Machine};
pub use self::verify::Checked;
use self::verify::judge;
use crate::load::driver::{Driven, Figures, LATE, Pace};
use crate::load::scenario::settings::Settings;
use crate::load::scenario::slo::Measured;
use crate::load::scenario::{Scenario, Target};
use crate::load::target::local::{Counts, Tally};
use crate::node::{FastSlow, Latency, PathLatency, Unsettled};
use crate::types::ReplicaId;

/// A thread that has worked more than this share of the time was the limit.
const FULL: f64 = 0.9;

/// Starts that are later than this share of the median latency spoil the figures.
const LATE_SHARE: f64 = 0.1;

/// A rate that answers this much less than was offered has not held, whatever the latency.
const ENOUGH: f64 = 0.95;

/// All runs of a scenario.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The version of this program.
    pub version: &'static str,
    /// What was asked for, defaults included.
    pub config: Settings,
    /// The sites of an emulated wide area.
    pub sites: Option<Vec<String>>,
    /// Whether the cluster was started for this, in the same process.
    pub is_local: bool,
    /// How many replicas were asked.
    pub replicas: usize,
    /// What it ran on.
    pub machine: Machine,
    /// Each run.
    pub runs: Vec<Run>,
    /// The median of the runs and their spread, by figure.
    pub spread: BTreeMap<&'static str, Spread>,
    /// Objectives that were missed, in words.
    pub slo_missed: Vec<String>,
    /// The highest rate that held, if it was looked for.
    pub found: Option<Found>,
}

/// The outcome of looking for the highest rate.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Found {
    /// The highest that met all objectives; `None` if even the first did not.
    pub rate: Option<f64>,
    /// All that were tried.
    pub steps: Vec<Step>,
}

/// One rate that was tried.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Step {
    /// What was offered, in operations a second.
    pub rate: f64,
    /// What was answered.
    pub throughput_ops_s: f64,
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// Why it did not hold, if it did not.
    pub missed: Option<String>,
}

impl Step {
    /// What a run at this rate showed.
    pub fn of(scenario: &Scenario, rate: f64, run: &Run) -> Step {
        let mut missed = scenario.slos.iter().find_map(|slo| slo.missed(&run.measured()));
        if missed.is_none() && run.throughput_ops_s < ENOUGH * rate {
            missed = Some(format!("only {:.0}/s were answered", run.throughput_ops_s));
        }
        Step {
            rate,
            throughput_ops_s: run.throughput_ops_s,
            p50_ms: run.latency_ms.p50,
            p99_ms: run.latency_ms.p99,
            missed,
        }
    }
}

/// One run.
#[derive(Debug, Serialize)]
pub struct Run {
    /// After the warm-up, until the clients were told to stop.
    pub seconds: f64,
    /// Whether that was early.
    pub interrupted: bool,
    /// Operations that were to start in that time.
    pub offered: u64,
    /// Of those, the ones that were answered, then or later.
    pub answered: u64,
    /// Answers a second within the time.
    pub throughput_ops_s: f64,
    /// Operations that failed.
    pub errors: u64,
    /// Operations that were never started: too much was under way.
    pub dropped: u64,
    /// Operations without an answer in the end.
    pub unanswered: usize,
    /// What errors said, and how often; the first few.
    pub error_words: Vec<(String, u64)>,
    /// From the intended start to the answer.
    pub latency_ms: Quantiles,
    /// The same by kind of operation.
    pub kinds: BTreeMap<&'static str, Quantiles>,
    /// By the replica whose clients asked.
    pub sites: Vec<Site>,
    /// What the replicas count themselves; not known of a cluster that runs elsewhere.
    pub cluster: Option<Cluster>,
    /// The load generator.
    pub generator: Generator,
    /// What was done to the cluster.
    pub events: Vec<Event>,
    /// How it went over time.
    pub series: Vec<Row>,
    /// Whether what the clients saw is linearizable; null if that was not asked or not decided.
    pub linearizable: Option<bool>,
    /// Whether all live replicas hold the same state; likewise.
    pub digests_equal: Option<bool>,
    /// What was checked.
    pub history: Option<Checked>,
    /// What went wrong, in words.
    pub failures: Vec<String>,
    /// Why the figures may tell more about the generator than about the cluster.
    pub warnings: Vec<String>,
    #[serde(skip)]
    latency: Latency,
    #[serde(skip)]
    hdr_log: Vec<u8>,
}

/// One replica's clients.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Site {
    /// Its number.
    pub replica: usize,
    /// Where it stands, in an emulated wide area.
    pub site: Option<String>,
    /// From the intended start to the answer.
    pub latency_ms: Quantiles,
    /// The same by kind of operation.
    pub kinds: BTreeMap<&'static str, Quantiles>,
    /// Operations that failed.
    pub errors: u64,
    /// From the call at the replica to the commit.
    pub commit_ms: Option<Quantiles>,
    /// From the call at the replica to its answer, which comes after execution.
    pub execute_ms: Option<Quantiles>,
    /// The share of the replica's commands that were committed after one round trip.
    pub fast_path_share: Option<f64>,
    /// Those alone.
    pub fast_path: Option<OnPath>,
    /// The others alone.
    pub slow_path: Option<OnPath>,
    /// In an emulated wide area: the round trip to the nearest fast quorum.
    pub lower_bound_ms: Option<f64>,
}

/// Commands that took one path. A read that was answered without being proposed took none.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct OnPath {
    /// From the call at a replica to the commit.
    pub commit_ms: Quantiles,
    /// From the call at a replica to its answer, which comes after execution.
    pub execute_ms: Quantiles,
}

impl OnPath {
    fn of(latency: &PathLatency) -> OnPath {
        let PathLatency { commit, execute, .. } = latency;
        OnPath { commit_ms: Quantiles::of(commit), execute_ms: Quantiles::of(execute) }
    }
}

/// All replicas.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Cluster {
    /// Who led in the end, where one replica does.
    pub leader: Option<u8>,
    /// From the call at a replica to the commit.
    pub commit_ms: Quantiles,
    /// From the call at a replica to its answer, which comes after execution.
    pub execute_ms: Quantiles,
    /// The share of commands that were committed after one round trip.
    pub fast_path_share: f64,
    /// Those alone.
    pub fast_path: OnPath,
    /// The others alone.
    pub slow_path: OnPath,
    /// The rest.
    #[serde(flatten)]
    pub counts: Counts,
}

/// How the load generator did.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Generator {
    /// From when operations were meant to start to when they did.
    pub lateness_ms: Quantiles,
    /// Operations that started more than a millisecond late.
    pub late: u64,
    /// How busy it was.
    pub busy: Busy,
}

/// What the replicas themselves have counted.
pub(super) struct Counted {
    /// Each, since the warm-up.
    pub(super) tallies: Vec<Tally>,
    /// Who led in the end.
    pub(super) leader: Option<u8>,
}

/// The time of a run.
pub(super) struct Spans {
    pub(super) ended: Duration,
    pub(super) interrupted: bool,
    pub(super) busy: Busy,
}

impl Run {
    /// What a run amounts to.
    pub(super) fn of(
        scenario: &Scenario,
        driven: Driven,
        spans: Spans,
        series: Vec<Row>,
        events: Vec<Event>,
        counted: Option<Counted>,
        hdr_log: Vec<u8>,
    ) -> Run {
        let mut all = Figures::default();
        driven.figures.iter().for_each(|figures| all.add(figures));
        let latency = all.latency();
        let seconds = spans.ended.saturating_sub(scenario.plan.warm_up).as_secs_f64();
        let rows = series.iter().filter(|row| row.counts());
        let answers: f64 = rows.clone().map(|row| row.rate * row.seconds).sum();
        let time: f64 = rows.map(|row| row.seconds).sum();
        let rate = match scenario.duration {
            // So many operations, and the time that they took.
            None => latency.count() as f64 / seconds.max(1e-9),
            Some(_) => answers / time.max(1e-9),
        };
        let mut failures: Vec<String> = Vec::new();
        for Event { what, failed, .. } in &events {
            failures.extend(failed.iter().map(|why| format!("{what}: {why}")));
        }
        let (linearizable, history) = match scenario.verify {
            false => (None, None),
            true => {
                let (verdict, checked) = judge(&driven.record.finish(), &mut failures);
                (verdict, Some(checked))
            }
        };
        let mut run = Run {
            seconds,
            interrupted: spans.interrupted,
            offered: driven.offered,
            answered: latency.count(),
            throughput_ops_s: (rate * 10.0).round() / 10.0,
            errors: all.errors,
            dropped: driven.dropped,
            unanswered: driven.unanswered,
            error_words: driven.errors,
            latency_ms: Quantiles::of(&latency),
            kinds: kinds(&all),
            sites: sites(scenario, &driven.figures, counted.as_ref().map(|it| &it.tallies[..])),
            cluster: counted.as_ref().map(cluster),
            generator: Generator {
                lateness_ms: Quantiles::of(&all.lateness),
                late: driven.late,
                busy: spans.busy,
            },
            events,
            series,
            linearizable,
            digests_equal: None,
            history,
            failures,
            warnings: Vec::new(),
            latency,
            hdr_log,
        };
        run.warnings = run.doubts(&scenario.plan.pace);
        run
    }

    /// The share of operations without an answer.
    pub fn error_share(&self) -> f64 {
        let lost = self.errors + self.dropped + self.unanswered as u64;
        lost as f64 / (lost + self.answered).max(1) as f64
    }

    pub(super) fn measured(&self) -> Measured<'_> {
        Measured { latency: &self.latency, errors: self.error_share(), rate: self.throughput_ops_s }
    }

    /// The time series as an HdrHistogram log, version 2.
    pub fn hdr_log(&self) -> &[u8] {
        &self.hdr_log
    }

    /// Takes note of what the live replicas hold in the end.
    pub(super) fn judge_digests(
        &mut self,
        digests: Result<BTreeMap<ReplicaId, u64>, NotConverged>,
    ) {
        match digests {
            Ok(digests) => {
                let different: BTreeSet<u64> = digests.into_values().collect();
                self.digests_equal = Some(different.len() <= 1);
                if different.len() > 1 {
                    self.failures.push("the live replicas hold different states".to_owned());
                }
            }
            Err(unsettled) => self.failures.push(unsettled.to_string()),
        }
    }

    /// A run in which nothing was answered has shown nothing.
    fn judge_answers(&mut self) {
        if self.answered > 0 {
            return;
        }
        self.failures.push(match self.offered {
            0 => "no operation was started after the warm-up: give it more time, or a higher rate"
                .to_owned(),
            offered => format!("none of {offered} operations was answered"),
        });
    }

    /// Whether the generator was the bottleneck.
    fn doubts(&self, pace: &Pace) -> Vec<String> {
        let mut doubts = Vec::new();
        let Generator { lateness_ms, busy, .. } = &self.generator;
        let bound = (LATE.as_secs_f64() * 1e3).max(LATE_SHARE * self.latency_ms.p50);
        let starved = self.dropped == 0 && lateness_ms.p99 > bound;
        if starved && matches!(pace, Pace::Open { .. }) {
            doubts.push(format!(
                "the load generator could not keep up: of 100 operations one started {:.1} ms late \
                 or more; latencies include that",
                lateness_ms.p99
            ));
        }
        if let Some(share) = busy.busiest_thread.filter(|share| *share > FULL) {
            doubts.push(format!(
                "a thread of the load generator was busy for {:.0}% of the time: the limit may be \
                 there and not in the cluster",
                share * 100.0
            ));
        }
        if let Some(share) = busy.machine.filter(|share| *share > FULL + 0.05) {
            doubts.push(format!(
                "all processors were busy for {:.0}% of the time: cluster and generator compete",
                share * 100.0
            ));
        }
        if self.dropped > 0 {
            doubts.push(format!(
                "{} operations were not even tried, because too many were under way: the latencies \
                 do not show them",
                self.dropped
            ));
        }
        doubts
    }
}

fn kinds(figures: &Figures) -> BTreeMap<&'static str, Quantiles> {
    figures.kinds().map(|(kind, latency)| (kind.name(), Quantiles::of(latency))).collect()
}

fn share(commands: FastSlow) -> f64 {
    (commands.fast_share() * 1e4).round() / 1e4
}

fn sites(scenario: &Scenario, figures: &[Figures], tallies: Option<&[Tally]>) -> Vec<Site> {
    let (area, numbers) = match &scenario.target {
        Target::Local(local) => (local.area.as_ref(), (1..=local.replicas).collect::<Vec<_>>()),
        Target::Remote(config) => {
            (None, config.replicas.keys().map(|id| usize::from(id.number())).collect())
        }
    };
    let n = numbers.len();
    let one = |(index, figures): (usize, &Figures)| {
        let tally = tallies.map(|tallies| &tallies[index]);
        Site {
            replica: numbers[index],
            site: area.map(|area| area.sites[index].clone()),
            latency_ms: Quantiles::of(&figures.latency()),
            kinds: kinds(figures),
            errors: figures.errors,
            commit_ms: tally.map(|it| Quantiles::of(&it.commit)),
            execute_ms: tally.map(|it| Quantiles::of(&it.execute)),
            fast_path_share: tally.map(|it| share(it.commands)),
            fast_path: tally.map(|it| OnPath::of(&it.fast)),
            slow_path: tally.map(|it| OnPath::of(&it.slow)),
            lower_bound_ms: area.map(|area| area.lower_bound_ms(index, n)),
        }
    };
    figures.iter().enumerate().map(one).collect()
}

fn cluster(counted: &Counted) -> Cluster {
    let mut all = Tally::default();
    counted.tallies.iter().for_each(|tally| all.add(tally));
    Cluster {
        leader: counted.leader,
        commit_ms: Quantiles::of(&all.commit),
        execute_ms: Quantiles::of(&all.execute),
        fast_path_share: share(all.commands),
        fast_path: OnPath::of(&all.fast),
        slow_path: OnPath::of(&all.slow),
        counts: all.counts,
    }
}

impl Outcome {
    /// Of these runs of it, at least one.
    pub fn new(scenario: &Scenario, mut runs: Vec<Run>, found: Option<Found>) -> Outcome {
        // A rate at which nothing is answered is an answer, where one is looked for.
        if found.is_none() {
            runs.iter_mut().for_each(Run::judge_answers);
        }
        let figure = |name, of: fn(&Run) -> f64| (name, Spread::of(runs.iter().map(of).collect()));
        let spread = [
            figure("throughput_ops_s", |run| run.throughput_ops_s),
            figure("p50_ms", |run| run.latency_ms.p50),
            figure("p90_ms", |run| run.latency_ms.p90),
            figure("p99_ms", |run| run.latency_ms.p99),
            figure("p999_ms", |run| run.latency_ms.p999),
            figure("max_ms", |run| run.latency_ms.max),
            figure("error_share", Run::error_share),
        ];
        let mut spread = BTreeMap::from(spread);
        let clusters: Option<Vec<&Cluster>> = runs.iter().map(|run| run.cluster.as_ref()).collect();
        if let Some(clusters) = clusters {
            let mut add = |name, of: fn(&Cluster) -> f64| {
                spread.insert(name, Spread::of(clusters.iter().map(|it| of(it)).collect()));
            };
            add("commit_p50_ms", |it| it.commit_ms.p50);
            add("commit_p99_ms", |it| it.commit_ms.p99);
            add("fast_path_share", |it| it.fast_path_share);
        }
        let (area, is_local, replicas) = match &scenario.target {
            Target::Local(local) => (local.area.as_ref(), true, local.replicas),
            Target::Remote(config) => (None, false, config.replicas.len()),
        };
        Outcome {
            version: env!("CARGO_PKG_VERSION"),
            config: scenario.settings.clone(),
            sites: area.map(|area| area.sites[..replicas].to_vec()),
            is_local,
            replicas,
            machine: Machine::here(),
            spread,
            slo_missed: if found.is_some() { Vec::new() } else { missed(scenario, &runs) },
            runs,
            found,
        }
    }

    /// Whether everything that was checked is as it has to be.
    pub fn is_good(&self) -> bool {
        let found = self.found.as_ref().is_none_or(|found| found.rate.is_some());
        found && self.slo_missed.is_empty() && self.runs.iter().all(|run| run.failures.is_empty())
    }
}

/// The objectives that half of the runs missed, or more, with the words of the first.
fn missed(scenario: &Scenario, runs: &[Run]) -> Vec<String> {
    let mut missed = Vec::new();
    for slo in &scenario.slos {
        let words: Vec<String> =
            runs.iter().filter_map(|run| slo.missed(&run.measured())).collect();
        if !words.is_empty() && 2 * words.len() >= runs.len() {
            let often = match runs.len() {
                1 => String::new(),
                many => format!(" (in {} of {many} runs)", words.len()),
            };
            missed.push(format!("{}{often}", words[0]));
        }
    }
    missed
}
