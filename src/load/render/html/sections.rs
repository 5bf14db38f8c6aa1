//! The sections of a report in order: tables, plots, and for each plot a sentence made from its
//! figures.

use super::plot::Plot;
use super::plots::{self, Lined};
use crate::load::compare::figures::{Figure, Until, distinct};
use crate::load::compare::kept::{Comparison, Point};
use crate::load::render::tables::{self, Table};

/// A section of a report.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Section {
    /// Its heading.
    pub(super) title: String,
    /// Introductory paragraphs.
    pub(super) words: Vec<String>,
    pub(super) tables: Vec<Table>,
    /// Plots, each with its explanation.
    pub(super) plots: Vec<(Plot, String)>,
}

impl Section {
    /// A section of plots.
    fn of(title: &str, words: &str, plots: Vec<(Plot, String)>) -> Section {
        let words = if words.is_empty() { Vec::new() } else { vec![words.into()] };
        Section { title: title.into(), words, tables: Vec::new(), plots }
    }
}

/// All sections with contents.
pub(super) fn sections(comparison: &Comparison) -> Vec<Section> {
    let all = [
        in_one_table(comparison),
        by_path(comparison),
        at_each_site(comparison),
        load(comparison),
        distributions(comparison),
        over_time(comparison),
        conflicts(comparison),
    ];
    let said = |section: &Section| !(section.tables.is_empty() && section.plots.is_empty());
    all.into_iter().filter(said).collect()
}

fn in_one_table(comparison: &Comparison) -> Section {
    let points = comparison.points();
    Section {
        title: "Everything in one table".into(),
        words: points.iter().map(|point| plots::headline(comparison, *point)).collect(),
        tables: points.iter().filter_map(|it| tables::overall(comparison, *it)).collect(),
        ..Section::default()
    }
}

fn by_path(comparison: &Comparison) -> Section {
    let points = comparison.points().into_iter();
    Section {
        title: "Fast path against slow".into(),
        words: vec![
            "A command is on the fast path if its decision took one round trip from the replica \
                that was asked: with Multi-Paxos, if that replica led. In real time the replica \
                counts both, from the call on; elsewhere on this page execution is what the \
                client sees."
                .into(),
        ],
        tables: points.filter_map(|point| tables::paths(comparison, point)).collect(),
        ..Section::default()
    }
}

fn at_each_site(comparison: &Comparison) -> Section {
    let points = comparison.points();
    let both = |point: &Point| {
        let both = [Until::Commit, Until::Execution];
        both.map(|until| tables::sites(comparison, *point, until)).into_iter().flatten()
    };
    Section {
        title: "At each site".into(),
        words: vec![
            "Commit: from a client's call until its own replica knows the decision. Execution: \
                until it is executed there and answered."
                .into(),
        ],
        tables: points.iter().flat_map(both).collect(),
        ..Section::default()
    }
}

/// Throughput against latency, if there are several loads.
fn load(comparison: &Comparison) -> Section {
    let mut all = Vec::new();
    for conflicts in conflict_shares(comparison) {
        let points = at_share(comparison, conflicts);
        if points.len() < 2 {
            continue;
        }
        for percentile in [50, 99] {
            let lines = plots::load(comparison, &points, percentile);
            let words = plots::load_words(comparison, &lines, percentile);
            let title = format!("Latency p{percentile} by throughput, {conflicts}% conflicts");
            let plot = Plot { log: true, ..Plot::of(title, "operations/s", "ms", lines) };
            all.push((plot, words));
        }
    }
    Section::of(
        "Throughput and latency",
        "Each dot is one load, from left to right: more is asked, and answers take longer. \
                Bars reach from the least to the most of the repeats. The latency axis is \
                logarithmic where there is much to be told apart.",
        all,
    )
}

/// The distribution of latencies at each site, under the smallest load.
fn distributions(comparison: &Comparison) -> Section {
    let mut all = Vec::new();
    for conflicts in conflict_shares(comparison) {
        let Some(point) = at_share(comparison, conflicts).first().copied() else { continue };
        for (index, site) in comparison.sites().into_iter().enumerate() {
            let lines = plots::distribution(comparison, point, index);
            if lines.is_empty() {
                continue;
            }
            let (x, y) = ("ms from call to answer", "% answered by then");
            let plot = Plot::of(format!("{site}, {point}"), x, y, lines);
            let plot = Plot { log_x: true, top: Some(100.0), ..plot };
            all.push((plot, plots::site_words(comparison, point, index)));
        }
    }
    Section::of(
        "Latency at each site",
        "How many commands were executed and answered within how long: up to the 99th \
                percentile, each percentile the median of the repeats. The axis of time is \
                logarithmic where there is much to be told apart.",
        all,
    )
}

