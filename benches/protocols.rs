//! The processor time that a command costs under each protocol, for a whole cluster in one thread.
//! This includes the clients, the replicas' cores with all their messages, and the state machine
//! with its sessions at every replica. There is no network, disk, codec or clock, so waiting is
//! free. To see what conflicts and duels cost in *time*, measure over QUIC (`cluster.rs`) or in
//! virtual time (`isonomy compare --virtual`).
//!
//! Figures are the thread's time on its processor, for all replicas together. Not every combination
//! is measured. All four protocols are measured without conflicts: in windows, one command at a
//! time, with five replicas and with long values. Only EPaxos looks at conflicts, and Multi-Paxos
//! is measured with conflicts to show that it does not. To measure instructions instead, which
//! other load does not disturb, see BENCHMARKS.md.
//!
//! Every command must get one answer, and the right one, and all replicas must end in the same
//! state. Otherwise the program panics and prints no figure.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::cores::Cores;
use common::cpu::Stopwatch;
use common::load::{Load, WINDOW, opening};
use common::rounds::{Side, compare};
use common::{Pace, group};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use isonomy::internals::protocol::Protocol;
use isonomy::internals::protocol::epaxos::EPaxos;
use isonomy::internals::protocol::fast_paxos::FastPaxos;
use isonomy::internals::protocol::multipaxos::MultiPaxos;
use isonomy::internals::protocol::paxos::Paxos;
use isonomy::machine::{Applied, Applier, Kv, KvOutput, Outcome, StateMachine, encode};
use isonomy::types::{Batch, ClientId, Command, ReplicaId, RequestId, Time};

/// A cluster that gives no answer for this long makes no progress.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which clients send commands.
#[derive(Clone, Copy, PartialEq)]
enum Clients {
    /// [`WINDOW`] clients at each replica, each with one command under way.
    Window,
    /// One client, which goes from replica to replica.
    One,
}

struct Cluster<P: Protocol> {
    cores: Cores<P>,
    appliers: Vec<Applier<Kv>>,
    clients: Vec<Client>,
    kind: Clients,
    load: Load,
    asked: u64,
    answered: u64,
    /// The number of first executions at each replica.
    executed: Vec<u64>,
    /// Answers for the clients.
    answers: Vec<Applied>,
    done: Bytes,
    last_answer: Time,
}

#[derive(Clone, Copy)]
struct Client {
    sequence: u64,
    at: ReplicaId,
    waits: bool,
}

impl<P: Protocol> Cluster<P> {
    /// Starts a cluster and checks that it works.
    fn open(n: usize, kind: Clients, load: Load) -> Cluster<P> {
        let each = if kind == Clients::Window { WINDOW } else { 1 };
        let sites = if kind == Clients::Window { n } else { 1 };
        let client = |at| Client { sequence: 0, at, waits: false };
        let mut cluster = Cluster {
            cores: Cores::new(n),
            appliers: (0..n).map(|_| Applier::new(Kv::new())).collect(),
            clients: ReplicaId::all(sites).flat_map(|at| [client(at)].repeat(each)).collect(),
            kind,
            load,
            asked: 0,
            answered: 0,
            executed: vec![0; n],
            answers: Vec::new(),
            done: encode(&KvOutput::Done).expect("plain data"),
            last_answer: Time::ZERO,
        };
        cluster.execute(opening());
        cluster.come_to_rest();
        cluster
    }

    /// Runs until this many more commands are answered. Commands that are under way at that time
    /// stay under way.
    fn execute(&mut self, commands: u64) -> Duration {
        let (goal, start) = (self.answered + commands, Stopwatch::start());
        // Every client that waits for nothing sends a command. At first these are all clients.
        (0..self.clients.len()).for_each(|client| self.ask(client));
        while self.answered < goal {
            self.turn(true);
        }
        start.elapsed()
    }

