//! Installs of another replica's snapshot. The protocol is a small fake that decides what it is
//! told; the tests examine the replica around it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::core_tests::{command, key, replica};
use super::{
    Arrival, Core, Input, Limits, MAX_CHUNK, Output, OwnSnapshot, PeerMessage, SnapshotId, Transfer,
};
use crate::protocol::{Effects, Paths, Protocol, View};
use crate::types::{
    Batch, Command, Decision, Deps, Durable, Executed, ExecutionOrder, Footprint, InstanceId,
    LogPosition, Optimisations, Quorums, ReplicaId, Retention, Settings, Time, Timing, Value,
    Written,
};

/// The messages that drive the fake protocol.
#[derive(Clone, PartialEq, Debug)]
enum Say {
    Learn(InstanceId, Arc<Batch>),
    /// A decision, released when a record is durable, or at once.
    Decide(Decision, bool),
    Need(Deps),
}

type Kept = (Option<Arc<Batch>>, Option<(Decision, Written)>);
type Fx = Effects<Say, u8>;
type Out = Output<Say, u8>;

struct Fake {
    me: ReplicaId,
    proposed: Vec<Arc<Batch>>,
    kept: BTreeMap<InstanceId, Kept>,
    refuses: bool,
    /// How many own snapshots it was told of.
    saved: usize,
}

impl Fake {
    fn emit(&self, fx: &mut Fx, is_out: impl Fn(&InstanceId) -> bool) {
        for (id, (batch, decision)) in self.kept.iter().filter(|(id, _)| is_out(id)) {
            fx.learned.extend(batch.iter().map(|batch| (*id, batch.clone())));
            if let Some((decision, written)) = decision {
                fx.decide(*written, decision.clone());
            }
        }
    }
}

impl Protocol for Fake {
    type Message = Say;
    type Record = u8;
    type Snapshot = ();

    const NAME: &'static str = "fake";
    const ORDER: ExecutionOrder = ExecutionOrder::Dependencies;

    fn paths() -> Paths {
        Paths::default()
    }

    fn new(settings: Settings) -> Fake {
        Fake {
            me: settings.me,
            proposed: Vec::new(),
            kept: BTreeMap::new(),
            refuses: false,
            saved: 0,
        }
    }

    fn propose(&mut self, _: &View, batch: Arc<Batch>, fx: &mut Fx) -> InstanceId {
        self.proposed.push(batch.clone());
        let id = InstanceId::new(self.me, self.proposed.len() as u64);
        self.kept.insert(id, (Some(batch.clone()), None));
        fx.learned.push((id, batch));
        id
    }

    fn on_message(&mut self, _: &View, _: ReplicaId, message: Say, fx: &mut Fx) {
        let id = match message {
            Say::Need(at_least) => return fx.needs_snapshot = Some(at_least),
            Say::Learn(id, batch) => {
                self.kept.insert(id, (Some(batch), None));
                id
            }
            Say::Decide(decision, held) => {
                let written = if held { fx.append(0) } else { Written::default() };
                let (id, batch) = (decision.id, decision.value.batch().cloned());
                self.kept.insert(id, (batch, Some((decision, written))));
                id
            }
        };
        self.emit(fx, |other| *other == id);
    }

    fn on_tick(&mut self, _: &View, _: &mut Fx) {}

    fn snapshot(&self, _: &Executed) -> ((), Vec<u8>) {
        ((), Vec::new())
    }

    fn on_snapshot(&mut self, _: &Executed) {
        self.saved += 1;
    }

    fn restore_snapshot(&mut self, (): (), _: &Executed) {}

    fn restore(&mut self, _: u8, _: &mut Fx) {}

    fn may_install(&self, _: &Executed, _: &Executed) -> bool {
        !self.refuses
    }

    fn install(&mut self, _: &View, (): (), executed: &Executed, fx: &mut Fx) {
        self.emit(fx, |id| !executed.contains(*id));
    }

    fn resume(&mut self, _: &View, _: &mut Fx) {}

    fn kept_bytes(&self) -> usize {
        0
    }

    fn on_executed(&mut self, _: &Deps) {}
}

fn core(me: usize) -> Core<Fake> {
    let settings = Settings {
        me: replica(me),
        quorums: Quorums::new(3).expect("a supported size"),
        seed: 0,
        timing: Timing::default(),
        optimisations: Optimisations::NONE,
        retention: Retention::default(),
        leases: true,
    };
    Core::new(settings.clone(), Limits::default(), Fake::new(settings))
}

fn id(replica: usize, slot: u64) -> InstanceId {
    InstanceId::new(ReplicaId::from_index(replica), slot)
}

fn batch(on: u64) -> Arc<Batch> {
    Batch::new(vec![command(1, 1, key(on), Bytes::new())])
}

