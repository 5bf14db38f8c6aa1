//! Finds cycles between sibling files of a folder. If two files use each other, neither can be read
//! without the other. A file uses its sibling through a path (`super::b::f`, or `super::B` where
//! the folder's own file re-exports it), or through a method of a type whose `impl` blocks are
//! spread over several files (see `methods`).
//!
//! Between a folder's own file and its children only methods count. The own file uses its children
//! by their paths, and they use the types that it declares: so a whole is made of parts. But if
//! the own file calls a method that a child defines on a type, and the child calls a method of that
//! type that the own file defines, neither can be read without the other.

use std::collections::{BTreeMap, BTreeSet};

use crate::methods;
use crate::rules::{Tests, spread};
use crate::source::{code_of, is_word, words};

/// Folders whose files still use each other in a cycle, because they are older than this check, and
/// the files in the cycle. The list may only get shorter.
pub(crate) const EXEMPT: &[(&str, &str)] = &[];

/// Sibling files or folders that use each other in a cycle.
#[derive(PartialEq, Debug)]
pub(crate) struct Cycle {
    pub(crate) folder: String,
    pub(crate) members: Vec<String>,
}

/// What stands for the folder's own file among its children.
const OWN: &str = "mod";

/// A module of the crate, without the parts that are compiled only for tests.
pub(crate) struct Module {
    pub(crate) path: Vec<String>,
    pub(crate) code: String,
}

/// All cycles below `src`. The files have their paths from the root of the repository.
pub(crate) fn cycles(files: &[(String, String)]) -> Vec<Cycle> {
    let modules = without_tests(files.iter().filter_map(|(name, text)| Module::of(name, text)));
    let folders: BTreeSet<&[String]> = modules
        .iter()
        .flat_map(|module| (0..module.path.len()).map(|n| &module.path[..n]))
        .collect();
    folders.into_iter().flat_map(|folder| cycles_in(folder, &modules)).collect()
}

impl Module {
    fn of(name: &str, text: &str) -> Option<Module> {
        let path = name.strip_prefix("src/")?.strip_suffix(".rs")?;
        let path = path.strip_suffix("/mod").unwrap_or(path);
        let mut code = code_of(text);
        let tests = Tests::of(name, &code);
        if tests.whole || ["lib", "main"].contains(&path) {
            return None;
        }
        for range in tests.modules {
            let blank = " ".repeat(range.len());
            code.replace_range(range, &blank);
        }
        Some(Module { path: path.split('/').map(str::to_owned).collect(), code })
    }

    /// The child modules that are declared only for tests.
    fn test_children(&self) -> impl Iterator<Item = Vec<String>> {
        self.code.split("#[cfg(test)]").skip(1).filter_map(|after| {
            let item = after[..after.find([';', '{'])?].rsplit(']').next()?;
            let name = item.trim().trim_start_matches("pub").rsplit(')').next()?;
            let name = name.trim().strip_prefix("mod ")?.trim().to_owned();
            Some(self.path.iter().cloned().chain([name]).collect())
        })
    }

    /// Every path that the module uses, from the root of the crate.
    pub(crate) fn uses(&self) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        for (word, up) in [("super", 1), ("self", 0), ("crate", self.path.len())] {
            for at in words(&self.code, word) {
                // Read `super::super::` from its first word.
                let inner = self.code[..at].ends_with("::");
                let Some(rest) = self.code[at + word.len()..].strip_prefix("::") else { continue };
                let base = &self.path[..self.path.len() - up.min(self.path.len())];
                if !inner {
                    spread(rest, String::new(), &mut |path| found.push(absolute(base, &path)));
                }
            }
        }
        found
    }

    /// The children whose names the module imports or re-exports, by name.
    pub(crate) fn re_exports(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for at in words(&self.code, "use") {
            spread(&self.code[at + "use ".len()..], String::new(), &mut |path| {
                let path = path.strip_prefix("self::").unwrap_or(&path);
                if let (Some((child, _)), Some((_, name))) =
                    (path.split_once("::"), path.rsplit_once("::"))
                {
                    found.insert(name.to_owned(), child.to_owned());
                }
            });
        }
        found
    }

    pub(crate) fn declares(&self, name: &str) -> bool {
        let kinds = ["struct", "enum", "union", "type"];
        kinds.iter().any(|kind| {
            words(&self.code, kind)
                .any(|at| leading_word(self.code[at + kind.len()..].trim_start()) == name)
        })
    }
}

/// Leaves out modules that a parent declares only for tests, and everything below them.
fn without_tests(modules: impl Iterator<Item = Module>) -> Vec<Module> {
    let mut modules: Vec<Module> = modules.collect();
    let tests: BTreeSet<Vec<String>> = modules.iter().flat_map(Module::test_children).collect();
    modules.retain(|module| (1..=module.path.len()).all(|n| !tests.contains(&module.path[..n])));
    modules
}

/// Resolves each `super` at the front of a path against `base`.
fn absolute(base: &[String], path: &str) -> Vec<String> {
    let mut absolute = base.to_vec();
    for part in path.split("::") {
        match part {
            "super" => drop(absolute.pop()),
            part => absolute.push(part.to_owned()),
        }
    }
    absolute
}

pub(crate) fn leading_word(code: &str) -> &str {
    &code[..code.bytes().take_while(|byte| is_word(*byte)).count()]
}

/// Finds the cycles among the children of `folder`.
fn cycles_in(folder: &[String], modules: &[Module]) -> Vec<Cycle> {
    let depth = folder.len();
    let below: Vec<&Module> =
        modules.iter().filter(|m| m.path.len() > depth && m.path.starts_with(folder)).collect();
    let mut children: BTreeSet<&str> = below.iter().map(|m| m.path[depth].as_str()).collect();
    let parent = modules.iter().find(|m| m.path == folder);
    let exports = parent.map(Module::re_exports).unwrap_or_default();
    children.insert(OWN);
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut add = |from: &str, to: &str| {
        let (from, to) = (children.get(from), children.get(to));
        if let (Some(from), Some(to)) = (from, to)
            && from != to
        {
            uses.entry(from).or_default().insert(to);
        }
    };
    for module in &below {
        for path in module.uses().iter().filter(|path| path.starts_with(folder)) {
            let Some(name) = path.get(depth) else { continue };
            let child = exports.get(name).filter(|_| !children.contains(name.as_str()));
            add(&module.path[depth], child.unwrap_or(name));
        }
    }
    for (from, to) in methods::calls(folder, OWN, modules) {
        add(&from, &to);
    }
    circles(&uses).into_iter().map(|members| Cycle { folder: folder.join("/"), members }).collect()
}

/// The groups of modules that all reach each other.
fn circles(uses: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Vec<String>> {
    let reach = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&str> = uses.get(from).into_iter().flatten().copied().collect();
        while let Some(next) = open.pop() {
            if reached.insert(next) {
                open.extend(uses.get(next).into_iter().flatten());
            }
        }
        reached
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        uses.keys().map(|from| (*from, reach(from))).collect();
    let mut found = Vec::new();
    for (from, reaches) in reached.iter().filter(|(from, reaches)| reaches.contains(*from)) {
        let mutual = |to: &&&str| reached.get(**to).is_some_and(|back| back.contains(from));
        let members: Vec<String> =
            reaches.iter().filter(mutual).map(|member| (*member).to_owned()).collect();
        if members.first().is_some_and(|first| first == from) {
            found.push(members);
        }
    }
    found
}
