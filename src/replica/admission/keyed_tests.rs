//! Unit tests of the rules of keyed admission, one by one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::keyed::KeyedAdmission;
use crate::types::{
    Access, Batch, ClientId, Command, Footprint, InstanceId, KeyHash, ReplicaId, RequestId, Time,
};

fn me() -> ReplicaId {
    ReplicaId::from_index(0)
}

fn at(us: u64) -> Time {
    Time::ZERO + Duration::from_micros(us)
}

fn command(sequence: u64, footprint: Footprint) -> Command {
    Command {
        request: RequestId::new(ClientId(7), sequence),
        floor: 0,
        origin: me(),
        footprint,
        payload: Bytes::from_static(b"0123456789abcdef"),
    }
}

fn write(sequence: u64, key: &str) -> Command {
    command(sequence, Footprint::write(key.as_bytes()))
}

/// Admission with the instances it has let through, numbered as the protocol would.
struct Bench {
    admission: KeyedAdmission,
    next: [u64; 2],
}

impl Bench {
    fn new() -> Bench {
        Bench { admission: KeyedAdmission::new(me()), next: [1, 1] }
    }

    /// Proposes what may be proposed now. Returns each instance and the sequences of its batch.
    fn leave(&mut self, now: Time) -> Vec<(InstanceId, Vec<u64>)> {
        let mut left = Vec::new();
        loop {
            let batches = self.admission.batches(now);
            if batches.is_empty() {
                return left;
            }
            for batch in batches {
                let sequences = batch.commands().iter().map(|c| c.request.sequence).collect();
                left.push((self.learn(0, &batch), sequences));
            }
        }
    }

    fn learn(&mut self, owner: usize, batch: &Arc<Batch>) -> InstanceId {
        let id = InstanceId::new(ReplicaId::from_index(owner), self.next[owner]);
        self.next[owner] += 1;
        self.admission.learned(id, batch);
        id
    }

    fn other(&mut self, key: &str) -> InstanceId {
        let batch = Batch::new(vec![write(0, key)]);
        self.learn(1, &batch)
    }
}

fn sequences(left: &[(InstanceId, Vec<u64>)]) -> Vec<Vec<u64>> {
    left.iter().map(|(_, sequences)| sequences.clone()).collect()
}

#[test]
fn what_came_together_leaves_together() {
    let mut bench = Bench::new();
    for (sequence, key) in [(1, "a"), (2, "b"), (3, "a")] {
        bench.admission.push_back(write(sequence, key));
    }
    assert_eq!(sequences(&bench.leave(at(0))), [[1, 2, 3]]);
    assert_eq!(bench.admission.waiting(), (0, 0));
}

#[test]
fn at_most_two_own_instances_beside_anothers_on_one_key() {
    let mut bench = Bench::new();
    let other = bench.other("k");
    let mut own = Vec::new();
    for sequence in 1..=2 {
        bench.admission.push_back(write(sequence, "k"));
        own.extend(bench.leave(at(sequence)));
    }
    assert_eq!(sequences(&own), [[1], [2]]);
    for sequence in 3..=5 {
        bench.admission.push_back(write(sequence, "k"));
        assert!(bench.leave(at(sequence)).is_empty());
    }
    assert_eq!(bench.admission.waiting(), (3, 48));
    bench.admission.finished(own[0].0);
    assert_eq!(sequences(&bench.leave(at(9))), [[3, 4, 5]], "they leave as one batch");
    bench.admission.finished(other);
    bench.admission.push_back(write(6, "k"));
    assert!(bench.leave(at(10)).is_empty(), "a millisecond between own ones");
    let wake = bench.admission.wake().expect("it waits for the clock alone");
    assert_eq!(wake, at(9 + 1000));
    assert_eq!(sequences(&bench.leave(wake)), [[6]]);
}

#[test]
fn commands_on_contended_keys_do_not_hold_up_the_rest() {
    let mut bench = Bench::new();
    bench.other("hot");
    bench.admission.push_back(write(1, "hot"));
    bench.admission.push_back(write(2, "cold"));
    assert_eq!(sequences(&bench.leave(at(0))), [[2], [1]], "apart, the clean ones first");
}

#[test]
fn first_come_first_served_on_each_key() {
    let mut bench = Bench::new();
    bench.other("a");
    for sequence in 1..=2 {
        bench.admission.push_back(write(sequence, "a"));
        assert_eq!(bench.leave(at(0)).len(), 1);
    }
    let both = Footprint::union([&Footprint::write(b"a"), &Footprint::write(b"b")]);
    bench.admission.push_back(command(3, both));
    bench.admission.push_back(write(4, "b"));
    bench.admission.push_back(write(5, "c"));
    // 4 could be proposed, but 3 waits for `b` before it: this keeps 3 from starving.
    assert_eq!(sequences(&bench.leave(at(1))), [[5]]);
    bench.admission.finished(InstanceId::new(me(), 1));
    let left: Vec<u64> = bench.leave(at(2)).into_iter().flat_map(|(_, s)| s).collect();
    assert_eq!(left, [3, 4]);
}

