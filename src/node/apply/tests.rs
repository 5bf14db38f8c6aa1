//! Tests of the apply thread: answers come in time, and only a bounded number is held at once.

use std::sync::Mutex;
use std::time::Duration;

use crossbeam::channel::bounded;
use tokio::sync::oneshot;

use super::*;
use crate::machine::{Kv, KvCommand, RestoreError, encode};
use crate::node::Limits;
use crate::node::pending::Waiter;
use crate::types::{ClientId, Footprint, MemberId, ReplicaId};

/// The core saw that the lease held. Then the machine was suspended, say, and the lease ended.
#[test]
fn a_read_is_not_answered_after_the_lease() {
    let (sender, _queue) = bounded(1);
    let patience = Duration::from_secs(10);
    let me = ReplicaId::from_index(0);
    let shared =
        Arc::new(ReplicaShared::new(MemberId::of(me), Limits::default(), patience, sender));
    let applier = Applier::new(Kv::new());
    let first = First { applier, skipped: BTreeSet::new(), trail: None };
    let mut apply = Apply::new(first, &shared);
    let read = encode(&KvCommand::Get { key: Bytes::from_static(b"k") }).expect("it is short");
    let (request, footprint) = (RequestId::new(ClientId(1), 1), Footprint::read(b"k"));
    let (sender, mut answer) = oneshot::channel();
    shared.submit(request, 0, footprint, read, Waiter::Local(sender, None));
    let read = shared.proposals.pop().expect("it was let in");
    for end in [Time::ZERO, shared.clock.now()] {
        shared.set_lease_end(end);
        apply.answer_reads(std::slice::from_ref(&read));
        assert!(answer.try_recv().is_err(), "who asked goes on waiting");
        assert_eq!(shared.proposals.pop(), Some(read.clone()), "it is read in another way");
    }
    shared.set_lease_end(shared.clock.now() + Duration::from_secs(3600));
    apply.answer_reads(&[read]);
    assert!(answer.try_recv().expect("it is answered").is_ok());
    assert!(shared.proposals.is_empty());
}

/// How many answers of [`Large`] exist that no caller has received yet.
#[derive(Default)]
struct Held {
    waiting: Vec<oneshot::Receiver<Answer>>,
    made: usize,
    most: usize,
}

struct Large(Arc<Mutex<Held>>);

const BYTES: usize = 600 << 10;

impl StateMachine for Large {
    type Command = u64;
    type Output = Bytes;

    fn footprint(_: &u64) -> Footprint {
        Footprint::read(b"a")
    }

    fn apply(&mut self, _: u64) -> Bytes {
        let mut held = lock(&self.0);
        let before = held.waiting.len();
        held.waiting.retain_mut(|waiter| waiter.try_recv().is_err());
        held.made -= before - held.waiting.len();
        held.made += 1;
        held.most = held.most.max(held.made);
        vec![7; BYTES].into()
    }

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(_: &[u8]) -> Result<Large, RestoreError> {
        Err(RestoreError::new("none is taken"))
    }
}

/// One step may execute any number of reads with long answers.
#[test]
fn answers_are_handed_out_as_they_come() {
    let me = ReplicaId::from_index(0);
    let (sender, queue) = bounded(8);
    let shared =
        Arc::new(ReplicaShared::new(MemberId::of(me), Limits::default(), Duration::MAX, sender));
    let held = Arc::new(Mutex::new(Held::default()));
    let command = |sequence: u64| {
        let (sender, receiver) = oneshot::channel();
        lock(&held).waiting.push(receiver);
        let request = RequestId::new(ClientId(1), sequence);
        let waiter = Waiter::Local(sender, None);
        let payload = encode(&sequence).expect("plain data");
        assert!(shared.pending.enter(request, &payload, 1, shared.clock.now(), waiter).is_ok());
        let (floor, footprint) = (0, Footprint::read(b"a"));
        Command { request, floor, origin: me, footprint, payload }
    };
    let reads: Vec<Command> = (1..=50).map(command).collect();
    let batch = Batch::new((51..=100).map(command).collect());
    let id = InstanceId::new(me, 1);
    let execution = Execution { id, batch, ends_component: true, me };
    shared.set_lease_end(shared.clock.now() + Duration::from_secs(3600));
    assert!(shared.send_work(Work::Answer(reads)));
    assert!(shared.send_work(Work::Execute(vec![execution])));
    assert!(shared.send_work(Work::Stop));
    let applier = Applier::new(Large(Arc::clone(&held)));
    run(First { applier, skipped: BTreeSet::new(), trail: None }, &shared, &queue);
    let mut held = lock(&held);
    held.waiting.retain_mut(|waiter| waiter.try_recv().is_err());
    assert!(held.waiting.is_empty(), "all have their answers");
    assert!(held.most <= ANSWERS.div_ceil(BYTES), "{} at a time", held.most);
}
