//! The result of one run. It has the same form for a cluster in this process, a running cluster,
//! and virtual time. Its serialized fields are what `isonomy load --json` prints for a run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::figures::{Event, Row};
use super::gauge::Busy;
use super::tally::{Counts, Tally};
use super::verify::{Checked, judge};
use crate::load::driver::record::Finished;
use crate::load::driver::{Driven, Figures, LATE, Pace};
use crate::load::durations::Durations;
use crate::load::scenario::slo::Measured;
use crate::load::scenario::{Scenario, Target};
use crate::node::{FastSlow, NotConverged, PathLatency};
use crate::types::{MemberId, ReplicaId};

/// A thread that used more than this share of a processor was the bottleneck.
const FULL: f64 = 0.9;

/// If starts are late by more than this share of the median latency, the figures are unreliable.
const LATE_SHARE: f64 = 0.1;

/// One run.
#[derive(Debug, Default, Serialize)]
pub struct Run {
    /// The length of the counted time: from the warm-up until the clients were told to stop.
    pub seconds: f64,
    /// Whether the run was ended early.
    pub interrupted: bool,
    /// Operations that should have started in that time.
    pub offered: u64,
    /// How many of them were answered, then or later.
    pub answered: u64,
    /// Answers per second in that time.
    pub throughput_ops_s: f64,
    /// Operations that failed.
    pub errors: u64,
    /// Operations that were never started because too many were under way.
    pub dropped: u64,
    /// Operations without an answer at the end.
    pub unanswered: usize,
    /// The first few error texts, and how often each occurred.
    pub error_words: Vec<(String, u64)>,
    /// From the intended start to the answer.
    #[serde(rename = "latency_ms")]
    pub latency: Durations,
    /// The same by kind of operation.
    pub kinds: BTreeMap<&'static str, Durations>,
    /// By the replica of the client.
    pub sites: Vec<Site>,
    /// The replicas' own counters; unknown for a running cluster.
    pub cluster: Option<Cluster>,
    /// Figures of the load generator.
    pub generator: Generator,
    /// The faults that were carried out.
    pub events: Vec<Event>,
    /// The time series.
    pub series: Vec<Row>,
    /// Whether what the clients saw is linearizable; null if not checked or not decided.
    pub linearizable: Option<bool>,
    /// Whether all live replicas have the same state; null if unknown.
    pub digests_equal: Option<bool>,
    /// The extent of the check.
    pub history: Option<Checked>,
    /// What went wrong, as text.
    pub failures: Vec<String>,
    /// Why the figures may reflect the generator more than the cluster.
    pub warnings: Vec<String>,
    /// Operations answered before the clients were told to stop, including the warm-up.
    #[serde(skip)]
    pub answered_in_time: u64,
    /// The replicas' costs of operations; unknown for a running cluster.
    #[serde(skip)]
    pub costs: Option<Costs>,
    /// The history, if it was to be kept.
    #[serde(skip)]
    pub record: Option<Finished>,
    /// The time series as an HdrHistogram log, version 2.
    #[serde(skip)]
    pub hdr_log: Vec<u8>,
}

/// The clients of one replica.
#[derive(Debug, Default, Serialize)]
pub struct Site {
    /// Its number.
    pub replica: usize,
    /// Its site, in an emulated wide area network.
    pub site: Option<String>,
    /// From the intended start to the answer.
    #[serde(rename = "latency_ms")]
    pub latency: Durations,
    /// The same by kind of operation.
    pub kinds: BTreeMap<&'static str, Durations>,
    /// Operations that failed.
    pub errors: u64,
    /// From the call at the replica to the commit.
    #[serde(rename = "commit_ms")]
    pub commit: Option<Durations>,
    /// From the call at the replica to its answer, which comes after execution.
    #[serde(rename = "execute_ms")]
    pub execute: Option<Durations>,
    /// The replica's commands by path.
    #[serde(rename = "fast_path_share", serialize_with = "share_if_known")]
    pub commands: Option<FastSlow>,
    /// Only the commands committed after one round trip.
    pub fast_path: Option<OnPath>,
    /// Only the other commands.
    pub slow_path: Option<OnPath>,
    /// In a wide area network: the round trip to the nearest fast quorum.
    pub lower_bound_ms: Option<f64>,
}

