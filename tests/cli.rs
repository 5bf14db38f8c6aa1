//! The command line as users see it: help, the demo, the files that `init` writes, and errors that
//! say what to do.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use isonomy::internals::sim::history::read_history;
use isonomy::internals::sim::linearizability::{BUDGET, Verdict, check};
use isonomy::internals::storage::{FileDisk, LogOptions, SnapshotOptions, Store, StoreOptions};
use serde_json::Value;

#[path = "common/ports.rs"]
mod ports;

fn isonomy() -> Command {
    Command::new(env!("CARGO_BIN_EXE_isonomy"))
}

fn run(arguments: &[&str]) -> Output {
    isonomy().args(arguments).output().expect("isonomy runs")
}

/// Runs a command that must fail with this exit code, and returns its message.
#[track_caller]
fn complaint(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn every_command_explains_itself() {
    for command in [
        "demo", "load", "init", "cert", "inspect", "serve", "backup", "restore", "snapshot", "put",
        "get", "del", "cas", "compare", "sim",
    ] {
        let output = run(&[command, "--help"]);
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success() && text.contains("Example"), "{command}: {text}");
        assert!(text.contains("Exit codes:\n  0  "), "{command}: {text}");
        assert!(text.contains(&format!("isonomy {command}")), "{command}: {text}");
    }
    let whole = String::from_utf8(run(&["--help"]).stdout).expect("text");
    assert!(whole.contains("isonomy demo") && whole.contains("Exit codes"), "{whole}");
}

#[test]
fn the_demo_shows_a_cluster_that_loses_a_replica() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let history = dir.path().join("history.jsonl");
    let path = history.to_str().expect("a path in UTF-8");
    let output = run(&[
        "demo",
        "--seconds",
        "2",
        "--clients",
        "8",
        "--conflicts",
        "20",
        "--json",
        "--history",
        path,
    ]);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&report["protocol"], &report["replicas"]), (&"epaxos".into(), &3.into()));
    for latency in ["commit_ms", "execute_ms"] {
        let figures = ["p50", "p99", "p999", "max"].map(|it| report[latency][it].as_f64());
        assert!(figures.iter().all(Option::is_some) && figures.is_sorted(), "{report}");
    }
    let share = report["fast_path_share"].as_f64().expect("a share");
    assert!((0.0..=1.0).contains(&share) && report["recoveries"].is_u64(), "{report}");
    assert!(report["largest_component"].as_u64() >= Some(1), "{report}");
    assert_eq!(report["digests_equal"], true, "{report}");
    assert_eq!(report["linearizable"], true, "{report}");
    assert_eq!((&report["crash"]["replica"], &report["unanswered"]), (&3.into(), &0.into()));
    let operations = report["operations"].as_u64().expect("a number");
    assert!(operations > 100 && report["throughput_ops_s"].as_f64() > Some(50.0), "{report}");

    // A checker outside of the demo would reach the same verdict.
    let file = fs::File::open(&history).expect("the history");
    let history = read_history(std::io::BufReader::new(file)).expect("the format");
    assert!(history.len() as u64 >= operations, "{} of {operations}", history.len());
    assert_eq!(check(&history, BUDGET), Verdict::Linearizable);
}

