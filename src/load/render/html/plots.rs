//! Computes the lines of a report's plots from the runs, and explains them in sentences made only
//! from their figures.

use super::plot::Line;
use crate::load::compare::figures::{Better, Figure, Of, Until};
use crate::load::compare::kept::{Comparison, Point, Seen, Slice, Stopped};
use crate::load::number::{median, number};
use crate::load::result::Spread;

/// Differences below this share are not mentioned.
const ALIKE: f64 = 0.02;

/// The figure of a plot over time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lined {
    /// Operations per second.
    Throughput,
    /// The median latency, in milliseconds.
    Latency,
}

impl Lined {
    /// The value of a slice; `None` for the latency if no operation was answered in it.
    pub(super) fn of(self, slice: &Slice) -> Option<f64> {
        match self {
            Lined::Throughput => Some(slice.ops_s),
            Lined::Latency => slice.p50_ms,
        }
    }
}

/// Throughput and a percentile of latency under increasing load.
pub(super) fn load(comparison: &Comparison, points: &[Point], percentile: usize) -> Vec<Line> {
    by_who(comparison, |who| {
        let at = |point: &Point| {
            let throughput = comparison.range(who, *point, Figure::Throughput)?;
            let latency = comparison.range(who, *point, Figure::execution(percentile))?;
            Some((throughput.median, latency))
        };
        dotted(points.iter().filter_map(at))
    })
}

/// A figure with an increasing share of conflicts.
pub(super) fn conflicts(comparison: &Comparison, points: &[Point], figure: Figure) -> Vec<Line> {
    by_who(comparison, |who| {
        let at =
            |point: &Point| Some((point.conflict_percent, comparison.range(who, *point, figure)?));
        dotted(points.iter().filter_map(at))
    })
}

/// The percentage of a site's commands that were answered within a given time in milliseconds.
pub(super) fn distribution(comparison: &Comparison, point: Point, site: usize) -> Vec<Line> {
    by_who(comparison, |who| {
        let at = |percentile: usize| {
            let figure = Figure::Latency(Until::Execution, Of::Site(site), percentile);
            let range = comparison.range(who, point, figure)?;
            Some((range.median, percentile as f64))
        };
        let mut piece: Vec<(f64, f64)> = (0..100).filter_map(at).collect();
        // Start at zero, so that a site where all commands take the same time still has a visible
        // line.
        let first = piece.first().map(|(ms, _)| (*ms, 0.0));
        first.into_iter().for_each(|first| piece.insert(0, first));
        Line { colour: 0, pieces: vec![piece], whiskers: Vec::new(), dots: false }
    })
}

/// The replica that stopped under a load, if any.
pub(super) fn stopped(comparison: &Comparison, point: Point) -> Option<Stopped> {
    let seen = comparison.seen().filter(|(run, _)| run.point == point);
    seen.into_iter().find_map(|(_, seen)| seen.crash.clone())
}

/// The course of the runs, slice by slice.
pub(super) fn over_time(comparison: &Comparison, point: Point, lined: Lined) -> Vec<Line> {
    by_who(comparison, |who| {
        let mut pieces = vec![Vec::new()];
        for slice in slices(comparison, who, point) {
            let (at, values) = (slice.0, slice.1.iter().filter_map(|it| lined.of(it)));
            let values: Vec<f64> = values.collect();
            let last = pieces.last_mut().expect("there is one from the start");
            match values.is_empty() {
                true if !last.is_empty() => pieces.push(Vec::new()),
                true => {}
                false => last.push((at, median(&values))),
            }
        }
        Line { colour: 0, pieces, whiskers: Vec::new(), dots: false }
    })
}

/// The slices of all repeats, by time.
pub(super) fn slices(comparison: &Comparison, who: &str, point: Point) -> Vec<(f64, Vec<Slice>)> {
    let repeats: Vec<&Seen> = comparison.repeats(who, point).collect();
    let most = repeats.iter().map(|seen| seen.over_time.len()).max().unwrap_or_default();
    let at = |index: usize| {
        let slices = repeats.iter().filter_map(|seen| seen.over_time.get(index).copied());
        let slices: Vec<Slice> = slices.collect();
        Some((slices.first()?.at_s, slices))
    };
    (0..most).filter_map(at).collect()
}

/// A line of points with their spreads.
fn dotted(points: impl Iterator<Item = (f64, Spread)>) -> Line {
    let mut line = Line { colour: 0, pieces: vec![Vec::new()], whiskers: Vec::new(), dots: true };
    for (x, range) in points {
        line.pieces[0].push((x, range.median));
        line.whiskers.push((x, range.min, range.max));
    }
    line
}

/// One line for each contender that has one.
fn by_who(comparison: &Comparison, line: impl Fn(&str) -> Line) -> Vec<Line> {
    let whos = comparison.whos().into_iter().enumerate();
    let lines = whos.map(|(colour, who)| Line { colour, ..line(who) });
    lines.filter(|line| line.pieces.iter().any(|piece| !piece.is_empty())).collect()
}

/// The contenders' medians of a figure under a load, the best first.
fn ranked<'a>(comparison: &'a Comparison, point: Point, figure: Figure) -> Vec<(&'a str, f64)> {
    let value = |who: &'a str| Some((who, comparison.range(who, point, figure)?.median));
    let mut all: Vec<(&str, f64)> = comparison.whos().into_iter().filter_map(value).collect();
    all.sort_by(|a, b| match figure.better() {
        Better::Higher => b.1.total_cmp(&a.1),
        Better::Lower => a.1.total_cmp(&b.1),
    });
    all
}

