//! A comparison as a self-contained page. `page` assembles it from `sections`, whose `plots` are
//! drawn by `plot` and explained by `words`.

mod page;
mod plot;
mod plots;
mod sections;
#[cfg(test)]
mod tests;
mod words;

pub use page::page;

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
