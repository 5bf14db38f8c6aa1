//! What a seed draws about snapshots and disks: which worlds have snapshots, their failures, and
//! the faults that need them. Part of `plan`.

use std::time::Duration;

use rand::RngExt;

use super::{Fault, Overrides, StoragePlan, Stream, pick, stream};
use crate::protocol::ProtocolKind;
use crate::types::Timing;

/// Whether the real storage is used, and what goes wrong with its disks.
pub(super) fn draw_storage(
    seed: u64,
    unit: Duration,
    overrides: &Overrides,
) -> (Option<StoragePlan>, Vec<(Fault, Duration)>) {
    if !overrides.restarts {
        return (draw_memory(seed, unit, overrides.protocol), Vec::new());
    }
    let mut rng = stream(seed, Stream::Storage);
    if rng.random_ratio(1, 2) {
        return (None, Vec::new());
    }
    // A segment must hold a leader's batch, which contains what waited at all replicas.
    let least = if overrides.protocol == ProtocolKind::MultiPaxos { 48 } else { 16 };
    let segment_bytes = (*pick(&mut rng, &[16, 16, 64])).max(least) * 1024;
    let os = rng.random_ratio(1, 6);
    let share = *pick(&mut rng, &[0, 1, 1, 2]);
    let draw = |fault: Fault| {
        let on = rng.random_ratio(share, 4);
        let mean = unit.mul_f64(2.0 * 16f64.powf(rng.random::<f64>()));
        on.then_some((fault, mean))
    };
    let faults = Fault::DISKS.into_iter().filter_map(draw).collect();
    let often = unit.mul_f64(0.5 * 16f64.powf(rng.random::<f64>()));
    let snapshots = rng.random_ratio(1, 2).then_some(often);
    let keep = *pick(&mut rng, &[2_000, 20_000, 64 << 20]);
    (Some(StoragePlan { segment_bytes, os, snapshots, keep, lies: false }), faults)
}

/// In one of eight worlds without restarts: snapshots that only bring absent members back. The
/// storage keeps them on disks that never fail. The log-based protocols have none: what they have
/// executed is a prefix, and nothing that an install needs can change.
fn draw_memory(seed: u64, unit: Duration, protocol: ProtocolKind) -> Option<StoragePlan> {
    let mut rng = stream(seed, Stream::Memory);
    let often = unit.mul_f64(0.5 * 16f64.powf(rng.random::<f64>()));
    let (segment_bytes, os, lies) = (64 * 1024, true, false);
    let plan = StoragePlan { segment_bytes, os, snapshots: Some(often), keep: 2_000, lies };
    (protocol == ProtocolKind::EPaxos && rng.random_ratio(1, 8)).then_some(plan)
}

/// In most worlds with snapshots: the mean time between two absences. Little is then kept for
/// absent members, and timeouts are short; otherwise the unrest would end first.
pub(super) fn draw_absences(
    seed: u64,
    timing: &mut Timing,
    plan: &mut StoragePlan,
) -> Option<Duration> {
    let mut rng = stream(seed, Stream::Absences);
    plan.snapshots?;
    if rng.random_ratio(1, 4) {
        return None;
    }
    timing.patience = timing.patience.min(timing.suspect * rng.random_range(1..4));
    plan.keep = *pick(&mut rng, &[0, 500, 2_000]);
    Some(timing.patience * 3 + timing.suspect * rng.random_range(2..8))
}

/// In a quarter of the worlds with restarts: the mean time between two restored copies.
pub(super) fn draw_older(seed: u64, unit: Duration) -> Option<Duration> {
    let mut rng = stream(seed, Stream::OlderDisks);
    rng.random_ratio(1, 4).then(|| unit.mul_f64(1.0 + 8.0 * rng.random::<f64>()))
}