/// The course of a run around a crash.
fn over_time(comparison: &Comparison) -> Section {
    let mut all = Vec::new();
    for point in comparison.points() {
        let Some(stopped) = plots::stopped(comparison, point) else { continue };
        let mut who = if stopped.as_leader { "the leader".into() } else { stopped.site.clone() };
        if let Some(back) = stopped.back_s {
            who.push_str(&format!(", back at {back} s,"));
        }
        let load = Point { crash: false, ..point };
        let drawn = [
            (Lined::Throughput, "Throughput", "operations/s"),
            (Lined::Latency, "Median latency", "ms (p50)"),
        ];
        for (lined, what, y) in drawn {
            let lines = plots::over_time(comparison, point, lined);
            let end = lines.iter().flat_map(|it| it.pieces.iter().flatten()).map(|it| it.0);
            let end = end.fold(stopped.at_s, f64::max);
            let title = format!("{what} when {who} stops at {} s: {load}", stopped.at_s);
            let plot = Plot {
                log: lined == Lined::Latency,
                shaded: vec![(stopped.at_s, stopped.back_s.unwrap_or(end))],
                ..Plot::of(title, "seconds", y, lines)
            };
            all.push((plot, plots::crash_words(comparison, point, &stopped, lined)));
        }
    }
    Section::of(
        "Around a crash",
        "While the ground is shaded the replica is down, and the clients of its site with \
                it where time is virtual; else they go on at other sites. Where nobody leads, the \
                one that stops for the leader would be it elsewhere. Each slice is the median of \
                the repeats. The latency axis is logarithmic where there is much to be told apart.",
        all,
    )
}

/// The effect of conflicts, if there are several shares of them.
fn conflicts(comparison: &Comparison) -> Section {
    let mut all = Vec::new();
    let figures = [
        Figure::FastShare,
        Figure::execution(99),
        Figure::LargestComponent,
        Figure::Cpu,
        Figure::BusiestCpu,
        Figure::Bytes,
        Figure::Messages,
    ];
    for load in distinct(undisturbed(comparison).iter().map(|point| point.load)) {
        let points = undisturbed(comparison).into_iter().filter(|point| point.load == load);
        let points: Vec<Point> = points.collect();
        if points.len() < 2 {
            continue;
        }
        for figure in figures {
            let lines = plots::conflicts(comparison, &points, figure);
            if lines.is_empty() {
                continue;
            }
            let words = plots::conflict_words(comparison, &lines, figure);
            let (title, x) = (format!("{}, {load}", figure.name()), "% of commands that conflict");
            let top = (figure == Figure::FastShare).then_some(105.0);
            all.push((Plot { top, ..Plot::of(title, x, &figure.name(), lines) }, words));
        }
    }
    Section::of("What conflicts cost", "", all)
}

/// All loads without a crash; if there are none, all loads.
fn undisturbed(comparison: &Comparison) -> Vec<Point> {
    let all = comparison.points();
    let quiet: Vec<Point> = all.iter().copied().filter(|point| !point.crash).collect();
    if quiet.is_empty() { all } else { quiet }
}

fn conflict_shares(comparison: &Comparison) -> Vec<f64> {
    let mut shares: Vec<f64> =
        undisturbed(comparison).iter().map(|point| point.conflict_percent).collect();
    shares.sort_by(f64::total_cmp);
    shares.dedup();
    shares
}

/// The loads with one share of conflicts, the smallest first.
fn at_share(comparison: &Comparison, conflicts: f64) -> Vec<Point> {
    let points = undisturbed(comparison).into_iter();
    let mut points: Vec<Point> = points.filter(|it| it.conflict_percent == conflicts).collect();
    points.sort_by(|a, b| a.load.amount().total_cmp(&b.load.amount()));
    points
}
