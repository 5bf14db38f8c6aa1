//! The replica around a protocol that agrees on one sequence. The protocol is a small fake: the
//! first replica decides the order, and never fails.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::core_tests::{command, key, replica};
use super::{Core, Input, Limits, Output, PeerMessage};
use crate::protocol::{Effects, Paths, Protocol, View};
use crate::types::{
    Batch, Command, Decision, Deps, Durable, Executed, ExecutionOrder, Footprint, InstanceId,
    LogPosition, Optimisations, Quorums, ReplicaId, ReplicaSet, Retention, Settings, Slot, Time,
    Timing, Value,
};

/// The messages of the fake protocol: a proposal, and the value of a slot.
#[derive(Clone, PartialEq, Debug)]
enum Say {
    Propose(InstanceId, Arc<Batch>),
    Decide(Decision),
    /// Tells a proposer that its proposals failed.
    Back(Vec<Command>),
}

type Fx = Effects<Say, Decision>;
type Out = Output<Say, Decision>;

struct Sequence {
    me: ReplicaId,
    n: usize,
    proposed: u64,
    decided: Slot,
}

impl Sequence {
    fn decide(&mut self, proposal: InstanceId, value: Value, fx: &mut Fx) {
        self.decided += 1;
        let id = InstanceId::new(InstanceId::LOG, self.decided);
        let decision = Decision { id, proposal, value, deps: Deps::none(self.n) };
        let written = fx.append(decision.clone());
        fx.send(written, ReplicaSet::all(self.n), Say::Decide(decision));
    }
}

impl Protocol for Sequence {
    type Message = Say;
    type Record = Decision;
    type Snapshot = ();

    const NAME: &'static str = "sequence";
    const ORDER: ExecutionOrder = ExecutionOrder::Log;

    fn paths() -> Paths {
        Paths::default()
    }

    fn new(settings: Settings) -> Sequence {
        Sequence { me: settings.me, n: settings.quorums.n, proposed: 0, decided: 0 }
    }

    fn propose(&mut self, _: &View, batch: Arc<Batch>, fx: &mut Fx) -> InstanceId {
        self.proposed += 1;
        let name = InstanceId::new(self.me, self.proposed);
        fx.answer(fx.everything(), InstanceId::LOG, Say::Propose(name, batch));
        name
    }

    fn on_message(&mut self, _: &View, _: ReplicaId, message: Say, fx: &mut Fx) {
        match message {
            Say::Propose(name, batch) => self.decide(name, Value::Batch(batch), fx),
            Say::Decide(decision) => {
                if decision.proposal.replica == self.me {
                    fx.own_commits.push((decision.proposal, true));
                }
                fx.decide(fx.everything(), decision);
            }
            Say::Back(mut commands) => fx.returned.append(&mut commands),
        }
    }

    fn on_tick(&mut self, _: &View, _: &mut Fx) {}

    fn snapshot(&self, _: &Executed) -> ((), Vec<Decision>) {
        ((), Vec::new())
    }

    fn on_snapshot(&mut self, _: &Executed) {}

    fn restore_snapshot(&mut self, (): (), executed: &Executed) {
        self.decided = executed.floor().slot(InstanceId::LOG);
    }

    fn restore(&mut self, decision: Decision, fx: &mut Fx) {
        self.decided = self.decided.max(decision.id.slot);
        fx.decide(fx.everything(), decision);
    }

    fn may_install(&self, executed: &Executed, here: &Executed) -> bool {
        executed.includes(here)
    }

    fn install(&mut self, _: &View, (): (), _: &Executed, _: &mut Fx) {}

    fn resume(&mut self, _: &View, _: &mut Fx) {}

    fn kept_bytes(&self) -> usize {
        0
    }

    fn on_executed(&mut self, _: &Deps) {}

    fn read_point(&self, _: &View) -> Option<Slot> {
        (self.me == InstanceId::LOG).then_some(self.decided)
    }
}

/// Three replicas with instant disks, and a network that delivers on demand.
struct Three {
    cores: Vec<Core<Sequence>>,
    network: VecDeque<(ReplicaId, ReplicaId, PeerMessage<Say>)>,
    logs: [Vec<crate::replica::Record<Decision>>; 3],
    /// The replica whose disk is slow.
    slow: Option<usize>,
    executed: [Vec<(Slot, u64)>; 3],
    /// The sequence of each read, and how many commands were executed before it.
    reads: [Vec<(u64, usize)>; 3],
}

