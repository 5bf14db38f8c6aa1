//! If the program that reads a replica's output stops reading or ends, the replica keeps working.
//! Also, only the owner can read what a replica has on its disk.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![cfg(unix)]

mod common;

use std::fs;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::processes::{Cluster, PATIENCE, isonomy};

/// A pipe that is full and that no one reads.
fn stuck() -> (PipeReader, PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    let mut filling = writer.try_clone().unwrap();
    let filled = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&filled);
    std::thread::spawn(move || {
        while filling.write_all(&[b'.'; 512]).is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut before = u64::MAX;
    while filled.load(Ordering::Relaxed) != before {
        before = filled.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(200));
    }
    (reader, writer)
}

fn serve(file: &Path, out: impl Into<Stdio>, log: impl Into<Stdio>) -> Child {
    isonomy().arg("serve").arg(file).stdout(out).stderr(log).spawn().unwrap()
}

/// Waits until the replica answers a client. Its output cannot tell, because there may be no one to
/// read it.
#[track_caller]
fn is_ready(cluster: &Cluster) {
    let start = Instant::now();
    loop {
        let output = cluster.client(&["put", "key", "value"]);
        if output.status.success() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{output:?}");
    }
}

/// Checks that the replica answers a client, and stops when it is asked to.
#[track_caller]
fn works_and_stops(cluster: &Cluster, mut replica: Child) {
    is_ready(cluster);
    assert_eq!(cluster.told(&["get", "key"]), "value\n");
    let id = replica.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let start = Instant::now();
    let status = loop {
        if let Some(status) = replica.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > PATIENCE {
            let _ = replica.kill();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_replica_goes_on_whose_log_nobody_reads() {
    let cluster = Cluster::lay_out(1);
    let (_reader, writer) = stuck();
    let replica = serve(&cluster.file(1), Stdio::null(), writer);
    works_and_stops(&cluster, replica);
}

#[test]
fn a_replica_goes_on_whose_first_line_nobody_reads() {
    let cluster = Cluster::lay_out(1);
    let (_reader, writer) = stuck();
    let replica = serve(&cluster.file(1), writer, Stdio::null());
    works_and_stops(&cluster, replica);
}

#[test]
fn a_replica_goes_on_whose_readers_have_gone() {
    let cluster = Cluster::lay_out(1);
    let [out, log] = [(); 2].map(|()| io::pipe().unwrap().1);
    let replica = serve(&cluster.file(1), out, log);
    works_and_stops(&cluster, replica);
}

/// An error at the end is printed if a reader is there. If not, it delays nothing.
#[test]
fn the_last_words_are_written_if_somebody_reads_them() {
    let cluster = Cluster::lay_out(1);
    fs::write(cluster.data(1), "no directory").unwrap();
    let output = isonomy().arg("serve").arg(cluster.file(1)).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("error: ") && words.contains("1.data"), "{words}");
    assert_eq!(output.status.code(), Some(4), "{words}");
    let (_reader, writer) = stuck();
    let mut replica = serve(&cluster.file(1), Stdio::null(), writer);
    assert_eq!(replica.wait().unwrap().code(), Some(4));
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Runs a command as a user whose new files are readable by everyone.
fn run(arguments: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 022; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_isonomy")]);
    shell.args(arguments);
    shell
}

#[test]
fn what_a_replica_keeps_is_for_its_owner_alone() {
    let cluster = Cluster::lay_out(1);
    let (file, data) = (cluster.file(1), cluster.data(1));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let replica = run(&["serve", &path(&file)]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let replica = replica.unwrap();
    is_ready(&cluster);
    cluster.told(&["snapshot", "--replica", "1"]);
    works_and_stops(&cluster, replica);
    let backup = cluster.dir.join("backup");
    let made = run(&["backup", &path(&data), &path(&backup)]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    assert_eq!(mode(&backup), 0o600);
    let restored = cluster.dir.join("deep/restored");
    let made = run(&["restore", &path(&backup), &path(&restored), "--replica", "1"]).output();
    assert!(made.unwrap().status.success());
    for directory in [&data, &restored] {
        assert_eq!(mode(directory), 0o700, "{}", directory.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
            names.push(entry.file_name().into_string().unwrap());
        }
        for kind in ["identity", "log-", "lock"] {
            assert!(names.iter().any(|name| name.starts_with(kind)), "{kind} in {names:?}");
        }
    }
}
