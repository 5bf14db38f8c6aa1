//! A cluster of real processes for hours: load all the time, and every minute a snapshot, a change
//! of the members and a `kill -9`. Memory, descriptors, threads and disk have to stay flat.
//!
//! `cargo test --release --test soak -- --ignored --nocapture`, with `ISONOMY_SOAK_MINUTES=N` for
//! its length (120 otherwise). It prints a line a minute.

#![cfg(all(feature = "cli", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by it, and tells")]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::changes::Story;
use common::processes::{Cluster, connect};
use common::recorded::Load;
use isonomy::client::ClientConfig;

/// The member that is neither killed nor replaced: what it holds is watched.
const WATCHED: usize = 1;
/// How often something is done to the cluster.
const PERIOD: Duration = Duration::from_secs(60);
/// After how many periods the history so far is checked, and a new one begun.
const CHECKED: u16 = 10;

/// What a replica holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Resident memory, in KiB.
    memory: u64,
    descriptors: u64,
    threads: u64,
    /// What its data directory takes on the disk, in KiB.
    disk: u64,
    /// The length of its log file, in bytes.
    log: u64,
}

impl Held {
    fn of(story: &mut Story, number: usize) -> Held {
        let process = format!("/proc/{}", story.cluster.process(number).id());
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Held {
            memory: field("VmRSS:"),
            descriptors: fs::read_dir(format!("{process}/fd")).unwrap().count() as u64,
            threads: field("Threads:"),
            disk: kib_below(&story.cluster.data(number)),
            log: fs::metadata(story.cluster.log_path(number)).unwrap().len(),
        }
    }
}

/// What the files below a directory take on the disk, in KiB.
fn kib_below(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(directory).unwrap();
    let sizes = entries.map(|entry| {
        let path = entry.unwrap().path();
        // A file that is removed in between takes nothing.
        if path.is_dir() {
            kib_below(&path)
        } else {
            fs::metadata(&path).map_or(0, |it| it.blocks() / 2)
        }
    });
    sizes.sum()
}

/// A client that knows the watched member, and learns of the others from it.
fn config(cluster: &Cluster) -> ClientConfig {
    let mut config = cluster.client_config([WATCHED]);
    config.follow = true;
    config
}

async fn load(cluster: &Cluster, part: u16) -> Load {
    Load::start_with(config(cluster), &format!("{part}/"), Duration::from_millis(50)).await
}

/// What is done every minute.
fn disturb(story: &mut Story, count: u16) {
    story.cluster.told(&["snapshot", "--replica", &WATCHED.to_string()]);
    story.next_change(count);
    story.cluster.tell_clients(story.members.clone());
    story.kill_one(None);
}

/// Whether nothing grows: in the last quarter of the time it is at most as much as in the second,
/// with some room for chance.
#[track_caller]
fn assert_flat(what: &str, values: &[u64], room: u64) {
    let quarter = values.len() / 4;
    let most = |of: &[u64]| of.iter().copied().max().unwrap();
    let (early, late) = (most(&values[quarter..2 * quarter]), most(&values[3 * quarter..]));
    eprintln!("{what}: at most {early} in the second quarter, {late} in the last");
    assert!(late <= early + early / 4 + room, "{what} grows: {values:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes hours"]
async fn a_cluster_stays_as_small_as_it_is_for_hours() {
    let asked = std::env::var("ISONOMY_SOAK_MINUTES").ok();
    let minutes: u16 =
        asked.map_or(120, |it| it.parse().expect("ISONOMY_SOAK_MINUTES is a number"));
    assert!(minutes >= 8, "in less than 8 minutes nothing can be said");
    let mut cluster = Cluster::lay_out_for(3, 4 + minutes);
    cluster.serve_all();
    let mut history = load(&cluster, 0).await;
    let mut story = Story::of(cluster, Some(WATCHED), minutes.into());
    let mut held = Vec::new();
    let (mut answered, mut unknown) = (0, 0);
    let start = Instant::now();
    for count in 0..minutes {
        story = tokio::task::spawn_blocking(move || {
            disturb(&mut story, count);
            story
        })
        .await
        .expect("a disturbance");
        if (count + 1) % CHECKED == 0 {
            let last = connect(config(&story.cluster)).await;
            let (a, u) = history.end(&last).await;
            (answered, unknown) = (answered + a, unknown + u);
            history = load(&story.cluster, count + 1).await;
        }
        tokio::time::sleep_until((start + PERIOD * u32::from(count + 1)).into()).await;
        let now = Held::of(&mut story, WATCHED);
        eprintln!("minute {}: members {:?}, {answered} checked, {now:?}", count + 1, story.members);
        held.push(now);
    }
    let last = connect(config(&story.cluster)).await;
    let (a, u) = history.end(&last).await;
    eprintln!("{} operations answered, {} unknown", answered + a, unknown + u);
    let of = |what: fn(&Held) -> u64| held.iter().map(what).collect::<Vec<_>>();
    assert_flat("memory (KiB)", &of(|held| held.memory), 8 << 10);
    assert_flat("descriptors", &of(|held| held.descriptors), 8);
    assert_flat("threads", &of(|held| held.threads), 2);
    assert_flat("disk (KiB)", &of(|held| held.disk), 16 << 10);
    let written = of(|held| held.log);
    let growth: Vec<u64> = written.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_flat("log lines (bytes a minute)", &growth, 4096);
}