#[test]
fn reads_pass_reads() {
    let mut bench = Bench::new();
    let read = |sequence| command(sequence, Footprint::read(b"k"));
    let others = Batch::new(vec![read(0)]);
    bench.learn(1, &others);
    for sequence in 1..=9 {
        bench.admission.push_back(read(sequence));
        assert_eq!(sequences(&bench.leave(at(0))), [[sequence]]);
    }
    bench.admission.push_back(write(10, "k"));
    assert!(bench.leave(at(0)).is_empty(), "a write conflicts with nine own reads");
}

#[test]
fn returned_commands_go_first_in_their_order() {
    let mut bench = Bench::new();
    bench.other("k");
    for sequence in 1..=2 {
        bench.admission.push_back(write(sequence, "k"));
        bench.leave(at(0));
    }
    bench.admission.push_back(write(3, "k"));
    assert!(bench.leave(at(1)).is_empty());
    bench.admission.push_front([write(1, "k"), write(9, "k")].into_iter());
    bench.admission.finished(InstanceId::new(me(), 1));
    assert_eq!(sequences(&bench.leave(at(2))), [[1, 9, 3]]);
}

#[test]
fn what_touches_everything_waits_its_turn_and_holds_back_what_follows() {
    let mut bench = Bench::new();
    bench.other("k");
    for sequence in 1..=2 {
        bench.admission.push_back(write(sequence, "k"));
        bench.leave(at(0));
    }
    bench.admission.push_back(write(3, "k"));
    bench.admission.push_back(command(4, Footprint::Everything));
    bench.admission.push_back(write(5, "free"));
    assert!(bench.leave(at(1)).is_empty());
    bench.admission.finished(InstanceId::new(me(), 1));
    assert_eq!(sequences(&bench.leave(at(2))), [[3]]);
    bench.admission.finished(InstanceId::new(me(), 2));
    bench.admission.finished(InstanceId::new(me(), 3));
    bench.admission.finished(InstanceId::new(ReplicaId::from_index(1), 1));
    let left: Vec<u64> = bench.leave(at(3)).into_iter().flat_map(|(_, s)| s).collect();
    assert!(left.contains(&4), "nothing is before it any more: {left:?}");
    assert_eq!(bench.admission.waiting().0 + left.len(), 2);
}

#[test]
fn a_large_queue_leaves_in_bounded_batches() {
    let mut bench = Bench::new();
    for sequence in 1..=10_000 {
        bench.admission.push_back(write(sequence, &format!("key {sequence}")));
    }
    let sizes: Vec<usize> = bench.leave(at(0)).iter().map(|(_, s)| s.len()).collect();
    assert_eq!(sizes, [4096, 4096, 1808]);
}

#[test]
fn an_idle_key_is_forgotten() {
    let mut bench = Bench::new();
    let keys = Footprint::from_keys([(KeyHash(1), Access::Read), (KeyHash(2), Access::Write)]);
    bench.admission.push_back(command(1, keys));
    let [(id, _)] = &bench.leave(at(0))[..] else { panic!("one batch") };
    assert_eq!(bench.admission.keys(), 2);
    bench.admission.finished(*id);
    assert_eq!(bench.admission.keys(), 0);
}

#[test]
fn batches_stay_within_what_a_peer_takes() {
    let mut bench = Bench::new();
    for sequence in 1..=20 {
        let keys = (0..4000).map(|key| (KeyHash(sequence * 10_000 + key), Access::Write));
        bench.admission.push_back(command(sequence, Footprint::from_keys(keys)));
    }
    let batches = bench.admission.batches(at(0));
    assert_eq!(batches.len(), 1);
    for batch in batches {
        let keys: usize =
            batch.commands().iter().map(|c| c.footprint.keys().map_or(0, <[_]>::len)).sum();
        assert!(keys <= Batch::MAX_KEYS, "{keys} keys in one batch");
    }
    bench.leave(at(0));
    let mut large = write(21, "large");
    large.payload = Bytes::from(vec![0; Batch::MAX_BYTES]);
    bench.admission.push_back(write(22, "before"));
    bench.admission.push_back(large);
    assert_eq!(sequences(&bench.leave(at(0))), [[22], [21]]);
}

#[test]
fn however_much_waits_for_a_contended_key_it_leaves_in_two_instances() {
    let mut bench = Bench::new();
    bench.other("k");
    for sequence in 1..=10 {
        let mut large = write(sequence, "k");
        large.payload = Bytes::from(vec![0; Batch::MAX_BYTES / 2]);
        bench.admission.push_back(large);
    }
    assert_eq!(sequences(&bench.leave(at(0))), [[1, 2], [3, 4]]);
    bench.admission.finished(InstanceId::new(me(), 1));
    assert_eq!(sequences(&bench.leave(at(1))), [[5, 6]]);
}
