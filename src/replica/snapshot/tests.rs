//! A restart from a checkpoint and the log after it gives the same as one from the whole log.

use bytes::Bytes;
use proptest::prelude::*;
use std::time::Duration;

use crate::machine::{Applier, Kv, KvCommand, StateMachine, encode};
use crate::protocol::epaxos::{ProtocolSnapshot, Record};
use crate::replica::core_tests::{Cluster, Out, command, replica};
use crate::replica::{Checkpoint, Execution, Input, Limits};
use crate::types::{Executed, InstanceId, ReplicaSet};

/// A checkpoint with the state that belongs to it.
struct Point {
    checkpoint: Checkpoint<ProtocolSnapshot, Record>,
    state: Vec<u8>,
}

struct World {
    cluster: Cluster,
    /// The state with which each replica's present life began.
    base: Vec<Vec<u8>>,
    points: Vec<Option<Point>>,
    proposed: Vec<u64>,
    /// How many restarts began with a checkpoint that had records after it.
    shortened: usize,
}

fn applied(base: &[u8], executions: &[Execution]) -> Applier<Kv> {
    let mut applier = Applier::restore(base).expect("its own state");
    for command in executions.iter().flat_map(|execution| execution.batch.commands()) {
        applier.apply(command, false);
    }
    applier
}

/// The result of a life, as far as a restart has to reproduce it.
fn outcome(
    core: &crate::replica::Core<crate::protocol::epaxos::EPaxos>,
    base: &[u8],
    executions: &[Execution],
) -> (Executed, u64) {
    (core.checkpoint().executed, applied(base, executions).digest())
}

fn ids<'a>(executions: impl Iterator<Item = &'a Execution>) -> Vec<InstanceId> {
    let mut ids: Vec<_> = executions.map(|execution| execution.id).collect();
    ids.sort_unstable();
    ids
}

impl World {
    fn new(n: usize) -> World {
        let fresh = Applier::new(Kv::default()).snapshot();
        World {
            cluster: Cluster::new(n, Limits::default()),
            base: vec![fresh; n],
            points: (0..n).map(|_| None).collect(),
            proposed: vec![0; n],
            shortened: 0,
        }
    }

    fn propose(&mut self, at: usize, act: u8) {
        let key = |which: u8| Bytes::from(vec![b'a' + which % 3]);
        self.proposed[at] += 1;
        let value = Bytes::from(format!("{at}.{}", self.proposed[at]));
        let typed = match act % 5 {
            0 | 1 => KvCommand::Put { key: key(act / 5), value },
            2 => KvCommand::Cas { key: key(act / 5), expected: None, value },
            3 => KvCommand::PutMany {
                entries: vec![(key(act / 5), value.clone()), (key(act / 5 + 1), value)],
            },
            _ => KvCommand::Get { key: key(act / 5) },
        };
        let payload = encode(&typed).expect("it has an encoding");
        let command = command(at, self.proposed[at], Kv::footprint(&typed), payload);
        self.cluster.step(command.origin, Input::Propose(command));
    }

    fn deliver(&mut self, messages: usize) {
        for _ in 0..messages {
            let Some((from, to, message)) = self.cluster.network.pop_front() else { return };
            self.cluster.step(to, Input::Peer { from, message });
        }
    }

    fn checkpoint(&mut self, at: usize) {
        let checkpoint = self.cluster.cores[at].checkpoint();
        let state = applied(&self.base[at], &self.cluster.executed[at]).snapshot();
        self.points[at] = Some(Point { checkpoint, state });
    }

    /// The slow disk finishes all its writes, and is fast from now on.
    fn flush(&mut self) {
        if let Some(slow) = self.cluster.held.take() {
            let mark = self.cluster.durable(slow);
            self.cluster.step(slow, mark);
        }
    }

