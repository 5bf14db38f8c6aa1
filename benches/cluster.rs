//! What a whole cluster can do. The replicas are in this process, talk over real QUIC on loopback,
//! have their own threads, keep their records in memory and answer after execution. This is
//! measured under each protocol. On a machine with few processors the replicas and the load share
//! them, so use these figures for comparison, not as promises.
//!
//! Not every combination is measured. All four protocols are measured without conflicts, by the
//! number of replicas and by the size of the value. EPaxos and Multi-Paxos are measured by
//! conflicts. The latency of one command at a time is measured for all protocols, and for
//! Multi-Paxos also at its leader.
//!
//! Every command must get the right answer and be executed once at every replica, and all replicas
//! must end in the same state. Otherwise the program panics and prints no figure.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::load::{Load, WINDOW, opening};
use common::rounds::{Side, compare};
use common::{Pace, group};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use isonomy::machine::{Kv, KvOutput};
use isonomy::node::ProtocolKind;
use isonomy::{LocalCluster, Replica};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

/// A command that has no answer after this time is lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which clients send commands.
#[derive(Clone, Copy, PartialEq)]
enum Clients {
    /// [`WINDOW`] clients at each replica, each with one command under way.
    Window,
    /// One client, which goes from replica to replica.
    One,
    /// One client at the leader.
    OneAtTheLeader,
}

/// A running cluster, and the number of commands that it has been sent.
struct Running {
    protocol: ProtocolKind,
    runtime: Runtime,
    cluster: LocalCluster<Kv>,
    clients: Clients,
    load: Load,
    asked: u64,
}

impl Running {
    /// Starts a cluster and checks that it works.
    fn open(protocol: ProtocolKind, n: usize, clients: Clients, load: &Load) -> Running {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let cluster = LocalCluster::<Kv>::builder(n)
            .configure(move |replica| replica.protocol(protocol).propose_timeout(PATIENCE));
        let cluster = runtime.block_on(cluster.start()).expect("a cluster");
        let load = load.clone();
        let mut running = Running { protocol, runtime, cluster, clients, load, asked: 0 };
        running.execute(opening());
        running.come_to_rest();
        running
    }

    /// Executes this many commands.
    fn execute(&mut self, commands: u64) -> Duration {
        let from = self.asked;
        self.asked += commands;
        match self.clients {
            Clients::Window => self.runtime.block_on(self.execute_in_windows(from..self.asked)),
            Clients::One => {
                let all = self.cluster.replicas();
                self.runtime.block_on(self.execute_in_turn(from..self.asked, all))
            }
            Clients::OneAtTheLeader => {
                let leader = self.runtime.block_on(self.leader());
                self.runtime.block_on(self.execute_in_turn(from..self.asked, &[leader]))
            }
        }
    }

    async fn execute_in_windows(&self, commands: std::ops::Range<u64>) -> Duration {
        let (next, start) = (Rc::new(Cell::new(commands.start)), Instant::now());
        let tasks = LocalSet::new();
        for replica in self.cluster.replicas() {
            for _ in 0..WINDOW {
                let (replica, load, next) = (replica.clone(), self.load.clone(), Rc::clone(&next));
                let (protocol, end) = (self.protocol, commands.end);
                tasks.spawn_local(async move {
                    while next.get() < end {
                        let number = next.replace(next.get() + 1);
                        ask(protocol, &replica, &load, number).await;
                    }
                });
            }
        }
        tasks.await;
        start.elapsed()
    }

    /// Executes commands one after the other.
    async fn execute_in_turn(
        &self,
        commands: std::ops::Range<u64>,
        replicas: &[Replica<Kv>],
    ) -> Duration {
        let start = Instant::now();
        for (number, replica) in commands.zip(replicas.iter().cycle()) {
            ask(self.protocol, replica, &self.load, number).await;
        }
        start.elapsed()
    }

    /// The replica that says that it is the leader.
    async fn leader(&self) -> Replica<Kv> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            for replica in self.cluster.replicas() {
                let metrics = replica.metrics().await.expect("it runs");
                if metrics.leader == Some(replica.id()) {
                    return replica.clone();
                }
            }
        }
        panic!("{}: nobody leads", self.protocol);
    }

    /// Checks that all replicas have done the same, and executed each command once.
    fn come_to_rest(&mut self) {
        let protocol = self.protocol;
        self.runtime.block_on(async {
            let digests = self.cluster.digests().await;
            let digests = digests.unwrap_or_else(|unsettled| panic!("{protocol}: {unsettled}"));
            assert_eq!(digests.len(), self.cluster.replicas().len(), "{protocol}: all answer");
            let mut all = digests.values();
            let first = all.next();
            assert!(all.all(|it| Some(it) == first), "{protocol}: {digests:?}");
            for replica in self.cluster.replicas() {
                let metrics = replica.metrics().await.expect("it runs");
                assert_eq!(metrics.executed, self.asked, "{protocol}, {}", replica.id());
            }
        });
    }

    fn close(mut self) {
        self.come_to_rest();
        self.runtime.block_on(self.cluster.shutdown());
    }
}