/// Commands on one path. A read answered without a proposal is on neither.
#[derive(Debug, Default, Serialize)]
pub struct OnPath {
    /// From the call at a replica to the commit.
    #[serde(rename = "commit_ms")]
    pub commit: Durations,
    /// From the call at a replica to its answer, which comes after execution.
    #[serde(rename = "execute_ms")]
    pub execute: Durations,
}

impl From<PathLatency> for OnPath {
    fn from(PathLatency { commit, execute }: PathLatency) -> OnPath {
        OnPath { commit: commit.into(), execute: execute.into() }
    }
}

/// Figures of all replicas together.
#[derive(Debug, Default, Serialize)]
pub struct Cluster {
    /// The leader at the end, if the protocol has one.
    pub leader: Option<u8>,
    /// From the call at a replica to the commit.
    #[serde(rename = "commit_ms")]
    pub commit: Durations,
    /// From the call at a replica to its answer, which comes after execution.
    #[serde(rename = "execute_ms")]
    pub execute: Durations,
    /// Commands by path.
    #[serde(rename = "fast_path_share", serialize_with = "share")]
    pub commands: FastSlow,
    /// Only the commands committed after one round trip.
    pub fast_path: OnPath,
    /// Only the other commands.
    pub slow_path: OnPath,
    /// Further counters.
    #[serde(flatten)]
    pub counts: Counts,
    /// From handing a record to the log until it is known to be durable.
    #[serde(skip)]
    pub durable: Durations,
    /// How many components of each size were executed; in real time, only the largest is known.
    #[serde(skip)]
    pub components: Vec<(u64, u64)>,
}

impl Cluster {
    /// Instances in the largest component executed.
    pub fn largest_component(&self) -> u64 {
        self.components.iter().map(|(size, _)| *size).max().unwrap_or_default()
    }
}

/// How well the load generator kept up.
#[derive(Debug, Default, Serialize)]
pub struct Generator {
    /// From an operation's intended start to its actual start.
    #[serde(rename = "lateness_ms")]
    pub lateness: Durations,
    /// Operations that started more than a millisecond late.
    pub late: u64,
    /// How busy the generator was.
    pub busy: Busy,
}

/// The replicas' costs of the operations in the counted time.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Costs {
    /// Operations answered in that time.
    pub answered: u64,
    /// Each replica's counters and CPU time; the latter is zero if unknown.
    pub replicas: Vec<(Counts, Duration)>,
}

/// The replicas' counters since the warm-up, and the leader at the end.
pub(in crate::load) type Counted = (Vec<Tally>, Option<ReplicaId>);

impl Run {
    /// The result of a run in real time, from what was seen of it until `ended`, when the clients
    /// were told to stop.
    pub(in crate::load) fn complete(
        self,
        scenario: &Scenario,
        ended: Duration,
        driven: Driven,
        counted: Option<Counted>,
    ) -> Run {
        let mut all = Figures::default();
        driven.figures.iter().for_each(|figures| all.add(figures));
        let latency = Durations::from(all.latency());
        let seconds = ended.saturating_sub(scenario.plan.warm_up).as_secs_f64();
        let rate = match scenario.duration {
            // A limited run: the number of operations, and the time they took.
            None => latency.count() as f64 / seconds.max(1e-9),
            Some(_) => rate(&self.series),
        };
        let tallies = counted.as_ref().map(|(tallies, _)| &tallies[..]);
        let mut run = Run {
            seconds,
            offered: driven.offered,
            answered: latency.count(),
            throughput_ops_s: (rate * 10.0).round() / 10.0,
            errors: all.errors,
            dropped: driven.dropped,
            unanswered: driven.unanswered,
            latency,
            kinds: kinds(&all),
            sites: sites(scenario, &driven.figures, tallies),
            cluster: counted.as_ref().map(cluster),
            generator: Generator {
                lateness: all.lateness.into(),
                late: driven.late,
                busy: self.generator.busy,
            },
            answered_in_time: driven.answered,
            error_words: driven.errors,
            ..self
        };
        run.judge_work(scenario);
        if scenario.verify {
            let record = driven.record.finish();
            let (verdict, checked) = judge(&record, &mut run.failures);
            (run.linearizable, run.history) = (verdict, Some(checked));
            run.record = scenario.keeps_record.then_some(record);
        }
        run.warnings = run.doubts(&scenario.plan.pace);
        run
    }

