//! What a cluster costs: three replicas in this process over real QUIC on loopback, each with its
//! own threads, answering after execution. On few processors the replicas and the load share them,
//! so these are figures to compare with each other and not promises.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isonomy::machine::{Kv, KvCommand};
use isonomy::{LocalCluster, Replica};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

const REPLICAS: usize = 3;
/// Outstanding commands a replica.
const WINDOW: u64 = 64;
const KEYS: u64 = 100_000;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn put(key: u64) -> KvCommand {
    let key = Bytes::copy_from_slice(&key.to_le_bytes());
    KvCommand::Put { key, value: Bytes::from_static(b"sixteen bytes ..") }
}

/// One command after the other at one replica.
fn latency(c: &mut Criterion) {
    let runtime = runtime();
    let cluster = runtime.block_on(LocalCluster::<Kv>::start(REPLICAS)).expect("a cluster");
    let mut group = c.benchmark_group("cluster/latency");
    group.bench_function("one_command", |b| {
        let replica = cluster.replica(1);
        b.iter_custom(|iterations| {
            runtime.block_on(async {
                let start = Instant::now();
                for key in 0..iterations {
                    replica.propose(put(key % KEYS)).await.expect("an answer");
                }
                start.elapsed()
            })
        });
    });
    group.finish();
    runtime.block_on(cluster.shutdown());
}

/// Executes `commands` in all, with `WINDOW` under way at each replica.
async fn load(replicas: &[Replica<Kv>], commands: u64, hot_percent: u64) -> Duration {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (end, start) = (NEXT.load(Ordering::Relaxed) + commands, Instant::now());
    let mut tasks = JoinSet::new();
    for replica in replicas {
        for _ in 0..WINDOW {
            let replica = replica.clone();
            tasks.spawn(async move {
                loop {
                    let number = NEXT.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return;
                    }
                    let hot = number % 100 < hot_percent;
                    let key = if hot { KEYS } else { number % KEYS };
                    replica.propose(put(key)).await.expect("an answer");
                }
            });
        }
    }
    while tasks.join_next().await.is_some() {}
    start.elapsed()
}

fn throughput(c: &mut Criterion) {
    let runtime = runtime();
    let cluster = runtime.block_on(LocalCluster::<Kv>::start(REPLICAS)).expect("a cluster");
    let mut group = c.benchmark_group("cluster/throughput");
    group.throughput(Throughput::Elements(1));
    for hot_percent in [0, 100] {
        let id = BenchmarkId::new("window_64", format!("{hot_percent}%_conflicts"));
        group.bench_with_input(id, &hot_percent, |b, hot_percent| {
            b.iter_custom(|commands| {
                runtime.block_on(load(cluster.replicas(), commands, *hot_percent))
            });
        });
    }
    group.finish();
    runtime.block_on(cluster.shutdown());
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(6));
    targets = latency, throughput
}
criterion_main!(benches);
