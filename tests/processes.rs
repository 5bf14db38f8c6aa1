//! Real processes: a cluster made by `init`, three `serve` processes, client processes, and `kill
//! -9`. The tests follow the steps of the README's second chapter.
#![cfg(feature = "cli")]

mod common;

use common::processes::{Cluster, isonomy};

#[test]
fn a_cluster_goes_on_without_the_one_that_was_killed_until_it_is_back() {
    let mut cluster = Cluster::start(3);
    cluster.told(&["put", "greeting", "hello", "--replica", "1"]);
    assert_eq!(cluster.told(&["get", "greeting", "--replica", "3"]), "hello\n");

    cluster.kill(&[1]);
    cluster.told(&["put", "greeting", "good day", "--replica", "2"]);
    assert_eq!(cluster.told(&["get", "greeting", "--replica", "3"]), "good day\n");
    for round in 0..3 {
        let value = round.to_string();
        // The client asks the nearest replica, and finds one that is alive.
        cluster.told(&["put", "counter", &value]);
        assert_eq!(cluster.told(&["get", "counter"]), format!("{value}\n"));
    }

    // Replica 1 is back. Now the others are gone.
    cluster.serve(1);
    assert_eq!(cluster.told(&["get", "greeting", "--replica", "1"]), "good day\n");
    cluster.kill(&[1, 2, 3]);
    cluster.serve_all();
    assert_eq!(cluster.told(&["get", "counter", "--replica", "2"]), "2\n");
}

#[test]
fn what_is_kept_in_memory_is_gone_with_the_process() {
    let mut cluster = Cluster::lay_out(3);
    for number in 1..=3 {
        cluster.edit_one(number, &format!("data_dir = \"{number}.data\""), "");
    }
    cluster.edit("durability = \"fsync\"", "durability = \"memory\"");
    cluster.serve_all();
    cluster.told(&["put", "greeting", "hello"]);
    cluster.kill(&[1]);
    assert_eq!(cluster.told(&["get", "greeting"]), "hello\n");
    let (code, words) = cluster.refusal(1);
    assert!(words.contains("replica 1 has run before"), "{words}");
    assert_eq!(code, Some(2), "{words}");

    // The mark stopped the replica here. Without the mark, the other replicas stop it.
    std::fs::remove_file(cluster.dir.join("1.ran")).expect("the mark");
    let line = cluster.spawn(1);
    assert_eq!(cluster.wait_exit(1), Some(4), "{}", cluster.log(1));
    drop(line);
    let log = cluster.log(1);
    assert!(log.contains("r1 was restarted and has forgotten its votes"), "{log}");
}

#[cfg(unix)]
#[test]
fn a_first_start_in_memory_with_a_wrong_file_can_be_mended() {
    let mut cluster = Cluster::lay_out(3);
    for number in 1..=3 {
        cluster.edit_one(number, &format!("data_dir = \"{number}.data\""), "");
    }
    cluster.edit("durability = \"fsync\"", "durability = \"memory\"");
    let mark = cluster.dir.join("1.ran");
    // No other replica runs.
    cluster.serve(1);
    assert_eq!(cluster.terminate(1), Some(0));
    assert!(!mark.exists(), "nobody has heard it");
    // It runs another protocol, so the others refuse it.
    cluster.edit_one(1, "protocol = \"epaxos\"", "protocol = \"paxos\"");
    cluster.serve_all();
    cluster.told(&["put", "greeting", "hello", "--replica", "2"]);
    cluster.wait_log(1, 0, "set the same `protocol`");
    assert_eq!(cluster.terminate(1), Some(0));
    assert!(!mark.exists(), "nobody has let it in");
    // The file is corrected. Once the replica takes part, it must not come back after a stop.
    cluster.edit_one(1, "protocol = \"paxos\"", "protocol = \"epaxos\"");
    cluster.serve(1);
    assert_eq!(cluster.told(&["get", "greeting", "--replica", "1"]), "hello\n");
    assert!(mark.exists(), "it has been let in");
    cluster.kill(&[1]);
    let (code, words) = cluster.refusal(1);
    assert!(words.contains("replica 1 has run before"), "{words}");
    assert_eq!(code, Some(2), "{words}");
}