    /// The share of operations without an answer.
    pub fn error_share(&self) -> f64 {
        let lost = self.errors + self.dropped + self.unanswered as u64;
        lost as f64 / (lost + self.answered).max(1) as f64
    }

    /// The figures that objectives refer to.
    pub(in crate::load) fn measured(&self) -> Measured<'_> {
        Measured { latency: &self.latency, errors: self.error_share(), rate: self.throughput_ops_s }
    }

    /// Records failed faults, and unanswered operations if all must be answered.
    fn judge_work(&mut self, scenario: &Scenario) {
        for Event { what, failed, .. } in &self.events {
            self.failures.extend(failed.iter().map(|why| format!("{what}: {why}")));
        }
        if scenario.must_answer {
            let gave_up =
                self.error_words.iter().map(|(why, _)| format!("a client gave up: {why}"));
            self.failures.extend(gave_up);
            if self.unanswered > 0 {
                let (count, patience) = (self.unanswered, scenario.patience);
                let words = format!("{count} operations were not answered within {patience:?}");
                self.failures.push(words);
            }
        }
    }

    /// Records the final states of the live replicas.
    pub(in crate::load) fn judge_digests(
        &mut self,
        digests: Result<BTreeMap<MemberId, u64>, NotConverged>,
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

    /// A run without any answer is a failure.
    pub(super) fn judge_answers(&mut self) {
        if self.answered > 0 {
            return;
        }
        self.failures.push(match self.offered {
            0 => "no operation was started after the warm-up: give it more time, or a higher rate"
                .to_owned(),
            offered => format!("none of {offered} operations was answered"),
        });
    }

    /// Reasons to think that the generator was the bottleneck.
    fn doubts(&self, pace: &Pace) -> Vec<String> {
        let mut doubts = Vec::new();
        let Generator { lateness, busy, .. } = &self.generator;
        let late_ms = lateness.quantile_ms(0.99);
        let bound = (LATE.as_secs_f64() * 1e3).max(LATE_SHARE * self.latency.quantile_ms(0.5));
        let starved = self.dropped == 0 && late_ms > bound;
        if starved && matches!(pace, Pace::Open { .. }) {
            doubts.push(format!(
                "the load generator could not keep up: of 100 operations one started {late_ms:.1} \
                 ms late or more; latencies include that"
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

/// Answers per second in the rows that count.
fn rate(series: &[Row]) -> f64 {
    let rows = series.iter().filter(|row| row.counts());
    let answers: f64 = rows.clone().map(|row| row.rate * row.seconds).sum();
    let time: f64 = rows.map(|row| row.seconds).sum();
    answers / time.max(1e-9)
}

fn kinds(figures: &Figures) -> BTreeMap<&'static str, Durations> {
    figures.kinds().map(|(kind, latency)| (kind.name(), latency.clone().into())).collect()
}

fn sites(scenario: &Scenario, figures: &[Figures], tallies: Option<&[Tally]>) -> Vec<Site> {
    let numbers: Vec<usize> = match &scenario.target {
        Target::Remote(config) => config.replicas.keys().map(|id| id.number() as usize).collect(),
        _ => (1..=figures.len()).collect(),
    };
    let area = scenario.target.area();
    let one = |(index, figures): (usize, &Figures)| {
        let tally = tallies.map(|tallies| tallies[index].clone());
        let mut site = Site {
            replica: numbers[index],
            site: area.map(|area| area.sites[index].clone()),
            latency: figures.latency().into(),
            kinds: kinds(figures),
            errors: figures.errors,
            lower_bound_ms: area.map(|area| area.lower_bound_ms(index, numbers.len())),
            ..Site::default()
        };
        if let Some(tally) = tally {
            site.commit = Some(tally.commit.into());
            site.execute = Some(tally.execute.into());
            site.commands = Some(tally.commands);
            (site.fast_path, site.slow_path) = (Some(tally.fast.into()), Some(tally.slow.into()));
        }
        site
    };
    figures.iter().enumerate().map(one).collect()
}

fn cluster((tallies, leader): &Counted) -> Cluster {
    let mut all = Tally::default();
    tallies.iter().for_each(|tally| all.add(tally));
    Cluster {
        leader: leader.map(ReplicaId::number),
        commit: all.commit.into(),
        execute: all.execute.into(),
        commands: all.commands,
        fast_path: all.fast.into(),
        slow_path: all.slow.into(),
        counts: all.counts,
        durable: all.durable.into(),
        components: all.largest_component.map(|size| (size, 1)).into_iter().collect(),
    }
}

/// The share of the fast path, rounded for display.
pub(in crate::load) fn rounded_share(commands: FastSlow) -> f64 {
    (commands.fast_share() * 1e4).round() / 1e4
}

fn share<S: Serializer>(commands: &FastSlow, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(rounded_share(*commands))
}

fn share_if_known<S: Serializer>(commands: &Option<FastSlow>, to: S) -> Result<S::Ok, S::Error> {
    commands.map(rounded_share).serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_the_fields_that_they_know_in_their_order() {
        let run = Run {
            sites: vec![Site { commands: Some(FastSlow { fast: 1, slow: 2 }), ..Site::default() }],
            cluster: Some(Cluster::default()),
            ..Run::default()
        };
        let json = serde_json::to_string(&run).expect("it has a JSON form");
        let none = r#"{"count":0,"p50":0.0,"p90":0.0,"p99":0.0,"p999":0.0,"p9999":0.0,"#;
        let none = &format!(r#"{none}"max":0.0,"mean":0.0}}"#);
        let path = &format!(r#"{{"commit_ms":{none},"execute_ms":{none}}}"#);
        let wanted = [
            r#"{"seconds":0.0,"interrupted":false,"offered":0,"answered":0,"#,
            r#""throughput_ops_s":0.0,"errors":0,"dropped":0,"unanswered":0,"error_words":[],"#,
            &format!(r#""latency_ms":{none},"kinds":{{}},"sites":[{{"replica":0,"site":null,"#),
            &format!(r#""latency_ms":{none},"kinds":{{}},"errors":0,"commit_ms":null,"#),
            r#""execute_ms":null,"fast_path_share":0.3333,"fast_path":null,"slow_path":null,"#,
            r#""lower_bound_ms":null}],"cluster":{"leader":null,"#,
            &format!(r#""commit_ms":{none},"execute_ms":{none},"fast_path_share":1.0,"#),
            &format!(r#""fast_path":{path},"slow_path":{path},"#),
            r#""instances":0,"slow_instances":0,"recoveries":0,"resubmitted":0,"frames_in":0,"#,
            r#""frames_out":0,"bytes_out":0,"flushes":0},"#,
            &format!(r#""generator":{{"lateness_ms":{none},"late":0,"busy":{{"generator":null,"#),
            r#""busiest_thread":null,"machine":null}},"events":[],"series":[],"#,
            r#""linearizable":null,"digests_equal":null,"history":null,"failures":[],"#,
            r#""warnings":[]}"#,
        ];
        assert_eq!(json, wanted.concat());
    }
}