fn core(at: usize) -> Core<Sequence> {
    let settings = Settings {
        me: replica(at),
        quorums: Quorums::new(3).expect("a supported size"),
        seed: 0,
        timing: Timing::default(),
        optimisations: Optimisations::NONE,
        retention: Retention::default(),
        leases: true,
    };
    Core::new(settings.clone(), Limits::default(), Sequence::new(settings))
}

impl Three {
    fn new() -> Three {
        Three {
            cores: (0..3).map(core).collect(),
            network: VecDeque::new(),
            logs: Default::default(),
            slow: None,
            executed: Default::default(),
            reads: Default::default(),
        }
    }

    fn step(&mut self, at: usize, inputs: Vec<Input<Say>>) {
        let mut out = Out::default();
        self.cores[at].step(Time::ZERO, inputs, &mut out);
        self.follow(at, out);
    }

    fn follow(&mut self, at: usize, mut out: Out) {
        let written = !out.records.is_empty();
        self.logs[at].append(&mut out.records);
        for (to, message) in out.messages {
            self.network.extend(to.iter().map(|to| (replica(at), to, message.clone())));
        }
        for execution in out.execute {
            assert!(execution.ends_component && execution.id.replica == InstanceId::LOG);
            let commands = execution.batch.commands().iter();
            let slot = execution.id.slot;
            self.executed[at].extend(commands.map(|command| (slot, command.request.sequence)));
        }
        let before = self.executed[at].len();
        self.reads[at].extend(out.reads.iter().map(|read| (read.request.sequence, before)));
        if written && self.slow != Some(at) {
            self.flush(at);
        }
    }

    fn flush(&mut self, at: usize) {
        let end = self.cores[at].log_end();
        self.step(at, vec![Input::Durable(Durable::flushed(end))]);
    }

    fn ask(&mut self, at: usize, sequences: std::ops::RangeInclusive<u64>, footprint: &Footprint) {
        let asked = sequences
            .map(|sequence| Input::Propose(command(at, sequence, footprint.clone(), Bytes::new())));
        self.step(at, asked.collect());
    }

    fn hear(&mut self, at: usize, message: Say) {
        let from = replica((at + 1) % 3);
        self.step(at, vec![Input::Peer { from, message: PeerMessage::Protocol(message) }]);
    }

    fn run(&mut self) {
        while let Some((from, to, message)) = self.network.pop_front() {
            self.step(to.index(), vec![Input::Peer { from, message }]);
        }
    }

    fn in_flight(&self, at: usize) -> usize {
        self.cores[at].status().in_flight
    }
}

fn decision(slot: Slot, proposal: InstanceId, sequence: u64) -> Decision {
    let value = Value::Batch(Batch::new(vec![command(2, sequence, key(sequence), Bytes::new())]));
    let id = InstanceId::new(InstanceId::LOG, slot);
    Decision { id, proposal, value, deps: Deps::none(3) }
}

#[test]
fn what_comes_together_is_one_proposal_and_all_execute_in_the_same_order() {
    let mut three = Three::new();
    three.ask(1, 1..=3, &key(1));
    three.ask(2, 4..=4, &key(1));
    assert_eq!((three.in_flight(1), three.in_flight(2)), (3, 1));
    three.run();
    assert_eq!(three.executed[0], [(1, 1), (1, 2), (1, 3), (2, 4)]);
    assert!(three.executed.iter().all(|executed| *executed == three.executed[0]));
    assert_eq!((three.in_flight(1), three.in_flight(2)), (0, 0));
    assert_eq!(three.cores[1].status().executed, Deps::from_slots([2, 0, 0]));
}

#[test]
fn a_gap_is_waited_for_and_named() {
    let mut three = Three::new();
    three.ask(2, 1..=1, &key(1));
    let own = InstanceId::new(replica(2), 1);
    three.hear(2, Say::Decide(decision(3, own, 1)));
    let third = InstanceId::new(InstanceId::LOG, 3);
    let first = InstanceId::new(InstanceId::LOG, 1);
    assert_eq!(three.cores[2].waits_for(third), Some(first));
    assert_eq!((three.in_flight(2), three.executed[2].len()), (1, 0));
    let other = |slot| InstanceId::new(replica(1), slot);
    three.hear(2, Say::Decide(decision(2, other(2), 8)));
    let nop = Decision { value: Value::Nop, ..decision(1, other(1), 9) };
    three.hear(2, Say::Decide(nop));
    assert_eq!((three.in_flight(2), &three.executed[2][..]), (0, &[(2, 8), (3, 1)][..]));
}

