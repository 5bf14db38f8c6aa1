//! Replicas on a perfect network: the shape of the normal case.

use bytes::Bytes;

use super::{Core, Execution, Input, Limits, Output, PeerMessage, Rejection};
use crate::protocol::Path;
use crate::protocol::epaxos::{EPaxos, Message, Record};
use crate::types::{
    ClientId, Command, Durable, Footprint, LogPosition, Quorums, ReplicaId, RequestId, Settings,
    Time, Timing,
};
use std::collections::VecDeque;
use std::time::Duration;

type Out = Output<Message, Record>;

/// A cluster whose messages arrive in order, one step at a time, and whose disks are instant
/// unless `held`.
struct Cluster {
    cores: Vec<Core<EPaxos>>,
    network: VecDeque<(ReplicaId, ReplicaId, PeerMessage<Message>)>,
    records: Vec<u64>,
    held: Option<ReplicaId>,
    executed: Vec<Vec<Execution>>,
    rejected: Vec<(RequestId, Rejection)>,
    now: Time,
}

impl Cluster {
    fn new(n: usize, limits: Limits) -> Cluster {
        let core = |me| {
            let settings = Settings {
                me,
                quorums: Quorums::new(n).expect("a supported size"),
                seed: u64::from(me.number()),
                timing: Timing::default(),
            };
            Core::new(settings.clone(), limits, EPaxos::new(settings))
        };
        Cluster {
            cores: ReplicaId::all(n).map(core).collect(),
            network: VecDeque::new(),
            records: vec![0; n],
            held: None,
            executed: vec![Vec::new(); n],
            rejected: Vec::new(),
            now: Time::ZERO,
        }
    }

    fn step(&mut self, me: ReplicaId, input: Input<Message>) {
        let mut inputs = vec![input];
        while !inputs.is_empty() {
            let mut out = Out::default();
            self.cores[me.index()].step(self.now, inputs.drain(..), &mut out);
            let written = !out.records.is_empty();
            self.records[me.index()] += out.records.len() as u64;
            if written && self.held != Some(me) {
                inputs.push(self.durable(me));
            }
            for (to, message) in out.messages {
                self.network.extend(to.iter().map(|to| (me, to, message.clone())));
            }
            self.executed[me.index()].extend(out.execute);
            self.rejected.extend(out.rejected);
        }
    }

    fn durable(&self, me: ReplicaId) -> Input<Message> {
        Input::Durable(Durable::flushed(LogPosition::new(self.records[me.index()])))
    }

    fn propose(&mut self, at: usize, sequence: u64, footprint: Footprint) {
        let origin = ReplicaId::from_index(at);
        let command = Command {
            request: RequestId::new(ClientId(at as u64), sequence),
            floor: 0,
            origin,
            footprint,
            payload: Bytes::from_static(b"x"),
        };
        self.step(origin, Input::Propose(command));
    }

    /// Delivers everything, as often as it takes.
    fn run(&mut self) {
        while let Some((from, to, message)) = self.network.pop_front() {
            self.step(to, Input::Peer { from, message });
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = self.now + Duration::from_millis(10);
            for me in ReplicaId::all(self.cores.len()) {
                self.step(me, Input::Tick);
            }
            self.run();
        }
    }

    fn count(&self, path: Path) -> u64 {
        self.cores.iter().map(|core| core.paths().count(path)).sum()
    }
}

#[test]
fn every_size_commits_fast_and_executes_everywhere() {
    for n in 1..=9 {
        let mut cluster = Cluster::new(n, Limits::default());
        for at in 0..n {
            cluster.propose(at, 1, Footprint::write(b"k"));
            cluster.run();
        }
        assert_eq!(cluster.count(Path::FastCommit), n as u64, "n = {n}");
        let order = |index: usize| -> Vec<_> {
            cluster.executed[index].iter().map(|execution| execution.id).collect()
        };
        assert_eq!(order(0).len(), n);
        assert!((1..n).all(|index| order(index) == order(0)), "one order at n = {n}");
    }
}

#[test]
fn concurrent_conflicting_commands_execute_in_one_order() {
    for n in [3, 4, 5, 7] {
        let mut cluster = Cluster::new(n, Limits::default());
        for at in 0..n {
            for sequence in 1..=20 {
                cluster.propose(at, sequence, Footprint::write(b"k"));
            }
        }
        cluster.run();
        cluster.pass(Duration::from_secs(1));
        assert!(cluster.count(Path::SlowPath) > 0, "they met");
        assert_eq!(cluster.count(Path::Recovery), 0, "nobody was suspected");
        let requests = |index: usize| -> Vec<_> {
            let executions = cluster.executed[index].iter();
            executions.flat_map(|e| e.batch.commands()).map(|c| c.request).collect()
        };
        assert_eq!(requests(0).len(), 20 * n);
        assert!((1..n).all(|index| requests(index) == requests(0)), "one order at n = {n}");
    }
}

#[test]
fn nothing_is_said_before_it_is_durable() {
    let mut cluster = Cluster::new(3, Limits::default());
    let owner = ReplicaId::from_index(0);
    cluster.held = Some(owner);
    cluster.propose(0, 1, Footprint::write(b"k"));
    assert!(cluster.network.is_empty(), "the proposal waits for its record");
    let mark = cluster.durable(owner);
    cluster.step(owner, mark);
    assert_eq!(cluster.network.len(), 2);
    cluster.run();
    // Both answered, the fast path is taken, but its record is not durable yet.
    assert_eq!(cluster.count(Path::FastCommit), 1);
    assert!(cluster.executed.iter().all(Vec::is_empty), "nobody may see it");
    let mark = cluster.durable(owner);
    cluster.step(owner, mark);
    cluster.run();
    assert!(cluster.executed.iter().all(|executed| executed.len() == 1));
}

#[test]
fn a_full_replica_turns_clients_away_before_anything_is_proposed() {
    let limits = Limits { commands: 3, ..Limits::default() };
    let mut cluster = Cluster::new(3, limits);
    for sequence in 1..=5 {
        cluster.propose(0, sequence, Footprint::write(b"k"));
    }
    let turned_away: Vec<_> = cluster.rejected.iter().map(|(id, _)| id.sequence).collect();
    assert_eq!(turned_away, [4, 5]);
    cluster.run();
    cluster.pass(Duration::from_millis(50));
    let executed = cluster.executed[1].iter().map(|e| e.batch.commands().len());
    assert_eq!(executed.sum::<usize>(), 3);
    cluster.propose(0, 6, Footprint::write(b"k"));
    assert_eq!(cluster.rejected.len(), 2, "there is room again");
}

#[test]
fn what_all_have_executed_is_forgotten() {
    let mut cluster = Cluster::new(3, Limits::default());
    for sequence in 1..=100 {
        cluster.propose(0, sequence, Footprint::write(format!("{sequence}").as_bytes()));
        cluster.run();
    }
    assert_eq!(cluster.cores[1].protocol().footprint().instances, 100);
    cluster.pass(Duration::from_secs(2));
    for core in &cluster.cores {
        let sizes = core.protocol().footprint();
        assert_eq!((sizes.instances, sizes.keys), (0, 0));
    }
    cluster.propose(1, 1, Footprint::write(b"7"));
    cluster.run();
    assert_eq!(cluster.count(Path::SlowPath), 0, "forgetting costs no round trip");
}
