//! The cost of ordering a decided instance, by the shape of the conflict graph and by the order in
//! which decisions arrive. Criterion's `thrpt` is instances per second. It answers a question for
//! changes to the executor: is it still linear, whatever the shape?
//!
//! Each round does what a replica does. It learns every payload, then takes the decisions one by
//! one and executes what is ready after each. The time to build the batches and decisions is not
//! measured.

mod common;

use std::cell::LazyCell;
use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use common::{Pace, group};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isonomy::internals::execute::Executor;
use isonomy::types::{
    Access, Batch, ClientId, Command, Decision, Deps, Footprint, InstanceId, KeyHash, ReplicaId,
    RequestId, Slot, Value,
};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const OWNERS: usize = 5;
/// A million instances already take about a second.
const PACE: Pace = Pace::LARGE.measured_for(1);

fn decision(owner: usize, slot: Slot, footprint: Footprint, deps: Deps) -> Decision {
    let id = InstanceId::new(ReplicaId::from_index(owner), slot);
    let batch = Batch::new(vec![Command {
        request: RequestId::new(ClientId(id.replica.number().into()), slot),
        floor: 0,
        origin: id.replica,
        footprint,
        payload: Bytes::from_static(b"0123456789abcdef"),
    }]);
    Decision::owned(id, Value::Batch(batch), deps)
}

fn key(key: u64, access: Access) -> Footprint {
    // Spread the keys as real hashes are spread.
    Footprint::from_keys([(KeyHash(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)), access)])
}

fn write(number: u64) -> Footprint {
    key(number, Access::Write)
}

/// Dependencies on the first owner's slots, up to and including this one.
fn first(slot: Slot) -> Deps {
    let mut deps = Deps::none(OWNERS);
    deps.set(ReplicaId::from_index(0), slot);
    deps
}

/// Each instance has its own key.
fn independent(len: u64) -> Vec<Decision> {
    (0..len)
        .map(|at| {
            let owner = usize::try_from(at % 5).expect("below 5");
            decision(owner, at / 5 + 1, write(at), Deps::none(OWNERS))
        })
        .collect()
}

/// One owner and one key.
fn chain(len: u64) -> Vec<Decision> {
    (1..=len).map(|slot| decision(0, slot, write(1), first(slot - 1))).collect()
}

/// One write, and reads of another owner that all depend on it.
fn star(len: u64) -> Vec<Decision> {
    let reads = (1..len).map(|slot| decision(1, slot, key(1, Access::Read), first(1)));
    std::iter::once(decision(0, 1, write(1), first(0))).chain(reads).collect()
}

/// One instance that depends on all others, each of which has its own key.
fn fan_in(len: u64) -> Vec<Decision> {
    let last = decision(1, 1, Footprint::Everything, first(len - 1));
    let others = (1..len).map(|slot| decision(0, slot, write(slot), first(0)));
    std::iter::once(last).chain(others).collect()
}

/// Five owners on one key. Every `size` instances, taken from all owners, cover each other in a
/// cycle. This gives components of that size, one after the other.
fn dense(len: u64, size: u64) -> Vec<Decision> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let rounds = len / 5;
    let mut decisions = Vec::new();
    for slot in 1..=rounds {
        let block = (slot - 1) / (size / 5) * (size / 5);
        let end = (block + size / 5).min(rounds);
        for owner in 0..OWNERS {
            let covered = (0..OWNERS).map(|other| match (owner, other) {
                (0, 1) => slot + 1,
                _ if owner <= other => slot - 1 + rng.random_range(0..=u64::from(owner < other)),
                _ => slot + rng.random_range(0..=1),
            });
            let covered = Deps::from_slots(covered.map(|slot| slot.min(end)));
            decisions.push(decision(owner, slot, write(1), covered));
        }
    }
    decisions
}

fn reversed(mut decisions: Vec<Decision>) -> Vec<Decision> {
    decisions.reverse();
    decisions
}

