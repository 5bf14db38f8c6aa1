//! The load of a comparison: the same streams of commands in real and in virtual time.

use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::kept::Point;
use super::plan::Plan;
use crate::load::workload::keys::{Keys, Population};
use crate::load::workload::values::Sizes;
use crate::load::workload::{Mix, Stream, Workload};
use crate::machine::{Kv, StateMachine, encode};
use crate::sim::virtual_time::Asking;
use crate::types::Footprint;

/// What clients ask under a load: writes, of one key that all share or of keys of their own.
pub(super) fn workload(plan: &Plan, point: Point, seed: u64) -> Workload {
    Workload {
        keys: Keys::Conflict { percent: point.conflict_percent, hot: 1, age: None },
        mix: Mix::reads(0.0),
        keys_per_command: 1,
        values: Sizes::Fixed(plan.value_bytes),
        seed,
        checked: true,
        namespace: 0,
    }
}

/// The clients of virtual time: a stream for each.
pub(super) struct Streams {
    workload: Workload,
    population: Population,
    streams: FxHashMap<u32, Stream>,
}

impl Streams {
    pub(super) fn new(workload: Workload) -> Streams {
        let population = Population::of(&workload.keys);
        Streams { workload, population, streams: FxHashMap::default() }
    }
}

impl Asking for Streams {
    fn next(&mut self, client: u32, elapsed: Duration) -> (Footprint, Bytes) {
        let new = || self.workload.client(client, &self.population);
        let stream = self.streams.entry(client).or_insert_with(new);
        let op = stream.next(elapsed);
        let command = stream.command(&op.asks);
        let payload = encode(&command).expect("a command of ours has an encoding");
        (Kv::footprint(&command), payload)
    }
}
