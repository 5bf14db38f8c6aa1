//! Real processes whose members change: a lost disk is replaced, replicas join and are removed, and
//! all of it happens under load and `kill -9`.
//!
//! `ISONOMY_CYCLES=N` sets the number of changes under load, for long runs.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by it, and tells")]

mod common;

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::changes::{Story, change};
use common::processes::{Cluster, PATIENCE, isonomy};
use common::put;
use common::recorded::Load;

/// A change that must be refused, and why it is.
#[track_caller]
fn refused(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.client(&[&["member"], arguments].concat());
    let words = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {words}");
    words
}

/// The line of a replica that waits to be made a member.
#[track_caller]
fn waits(cluster: &Cluster, number: usize, lines: &mpsc::Receiver<String>) {
    let line = lines.recv_timeout(PATIENCE).expect("a line in time");
    assert!(line.starts_with(&format!("waits: replica {number} of blue at ")), "{line}");
    for command in ["member add ", "member replace OLD "] {
        let command = format!("isonomy {command}{} --cluster DIR", cluster.place(number));
        assert!(line.contains(&command), "{command} in {line}");
    }
}

#[test]
fn a_lost_disk_is_replaced_while_the_cluster_runs() {
    let mut cluster = Cluster::lay_out_for(3, 4);
    cluster.serve_all();
    for key in 0..20 {
        cluster.told(&["put", &format!("k{key}"), "before"]);
    }
    cluster.kill(&[3]);
    fs::remove_dir_all(cluster.data(3)).expect("a disk");
    let lines = cluster.start_to_join(4);
    waits(&cluster, 4, &lines);
    // It takes no commands yet, and names nobody that it does not know.
    let early = cluster.client(&["member", "list"]);
    assert!(early.status.success(), "{early:?}");
    let list = change(&cluster, &["replace", "3", &cluster.place(4)]);
    assert!(list.starts_with("epoch 1\nr1  ") && list.contains("\nr4  "), "{list}");
    cluster.wait_ready(4, &lines);
    cluster.told(&["put", "k0", "after"]);

    // Now another one may fail.
    cluster.kill(&[1]);
    cluster.tell_clients([2, 4]);
    assert_eq!(cluster.told(&["get", "k0", "--replica", "4"]), "after\n");
    for key in 1..20 {
        let key = format!("k{key}");
        assert_eq!(cluster.told(&["get", &key, "--replica", "4"]), "before\n");
    }
    cluster.told(&["put", "k1", "without r1 and r3"]);
    cluster.serve(1);
    cluster.tell_clients([1, 2, 4]);
    assert_eq!(cluster.told(&["get", "k1", "--replica", "1"]), "without r1 and r3\n");
    let list = || cluster.told(&["member", "list", "--replica", "1"]);
    for line in ["epoch 1, as r1 sees it", "r2  127.0.0.1:", "r4  127.0.0.1:"] {
        assert!(list().contains(line), "{line} in {}", list());
    }
    assert!(!list().contains("r3"), "{}", list());
    // After its restart r1 must first hear from the others that they have begun.
    let asked = Instant::now();
    while list().matches("takes part").count() != 3 {
        assert!(asked.elapsed() < PATIENCE, "{}", list());
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_replica_joins_with_a_certificate_that_it_requested() {
    let mut cluster = Cluster::lay_out_for(3, 4);
    cluster.serve_all();
    cluster.told(&["put", "key", "value"]);
    let machine = cluster.dir.with_file_name("machine");
    let mut request = isonomy();
    request.args(["cert", "request"]).arg(&machine).args(["4", "--cluster", "blue"]);
    assert!(request.status().expect("isonomy runs").success());
    let place = cluster.place(4);
    let (_, address) = place.split_once('@').expect("an address");
    let mut sign = isonomy();
    sign.args(["cert", "sign"]).arg(&cluster.dir).arg(machine.join("4.csr"));
    let signed = sign.args(["--address", address]).output().expect("isonomy runs");
    assert!(signed.status.success(), "{signed:?}");
    assert!(!cluster.dir.join("4.key").exists(), "the key stays on its machine");
    let lines = cluster.spawn_at(4, &machine.join("4.toml"));
    waits(&cluster, 4, &lines);
    change(&cluster, &["add", &place]);
    cluster.wait_ready(4, &lines);
    cluster.tell_clients(1..=4);
    assert_eq!(cluster.told(&["get", "key", "--replica", "4"]), "value\n");
    // It goes on as a member from then on, and says so at once.
    cluster.kill(&[4]);
    let lines = cluster.spawn_at(4, &machine.join("4.toml"));
    cluster.wait_ready(4, &lines);
    cluster.told(&["put", "key", "again", "--replica", "4"]);
}

#[test]
fn a_removed_replica_ends_and_cannot_be_started_again() {
    let mut cluster = Cluster::lay_out_for(4, 4);
    cluster.serve_all();
    cluster.told(&["put", "key", "value", "--replica", "4"]);
    // It may be asked for that itself.
    let list = change(&cluster, &["remove", "4", "--replica", "4"]);
    assert!(!list.contains("r4") && list.contains("r3"), "{list}");
    // It ends by itself, and says why.
    assert_eq!(cluster.wait_exit(4), Some(6), "{}", cluster.log(4));
    let log = cluster.log(4);
    assert!(log.contains("replica 4 has ended: it was removed from the cluster"), "{log}");
    let (code, words) = cluster.refusal(4);
    assert_eq!(code, Some(6), "{words}");
    for word in ["removed from the cluster", "r1, r2, r3", "can be deleted"] {
        assert!(words.contains(word), "{word} in {words}");
    }
    assert_eq!(cluster.told(&["get", "key"]), "value\n");
    // Its number is used up.
    assert!(refused(&cluster, &["add", &cluster.place(4)]).contains("5 or higher"));
}

#[test]
fn changes_are_refused_to_whom_they_are_not_allowed_and_where_they_do_harm() {
    let mut cluster = Cluster::lay_out_for(3, 4);
    cluster.serve_all();
    for (arguments, why) in [
        (&["remove", "9"][..], "no member 9"),
        (&["remove", "3"], "--force"),
        (&["add", &cluster.place(4)], "r4 is not connected"),
        (&["add", &cluster.place(3)], "4 or higher"),
        (&["replace", "9", &cluster.place(4)], "no member 9"),
    ] {
        let words = refused(&cluster, arguments);
        assert!(words.contains(why), "{arguments:?}: {words}");
    }
    // A client is no administrator, whatever file it names.
    fs::copy(cluster.dir.join("client.toml"), cluster.dir.join("admin.toml")).expect("copied");
    let words = refused(&cluster, &["remove", "3", "--force"]);
    assert!(words.contains("administrator's certificate"), "{words}");
    let list = cluster.told(&["member", "list"]);
    assert!(list.contains("epoch 0") && list.contains("r3  "), "{list}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_grows_shrinks_and_is_replaced_under_load_and_kills() {
    let asked = std::env::var("ISONOMY_CYCLES").ok();
    let changes = asked.map_or(10, |asked| asked.parse().expect("ISONOMY_CYCLES is a number"));
    let most = 3 + changes;
    let mut cluster = Cluster::lay_out_for(3, most);
    cluster.serve_all();
    let load = Load::start(&cluster, 1..=usize::from(most)).await;
    let mut story = Story::of(cluster, None, changes.into());
    let (mut least, mut largest) = (3, 3);
    for cycle in 0..changes {
        let before = load.answered();
        let begun = Instant::now();
        story = tokio::task::spawn_blocking(move || {
            story.next_change(cycle);
            story.cluster.tell_clients(story.members.clone());
            story.kill_one(None);
            story
        })
        .await
        .expect("a change");
        (least, largest) = (least.min(story.members.len()), largest.max(story.members.len()));
        eprintln!(
            "change {cycle}: {:?} after {:?}, {} operations meanwhile",
            story.members,
            begun.elapsed(),
            load.answered() - before
        );
    }
    let Story { cluster, members, .. } = story;
    let last = cluster.connect(members.clone()).await;
    let rejections = load.rejections();
    let (answered, unknown) = load.end(&last).await;
    eprintln!("{answered} operations answered, {unknown} unknown, rejections: {rejections:?}");
    // A client that asks a replica that is no member goes on to the next.
    assert!(!rejections.iter().any(|why| why.contains("no member")), "{rejections:?}");
    assert!(answered > u64::from(changes) * 20, "too little was done: {answered} operations");
    assert!(least == 3 && (changes < 2 || largest == 5), "{least} to {largest} members");
    // Each of them has all of it.
    for number in members {
        let client = cluster.connect([number]).await;
        client.execute(put("last", &number.to_string())).await.expect("it takes part");
    }
}
