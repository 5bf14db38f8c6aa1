//! The results of a load. Each `run` is made from `figures`, the replicas' counters (`tally`), CPU
//! usage (`gauge`) and the checker's verdict (`verify`). This file combines the runs of a
//! scenario; `render` shows them.

pub mod figures;
pub mod gauge;
pub mod run;
pub mod tally;
pub mod verify;

use std::collections::BTreeMap;

use serde::Serialize;

pub use self::figures::{Event, Row, Spread};
use self::gauge::Machine;
use self::run::rounded_share;
pub use self::run::{Cluster, Run, Site};
pub use self::verify::Checked;
use crate::load::scenario::settings::Settings;
use crate::load::scenario::{Scenario, Target};

/// A rate has not held if less than this share of it was answered, whatever the latency.
const ENOUGH: f64 = 0.95;

/// All runs of a scenario.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The version of this program.
    pub version: &'static str,
    /// The settings, including defaults.
    pub config: Settings,
    /// The sites of an emulated wide area network.
    pub sites: Option<Vec<String>>,
    /// Whether the cluster was started for the load, in the same process.
    pub is_local: bool,
    /// The number of replicas.
    pub replicas: usize,
    /// The machine.
    pub machine: Machine,
    /// Each run.
    pub runs: Vec<Run>,
    /// The median of the runs and their spread, by figure.
    pub spread: BTreeMap<&'static str, Spread>,
    /// Missed objectives, as text.
    pub slo_missed: Vec<String>,
    /// The highest rate that held, if it was searched for.
    pub found: Option<Found>,
}

/// The result of a search for the highest rate.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Found {
    /// The highest rate that met all objectives; `None` if even the first one did not.
    pub rate: Option<f64>,
    /// All rates that were tried.
    pub steps: Vec<Step>,
}

/// One rate that was tried.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Step {
    /// The offered rate, in operations per second.
    pub rate: f64,
    /// The answered rate.
    pub throughput_ops_s: f64,
    /// The median latency, in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile of the latency, in milliseconds.
    pub p99_ms: f64,
    /// Why it did not hold; `None` if it did.
    pub missed: Option<String>,
}

impl Step {
    /// The step of a run of this open loop.
    pub fn of(scenario: &Scenario, run: &Run) -> Step {
        let rate = scenario.settings.rate.unwrap_or_default();
        let mut missed = scenario.slos.iter().find_map(|slo| slo.missed(&run.measured()));
        if missed.is_none() && run.throughput_ops_s < ENOUGH * rate {
            missed = Some(format!("only {:.0}/s were answered", run.throughput_ops_s));
        }
        Step {
            rate,
            throughput_ops_s: run.throughput_ops_s,
            p50_ms: run.latency.quantile_ms(0.5),
            p99_ms: run.latency.quantile_ms(0.99),
            missed,
        }
    }
}

impl Outcome {
    /// Combines the runs of a scenario, at least one.
    pub fn new(scenario: &Scenario, mut runs: Vec<Run>, found: Option<Found>) -> Outcome {
        // In a search, a rate without any answer is a valid result.
        if found.is_none() {
            runs.iter_mut().for_each(Run::judge_answers);
        }
        // A search that is interrupted in its first run has no runs, so all figures are zero.
        let over = |values: Vec<f64>| Spread::of(&values).unwrap_or_default();
        let figure = |name, of: fn(&Run) -> f64| (name, over(runs.iter().map(of).collect()));
        let spread = [
            figure("throughput_ops_s", |run| run.throughput_ops_s),
            figure("p50_ms", |run| run.latency.quantile_ms(0.5)),
            figure("p90_ms", |run| run.latency.quantile_ms(0.9)),
            figure("p99_ms", |run| run.latency.quantile_ms(0.99)),
            figure("p999_ms", |run| run.latency.quantile_ms(0.999)),
            figure("max_ms", |run| run.latency.max_ms()),
            figure("error_share", Run::error_share),
        ];
        let mut spread = BTreeMap::from(spread);
        let clusters: Option<Vec<&Cluster>> = runs.iter().map(|run| run.cluster.as_ref()).collect();
        if let Some(clusters) = clusters {
            let mut add = |name, of: fn(&Cluster) -> f64| {
                spread.insert(name, over(clusters.iter().map(|it| of(it)).collect()));
            };
            add("commit_p50_ms", |it| it.commit.quantile_ms(0.5));
            add("commit_p99_ms", |it| it.commit.quantile_ms(0.99));
            add("fast_path_share", |it| rounded_share(it.commands));
        }
        let replicas = match &scenario.target {
            Target::Remote(config) => config.replicas.len(),
            Target::Local(cluster) | Target::Virtual(cluster, _) => cluster.replicas,
        };
        let area = scenario.target.area();
        Outcome {
            version: env!("CARGO_PKG_VERSION"),
            config: scenario.settings.clone(),
            sites: area.map(|area| area.sites[..replicas].to_vec()),
            is_local: !matches!(scenario.target, Target::Remote(_)),
            replicas,
            machine: Machine::here(),
            spread,
            slo_missed: if found.is_some() { Vec::new() } else { missed(scenario, &runs) },
            runs,
            found,
        }
    }

    /// Whether all checks passed.
    pub fn is_good(&self) -> bool {
        let found = self.found.as_ref().is_none_or(|found| found.rate.is_some());
        found && self.slo_missed.is_empty() && self.runs.iter().all(|run| run.failures.is_empty())
    }
}

/// The objectives that at least half of the runs missed, with the text of the first.
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