    fn ask(&mut self, index: usize) {
        let n = self.appliers.len();
        let client = &mut self.clients[index];
        if std::mem::replace(&mut client.waits, true) {
            return;
        }
        client.sequence += 1;
        if self.kind == Clients::One {
            client.at = ReplicaId::from_index((client.at.index() + 1) % n);
        }
        let (at, sequence) = (client.at, client.sequence);
        let command = self.load.command(self.asked);
        self.asked += 1;
        let request = RequestId::new(ClientId(index as u64 + 1), sequence);
        let footprint = Kv::footprint(&command);
        let payload = encode(&command).expect("plain data");
        self.cores
            .propose(at, Command { request, floor: sequence, origin: at, footprint, payload });
    }

    fn turn(&mut self, ask: bool) {
        let Cluster { cores, appliers, executed, answers, .. } = self;
        cores.turn(|at, execution| {
            for command in execution.batch.commands() {
                let asked = command.origin == at;
                let reply = appliers[at.index()].apply(command, asked);
                // A repeated command was answered before, and only the replica that the client
                // asked answers it.
                if !reply.first {
                    continue;
                }
                executed[at.index()] += 1;
                if asked {
                    answers.push(reply);
                }
            }
        });
        let mut answers = std::mem::take(&mut self.answers);
        for answer in answers.drain(..) {
            let index = usize::try_from(answer.request.client.0 - 1).expect("few clients");
            self.take_answer(index, &answer);
            if ask {
                self.ask(index);
            }
        }
        self.answers = answers;
        let waited = self.cores.now().since(self.last_answer);
        let all = self.asked == self.answered;
        assert!(all || waited < PATIENCE, "{} stands still", P::NAME);
    }

    fn take_answer(&mut self, index: usize, answer: &Applied) {
        let client = &mut self.clients[index];
        assert!(std::mem::take(&mut client.waits), "{}: answered twice: {answer:?}", P::NAME);
        assert_eq!(answer.request.sequence, client.sequence, "{}", P::NAME);
        let Outcome::Output(output) = &answer.outcome else { panic!("{}: {answer:?}", P::NAME) };
        assert_eq!(*output, self.done, "{}: a put is answered `Done`", P::NAME);
        self.answered += 1;
        self.last_answer = self.cores.now();
    }

    /// Finishes all commands, and checks that all replicas have done the same.
    fn come_to_rest(&mut self) {
        self.last_answer = self.cores.now();
        while self.executed.iter().any(|executed| *executed < self.asked) {
            self.turn(false);
            let waited = self.cores.now().since(self.last_answer);
            assert!(waited < PATIENCE, "{}: executed {:?}", P::NAME, self.executed);
        }
        assert_eq!(self.answered, self.asked, "{}", P::NAME);
        assert!(self.executed.iter().all(|executed| *executed == self.asked), "{}", P::NAME);
        let digests: Vec<u64> = self.appliers.iter().map(Applier::digest).collect();
        assert!(digests.iter().all(|it| *it == digests[0]), "{}: {digests:?}", P::NAME);
    }
}

/// Measures one benchmark, in which an iteration is a command with everything that it causes at all
/// replicas.
fn measure<P: Protocol>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    (n, kind): (usize, Clients),
    load: &Load,
) {
    group.throughput(Throughput::Elements(1));
    let mut cluster = None;
    group.bench_function(name, |b| {
        let cluster = cluster.get_or_insert_with(|| Cluster::<P>::open(n, kind, load.clone()));
        b.iter_custom(|commands| cluster.execute(commands));
    });
    cluster.iter_mut().for_each(Cluster::come_to_rest);
}

fn measure_all(group: &mut BenchmarkGroup<'_, WallTime>, sizes: (usize, Clients), load: &Load) {
    measure::<EPaxos>(group, EPaxos::NAME, sizes, load);
    measure::<MultiPaxos>(group, MultiPaxos::NAME, sizes, load);
    measure::<FastPaxos>(group, FastPaxos::NAME, sizes, load);
    measure::<Paxos>(group, Paxos::NAME, sizes, load);
}