fn decision(id: InstanceId, on: u64, deps: [u64; 3]) -> Decision {
    Decision::owned(id, Value::Batch(batch(on)), Deps::from_slots(deps))
}

fn tell(core: &mut Core<Fake>, say: Say) -> Out {
    let (message, from) = (PeerMessage::Protocol(say), replica((core.settings.me.index() + 1) % 3));
    step(core, [Input::Peer { from, message }])
}

fn step<const N: usize>(core: &mut Core<Fake>, inputs: [Input<Say>; N]) -> Out {
    let mut out = Out::default();
    core.step(core.view.now, inputs, &mut out);
    out
}

fn executed(out: &Out) -> Vec<InstanceId> {
    out.execute.iter().map(|execution| execution.id).collect()
}

fn up_to(slots: [u64; 3]) -> Executed {
    Executed::up_to(Deps::from_slots(slots))
}

#[test]
fn what_is_not_in_the_snapshot_is_executed_on_top_and_the_rest_is_not() {
    let mut core = core(0);
    let (k, j) = (1, 2);
    let decisions = [
        (decision(id(1, 1), k, [0, 0, 1]), false),
        (decision(id(2, 1), k, [0, 1, 0]), false),
        (decision(id(1, 2), k, [0, 1, 1]), false),
        (decision(id(2, 2), k, [0, 2, 1]), false),
        // Decided but not yet durable: the first is in the snapshot, the second is not.
        (decision(id(1, 3), j, [0, 2, 1]), true),
        (decision(id(2, 3), j, [0, 3, 2]), true),
    ];
    for (decision, held) in decisions {
        tell(&mut core, Say::Decide(decision, held));
    }
    let here = core.checkpoint().executed;
    assert_eq!(here, up_to([0, 2, 2]));
    let mut out = Out::default();
    assert!(core.install(core.view.now, (), &up_to([0, 3, 1]), &mut out));
    assert_eq!(executed(&out), [id(2, 2)], "in the same step");
    assert_eq!(core.checkpoint().executed, up_to([0, 3, 2]));
    let mark = Durable::flushed(LogPosition::new(2));
    assert_eq!(executed(&step(&mut core, [Input::Durable(mark)])), [id(2, 3)], "once");
    let status = core.status();
    assert_eq!((status.largest_component, status.installed), (2, 1), "it remembers");
    assert_eq!(status.unexecuted, 0);
}

#[test]
fn what_waited_for_something_in_the_snapshot_goes_on() {
    let mut core = core(0);
    let k = 1;
    // 1.1 is unknown here; 2.1 waits for it, and 2.2 for 2.1.
    let waits = [decision(id(2, 1), k, [0, 1, 0]), decision(id(2, 2), k, [0, 1, 1])];
    for decision in waits {
        assert!(tell(&mut core, Say::Decide(decision, false)).execute.is_empty());
    }
    // Neither decided nor in the snapshot: instances that wait for it keep waiting.
    tell(&mut core, Say::Learn(id(2, 3), batch(k)));
    let last = decision(id(1, 2), k, [0, 1, 3]);
    tell(&mut core, Say::Decide(last, false));
    let mut out = Out::default();
    assert!(core.install(core.view.now, (), &up_to([0, 1, 0]), &mut out));
    assert_eq!(executed(&out), [id(2, 1), id(2, 2)]);
    assert_eq!(core.waits_for(id(1, 2)), Some(id(2, 3)));
    let out = tell(&mut core, Say::Decide(decision(id(2, 3), k, [0, 1, 2]), false));
    assert_eq!(executed(&out), [id(2, 3), id(1, 2)]);
}

#[test]
fn a_snapshot_with_holes_is_gone_on_from() {
    let mut core = core(0);
    step(&mut core, [Input::Tick]);
    let mut holes = up_to([0, 3, 0]);
    assert!(holes.extend(replica(1), 5, 1 << 50) && holes.extend(replica(2), 2, 2));
    let mut out = Out::default();
    assert!(core.install(core.view.now, (), &holes, &mut out));
    assert!(out.execute.is_empty());
    let out = tell(&mut core, Say::Decide(decision(id(1, 7), 1, [0, 6, 0]), false));
    assert!(out.execute.is_empty(), "it is in the snapshot");
    // It covers an unknown instance in a hole.
    let out = tell(&mut core, Say::Decide(decision(id(2, 1), 1, [0, 9, 0]), false));
    assert!(out.execute.is_empty());
    let out = tell(&mut core, Say::Decide(decision(id(1, 4), 1, [0, 3, 0]), false));
    assert_eq!(executed(&out), [id(1, 4), id(2, 1)]);
    assert_eq!(core.checkpoint().executed, up_to([0, 1 << 50, 2]));
}

