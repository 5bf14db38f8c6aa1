//! Checks the licences of the crates that are linked into a program with this one. Advisories need
//! a database from the network, so `cargo deny check` and `cargo audit` check those.

use std::process::Command;

use serde_json::Value;

/// Licences that allow a program to be given away in any form, with a notice.
const ALLOWED: [&str; 9] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Whether at least one alternative of a licence is allowed. `AND` binds more strongly than `OR`.
/// No crate here needs parentheses around more than one side of an `AND`.
fn is_allowed(licence: &str) -> bool {
    let licence = licence.replace('/', " OR ");
    if let Some((left, right)) = licence.strip_prefix('(').and_then(|it| it.split_once(") AND ")) {
        return is_allowed(left) && is_allowed(right);
    }
    let all = |alternative: &str| {
        alternative.split(" AND ").all(|licence| {
            let licence = licence.split(" WITH ").next().unwrap_or(licence).trim();
            ALLOWED.contains(&licence)
        })
    };
    licence.split(" OR ").any(all)
}

/// The crates in the output of `cargo metadata` whose licence is not allowed.
fn refused(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().expect("a list of packages");
    assert!(packages.len() > 50, "only {} packages", packages.len());
    let refused = packages.iter().filter(|it| !it["license"].as_str().is_some_and(is_allowed));
    refused.map(|it| format!("{}: {}", it["name"], it["license"])).collect()
}

fn metadata() -> Value {
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let version = String::from_utf8(rustc.stdout).expect("text");
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", host]);
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn every_crate_may_be_given_away_with_this_one() {
    let mut metadata = metadata();
    assert_eq!(refused(&metadata), [""; 0]);
    metadata["packages"][0]["license"] = "GPL-3.0-only".into();
    metadata["packages"][1]["license"] = Value::Null;
    assert_eq!(refused(&metadata).len(), 2, "these would be found");
}

#[test]
fn licences_are_read_as_spdx_has_them() {
    for good in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-3.0) AND Unicode-3.0"] {
        assert!(is_allowed(good), "{good}");
    }
    assert!(is_allowed("Apache-2.0 WITH LLVM-exception OR GPL-2.0"));
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", ""] {
        assert!(!is_allowed(bad), "{bad}");
    }
}
