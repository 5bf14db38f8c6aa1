//! Tests of the execution order: each rule by hand (`rules`), random histories against petgraph's
//! algorithms (`model`), effort and stack depth with a million instances (`scale`).

mod model;
mod rules;
mod scale;

use std::sync::Arc;

use bytes::Bytes;

use super::Executor;
use crate::types::{
    Access, Batch, ClientId, Command, Decision, Deps, Footprint, InstanceId, KeyHash, ReplicaId,
    RequestId, Slot, Value,
};

fn id(owner: usize, slot: Slot) -> InstanceId {
    InstanceId::new(ReplicaId::from_index(owner), slot)
}

fn deps<const N: usize>(slots: [Slot; N]) -> Deps {
    Deps::from_slots(slots)
}

fn read(key: u64) -> Footprint {
    Footprint::from_keys([(KeyHash(key), Access::Read)])
}

fn write(key: u64) -> Footprint {
    Footprint::from_keys([(KeyHash(key), Access::Write)])
}

/// A batch of one command with this footprint; its request names the instance.
fn batch(id: InstanceId, footprint: Footprint) -> Arc<Batch> {
    Batch::new(vec![Command {
        request: RequestId::new(ClientId(id.replica.number().into()), id.slot),
        floor: 0,
        origin: id.replica,
        footprint,
        payload: Bytes::new(),
    }])
}

fn decided(id: InstanceId, footprint: Footprint, deps: Deps) -> Decision {
    Decision::owned(id, Value::Batch(batch(id, footprint)), deps)
}

fn nop(id: InstanceId, n: usize) -> Decision {
    Decision::owned(id, Value::Nop, Deps::none(n))
}

/// Takes all ready components, as ids.
fn drain(executor: &mut Executor) -> Vec<Vec<InstanceId>> {
    std::iter::from_fn(|| executor.next_ready())
        .map(|component| component.instances.iter().map(|(id, _)| *id).collect())
        .collect()
}