#[test]
fn own_proposals_in_the_snapshot_are_made_again_before_all_others() {
    let mut core = core(0);
    let propose = |core: &mut Core<Fake>, sequence: u64, on: Footprint| {
        step(core, [Input::Propose(command(0, sequence, on, Bytes::new()))]);
    };
    propose(&mut core, 1, key(1));
    propose(&mut core, 2, key(2));
    tell(&mut core, Say::Learn(id(1, 1), batch(3)));
    // Another owner uses the third key: two may be in progress, and the last has to wait.
    (3..=5).for_each(|sequence| propose(&mut core, sequence, key(3)));
    let status = core.status();
    assert_eq!((status.in_flight, status.waiting), (4, 1));
    core.protocol_mut().proposed.clear();
    let mut out = Out::default();
    assert!(core.install(core.view.now, (), &up_to([3, 1, 0]), &mut out));
    let status = core.status();
    assert_eq!((status.in_flight, status.waiting), (1, 4), "0.4 is not in the snapshot");
    step(&mut core, [Input::Tick]);
    let sequences = |batch: &Arc<Batch>| -> Vec<u64> {
        batch.commands().iter().map(|command: &Command| command.request.sequence).collect()
    };
    // The key is used by its owner alone again, with one instance in progress.
    let first = core.protocol_mut().proposed.iter().map(sequences).collect::<Vec<_>>();
    assert_eq!(first.concat()[..2], [1, 2]);
    let later = core.view.now + Duration::from_millis(5);
    core.step(later, [Input::Tick], &mut out);
    let all = core.protocol_mut().proposed.iter().map(sequences).collect::<Vec<_>>().concat();
    assert_eq!(all, [1, 2, 3, 5]);
    assert_eq!((core.status().in_flight, core.status().waiting), (5, 0));
}

/// Three replicas on a perfect network, with drivers that handle snapshots.
struct Drivers {
    cores: Vec<Core<Fake>>,
    network: VecDeque<(ReplicaId, ReplicaId, PeerMessage<Say>)>,
    now: Time,
    /// All snapshots ever taken. It does not matter which replica reads one.
    files: Vec<(OwnSnapshot, Bytes)>,
    incoming: Option<(SnapshotId, Vec<u8>)>,
    /// How many complete snapshots to reject before one is installed.
    reject: usize,
    complete: usize,
}

impl Drivers {
    fn step(&mut self, at: usize, input: Input<Say>) {
        let mut out = Out::default();
        self.cores[at].step(self.now, [input], &mut out);
        self.follow(at, out);
    }

    fn follow(&mut self, at: usize, out: Out) {
        for (to, message) in out.messages {
            self.network.extend(to.iter().map(|to| (replica(at), to, message.clone())));
        }
        if out.snapshot_wanted {
            let executed = self.cores[at].checkpoint().executed;
            let id = SnapshotId(self.files.len() as u64);
            let bytes = Bytes::from(vec![replica(at).number(); 3 * MAX_CHUNK as usize - 5]);
            let own = OwnSnapshot { id, executed, bytes: bytes.len() as u64 };
            self.files.push((own.clone(), bytes));
            self.step(at, Input::Snapshot(own));
        }
        for read in out.snapshot_reads {
            let (_, file) = &self.files[usize::try_from(read.snapshot.0).expect("few")];
            let from = usize::try_from(read.offset).expect("short");
            let bytes = Some(file.slice(from..from + read.bytes as usize));
            self.step(at, Input::SnapshotRead { read, bytes });
        }
        for arrival in out.snapshot_received {
            match arrival {
                Arrival::Begins { snapshot, .. } => self.incoming = Some((snapshot, Vec::new())),
                Arrival::Bytes(bytes) => {
                    self.incoming.as_mut().expect("begun").1.extend_from_slice(&bytes);
                }
                Arrival::GivenUp => self.incoming = None,
                Arrival::Complete => self.take(at),
            }
        }
    }

    fn take(&mut self, at: usize) {
        self.complete += 1;
        let (id, bytes) = self.incoming.take().expect("begun");
        let (own, file) = &self.files[usize::try_from(id.0).expect("few")];
        assert_eq!(&bytes[..], &file[..]);
        if self.complete <= self.reject {
            return self.cores[at].reject_snapshot(self.now);
        }
        let mut out = Out::default();
        self.cores[at].install(self.now, (), &own.executed.clone(), &mut out);
        self.follow(at, out);
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = self.now + Duration::from_millis(10);
            (0..self.cores.len()).for_each(|at| self.step(at, Input::Tick));
            while let Some((from, to, message)) = self.network.pop_front() {
                self.step(to.index(), Input::Peer { from, message });
            }
        }
    }
}

