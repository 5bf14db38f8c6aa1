//! The forms of results: text and CSV for a load, Markdown and a page for a comparison.

pub mod csv;
pub mod html;
pub mod tables;
mod text;

use super::compare::kept::Comparison;

/// The reports of a comparison, each with the name of its file.
pub fn reports(comparison: &Comparison) -> [(&'static str, String); 2] {
    [("report.md", tables::markdown(comparison)), ("report.html", html::page(comparison))]
}