#[test]
fn the_demo_prints_a_table_and_knows_the_wide_area() {
    let wan = concat!(env!("CARGO_MANIFEST_DIR"), "/bench-config/wan-3.toml");
    let output = run(&["demo", "--seconds", "2", "--clients", "2", "--no-crash", "--wan", wan]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    for word in ["p99.9", "1 VA", "3 OR", "bound", "59.9", "21.1", "linearizable"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    let widest = text.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "a terminal has 80 columns: {text}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_demo_with_the_figures_so_far() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let history = dir.path().join("history.jsonl");
    let demo = isonomy()
        .args(["demo", "--seconds", "600", "--clients", "2", "--json", "--history"])
        .arg(&history)
        .stdout(Stdio::piped())
        .spawn()
        .expect("isonomy runs");
    // It creates the file before it begins. After that, give it time to begin.
    let start = Instant::now();
    while !history.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "it does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(2));
    let id = demo.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill runs").success());
    let output = demo.wait_with_output().expect("its end");
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["interrupted"], true, "{report}");
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    for (arguments, word) in [
        (&["demo", "--conflicts", "101"][..], "from 0 to 100"),
        (&["demo", "--value-size", "3"], "between 16 and"),
        (&["demo", "--clients", "0"], "between 1 and 10000"),
        (&["demo", "--seconds", "0"], "between 0.1 and"),
        (&["demo", "--replicas", "0"], "between 1 and 63 replicas"),
        (&["demo", "--wan", "no/such.toml"], "cannot read no/such.toml"),
        (&["get", "key"], "--cluster"),
        (&["get", "key", "--cluster", "no/such"], "no/such/client.toml"),
        (&["serve", "no/such.toml"], "cannot read no/such.toml"),
        (&["init", "unused", "--replicas", "64"], "between 1 and 63"),
        (&["init", "unused", "--listen-base", "127.0.0.1:65534"], "do not suffice"),
        (&["init", "unused", "--listen-base", "0.0.0.0:7400"], "the machines with --hosts"),
        (&["init", "unused", "--listen-base", "[::]:7400"], "the machines with --hosts"),
        (&["init", "unused", "--listen-base", "localhost"], "the port is missing"),
        (&["init", "unused", "--hosts", "a,b,a"], "has the address of replica 1"),
        (&["init", "unused", "--hosts", "a,0.0.0.0:1"], "every address of a machine"),
        (&["init", "unused", "--hosts", "a,b", "--replicas", "3"], "cannot be used with"),
        (&["init", "unused", "--cluster", "Not A Name"], "lower-case"),
        (&["put", "key", "--cluster", "no/such"], "<VALUE>"),
        (&["put", "key", "-v", "--cluster", "no/such"], "-- -v"),
        (&["put", "key", "--file", "no/such", "--cluster", "unused"], "cannot read no/such"),
        (&["cas", "key", "-", "-", "--cluster", "unused"], "only one of the two"),
        (&["cas", "key", "a", "b", "--absent", "--cluster", "unused"], "they leave out"),
        (&["cert", "list", "no/such"], "no/such/client.toml"),
        (&["nonsense"], "unrecognized subcommand"),
    ] {
        let words = complaint(2, arguments);
        assert!(words.contains(word), "{arguments:?}: {words}");
    }
    assert!(!Path::new("unused").exists(), "nothing is made before all is checked");
}

#[test]
fn a_wide_area_that_is_wrong_is_named_by_file_and_line() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("wan.toml");
    fs::write(&path, "sites = ['a', 'b']\n\nrtt_ms = [\n  [0, 10],\n  [20, 0],\n]\n")
        .expect("written");
    let words = complaint(2, &["demo", "--wan", path.to_str().expect("UTF-8")]);
    assert!(words.contains("wan.toml:5: ") && words.contains("from both ends"), "{words}");
}

#[test]
fn init_lays_out_a_directory_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("cluster");
    let name = path.to_str().expect("UTF-8");
    let output = run(&["init", name, "--replicas", "5"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && text.contains(&format!("serve {name}/5.toml")), "{text}");
    for file in ["ca.pem", "ca.key", "5.toml", "5.pem", "5.key", "client.toml", "client.key"] {
        let metadata = fs::metadata(path.join(file)).expect(file);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let secret = metadata.permissions().mode() & 0o777 == 0o600;
            assert_eq!(secret, file.ends_with(".key"), "{file}");
        }
        assert!(metadata.len() > 0);
    }
    let words = complaint(2, &["init", name]);
    assert!(words.contains("is not empty"), "{words}");
}