fn shuffled(mut decisions: Vec<Decision>) -> Vec<Decision> {
    decisions.shuffle(&mut ChaCha8Rng::seed_from_u64(7));
    decisions
}

/// Learns all instances, decides all of them, then executes all of them.
fn run(learned: &[(InstanceId, Arc<Batch>)], decisions: Vec<Decision>) -> Executor {
    let mut executor = Executor::new(OWNERS);
    for (id, batch) in learned {
        executor.on_learned(*id, batch);
    }
    for decision in decisions {
        executor.on_committed(decision);
        while let Some(component) = executor.next_ready() {
            black_box(component);
        }
    }
    assert_eq!(executor.pending(), 0, "everything is executed");
    executor
}

/// Like [`run`], but learns each instance only just before its decision, so that few are in flight.
fn run_flowing(decisions: Vec<Decision>) -> Executor {
    let mut executor = Executor::new(OWNERS);
    for decision in decisions {
        if let Value::Batch(batch) = &decision.value {
            executor.on_learned(decision.id, batch);
        }
        executor.on_committed(decision);
        while let Some(component) = executor.next_ready() {
            black_box(component);
        }
    }
    assert_eq!(executor.pending(), 0, "everything is executed");
    executor
}

/// Which shape of conflicts is expensive to order, and does the cost per instance grow with the
/// number of instances?
fn bench(c: &mut Criterion) {
    type Build = fn(u64) -> Vec<Decision>;
    type Shape = (&'static str, &'static str, Build, &'static [u64]);
    const SMALL: &[u64] = &[10_000, 100_000];
    const LARGE: &[u64] = &[10_000, 1_000_000];
    let shapes: [Shape; 11] = [
        ("independent", "no conflicts", independent, LARGE),
        ("chain/in_order", "one hot key, in its order", chain, LARGE),
        ("chain/reverse", "one hot key, backwards", |len| reversed(chain(len)), LARGE),
        ("chain/random", "one hot key, shuffled", |len| shuffled(chain(len)), SMALL),
        ("star/centre_last", "all wait for one", |len| reversed(star(len)), SMALL),
        ("fan_in/barrier_first", "one waits for all", fan_in, SMALL),
        ("dense_20/in_order", "small cycles", |len| dense(len, 20), SMALL),
        ("dense_20/random", "small cycles, shuffled", |len| shuffled(dense(len, 20)), SMALL),
        ("dense_10000/in_order", "huge cycles", |len| dense(len, 10_000), SMALL),
        ("dense_10000/random", "the same, shuffled", |len| shuffled(dense(len, 10_000)), SMALL),
        ("dense_10000/reverse", "the same, backwards", |len| reversed(dense(len, 10_000)), SMALL),
    ];
    for (name, shape, build, sizes) in shapes {
        let answers = format!("ordering decided instances, all learned before: {shape}");
        let mut group = group(c, name, &answers, PACE);
        for size in sizes {
            group.throughput(Throughput::Elements(*size));
            let input = LazyCell::new(|| build(*size));
            let learned = LazyCell::new(|| {
                let batch = |decision: &Decision| decision.value.batch().cloned();
                input.iter().filter_map(|d| Some((d.id, batch(d)?))).collect::<Vec<_>>()
            });
            group.bench_function(BenchmarkId::from_parameter(size), |b| {
                b.iter_batched(|| input.clone(), |d| run(&learned, d), BatchSize::PerIteration);
            });
        }
        group.finish();
    }
    let answers = "ordering decided instances, each learned just before: little is in flight";
    let mut group = group(c, "flowing", answers, PACE);
    let flows: [(&str, Build); 2] = [("independent", independent), ("chain", chain)];
    for (name, build) in flows {
        group.throughput(Throughput::Elements(100_000));
        let input = LazyCell::new(|| build(100_000));
        group.bench_function(name, |b| {
            b.iter_batched(|| input.clone(), run_flowing, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
