//! Tables of figures, for the page and for Markdown.

use std::fmt::Write;

use crate::load::compare::figures::{Figure, Of, Until};
use crate::load::compare::kept::{Comparison, KeptOutcome, KeptRun, Point};
use crate::load::number::number;
use crate::load::result::Spread;

/// A table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Its title.
    pub title: String,
    /// The headings of its columns.
    pub head: Vec<String>,
    /// Its rows; each has as many cells as `head`.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// The table as Markdown.
    pub fn markdown(&self) -> String {
        let row = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| plain(cell)).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut text = format!("**{}**\n\n{}", plain(&self.title), row(&self.head));
        let rules: Vec<&str> =
            (0..self.head.len()).map(|i| if i == 0 { "---" } else { "--:" }).collect();
        let _ = writeln!(text, "|{}|", rules.join("|"));
        self.rows.iter().for_each(|cells| text.push_str(&row(cells)));
        text
    }
}

/// Escapes text for Markdown and its tables: names come from users' files.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '|' | '`' | '*' | '_' => plain.extend(['\\', c]),
            '&' => plain.push_str("&amp;"),
            '<' => plain.push_str("&lt;"),
            _ if c.is_control() => plain.push(' '),
            _ => plain.push(c),
        }
    }
    plain
}

/// All figures over all sites under one load, without those that were not measured. `None` if no
/// contender was measured.
pub fn overall(comparison: &Comparison, point: Point) -> Option<Table> {
    let whos: Vec<&str> = measured(comparison, point).collect();
    let range = |who: &str, figure| comparison.range(who, point, figure);
    let has = |figure: &Figure| whos.iter().any(|who| range(who, *figure).is_some());
    let figures: Vec<Figure> = Figure::OVERALL.into_iter().filter(has).collect();
    let mut head = vec![String::new()];
    head.extend(figures.iter().map(|figure| figure.name()));
    head.push("repeats".into());
    let row = |who: &&str| {
        let mut row = vec![(*who).to_owned()];
        row.extend(figures.iter().map(|figure| shown(range(who, *figure))));
        row.push(comparison.repeats(who, point).count().to_string());
        row
    };
    let rows: Vec<Vec<String>> = whos.iter().map(row).collect();
    (!rows.is_empty()).then(|| Table { title: point.to_string(), head, rows })
}

/// The median and the 99th percentile at each site, of commit or execution. `None` if there is only
/// one site, or nothing was measured.
pub fn sites(comparison: &Comparison, point: Point, until: Until) -> Option<Table> {
    let sites = comparison.sites();
    let columns = (0..sites.len()).map(Of::Site).chain([Of::All]).map(|of| (until, of));
    let columns: Vec<(Until, Of)> = columns.collect();
    let mut rows = Vec::new();
    for who in measured(comparison, point) {
        let cells = halves_and_mosts(comparison, who, point, &columns);
        if cells.iter().any(Option::is_some) {
            let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "–".into()));
            rows.push([who.to_owned()].into_iter().chain(cells).collect());
        }
    }
    if sites.len() < 2 || rows.is_empty() {
        return None;
    }
    rows.extend(bounds(comparison, point));
    let what = if until == Until::Commit { "Commit" } else { "Execution" };
    let head = [""].into_iter().chain(sites).chain(["all"]).map(str::to_owned).collect();
    Some(Table { title: format!("{what}, p50 / p99 in ms: {point}"), head, rows })
}

/// The median and the 99th percentile by the path on which commands were decided. `None` if no
/// contender's commands took both.
pub fn paths(comparison: &Comparison, point: Point) -> Option<Table> {
    let columns = [Until::Commit, Until::Execution]
        .map(|until| [true, false].map(|fast| (until, Of::Path(fast))))
        .concat();
    let mut rows = Vec::new();
    for who in measured(comparison, point) {
        let cells = halves_and_mosts(comparison, who, point, &columns);
        if let Some(cells) = cells.into_iter().collect::<Option<Vec<String>>>() {
            let share = shown(comparison.range(who, point, Figure::FastShare));
            rows.push([who.to_owned(), share].into_iter().chain(cells).collect());
        }
    }
    let head = [
        "",
        "fast path (%)",
        "commit, fast path",
        "commit, slow path",
        "execution, fast path",
        "execution, slow path",
    ];
    (!rows.is_empty()).then(|| Table {
        title: format!("By path, p50 / p99 in ms: {point}"),
        head: head.map(str::to_owned).to_vec(),
        rows,
    })
}

/// The median and the 99th percentile of each latency that was measured.
fn halves_and_mosts(
    comparison: &Comparison,
    who: &str,
    point: Point,
    columns: &[(Until, Of)],
) -> Vec<Option<String>> {
    let cell = |(until, of): &(Until, Of)| {
        let at = |p| comparison.range(who, point, Figure::Latency(*until, *of, p)).map(short);
        Some(format!("{} / {}", at(50)?, at(99)?))
    };
    columns.iter().map(cell).collect()
}

/// The lower bounds for leaderless protocols.
fn bounds(comparison: &Comparison, point: Point) -> Option<Vec<String>> {
    let sites = || comparison.seen().filter(move |(run, _)| run.point == point);
    let bounds: Vec<f64> =
        sites().next()?.1.sites.iter().map(|site| site.bound_ms).collect::<Option<_>>()?;
    let mean = bounds.iter().sum::<f64>() / bounds.len() as f64;
    let cells = bounds.into_iter().map(number).chain([format!("mean {}", number(mean))]);
    Some(["lower bound without a leader".to_owned()].into_iter().chain(cells).collect())
}

/// The contenders measured under a load.
fn measured(comparison: &Comparison, point: Point) -> impl Iterator<Item = &str> {
    let whos = comparison.whos().into_iter();
    whos.filter(move |who| comparison.repeats(who, point).next().is_some())
}

fn shown(range: Option<Spread>) -> String {
    range.map_or_else(|| "–".into(), |range| range.to_string())
}

/// Without the spread if it is below half a percent.
fn short(range: Spread) -> String {
    let near = |value: f64| (value - range.median).abs() <= 0.005 * range.median.abs();
    match near(range.min) && near(range.max) {
        true => number(range.median),
        false => range.to_string(),
    }
}

/// Where the runs were made, as text.
pub(super) fn place(machine: &str, runs: &[KeptRun]) -> String {
    match runs.iter().any(|run| !run.virtual_time) {
        true => format!("on {machine}"),
        false => "in virtual time".to_owned(),
    }
}

/// The whole comparison as Markdown.
pub fn markdown(comparison: &Comparison) -> String {
    let Comparison { title, version, machine, runs, .. } = comparison;
    let mut text = format!(
        "# {}\n\nisonomy {version}, {} runs, {}. Medians over the repeats, with [least–most] where \
         they differ.\n",
        plain(title),
        runs.len(),
        plain(&place(machine, runs))
    );
    for run in runs {
        if let KeptOutcome::Failed(why) = &run.outcome {
            let (who, why) = (plain(&run.who), plain(why));
            let (point, repeat) = (run.point, run.repeat);
            let _ = writeln!(text, "\n{who} at {point}, repeat {repeat}, came to nothing: {why}");
        }
    }
    for point in comparison.points() {
        let tables = [
            overall(comparison, point),
            paths(comparison, point),
            sites(comparison, point, Until::Commit),
            sites(comparison, point, Until::Execution),
        ];
        for table in tables.iter().flatten() {
            let _ = write!(text, "\n{}", table.markdown());
        }
    }
    text
}