/// Lets `init` make the files of three replicas on free ports. Returns the port before the first.
#[track_caller]
fn lay_out(path: &Path) -> u16 {
    let base = ports::free_base(3);
    let at = format!("127.0.0.1:{base}");
    let output = isonomy().arg("init").arg(path).args(["--listen-base", &at]).output();
    assert!(output.expect("isonomy runs").status.success());
    base
}

#[test]
fn a_replica_file_that_is_wrong_is_named_by_file_and_line() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("cluster");
    let base = lay_out(&path);
    let file = path.join("1.toml");
    let good = fs::read_to_string(&file).expect("what init wrote");
    let line = |start| good.lines().position(|line| line.starts_with(start)).expect("a line") + 1;
    // In the texts below, ports 7401 to 7403 stand for the three real ports.
    let ported = |text: &str| {
        let one =
            |text: String, id: u16| text.replace(&format!(":740{id}"), &format!(":{}", base + id));
        (1..=3).fold(text.to_owned(), one)
    };
    let peer = format!("line {}", line("2 = "));
    let zero = format!("line {}: replica 2 at 127.0.0.1:0 has port 0", line("2 = "));
    let twice = format!("line {}: replica 2 at 127.0.0.1:7401 has the address", line("2 = "));
    let all = format!("line {}: replica 3 at 0.0.0.0:7403 stands for every", line("3 = "));
    let family = format!("line {}: replica 3 at [::1]:7403 cannot be reached from", line("3 = "));
    let listen = format!("line {}: `listen` has port 0", line("# listen = "));
    let share = line("# max_clients_per_certificate");
    let share =
        format!("line {share}: `max_clients_per_certificate` is 5000, and `max_clients` 1024");
    for (from, to, word) in [
        ("replica = 1", "replica = 1\nwarp = 9", "warp"),
        ("replica = 1", "replica = 9", "no entry 9"),
        ("2 = \"127.0.0.1:7402\"", "0 = \"127.0.0.1:7402\"", "no number from 1 on"),
        ("2 = \"127.0.0.1:7402\"", "2 = \"nowhere\"", &*peer),
        ("2 = \"127.0.0.1:7402\"", "2 = \"127.0.0.1:0\"", &zero),
        ("2 = \"127.0.0.1:7402\"", "2 = \"127.0.0.1:7401\"", &twice),
        ("2 = \"127.0.0.1:7402\"", "2 = \"10.0.1:7402\"", "looks like an IP address"),
        ("3 = \"127.0.0.1:7403\"", "3 = \"0.0.0.0:7403\"", &all),
        ("3 = \"127.0.0.1:7403\"", "3 = \"[::1]:7403\"", &family),
        ("# listen = \"[::]:7401\"", "listen = \"127.0.0.1:0\"", &listen),
        ("# listen = \"[::]:7401\"", "listen = \"127.0.0.1:7402\"", "this replica itself"),
        ("1.key", "missing.key", "missing.key"),
        ("1.key", "2.key", "belongs to another certificate"),
        ("\"1.pem\"", "\"2.pem\"", "1.toml"),
        ("durability = \"fsync\"", "durability = \"disk\"", "`memory`"),
        ("durability = \"fsync\"", "durability = \"memory\"", "remove one of the two lines"),
        ("data_dir = \"1.data\"", "", "`data_dir` is missing"),
        ("# reserved_slots = true", "reserved_slots = \"many\"", "true, false or a number"),
        ("# reserved_slots = true", "reserved_slots = 65537", "above 65536"),
        ("# reserved_slots = true", "snapshot_every = 0", "0 is too small: below 16384"),
        ("# reserved_slots = true", "snapshot_every = 16383", "snapshot_every"),
        ("# reserved_slots = true", "snapshot_every = -1", "snapshot_every"),
        ("# reserved_slots = true", "session_idle_seconds = 0", "forgotten at once"),
        ("# silent_orphans = false", "silent_orphans = 1", "silent_orphans"),
        ("# max_clients = 1024", "max_clients = 100000000000", "too large: take 1 to 100000"),
        ("# max_clients_per_certificate = 64", "max_clients_per_certificate = 5000", &share),
        ("# max_handshakes = 128", "max_handshakes = 1000000000", "take 1 to 100000"),
        ("# max_handshakes = 128", "max_handshakes = 0", "0 is too small: below 1, no client"),
        ("# max_handshakes = 128", "keep_for_absent = 0", "below 16384, a replica that was away"),
        ("# max_handshakes = 128", "client_sessions = 2000000", "take 1 to 1048576"),
        ("# client_idle_seconds = 600", "client_idle_seconds = 0", "| client_idle_seconds = 0"),
        ("# client_stall_seconds = 30", "client_stall_seconds = 0", "| client_stall_seconds = 0"),
        ("# silent_orphans = false", "session_idle_seconds = 9000000000", "to 315360000"),
    ] {
        let [from, to, word] = [from, to, word].map(ported);
        assert!(good.contains(&from), "{from} in {good}");
        fs::write(&file, good.replacen(&from, &to, 1)).expect("written");
        let words = refusal_to_serve(&file);
        assert!(words.contains(&word), "{to:?}: {words}");
        assert!(words.matches("No such file").count() <= 1, "a cause is said once: {words}");
        assert!(!path.join("1.ran").exists(), "it may be mended and started");
    }
}

