//! `isonomy compare` as users see it: results are kept, two results are compared with each other,
//! and a full disk loses nothing.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Output;

use common::processes::isonomy;

/// A small plan in virtual time, with `more` as its last line.
fn plan(dir: &Path, name: &str, more: &str) -> PathBuf {
    let path = dir.join(name);
    let text = "title = 'small'\nreplicas = 3\nprotocols = ['epaxos', 'multi-paxos']\n\
                conflicts = [0, 50]\nclients = [2]\nrepeats = 4\nseconds = 0.1\n";
    fs::write(&path, format!("{text}{more}\n")).unwrap();
    path
}

fn make(plan: &Path, out: &Path) -> Output {
    let mut compare = isonomy();
    compare.args(["compare", "--virtual", "--config"]).arg(plan).arg("--out").arg(out);
    compare.output().unwrap()
}

fn judge(before: &Path, after: &Path) -> Output {
    let results = [before, after].map(|dir| dir.join("result.json"));
    isonomy().arg("compare").args(results).output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn results_are_kept_and_a_worse_one_shows_in_the_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let [quick, slow] = ["quick", "slow"].map(|name| dir.path().join(name));
    let output = make(&plan(dir.path(), "a.toml", ""), &quick);
    assert!(output.status.success(), "{output:?}");
    for name in ["result.json", "report.md", "report.html"] {
        assert!(quick.join(name).exists(), "{name}");
    }
    assert_eq!(fs::read_dir(quick.join("runs")).unwrap().count(), 16);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("| multi-paxos | ") && table.contains("in virtual time"), "{table}");
    assert!(make(&plan(dir.path(), "b.toml", "jitter_ms = 1.0"), &slow).status.success());

    assert_eq!(judge(&quick, &quick).status.code(), Some(0));
    let worse = judge(&quick, &slow);
    assert_eq!(worse.status.code(), Some(1), "{worse:?}");
    assert!(String::from_utf8(worse.stdout).unwrap().contains("**WORSE**"));

    let again = make(&plan(dir.path(), "a.toml", ""), &quick);
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    assert!(words(&again).contains("holds results already: name another"), "{again:?}");
    let none = judge(&quick, dir.path());
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    assert!(words(&none).contains("cannot read "), "{none:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn where_there_is_no_room_what_there_is_is_kept_and_printed() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(dir.path(), "a.toml", "");
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    symlink("/dev/full", out.join("report.html.part")).unwrap();
    let output = make(&plan, &out);
    let said = words(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let [error, rest] = lines[..] else { panic!("{said}") };
    assert!(error.ends_with("report.html: No space left on device (os error 28)"), "{said}");
    assert!(rest.starts_with("What there was room for is in "), "{said}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("| epaxos | "));
    assert!(out.join("result.json").exists() && !out.join("report.html").exists());
    assert_eq!(fs::read_dir(out.join("runs")).unwrap().count(), 16);

    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut compare = isonomy();
    compare.args(["compare", "--virtual", "--config"]).arg(&plan).stdout(full);
    let output = compare.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(words(&output).contains("to standard output: No space left"), "{output:?}");
}

#[test]
fn a_plan_that_makes_no_sense_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    for (line, said) in [
        ("leaders = ['r4']", "a.toml:8: there is no site \"r4\""),
        ("crash = { site = 'leader', at_s = 1, seconds = 2 }", "a.toml:8: crash: say how many"),
        ("repeat = 5", "a.toml:8: unknown field `repeat`"),
    ] {
        let output = make(&plan(dir.path(), "a.toml", line), &dir.path().join("out"));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(words(&output).contains(said), "{line}: {output:?}");
        assert!(output.stdout.is_empty() && !dir.path().join("out").exists());
    }
}