async fn ask(protocol: ProtocolKind, replica: &Replica<Kv>, load: &Load, number: u64) {
    let answer = replica.propose(load.command(number)).await;
    assert_eq!(answer, Ok(KvOutput::Done), "{protocol}: command {number}");
}

/// Measures one benchmark, in which an iteration is a command.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    (protocol, n, clients): (ProtocolKind, usize, Clients),
    load: &Load,
) {
    let mut running = None;
    group.bench_function(name, |b| {
        let running = running.get_or_insert_with(|| Running::open(protocol, n, clients, load));
        b.iter_custom(|commands| running.execute(commands));
    });
    running.into_iter().for_each(Running::close);
}

/// How many commands a second does each protocol execute without conflicts? By the number of
/// replicas and by the size of the value.
fn throughput(c: &mut Criterion) {
    for (name, n, bytes) in [
        ("cluster/throughput", 3, 16),
        ("cluster/throughput_5_replicas", 5, 16),
        ("cluster/throughput_1KiB", 3, 1024),
    ] {
        let answers = format!(
            "commands a second over QUIC, by protocol, {WINDOW} under way at each replica; {n} \
             replicas, {bytes} B"
        );
        let mut group = group(c, name, &answers, Pace::CLUSTER);
        group.throughput(Throughput::Elements(1));
        for protocol in ProtocolKind::ALL {
            let what = (*protocol, n, Clients::Window);
            measure(&mut group, protocol.name(), what, &Load::new(0, bytes));
        }
        group.finish();
    }
}

/// From which share of conflicts on does a protocol with a leader execute more than EPaxos?
fn conflicts(c: &mut Criterion) {
    let answers = "commands a second over QUIC, by the share that writes one hot key";
    let mut group = group(c, "cluster/conflicts", answers, Pace::CLUSTER);
    group.throughput(Throughput::Elements(1));
    for percent in [2, 25, 100] {
        for protocol in [ProtocolKind::EPaxos, ProtocolKind::MultiPaxos] {
            let name = format!("{protocol}/{percent}%");
            let what = (protocol, 3, Clients::Window);
            measure(&mut group, &name, what, &Load::new(percent, 16));
        }
    }
    let what = (ProtocolKind::EPaxos, 5, Clients::Window);
    measure(&mut group, "epaxos_5_replicas/25%", what, &Load::new(25, 16));
    group.finish();
}

/// How long does a client wait that sends one command at a time? The figure is the mean over the
/// replicas that it may ask. Without a leader this is one round trip at any replica. With a leader
/// it depends on where the client is.
fn latency(c: &mut Criterion) {
    let answers = "time to the answer over QUIC, one command at a time, at each replica in turn";
    let mut group = group(c, "cluster/latency", answers, Pace::CLUSTER);
    let load = Load::new(0, 16);
    for protocol in ProtocolKind::ALL {
        measure(&mut group, protocol.name(), (*protocol, 3, Clients::One), &load);
    }
    let leader = (ProtocolKind::MultiPaxos, 3, Clients::OneAtTheLeader);
    measure(&mut group, "multi-paxos_at_its_leader", leader, &load);
    measure(&mut group, "epaxos_5_replicas", (ProtocolKind::EPaxos, 5, Clients::One), &load);
    group.finish();
}

/// The ratios between the protocols, with their spread in the same run.
fn ratios(c: &mut Criterion) {
    for (name, clients) in [("throughput", Clients::Window), ("latency", Clients::One)] {
        let name = format!("cluster/ratios_{name}");
        let answers = "the protocols over QUIC in alternating rounds: time for a command as ratios";
        compare(c, &name, answers, Pace::CLUSTER.measured_for(12), || {
            let open = |protocol: &ProtocolKind| {
                let running = Running::open(*protocol, 3, clients, &Load::new(0, 16));
                let side: Box<dyn Side> = Box::new(running);
                (protocol.name(), side)
            };
            ProtocolKind::ALL.iter().map(open).collect()
        });
    }
}

impl Side for Running {
    fn run(&mut self) -> (u64, Duration) {
        // Long compared with the start and the end of a window.
        let commands = if self.clients == Clients::Window { 10_000 } else { 250 };
        (commands, self.execute(commands))
    }

    fn check(&mut self) {
        self.come_to_rest();
    }
}

criterion_group!(benches, throughput, conflicts, latency, ratios);
criterion_main!(benches);
