//! Checks that every test that a page names exists and is a test.

/// The tests that a page names, such as `sim::stories::a_name` in code style. Each is listed once.
pub(crate) fn named(page: &str) -> Vec<&str> {
    let prose = page.split("```").step_by(2);
    let mut found: Vec<&str> = prose
        .flat_map(|text| text.split('`').skip(1).step_by(2))
        .filter(|code| code.contains("::") && code.split("::").all(is_name))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_')
}

/// Whether none of `sources` (paths from the root, and texts) has this test.
pub(crate) fn is_missing(name: &str, sources: &[(String, String)]) -> bool {
    let path: Vec<&str> = name.split("::").collect();
    let (test, modules) = path.split_last().expect("a name has a part");
    // The first modules are folders and a file. The others are inside that file.
    !(1..=modules.len()).any(|length| {
        let (file, inner) = modules.split_at(length);
        let file = file.join("/");
        let mut files = vec![format!("src/{file}.rs"), format!("src/{file}/mod.rs")];
        if length == 1 {
            files.push(format!("tests/{file}.rs"));
        }
        sources.iter().filter(|(name, _)| files.contains(name)).any(|(_, text)| {
            let has = |module: &&str| text.contains(&format!("mod {module} {{"));
            inner.iter().all(has) && has_test(text, test)
        })
    })
}

/// Whether a file has this function as a test that is not ignored.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    lines.iter().enumerate().any(|(at, line)| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        let attributes: Vec<&&str> = above.collect();
        line.strip_prefix("async ").unwrap_or(line).starts_with(&head)
            && attributes.iter().any(|line| line.contains("test"))
            && !attributes.iter().any(|line| line.starts_with("#[ignore"))
    })
}
