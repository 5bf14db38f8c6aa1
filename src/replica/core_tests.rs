//! Replicas on a perfect network: how the normal case goes.

use bytes::Bytes;

use super::{Core, Execution, Input, Limits, Output, PeerMessage, Rejection};
use crate::protocol::Protocol;
use crate::protocol::epaxos::{EPaxos, Message, Path, Record};
use crate::types::{
    Ballot, ClientId, Command, Durable, Footprint, InstanceId, LogPosition, Optimisations, Quorums,
    ReplicaId, ReplicaSet, RequestId, Retention, Settings, Time, Timing,
};
use std::collections::VecDeque;
use std::time::Duration;

pub(super) type Out = Output<Message, Record>;

/// A cluster whose messages arrive in order, one step at a time. Disks are instant, except the one
/// in `held`.
pub(super) struct Cluster {
    pub(super) cores: Vec<Core<EPaxos>>,
    pub(super) network: VecDeque<(ReplicaId, ReplicaId, PeerMessage<Message>)>,
    /// What each replica has appended in all its lives, and how much of it is on disk.
    pub(super) logs: Vec<Vec<crate::replica::Record<Record>>>,
    pub(super) flushed: Vec<usize>,
    pub(super) held: Option<ReplicaId>,
    /// The replicas that receive but do not send.
    pub(super) away: ReplicaSet,
    pub(super) executed: Vec<Vec<Execution>>,
    rejected: Vec<(RequestId, Rejection)>,
    pub(super) now: Time,
}

impl Cluster {
    pub(super) fn core(me: ReplicaId, n: usize, limits: Limits) -> Core<EPaxos> {
        Cluster::core_with(me, n, limits, Timing::default())
    }

    fn core_with(me: ReplicaId, n: usize, limits: Limits, timing: Timing) -> Core<EPaxos> {
        let settings = Settings {
            me,
            quorums: Quorums::new(n).expect("a supported size"),
            seed: u64::from(me.number()),
            timing,
            optimisations: Optimisations::NONE,
            retention: Retention::default(),
            leases: true,
        };
        Core::new(settings.clone(), limits, EPaxos::new(settings))
    }

    pub(super) fn new(n: usize, limits: Limits) -> Cluster {
        let core = |me| Cluster::core(me, n, limits);
        Cluster {
            cores: ReplicaId::all(n).map(core).collect(),
            network: VecDeque::new(),
            logs: vec![Vec::new(); n],
            flushed: vec![0; n],
            held: None,
            away: ReplicaSet::EMPTY,
            executed: vec![Vec::new(); n],
            rejected: Vec::new(),
            now: Time::ZERO,
        }
    }

    pub(super) fn step(&mut self, me: ReplicaId, input: Input<Message>) {
        let mut inputs = vec![input];
        while !inputs.is_empty() {
            let mut out = Out::default();
            self.cores[me.index()].step(self.now, inputs.drain(..), &mut out);
            let written = !out.records.is_empty();
            self.logs[me.index()].append(&mut out.records);
            if written && self.held != Some(me) {
                inputs.push(self.durable(me));
            }
            for (to, message) in out.messages {
                let heard = to.iter().filter(|to| {
                    let away = self.away;
                    !away.contains(me) && !away.contains(*to)
                });
                self.network.extend(heard.map(|to| (me, to, message.clone())));
            }
            self.executed[me.index()].extend(out.execute);
            self.rejected.extend(out.rejected);
        }
    }

    /// The replica's disk finishes all appended records.
    pub(super) fn durable(&mut self, me: ReplicaId) -> Input<Message> {
        self.flushed[me.index()] = self.logs[me.index()].len();
        Input::Durable(self.end(me.index()))
    }

    /// The end of its log, all of it durable.
    pub(super) fn end(&self, at: usize) -> Durable {
        Durable::flushed(LogPosition::new(self.flushed[at] as u64))
    }

    pub(super) fn propose(&mut self, at: usize, sequence: u64, footprint: Footprint) {
        let command = command(at, sequence, footprint, Bytes::from_static(b"x"));
        self.step(command.origin, Input::Propose(command));
    }

