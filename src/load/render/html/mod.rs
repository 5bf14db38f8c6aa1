//! A comparison as a self-contained page, with a style for light and dark mode. Its `sections` have
//! plots and sentences about them (`plots`), which are drawn by `plot`.

mod plot;
mod plots;
mod sections;
#[cfg(test)]
mod tests;

use std::fmt::Write;

use self::plot::COLOURS;
use self::sections::{Section, sections};
use crate::load::compare::kept::{Comparison, KeptOutcome};
use crate::load::render::tables::{self, Table};

/// The style sheet.
const STYLE: &str = include_str!("report.css");

/// The whole page.
pub fn page(comparison: &Comparison) -> String {
    let title = escape(&comparison.title);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n"
    );
    push_origin(comparison, &mut page);
    push_failures(comparison, &mut page);
    for section in sections(comparison) {
        push_section(comparison, &section, &mut page);
    }
    let config = escape(&comparison.config);
    // Writing to a string cannot fail, here and below.
    let _ = write!(
        page,
        "<section><h2>What was asked for</h2>\n<pre>{config}</pre></section>\n\
         </main>\n</body>\n</html>\n"
    );
    page
}

fn push_origin(comparison: &Comparison, page: &mut String) {
    let Comparison { version, machine, runs, .. } = comparison;
    let version = escape(version);
    let machine = escape(&tables::place(machine, runs));
    let time = match runs.iter().all(|run| run.virtual_time) {
        true => "Virtual time: exact, and the same again for the same seeds.",
        false => "Real time: figures of one machine, comparable with each other.",
    };
    let _ = writeln!(
        page,
        "<p class=\"origin\">isonomy {version}, {count} runs, {machine}. {time} A figure is the \
         median over the repeats; [least–most] follows where they differ.</p>",
        count = runs.len(),
    );
}

fn push_failures(comparison: &Comparison, page: &mut String) {
    for run in &comparison.runs {
        if let KeptOutcome::Failed(why) = &run.outcome {
            let (who, point) = (escape(&run.who), run.point);
            let (repeat, why) = (run.repeat, escape(why));
            let _ = writeln!(
                page,
                "<p class=\"failed\">{who} at {point}, repeat {repeat}, came to nothing: {why}</p>"
            );
        }
    }
}

fn push_section(comparison: &Comparison, section: &Section, page: &mut String) {
    let _ = writeln!(page, "<section><h2>{}</h2>", escape(&section.title));
    for words in &section.words {
        let _ = writeln!(page, "<p>{}</p>", escape(words));
    }
    for table in &section.tables {
        push_table(table, page);
    }
    if !section.plots.is_empty() {
        push_legend(comparison, page);
        page.push_str("<div class=\"plots\">\n");
        for (plot, words) in &section.plots {
            let Some(svg) = plot.svg() else { continue };
            let (title, words) = (escape(&plot.title), escape(words));
            let _ = writeln!(
                page,
                "<figure><h3>{title}</h3>{svg}<figcaption>{words}</figcaption></figure>"
            );
        }
        page.push_str("</div>\n");
    }
    page.push_str("</section>\n");
}

fn push_legend(comparison: &Comparison, page: &mut String) {
    page.push_str("<p class=\"legend\">");
    for (index, who) in comparison.whos().iter().enumerate() {
        let (colour, who) = (index % COLOURS, escape(who));
        // As in the style sheet.
        let line = if colour < COLOURS / 2 { "solid" } else { "dashed" };
        let _ = write!(
            page,
            "<span><i style=\"border-top:.22em {line} var(--c{colour})\"></i>{who}</span> "
        );
    }
    page.push_str("</p>\n");
}

fn push_table(table: &Table, page: &mut String) {
    let heads = |cells: &[String]| -> String {
        cells.iter().map(|cell| format!("<th>{}</th>", escape(cell))).collect()
    };
    let title = escape(&table.title);
    let _ = writeln!(
        page,
        "<h3>{title}</h3>\n<div class=\"wide\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>",
        heads(&table.head)
    );
    for row in &table.rows {
        let (first, rest) = row.split_at(1);
        // The text in brackets is a spread and less important.
        let rest = rest.iter().map(|cell| format!("<td>{}</td>", stacked(cell)));
        let _ = writeln!(page, "<tr>{}{}</tr>", heads(first), rest.collect::<String>());
    }
    page.push_str("</tbody></table></div>\n");
}

/// The values of a cell, such as `1 [0–2] / 3 [2–4]`, with their spreads below them.
fn stacked(cell: &str) -> String {
    let parts = cell.split(" / ").map(|part| match part.split_once(" [") {
        Some((value, spread)) => (value, Some(spread.trim_end_matches(']'))),
        None => (part, None),
    });
    let (values, spreads): (Vec<&str>, Vec<Option<&str>>) = parts.unzip();
    let values = escape(&values.join(" / "));
    if spreads.iter().all(Option::is_none) {
        return values;
    }
    let shown = |spread: &Option<&str>| spread.map_or("–".to_owned(), |it| format!("[{it}]"));
    let spreads: Vec<String> = spreads.iter().map(shown).collect();
    format!("{values}<small>{}</small>", escape(&spreads.join(" / ")))
}

/// Escapes text for a page.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}
