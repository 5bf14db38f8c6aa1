//! What survives a crash. Real `serve` processes on a real file system, over QUIC and under load,
//! are killed with `kill -9`: one, several or all at once. Other tests use disks that are full,
//! damaged or lost.
//!
//! `ISONOMY_CYCLES=N` sets the number of kills, for long runs.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by it, and tells")]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::processes::{Cluster, PATIENCE};
use common::recorded::Load;
use common::{get, put};
use isonomy::client::Client;
use isonomy::machine::{Kv, KvOutput};
use isonomy::node::Latency;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// When a replica has been gone for this long, the others have dropped decisions that it has not
/// executed.
const AWAY: Duration = Duration::from_secs(6);

fn cycles(usual: u64) -> u64 {
    let asked = std::env::var("ISONOMY_CYCLES").ok();
    asked.map_or(usual, |asked| asked.parse().expect("ISONOMY_CYCLES is a number"))
}

/// The replicas that are killed together in this cycle.
fn victims(rng: &mut ChaCha8Rng, replicas: usize, cycle: u64) -> Vec<usize> {
    let all: Vec<usize> = (1..=replicas).collect();
    match cycle % 4 {
        // A minority and a majority, in turn with one replica and with all.
        0 | 2 => vec![all[rng.random_range(0..replicas)]],
        1 => {
            let first = rng.random_range(0..replicas);
            let count = rng.random_range(2..replicas);
            (0..count).map(|next| all[(first + next) % replicas]).collect()
        }
        _ => all,
    }
}

/// The time from a replica's start to its first answer to a command of its own.
async fn rejoined(cluster: &Cluster, number: usize, since: Instant) -> Duration {
    let client = cluster.connect([number]).await;
    let key = format!("rejoined{number}");
    client.execute(put(&key, "x")).await.unwrap();
    client.close().await;
    since.elapsed()
}

async fn kill_and_return(replicas: u16, cycles: u64, settings: &str) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(cycles);
    let mut cluster = Cluster::lay_out(replicas);
    cluster.edit("durability = \"fsync\"", settings);
    cluster.serve_all();
    let load = Load::start(&cluster, 1..=cluster.replicas()).await;
    let mut rejoin = Latency::default();
    let mut kills = 0;
    for cycle in 0..cycles {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..400))).await;
        let victims = victims(&mut rng, cluster.replicas(), cycle);
        kills += victims.len();
        cluster.kill(&victims);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
        if settings == SNAPSHOTS && cycle % 8 == 4 {
            // Away for so long that it needs a snapshot. It may then be killed while it receives
            // one.
            tokio::time::sleep(AWAY).await;
            cluster.serve_all();
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
            cluster.kill(&victims);
        }
        let since = Instant::now();
        cluster.serve_all();
        for number in victims {
            rejoin.record(rejoined(&cluster, number, since).await);
        }
    }
    let (answered, unknown) = load.end(&cluster.connect(1..=cluster.replicas()).await).await;
    eprintln!(
        "{replicas} replicas, {settings:?}: {cycles} cycles, {kills} kills, {answered} operations \
         answered, {unknown} unknown; rejoined after {:?} (median), {:?} (p99), {:?} (longest)",
        rejoin.quantile(0.5),
        rejoin.quantile(0.99),
        rejoin.max()
    );
    assert!(answered > cycles * 20, "too little was done: {answered} operations");
    let logs: String = (1..=cluster.replicas()).map(|number| cluster.log(number)).collect();
    let count = |words: &str| logs.matches(words).count();
    eprintln!(
        "{} snapshots, {} installed, {} starts from one",
        count("took a snapshot"),
        count("installed another replica's snapshot"),
        logs.lines()
            .filter(|line| line.contains("restored") && !line.contains("snapshot_bytes=0 "))
            .count()
    );
    logs
}