#[test]
fn init_takes_a_host_a_replica() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("cluster");
    let hosts = "r1.example.com,10.0.0.2:9000,[fd00::3],R4.example.com:9004";
    let mut init = isonomy();
    let output = init.arg("init").arg(&path).args(["--hosts", hosts]).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(path.join("4.toml")).expect("the fourth");
    for line in [
        "1 = \"r1.example.com:7400\"",
        "2 = \"10.0.0.2:9000\"",
        "3 = \"[fd00::3]:7400\"",
        "4 = \"r4.example.com:9004\"",
        "# listen = \"[::]:9004\"",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} in {text}");
    }
}

#[cfg(unix)]
#[test]
fn a_directory_that_is_not_permitted_is_no_lost_one() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("cluster");
    lay_out(&path);
    let file = path.join("1.toml");
    let good = fs::read_to_string(&file).expect("what init wrote");
    // A path that even the root user may not write.
    let text = good.replace("data_dir = \"1.data\"", "data_dir = \"/proc/1.data\"");
    fs::write(&file, text).expect("written");
    let output = isonomy().arg("serve").arg(&file).output().expect("isonomy runs");
    let words = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(4), "{words}");
    assert!(words.contains("may read and write") && !words.contains("answered"), "{words}");
}

/// A directory as a replica would leave it, with one vote, one decision and one snapshot.
fn replicas_directory(path: &Path) {
    use isonomy::internals::protocol::epaxos::{DroppedIndex, ProtocolSnapshot, Record};
    use isonomy::internals::wire::{encode_record, encode_snapshot};
    use isonomy::types::{Ballot, Deps, Executed, InstanceId, LogPosition, ReplicaId, Value};
    let replica = ReplicaId::new(2).expect("a number");
    let options = StoreOptions {
        cluster: "blue".into(),
        replica: isonomy::types::MemberId::of(replica),
        protocol: "epaxos".to_owned(),
        members: isonomy::types::MemberId::all(3).collect(),
        joins: false,
        log: LogOptions { segment_bytes: 65_536, ..LogOptions::default() },
        snapshots: SnapshotOptions::default(),
    };
    let disk = FileDisk::open(path).expect("a directory");
    let opening = Store::open(std::sync::Arc::new(disk), &options).expect("it opens");
    let mut store = opening.replay(&mut |_, _| Ok(())).expect("it is empty");
    let (value, deps) = (Value::Nop, Deps::none(3));
    let ballot = Ballot::new(1, replica).expect("a round");
    for record in [
        Record::Joined { id: InstanceId::new(replica, 7), ballot },
        Record::Committed { id: InstanceId::new(replica, 6), value, deps },
    ] {
        let mut bytes = bytes::BytesMut::new();
        encode_record(1, &record, &mut bytes);
        store.log.append(&bytes).expect("there is room");
    }
    store.log.flush().expect("it flushes");
    let mut writer = store.snapshots.begin(LogPosition::new(1)).expect("a snapshot");
    let none = || Deps::none(3);
    let (floor, cut, dropped) = (none(), none(), Deps::from_slots([0, 2, 0]));
    let checkpoint = isonomy::internals::replica::Checkpoint {
        position: LogPosition::new(1),
        executed: Executed::up_to(Deps::from_slots([0, 5, 0])),
        shared: ProtocolSnapshot {
            floor,
            cut,
            dropped,
            index: DroppedIndex::new(3),
            decisions: Vec::new(),
        },
        own: Vec::<isonomy::internals::replica::Record<Record>>::new(),
    };
    let state = isonomy::machine::Applier::new(isonomy::machine::Kv::new()).snapshot();
    let write = |bytes: &[u8]| writer.write(bytes);
    encode_snapshot(None, "blue", &checkpoint, |to| to.write_all(&state), write).expect("room");
    writer.finish().expect("it flushes");
    store.log.close().expect("it closes");
}

