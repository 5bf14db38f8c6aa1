//! A fixed comparison, and what its report has to show.

use super::figures::Figure;
use super::run::{
    Asked, Comparison, FORMAT, Latencies, Outcome, Paths, Point, Run, Seen, Site, Slice, Spread,
    Stopped,
};
use super::{html, sections, tables};

/// One that must be escaped.
const OTHER: &str = "Multi-Paxos <CA> & \"co\"";

/// Two protocols at three sites, four loads, and two more with a crash.
pub(super) fn comparison(repeats: u32) -> Comparison {
    let mut runs = Vec::new();
    for repeat in 1..=repeats {
        for conflict_percent in [0.0, 25.0] {
            for (clients, crash) in [(10, false), (50, false), (50, true)] {
                let point = Point { conflict_percent, load: Asked::Clients(clients), crash };
                for (index, who) in ["EPaxos", OTHER].into_iter().enumerate() {
                    runs.push(Run {
                        who: who.into(),
                        point,
                        repeat,
                        seed: repeat.into(),
                        virtual_time: true,
                        outcome: Outcome::Seen(Box::new(seen(index, point, clients, repeat))),
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

fn seen(index: usize, point: Point, clients: u32, repeat: u32) -> Seen {
    let base = 60.0 + 20.0 * index as f64 + 0.1 * f64::from(repeat) + point.conflict_percent;
    let latencies = |more: f64| Latencies {
        commit: Some(spread(base + more)),
        execute: spread(base + more + point.conflict_percent),
    };
    let site = |(more, name): (u32, &&str)| Site {
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

fn spread(ms: f64) -> Spread {
    let short = |ms: f64| (ms * 1e3).round() / 1e3;
    let percentiles_ms = (0..=100).map(|p| short(ms + 0.1 * f64::from(p))).collect();
    Spread { count: 1_000, mean_ms: short(ms + 5.0), percentiles_ms, p999_ms: short(ms + 9.99) }
}

/// The same with all latencies, and all that is sent, times a factor.
pub(super) fn scaled(comparison: &Comparison, factor: f64) -> Comparison {
    let mut scaled = comparison.clone();
    for run in &mut scaled.runs {
        let Outcome::Seen(seen) = &mut run.outcome else { continue };
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

/// Whether every tag is closed in its turn.
fn well_formed(page: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").ok_or("no document type")?;
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        let bad = text
            .split('&')
            .skip(1)
            .any(|it| it.split_once(';').is_none_or(|(name, _)| name.len() > 5));
        if bad || text.contains('>') {
            return Err(format!("unescaped: {text}"));
        }
        let end = rest[at..].find('>').ok_or("a tag without end")? + at;
        let tag = &rest[at + 1..end];
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap_or_default();
        if tag.matches('"').count() % 2 != 0 {
            return Err(format!("quotes: {tag}"));
        }
        if tag.starts_with('/') {
            let last = open.pop();
            if last != Some(name) {
                return Err(format!("</{name}> closes {last:?}"));
            }
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        rest = &rest[end + 1..];
        // A style sheet is no text.
        if name == "style" && !tag.starts_with('/') {
            rest = &rest[rest.find("</style>").ok_or("a style without end")?..];
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("left open: {open:?}")) }
}

#[test]
fn a_page_is_well_formed_and_needs_nothing_else() {
    let page = html::page(&comparison(3));
    assert_eq!(well_formed(&page), Ok(()));
    for word in ["http:", "https:", "//", "<script", "<link", "@import", "url(", "src="] {
        assert!(!page.contains(word), "{word} in the page");
    }
    assert!(page.contains("Multi-Paxos &lt;CA&gt; &amp; &quot;co&quot;") && !page.contains("<CA>"));
}

#[test]
fn a_checker_that_finds_nothing_would_be_of_no_use() {
    for bad in ["<p>", "<p></b>", "<p a=\"></p>", "<p>a & b</p>", "<p></p></p>"] {
        assert!(well_formed(&format!("<!DOCTYPE html>{bad}")).is_err(), "{bad}");
    }
    assert_eq!(well_formed("<!DOCTYPE html><p a=\"b\">&lt;<br/></p>"), Ok(()));
}

#[test]
fn a_report_has_every_plot_each_with_its_words() {
    let comparison = comparison(3);
    let sections = sections::sections(&comparison);
    let titles: Vec<&str> = sections.iter().map(|section| &section.title[..]).collect();
    assert_eq!(
        titles,
        [
            "Everything in one table",
            "Fast path against slow",
            "At each site",
            "Throughput and latency",
            "Latency at each site",
            "Around a crash",
            "What conflicts cost"
        ]
    );
    let plots: Vec<usize> = sections.iter().map(|section| section.plots.len()).collect();
    // Two percentiles at two shares; three sites at two; two lines at two; five figures (nobody
    // has a CPU) at two loads.
    assert_eq!(plots, [0, 0, 0, 4, 6, 4, 10]);
    for (plot, words) in sections.iter().flat_map(|section| &section.plots) {
        let said = ["EPaxos", "alike", "all stay"].iter().any(|it| words.contains(it));
        assert!(said, "{words}");
        let svg = plot.svg().expect("something is drawn");
        assert!(svg.contains("var(--c0)") && svg.contains("var(--c1)"), "{}", plot.title);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{}", plot.title);
        assert!(!svg.contains('#'), "only colours that have names: {}", plot.title);
    }
}

#[test]
fn words_are_made_from_the_figures() {
    let comparison = comparison(3);
    let page = html::page(&comparison);
    for words in [
        "EPaxos comes to 5,003 operations/s",
        "nothing is answered for 1.1 s",
        "it never stops",
        "EPaxos goes from 100 at 0% to 75 at 25%",
        "No leaderless commit is below 59.9 ms.",
    ] {
        assert!(page.contains(words), "{words}");
    }
}

#[test]
fn tables_show_medians_and_spread() {
    let comparison = comparison(3);
    let text = tables::markdown(&comparison);
    // 60 + 0.1 a repeat, the 50th percentile 5 above the least.
    let point = comparison.points()[0];
    assert_eq!(
        comparison.values("EPaxos", point, Figure::Execute(Some(0), 50)),
        [65.1, 65.2, 65.3]
    );
    assert!(text.contains("75.2 [75.1–75.3]"), "{text}");
    assert!(text.contains("65.2 / 70.1"), "{text}");
    assert!(
        text.contains("lower bound without a leader | 59.9 | 60.9 | 61.9 | mean 60.9"),
        "{text}"
    );
    assert!(!text.contains("CPU"), "what nobody has is left out");
    // 5 more than the least at the median, 5 of it for the fast path.
    let path = "EPaxos | 100 | 70.2 / 75.1 | 125.2 / 130.1 | 70.2 / 75.1 | 125.2 / 130.1 |";
    assert!(text.contains(path), "{text}");
}

#[test]
fn names_as_people_have_them_break_no_form() {
    let mut comparison = comparison(1);
    comparison.title = "A & B <script>alert(1)</script> | \"C\"".into();
    for run in &mut comparison.runs {
        let Outcome::Seen(seen) = &mut run.outcome else { panic!("all were seen") };
        seen.sites[0].name = "a|b, <img src=x> `c` \\".into();
    }
    let page = html::page(&comparison);
    assert_eq!(well_formed(&page), Ok(()));
    assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
    let text = tables::markdown(&comparison);
    assert!(!text.contains("<script") && !text.contains("<img"), "{text}");
    // Each row of a table has as many cells as its head.
    let cells = |line: &str| {
        let mut before = ' ';
        let mut bars = 0;
        for c in line.chars() {
            bars += usize::from(c == '|' && before != '\\');
            before = if before == '\\' { ' ' } else { c };
        }
        bars
    };
    let rows: Vec<usize> =
        text.lines().map(|it| if it.starts_with('|') { cells(it) } else { 0 }).collect();
    assert!(rows.windows(2).all(|it| it[0] == it[1] || it[0] == 0 || it[1] == 0), "{text}");
    assert!(text.contains("a\\|b, &lt;img src=x> \\`c\\` \\\\"), "{text}");
    let json = serde_json::to_string(&comparison).expect("it has a JSON form");
    assert!(serde_json::from_str::<Comparison>(&json).expect("its own form") == comparison);
}

#[test]
fn a_run_that_failed_is_named_and_the_others_shown() {
    let mut comparison = comparison(2);
    comparison.runs[0].outcome = Outcome::Failed("no <room>".into());
    let page = html::page(&comparison);
    assert_eq!(well_formed(&page), Ok(()));
    assert!(page.contains("came to nothing: no &lt;room&gt;"));
    assert!(tables::markdown(&comparison).contains("came to nothing: no &lt;room>"));
    for run in &mut comparison.runs {
        run.outcome = Outcome::Failed("nothing works".into());
    }
    assert_eq!(well_formed(&html::page(&comparison)), Ok(()));
}
