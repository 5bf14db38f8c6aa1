//! The forms of results: text and files of series for a load, a table or JSON for the demo,
//! Markdown and a page for a comparison. A load's JSON is that of its
//! [`Outcome`](super::result::Outcome).

pub mod csv;
pub mod demo;
pub mod html;
pub mod tables;
mod text;

use super::compare::kept::Comparison;

/// The reports of a comparison, each with the name of its file.
pub fn reports(comparison: &Comparison) -> [(&'static str, String); 2] {
    [("report.md", tables::markdown(comparison)), ("report.html", html::page(comparison))]
}
