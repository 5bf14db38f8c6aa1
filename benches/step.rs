//! What a command costs a replica's core, without network, disk, codec and state machine.
//!
//! Three or five cores in one thread exchange messages by value. The figure is for all of them
//! together, so divide by the number of replicas for the mean one. Groups: `step/n=…` by the share
//! of commands on one hot key, with one command or 64 an instance.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use isonomy::protocol::Protocol;
use isonomy::protocol::epaxos::{EPaxos, Message, Record};
use isonomy::replica::{Core, Input, Limits, Output, PeerMessage};
use isonomy::types::{
    ClientId, Command, Durable, Footprint, LogPosition, Optimisations, Quorums, ReplicaId,
    RequestId, Retention, Settings, Time, Timing,
};

struct Cluster {
    cores: Vec<Core<EPaxos>>,
    records: Vec<u64>,
    network: VecDeque<(ReplicaId, ReplicaId, PeerMessage<Message>)>,
    out: Output<Message, Record>,
    now: Time,
    sequence: u64,
    executed: usize,
}

impl Cluster {
    fn new(n: usize) -> Cluster {
        let core = |me: ReplicaId| {
            let quorums = Quorums::new(n).expect("a supported size");
            let seed = u64::from(me.number());
            let (timing, optimisations) = (Timing::default(), Optimisations::NONE);
            let retention = Retention::default();
            let settings = Settings { me, quorums, seed, timing, optimisations, retention };
            Core::new(settings.clone(), Limits::default(), EPaxos::new(settings))
        };
        Cluster {
            cores: ReplicaId::all(n).map(core).collect(),
            records: vec![0; n],
            network: VecDeque::new(),
            out: Output::default(),
            now: Time::ZERO,
            sequence: 0,
            executed: 0,
        }
    }

    fn step(&mut self, me: ReplicaId, inputs: impl IntoIterator<Item = Input<Message>>) {
        let core = &mut self.cores[me.index()];
        core.step(self.now, inputs, &mut self.out);
        loop {
            let written = self.out.records.len() as u64;
            self.records[me.index()] += written;
            for (to, message) in self.out.messages.drain(..) {
                self.network.extend(to.iter().map(|to| (me, to, message.clone())));
            }
            let executed = self.out.execute.iter().map(|e| e.batch.commands().len());
            self.executed += executed.sum::<usize>();
            self.out.clear();
            if written == 0 {
                return;
            }
            let position = LogPosition::new(self.records[me.index()]);
            core.step(self.now, [Input::Durable(Durable::flushed(position))], &mut self.out);
        }
    }

    /// Every replica is handed `batch` commands at once, and everything runs to the end.
    fn round(&mut self, batch: usize, hot_percent: u64) {
        for at in ReplicaId::all(self.cores.len()) {
            let mut commands = Vec::with_capacity(batch);
            for _ in 0..batch {
                self.sequence += 1;
                let hot = self.sequence * 7919 % 100 < hot_percent;
                let key = if hot { 0 } else { self.sequence % 100_000 + 1 };
                commands.push(Input::Propose(Command {
                    request: RequestId::new(ClientId(1), self.sequence),
                    floor: 0,
                    origin: at,
                    footprint: Footprint::write(&key.to_le_bytes()),
                    payload: Bytes::from_static(b"0123456789abcdef"),
                }));
            }
            self.step(at, commands);
        }
        while let Some((from, to, message)) = self.network.pop_front() {
            self.step(to, [Input::Peer { from, message }]);
        }
        self.now = self.now + Duration::from_millis(2);
        for at in ReplicaId::all(self.cores.len()) {
            self.step(at, [Input::Tick]);
        }
    }
}

fn bench(c: &mut Criterion) {
    for n in [3, 5] {
        let mut group = c.benchmark_group(format!("step/n={n}"));
        for (batch, hot) in [(1, 0), (64, 0), (64, 25), (64, 100)] {
            group.throughput(Throughput::Elements((batch * n) as u64));
            let mut cluster = Cluster::new(n);
            cluster.round(batch, hot);
            assert!(cluster.executed > 0, "a round executes something");
            group.bench_function(format!("{batch} a batch, {hot}% hot"), |b| {
                b.iter(|| cluster.round(batch, hot));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
