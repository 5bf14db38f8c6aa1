//! A cluster of real processes is backed up and begun again from the backup. The tests follow the
//! steps of the guide's chapter on backups, and check which replicas must not be let in afterwards.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use common::processes::{Cluster, PATIENCE, isonomy};
use common::recorded::Load;
use isonomy::machine::{KvCommand, KvOutput};

/// Runs a command that must succeed, and returns what it prints.
#[track_caller]
fn told(arguments: &[&Path]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn run(arguments: &[&Path]) -> Output {
    isonomy().args(arguments).output().expect("isonomy runs")
}

fn backup(directory: &Path, file: &Path) -> String {
    told(&[Path::new("backup"), directory, file])
}

/// What one replica is told to begin with, among these.
fn restore_among(cluster: &Cluster, file: &Path, number: usize, members: &str) -> String {
    let own = number.to_string();
    let flags = ["--replica", &own, "--members", members].map(Path::new);
    let (command, data) = (Path::new("restore"), cluster.data(number));
    told(&[&[command, file, &data], &flags[..]].concat())
}

fn restore(cluster: &Cluster, file: &Path, number: usize) -> String {
    let own = number.to_string();
    let flag = [Path::new("--replica"), Path::new(&own)];
    told(&[Path::new("restore"), file, &cluster.data(number), flag[0], flag[1]])
}

fn aside(cluster: &Cluster, number: usize) -> PathBuf {
    cluster.dir.join(format!("{number}.old"))
}

/// Waits until a replica has logged these words.
#[track_caller]
fn wait_log(cluster: &Cluster, number: usize, words: &str) {
    let start = Instant::now();
    while !cluster.log(number).contains(words) {
        assert!(start.elapsed() < PATIENCE, "{words}: {}", cluster.log(number));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn put(key: &str, value: &str) -> KvCommand {
    KvCommand::Put { key: key.to_owned().into(), value: value.to_owned().into() }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_begins_anew_from_a_backup_and_lets_nobody_else_in() {
    let mut cluster = Cluster::start(3);
    let client = cluster.connect([1, 2, 3]).await;
    for number in 0..50 {
        let done = client.execute(put(&format!("k{number}"), &format!("v{number}"))).await;
        assert_eq!(done, Ok(KvOutput::Done));
    }
    let file = cluster.dir.join("monday.backup");
    let running = run(&[Path::new("backup"), &cluster.data(1), &file]);
    assert_eq!(running.status.code(), Some(4), "there is no snapshot yet: {running:?}");

    (1..=3).for_each(|number| assert_eq!(cluster.terminate(number), Some(0)));
    let words = backup(&cluster.data(1), &file);
    for wanted in ["replica 1 of cluster blue", "the replica was stopped", "executed: of replica 1"]
    {
        assert!(words.contains(wanted), "{wanted} in {words}");
    }
    let again = run(&[Path::new("backup"), &cluster.data(1), &file]);
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    let other = cluster.dir.join("other.backup");
    backup(&cluster.data(1), &other);
    for number in 1..=3 {
        fs::rename(cluster.data(number), aside(&cluster, number)).expect("renamed");
        let words = restore(&cluster, &file, number);
        assert!(words.contains(&format!("replica {number} of 3 of cluster blue")), "{words}");
    }
    cluster.serve_all();
    assert_eq!(cluster.told(&["get", "k49", "--replica", "2"]), "v49\n");
    // The same client session continues.
    for number in 0..50 {
        assert_eq!(client.execute(put(&format!("k{number}"), "new")).await, Ok(KvOutput::Done));
    }
    assert_eq!(cluster.told(&["get", "k7", "--replica", "3"]), "new\n");
    cluster.kill(&[1, 2, 3]);
    cluster.serve_all();
    assert_eq!(cluster.told(&["get", "k49", "--replica", "1"]), "new\n");

    // The replica's old directory, and one from another backup, are refused. The others keep
    // working.
    cluster.kill(&[3]);
    let new = cluster.dir.join("3.new");
    fs::rename(cluster.data(3), &new).expect("renamed");
    fs::rename(aside(&cluster, 3), cluster.data(3)).expect("renamed");
    refused(&mut cluster, "r3 began with nothing, and this replica with backup");
    fs::rename(cluster.data(3), aside(&cluster, 3)).expect("renamed");
    restore(&cluster, &other, 3);
    refused(&mut cluster, "r3 began with backup");
    fs::rename(cluster.data(3), cluster.dir.join("3.other")).expect("renamed");

    // None of this has harmed the right directory.
    fs::rename(&new, cluster.data(3)).expect("renamed");
    cluster.serve(3);
    assert_eq!(cluster.told(&["get", "last", "--replica", "3"]), "yes\n");
}

/// Replica 3 starts with another directory. It is not let in, and decides nothing.
#[cfg(unix)]
#[track_caller]
fn refused(cluster: &mut Cluster, words: &str) {
    cluster.serve(3);
    wait_log(cluster, 3, words);
    let alone = cluster.dir.clone();
    let mut get = isonomy();
    get.args(["get", "k1", "--replica", "3", "--timeout", "1", "--cluster"]).arg(alone);
    assert_eq!(get.output().expect("isonomy runs").status.code(), Some(3));
    cluster.told(&["put", "last", "yes", "--replica", "1"]);
    cluster.kill(&[3]);
}

/// The commands of the guide's chapter, exactly as they are written there.
#[cfg(unix)]
#[test]
fn the_guide_can_be_followed() {
    let guide = include_str!("../src/GUIDE.md");
    let chapter = guide.split("\n# Backups\n").nth(1).expect("a chapter");
    let chapter = chapter.split("\n# ").next().expect("its end");
    let blocks: Vec<&str> = chapter.split("```sh\n").skip(1).collect();
    let [running, stopped, anew] = blocks[..] else { panic!("three blocks in {chapter}") };
    let mut cluster = Cluster::start(3);
    cluster.told(&["put", "greeting", "hello"]);
    let follow = |cluster: &Cluster, block: &str| {
        let program = Path::new(env!("CARGO_BIN_EXE_isonomy")).parent().expect("a directory");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = std::process::Command::new("sh");
        shell.args(["-ec", block.split("```").next().expect("its end")]);
        shell.current_dir(cluster.dir.parent().expect("a directory"));
        shell.env("PATH", format!("{}:{path}", program.display()));
        let output = shell.output().expect("a shell");
        assert!(output.status.success(), "{block}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let words = follow(&cluster, running);
    for wanted in ["of cluster blue, which runs epaxos", "a snapshot of the running cluster"] {
        assert!(words.contains(wanted), "{wanted} in {words}");
    }
    let words = told(&[Path::new("snapshot"), Path::new("--cluster"), &cluster.dir]);
    assert!(words.contains("snapshot: up to record"), "{words}");
    (1..=3).for_each(|number| assert_eq!(cluster.terminate(number), Some(0)));
    let words = follow(&cluster, stopped);
    assert!(words.contains("the replica was stopped"), "{words}");
    follow(&cluster, anew);
    cluster.serve_all();
    assert_eq!(cluster.told(&["get", "greeting"]), "hello\n");
    cluster.told(&["put", "greeting", "again"]);
    assert_eq!(cluster.told(&["get", "greeting", "--replica", "3"]), "again\n");
}

/// A backup of a replica that lacks some commands that another replica proposed, and that went on
/// without them.
#[cfg(unix)]
#[test]
fn a_cluster_begins_anew_from_a_backup_with_holes() {
    use isonomy::internals::protocol::epaxos::Record;
    use isonomy::types::{Batch, ClientId, Command, Deps, InstanceId, MemberId};
    use isonomy::types::{ReplicaId, RequestId, Value};
    let mut cluster = Cluster::lay_out(3);
    let replica = |number| ReplicaId::new(number).expect("a number");
    let put = KvCommand::Put { key: "a".into(), value: "1".into() };
    let batch = Batch::new(vec![Command {
        request: RequestId::new(ClientId(7), 1),
        floor: 0,
        origin: replica(1),
        footprint: <isonomy::machine::Kv as isonomy::machine::StateMachine>::footprint(&put),
        payload: isonomy::machine::encode(&put).expect("it has an encoding"),
    }]);
    let records = [
        Record::Reserved { up_to: 70 },
        Record::Committed {
            id: InstanceId::new(replica(1), 40),
            value: Value::Batch(batch.clone()),
            deps: Deps::none(3),
        },
        Record::PreAccepted {
            id: InstanceId::new(replica(3), 9),
            batch,
            initial: Deps::none(3),
            deps: Deps::none(3),
        },
    ];
    let old = cluster.dir.join("old");
    common::directory(&old, "blue", MemberId::of(replica(2)), &records);
    let file = cluster.dir.join("file");
    let words = backup(&old, &file);
    assert!(words.contains("of replica 1 up to 0, 40 to 40"), "{words}");
    assert!(words.contains("1 instances were not executed"), "{words}");
    (1..=3).for_each(|number| drop(restore(&cluster, &file, number)));
    cluster.serve_all();
    assert_eq!(cluster.told(&["get", "a", "--replica", "3"]), "1\n");
    for number in ["1", "2", "3"] {
        cluster.told(&["put", "a", number, "--replica", number]);
        cluster.told(&["put", number, "x", "--replica", number]);
    }
    // Every frontier has moved on: what is executed has no hole.
    (1..=3).for_each(|number| assert_eq!(cluster.terminate(number), Some(0)));
    let words = backup(&cluster.data(2), &cluster.dir.join("again"));
    let line = words.lines().find(|line| line.starts_with("executed: ")).expect("a line");
    assert!(!line.contains(','), "{line}");
    for number in ["1", "2", "3"] {
        let from = format!("of replica {number} up to ");
        let rest = line.split(&from).nth(1).expect("an owner");
        let floor = rest.split(';').next().and_then(|it| it.trim().parse::<u64>().ok());
        assert!(floor.is_some_and(|floor| floor > 0), "{line}");
    }
    cluster.serve_all();
    assert_eq!(cluster.told(&["get", "a", "--replica", "1"]), "3\n");
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_no_half_of_a_backup() {
    let mut cluster = Cluster::start(1);
    cluster.told(&["put", "key", &"x".repeat(100_000)]);
    assert_eq!(cluster.terminate(1), Some(0));
    let file = cluster.dir.join("file");
    let program = env!("CARGO_BIN_EXE_isonomy");
    let mut limited = std::process::Command::new("sh");
    // The limit is a few kilobytes, with an error instead of the signal.
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" backup \"$1\" \"$2\""]);
    limited.arg(program).arg(cluster.data(1)).arg(&file);
    let output = limited.output().expect("a shell");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("cannot write"), "{words}");
    let left = fs::read_dir(&cluster.dir).expect("a directory").flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("file")), "{left:?}");
    backup(&cluster.data(1), &file);
    let cut = fs::read(&file).expect("the backup");
    fs::write(&file, &cut[..cut.len() / 2]).expect("written");
    let new = cluster.dir.join("new");
    let flags = ["--replica", "1"].map(Path::new);
    let refused = run(&[Path::new("restore"), &file, &new, flags[0], flags[1]]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(!new.exists());
}

/// Clients ask all the time while the backup is made. Then a cluster of five begins with it.
#[cfg(unix)]
async fn under_load(protocol: &str) {
    let mut cluster = Cluster::lay_out(3);
    let line = |protocol: &str| format!("protocol = \"{protocol}\"");
    cluster.edit(&line("epaxos"), &line(protocol));
    cluster.serve_all();
    let load = Load::start(&cluster, [1, 2, 3]).await;
    let start = Instant::now();
    while load.answered() < 200 {
        assert!(start.elapsed() < PATIENCE, "{:?}", load.rejections());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let files = ["first.backup", "second.backup"].map(|name| cluster.dir.join(name));
    for (number, file) in files.iter().enumerate() {
        cluster.told(&["put", &format!("marker{number}"), "before"]);
        let words = cluster.told(&["backup", file.to_str().expect("text")]);
        let wanted = format!("of cluster blue, which runs {protocol}");
        assert!(words.contains(&wanted), "{wanted} in {words}");
        cluster.told(&["put", &format!("marker{number}"), "after"]);
    }
    // Only an administrator may.
    fs::rename(cluster.dir.join("admin.toml"), cluster.dir.join("admin.old")).expect("renamed");
    let refused = cluster.client(&["backup", "none.backup"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let last = cluster.connect([1, 2, 3]).await;
    let (answered, unknown) = load.end(&last).await;
    assert!(answered > 200 && unknown == 0, "{answered} answered, {unknown} unknown");
    cluster.kill(&[1, 2, 3]);

    let mut larger = Cluster::lay_out(5);
    larger.edit(&line("epaxos"), &line(protocol));
    for number in 1..=5 {
        let words = restore_among(&larger, &files[1], number, "1,2,3,4,5");
        assert!(words.contains(&format!("replica {number} of 5 of cluster blue")), "{words}");
    }
    larger.serve_all();
    assert_eq!(larger.told(&["get", "marker0", "--replica", "4"]), "after\n");
    assert_eq!(larger.told(&["get", "marker1", "--replica", "5"]), "before\n");
    for number in ["1", "2", "3", "4", "5"] {
        larger.told(&["put", "new", number, "--replica", number]);
    }
    assert_eq!(larger.told(&["get", "new", "--replica", "2"]), "5\n");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_cluster_is_backed_up_under_load() {
    for protocol in ["epaxos", "multi-paxos", "fast-paxos", "paxos"] {
        under_load(protocol).await;
    }
}

/// The replica that sends its state is killed on the way, and then all of them.
#[cfg(unix)]
#[test]
fn a_backup_that_is_cut_off_begins_anew_or_leaves_nothing() {
    let mut cluster = Cluster::start(3);
    let long = "x".repeat(4_000_000);
    let value = cluster.dir.join("value");
    fs::write(&value, long).expect("written");
    for number in 0..20 {
        let key = format!("k{number}");
        cluster.told(&["put", &key, "--file", value.to_str().expect("text")]);
    }
    let file = cluster.dir.join("a.backup");
    let text = file.to_str().expect("text").to_owned();
    // The file that is being written tells that the backup has begun.
    let begun = |cluster: &Cluster| {
        let entries = fs::read_dir(&cluster.dir).expect("a directory").flatten();
        let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.any(|name| name.contains(".unfinished-"))
    };
    let wait = |cluster: &Cluster| {
        let start = Instant::now();
        while !begun(cluster) {
            assert!(start.elapsed() < PATIENCE, "no backup begins");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let child = cluster.start_client(&["backup", &text]);
    wait(&cluster);
    // Whichever it is, one that is killed comes back with another snapshot, or none.
    for number in 1..=3 {
        cluster.kill(&[number]);
        cluster.serve(number);
    }
    let output = child.wait_with_output().expect("isonomy runs");
    assert!(matches!(output.status.code(), Some(0 | 3 | 5)), "{output:?}");
    assert_eq!(file.exists(), output.status.success(), "{output:?}");
    assert!(!begun(&cluster), "what was not finished is removed");

    let other = cluster.dir.join("b.backup");
    let text = other.to_str().expect("text").to_owned();
    let mut command = isonomy();
    command.args(["backup", &text, "--timeout", "3", "--cluster"]).arg(&cluster.dir);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    wait(&cluster);
    cluster.kill(&[1, 2, 3]);
    let output = child.wait_with_output().expect("isonomy runs");
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(3 | 5)), "{output:?}");
        assert!(words.contains("error: "), "{words}");
        assert!(!other.exists() && !begun(&cluster), "{output:?}");
    }
}
