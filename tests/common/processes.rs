//! Clusters of real processes: made by `init`, run by `serve`, killed with `kill -9`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use isonomy::client::{Client, ClientConfig};
use isonomy::machine::Kv;
use isonomy::network::Credentials;
use isonomy::types::MemberId;

#[path = "ports.rs"]
mod ports;

use ports::free_base;

/// Generous, because the machine may be slow and busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub fn isonomy() -> Command {
    Command::new(env!("CARGO_BIN_EXE_isonomy"))
}

/// A cluster of processes. They are killed when it is dropped.
pub struct Cluster {
    _temporary: tempfile::TempDir,
    pub dir: PathBuf,
    base: u16,
    /// How many replicas `init` made files for.
    first: usize,
    processes: Vec<Option<Child>>,
}

impl Cluster {
    /// Makes the files for this many replicas. No replica runs yet.
    pub fn lay_out(replicas: u16) -> Cluster {
        Cluster::lay_out_for(replicas, replicas)
    }

    /// The same, with ports for replicas that join later: with numbers up to `most`.
    pub fn lay_out_for(replicas: u16, most: u16) -> Cluster {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let dir = temporary.path().join("cluster");
        let base = free_base(most);
        let count = replicas.to_string();
        let init = isonomy()
            .args(["init", "--replicas", &count, "--cluster", "blue", "--listen-base"])
            .arg(format!("127.0.0.1:{base}"))
            .arg(&dir)
            .output()
            .expect("isonomy runs");
        assert!(init.status.success(), "{init:?}");
        let processes = (0..most).map(|_| None).collect();
        Cluster { _temporary: temporary, dir, base, first: replicas.into(), processes }
    }

    /// A cluster with all of its replicas running.
    pub fn start(replicas: u16) -> Cluster {
        let mut cluster = Cluster::lay_out(replicas);
        cluster.serve_all();
        cluster
    }

    /// Replaces a text in the files of all replicas.
    pub fn edit(&self, from: &str, to: &str) {
        (1..=self.replicas()).for_each(|number| self.edit_one(number, from, to));
    }

