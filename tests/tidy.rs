//! Reads every source file and checks the house rules: which room may use which other rooms, which
//! external crates belong where, and how long a file, a function and a line may be.
//!
//! `tidy/source.rs` strips comments and strings. `tidy/rules.rs` has the table of rules and the
//! checks. The tests below run the checks on bad snippets and then on this repository.

#[path = "tidy/licences.rs"]
mod licences;
#[path = "tidy/links.rs"]
mod links;
#[path = "tidy/methods.rs"]
mod methods;
#[path = "tidy/named_tests.rs"]
mod named_tests;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/sections.rs"]
mod sections;
#[path = "tidy/siblings.rs"]
mod siblings;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rules::{Breach, check};

/// All Rust files below `dir`.
fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Every source file of the repository, with its path from the root and its text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "tests", "benches"] {
        rust_files(&root.join(dir), &mut files);
    }
    files.sort();
    assert!(files.len() > 50, "only {} files found: is {} the root?", files.len(), root.display());
    let read = |file: &PathBuf| {
        let text = fs::read_to_string(file).expect("a readable file");
        let name = file.strip_prefix(root).expect("a file below the root");
        (name.to_str().expect("a name in UTF-8").replace('\\', "/"), text)
    };
    files.iter().map(read).collect()
}

#[test]
fn the_repository_keeps_its_rules() {
    let mut breaches = Vec::new();
    for (name, text) in sources() {
        breaches.extend(check(&name, &text));
    }
    let list: Vec<String> = breaches.iter().map(Breach::to_string).collect();
    assert!(breaches.is_empty(), "{} breaches:\n{}", list.len(), list.join("\n"));
}

/// The pages whose sections are cited.
const PROTOCOLS: [&str; 2] = [
    include_str!("../src/protocol/epaxos/PROTOCOL.md"),
    include_str!("../src/protocol/log/PROTOCOL.md"),
];