#[test]
fn what_came_to_nothing_is_proposed_again_under_another_name() {
    let mut three = Three::new();
    three.ask(2, 1..=2, &key(1));
    let Some((_, _, PeerMessage::Protocol(Say::Propose(name, batch)))) = three.network.pop_front()
    else {
        panic!("a proposal is on its way");
    };
    three.hear(2, Say::Back(batch.commands().to_vec()));
    assert_eq!(three.in_flight(2), 2);
    let again = three.network.iter().map(|(_, _, message)| message);
    let names: Vec<_> = again
        .map(|message| match message {
            PeerMessage::Protocol(Say::Propose(again, _)) => *again,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, [InstanceId::new(replica(2), name.slot + 1)]);
    three.run();
    assert_eq!((three.in_flight(2), three.executed[2].len()), (0, 2));
}

#[test]
fn a_read_is_not_proposed_where_there_is_a_point_to_read_at() {
    let (mut three, read) = (Three::new(), Footprint::read(b"k"));
    three.ask(0, 1..=1, &read);
    assert_eq!(three.reads[0], [(1, 0)], "nothing was ever decided");
    three.ask(1, 2..=2, &read);
    three.run();
    assert_eq!(three.executed[0], [(1, 2)], "another replica proposes it");

    // Decided but not durable: only this read waits for it.
    three.slow = Some(0);
    three.ask(0, 3..=3, &key(1));
    three.ask(0, 4..=4, &read);
    assert_eq!((three.reads[0].len(), three.cores[0].status().waiting), (1, 1));
    three.flush(0);
    assert_eq!(three.reads[0][1..], [(4, 2)]);
    assert_eq!(three.cores[0].status().waiting, 0);
    let log = three.logs[0].iter();
    let logged: usize =
        log.filter_map(|it| it.protocol()?.value.batch()).map(|it| it.commands().len()).sum();
    assert_eq!(logged, 2, "reads leave nothing in the log");
}

#[test]
fn after_an_install_what_may_be_inside_is_proposed_again() {
    let mut three = Three::new();
    (1..=3).for_each(|sequence| three.ask(2, sequence..=sequence, &key(sequence)));
    three.network.clear();
    let own = |slot| InstanceId::new(replica(2), slot);
    // The second is known to be decided after the snapshot.
    three.hear(2, Say::Decide(decision(9, own(2), 2)));
    let executed = Executed::up_to(Deps::from_slots([7, 0, 0]));
    let mut out = Out::default();
    assert!(three.cores[2].install(Time::ZERO, (), &executed, &mut out));
    three.follow(2, out);
    three.step(2, vec![Input::Tick]);
    let proposals = three.network.iter().filter_map(|(_, _, message)| match message {
        PeerMessage::Protocol(Say::Propose(name, batch)) => {
            let sequences = batch.commands().iter().map(|command| command.request.sequence);
            Some((name.slot, sequences.collect::<Vec<_>>()))
        }
        _ => None,
    });
    assert_eq!(proposals.collect::<Vec<_>>(), [(4, vec![1, 3])]);
    assert_eq!(three.in_flight(2), 3);
    assert_eq!(three.cores[2].checkpoint().executed, executed);
}

#[test]
fn a_restart_executes_the_log_again() {
    let mut three = Three::new();
    three.ask(0, 1..=2, &key(1));
    three.ask(0, 3..=3, &key(1));
    three.run();
    let mut again = core(0);
    let mut out = Out::default();
    again.restore_snapshot((), &Executed::up_to(Deps::from_slots([1, 0, 0])));
    for record in three.logs[0].clone() {
        again.restore(record, &mut out);
    }
    let end = LogPosition::new(three.logs[0].len() as u64);
    again.resume(Time::ZERO, Durable::flushed(end), &mut out);
    let slots: Vec<Slot> = out.execute.iter().map(|execution| execution.id.slot).collect();
    assert_eq!(slots, [2], "the first is in the snapshot");
    assert_eq!(again.status().in_flight, 0);
}
