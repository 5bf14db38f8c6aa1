//! Directories that are older than what the other replicas remember, two processes that run as one
//! replica, and lists of replicas that differ. The tests use real `serve` processes on a real file
//! system, over QUIC.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use common::processes::{Cluster, PATIENCE, isonomy};

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn put_back(cluster: &Cluster, number: usize) {
    fs::remove_dir_all(cluster.data(number)).unwrap();
    copy(&cluster.dir.join("copy"), &cluster.data(number));
}

/// Waits until a replica has logged these words.
fn logged(cluster: &Cluster, number: usize, words: &str) {
    let start = Instant::now();
    while !cluster.log(number).contains(words) {
        assert!(start.elapsed() < PATIENCE, "{words} in {}", cluster.log(number));
        std::thread::sleep(Duration::from_millis(20));
    }
}

const OLDER: &str = "directory is an older copy, or lost the end of its log";

#[test]
fn an_older_copy_is_refused_whoever_is_started_first() {
    let mut cluster = Cluster::start(3);
    cluster.told(&["put", "key", "old", "--replica", "1"]);
    cluster.kill(&[1]);
    copy(&cluster.data(1), &cluster.dir.join("copy"));
    cluster.serve(1);
    cluster.kill(&[3]);
    cluster.told(&["put", "key", "new", "--replica", "1"]);
    cluster.kill(&[1, 2]);
    put_back(&cluster, 1);

    // Alone, the replica cannot know that its copy is old. It sends nothing before a peer tells it.
    cluster.serve(1);
    cluster.serve(2);
    assert_eq!(cluster.wait_exit(1), Some(4));
    let words = cluster.log(1);
    assert!(words.contains(OLDER) && words.contains("isonomy member replace OLD NEW"), "{words}");
    cluster.serve(3);
    assert_eq!(cluster.told(&["get", "key", "--replica", "3"]), "new\n");

    // The same again when the others are there first, and once more after they were restarted.
    for restarted in [false, true] {
        put_back(&cluster, 1);
        if restarted {
            cluster.kill(&[2, 3]);
            cluster.serve_all_of(&[2, 3]);
        }
        let (code, words) = cluster.refusal(1);
        assert_eq!(code, Some(4), "{words}");
        assert!(words.contains(OLDER), "{words}");
        let (code, words) = cluster.refusal(1);
        assert_eq!(code, Some(4), "{words}");
        assert!(words.contains("have refused this directory for good"), "{words}");
    }
    cluster.told(&["put", "key", "two suffice"]);
}

const PARTED: &str = "may have executed different commands";

/// Waits until two replicas have refused each other, then asks both. Neither may answer.
fn refuse_each_other(cluster: &Cluster, one: usize, other: usize) {
    for number in [one, other] {
        logged(cluster, number, PARTED);
        let words = cluster.log(number);
        assert!(words.contains("remembers r1 up to record"), "{words}");
        assert!(words.contains("restore all from a backup"), "{words}");
    }
    for number in [one, other] {
        let asked = isonomy()
            .args(["get", "key", "--replica", &number.to_string(), "--timeout", "4", "--cluster"])
            .arg(&cluster.dir)
            .output()
            .unwrap();
        assert!(!asked.status.success(), "r{number} answers {asked:?}");
    }
}

/// A stopped cluster with an older copy in the place of replica 1's directory. Replica 2 has acted
/// on what the copy lacks. Replica 3 has heard nothing from replica 1 beyond what the copy holds.
fn with_an_older_copy_that_only_r2_knows() -> Cluster {
    let mut cluster = Cluster::start(3);
    cluster.told(&["put", "key", "old", "--replica", "1"]);
    cluster.kill(&[1, 3]);
    copy(&cluster.data(1), &cluster.dir.join("copy"));
    cluster.serve(1);
    for value in ["new", "newer", "newest"] {
        cluster.told(&["put", "key", value, "--replica", "2"]);
    }
    cluster.kill(&[1, 2]);
    put_back(&cluster, 1);
    cluster
}