#[test]
fn every_cited_section_of_the_protocols_exists() {
    let known: BTreeSet<&str> =
        PROTOCOLS.iter().flat_map(|page| sections::sections(page)).collect();
    let mut missing = Vec::new();
    let mut cited = 0;
    for (name, text) in sources().iter().filter(|(name, _)| !name.starts_with("tests/tidy")) {
        for (line, section) in sections::citations(name, text) {
            cited += 1;
            if !known.contains(section) {
                missing.push(format!("{name}:{line}: §{section} is in no PROTOCOL.md"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(cited > 100, "only {cited} citations found");
}

/// The pages that people read as files in the repository.
const PAGES: [&str; 8] = [
    "README.md",
    "BENCHMARKS.md",
    "CHANGELOG.md",
    "src/GUIDE.md",
    "src/RELIABILITY.md",
    "src/FAMILY.md",
    "src/protocol/epaxos/PROTOCOL.md",
    "src/protocol/log/PROTOCOL.md",
];

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).ok();
    let mut broken = Vec::new();
    let mut links = 0;
    for name in PAGES {
        let page = read(name).expect("a page");
        for target in links::targets(&page) {
            let (file, heading) = links::resolve(name, target);
            let led = read(&file)
                .filter(|led| heading.is_empty() || links::headings(led).contains(heading));
            links += 1;
            if led.is_none() {
                broken.push(format!("{name}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere: {broken:#?}");
    assert!(links > 60, "only {links} links found");
}

/// In rustdoc, the page on the logs has its own link definitions. They must lead to the same files.
#[test]
fn the_page_on_the_logs_has_the_same_links_in_rustdoc() {
    let page = links::targets(include_str!("../src/protocol/log/PROTOCOL.md"));
    let page = page.iter().map(|target| links::resolve("src/protocol/log/PROTOCOL.md", target).0);
    let shown = links::targets(include_str!("../src/protocol/log/LINKS.md"));
    let shown = shown.iter().map(|target| {
        let file = target.split_once("../src/isonomy/").map_or(*target, |(_, file)| file);
        format!("src/{}", file.trim_end_matches(".html"))
    });
    assert_eq!(shown.collect::<Vec<_>>(), page.collect::<Vec<_>>());
}

#[test]
fn the_readme_is_short() {
    let lines = include_str!("../README.md").lines().count();
    assert!(lines <= 200, "{lines} lines: figures belong in BENCHMARKS.md, the rest in the guide");
}

#[test]
fn every_test_that_the_page_on_reliability_names_exists() {
    let sources = sources();
    let named = named_tests::named(include_str!("../src/RELIABILITY.md"));
    let missing: Vec<&&str> =
        named.iter().filter(|name| named_tests::is_missing(name, &sources)).collect();
    assert!(missing.is_empty(), "tests that are not there, or left out: {missing:#?}");
    assert!(named.len() > 60, "only {} tests named", named.len());
}

#[test]
fn siblings_use_each_other_in_one_direction() {
    let cycles = siblings::cycles(&sources());
    let listed = |cycle: &siblings::Cycle| {
        let exempt = siblings::EXEMPT.iter().find(|(folder, _)| *folder == cycle.folder);
        exempt.is_some_and(|(_, members)| {
            cycle.members.iter().all(|member| members.split(' ').any(|known| known == member))
        })
    };
    let new = cycles.iter().filter(|cycle| !listed(cycle));
    let new: Vec<String> =
        new.map(|cycle| format!("src/{}: {}", cycle.folder, cycle.members.join(" "))).collect();
    assert!(new.is_empty(), "files use each other in a circle:\n{}", new.join("\n"));
    for (folder, members) in siblings::EXEMPT {
        let found = cycles.iter().any(|cycle| cycle.folder == *folder);
        assert!(found, "src/{folder} has no cycle any more: take it off the list ({members})");
    }
}

#[test]
fn every_room_is_in_the_table_and_in_order() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))
        .expect("a readable file");
    let declared: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let known: Vec<&str> =
        rules::ROOMS.iter().map(|room| room.name).filter(|room| declared.contains(room)).collect();
    assert_eq!(declared, known, "src/lib.rs declares its rooms as tests/tidy/rules.rs lists them");
}

/// Planted breaches, which show that the checker finds something.
mod planted {
    use super::check;

    /// The rules that a snippet breaks, if it is put into this file.
    fn broken(file: &str, body: &str) -> Vec<String> {
        let text = format!("//! What it is.\n\n{body}");
        check(file, &text).into_iter().map(|breach| breach.what).collect()
    }

    #[track_caller]
    fn breaks(file: &str, body: &str, word: &str) {
        let found = broken(file, body);
        assert!(found.len() == 1 && found[0].contains(word), "wanted {word:?} of {found:?}");
    }

    #[track_caller]
    fn passes(file: &str, body: &str) {
        assert_eq!(broken(file, body), [""; 0]);
    }

    #[test]
    fn a_room_below() {
        breaks("src/protocol/mod.rs", "use crate::replica::Replica;\n", "`replica`");
        breaks("src/mesh/mod.rs", "fn f(_: crate::wire::Ask) {}\n", "`wire`");
        breaks("src/wire/mod.rs", "use crate::{types::Time, node::Handle};\n", "`node`");
        breaks("src/sim/world/a.rs", "use crate::node::Replica;\n", "`node`");
        breaks("src/node/mod.rs", "use crate::sim::World;\n", "`sim`");
        let nested = "use crate::{\n    types::{Deps, Time},\n    mesh::Mesh,\n};\n";
        breaks("src/execute/mod.rs", nested, "`mesh`");
    }

    #[test]
    fn tests_keep_to_the_rooms_above_too() {
        breaks("src/protocol/epaxos/stories.rs", "use crate::execute::Executor;\n", "`execute`");
    }

    #[test]
    fn the_own_room_and_rooms_above_pass() {
        passes("src/replica/mod.rs", "use crate::protocol::Effects;\nuse crate::types::Deps;\n");
        passes("src/mesh/wan/mod.rs", "use crate::mesh::Mesh;\nuse crate::types::Time;\n");
        passes(
            "src/types/a.rs",
            "/// See [`apply`](crate::machine::StateMachine::apply).\nfn f() {}\n",
        );
        passes("src/types/a.rs", "fn f() -> &'static str { \"crate::node\" }\n");
    }

    #[test]
    fn a_sibling_protocol() {
        let body = "use crate::protocol::paxos::Message;\n";
        breaks("src/protocol/epaxos/mod.rs", body, "see each other");
        passes("src/protocol/paxos/mod.rs", body);
    }

    #[test]
    fn a_crate_that_belongs_elsewhere() {
        breaks("src/replica/mod.rs", "use tokio::sync::mpsc;\n", "`tokio`");
        breaks("src/wire/mod.rs", "fn f() { petgraph::algo::toposort(); }\n", "`petgraph`");
        breaks("src/node/mod.rs", "use quinn::Endpoint;\n", "`quinn`");
        breaks("src/protocol/mod.rs", "use std::collections::HashMap;\n", "HashMap");
        breaks("src/execute/mod.rs", "use std::collections::{BTreeMap, HashSet};\n", "HashSet");
        passes("src/mesh/mod.rs", "use quinn::Endpoint;\nuse tokio::net::UdpSocket;\n");
        passes("src/replica/mod.rs", "use rustc_hash::FxHashMap;\n");
    }

    #[test]
    fn a_clock_or_a_thread_in_a_pure_room() {
        breaks("src/protocol/mod.rs", "fn f() { std::time::Instant::now(); }\n", "Instant");
        breaks("src/replica/mod.rs", "use std::thread;\n", "thread");
        breaks("src/execute/mod.rs", "use rand::RngExt;\n", "`rand`");
        breaks("src/protocol/mod.rs", "fn f() { rand::rng(); }\n", "`rand::rng`");
    }

    #[test]
    fn a_mark_of_durability_from_the_wrong_hands() {
        let body = "fn f(p: LogPosition) -> Durable { Durable::flushed(p) }\n";
        breaks("src/replica/held.rs", body, "Durable::flushed");
        breaks("src/node/core.rs", body, "Durable::flushed");
        passes("src/storage/memory.rs", body);
        passes("src/replica/tests.rs", body);
        let test = format!("#[cfg(test)]\nmod tests {{\n{body}}}\n");
        passes("src/replica/held.rs", &test);
    }

    #[test]
    fn sizes() {
        let long = format!("fn f() {{\n{}}}\n", "    step();\n".repeat(69));
        breaks("src/types/a.rs", &long, "function `f` has 71 lines");
        passes("src/types/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{long}}}\n"));
        let fits = format!("fn f() {{\n{}}}\n", "    step();\n".repeat(68));
        passes("src/types/a.rs", &fits);
        breaks("src/types/a.rs", &"const A: u8 = 0;\n".repeat(500), "502 lines");
        breaks("src/types/a.rs", &format!("// {}\n", "x".repeat(98)), "101 columns");
    }

    #[test]
    fn braces_in_strings_and_characters_do_not_end_a_function() {
        let tricks = "    a('{', b'}', \"}\", r#\"\"}\"#, 'x', '\\'', \"\\\"}\"); // }\n";
        let long = format!("fn f<'a>(s: &'a str) {{\n{tricks}{}}}\n", "    g();\n".repeat(68));
        breaks("src/types/a.rs", &long, "function `f` has 71 lines");
    }

    #[test]
    fn leftovers() {
        breaks("src/types/a.rs", concat!("// TO", "DO: later\n"), concat!("TO", "DO"));
        breaks("src/types/a.rs", concat!("fn f() { db", "g!(1); }\n"), concat!("db", "g!"));
        breaks("src/types/a.rs", concat!("fn f() { to", "do!() }\n"), concat!("to", "do!"));
    }

    #[test]
    fn a_section_that_does_not_exist() {
        let page = "## 5. Recovery\n\n**5.1 Start** at p.\n\n- **5.3.4** A set.\n## 8a. Cuts\n\n\
                    **M5. Election.** And **L8** in a line.\n";
        let known = super::sections::sections(page);
        assert_eq!(known.iter().copied().collect::<Vec<_>>(), ["5", "5.1", "5.3.4", "8a", "M5"]);
        let cites = |file: &str, text: &str| {
            let found = super::sections::citations(file, text);
            found.into_iter().map(|(line, number)| format!("{line}:{number}")).collect::<Vec<_>>()
        };
        let text = "// As §5.3.4 says, and §8a.\n// \u{a7}5.9–§5.1, `§`\n";
        let all = ["1:5.3.4", "1:8a", "2:5.9", "2:5.1"];
        assert_eq!(cites("src/replica/mod.rs", text), all);
        let text = "//! (§3.3 of the paper)\n//! (PROTOCOL.md §8d)\n";
        assert_eq!(cites("src/protocol/fast_paxos/round.rs", text), ["2:8d"]);
        let text = "//! (§3.3 of the paper, §F4)\n";
        assert_eq!(cites("src/protocol/fast_paxos/round.rs", text), ["1:F4"]);
    }

    #[test]
    fn where_links_lead() {
        use super::links::{headings, resolve, targets};
        let page = "# A (b)\nSee [b](../b.rs#two), [w](https://example.com).\n\
                    ```\n[d](d)\n```\n## It's §2.\n[c]: c.md\n";
        assert_eq!(targets(page), ["../b.rs#two", "c.md"]);
        assert_eq!(resolve("src/log/A.md", "../b.rs#two"), ("src/b.rs".to_owned(), "two"));
        assert_eq!(resolve("src/log/A.md", "#two"), ("src/log/A.md".to_owned(), "two"));
        assert_eq!(headings(page).into_iter().collect::<Vec<_>>(), ["a-b", "its-2"]);
    }

    #[test]
    fn a_test_that_is_not_there() {
        use super::named_tests::{is_missing, named};
        let page =
            "`sim::a::one`, `tests`, `Plant::One`.\n```sh\n`no::code`\n```\n`b::two` `b::two`\n";
        assert_eq!(named(page), ["b::two", "sim::a::one"]);
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let inner = "mod tests {\n    /// Tries.\n    #[test]\n    fn three() {}\n}\n";
        let sources = [
            file("src/sim/a.rs", "#[test]\nfn one() {}\nfn help() {}\n"),
            file(
                "tests/b.rs",
                "#[tokio::test]\nasync fn two() {}\n#[test]\n#[ignore = \"slow\"]\nfn late() {}\n",
            ),
            file("src/sim/c/mod.rs", inner),
        ];
        let there = ["sim::a::one", "b::two", "sim::c::tests::three"];
        let gone = ["sim::a::on", "sim::a::help", "b::late", "sim::c::three::two", "sim::b::two"];
        assert!(there.iter().all(|name| !is_missing(name, &sources)));
        assert!(gone.iter().all(|name| is_missing(name, &sources)));
    }

    /// The cycles in a folder `a` with these files.
    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = files
            .iter()
            .map(|(name, code)| (format!("src/types/{name}"), (*code).to_owned()))
            .collect();
        let show = |cycle: super::siblings::Cycle| {
            format!("{}: {}", cycle.folder, cycle.members.join(" "))
        };
        super::siblings::cycles(&files).into_iter().map(show).collect()
    }

    #[test]
    fn siblings_in_a_circle() {
        let one_way = [("a.rs", "use super::b::f;\n"), ("b.rs", "fn f() {}\n")];
        assert_eq!(circles(&one_way), [""; 0]);
        let by_path = [("a.rs", "use super::{b::f, c};\n"), ("b.rs", "fn f() { super::a::g() }\n")];
        assert_eq!(circles(&by_path), ["types: a b"]);
        let below =
            [("a/d.rs", "use super::super::b::f;\n"), ("b.rs", "use crate::types::a::d;\n")];
        assert_eq!(circles(&below), ["types: a b"]);
        let re_export = ("mod.rs", "pub use b::{self, B};\n");
        let by_name = [re_export, ("a.rs", "use super::B;\n"), ("b.rs", "use super::a::A;\n")];
        assert_eq!(circles(&by_name), ["types: a b"]);
        let far = [
            ("a.rs", "use super::b::f;\n"),
            ("b.rs", "use super::c::f;\n"),
            ("c.rs", "use super::a::f;\n"),
        ];
        assert_eq!(circles(&far), ["types: a b c"]);
    }

    #[test]
    fn one_type_whose_methods_call_each_other_from_file_to_file() {
        let home = ("mod.rs", "struct T;\nimpl T {\n    fn h(&self) { self.f() }\n}\n");
        let f = ("a.rs", "impl super::T {\n    fn f(&self) { self.g() }\n}\n");
        let g = ("b.rs", "impl<'a> T {\n    fn g(&self) { self.f() }\n}\n");
        assert_eq!(circles(&[home, f, g]), ["types: a b"]);
        let g = ("b.rs", "impl T {\n    fn g(&self) {}\n}\n");
        assert_eq!(circles(&[home, f, g]), [""; 0], "one direction");
        let g = ("b.rs", "struct T;\nimpl T {\n    fn g(&self) { self.f() }\n}\n");
        assert_eq!(circles(&[home, f, g]), [""; 0], "another type of that name");
        let g = ("b.rs", "use super::c::T;\nimpl T {\n    fn g(&self) { self.f() }\n}\n");
        let c = ("c.rs", "pub struct T;\n");
        assert_eq!(circles(&[home, f, g, c]), [""; 0], "another type of that name, imported");
    }

    /// A folder's own file, and a child that holds a part of its type.
    #[test]
    fn methods_that_call_the_folder_s_own_file_back() {
        let both = |own: &str, child: &str| {
            let own = format!("pub struct T {{ part: U }}\n{own}");
            circles(&[("mod.rs", &own), ("a.rs", child)])
        };
        let own = "impl T {\n    fn h(&self) { self.f() }\n    fn new() {}\n}\n";
        let found = ["types: a mod"];
        assert_eq!(both(own, "impl super::T {\n    fn f(&self) { self.h() }\n}\n"), found);
        assert_eq!(both(own, "impl super::T {\n    fn f(&self) { Self::new() }\n}\n"), found);
        let chain =
            "impl super::T {\n    fn f(&self) {\n        self\n            .h()\n    }\n}\n";
        assert_eq!(both(own, chain), found);
        let by_name = "impl<P> super::T<P> {\n    fn f(&self) { T::<P>::new() }\n}\n";
        assert_eq!(both(own, by_name), found);
        let of_a_trait = "impl<P> Steps for super::T<P> {\n    fn f(&self) { self.h() }\n}\n";
        assert_eq!(both(own, of_a_trait), found);
        let of_a_trait = "impl Steps for T {\n    fn h(&self) { Self::f(self) }\n}\n";
        assert_eq!(both(of_a_trait, "impl super::T {\n    fn f(&self) { self.h() }\n}\n"), found);
        // A file beside the folder, as `types.rs` would be, is its own file, too.
        let files = [
            ("b.rs", "pub struct T;\nimpl T {\n    fn h(&self) { self.f() }\n}\n"),
            ("b/c.rs", "use super::T;\nimpl T {\n    fn f(&self) { self.h() }\n}\n"),
        ];
        assert_eq!(circles(&files), ["types/b: c mod"]);
        // A child of a child counts as the child, and only if it goes back and forth.
        let deep = [
            ("mod.rs", "pub use a::T;\nimpl T {\n    fn h(&self) { self.f() }\n}\n"),
            ("a.rs", "pub struct T;\n"),
            ("a/d.rs", "use crate::types::T;\nimpl T {\n    fn f(&self) { self.h() }\n}\n"),
        ];
        assert_eq!(circles(&deep), found);

        let own = "impl T {\n    fn h(&self) { self.part.f() }\n}\n";
        let child = "impl super::T {\n    fn f(&self) { self.h() }\n}\n";
        assert_eq!(both(own, child), [""; 0], "a method of another type");
        let own = "impl T {\n    fn h(&self) { self.f; }\n}\n";
        assert_eq!(both(own, child), [""; 0], "a field");
        let own = "impl T {\n    fn h(&self) { self.f() }\n    fn f(&self) {}\n}\n";
        assert_eq!(both(own, child), [""; 0], "an own method of that name");
        let own = "fn h(t: T) -> T {\n    t\n}\nimpl U {\n    fn h(&self) { self.f() }\n}\n";
        assert_eq!(both(own, child), [""; 0], "another type");
    }

    #[test]
    fn tests_may_use_any_sibling() {
        let b = ("b.rs", "use super::a::f;\n");
        let inner = ("a.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use super::b::g;\n}\n");
        assert_eq!(circles(&[inner, b]), [""; 0]);
        let parent = ("mod.rs", "mod a;\n#[cfg(test)]\npub(crate) mod b;\n");
        assert_eq!(circles(&[parent, ("a.rs", "use super::b::g;\n"), b]), [""; 0]);
    }

    #[test]
    fn no_opening_words() {
        let found = check("src/types/a.rs", "fn f() {}\n");
        assert!(found.len() == 1 && found[0].what.contains("//!"), "{found:?}");
    }

    #[test]
    fn a_room_nobody_has_heard_of() {
        breaks("src/attic/mod.rs", "fn f() {}\n", "`attic`");
    }
}
