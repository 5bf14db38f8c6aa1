//! The cost of a command for a replica's core, without network, disk, codec and state machine. It
//! is for changes to the protocol, to admission or to the execution order. For the other protocols,
//! and the costs of clients and the state machine, see `protocols.rs`.
//!
//! Three or five cores in one thread exchange messages by value. The figure is for all cores
//! together. Divide it by the number of replicas to get the mean.

mod common;

use bytes::Bytes;
use common::cores::Cores;
use common::{Pace, group};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use isonomy::internals::protocol::epaxos::EPaxos;
use isonomy::types::{ClientId, Command, Footprint, ReplicaId, RequestId};

struct Cluster {
    n: usize,
    cores: Cores<EPaxos>,
    sequence: u64,
    /// The number of executions at all replicas together.
    executed: u64,
}

impl Cluster {
    /// Hands `batch` commands at once to every replica, and runs until all are executed.
    fn round(&mut self, batch: usize, hot_percent: u64) {
        for at in ReplicaId::all(self.n) {
            for _ in 0..batch {
                self.sequence += 1;
                let hot = self.sequence * 7919 % 100 < hot_percent;
                let key = if hot { 0 } else { self.sequence % 100_000 + 1 };
                let command = Command {
                    request: RequestId::new(ClientId(1), self.sequence),
                    floor: 0,
                    origin: at,
                    footprint: Footprint::write(&key.to_le_bytes()),
                    payload: Bytes::from_static(b"0123456789abcdef"),
                };
                self.cores.propose(at, command);
            }
        }
        let all = self.sequence * self.n as u64;
        while self.executed < all {
            let executed = &mut self.executed;
            self.cores.turn(|_, execution| *executed += execution.batch.commands().len() as u64);
        }
        assert_eq!(self.executed, all, "each once at each replica");
    }
}

/// Where does a core's time go: into instances (1 command per batch), into commands (64 per batch),
/// or into their conflicts (hot)?
fn bench(c: &mut Criterion) {
    for n in [3, 5] {
        let answers = "EPaxos alone, a command at all cores: by commands a batch and hot commands";
        let mut group = group(c, &format!("step/n={n}"), answers, Pace::PART);
        for (batch, hot) in [(1, 0), (64, 0), (64, 25), (64, 100)] {
            group.throughput(Throughput::Elements((batch * n) as u64));
            let mut cluster = Cluster { n, cores: Cores::new(n), sequence: 0, executed: 0 };
            group.bench_function(format!("{batch} a batch, {hot}% hot"), |b| {
                b.iter(|| cluster.round(batch, hot));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