fn drivers() -> Drivers {
    let mut drivers = Drivers {
        cores: (0..3).map(core).collect(),
        network: VecDeque::new(),
        now: Time::ZERO,
        files: Vec::new(),
        incoming: None,
        reject: 0,
        complete: 0,
    };
    for (at, slots) in [(1, 1..=5), (2, 1..=7)] {
        for slot in slots {
            let say = Say::Decide(decision(id(1, slot), 1, [0, slot - 1, 0]), false);
            tell(&mut drivers.cores[at], say);
        }
    }
    drivers
}

#[test]
fn who_needs_a_snapshot_gets_one_that_is_far_enough() {
    let mut drivers = drivers();
    tell(&mut drivers.cores[0], Say::Need(Deps::from_slots([0, 6, 0])));
    drivers.pass(Duration::from_secs(1));
    assert_eq!(drivers.cores[0].checkpoint().executed, up_to([0, 7, 0]));
    assert_eq!(drivers.files.len(), 1, "only the one that could help took one");
    assert!(drivers.cores[2].serves(SnapshotId(0)));
    let status = drivers.cores[0].status();
    assert_eq!((status.installed, status.receiving), (1, None));
    drivers.pass(Duration::from_secs(60));
    assert_eq!(drivers.complete, 1);
}

#[test]
fn what_is_rejected_or_refused_is_asked_for_again() {
    let mut drivers = drivers();
    drivers.reject = 1;
    tell(&mut drivers.cores[0], Say::Need(Deps::from_slots([0, 4, 0])));
    drivers.pass(Duration::from_secs(1));
    assert_eq!((drivers.complete, drivers.cores[0].status().installed), (2, 1));
    drivers.cores[0].protocol_mut().refuses = true;
    tell(&mut drivers.cores[0], Say::Need(Deps::from_slots([0, 8, 0])));
    tell(&mut drivers.cores[2], Say::Decide(decision(id(1, 8), 1, [0, 7, 0]), false));
    drivers.pass(Duration::from_secs(3));
    let before = drivers.cores[0].checkpoint().executed;
    assert!(drivers.complete > 3, "again and again");
    drivers.cores[0].protocol_mut().refuses = false;
    drivers.pass(Duration::from_secs(3));
    assert!(!before.contains(id(1, 8)));
    assert!(drivers.cores[0].checkpoint().executed.contains(id(1, 8)));
}

/// Own snapshots continue meanwhile. If they counted, the one on its way would never be enough.
#[test]
fn no_own_snapshot_counts_while_another_is_needed() {
    let mut drivers = drivers();
    let own = OwnSnapshot { id: SnapshotId(9), executed: up_to([0, 0, 0]), bytes: 1 };
    drivers.step(0, Input::Snapshot(own.clone()));
    assert_eq!(drivers.cores[0].protocol().saved, 1);
    tell(&mut drivers.cores[0], Say::Need(Deps::from_slots([0, 6, 0])));
    drivers.step(0, Input::Snapshot(own.clone()));
    assert_eq!(drivers.cores[0].protocol().saved, 1);
    drivers.pass(Duration::from_secs(1));
    assert_eq!(drivers.cores[0].status().installed, 1);
    drivers.step(0, Input::Snapshot(own));
    assert_eq!(drivers.cores[0].protocol().saved, 2);
}

/// The snapshot was forgotten, so nothing it held could be dropped until the next one.
#[test]
fn an_own_snapshot_counts_once_no_other_is_needed_any_more() {
    let mut core = core(0);
    tell(&mut core, Say::Need(Deps::from_slots([0, 2, 0])));
    let own = OwnSnapshot { id: SnapshotId(9), executed: up_to([0, 0, 0]), bytes: 1 };
    step(&mut core, [Input::Snapshot(own)]);
    assert_eq!(core.protocol().saved, 0);
    // The missing decisions arrive after all.
    for slot in 1..=2 {
        tell(&mut core, Say::Decide(decision(id(1, slot), 1, [0, slot - 1, 0]), false));
    }
    step(&mut core, [Input::Tick]);
    assert_eq!(core.protocol().saved, 1);
}

#[test]
fn who_needs_none_takes_none() {
    let mut drivers = drivers();
    let offer =
        Transfer::Offer { snapshot: SnapshotId(7), executed: Deps::from_slots([9; 3]), bytes: 100 };
    let message = PeerMessage::Transfer(offer);
    drivers.step(0, Input::Peer { from: replica(1), message });
    drivers.pass(Duration::from_secs(1));
    let about = |core: &Core<Fake>| core.status().receiving;
    assert_eq!(about(&drivers.cores[0]), None);
}