/// The only replica that knew better is away while an older copy of replica 1 takes part.
#[test]
fn two_that_have_acted_on_different_histories_of_a_third_are_no_quorum() {
    let mut cluster = with_an_older_copy_that_only_r2_knows();

    // No replica that is there can tell. This is a known limit.
    cluster.serve_all_of(&[1, 3]);
    for number in ["1", "3", "1"] {
        cluster.told(&["put", "elsewhere", number, "--replica", number]);
    }
    assert_eq!(cluster.told(&["get", "key", "--replica", "3"]), "old\n");

    let _line = cluster.spawn(2);
    assert_eq!(cluster.wait_exit(1), Some(4));
    refuse_each_other(&cluster, 2, 3);
    cluster.kill(&[2, 3]);
    [2, 3].iter().for_each(|number| fs::remove_file(cluster.log_path(*number)).unwrap());
    cluster.serve_all_of(&[2, 3]);
    refuse_each_other(&cluster, 2, 3);
}

/// From its next start on, a replica looks for another one at an address where no replica listens.
fn lose_sight(cluster: &Cluster, number: usize, other: usize) {
    let text = fs::read_to_string(cluster.file(number)).unwrap();
    let start = format!("{other} = ");
    let line = text.lines().find(|line| line.starts_with(&start)).expect("what init wrote");
    cluster.edit_one(number, line, &format!("{other} = \"127.0.0.1:1\""));
}

#[test]
fn an_older_copy_is_refused_by_one_that_has_only_been_told_of_more() {
    let mut cluster = with_an_older_copy_that_only_r2_knows();
    lose_sight(&cluster, 1, 2);
    lose_sight(&cluster, 2, 1);

    // Replica 3 has heard nothing from replica 1 beyond what the copy holds, but replica 2 has.
    cluster.serve_all_of(&[2, 3]);
    cluster.told(&["put", "elsewhere", "value", "--replica", "3"]);
    let (code, words) = cluster.refusal(1);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("r1 is remembered by r2") && words.contains(OLDER), "{words}");
    assert_eq!(cluster.told(&["get", "key", "--replica", "3"]), "newest\n");
}

#[test]
fn a_log_whose_end_is_gone_is_refused_by_those_who_heard_of_it() {
    let mut cluster = Cluster::start(3);
    let value = "v".repeat(1000);
    for number in 0..12 {
        cluster.told(&["put", &format!("key{number}"), &value, "--replica", "3"]);
    }
    cluster.kill(&[3]);
    let mut logs: Vec<PathBuf> = fs::read_dir(cluster.data(3))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("log-"))
        .collect();
    logs.sort();
    let used = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0)?;
        (end > 8000).then_some((path.clone(), bytes, end + 1))
    };
    let (path, mut bytes, end) = logs.iter().rev().find_map(used).expect("a log in use");
    bytes[end - 5000..end].fill(0);
    fs::write(path, bytes).unwrap();
    let (code, words) = cluster.refusal(3);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains(OLDER), "{words}");
    cluster.told(&["put", "key", "two suffice"]);
}

/// Starts replica 3 a second time, on another port and with a copy of its directory. Returns how it
/// ended.
fn start_copy(cluster: &Cluster) -> Output {
    let text = fs::read_to_string(cluster.file(3)).unwrap();
    let text = text.replace("data_dir = \"3.data\"", "data_dir = \"copy\"");
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!("listen = \"{free}\"\n{text}");
    let file = cluster.dir.join("3-copy.toml");
    fs::write(&file, text).unwrap();
    isonomy().arg("serve").arg(file).output().unwrap()
}