    /// Stops a replica and restarts it in two ways, which must give the same.
    fn restart(&mut self, at: usize) {
        let n = self.base.len();
        self.cluster.logs[at].truncate(self.cluster.flushed[at]);
        let (log, end) = (self.cluster.logs[at].clone(), self.cluster.end(at));
        let fresh = Applier::new(Kv::default()).snapshot();

        let (mut whole, mut all) =
            (Cluster::core(replica(at), n, Limits::default()), Out::default());
        log.iter().for_each(|record| whole.restore(record.clone(), &mut all));
        whole.resume(self.cluster.now, end, &mut all);

        let durable = |point: &Point| point.checkpoint.position <= end.position();
        // A checkpoint that is not durable is lost; the one before it would be used.
        let Some(point) = self.points[at].take().filter(durable) else {
            self.base[at] = fresh;
            return self.cluster.come_back(at, whole, all);
        };
        let Checkpoint { position, executed, shared, own } = point.checkpoint.clone();
        let (mut short, mut rest) =
            (Cluster::core(replica(at), n, Limits::default()), Out::default());
        short.restore_snapshot(shared, &executed);
        own.into_iter().for_each(|record| short.restore(record, &mut rest));
        let position = usize::try_from(position.records()).expect("a short log");
        log[position..].iter().for_each(|record| short.restore(record.clone(), &mut rest));
        short.resume(self.cluster.now, end, &mut rest);

        let missing = all.execute.iter().filter(|execution| !executed.contains(execution.id));
        assert_eq!(ids(rest.execute.iter()), ids(missing), "at {at}");
        let whole = outcome(&whole, &fresh, &all.execute);
        assert_eq!(outcome(&short, &point.state, &rest.execute), whole, "at {at}");
        self.shortened += usize::from(position > 0 && position < log.len());
        self.base[at].clone_from(&point.state);
        self.points[at] = Some(point);
        self.cluster.come_back(at, short, rest);
    }

    /// All replicas are reachable for a while: all reach the same state.
    fn calm(&mut self) {
        self.flush();
        self.cluster.away = ReplicaSet::EMPTY;
        self.cluster.pass(Duration::from_secs(10));
        let core = |at: usize| &self.cluster.cores[at];
        let outcome = |at: usize| outcome(core(at), &self.base[at], &self.cluster.executed[at]);
        (1..self.base.len()).for_each(|at| assert_eq!(outcome(at), outcome(0), "at {at}"));
        let sessions = applied(&self.base[0], &self.cluster.executed[0]).sessions().len();
        let clients = self.proposed.iter().filter(|proposed| **proposed > 0).count();
        assert!(sessions <= clients);
    }

    fn act(&mut self, act: u8, detail: u8) {
        let n = self.base.len();
        let at = usize::from(detail) % n;
        match act {
            0..=5 => self.propose(at, detail / 7),
            6..=11 => self.deliver(usize::from(detail) % 24),
            12 => self.cluster.pass(Duration::from_millis(u64::from(detail))),
            13 | 14 => self.checkpoint(at),
            15 => self.restart(at),
            16 => {
                self.cluster.network.pop_front();
            }
            17 => {
                self.flush();
                self.cluster.held = Some(replica(at));
            }
            18 => self.flush(),
            // At most one replica is away, so the others make progress.
            _ => self.cluster.away = ReplicaSet::from_iter([replica(at)]),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_checkpoint_and_the_log_behind_it_are_the_whole_log(
        n in prop_oneof![Just(1usize), Just(3), Just(5)],
        acts in proptest::collection::vec((0u8..20, any::<u8>()), 1..120),
    ) {
        let mut world = World::new(n);
        acts.into_iter().for_each(|(act, detail)| world.act(act, detail));
        world.calm();
        (0..n).for_each(|at| world.restart(at));
        world.calm();
    }
}

#[test]
fn such_restarts_happen() {
    let mut world = World::new(3);
    for round in 0..40u8 {
        for act in [0, 6, 0, 12, 13, 0, 6, 15] {
            world.act(act, round.wrapping_mul(37).wrapping_add(act));
        }
    }
    world.calm();
    assert!(world.shortened > 5, "{}", world.shortened);
    assert!(world.cluster.executed.iter().all(|executed| !executed.is_empty()));
}
