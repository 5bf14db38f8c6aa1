//! Finds which files call each other's methods on one type. The `impl` blocks of a type may be
//! spread over the files of a folder, and then a file uses another without naming it.
//!
//! A call counts if it stands in an `impl` block of the type, inherent or of a trait, and goes to
//! `self`, `Self` or the type by name: `self.f()`, `Self::f`, `T::f`. It leads to each file that
//! defines `f` in an `impl` block of the same type. Types of the same name are told apart by the
//! file that declares them, which the name in the block's head leads to: it is declared or imported
//! there, or in a folder around it. A method of the same name on another type, such as
//! `self.part.f()`, is no call of `f`. Calls that go to a parameter or to a field count only by
//! their paths, because such a file has to name the type.

use std::collections::{BTreeMap, BTreeSet};

use crate::siblings::{Module, leading_word};
use crate::source::{braces_after, words};

/// An `impl` block of a type.
struct Block<'a> {
    /// The child of the folder that the block is in.
    child: &'a str,
    /// The type's name, and what tells it from others of that name.
    name: String,
    home: Vec<String>,
    body: &'a str,
}

/// The calls of methods from a different file than the one that defines them. `folder` is a folder
/// with the files of `all` whose paths start with it; `own` stands for its own file.
pub(crate) fn calls(folder: &[String], own: &str, all: &[Module]) -> Vec<(String, String)> {
    let below = all.iter().filter(|module| module.path.starts_with(folder));
    let mut types: BTreeMap<(Vec<String>, String), Vec<Block<'_>>> = BTreeMap::new();
    for module in below {
        let child = module.path.get(folder.len()).map_or(own, String::as_str);
        for block in blocks(module, child, all) {
            types.entry((block.home.clone(), block.name.clone())).or_default().push(block);
        }
    }
    types.values().flat_map(|blocks| calls_between(blocks)).collect()
}

fn calls_between(blocks: &[Block<'_>]) -> Vec<(String, String)> {
    let mut homes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for block in blocks {
        for at in words(block.body, "fn") {
            let method = leading_word(block.body[at + "fn".len()..].trim_start());
            homes.entry(method).or_default().insert(block.child);
        }
    }
    let mut found = Vec::new();
    for block in blocks {
        for method in called(block) {
            // A file that defines the method itself calls its own.
            let to = homes.get(method).filter(|homes| !homes.contains(block.child));
            found.extend(to.into_iter().flatten().map(|home| (block.child.into(), (*home).into())));
        }
    }
    found
}

/// The names of the methods that a block calls on its own type.
fn called<'a>(block: &'a Block<'_>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for caller in ["self", "Self", &block.name] {
        for at in words(block.body, caller) {
            let rest = block.body[at + caller.len()..].trim_start();
            if let Some(rest) = rest.strip_prefix('.') {
                let method = leading_word(rest);
                // A field has no parentheses.
                if caller == "self" && rest[method.len()..].starts_with(['(', ':']) {
                    found.push(method);
                }
            } else if let Some(mut rest) = rest.strip_prefix("::") {
                if rest.starts_with('<') {
                    rest = after_generics(rest).trim_start_matches("::");
                }
                found.push(leading_word(rest));
            }
        }
    }
    found
}

/// The `impl` blocks of a module.
fn blocks<'a>(module: &'a Module, child: &'a str, all: &[Module]) -> Vec<Block<'a>> {
    let blocks = words(&module.code, "impl").filter_map(|at| {
        let body = braces_after(&module.code, at)?;
        // `fn f() -> impl Trait {` is not an `impl` block, because its `impl` does not start a
        // line.
        let line = module.code[..at].rsplit('\n').next()?;
        if !line.trim().is_empty() {
            return None;
        }
        let head = after_generics(module.code[at + "impl".len()..body.start].trim_start());
        let head = words(head, "where").next().map_or(head, |at| &head[..at]);
        let of = words(head, "for").next().map_or(head, |at| &head[at + "for".len()..]);
        let name = of.trim_start().split(['<', ' ', '{', '\n']).next()?.rsplit("::").next()?;
        let name = name.to_owned();
        let home = home_of(&name, module, all);
        Some(Block { child, home, name, body: &module.code[body] })
    });
    blocks.collect()
}

/// The file that declares the type that a module calls `name`; nothing if it is not to be found.
fn home_of(name: &str, module: &Module, all: &[Module]) -> Vec<String> {
    let uses = module.uses();
    let imports = uses.iter().filter(|path| path.last().is_some_and(|last| last == name));
    let imports = imports.map(|path| &path[..path.len() - 1]);
    let around = (1..module.path.len()).rev().map(|n| &module.path[..n]);
    let places = [&module.path[..]].into_iter().chain(imports).chain(around);
    let find = |path: &[String]| {
        all.iter().find(|module| module.path == path).filter(|module| module.declares(name))
    };
    for place in places {
        if let Some(found) = find(place) {
            return found.path.clone();
        }
        let re_exports = all.iter().find(|module| module.path == place).map(Module::re_exports);
        let child = re_exports.and_then(|mut re_exports| re_exports.remove(name));
        let child = child.map(|child| [place, &[child]].concat());
        if let Some(found) = child.and_then(|child| find(&child)) {
            return found.path.clone();
        }
    }
    Vec::new()
}

/// The text after the generics in angle brackets, if there are any.
fn after_generics(head: &str) -> &str {
    let mut depth = 0;
    for (at, byte) in head.bytes().enumerate() {
        match byte {
            b'<' => depth += 1,
            b'>' if !head[..at].ends_with('-') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return head[at..].trim_start_matches('>').trim_start();
        }
    }
    head
}