/// The work that no protocol can save: the commands are made and executed at all replicas.
fn measure_no_agreement(group: &mut BenchmarkGroup<'_, WallTime>, n: usize, load: &Load) {
    let mut appliers: Vec<Applier<Kv>> = (0..n).map(|_| Applier::new(Kv::new())).collect();
    let mut asked = 0;
    let at = ReplicaId::from_index(0);
    let command = |number: u64| {
        let command = load.command(number);
        Command {
            request: RequestId::new(ClientId(1), number + 1),
            floor: number + 1,
            origin: at,
            footprint: Kv::footprint(&command),
            payload: encode(&command).expect("plain data"),
        }
    };
    group.bench_function("no_agreement", |b| {
        b.iter_custom(|commands| {
            let (goal, start) = (asked + commands, Stopwatch::start());
            while asked < goal {
                let more = (goal - asked).min(WINDOW as u64);
                let batch = Batch::new((asked..asked + more).map(command).collect());
                for (index, applier) in appliers.iter_mut().enumerate() {
                    for command in batch.commands() {
                        let asked = command.origin.index() == index;
                        assert!(applier.apply(command, asked).first, "each is new");
                    }
                }
                asked += more;
            }
            start.elapsed()
        });
    });
}

/// Which protocol does the least work for a command when many are under way and none conflict? By
/// the number of replicas and by the size of the value.
fn windows(c: &mut Criterion) {
    let answers = "CPU of all replicas for a command, by protocol, 64 under way at each replica";
    for (name, n, bytes) in [
        ("protocols/window", 3, 16),
        ("protocols/window_5_replicas", 5, 16),
        ("protocols/window_1KiB", 3, 1024),
    ] {
        let answers = format!("{answers}; {n} replicas, {bytes} B");
        let mut group = group(c, name, &answers, Pace::PART);
        let load = Load::new(0, bytes);
        measure_no_agreement(&mut group, n, &load);
        measure_all(&mut group, (n, Clients::Window), &load);
        group.finish();
    }
}

/// What does a command cost if it shares nothing with others: its own messages, votes and turns?
fn one(c: &mut Criterion) {
    let answers = "CPU of all replicas for a command that is alone, by protocol; 3 replicas, 16 B";
    let mut group = group(c, "protocols/one_at_a_time", answers, Pace::PART);
    measure_all(&mut group, (3, Clients::One), &Load::new(0, 16));
    group.finish();
}

/// What do conflicts cost EPaxos, and when does a protocol with a leader do less work?
fn conflicts(c: &mut Criterion) {
    let answers = "CPU of all replicas for a command, by the share that writes one hot key";
    let mut group = group(c, "protocols/conflicts", answers, Pace::PART);
    for percent in [2, 25, 100] {
        let load = Load::new(percent, 16);
        let name = |name: &str, n: usize| format!("{name}_{n}/{percent}%");
        let window = |n| (n, Clients::Window);
        measure::<EPaxos>(&mut group, &name(EPaxos::NAME, 3), window(3), &load);
        measure::<EPaxos>(&mut group, &name(EPaxos::NAME, 5), window(5), &load);
        measure::<MultiPaxos>(&mut group, &name(MultiPaxos::NAME, 3), window(3), &load);
    }
    group.finish();
}

/// The ratios between the protocols, with their spread in the same run.
fn ratios(c: &mut Criterion) {
    for (name, kind) in [("window", Clients::Window), ("one_at_a_time", Clients::One)] {
        let name = format!("protocols/ratios_{name}");
        let answers = "the protocols in alternating rounds: CPU for a command as ratios";
        compare(c, &name, answers, Pace::LARGE.measured_for(5), || {
            vec![
                side::<EPaxos>(kind),
                side::<MultiPaxos>(kind),
                side::<FastPaxos>(kind),
                side::<Paxos>(kind),
            ]
        });
    }
}

fn side<P: Protocol + 'static>(kind: Clients) -> (&'static str, Box<dyn Side>) {
    (P::NAME, Box::new(Cluster::<P>::open(3, kind, Load::new(0, 16))))
}

impl<P: Protocol> Side for Cluster<P> {
    fn run(&mut self) -> (u64, Duration) {
        const COMMANDS: u64 = 2_000;
        (COMMANDS, self.execute(COMMANDS))
    }

    fn check(&mut self) {
        self.come_to_rest();
    }
}

criterion_group!(benches, windows, one, conflicts, ratios);
criterion_main!(benches);