    /// Replaces a text in the file of one replica.
    #[track_caller]
    pub fn edit_one(&self, number: usize, from: &str, to: &str) {
        let path = self.file(number);
        let text = fs::read_to_string(&path).expect("what init wrote");
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&path, text.replacen(from, to, 1)).expect("written");
    }

    /// How many replicas the cluster was made with.
    pub fn replicas(&self) -> usize {
        self.first
    }

    /// A replica's number and address, as the commands for members take them.
    pub fn place(&self, number: usize) -> String {
        format!("{number}@127.0.0.1:{}", usize::from(self.base) + number)
    }

    /// Makes the files of a replica that is to join, and starts it. It waits then.
    #[track_caller]
    pub fn start_to_join(&mut self, number: usize) -> mpsc::Receiver<String> {
        let mut cert = isonomy();
        cert.args(["cert", "replica"]).arg(&self.dir).arg(self.place(number));
        let output = cert.output().expect("isonomy runs");
        assert!(output.status.success(), "{output:?}");
        self.spawn(number)
    }

    /// Names these replicas in the files of the client and of the administrator.
    pub fn tell_clients(&self, numbers: impl IntoIterator<Item = usize> + Clone) {
        for file in ["client.toml", "admin.toml"] {
            let path = self.dir.join(file);
            let text = fs::read_to_string(&path).expect("what init wrote");
            let (front, _) = text.split_once("[replicas]\n").expect("a list");
            let places = numbers.clone().into_iter().map(|number| self.place(number));
            let lines = places.map(|place| place.replace('@', " = \"") + "\"\n");
            let text = format!("{front}[replicas]\n{}", lines.collect::<String>());
            fs::write(&path, text).expect("written");
        }
    }

    pub fn file(&self, number: usize) -> PathBuf {
        self.dir.join(format!("{number}.toml"))
    }

    pub fn data(&self, number: usize) -> PathBuf {
        self.dir.join(format!("{number}.data"))
    }

    /// Everything that a replica has logged since it was first started.
    pub fn log(&self, number: usize) -> String {
        fs::read_to_string(self.log_path(number)).unwrap_or_default()
    }

    /// Waits until a replica logs a line with these words after this many bytes of its log.
    #[track_caller]
    pub fn wait_log(&self, number: usize, after: usize, words: &str) -> String {
        let start = Instant::now();
        loop {
            let log = self.log(number);
            if let Some(line) = log[after..].lines().find(|line| line.contains(words)) {
                return line.to_owned();
            }
            assert!(start.elapsed() < PATIENCE, "no {words:?}: {log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn log_path(&self, number: usize) -> PathBuf {
        self.dir.join(format!("{number}.log"))
    }

    /// Starts a replica. The receiver gets the lines that it prints.
    pub fn spawn(&mut self, number: usize) -> mpsc::Receiver<String> {
        let file = self.file(number);
        self.spawn_at(number, &file)
    }

    /// The same, with a file that is elsewhere.
    pub fn spawn_at(&mut self, number: usize, file: &Path) -> mpsc::Receiver<String> {
        assert!(self.processes[number - 1].is_none(), "replica {number} runs");
        let mut log = OpenOptions::new();
        let log = log.create(true).append(true).open(self.log_path(number)).expect("a log");
        let (child, line) = serve(file, log);
        self.processes[number - 1] = Some(child);
        line
    }

    /// Waits for the line that says that a replica is ready.
    #[track_caller]
    pub fn wait_ready(&self, number: usize, line: &mpsc::Receiver<String>) {
        self.wait_ready_at("127.0.0.1:", number, line);
    }

    #[track_caller]
    fn wait_ready_at(&self, place: &str, number: usize, line: &mpsc::Receiver<String>) {
        let next = || line.recv_timeout(PATIENCE);
        let first = next();
        // One that joins says first that it waits.
        let line =
            if first.as_ref().is_ok_and(|it| it.starts_with("waits: ")) { next() } else { first };
        let line = line.unwrap_or_else(|_| panic!("no line in time: {}", self.log(number)));
        let wanted = format!("ready: replica {number} of blue at {place}");
        assert!(line.starts_with(&wanted), "{line:?}\n{}", self.log(number));
    }

    /// Starts a replica and waits until it says that it is ready.
    #[track_caller]
    pub fn serve(&mut self, number: usize) {
        let line = self.spawn(number);
        self.wait_ready(number, &line);
    }

    /// Starts all replicas that do not run, all at the same time.
    #[track_caller]
    pub fn serve_all(&mut self) {
        let down = (1..=self.replicas()).filter(|number| self.processes[number - 1].is_none());
        let down: Vec<usize> = down.collect();
        self.serve_all_of(&down);
    }

    /// Starts all replicas. Each must say that it listens at an address that begins with `place`.
    #[track_caller]
    pub fn serve_all_at(&mut self, place: &str) {
        let numbers = 1..=self.replicas();
        let lines: Vec<_> = numbers.map(|number| (number, self.spawn(number))).collect();
        for (number, line) in &lines {
            self.wait_ready_at(place, *number, line);
        }
    }

    /// Starts these replicas, all at the same time.
    #[track_caller]
    pub fn serve_all_of(&mut self, numbers: &[usize]) {
        let lines: Vec<_> = numbers.iter().map(|number| (*number, self.spawn(*number))).collect();
        for (number, line) in &lines {
            self.wait_ready(*number, line);
        }
    }

    pub fn process(&mut self, number: usize) -> &mut Child {
        self.processes[number - 1].as_mut().expect("it runs")
    }

    /// Kills these replicas. On Unix this is SIGKILL, as with `kill -9`.
    pub fn kill(&mut self, numbers: &[usize]) {
        for number in numbers {
            self.process(*number).kill().expect("it runs");
        }
        for number in numbers {
            self.wait_exit(*number);
        }
    }

    /// Kills all replicas that run.
    pub fn kill_all(&mut self) {
        for process in &mut self.processes {
            if let Some(mut process) = process.take() {
                process.kill().expect("a process of ours");
                process.wait().expect("a process of ours");
            }
        }
    }

    /// Asks a replica to stop, and returns its exit code.
    #[cfg(unix)]
    pub fn terminate(&mut self, number: usize) -> Option<i32> {
        let id = self.process(number).id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(sent.success());
        self.wait_exit(number)
    }

    /// Waits until a replica has ended, and returns its exit code.
    #[track_caller]
    pub fn wait_exit(&mut self, number: usize) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process(number).try_wait().expect("a process of ours") {
                self.processes[number - 1] = None;
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "it does not end: {}", self.log(number));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts a replica that must not become ready. Returns its exit code and what it has logged.
    #[track_caller]
    pub fn refusal(&mut self, number: usize) -> (Option<i32>, String) {
        let before = self.log(number).len();
        let _line = self.spawn(number);
        let code = self.wait_exit(number);
        (code, self.log(number)[before..].to_owned())
    }

    /// Runs a client command until it ends.
    pub fn client(&self, arguments: &[&str]) -> Output {
        self.start_client(arguments).wait_with_output().expect("isonomy runs")
    }

    /// Starts a client command.
    pub fn start_client(&self, arguments: &[&str]) -> Child {
        let mut client = isonomy();
        client.args(arguments).arg("--cluster").arg(&self.dir).args(["--timeout", "60"]);
        client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        client.spawn().expect("isonomy runs")
    }

    /// Runs a client command that must succeed, and returns the lines that it prints. A value is
    /// printed without an end of line, so one is added here.
    #[track_caller]
    pub fn told(&self, arguments: &[&str]) -> String {
        let output = self.client(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let mut text = String::from_utf8(output.stdout).expect("text");
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }

    /// The configuration of a client in this process that uses these replicas and no others.
    pub fn client_config(&self, replicas: impl IntoIterator<Item = usize>) -> ClientConfig {
        let path = |name: &str| self.dir.join(name);
        let (authority, certificate) = (path("ca.pem"), path("client.pem"));
        let credentials =
            Credentials::from_pem_files(&authority, &certificate, &path("client.key"));
        let replicas: BTreeMap<MemberId, SocketAddr> = replicas
            .into_iter()
            .map(|number| {
                let number = u8::try_from(number).expect("a replica's number");
                let port = self.base + u16::from(number);
                let id = MemberId::new(number.into()).expect("a replica's number");
                (id, SocketAddr::from(([127, 0, 0, 1], port)))
            })
            .collect();
        let credentials = credentials.expect("what init wrote");
        let mut config = ClientConfig::new("blue", "cli", credentials, replicas);
        config.patience = PATIENCE;
        config.follow = false;
        // A replica that is killed does not say so, so do not wait long for it.
        config.attempt = Duration::from_millis(250);
        config
    }

    /// Connects a client to these replicas.
    pub async fn connect(&self, replicas: impl IntoIterator<Item = usize>) -> Client<Kv> {
        connect(self.client_config(replicas)).await
    }
}

/// Connects a client, for as long as it takes.
pub async fn connect(config: ClientConfig) -> Client<Kv> {
    let start = Instant::now();
    loop {
        match Client::connect(config.clone()).await {
            Ok(client) => return client,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            for number in 1..=self.processes.len() {
                let log = self.log(number);
                let tail = log.lines().rev().take(15).collect::<Vec<_>>();
                eprintln!("-- the end of replica {number}'s log");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

/// Starts a replica. The receiver gets the lines that it prints.
fn serve(file: &Path, log: File) -> (Child, mpsc::Receiver<String>) {
    let mut child = isonomy()
        .arg("serve")
        .arg(file)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("isonomy runs");
    let stdout = child.stdout.take().expect("a pipe");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    (child, receiver)
}