#[test]
fn a_copy_started_beside_the_original_does_not_drive_it_out() {
    let mut cluster = Cluster::start(3);
    cluster.told(&["put", "key", "value", "--replica", "3"]);
    // Nothing happens meanwhile, so the copy is as new as the original.
    copy(&cluster.data(3), &cluster.dir.join("copy"));
    fs::remove_file(cluster.dir.join("copy/lock")).ok();
    let ended = start_copy(&cluster);
    let words = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(4), "{words}");
    assert!(words.contains("another process runs as r3"), "{words}");
    assert!(words.contains("Stop the one that should not run"), "{words}");
    cluster.told(&["put", "key", "the original goes on", "--replica", "3"]);

    // Now the copy is older, and it says so.
    let ended = start_copy(&cluster);
    let words = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(4), "{words}");
    assert!(words.contains(OLDER), "{words}");
    cluster.told(&["put", "key", "still", "--replica", "3"]);
    assert_eq!(cluster.terminate(3), Some(0), "it has not noticed: {}", cluster.log(3));
}

#[test]
fn a_copy_goes_on_for_an_original_that_is_gone_and_only_one_of_them_does() {
    let mut cluster = Cluster::start(3);
    cluster.told(&["put", "key", "value", "--replica", "3"]);
    cluster.kill(&[3]);
    fs::rename(cluster.data(3), cluster.dir.join("copy")).unwrap();
    copy(&cluster.dir.join("copy"), &cluster.data(3));
    cluster.serve(3);
    cluster.told(&["put", "key", "the copy goes on", "--replica", "3"]);
    cluster.kill(&[3]);
    put_back(&cluster, 3);
    let (code, words) = cluster.refusal(3);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains(OLDER), "{words}");
}

/// Removes entries from the list of replicas in a replica's file.
fn shorten(cluster: &Cluster, number: usize, entries: &[usize]) -> String {
    let text = fs::read_to_string(cluster.file(number)).unwrap();
    let (front, list) = text.split_once("[replicas]\n").expect("what init wrote");
    let gone = |line: &&str| !entries.iter().any(|it| line.starts_with(&format!("{it} = ")));
    let list: Vec<&str> = list.lines().filter(gone).collect();
    fs::write(cluster.file(number), format!("{front}[replicas]\n{}\n", list.join("\n"))).unwrap();
    text
}

#[test]
fn two_lists_of_a_new_cluster_never_give_two_quorums() {
    let mut cluster = Cluster::lay_out(5);
    let whole: Vec<_> = [1, 2].map(|number| (number, shorten(&cluster, number, &[4, 5]))).into();
    let lines: Vec<_> = (1..=5).map(|number| cluster.spawn(number)).collect();
    // These two alone would be two of three. The others would be three of five, and they stop too
    // if they notice in time.
    for number in 1..=2 {
        assert_eq!(cluster.wait_exit(number), Some(4), "{}", cluster.log(number));
        let words = cluster.log(number);
        assert!(words.contains("the lists of replicas differ"), "{words}");
        assert!(words.contains("1, 2, 3, 4, 5") && words.contains("[replicas]"), "{words}");
    }
    let theirs: String = (3..=5).map(|number| cluster.log(number)).collect();
    assert!(theirs.contains("has the replicas"), "{theirs}");
    drop(lines);
    cluster.kill_all();
    // Nothing was decided at those two, so they can take the right list.
    for (number, text) in whole {
        fs::write(cluster.file(number), text).unwrap();
    }
    cluster.serve_all();
    cluster.told(&["put", "key", "value", "--replica", "1"]);
    assert_eq!(cluster.told(&["get", "key", "--replica", "5"]), "value\n");
}

#[test]
fn a_directory_keeps_its_list_and_a_late_replica_with_another_stops_alone() {
    let mut cluster = Cluster::lay_out(4);
    for number in 1..=3 {
        shorten(&cluster, number, &[4]);
    }
    cluster.serve_all_of(&[1, 2, 3]);
    cluster.told(&["put", "key", "value", "--replica", "1"]);
    // Replica 4 has the longer list, and the others have been running for a while.
    std::thread::sleep(Duration::from_secs(3));
    let (code, words) = cluster.refusal(4);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("has the replicas"), "{words}");
    cluster.told(&["put", "key", "they go on", "--replica", "2"]);

    cluster.kill(&[1]);
    shorten(&cluster, 1, &[3]);
    let (code, words) = cluster.refusal(1);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("the list differs, the directory is sound"), "{words}");
    assert!(words.contains("put back the list"), "{words}");
}

