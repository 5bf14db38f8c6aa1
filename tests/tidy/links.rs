//! Checks the links of the pages: each relative link leads to a file, and to a heading in that
//! file.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The targets of the links of a page: `[text](target)`, and definitions such as `[text]: target`.
/// Addresses on the web and text in code blocks are left out.
pub(crate) fn targets(page: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for line in prose(page) {
        let inline = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        found.extend(inline.map(|(target, _)| target));
        found.extend(line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|it| it.1));
    }
    found.retain(|target| !target.contains("://"));
    found
}

/// The file that a link of the page `name` leads to, as a path from the root, and the heading, if
/// any.
pub(crate) fn resolve<'a>(name: &str, target: &'a str) -> (String, &'a str) {
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    if file.is_empty() {
        return (name.to_owned(), heading);
    }
    let mut path = PathBuf::from(name);
    path.pop();
    for part in Path::new(file).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
    }
    (path.to_string_lossy().replace('\\', "/"), heading)
}

/// The names under which links refer to the headings of a page.
pub(crate) fn headings(page: &str) -> BTreeSet<String> {
    let titles = prose(page).filter(|line| line.starts_with('#'));
    let titles = titles.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let kept = |it: &char| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_');
    titles.map(|title| title.chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

/// The lines outside of code blocks.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    page.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !is_fence && !in_code
    })
}
