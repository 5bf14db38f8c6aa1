//! Computes the lines of a report's plots from the runs.

use super::plot::Line;
use crate::load::compare::figures::{Figure, Of, Until};
use crate::load::compare::kept::{Comparison, Point, Seen, Slice, Stopped};
use crate::load::number::median;
use crate::load::result::Spread;

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
