//! The rules: a table of rooms, and one check for each kind of rule.

use std::fmt;
use std::ops::Range;

use crate::source::{braces_after, code_of, is_word, words};

/// A top-level module of `src`, and what it may use.
pub(crate) struct Room {
    pub(crate) name: &'static str,
    /// The other rooms that it may use.
    uses: &'static [&'static str],
    /// The guarded crates that it may use.
    crates: &'static [&'static str],
    /// Whether the room is pure. A pure room gets time, threads and randomness as arguments, and
    /// never observes the order of a std map.
    pure: bool,
}

/// The file that defines the map with a hidden order, on top of a std map.
const KEYED: &str = "src/types/keyed.rs";

/// All rooms, in the order in which `lib.rs` declares them.
pub(crate) const ROOMS: &[Room] = &[
    Room { name: "types", uses: &[], crates: &[], pure: true },
    // It uses a seeded source to spread the back-off.
    Room { name: "protocol", uses: &["types"], crates: &["rand"], pure: true },
    Room { name: "execute", uses: &["types"], crates: &["petgraph"], pure: true },
    Room { name: "machine", uses: &["types"], crates: &["redb"], pure: false },
    Room {
        name: "replica",
        uses: &["types", "protocol", "execute", "machine"],
        crates: &[],
        pure: true,
    },
    // The codec encodes the messages of the protocols and of the replica.
    Room { name: "wire", uses: &["types", "protocol", "replica"], crates: &[], pure: false },
    Room { name: "storage", uses: &["types"], crates: &["rand"], pure: false },
    Room {
        name: "mesh",
        uses: &["types"],
        crates: &["tokio", "quinn", "rustls", "rcgen", "rand", "x509_parser", "socket2"],
        pure: false,
    },
    Room {
        name: "node",
        uses: &["types", "protocol", "execute", "machine", "replica", "wire", "storage", "mesh"],
        crates: &["tokio", "rand", "hdrhistogram"],
        pure: false,
    },
    // Typed commands need the types of the state machine.
    Room {
        name: "client",
        // A client that fetches a backup writes the node's file.
        uses: &["types", "machine", "wire", "mesh", "node"],
        crates: &["tokio", "rand"],
        pure: false,
    },
    Room {
        name: "sim",
        uses: &["types", "protocol", "execute", "machine", "replica", "wire", "storage"],
        crates: &["rand"],
        pure: false,
    },
    Room {
        name: "load",
        uses: &["types", "protocol", "machine", "replica", "wire", "mesh", "node", "client", "sim"],
        crates: &["tokio", "rand", "hdrhistogram"],
        pure: false,
    },
    Room {
        name: "cli",
        uses: &["types", "protocol", "machine", "storage", "mesh", "node", "client", "sim", "load"],
        crates: &["tokio", "rand", "clap"],
        pure: false,
    },
    Room { name: "testkit", uses: &["types", "machine"], crates: &["rand"], pure: false },
];

/// The crates that only the rooms that list them may use.
const GUARDED: &[&str] = &[
    "tokio",
    "quinn",
    "rustls",
    "rcgen",
    "x509_parser",
    "socket2",
    "petgraph",
    "rand",
    "hdrhistogram",
    "clap",
    "redb",
];

/// Names that a pure room may not use, and what to use instead.
const IMPURE: &[(&str, &str)] = &[
    ("HashMap", "its order differs from run to run: take `FxHashMap` or `KeyedMap`"),
    ("HashSet", "its order differs from run to run: take `FxHashSet` or `KeyedMap`"),
    ("Instant", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("thread", "nothing here runs by itself"),
    ("rand::rng", "randomness is seeded"),
    ("rand::random", "randomness is seeded"),
];

/// The protocols. They never use each other.
const PROTOCOLS: &[&str] = &["epaxos", "multipaxos", "fast_paxos", "paxos"];

const NOTHING_DURABLE: &str = "Durable::flushed(LogPosition::default())";

/// Words that mark unfinished work. They are split so that this file may contain them.
const LEFTOVERS: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("db", "g!"), concat!("to", "do!")];

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
const COLUMNS: usize = 100;

/// A place where a rule is broken.
#[derive(Debug)]
pub(crate) struct Breach {
    file: String,
    line: usize,
    pub(crate) what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// All breaches in one file. `file` is its path from the root of the repository.
pub(crate) fn check(file: &str, text: &str) -> Vec<Breach> {
    let code = code_of(text);
    let mut found = Vec::new();
    let mut say = |at: usize, what: String| {
        let line = 1 + text[..at].bytes().filter(|byte| *byte == b'\n').count();
        found.push(Breach { file: file.to_owned(), line, what });
    };
    check_text(text, &mut say);
    let tests = Tests::of(file, &code);
    check_functions(&code, &tests, &mut say);
    let mut parts = file.split('/');
    if parts.next() == Some("src") {
        match parts.next().map(|part| part.trim_end_matches(".rs")) {
            Some("lib" | "main") | None => {}
            Some(name) => match ROOMS.iter().find(|room| room.name == name) {
                None => say(0, format!("`{name}` is no room: see tests/tidy/rules.rs")),
                Some(room) => check_room(room, file, &code, &tests, &mut say),
            },
        }
    }
    found
}

/// Checks what a reader of the file sees.
fn check_text(text: &str, say: &mut impl FnMut(usize, String)) {
    if !text.starts_with("//! ") {
        say(0, "opens without `//!`: what it is, why, where it sits".into());
    }
    let lines = text.lines().count();
    if lines > FILE_LINES {
        say(text.len(), format!("the file has {lines} lines, more than {FILE_LINES}: split it"));
    }
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let columns = line.trim_end_matches(['\n', '\r']).chars().count();
        if columns > COLUMNS {
            say(at, format!("the line has {columns} columns, more than {COLUMNS}"));
        }
        at += line.len();
    }
    for word in LEFTOVERS {
        let alone = words(text, word.trim_end_matches('!'));
        for at in alone.filter(|at| text[*at..].starts_with(word)) {
            say(at, format!("`{word}`: finish it or leave it out"));
        }
    }
}

