//! Real processes: a cluster laid out by `init`, three `serve`, clients that are processes too, and
//! `kill -9`. The steps of the README's second chapter.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Generous: the machine may be slow and busy.
const PATIENCE: Duration = Duration::from_secs(90);

fn isonomy() -> Command {
    Command::new(env!("CARGO_BIN_EXE_isonomy"))
}

/// A port with free ones behind it, one a replica.
fn free_base(replicas: u16) -> u16 {
    for _ in 0..1_000 {
        let any = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let base = any.local_addr().expect("a bound socket").port();
        let bind = |port| UdpSocket::bind(("127.0.0.1", port));
        // Below the range that the system hands out by itself, so that nobody else is given them.
        let base = base / 3 + 1_024;
        if (1..=replicas).map(|id| bind(base + id)).collect::<Result<Vec<_>, _>>().is_ok() {
            return base;
        }
    }
    panic!("no {replicas} free ports in a row");
}

/// A cluster of processes; they are killed with it.
struct Cluster {
    _temporary: tempfile::TempDir,
    dir: PathBuf,
    replicas: Vec<Child>,
}

impl Cluster {
    fn start(replicas: u16) -> Cluster {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let dir = temporary.path().join("cluster");
        let base = format!("127.0.0.1:{}", free_base(replicas));
        let count = replicas.to_string();
        let init = isonomy()
            .args(["init", "--replicas", &count, "--listen-base", &base, "--cluster", "blue"])
            .arg(&dir)
            .output()
            .expect("isonomy runs");
        assert!(init.status.success(), "{init:?}");
        let mut cluster = Cluster { _temporary: temporary, dir, replicas: Vec::new() };
        for number in 1..=replicas {
            let replica = serve(&cluster.dir, number);
            cluster.replicas.push(replica);
        }
        cluster
    }

    fn replica(&mut self, number: usize) -> &mut Child {
        &mut self.replicas[number - 1]
    }

    /// Runs a client command to its end.
    fn client(&self, arguments: &[&str]) -> Output {
        let mut client = isonomy();
        client.args(arguments).arg("--cluster").arg(&self.dir).args(["--timeout", "60"]);
        client.output().expect("isonomy runs")
    }

    /// Runs a client command that has to succeed; what it prints.
    #[track_caller]
    fn told(&self, arguments: &[&str]) -> String {
        let output = self.client(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for replica in &mut self.replicas {
            let _ = replica.kill();
            let _ = replica.wait();
        }
    }
}

/// Starts a replica and waits until it says that it is ready.
fn serve(dir: &Path, number: u16) -> Child {
    let mut child = isonomy()
        .arg("serve")
        .arg(dir.join(format!("{number}.toml")))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("isonomy runs");
    let stdout = child.stdout.take().expect("a pipe");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(stdout).read_line(&mut line);
        let _ = sender.send(line);
    });
    let line = receiver.recv_timeout(PATIENCE).expect("a line in time");
    let wanted = format!("ready: replica {number} of blue at 127.0.0.1:");
    assert!(line.starts_with(&wanted), "{line:?}");
    child
}

/// Waits for the end of a process.
fn exit_code(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a process of ours") {
            return status.code();
        }
        assert!(start.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_cluster_goes_on_without_the_one_that_was_killed() {
    let mut cluster = Cluster::start(3);
    cluster.told(&["put", "greeting", "hello", "--replica", "1"]);
    assert_eq!(cluster.told(&["get", "greeting", "--replica", "3"]), "hello\n");

    // On Unix, SIGKILL.
    cluster.replica(1).kill().expect("it runs");
    exit_code(cluster.replica(1));
    cluster.told(&["put", "greeting", "good day", "--replica", "2"]);
    assert_eq!(cluster.told(&["get", "greeting", "--replica", "3"]), "good day\n");
    for round in 0..3 {
        let value = round.to_string();
        // Whichever is the nearest: a client finds one that lives.
        cluster.told(&["put", "counter", &value]);
        assert_eq!(cluster.told(&["get", "counter"]), format!("{value}\n"));
    }

    // Its memory is gone, so it stays away.
    let again = isonomy().arg("serve").arg(cluster.dir.join("1.toml")).output().expect("it runs");
    let words = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    assert!(words.contains("replica 1 has run before"), "{words}");
}

#[test]
fn answers_have_their_exit_codes() {
    let cluster = Cluster::start(3);
    let code = |arguments: &[&str]| cluster.client(arguments).status.code();
    assert_eq!(code(&["get", "key"]), Some(1));
    assert_eq!(code(&["del", "key"]), Some(1));
    assert_eq!(code(&["cas", "key", "one", "two"]), Some(1));
    assert_eq!(code(&["cas", "key", "one", "--absent", "--replica", "2"]), Some(0));
    assert_eq!(code(&["cas", "key", "two", "--absent"]), Some(1));
    assert_eq!(code(&["cas", "key", "one", "two"]), Some(0));
    assert_eq!(cluster.told(&["get", "key", "--replica", "2"]), "two\n");
    assert_eq!(code(&["del", "key"]), Some(0));
    assert_eq!(code(&["get", "key", "--replica", "1"]), Some(1));
    assert_eq!(code(&["get", "key", "--replica", "4"]), Some(2));
    assert_eq!(code(&["cas", "key", "one"]), Some(2));
}

#[cfg(unix)]
#[test]
fn a_replica_that_is_asked_to_stop_does_so_in_good_order() {
    let mut cluster = Cluster::start(3);
    cluster.told(&["put", "key", "value"]);
    for number in [1, 3] {
        let id = cluster.replica(number).id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(sent.success());
        assert_eq!(exit_code(cluster.replica(number)), Some(0), "replica {number}");
        if number == 1 {
            assert_eq!(cluster.told(&["get", "key"]), "value\n", "two of three suffice");
        }
    }
    // One of three decides nothing, and says so instead of guessing.
    let mut alone = isonomy();
    alone.args(["get", "key", "--timeout", "1", "--cluster"]).arg(&cluster.dir);
    assert_eq!(alone.output().expect("isonomy runs").status.code(), Some(3));
}

#[test]
fn a_directory_can_be_looked_at_while_its_replica_runs() {
    let mut cluster = Cluster::start(1);
    cluster.told(&["put", "greeting", "hello"]);
    let look = |json: &[&str]| {
        let mut inspect = isonomy();
        inspect.arg("inspect").arg(cluster.dir.join("1.data")).args(json);
        let output = inspect.output().expect("isonomy runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let running = look(&[]);
    let process = format!("in use by process {}", cluster.replicas[0].id());
    for words in ["replica 1 of 1 of cluster blue, incarnation 1", &process, "sound: "] {
        assert!(running.contains(words), "{words} in {running}");
    }
    let report: serde_json::Value = serde_json::from_str(&look(&["--json"])).expect("JSON");
    assert!(report["instances"][0]["committed"].as_u64() >= Some(1), "{report}");
    let replica = cluster.replica(1);
    replica.kill().expect("a process of ours");
    replica.wait().expect("its end");
    let stopped = {
        let output = isonomy().arg("inspect").arg(cluster.dir.join("1.data")).output();
        String::from_utf8(output.expect("isonomy runs").stdout).expect("text")
    };
    assert!(stopped.contains("sound: ") && !stopped.contains("in use"), "{stopped}");
}