#[test]
fn inspect_tells_what_is_there_and_what_is_damaged() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let dir = home.path().join("data");
    let name = dir.to_str().expect("UTF-8");
    assert!(complaint(2, &["inspect", name]).contains("cannot look at"));
    replicas_directory(&dir);
    let before: Vec<_> = fs::read_dir(&dir).expect("files").map(|it| it.unwrap().path()).collect();
    let text = String::from_utf8(run(&["inspect", name]).stdout).expect("text");
    for words in [
        "replica 2 of 3 of cluster blue, incarnation 1",
        "records 0 to 2",
        "0 sessions, era 0",
        "of replica 2 up to 5",
        "cut 0 0 0; dropped up to 0 2 0",
        "sound: ",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    let output = run(&["inspect", name, "--json"]);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&report["sound"], &report["records"]), (&true.into(), &2.into()), "{report}");
    let instances = &report["instances"][0];
    assert_eq!((&instances["nops"], &instances["initial"]), (&1.into(), &1.into()), "{report}");
    let snapshot = &report["snapshots"][0];
    assert_eq!((&snapshot["position"], &snapshot["contents"]["era"]), (&1.into(), &0.into()));

    // A directory can also be inspected while it is in use.
    let in_use = FileDisk::open(&dir).expect("nobody has it");
    let output = run(&["inspect", name]);
    let text = String::from_utf8(output.stdout).expect("text");
    let process = format!("in use by process {}", std::process::id());
    assert!(output.status.success() && text.contains(&process), "{text}");
    drop(in_use);
    let after: Vec<_> = fs::read_dir(&dir).expect("files").map(|it| it.unwrap().path()).collect();
    assert_eq!(before, after, "nothing is written");

    let identity = dir.join("identity");
    let mut bytes = fs::read(&identity).expect("the identity");
    bytes[20] ^= 1;
    fs::write(&identity, bytes).expect("written");
    let output = run(&["inspect", name]);
    let words = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("identity, byte 0") && words.contains("refuses to start"), "{words}");
}

/// Starts a replica that must refuse to start, and returns its message.
#[track_caller]
fn refusal_to_serve(file: &Path) -> String {
    let mut serve = isonomy();
    serve.arg("serve").arg(file).args(["--log", "off"]);
    serve.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut serve = serve.spawn().expect("isonomy runs");
    let start = Instant::now();
    while serve.try_wait().expect("a process of ours").is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            let _ = serve.kill();
            panic!("it serves: {}", fs::read_to_string(file).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = serve.wait_with_output().expect("it has ended");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}