/// Checks the length of functions, except for tests, because a table of cases may be long.
fn check_functions(code: &str, tests: &Tests, say: &mut impl FnMut(usize, String)) {
    for at in words(code, "fn").filter(|at| !tests.cover(*at)) {
        let after = code[at + 2..].trim_start();
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // A type such as `fn(u8)`, or a declaration without a body, is not measured.
        let Some(body) = braces_after(code, at).filter(|_| !name.is_empty()) else { continue };
        let lines = 1 + code[at..body.end].bytes().filter(|byte| *byte == b'\n').count();
        if lines > FUNCTION_LINES {
            let most = FUNCTION_LINES;
            say(at, format!("function `{name}` has {lines} lines, more than {most}: split it"));
        }
    }
}

fn check_room(
    room: &Room,
    file: &str,
    code: &str,
    tests: &Tests,
    say: &mut impl FnMut(usize, String),
) {
    for (at, path) in crate_paths(code) {
        let used = path.split("::").next().unwrap_or_default();
        let is_room = ROOMS.iter().any(|other| other.name == used);
        if is_room && used != room.name && !room.uses.contains(&used) {
            say(at, format!("`{}` may not use `{used}`", room.name));
        }
        if let Some(sibling) = sibling_protocol(file, &path) {
            say(at, format!("protocols never see each other, but this one uses `{sibling}`"));
        }
    }
    for guarded in GUARDED.iter().filter(|guarded| !room.crates.contains(guarded)) {
        let uses = words(code, guarded).filter(|at| {
            let path = code[at + guarded.len()..].starts_with("::");
            path || code[..*at].trim_end().ends_with("use")
        });
        for at in uses.filter(|at| !tests.cover(*at)) {
            say(at, format!("the crate `{guarded}` does not belong into `{}`", room.name));
        }
    }
    let impure = if room.pure && file != KEYED { IMPURE } else { &[] };
    for (word, why) in impure {
        for at in words(code, word).filter(|at| !tests.cover(*at)) {
            say(at, format!("no `{word}` in `{}`: {why}", room.name));
        }
    }
    if !["types", "storage", "sim"].contains(&room.name) {
        let marks = code.match_indices("Durable::flushed").map(|(at, _)| at);
        // It is always true that nothing at all is durable.
        let claims = marks.filter(|at| !code[*at..].starts_with(NOTHING_DURABLE));
        for at in claims.filter(|at| !tests.cover(*at)) {
            say(at, "`Durable::flushed` is for the storage room and the simulator's disk".into());
        }
    }
}

/// The protocol that `path` leads to, if `file` belongs to a different protocol.
fn sibling_protocol<'a>(file: &str, path: &'a str) -> Option<&'a str> {
    let own = file.strip_prefix("src/protocol/")?.split('/').next()?.trim_end_matches(".rs");
    let used = path.strip_prefix("protocol::")?.split("::").next()?;
    (PROTOCOLS.contains(&own) && PROTOCOLS.contains(&used) && own != used).then_some(used)
}

/// The parts of a file that are compiled only for tests.
pub(crate) struct Tests {
    pub(crate) whole: bool,
    pub(crate) modules: Vec<Range<usize>>,
}

impl Tests {
    pub(crate) fn of(file: &str, code: &str) -> Tests {
        let mut parts = file.split('/').map(|part| part.trim_end_matches(".rs"));
        let whole = parts.any(|part| {
            part == "tests" || part == "stories" || part == "benches" || part.ends_with("_tests")
        });
        let attribute = "#[cfg(test)]";
        let found = code.match_indices(attribute);
        let modules = found.filter_map(|(at, _)| braces_after(code, at + attribute.len()));
        Tests { whole, modules: modules.collect() }
    }

    fn cover(&self, at: usize) -> bool {
        self.whole || self.modules.iter().any(|module| module.contains(&at))
    }
}

/// Every path that starts with `crate::`, without the `crate::`. Groups in braces are expanded.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in words(code, "crate") {
        // `$crate::` in a macro is a path like any other. `pub(crate)` is not a path.
        if let Some(path) = code[at + "crate".len()..].strip_prefix("::") {
            spread(path, String::new(), &mut |path| found.push((at, path)));
        }
    }
    found
}

/// Reads one path or group at the start of `code`, and returns the rest.
pub(crate) fn spread<'a>(code: &'a str, prefix: String, say: &mut dyn FnMut(String)) -> &'a str {
    let code = code.trim_start();
    if let Some(mut group) = code.strip_prefix('{') {
        loop {
            group = group.trim_start().trim_start_matches(',').trim_start();
            match group.strip_prefix('}') {
                Some(rest) => return rest,
                None if group.is_empty() => return group,
                None => {}
            }
            let rest = spread(group, prefix.clone(), say);
            // Skip anything that is not a path, such as an alias or a stray token.
            let step = group.chars().next().map_or(0, char::len_utf8);
            group = if rest.len() == group.len() { &group[step..] } else { rest };
        }
    }
    let length = code.bytes().take_while(|byte| is_word(*byte)).count();
    let (name, rest) = code.split_at(length);
    if name.is_empty() {
        return rest;
    }
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    match rest.strip_prefix("::") {
        Some(rest) => spread(rest, path, say),
        None => {
            say(path);
            rest
        }
    }
}
