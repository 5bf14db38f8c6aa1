//! Checks citations of the protocols' pages: every `§` that a comment names is a section there.

use std::collections::BTreeSet;

/// The rooms of the other protocols also cite sections of their papers.
const CITE_PAPERS: &[&str] =
    &["src/protocol/fast_paxos/", "src/protocol/multipaxos/", "src/protocol/paxos/"];

/// The sections of a page: headings such as `## 8a. Title`, and rules that begin with a bold
/// number, such as `**5.3.4**` or, on the page of the logs, `**M5. Election.**`.
pub(crate) fn sections(page: &str) -> BTreeSet<&str> {
    page.lines()
        .filter_map(|line| {
            let line = line.trim_start_matches([' ', '-']);
            line.strip_prefix("## ").or_else(|| line.strip_prefix("**"))
        })
        .map(leading_number)
        .filter(|number| !number.is_empty())
        .collect()
}

/// The sections of the protocols' pages that a source file cites, each with its line.
pub(crate) fn citations<'a>(file: &str, text: &'a str) -> Vec<(usize, &'a str)> {
    let papers = CITE_PAPERS.iter().any(|room| file.starts_with(room));
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (at, mark) in line.match_indices('§') {
            let before = line[..at].trim_end();
            let named = before.ends_with("PROTOCOL.md");
            // "RFC 9000, §17.2.5" is a section of another document.
            if before.ends_with(',') && before.contains("RFC ") {
                continue;
            }
            let number = leading_number(&line[at + mark.len()..]);
            // No paper has sections that begin with a letter, so these belong to the page of the
            // logs.
            let named = named || number.starts_with(|it: char| it.is_ascii_uppercase());
            if !number.is_empty() && (named || !papers) {
                found.push((index + 1, number));
            }
        }
    }
    found
}

/// The number at the start of a text, such as `5.3.4`, `8a` or `M5`. It is empty if there is none.
fn leading_number(text: &str) -> &str {
    let letter = usize::from(text.starts_with(|it: char| it.is_ascii_uppercase()));
    let digits = &text[letter..];
    if !digits.starts_with(|it: char| it.is_ascii_digit()) {
        return "";
    }
    let end = digits
        .find(|it: char| !it.is_ascii_digit() && !it.is_ascii_lowercase() && it != '.')
        .unwrap_or(digits.len());
    text[..letter + end].trim_end_matches('.')
}