    /// Delivers all messages, and those that follow from them.
    pub(super) fn run(&mut self) {
        while let Some((from, to, message)) = self.network.pop_front() {
            self.step(to, Input::Peer { from, message });
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = self.now + Duration::from_millis(10);
            for me in ReplicaId::all(self.cores.len()) {
                self.step(me, Input::Tick);
            }
            self.run();
        }
    }

    /// Stops a replica and restarts it with what was on its disk.
    pub(super) fn restart(&mut self, at: usize) {
        let n = self.cores.len();
        self.logs[at].truncate(self.flushed[at]);
        let mut core = Cluster::core(replica(at), n, Limits::default());
        let mut out = Out::default();
        for record in self.logs[at].clone() {
            core.restore(record, &mut out);
        }
        core.resume(self.now, self.end(at), &mut out);
        self.come_back(at, core, out);
    }

    /// The replica continues as `core`, which has just resumed.
    pub(super) fn come_back(&mut self, at: usize, core: Core<EPaxos>, out: Out) {
        self.cores[at] = core;
        self.executed[at] = out.execute;
        for (to, message) in out.messages {
            self.network.extend(to.iter().map(|to| (replica(at), to, message.clone())));
        }
        assert!(out.records.is_empty(), "it has nothing to write yet");
    }

    pub(super) fn now(&self) -> Time {
        self.now
    }

    pub(super) fn count(&self, path: Path) -> u64 {
        self.cores.iter().map(|core| core.paths().count(path)).sum()
    }
}

