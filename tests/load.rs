//! `isonomy load` as users see it: on a cluster that it starts, on a cluster that already runs,
//! with files that cannot be written, and with arguments that make no sense.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs;
use std::process::Output;

use common::processes::{Cluster, isonomy};
use serde_json::Value;

fn load(arguments: &[&str]) -> Output {
    isonomy().arg("load").args(arguments).output().expect("isonomy runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The report of a run in which this replica led and was the target of the fault. If the machine
/// stalls for long enough, another replica leads, so this may take several runs.
fn led_by(replica: u8, arguments: &[&str]) -> Value {
    let mut runs = (0..4).map(|_| json(&load(arguments)));
    let led = runs.find(|report| report["runs"][0]["events"][0]["replica"] == replica);
    led.expect("the wished-for leader leads")
}

/// Short and light enough for a machine that is busy with other tests.
const SHORT: &[&str] = &["--rate", "100", "--warm-up", "200ms", "--duration", "1s"];

#[test]
fn a_cluster_is_started_loaded_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (csv, hdr) = (dir.path().join("series.csv"), dir.path().join("series.hdr"));
    let (csv_name, hdr_name) = (csv.to_str().unwrap(), hdr.to_str().unwrap());
    let files = ["--csv", csv_name, "--hdr", hdr_name, "--interval", "100ms"];
    let more = ["--json", "--verify", "--conflicts", "20", "--slo", "errors<50%", "--repeats", "2"];
    let output = load(&[SHORT, &files, &more].concat());
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    assert_eq!((&report["config"]["rate"], &report["is_local"]), (&100.0.into(), &true.into()));
    assert!(report["machine"]["cores"].as_u64() >= Some(1), "{report}");
    assert_eq!(report["runs"].as_array().map(Vec::len), Some(2));
    for run in report["runs"].as_array().unwrap() {
        assert_eq!((&run["linearizable"], &run["digests_equal"]), (&true.into(), &true.into()));
        assert_eq!(run["offered"], run["answered"], "{run}");
        let (commit, execute) = (&run["cluster"]["commit_ms"], &run["cluster"]["execute_ms"]);
        assert!(commit["count"].as_u64() > Some(20), "{run}");
        assert!(commit["p50"].as_f64() <= execute["p50"].as_f64(), "{run}");
        let figures = ["p50", "p90", "p99", "p999", "p9999", "max"];
        let figures = figures.map(|name| run["latency_ms"][name].as_f64());
        assert!(figures.iter().all(Option::is_some) && figures.is_sorted(), "{run}");
    }
    let spread = &report["spread"]["p99_ms"];
    assert!(spread["min"].as_f64() <= spread["median"].as_f64(), "{report}");
    assert!(report["spread"]["commit_p99_ms"]["median"].as_f64() > Some(0.0), "{report}");
    let table = fs::read_to_string(&csv).unwrap();
    assert!(table.starts_with("run,at_s,") && table.lines().count() > 20, "{table}");
    for path in [hdr.clone(), dir.path().join("series.hdr.2")] {
        let log = fs::read_to_string(&path).unwrap();
        assert!(log.starts_with("#isonomy ") && log.contains("HISTFAAAA"), "{log}");
    }
}

#[test]
fn a_missed_objective_is_said_and_the_faults_are_in_the_table() {
    let more = ["--slo", "p50<1us", "--fault", "kill 3 at 500ms", "--interval", "250ms"];
    let output = load(&[SHORT, &more].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in ["MISSED: p50<1us: it is ", "kill 3 at 500ms", "p99.99", "commit", "fast path"] {
        assert!(text.contains(word), "{word} in {text}");
    }
}

#[test]
fn the_leader_is_chosen_and_killed_as_such() {
    let fault = ["--fault", "kill leader at 500ms", "--duration", "4s", "--timeout", "8s"];
    let pace = ["--rate", "100", "--warm-up", "300ms", "--conflicts", "0", "--json"];
    for protocol in ["multi-paxos", "epaxos"] {
        let who = ["--protocol", protocol, "--leader", "2"];
        let report = led_by(2, &[&pace[..], &fault, &who].concat());
        let (run, event) = (&report["runs"][0], &report["runs"][0]["events"][0]);
        assert_eq!(event["failed"], Value::Null, "{event}");
        let (cluster, is_led) = (&run["cluster"], protocol == "multi-paxos");
        assert_eq!(cluster["leader"].as_u64().is_some_and(|it| it != 2), is_led, "{cluster}");
        let count = |path: &str| cluster[path]["commit_ms"]["count"].as_u64().unwrap();
        let all = cluster["commit_ms"]["count"].as_u64().unwrap();
        assert!(count("fast_path") > 0 && count("fast_path") + count("slow_path") == all);
        assert_eq!((&run["unanswered"], &run["errors"]), (&0.into(), &0.into()), "{run}");
    }
}

#[test]
fn a_leader_that_pauses_is_the_one_that_goes_on() {
    let fault = ["--fault", "pause leader at 200ms for 300ms", "--duration", "2s", "--json"];
    let who = ["--protocol", "multi-paxos", "--leader", "3", "--rate", "100"];
    let report = led_by(3, &[&who[..], &fault].concat());
    let events = &report["runs"][0]["events"];
    assert_eq!(events[1]["what"], "resume 3");
    assert!(events[1]["at_s"].as_f64() >= Some(0.5), "{events}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_the_figures_are_printed() {
    for flag in ["--csv", "--hdr"] {
        let output = load(&[SHORT, &[flag, "/dev/full"]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(text.contains("latency, ms"), "{text}");
        assert!(words.contains("cannot write /dev/full: No space left"), "{words}");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = isonomy().arg("load").args(SHORT).arg("--json").stdout(full).output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("cannot write the result to standard output: No space"), "{words}");
}

#[test]
fn a_running_cluster_is_loaded_over_the_network() {
    let cluster = Cluster::start(3);
    let dir = cluster.dir.to_str().unwrap();
    let output = load(&[SHORT, &["--json", "--verify", "--cluster", dir]].concat());
    assert!(output.status.success(), "{output:?}");
    // Run it again on the cluster that still holds the first run's keys. The second run does not
    // meet them.
    let output = load(&[SHORT, &["--json", "--verify", "--cluster", dir]].concat());
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    let run = &report["runs"][0];
    assert_eq!((&report["is_local"], &run["cluster"]), (&false.into(), &Value::Null));
    assert_eq!((&run["linearizable"], &run["errors"]), (&true.into(), &0.into()), "{run}");
    assert_eq!(run["sites"].as_array().map(Vec::len), Some(3));

    let some = load(&[SHORT, &["--json", "--cluster", dir, "--endpoints", "2"]].concat());
    let report = json(&some);
    assert_eq!(report["runs"][0]["sites"][0]["replica"], 2, "{report}");
}

#[test]
fn a_cluster_that_is_not_there_is_said_to_be_so() {
    let cluster = Cluster::lay_out(3);
    let output = load(&[SHORT, &["--cluster", cluster.dir.to_str().unwrap()]].concat());
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(words.contains("the cluster cannot be reached"), "{words}");
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("some.toml");
    fs::write(&path, "rate = 100\nconflict = 5\n").unwrap();
    let bad = dir.path().join("bad.toml");
    fs::write(&bad, "rate = 100\n\nfault = ['kill 9 at 1s']\n").unwrap();
    for (arguments, words) in [
        (&["--config", path.to_str().unwrap()][..], "some.toml:2: there is no setting `conflict`"),
        (&["--config", bad.to_str().unwrap()], "bad.toml:3: fault: kill 9 at 1s: there is no"),
        (&["--config", "no/such.toml"], "cannot read no/such.toml"),
        (&["--fault", "kill one at 1s"], "     ^"),
        (&["--leader", "4"], "--leader: \"4\": name a replica, from 1 to 3"),
        (&["--protocol", "raft"], "there is no protocol \"raft\"; there are \"epaxos\""),
        (&["--find-rate"], "add one, such as --slo"),
        (&["--csv", "no/such/file.csv"], "cannot write no/such/file.csv"),
        (&["--endpoints", "1"], "--cluster"),
        (&["--cluster", "no/such"], "no/such/client.toml"),
    ] {
        let output = load(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty());
    }
}