#[test]
fn one_replica_in_memory_has_run_from_its_start_on() {
    let mut cluster = Cluster::lay_out(1);
    cluster.edit_one(1, "data_dir = \"1.data\"", "");
    cluster.edit_one(1, "durability = \"fsync\"", "durability = \"memory\"");
    cluster.serve(1);
    assert!(cluster.dir.join("1.ran").exists());
    cluster.kill(&[1]);
    assert_eq!(cluster.refusal(1).0, Some(2));
}

#[test]
fn a_leader_that_there_is_not_is_refused() {
    let mut cluster = Cluster::lay_out(3);
    cluster.edit("# leader = 1", "leader = 4");
    let (code, words) = cluster.refusal(1);
    assert_eq!(code, Some(2), "{words}");
    assert!(words.contains("`leader = 4`, but [replicas] has no entry 4"), "{words}");
    cluster.edit("leader = 4", "leader = 3");
    cluster.serve_all();
    cluster.told(&["put", "greeting", "hello"]);
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

#[test]
fn a_refusal_by_a_replica_is_no_sign_of_its_absence() {
    let mut cluster = Cluster::lay_out(1);
    let most = "max_clients = 1\nmax_clients_per_certificate = 1";
    cluster.edit("# max_clients = 1024", most);
    cluster.serve_all();
    let asked = |cluster: &Cluster| {
        let put = cluster.client(&["put", "key", "value"]);
        (put.status.code(), String::from_utf8_lossy(&put.stderr).into_owned())
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(cluster.connect([1]));
    let (code, words) = asked(&cluster);
    assert_eq!(code, Some(5), "{words}");
    assert!(words.contains("has 1 connections here already"), "{words}");
    assert!(!words.contains("Is a replica running"), "{words}");
    runtime.block_on(client.close());
    cluster.kill(&[1]);
    let (code, words) = asked(&cluster);
    assert_eq!(code, Some(5), "{words}");
    assert!(words.contains("Is a replica running at an address in"), "{words}");
}

#[test]
fn one_more_client_has_a_certificate_of_its_own() {
    let cluster = Cluster::start(1);
    let dir = cluster.dir.to_str().expect("UTF-8");
    let issue = |name: &str| {
        let output = isonomy().args(["cert", "issue", dir, name]).output().expect("isonomy runs");
        let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        (output.status.code(), format!("{out}{err}"))
    };
    for (name, why) in [
        ("Billing", "lower-case"),
        ("a.b", "lower-case"),
        ("../b", "lower-case"),
        ("client", "client.pem exists already"),
        ("ca", "ca.pem exists already"),
        ("cli", "not free"),
        ("7", "not free"),
    ] {
        let (code, words) = issue(name);
        assert!(code == Some(2) && words.contains(why), "{name}: {words}");
    }
    let (code, told) = issue("billing");
    assert_eq!(code, Some(0), "{told}");
    let (code, words) = issue("billing");
    assert!(code == Some(2) && words.contains("billing.pem exists already"), "{words}");

    // The files that the command lists are all that the client needs.
    let program = cluster.dir.join("program");
    std::fs::create_dir(&program).expect("a directory");
    for name in ["ca.pem", "billing.pem", "billing.key"] {
        std::fs::copy(cluster.dir.join(name), program.join(name)).expect(name);
    }
    let text = std::fs::read_to_string(cluster.dir.join("client.toml")).expect("what init wrote");
    let changed = text.lines().map(|line| {
        let key = line.split(" = ").next().unwrap_or_default();
        let lines = told.lines().map(str::trim);
        let mut new = lines.filter(|it| it.contains(" = ") && it.split(" = ").next() == Some(key));
        format!("{}\n", new.next().unwrap_or(line))
    });
    std::fs::write(program.join("client.toml"), changed.collect::<String>()).expect("written");
    std::fs::remove_file(cluster.dir.join("client.key")).expect("a file");
    let mut put = isonomy();
    put.args(["put", "key", "value", "--cluster"]).arg(&program);
    let output = put.output().expect("isonomy runs");
    assert!(output.status.success(), "{output:?}");

    // The other commands for certificates include it.
    let cert = |what| isonomy().args(["cert", what, dir]).output().expect("isonomy runs");
    let listed = String::from_utf8(cert("list").stdout).expect("text");
    assert!(listed.contains("billing.pem"), "{listed}");
    let before = std::fs::read(cluster.dir.join("billing.pem")).expect("a file");
    assert!(cert("renew").status.success());
    assert_ne!(std::fs::read(cluster.dir.join("billing.pem")).expect("a file"), before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_written_out_is_no_success() {
    let cluster = Cluster::start(1);
    cluster.told(&["put", "key", "value"]);
    let dir = cluster.dir.to_str().expect("UTF-8");
    let data = cluster.data(1);
    let data = data.to_str().expect("UTF-8");
    let file = cluster.dir.join("backup");
    let file = file.to_str().expect("UTF-8");
    for arguments in [
        &["get", "key", "--cluster", dir][..],
        &["snapshot", "--cluster", dir],
        &["cert", "list", dir],
        &["cert", "renew", dir],
        &["cert", "issue", dir, "billing"],
        &["inspect", data],
        &["inspect", data, "--json"],
        &["backup", data, file],
        &["sim", "--seed", "1", "--trace"],
        &["--help"],
        &["--version"],
    ] {
        let full = std::fs::File::create("/dev/full").expect("a device");
        let output = isonomy().args(arguments).stdout(full).output().expect("isonomy runs");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {words}");
        assert!(words.contains("cannot write the result"), "{arguments:?}: {words}");
    }
}

#[test]
fn values_are_any_bytes_from_anywhere() {
    let cluster = Cluster::start(1);
    let binary: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let file = cluster.dir.join("value");
    std::fs::write(&file, &binary).expect("written");
    let name = file.to_str().expect("UTF-8");
    let raw = |key: &str| cluster.client(&["get", key]).stdout;
    cluster.told(&["put", "from a file", "--file", name]);
    assert_eq!(raw("from a file"), binary);
    let mut put = isonomy();
    put.args(["put", "from stdin", "-", "--cluster"]).arg(&cluster.dir);
    let put = put.stdin(std::fs::File::open(&file).expect("a file")).output().expect("it runs");
    assert!(put.status.success(), "{put:?}");
    assert_eq!(raw("from stdin"), binary);

    cluster.told(&["put", "-1", "-5.5"]);
    assert_eq!(raw("-1"), b"-5.5");
    cluster.told(&["cas", "-1", "-5.5", "-6"]);
    let mut put = isonomy();
    put.args(["put", "--cluster"]).arg(&cluster.dir).args(["--", "flag", "--flag"]);
    assert!(put.status().expect("it runs").success());
    assert_eq!(raw("flag"), b"--flag", "not a newline more");
    cluster.told(&["cas", "from a file", "--expected-file", name, "new"]);
    cluster.told(&["cas", "from a file", "new", "--file", name]);
    cluster.told(&["cas", "fresh", "--absent", "--file", name]);
    assert_eq!(raw("fresh"), binary);
    std::fs::write(&file, vec![0; 5 << 20]).expect("written");
    let huge = cluster.client(&["put", "huge", "--file", name]);
    let words = String::from_utf8_lossy(&huge.stderr).into_owned();
    assert_eq!(huge.status.code(), Some(2), "{words}");
    assert!(words.contains(name) && words.contains("is the limit"), "{words}");
}

#[test]
#[expect(clippy::print_stdout, reason = "a test that is left out says why")]
fn replicas_are_found_by_name_and_by_ipv6() {
    let mut cluster = Cluster::lay_out(3);
    // The name may stand for an IPv4 address, an IPv6 address, or both.
    for number in 1..=3 {
        let text = std::fs::read_to_string(cluster.file(number)).expect("what init wrote");
        let text = text.replace("\"127.0.0.1:", "\"localhost:");
        std::fs::write(cluster.file(number), text).expect("written");
    }
    cluster.serve_all_at("");
    cluster.told(&["put", "greeting", "hello", "--replica", "2"]);
    cluster.kill(&[1, 2, 3]);
    if let Err(error) = std::net::UdpSocket::bind("[::1]:0") {
        println!("skipped: [::1] cannot be bound: {error}");
        return;
    }
    for name in ["1.toml", "2.toml", "3.toml", "client.toml"] {
        let path = cluster.dir.join(name);
        let text = std::fs::read_to_string(&path).expect("what init wrote");
        let text = text.replace("localhost:", "[::1]:").replace("127.0.0.1:", "[::1]:");
        std::fs::write(path, text).expect("written");
    }
    cluster.serve_all_at("[::1]:");
    assert_eq!(cluster.told(&["get", "greeting", "--replica", "3"]), "hello\n");
}

#[cfg(unix)]
#[test]
fn a_replica_outlives_its_terminal() {
    let mut cluster = Cluster::start(1);
    let id = cluster.process(1).id().to_string();
    let sent = std::process::Command::new("kill").args(["-HUP", &id]).status().expect("kill runs");
    assert!(sent.success());
    cluster.wait_log(1, 0, "SIGHUP");
    cluster.told(&["put", "key", "value"]);
    assert_eq!(cluster.terminate(1), Some(0));
}

#[cfg(unix)]
#[test]
fn a_replica_that_is_asked_to_stop_does_so_in_good_order() {
    let mut cluster = Cluster::start(3);
    cluster.told(&["put", "key", "value"]);
    assert_eq!(cluster.terminate(1), Some(0));
    assert_eq!(cluster.told(&["get", "key"]), "value\n", "two of three suffice");
    let before = cluster.log(2).len();
    assert_eq!(cluster.terminate(3), Some(0));
    // One replica of three decides nothing, and says so instead of guessing.
    let line = cluster.wait_log(2, before, "no quorum: 1 of 3 reachable (r1 silent for");
    assert!(!line.contains("silent for 0 s"), "it counts from the last word: {line}");
    let alone = cluster.client(&["put", "key", "other"]);
    let words = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert_eq!(alone.status.code(), Some(5), "{words}");
    assert!(words.contains("not proposed: no quorum"), "{words}");
    // The replicas come back with what they had.
    cluster.serve_all();
    assert_eq!(cluster.told(&["get", "key", "--replica", "3"]), "value\n");
}

#[test]
fn a_directory_can_be_looked_at_while_its_replica_runs() {
    let mut cluster = Cluster::start(1);
    cluster.told(&["put", "greeting", "hello"]);
    let process = format!("in use by process {}", cluster.process(1).id());
    let data = cluster.data(1);
    let look = |json: &[&str]| {
        let mut inspect = isonomy();
        inspect.arg("inspect").arg(&data).args(json);
        let output = inspect.output().expect("isonomy runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let running = look(&[]);
    for words in ["replica 1 of 1 of cluster blue, incarnation 1", &process, "sound: "] {
        assert!(running.contains(words), "{words} in {running}");
    }
    let report: serde_json::Value = serde_json::from_str(&look(&["--json"])).expect("JSON");
    assert!(report["instances"][0]["committed"].as_u64() >= Some(1), "{report}");
    cluster.kill(&[1]);
    let stopped = {
        let output = isonomy().arg("inspect").arg(cluster.dir.join("1.data")).output();
        String::from_utf8(output.expect("isonomy runs").stdout).expect("text")
    };
    assert!(stopped.contains("sound: ") && !stopped.contains("in use"), "{stopped}");
}