const FSYNC: &str = "durability = \"fsync\"";
/// So short a distance between snapshots, and so little kept for absent replicas, that some kills
/// happen in the middle of them.
const SNAPSHOTS: &str = "durability = \"fsync\"\nsnapshot_every = 40000\nkeep_for_absent = 20000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_in_the_middle_of_snapshots_lose_nothing() {
    let logs = kill_and_return(3, cycles(8), SNAPSHOTS).await;
    assert!(logs.contains("took a snapshot"), "{logs}");
    let logs = kill_and_return(5, cycles(4), SNAPSHOTS).await;
    assert!(logs.contains("took a snapshot"), "{logs}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_are_killed_and_come_back() {
    kill_and_return(3, cycles(8), FSYNC).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_replicas_are_killed_and_come_back() {
    kill_and_return(5, cycles(4), FSYNC).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_nothing_that_the_system_has() {
    kill_and_return(3, cycles(4), "durability = \"os\"").await;
}

#[test]
fn a_replica_that_lost_its_directory_is_refused_for_good() {
    let mut cluster = Cluster::start(3);
    cluster.told(&["put", "key", "value"]);
    cluster.kill(&[3]);
    fs::rename(cluster.data(3), cluster.dir.join("away")).unwrap();
    let (code, words) = cluster.refusal(3);
    assert_eq!(code, Some(4), "{words}");
    for wanted in [
        "r3 is known here by data directory",
        "it may have voted with what it has lost",
        "The others know this replica by another data directory",
        "isonomy cert replica DIR NEW@HOST:PORT",
        "isonomy member replace OLD NEW@HOST:PORT",
    ] {
        assert!(words.contains(wanted), "{wanted} in {words}");
    }
    let theirs = cluster.log(1) + &cluster.log(2);
    assert!(theirs.contains("r3 is known here by data directory"), "{theirs}");
    // By now the replica itself knows. With an empty directory, the whole procedure starts again.
    let (code, words) = cluster.refusal(3);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("the other replicas have refused this directory for good"), "{words}");

    // The others were told once, and they remember.
    cluster.kill(&[1, 2]);
    cluster.serve_all_of(&[1, 2]);
    fs::remove_dir_all(cluster.data(3)).unwrap();
    let (code, words) = cluster.refusal(3);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("r3 is known here by data directory"), "{words}");
    cluster.told(&["put", "key", "two suffice"]);

    // The directory that the others know is accepted.
    fs::remove_dir_all(cluster.data(3)).unwrap();
    fs::rename(cluster.dir.join("away"), cluster.data(3)).unwrap();
    cluster.serve(3);
    assert_eq!(cluster.told(&["get", "key", "--replica", "3"]), "two suffice\n");
}

#[test]
fn a_directory_that_was_rolled_back_is_refused_for_good() {
    let mut cluster = Cluster::start(3);
    cluster.kill(&[3]);
    copy(&cluster.data(3), &cluster.dir.join("copy"));
    for _ in 0..2 {
        cluster.serve(3);
        cluster.told(&["put", "key", "value", "--replica", "3"]);
        cluster.kill(&[3]);
    }
    fs::remove_dir_all(cluster.data(3)).unwrap();
    copy(&cluster.dir.join("copy"), &cluster.data(3));
    let (code, words) = cluster.refusal(3);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("directory is an older copy"), "{words}");
    // After enough restarts, its life would have a higher number than the others know.
    for _ in 0..3 {
        let (code, words) = cluster.refusal(3);
        assert_eq!(code, Some(4), "{words}");
        assert!(words.contains("have refused this directory for good"), "{words}");
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_directory_that_cannot_be_used_is_refused_with_what_to_do() {
    let mut cluster = Cluster::start(3);
    // The commands that replica 1 led are in its log, each in its own group. So damage to the first
    // one does not look like the torn end of a log.
    for value in ["first", "second", "value"] {
        cluster.told(&["put", "key", value, "--replica", "1"]);
    }
    // The directory is in use.
    let second = common::processes::isonomy().arg("serve").arg(cluster.file(1)).output().unwrap();
    let words = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(4), "{words}");
    let id = cluster.process(1).id();
    assert!(words.contains(&format!("1.data is in use by process {id}")), "{words}");
    assert!(words.contains("Stop that process first"), "{words}");
    cluster.kill(&[1, 2, 3]);

    // The directory belongs to another replica.
    cluster.edit_one(1, "data_dir = \"1.data\"", "data_dir = \"2.data\"");
    let (code, words) = cluster.refusal(1);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("2.data: this directory belongs to replica 2 of cluster"), "{words}");
    assert!(words.contains("Name this replica's own directory"), "{words}");
    cluster.edit_one(1, "data_dir = \"2.data\"", "data_dir = \"1.data\"");

    // Damage the log first, then the identity.
    for (file, at) in [("log-0000000000000001", 4096 + 40), ("identity", 20)] {
        let path = cluster.data(1).join(file);
        let sound = fs::read(&path).unwrap();
        let mut damaged = sound.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let (code, words) = cluster.refusal(1);
        assert_eq!(code, Some(4), "{words}");
        assert!(words.contains(&format!("1.data: {file}, byte")), "{words}");
        assert!(words.contains("isonomy member replace OLD NEW"), "{words}");
        fs::write(&path, &sound).unwrap();
    }
    // Once the file is restored, the replica works as before.
    cluster.serve_all();
    assert_eq!(cluster.told(&["get", "key", "--replica", "1"]), "value\n");
}

