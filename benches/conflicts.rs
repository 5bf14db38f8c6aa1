//! The conflict index: what it costs a voter to find its dependencies and to remember a command.
//!
//! Groups: `conflicts` looks up what conflicts with a footprint, and `insert` adds a footprint.
//! Both are measured over many keys, where the index no longer fits into a cache, and over few
//! keys, where it does.

mod common;

use common::{Pace, group};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use isonomy::internals::protocol::epaxos::ConflictIndex;
use isonomy::types::{Access, Footprint, InstanceId, KeyHash, ReplicaId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::hint::black_box;

const REPLICAS: usize = 5;

fn footprints(keys: u64, per_command: usize, count: usize) -> Vec<Footprint> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut key = || (KeyHash(rng.random_range(0..keys)), Access::Write);
    (0..count).map(|_| Footprint::from_keys((0..per_command).map(|_| key()))).collect()
}

fn filled(footprints: &[Footprint]) -> ConflictIndex {
    let mut index = ConflictIndex::new(REPLICAS);
    let owners = ReplicaId::all(REPLICAS).cycle();
    for ((slot, owner), footprint) in (1..).zip(owners).zip(footprints) {
        index.insert(InstanceId::new(owner, slot), footprint);
    }
    index
}

/// What does a voter pay for a command, and how much of it is cache misses?
fn bench(c: &mut Criterion) {
    let sizes =
        [("1k keys", 1_000, 1), ("1M keys", 1_000_000, 1), ("1M keys, batch of 64", 1_000_000, 64)];
    let footprints = sizes.map(|(name, keys, each)| (name, footprints(keys, each, 10_000)));
    let answers = "finding what conflicts with a command, by keys in use";
    let mut lookups = group(c, "conflicts", answers, Pace::PART);
    for (name, footprints) in &footprints {
        let index = filled(footprints);
        lookups.throughput(Throughput::Elements(footprints.len() as u64));
        lookups.bench_function(*name, |b| {
            b.iter(|| {
                for footprint in footprints {
                    black_box(index.conflicts(footprint));
                }
            });
        });
    }
    lookups.finish();
    let answers = "remembering a command for those that will conflict, by keys in use";
    let mut inserts = group(c, "insert", answers, Pace::PART);
    for (name, footprints) in &footprints {
        inserts.throughput(Throughput::Elements(footprints.len() as u64));
        inserts.bench_function(*name, |b| {
            b.iter_batched(|| (), |()| filled(footprints), BatchSize::LargeInput);
        });
    }
    inserts.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
