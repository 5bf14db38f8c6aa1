//! How long a replica's core pauses to take a checkpoint, by the number of instances that it keeps
//! for an absent member. Each instance has its own key.

mod common;

use std::cell::LazyCell;

use bytes::Bytes;
use common::{Pace, group};
use criterion::{Criterion, criterion_group, criterion_main};
use isonomy::internals::protocol::Protocol;
use isonomy::internals::protocol::epaxos::{EPaxos, Record};
use isonomy::internals::replica::{Core, Limits, Output};
use isonomy::types::{
    Batch, ClientId, Command, Deps, Footprint, InstanceId, Optimisations, Quorums, ReplicaId,
    RequestId, Retention, Settings, Timing, Value,
};

const N: usize = 3;

/// A replica with this many instances of all owners, decided and executed.
fn core(instances: u64) -> Core<EPaxos> {
    let settings = Settings {
        me: ReplicaId::from_index(0),
        quorums: Quorums::new(N).expect("a supported size"),
        seed: 0,
        timing: Timing::default(),
        optimisations: Optimisations::NONE,
        retention: Retention::default(),
        leases: true,
    };
    let mut core = Core::new(settings.clone(), Limits::default(), EPaxos::new(settings));
    let mut out = Output::default();
    for number in 0..instances {
        let owner = ReplicaId::from_index(usize::try_from(number).expect("it fits") % N);
        let id = InstanceId::new(owner, number / N as u64 + 1);
        let command = Command {
            request: RequestId::new(ClientId(1), number + 1),
            floor: 0,
            origin: owner,
            footprint: Footprint::write(&number.to_le_bytes()),
            payload: Bytes::from_static(b"0123456789abcdef"),
        };
        let (value, deps) = (Value::Batch(Batch::new(vec![command])), Deps::none(N));
        core.restore(Record::Committed { id, value, deps }, &mut out);
        out.clear();
    }
    core
}

/// For how long does a replica give no answers when it takes a snapshot while a member is away?
fn bench(c: &mut Criterion) {
    let answers =
        "the pause of a replica's core for a snapshot, by instances kept for an absent one";
    let mut group = group(c, "checkpoint", answers, Pace::LARGE);
    for instances in [10_000, 100_000, 500_000] {
        let core = LazyCell::new(|| {
            let core = core(instances);
            assert_eq!(core.checkpoint().shared.decisions.len() as u64, instances);
            core
        });
        group.bench_function(format!("{instances} kept"), |b| {
            b.iter_with_large_drop(|| core.checkpoint());
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