/// Records at the end of the log are gone, and the disk cannot tell this from an unfinished flush.
/// The replica at least says so. After a clean end, it says nothing.
#[test]
fn an_end_that_nothing_vouches_for_is_told_at_the_start() {
    let mut cluster = Cluster::start(1);
    cluster.told(&["put", "key", "value"]);
    assert_eq!(cluster.terminate(1), Some(0));
    cluster.serve(1);
    cluster.told(&["put", "key", "again"]);
    assert!(!cluster.log(1).contains("end of the log"), "{}", cluster.log(1));
    assert_eq!(cluster.terminate(1), Some(0));
    let path = cluster.data(1).join("log-0000000000000001");
    let mut bytes = fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used - 100..].fill(0);
    fs::write(&path, bytes).unwrap();
    cluster.serve(1);
    let log = cluster.log(1);
    let said = log.lines().find(|line| line.contains("WARN")).unwrap_or_default();
    assert!(said.contains("the log") && said.contains("log-0000000000000001"), "{log}");
}

/// A small file system, if this process may mount one. It must be dropped before the cluster that
/// uses it, because the cluster's directory cannot be removed earlier.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path, mebibytes: u32) -> Option<SmallDisk> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={mebibytes}m");
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .output();
        mount.is_ok_and(|mount| mount.status.success()).then(|| SmallDisk(at.to_owned()))
    }
}

/// Creates a file that uses up all the room there is.
fn hog(directory: &std::path::Path) -> std::path::PathBuf {
    let path = directory.join("hog");
    let mut file = fs::File::create(&path).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    path
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Another program's data takes the room, or the files, that the votes need, and later gives it
/// back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_any_room_holds_its_replica_up_and_no_other() {
    let mut cluster = Cluster::lay_out(3);
    let Some(_disk) = SmallDisk::mount(&cluster.data(1), 72) else {
        eprintln!("skipped: no small file system can be mounted here");
        return;
    };
    cluster.serve_all();
    let two = cluster.connect([2]).await;
    let value = "x".repeat(256 << 10);
    let start = Instant::now();
    let hog = hog(&cluster.data(1));
    while !cluster.log(1).contains("the replica stands still") {
        assert!(start.elapsed() < PATIENCE, "it never gets full");
        for key in 0..8 {
            two.execute(put(&format!("k{key}"), &value)).await.unwrap();
        }
    }
    assert_eq!(two.execute(put("late", "x")).await, Ok(KvOutput::Done));
    let mut config = cluster.client_config([1]);
    config.patience = Duration::from_millis(300);
    let hasty = Client::<Kv>::connect(config).await.unwrap();
    let refused = hasty.execute(put("mine", "x")).await.unwrap_err().to_string();
    assert!(refused.contains("the replica's disk is full"), "{refused}");
    fs::remove_file(hog).unwrap();
    // It recovers without a restart.
    assert_eq!(cluster.told(&["get", "late", "--replica", "1"]), "x\n");
    assert!(cluster.log(1).contains("there was room for the votes"), "{}", cluster.log(1));
    assert_eq!(cluster.process(1).try_wait().unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_turns_commands_away_and_votes_on() {
    let mut cluster = Cluster::lay_out(3);
    let Some(_disk) = SmallDisk::mount(&cluster.data(1), 72) else {
        eprintln!("skipped: no small file system can be mounted here");
        return;
    };
    cluster.serve_all();
    let one = cluster.connect([1]).await;
    let two = cluster.connect([2]).await;
    let mut config = cluster.client_config([1]);
    config.patience = Duration::from_millis(300);
    let hasty = Client::<Kv>::connect(config).await.unwrap();
    let hog = hog(&cluster.data(1));
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "nothing is turned away");
        two.execute(put("theirs", "x")).await.unwrap();
        match hasty.execute(put("mine", "x")).await {
            Err(error) if error.to_string().contains("the replica's disk is full") => break,
            _ => {}
        }
    }
    // It still votes: without replica 3, the other two need each other for every decision.
    cluster.kill(&[3]);
    two.execute(put("voted", "on")).await.unwrap();
    assert_eq!(two.execute(get("voted")).await, Ok(common::value("on")));
    // When there is room again, it recovers without help.
    fs::remove_file(hog).unwrap();
    assert_eq!(one.execute(put("mine", "now")).await, Ok(KvOutput::Done));
    // A restart finds all of this.
    cluster.kill(&[1, 2]);
    cluster.serve_all();
    assert_eq!(cluster.told(&["get", "mine", "--replica", "1"]), "now\n");
}