#[test]
fn every_size_commits_fast_and_executes_everywhere() {
    for n in 1..=9 {
        let mut cluster = Cluster::new(n, Limits::default());
        assert_eq!(*cluster.cores[0].paths(), EPaxos::paths(), "it shows those not taken, too");
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
    // Both voters answered, so the fast path is taken, but its record is not durable yet.
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
fn without_a_quorum_nothing_new_is_proposed_and_with_one_everything_is() {
    let mut cluster = Cluster::new(3, Limits::default());
    cluster.pass(Duration::from_millis(100));
    // If another owner uses a key, at most two own instances on it are admitted.
    cluster.propose(1, 100, Footprint::write(b"k"));
    cluster.network.retain(|(_, to, _)| *to == replica(0));
    let (from, to, message) = cluster.network.pop_front().expect("its PreAccept");
    cluster.step(to, Input::Peer { from, message });
    cluster.network.clear();
    cluster.away = ReplicaSet::from_iter([replica(1), replica(2)]);
    (1..=9).for_each(|sequence| cluster.propose(0, sequence, Footprint::write(b"k")));
    cluster.pass(Duration::from_millis(1000));
    assert!(cluster.rejected.is_empty(), "a short silence is none");
    let proposed = cluster.cores[0].status().in_flight;
    assert!(proposed > 0 && proposed < 9, "some wait, not {proposed}");
    cluster.pass(Duration::from_millis(1000));
    let refused = cluster.rejected.len();
    assert_eq!(refused, 9 - proposed, "only what was never proposed is turned away");
    assert!(!cluster.cores[0].reach().has_quorum());
    cluster.propose(0, 50, Footprint::write(b"z"));
    assert_eq!(cluster.rejected.len(), refused + 1, "at once");
    assert!(cluster.rejected.iter().all(|(_, why)| *why == Rejection::NoQuorum));
    cluster.away = ReplicaSet::EMPTY;
    cluster.pass(Duration::from_secs(10));
    cluster.propose(0, 51, Footprint::write(b"z"));
    cluster.pass(Duration::from_secs(1));
    assert_eq!(cluster.rejected.len(), refused + 1, "there is one again");
    for executed in &cluster.executed {
        let commands: usize = executed.iter().map(|it| it.batch.commands().len()).sum();
        assert_eq!(commands, proposed + 2);
    }
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

/// The `sequence`-th command of a client at `at`.
pub(super) fn command(at: usize, sequence: u64, footprint: Footprint, payload: Bytes) -> Command {
    let (origin, request) = (replica(at), RequestId::new(ClientId(at as u64), sequence));
    Command { request, floor: 0, origin, footprint, payload }
}

pub(super) fn replica(index: usize) -> ReplicaId {
    ReplicaId::from_index(index)
}

pub(super) fn key(number: u64) -> Footprint {
    Footprint::write(&number.to_le_bytes())
}

impl Cluster {
    /// How far `at` knows the decisions of `owner`.
    fn known(&self, at: usize, owner: usize) -> u64 {
        self.cores[at].protocol().known().slot(replica(owner))
    }

    /// How long until every replica that is not away knows `owner`'s decisions up to `slot`.
    fn time_until_known(&mut self, owner: usize, slot: u64) -> Duration {
        let start = self.now;
        let there = |c: &Cluster, at: &usize| !c.away.contains(replica(*at));
        let all = 0..self.cores.len();
        while !all.clone().filter(|at| there(self, at)).all(|at| self.known(at, owner) >= slot) {
            self.pass(Duration::from_millis(50));
            assert!(self.now.since(start) < Duration::from_secs(300), "it never ends");
        }
        self.now.since(start)
    }
}

#[test]
fn what_a_dead_recovery_took_from_a_live_owner_is_recovered_at_once() {
    // r3 wrongly takes over twenty instances of r1 and fails. No replica suspects r1, and r1 may
    // not continue them itself. Each instance used to wait as long as a live owner's does.
    let mut cluster = Cluster::new(3, Limits::default());
    cluster.pass(Duration::from_millis(200));
    cluster.away.insert(replica(0));
    for sequence in 1..=20 {
        cluster.propose(0, sequence, key(sequence));
    }
    cluster.away = ReplicaSet::EMPTY;
    for slot in 1..=20 {
        let ballot = Ballot::new(1, replica(2)).expect("a recovery's round");
        let recover = Message::Recover { id: InstanceId::new(replica(0), slot), ballot };
        for to in [0, 1] {
            let message = PeerMessage::Protocol(recover.clone());
            cluster.step(replica(to), Input::Peer { from: replica(2), message });
        }
    }
    cluster.away.insert(replica(2));
    cluster.network.clear();
    let took = cluster.time_until_known(0, 20);
    assert!(took < Duration::from_secs(2), "{took:?}");
    cluster.pass(Duration::from_secs(1));
    let commands = cluster.executed[1].iter().map(|e| e.batch.commands().len());
    assert_eq!(commands.sum::<usize>(), 20, "proposed again, each executed");
}

#[test]
fn a_replica_that_missed_much_catches_up_as_fast_as_it_is_answered() {
    let mut cluster = Cluster::new(3, Limits::default());
    cluster.pass(Duration::from_millis(200));
    cluster.away.insert(replica(2));
    for sequence in 1..=5000 {
        cluster.propose(0, sequence, key(sequence));
        cluster.run();
    }
    cluster.away = ReplicaSet::EMPTY;
    let took = cluster.time_until_known(0, 5000);
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[test]
fn a_dead_owners_instances_are_recovered_window_after_window() {
    let mut cluster = Cluster::new(5, Limits::default());
    cluster.pass(Duration::from_secs(1));
    for sequence in 1..=1000 {
        cluster.propose(0, sequence, key(sequence));
    }
    // The proposals arrive; the answers do not.
    cluster.network.retain(|(from, _, _)| *from == replica(0));
    let proposals = std::mem::take(&mut cluster.network);
    cluster.away.insert(replica(0));
    for (from, to, message) in proposals {
        cluster.step(to, Input::Peer { from, message });
    }
    let took = cluster.time_until_known(0, 1000);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(cluster.count(Path::RecoverValidate) >= 900, "they may have been fast");
}

#[test]
fn what_is_kept_for_an_absent_member_has_a_limit() {
    let limits = Limits { kept_bytes: 100_000, ..Limits::default() };
    let mut cluster = Cluster::new(3, limits);
    cluster.away.insert(replica(2));
    for sequence in 1..=1000 {
        cluster.propose(0, sequence, key(sequence));
        cluster.run();
    }
    let full = cluster.rejected.iter().filter(|(_, why)| *why == Rejection::Full).count();
    assert!(full > 500, "{full} were turned away");
    cluster.away = ReplicaSet::EMPTY;
    cluster.pass(Duration::from_secs(3));
    let before = cluster.rejected.len();
    cluster.propose(0, 1001, key(1));
    assert_eq!(cluster.rejected.len(), before, "it came back, and all is forgotten");
    let sizes = cluster.cores[0].protocol().footprint();
    assert!(sizes.instances == 1 && sizes.bytes < 1000, "{sizes:?}");
}

#[test]
fn one_committed_interference_is_enough_of_an_answer() {
    let mut cluster = Cluster::new(5, Limits::default());
    cluster.away.insert(replica(0));
    cluster.away.insert(replica(1));
    for sequence in 1..=100 {
        cluster.propose(3, sequence, Footprint::write(b"k"));
        cluster.pass(Duration::from_millis(10));
    }
    // r1.1 reached only r2; r2 recovers it without r1, once it can hear the others.
    cluster.away = ReplicaSet::EMPTY;
    cluster.propose(0, 1, Footprint::write(b"k"));
    cluster.network.retain(|(_, to, _)| *to == replica(1));
    cluster.away.insert(replica(0));
    let proposals = std::mem::take(&mut cluster.network);
    for (from, to, message) in proposals {
        cluster.step(to, Input::Peer { from, message });
    }
    let ballot = Ballot::new(1, replica(1)).expect("a recovery's round");
    let id = InstanceId::new(replica(0), 1);
    let recover = PeerMessage::Protocol(Message::Recover { id, ballot });
    cluster.step(replica(3), Input::Peer { from: replica(1), message: recover });
    cluster.network.clear();
    let (batch, deps) = (cluster.executed[3][0].batch.clone(), crate::types::Deps::none(5));
    let validate = PeerMessage::Protocol(Message::Validate { id, ballot, batch, deps });
    cluster.step(replica(3), Input::Peer { from: replica(1), message: validate });
    let reported = cluster.network.iter().find_map(|(_, _, message)| match message {
        PeerMessage::Protocol(Message::ValidateOk { interfering, .. }) => Some(interfering.len()),
        _ => None,
    });
    assert_eq!(reported, Some(1), "a hundred are committed without it");
}

#[test]
fn a_recovery_whose_quorum_lost_a_member_finds_another() {
    // r1 recovers r3's proposal from its own vote and r2's. r2 fails before it answers Validate,
    // and r3 is back. The recovery used to ask r2 for as long as its back-off, which was a minute
    // if round trips had been long when it began (the simulator's seed 2004856).
    let mut cluster = Cluster::new(3, Limits::default());
    let timing = Timing { retransmit: Duration::from_secs(10), ..Timing::default() };
    for me in ReplicaId::all(3) {
        cluster.cores[me.index()] = Cluster::core_with(me, 3, Limits::default(), timing.clone());
    }
    cluster.pass(Duration::from_millis(200));
    cluster.propose(2, 1, key(1));
    let proposals = std::mem::take(&mut cluster.network);
    cluster.away.insert(replica(2));
    for (from, to, message) in proposals {
        cluster.step(to, Input::Peer { from, message });
    }
    let is_validate = |(_, _, message): &(_, _, PeerMessage<Message>)| {
        matches!(message, PeerMessage::Protocol(Message::Validate { .. }))
    };
    while !cluster.network.iter().any(is_validate) {
        if let Some((from, to, message)) = cluster.network.pop_front() {
            cluster.step(to, Input::Peer { from, message });
            continue;
        }
        cluster.now = cluster.now + Duration::from_millis(10);
        ReplicaId::all(3).for_each(|me| cluster.step(me, Input::Tick));
    }
    cluster.away = ReplicaSet::from_iter([replica(1)]);
    cluster.network.clear();
    let took = cluster.time_until_known(2, 1);
    assert!(took < Duration::from_secs(3), "{took:?}");
}
