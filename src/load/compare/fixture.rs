//! A fixed comparison for tests of reports, and plans of small ones.

use std::path::Path;

use super::kept::{
    Comparison, Demand, FORMAT, KeptOutcome, KeptRun, KeptSite, Latencies, Paths, Percentiles,
    Point, Seen, Slice, Stopped,
};
use super::plan::ComparisonPlan;

/// A name that must be escaped.
const OTHER: &str = "Multi-Paxos <CA> & \"co\"";

/// Two protocols at three sites, four loads, and two more with a crash.
pub(in crate::load) fn comparison(repeats: u32) -> Comparison {
    let mut runs = Vec::new();
    for repeat in 1..=repeats {
        for conflict_percent in [0.0, 25.0] {
            for (clients, crash) in [(10, false), (50, false), (50, true)] {
                let point = Point { conflict_percent, load: Demand::Clients(clients), crash };
                for (index, who) in ["EPaxos", OTHER].into_iter().enumerate() {
                    runs.push(KeptRun {
                        who: who.into(),
                        point,
                        repeat,
                        seed: repeat.into(),
                        virtual_time: true,
                        outcome: KeptOutcome::Seen(Box::new(seen(index, point, clients, repeat))),
                    });
                }
            }
        }
    }
    Comparison {
        format: FORMAT,
        title: "Two & two".into(),
        version: "1.2.3".into(),
        machine: "nothing".into(),
        config: "protocols = [\"epaxos\", '<others>']".into(),
        runs,
    }
}

/// The plan with these lines for two protocols, side by side.
pub(in crate::load) fn plan(lines: &str) -> ComparisonPlan {
    let start = "title = 't'\nreplicas = 3\nprotocols = ['epaxos', 'multi-paxos']\n";
    let text = format!("{start}{lines}");
    ComparisonPlan::parse(Path::new("plan.toml"), &text).expect("a good plan")
}

fn seen(index: usize, point: Point, clients: u32, repeat: u32) -> Seen {
    let base = 60.0 + 20.0 * index as f64 + 0.1 * f64::from(repeat) + point.conflict_percent;
    let latencies = |more: f64| Latencies {
        commit: Some(spread(base + more)),
        execute: spread(base + more + point.conflict_percent),
    };
    let site = |(more, name): (u32, &&str)| KeptSite {
        name: (*name).into(),
        bound_ms: Some(59.9 + f64::from(more)),
        latencies: Some(latencies(10.0 * f64::from(more))),
    };
    let crash = Stopped { site: "CA".into(), as_leader: true, at_s: 2.0, back_s: None };
    let slice = |i: u32| {
        let silent = index == 1 && (20..31).contains(&i);
        Slice {
            at_s: f64::from(i + 1) / 10.0,
            ops_s: if silent { 0.0 } else { 100.0 + f64::from(i % 3) },
            p50_ms: (!silent).then_some(base),
            max_ms: (!silent).then_some(base * 2.0),
        }
    };
    Seen {
        seconds: 10.0,
        operations: u64::from(1_000 * clients + 13 * repeat),
        unanswered: 0,
        fast_share: Some(1.0 - point.conflict_percent / 100.0),
        components: vec![(1, 900), (2, 10)],
        cpu_us: None,
        busiest_cpu_us: None,
        bytes: Some(332.0 + point.conflict_percent),
        messages: Some(10.0),
        busiest: Some(4.0),
        sites: (0..).zip(&["VA", "CA", "JP"]).map(site).collect(),
        all: latencies(10.0),
        paths: Paths { fast: Some(latencies(5.0)), slow: Some(latencies(60.0)) },
        crash: point.crash.then_some(crash),
        over_time: if point.crash { (0..50).map(slice).collect() } else { Vec::new() },
    }
}

fn spread(ms: f64) -> Percentiles {
    let short = |ms: f64| (ms * 1e3).round() / 1e3;
    let percentiles_ms = (0..=100).map(|p| short(ms + 0.1 * f64::from(p))).collect();
    Percentiles {
        count: 1_000,
        mean_ms: short(ms + 5.0),
        percentiles_ms,
        p999_ms: short(ms + 9.99),
    }
}

/// The same with all latencies and traffic multiplied by a factor.
pub(super) fn scaled(comparison: &Comparison, factor: f64) -> Comparison {
    let mut scaled = comparison.clone();
    for run in &mut scaled.runs {
        let KeptOutcome::Seen(seen) = &mut run.outcome else { continue };
        seen.bytes = seen.bytes.map(|bytes| bytes * factor);
        let sites = seen.sites.iter_mut().filter_map(|site| site.latencies.as_mut());
        for latencies in sites.chain([&mut seen.all]) {
            let commit = latencies.commit.iter_mut();
            for spread in commit.chain([&mut latencies.execute]) {
                spread.percentiles_ms.iter_mut().for_each(|ms| *ms *= factor);
            }
        }
    }
    scaled
}
