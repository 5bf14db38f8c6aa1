//! A comparison as a page that needs nothing but itself: `page` puts it together from `sections`,
//! whose `plots` are drawn by `plot` and explained in `words`.

mod page;
mod plot;
mod plots;
mod sections;
#[cfg(test)]
mod tests;
mod words;

pub use page::page;

/// Text as it may stand in a page.
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
