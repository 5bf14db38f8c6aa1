//! What the report of a fixed comparison must show.

use roxmltree::{Document, ParsingOptions};

use super::{sections, stacked};
use crate::load::compare::figures::{Figure, Of, Until};
use crate::load::compare::fixture::{comparison, plan};
use crate::load::compare::keep::{RunStore, read};
use crate::load::compare::kept::{Comparison, KeptOutcome};
use crate::load::compare::series::run;
use crate::load::render::{html, reports, tables};

/// Whether the page is XML, too: tags are nested, texts and attributes escaped.
fn well_formed(page: &str) -> Result<(), roxmltree::Error> {
    assert!(page.starts_with("<!DOCTYPE html>"));
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(page, options).map(drop)
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
    // Two percentiles at two shares; three sites at two; two lines at two; five figures (CPU was
    // not measured) at two loads.
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
    // 60 + 0.1 per repeat; the 50th percentile is 5 above the minimum.
    let point = comparison.points()[0];
    assert_eq!(
        comparison.values("EPaxos", point, Figure::Latency(Until::Execution, Of::Site(0), 50)),
        [65.1, 65.2, 65.3]
    );
    assert!(text.contains("75.2 [75.1–75.3]"), "{text}");
    assert!(text.contains("65.2 / 70.1"), "{text}");
    assert!(
        text.contains("lower bound without a leader | 59.9 | 60.9 | 61.9 | mean 60.9"),
        "{text}"
    );
    assert!(!text.contains("CPU"), "what nobody has is left out");
    // The median is 5 above the minimum, and the fast path is 5 faster.
    let path = "EPaxos | 100 | 70.2 / 75.1 | 125.2 / 130.1 | 70.2 / 75.1 | 125.2 / 130.1 |";
    assert!(text.contains(path), "{text}");
}

#[test]
fn names_as_people_have_them_break_no_form() {
    let mut comparison = comparison(1);
    comparison.title = "A & B <script>alert(1)</script> | \"C\"".into();
    for run in &mut comparison.runs {
        let KeptOutcome::Seen(seen) = &mut run.outcome else { panic!("all were seen") };
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
    comparison.runs[0].outcome = KeptOutcome::Failed("no <room>".into());
    let page = html::page(&comparison);
    assert_eq!(well_formed(&page), Ok(()));
    assert!(page.contains("came to nothing: no &lt;room&gt;"));
    assert!(tables::markdown(&comparison).contains("came to nothing: no &lt;room>"));
    for run in &mut comparison.runs {
        run.outcome = KeptOutcome::Failed("nothing works".into());
    }
    assert_eq!(well_formed(&html::page(&comparison)), Ok(()));
}

#[test]
fn virtual_time_gives_the_same_bytes_every_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let plan = plan(
        "conflicts = [0, 50]\nclients = [2]\nrepeats = 2\nseconds = 0.2\n\
         crash = { site = 'r3', at_s = 0.05 }\n",
    );
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let files = ["a", "b"].map(|name| {
        let dir = dir.path().join(name);
        let mut store = RunStore::new(&dir).expect("it is empty");
        let ran = run(&plan, true, Some(&mut store), |_, _| true);
        let (comparison, kept) = runtime.block_on(ran);
        kept.expect("there is room");
        store.finish(&comparison, &reports(&comparison)).expect("there is room");
        assert_eq!(comparison.seen().count(), 8, "all were measured");
        assert!(read(&dir.join("result.json")).is_ok());
        ["result.json", "report.html", "report.md"]
            .map(|name| std::fs::read(dir.join(name)).expect("it was written"))
    });
    assert!(files[0] == files[1]);
}

#[test]
fn spreads_stand_below_their_values() {
    let cases = [
        ("70.5", "70.5"),
        ("70.5 / 141", "70.5 / 141"),
        ("72 [70–75]", "72<small>[70–75]</small>"),
        ("70.5 / 141 [70–142]", "70.5 / 141<small>– / [70–142]</small>"),
        ("1 [0–2] / 3 [2–4]", "1 / 3<small>[0–2] / [2–4]</small>"),
        ("<–> / 1", "&lt;–&gt; / 1"),
    ];
    for (cell, wanted) in cases {
        assert_eq!(stacked(cell), wanted);
    }
}
