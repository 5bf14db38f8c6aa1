//! Observers in processes of their own, under load and `kill -9`, from the command line.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by it, and tells")]

mod common;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::processes::{Cluster, PATIENCE};
use common::recorded::Load;
use common::{get, put};
use isonomy::machine::KvOutput;
use isonomy::types::Consistency;

/// Asks for a change until it is made. Returns what the command prints.
#[track_caller]
fn change(cluster: &Cluster, arguments: &[&str]) -> String {
    let start = Instant::now();
    loop {
        let output = cluster.client(&[&["member"], arguments].concat());
        let [out, err] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
        let not_yet = ["is not connected with", "could be reached, and", "not proposed: "];
        match output.status.code() {
            Some(0) => return out,
            Some(2) if not_yet.iter().any(|why| err.contains(why)) => {}
            code => panic!("{arguments:?}: {code:?}: {err}"),
        }
        assert!(start.elapsed() < PATIENCE, "{arguments:?}: {err}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until `said` holds what is wanted.
#[track_caller]
fn eventually(said: impl Fn() -> String, wanted: impl Fn(&str) -> bool) {
    let start = Instant::now();
    loop {
        let text = said();
        if wanted(&text) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{text}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn local(cluster: &Cluster, key: &str) -> String {
    let output = cluster.client(&["get", key, "--local", "--replica", "4"]);
    String::from_utf8(output.stdout).expect("text")
}

#[cfg(unix)]
fn signal(cluster: &mut Cluster, number: usize, name: &str) {
    let id = cluster.process(number).id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().expect("kill runs").success());
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_observer_reads_under_load_and_kills_and_holds_nobody_up() {
    let mut cluster = Cluster::lay_out_for(3, 4);
    cluster.serve_all();
    cluster.told(&["put", "key", "before"]);
    let lines = cluster.start_to_join(4);
    let list = change(&cluster, &["add", &cluster.place(4), "--observer"]);
    assert!(list.contains("\nr4  ") && list.contains("observes"), "{list}");
    cluster.wait_ready(4, &lines);
    cluster.tell_clients(1..=4);
    assert_eq!(local(&cluster, "key"), "before");
    let refused = cluster.client(&["put", "key", "no", "--replica", "4"]);
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(5) && words.contains("observer"), "{words}");

    let load = Load::start(&cluster, 1..=3).await;
    let members = || cluster.told(&["member", "list", "--replica", "1"]);
    eventually(members, |list| list.contains("decisions behind"));
    // Each of these may be its feeder.
    for number in 1..=3 {
        cluster.kill(&[number]);
        let mark = format!("without {number}");
        cluster.told(&["put", "key", &mark]);
        eventually(|| local(&cluster, "key"), |text| text == mark);
        cluster.serve(number);
    }
    cluster.kill(&[4]);
    cluster.told(&["put", "key", "while it was dead"]);
    cluster.serve(4);
    eventually(|| local(&cluster, "key"), |text| text == "while it was dead");
    // It stands still, and they go on.
    signal(&mut cluster, 4, "-STOP");
    let before = load.answered();
    let start = Instant::now();
    while load.answered() < before + 200 {
        assert!(start.elapsed() < PATIENCE, "{} operations", load.answered() - before);
        thread::sleep(Duration::from_millis(10));
    }
    cluster.told(&["put", "key", "while it stood still"]);
    signal(&mut cluster, 4, "-CONT");
    eventually(|| local(&cluster, "key"), |text| text == "while it stood still");
    // A client that prefers it reads there, and writes elsewhere.
    let mut config = cluster.client_config(1..=4);
    (config.prefer, config.follow) = (isonomy::types::MemberId::new(4), true);
    let client = isonomy::client::Client::<isonomy::machine::Kv>::connect(config).await.unwrap();
    assert_eq!(client.execute(put("own", "1")).await, Ok(KvOutput::Done));
    assert!(client.read(get("own"), Consistency::Local).await.is_ok());
    assert_eq!(client.read(get("own"), Consistency::Linearizable).await, Ok(common::value("1")));
    assert_eq!(client.server().await.unwrap().replica.number(), 4, "it is preferred");

    let list = change(&cluster, &["remove", "4"]);
    assert!(!list.contains("r4"), "{list}");
    assert_eq!(cluster.wait_exit(4), Some(6), "{}", cluster.log(4));
    let (code, words) = cluster.refusal(4);
    assert_eq!(code, Some(6), "{words}");
    let last = cluster.connect(1..=3).await;
    let (answered, unknown) = load.end(&last).await;
    eprintln!("{answered} operations answered, {unknown} unknown");
}
