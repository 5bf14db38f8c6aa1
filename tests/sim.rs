//! The simulator as a command. The same seeds give the same worlds in every process, and the
//! printed seeds can be used to run those worlds again.
#![cfg(feature = "cli")]

use std::process::{Command, Output};

fn isonomy(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isonomy"));
    command.arg("sim").args(args).output().expect("the binary runs")
}

fn json(args: &[&str]) -> serde_json::Value {
    let output = isonomy(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn processes_and_threads_make_no_difference() {
    let first = json(&["--seeds", "50", "--threads", "1", "--json"]);
    let second = json(&["--seeds", "50", "--threads", "2", "--json"]);
    for field in ["seeds", "violations", "operations", "simulated_hours", "trace", "paths"] {
        assert_eq!(first[field], second[field], "{field}");
    }
    assert_eq!((&first["seeds"], &first["violations"]), (&50.into(), &0.into()));
}

#[test]
fn a_seed_can_be_watched() {
    let args = ["--seed", "7", "--replicas", "3", "--commands", "2", "--trace"];
    let [once, again] = [0; 2].map(|_| isonomy(&args));
    assert!(once.status.success());
    assert_eq!(once.stdout, again.stdout);
    let transcript = String::from_utf8(once.stdout).expect("text");
    for word in ["PreAccept", "PreAcceptOk", "Committed", "executes", "has its answer"] {
        assert!(transcript.contains(word), "{word} does not occur");
    }
}

#[test]
fn a_fault_that_does_not_exist_is_named() {
    let output = isonomy(&["--seeds", "1", "--without", "drop,earthquake"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("earthquake"));
}
