//! Replaces comments, and the contents of strings and characters, by blanks, so that the rest can
//! be searched for code. Lines and columns stay the same.

/// Replaces everything that is not code by blanks.
pub(crate) fn code_of(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let identifier = out.last().is_some_and(|byte| is_word(*byte));
        let (length, keep) = next(rest, identifier);
        let (taken, left) = rest.split_at(length);
        let blank = |byte: u8| if byte == b'\n' { b'\n' } else { b' ' };
        out.extend(taken.bytes().map(|byte| if keep { byte } else { blank(byte) }));
        rest = left;
    }
    String::from_utf8(out).expect("what is kept is a whole token or ASCII")
}

/// Whether a byte may be part of an identifier.
pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The length of the next token, and whether it is code. `within` says that an identifier ends just
/// before.
fn next(rest: &str, within: bool) -> (usize, bool) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), false);
    }
    if !within && let Some(length) = raw_string(rest) {
        return (length, false);
    }
    match rest.as_bytes() {
        [b'"', ..] => (quoted(rest, b'"'), false),
        [b'\'', ..] => match character(rest) {
            Some(length) => (length, false),
            None => (1, true),
        },
        _ => (rest.chars().next().map_or(1, char::len_utf8), true),
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest.as_bytes()[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.as_bytes()[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of the raw string that starts here: `r"…"` or `br#"…"#`.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - body.len();
    Some(body.find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

/// The length of a quoted text, with its escapes and both quotes.
fn quoted(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of the character literal that starts here. A lifetime is not one.
fn character(rest: &str) -> Option<usize> {
    let mut chars = rest[1..].chars();
    match chars.next()? {
        '\\' => Some(quoted(rest, b'\'')),
        one => chars.next().filter(|after| *after == '\'').map(|_| one.len_utf8() + 2),
    }
}

/// The byte range of the first text in braces after `from`, with both braces. Returns `None` if a
/// semicolon comes first.
pub(crate) fn braces_after(code: &str, from: usize) -> Option<std::ops::Range<usize>> {
    let mut depth = 0;
    let mut start = None;
    // A semicolon inside brackets belongs to an array type, such as `[u8; 4]`.
    let mut brackets = 0;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'[' => brackets += 1,
            b']' => brackets -= 1,
            b';' if start.is_none() && brackets == 0 => return None,
            b'{' => {
                start.get_or_insert(at);
                depth += 1;
            }
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return start.map(|start| start..at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// The positions of `word` in `code`, where it is a whole word.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code.as_bytes()[..*at].last().is_some_and(|byte| is_word(*byte));
        let after = code.as_bytes().get(at + word.len()).is_some_and(|byte| is_word(*byte));
        !before && !after
    })
}
