//! Runs in virtual time, by the name of the protocol.

use std::time::Duration;

use super::asking::{Streams, workload};
use super::kept::{Asked, Outcome, Seen, Stopped};
use super::plan::Plan;
use super::series::Turn;
use crate::protocol::ProtocolKind;
use crate::sim::virtual_time::{Load, Setup, measure_kind};
use crate::types::Optimisations;

/// How many slices a run is cut into.
const SLICES: u32 = 100;

/// Whether there is a protocol of this name, and whether one replica leads in it, be it only where
/// proposals collide.
pub fn knows(name: &str) -> Option<bool> {
    let kind = name.parse().ok()?;
    Some(matches!(kind, ProtocolKind::MultiPaxos | ProtocolKind::FastPaxos))
}

/// Takes one turn.
pub fn take(plan: &Plan, turn: &Turn<'_>) -> Outcome {
    let kind: ProtocolKind = match turn.contender.protocol.parse() {
        Ok(kind) => kind,
        Err(unknown) => return Outcome::Failed(format!("{unknown}")),
    };
    let mut asking = Streams::new(workload(plan, turn.point, turn.seed));
    let measured = measure_kind(kind, &setup(plan, turn), &mut asking);
    let crash = plan.crash_in(turn.contender, turn.point).map(|crash| Stopped {
        site: plan.area.sites[crash.site].clone(),
        as_leader: plan.crash.as_ref().is_some_and(|stop| stop.site.is_none()),
        at_s: crash.at.as_secs_f64(),
        back_s: crash.back.map(|back| back.as_secs_f64()),
    });
    let slice = (plan.warm_up + plan.time_of(turn.point)) / SLICES;
    match Seen::in_virtual_time(&measured, &plan.sites(), crash, (slice, SLICES)) {
        Some(seen) => Outcome::Seen(Box::new(seen)),
        None => Outcome::Failed("no command was answered".into()),
    }
}

fn setup(plan: &Plan, turn: &Turn<'_>) -> Setup {
    let sites = plan.area.sites.len() as f64;
    let load = match turn.point.load {
        Asked::Clients(clients) => Load::Closed { clients, think: Duration::ZERO },
        Asked::Rate(rate) => Load::Open { rate: rate / sites, poisson: true },
    };
    Setup {
        jitter: Duration::from_secs_f64(plan.area.jitter_ms / 1_000.0),
        cpu: plan.cpu,
        flush: plan.flush,
        optimisations: Optimisations::default(),
        load,
        warm_up: plan.warm_up,
        time: plan.time_of(turn.point),
        crash: plan.crash_in(turn.contender, turn.point),
        first: turn.contender.leader,
        seed: turn.seed,
        ..Setup::from_rtt_ms(&plan.area.rtt_ms)
    }
}
