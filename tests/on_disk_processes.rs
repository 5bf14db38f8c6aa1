//! Real processes with the key-value store on redb: `kill -9` in a loop under load, a lost disk
//! that is replaced, and a replica in memory beside two on disk.
//!
//! `ISONOMY_CYCLES=N` sets the number of kills, for long runs.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by it, and tells")]

mod common;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::processes::{Cluster, PATIENCE, isonomy};
use common::recorded::Load;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const REDB: &str = "[store]\nkind = \"redb\"\nchanges_bytes = 1048576\n\n[tls]";

/// A cluster whose replicas take many snapshots. The first two are on redb.
fn lay_out() -> Cluster {
    let cluster = Cluster::lay_out_for(3, 4);
    cluster.edit("\nreplica = ", "\nsnapshot_every = 65536\nkeep_for_absent = 65536\nreplica = ");
    for number in [1, 2] {
        cluster.edit_one(number, "[tls]", REDB);
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_under_load_and_kills() {
    let cycles = std::env::var("ISONOMY_CYCLES").ok();
    let cycles = cycles.map_or(10, |cycles| cycles.parse().expect("ISONOMY_CYCLES is a number"));
    let mut cluster = lay_out();
    cluster.serve_all();
    for (number, words) in [(1, "the state is on disk"), (3, "the state is in memory")] {
        assert!(cluster.log(number).contains(words), "{}", cluster.log(number));
    }
    let load = Load::start(&cluster, 1..=3).await;
    let mut rng = ChaCha8Rng::seed_from_u64(cycles);
    let mut cluster = tokio::task::spawn_blocking(move || {
        for _ in 0..cycles {
            thread::sleep(Duration::from_millis(rng.random_range(200..1200)));
            let victim = rng.random_range(1..=3);
            cluster.kill(&[victim]);
            thread::sleep(Duration::from_millis(rng.random_range(0..400)));
            cluster.serve(victim);
        }
        cluster
    })
    .await
    .expect("it ends");
    let last = cluster.connect(1..=3).await;
    let (answered, unknown) = load.end(&last).await;
    eprintln!("{answered} operations answered, {unknown} unknown");
    assert!(answered > cycles * 20, "too little was done: {answered} operations");
    // All lose power at once, and come back.
    cluster.told(&["put", "last", "value"]);
    for number in 1..=3 {
        cluster.told(&["snapshot", "--replica", &number.to_string()]);
    }
    cluster.told(&["put", "after", "the snapshot"]);
    cluster.kill_all();
    cluster.serve_all();
    for number in 1..=3 {
        let number = number.to_string();
        assert_eq!(cluster.told(&["get", "last", "--replica", &number]), "value\n");
        assert_eq!(cluster.told(&["get", "after", "--replica", &number]), "the snapshot\n");
    }
}

#[test]
fn a_lost_disk_is_replaced_by_one_on_redb() {
    let mut cluster = lay_out();
    cluster.serve_all();
    let value = "x".repeat(20_000);
    for key in 0..30 {
        cluster.told(&["put", &format!("k{key}"), &value]);
    }
    cluster.kill(&[2]);
    fs::remove_dir_all(cluster.data(2)).expect("a disk");
    let mut cert = isonomy();
    cert.args(["cert", "replica"]).arg(&cluster.dir).arg(cluster.place(4));
    assert!(cert.status().expect("isonomy runs").success());
    cluster.edit_one(4, "[tls]", REDB);
    let lines = cluster.spawn(4);
    let start = Instant::now();
    let place = cluster.place(4);
    // It takes a moment until it is connected.
    while !cluster.client(&["member", "replace", "2", &place]).status.success() {
        assert!(start.elapsed() < PATIENCE, "{}", cluster.log(4));
        thread::sleep(Duration::from_millis(50));
    }
    cluster.wait_ready(4, &lines);
    assert!(cluster.data(4).join("state").is_dir());
    // It goes on from its own disk, and the others can do without one more.
    cluster.kill(&[4, 3]);
    cluster.serve(4);
    cluster.tell_clients([1, 4]);
    for key in 0..30 {
        let found = cluster.told(&["get", &format!("k{key}"), "--replica", "4"]);
        assert_eq!(found.trim_end(), value, "k{key}");
    }
}

#[test]
fn a_directory_on_redb_is_refused_in_memory_and_understood_by_the_other_commands() {
    let mut cluster = lay_out();
    cluster.serve_all();
    cluster.told(&["put", "key", "value"]);
    cluster.told(&["snapshot", "--replica", "1"]);
    cluster.kill(&[1]);
    cluster.edit_one(1, "kind = \"redb\"", "kind = \"memory\"");
    let (code, words) = cluster.refusal(1);
    assert_eq!(code, Some(4), "{words}");
    for word in ["that keeps it on disk itself", "--store redb", "[store]"] {
        assert!(words.contains(word), "{word} in {words}");
    }
    let run = |arguments: &[&str]| {
        let mut command = isonomy();
        let output = command.args(arguments).arg(cluster.data(1)).output().expect("isonomy runs");
        let [out, err] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
        (output.status.code(), out + &err)
    };
    let (code, words) = run(&["inspect"]);
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("its state is checkpoint"), "{words}");
    let file = cluster.dir.join("backup");
    let mut backup = isonomy();
    let output = backup.arg("backup").arg(cluster.data(1)).arg(&file).output().expect("it runs");
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{words}");
    assert!(words.contains("keeps it on disk itself"), "{words}");
    assert!(!file.exists());
    cluster.edit_one(1, "kind = \"memory\"", "kind = \"redb\"");
    cluster.serve(1);
    assert_eq!(cluster.told(&["get", "key", "--replica", "1"]), "value\n");
}

#[test]
fn a_running_cluster_on_redb_is_backed_up_with_all_of_its_state() {
    let mut cluster = lay_out();
    cluster.serve_all();
    let value = "x".repeat(20_000);
    for key in 0..30 {
        cluster.told(&["put", &format!("k{key}"), &value]);
    }
    let file = cluster.dir.join("backup");
    let name = file.to_str().expect("a name in UTF-8");
    cluster.told(&["backup", name, "--replica", "1"]);
    cluster.kill_all();
    for number in 1..=3 {
        fs::remove_dir_all(cluster.data(number)).expect("a disk");
        let mut restore = isonomy();
        restore.arg("restore").arg(&file).arg(cluster.data(number));
        restore.args(["--replica", &number.to_string()]);
        assert!(restore.status().expect("isonomy runs").success());
    }
    // Two of them on redb again, and one in memory.
    cluster.serve_all();
    for number in 1..=3 {
        for key in 0..30 {
            let (key, number) = (format!("k{key}"), number.to_string());
            assert_eq!(cluster.told(&["get", &key, "--replica", &number]).trim_end(), value);
        }
    }
}