#[test]
fn what_differs_in_two_files_is_said_at_both_ends() {
    let mut cluster = Cluster::lay_out(3);
    let other = "durability = \"fsync\"\nsession_idle_seconds = 60";
    cluster.edit_one(3, "durability = \"fsync\"", other);
    cluster.serve_all();
    for (number, id) in [(1, "r3"), (3, "r1")] {
        logged(&cluster, number, &format!("{id} forgets sessions after"));
        logged(&cluster, number, "stop all replicas, change all files, and start them");
    }
    cluster.told(&["put", "key", "two suffice", "--replica", "1"]);
    cluster.kill(&[3]);
    cluster.edit_one(3, other, "durability = \"fsync\"");
    cluster.serve(3);
    assert_eq!(cluster.told(&["get", "key", "--replica", "3"]), "two suffice\n");
}

/// Suppose one replica alone skipped a command that the others executed. Then their states would
/// differ for good.
#[test]
fn replicas_that_skip_different_requests_refuse_each_other() {
    let mut cluster = Cluster::start(3);
    cluster.told(&["put", "key", "before", "--replica", "3"]);
    let skip = |cluster: &Cluster, number| {
        // The file that `serve --skip c7#9` leaves in the directory.
        fs::write(cluster.data(number).join("skipped"), "c7#9\nend\n").unwrap();
    };
    cluster.kill(&[3]);
    skip(&cluster, 3);
    cluster.serve(3);
    for (number, id) in [(1, "r3"), (3, "r1")] {
        logged(&cluster, number, &format!("{id} skips other requests"));
    }
    cluster.told(&["put", "key", "two suffice", "--replica", "1"]);
    cluster.kill(&[1, 2]);
    [1, 2].into_iter().for_each(|number| skip(&cluster, number));
    cluster.serve_all();
    assert_eq!(cluster.told(&["get", "key", "--replica", "3"]), "two suffice\n");
    // The age of sessions depends on the cluster's own commands, so those cannot be skipped.
    cluster.kill(&[1]);
    let mut own = isonomy();
    own.arg("serve").arg(cluster.file(1)).args(["--skip", &format!("c{:x}#1", u64::MAX)]);
    let refused = own.output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("the cluster's own"), "{words}");
}

#[test]
fn a_first_start_that_fails_leaves_nothing_that_the_right_one_minds() {
    let mut cluster = Cluster::lay_out(3);
    // Another replica's number with this replica's certificate.
    cluster.edit_one(1, "replica = 1", "replica = 2");
    let (code, words) = cluster.refusal(1);
    assert_ne!(code, Some(0), "{words}");
    cluster.edit_one(1, "replica = 2", "replica = 1");
    // Another cluster's name with this cluster's certificate.
    cluster.edit_one(1, "cluster = \"blue\"", "cluster = \"red\"");
    let (code, words) = cluster.refusal(1);
    assert_ne!(code, Some(0), "{words}");
    cluster.edit_one(1, "cluster = \"red\"", "cluster = \"blue\"");
    // An address that is already in use.
    let text = fs::read_to_string(cluster.file(1)).unwrap();
    let own = text.lines().find_map(|line| line.strip_prefix("1 = ")).unwrap();
    let taken = UdpSocket::bind(own.trim_matches('"')).unwrap();
    let (code, words) = cluster.refusal(1);
    assert_ne!(code, Some(0), "{words}");
    drop(taken);
    assert!(!cluster.data(1).join("identity").exists(), "it was nobody's so far");
    cluster.serve_all();
    cluster.told(&["put", "key", "value", "--replica", "1"]);
}
