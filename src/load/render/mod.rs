//! The output formats of results: text and time series for a load, a table or JSON for the demo,
//! Markdown and a page for a comparison. The JSON of a load is its
//! [`Outcome`](super::result::Outcome).

pub mod csv;
pub mod demo;
pub mod html;
pub mod tables;
mod text;

use super::compare::kept::Comparison;

/// The reports of a comparison, each with its file name.
pub fn reports(comparison: &Comparison) -> [(&'static str, String); 2] {
    [("report.md", tables::markdown(comparison)), ("report.html", html::page(comparison))]
}