/// The best and the worst, such as "A is best with 71 ms, B last with 172 ms (2.42 times)".
fn best_and_worst(ranked: &[(&str, f64)], unit: &str) -> String {
    match ranked {
        [] => "nobody was measured".into(),
        [(who, value)] => format!("{who}: {}{unit}", number(*value)),
        [(best, one), .., (worst, other)] => {
            let (low, high) = (one.min(*other), one.max(*other));
            let (first, last) = (number(*one), number(*other));
            if high - low <= ALIKE * high {
                return format!("all alike, {first} to {last}{unit}");
            }
            let times = match low > 0.0 {
                true => format!(" ({} times)", number(high / low)),
                false => String::new(),
            };
            format!("{best} is best with {first}{unit}, {worst} last with {last}{unit}{times}")
        }
    }
}

/// The most important figures under a load.
pub(super) fn headline(comparison: &Comparison, point: Point) -> String {
    let said = |figure: Figure, unit| best_and_worst(&ranked(comparison, point, figure), unit);
    let throughput = said(Figure::Throughput, " operations/s");
    let (half, most) = (said(Figure::execution(50), " ms"), said(Figure::execution(99), " ms"));
    format!("{point}. Throughput: {throughput}. Median latency: {half}. p99: {most}.")
}

/// Which contender has the highest throughput, and at what latency.
pub(super) fn load_words(comparison: &Comparison, lines: &[Line], percentile: usize) -> String {
    let mut words = Vec::new();
    for (who, points) in named(comparison, lines) {
        let Some(most) = points.iter().max_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
        let (ops, ms) = (number(most.0), number(most.1));
        let least = points.iter().map(|it| it.1).fold(f64::INFINITY, f64::min);
        words.push(format!(
            "{who} comes to {ops} operations/s, at {ms} ms; its least is {} ms",
            number(least)
        ));
    }
    format!("p{percentile}: {}.", words.join("; "))
}

/// The points of each line, with its contender.
fn named<'a>(
    comparison: &'a Comparison,
    lines: &'a [Line],
) -> impl Iterator<Item = (&'a str, &'a [(f64, f64)])> {
    let whos = comparison.whos();
    lines.iter().map(move |line| (whos[line.colour], &line.pieces[0][..]))
}

/// How fast each contender is at a site.
pub(super) fn site_words(comparison: &Comparison, point: Point, site: usize) -> String {
    let said = |percentile| {
        let figure = Figure::Latency(Until::Execution, Of::Site(site), percentile);
        best_and_worst(&ranked(comparison, point, figure), " ms")
    };
    let bound = comparison.seen().find(|(run, _)| run.point == point);
    let bound = bound.and_then(|(_, seen)| seen.sites.get(site)?.bound_ms);
    let bound = bound.map(|ms| format!(" No leaderless commit is below {} ms.", number(ms)));
    format!("At the median {}; at p99 {}.{}", said(50), said(99), bound.unwrap_or_default())
}

/// How a figure changes with more conflicts. Contenders without a change are summed up.
pub(super) fn conflict_words(comparison: &Comparison, lines: &[Line], figure: Figure) -> String {
    let (mut words, mut steady) = (Vec::new(), Vec::new());
    for (who, points) in named(comparison, lines) {
        let mut all = points.to_vec();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let [first, .., last] = &all[..] else { continue };
        let (from, to) = (number(first.1), number(last.1));
        if (last.1 - first.1).abs() <= ALIKE * first.1.abs().max(last.1.abs()) {
            steady.push((who, from));
            continue;
        }
        words.push(format!(
            "{who} goes from {from} at {}% to {to} at {}%",
            number(first.0),
            number(last.0)
        ));
    }
    match &steady[..] {
        [] => {}
        [(who, value)] => words.push(format!("{who} stays at {value}")),
        _ if words.is_empty() => words.push("all stay where they are".to_owned()),
        _ => words.push("the others stay where they are".to_owned()),
    }
    format!("{}: {}.", figure.name(), words.join("; "))
}

/// The effect of a crash.
pub(super) fn crash_words(
    comparison: &Comparison,
    point: Point,
    stopped: &Stopped,
    lined: Lined,
) -> String {
    let mut words = Vec::new();
    for who in comparison.whos() {
        let slices = slices(comparison, who, point);
        let mean = |from: f64, to: f64| {
            let within = slices.iter().filter(|(at, _)| *at > from && *at <= to);
            let values = within.flat_map(|(_, all)| all.iter().filter_map(|it| lined.of(it)));
            let values: Vec<f64> = values.collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let end = slices.last().map_or(0.0, |(at, _)| *at);
        let down_until = stopped.back_s.unwrap_or(end);
        let before = mean(stopped.at_s * 0.4, stopped.at_s);
        let (Some(before), Some(down)) = (before, mean(stopped.at_s, down_until)) else { continue };
        let (from, to) = (number(before), number(down));
        words.push(match lined {
            Lined::Latency => format!("{who} {from} ms before and {to} ms while it is down"),
            Lined::Throughput => {
                let silent = silence(&slices, stopped.at_s);
                let silent = match silent > 0.0 {
                    true => format!("nothing is answered for {} s", number(silent)),
                    false => "it never stops".to_owned(),
                };
                format!("{who} {from} operations/s before and {to} while it is down, {silent}")
            }
        });
    }
    format!("{}.", words.join("; "))
}

/// The longest time after a given moment without answers in the median repeat, in seconds.
fn silence(slices: &[(f64, Vec<Slice>)], from: f64) -> f64 {
    let (mut longest, mut since, mut before) = (0.0_f64, None, from);
    for (at, all) in slices.iter().filter(|(at, _)| *at > from) {
        let rates: Vec<f64> = all.iter().map(|slice| slice.ops_s).collect();
        match median(&rates) > 0.0 {
            true => since = None,
            false => {
                let start = *since.get_or_insert(before);
                longest = longest.max(at - start);
            }
        }
        before = *at;
    }
    longest
}
