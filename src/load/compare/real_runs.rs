//! Runs in real time: a cluster in this process, each replica with its own endpoint on loopback,
//! and the load generator's clients beside each.

use std::time::Duration;

use super::asking::workload;
use super::cpu::Cpu;
use super::kept::{Asked, Latencies, Outcome, Paths, Seen, Site, Slice, Spread, Stopped, ms};
use super::plan::Plan;
use super::series::Turn;
use crate::load::driver::{self, Drive, Driven, Pace, Recent};
use crate::load::target::local::{Tally, leader_of};
use crate::machine::Kv;
use crate::node::{Latency, LocalCluster, PathLatency, Replica};
use crate::protocol::ProtocolKind;
use crate::types::{Consistency, ReplicaId, Timing};

/// How many slices a run is cut into.
const SLICES: u32 = 100;

/// How long operations may take to be answered once the clients have been told to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// Operations under way at one site, in an open loop.
const OUTSTANDING: u32 = 10_000;

/// Why a plan can be run in virtual time alone, if that is so.
pub fn objection(plan: &Plan) -> Option<&'static str> {
    if plan.crash.as_ref().is_some_and(|crash| crash.back.is_some()) {
        Some("a replica comes back only with --virtual: leave `back_s` out")
    } else if !(plan.cpu.is_zero() && plan.flush.is_zero()) {
        Some("`cpu_us` and `flush_ms` are for --virtual: real ones take what they take")
    } else {
        None
    }
}

/// Takes one turn, in the tokio runtime this is called in.
pub async fn take(plan: &Plan, turn: &Turn<'_>) -> Outcome {
    match attempt(plan, turn).await {
        Ok(seen) => Outcome::Seen(Box::new(seen)),
        Err(why) => Outcome::Failed(why),
    }
}

async fn attempt(plan: &Plan, turn: &Turn<'_>) -> Result<Seen, String> {
    let kind: ProtocolKind = turn.contender.protocol.parse().map_err(|it| format!("{it}"))?;
    let timing =
        Timing { leader: turn.contender.leader.map(ReplicaId::from_index), ..Timing::default() };
    let mut cluster = LocalCluster::<Kv>::builder(plan.area.sites.len()).timing(timing);
    cluster = cluster.configure(move |replica| replica.protocol(kind));
    if !plan.side_by_side {
        cluster = cluster.wan(plan.area.control(turn.seed));
    }
    let cluster =
        cluster.start().await.map_err(|it| format!("the cluster does not start: {it}"))?;
    let drive = Drive::start(&drive_plan(plan, turn), cluster.replicas().to_vec(), 1);
    let watched = watch(plan, turn, &cluster, &drive).await;
    let driven = drive.finish(PATIENCE).await;
    let mut after = tallies(&cluster).await;
    for (tally, before) in after.iter_mut().zip(&watched.before) {
        *tally = std::mem::take(tally).since(before);
    }
    let largest = largest_component(&cluster).await;
    cluster.shutdown().await;
    let seen = Summing { plan, turn, driven: &driven, tallies: &after, watched: &watched, largest };
    seen.seen().ok_or_else(|| match driven.errors.first() {
        Some((why, count)) => format!("no operation was answered; {count} said: {why}"),
        None => "no operation was answered".into(),
    })
}

/// What each replica has counted so far; one that has stopped, until then.
async fn tallies(cluster: &LocalCluster<Kv>) -> Vec<Tally> {
    let mut all = Vec::new();
    for replica in cluster.replicas() {
        all.push(replica.metrics().await.map(|it| Tally::of(&it)).unwrap_or_default());
    }
    all
}

/// Of all that was executed since the start.
async fn largest_component(cluster: &LocalCluster<Kv>) -> Option<u64> {
    let mut largest = None;
    for replica in cluster.replicas() {
        let here = replica.metrics().await.map(|it| it.largest_component as u64);
        largest = largest.max(here);
    }
    largest
}

fn drive_plan(plan: &Plan, turn: &Turn<'_>) -> driver::Plan {
    let pace = match turn.point.load {
        Asked::Clients(clients) => Pace::Closed { clients, think: Duration::ZERO },
        Asked::Rate(rate) => {
            Pace::Open { rate, spread: driver::Spread::Poisson, outstanding: OUTSTANDING }
        }
    };
    driver::Plan {
        pace,
        reads: Consistency::Linearizable,
        warm_up: plan.warm_up,
        ..driver::Plan::closed(workload(plan, turn.point, turn.seed), 1, 0)
    }
}

/// What was seen while the clients worked.
#[derive(Default)]
struct Watched {
    over_time: Vec<Slice>,
    crash: Option<Stopped>,
    /// What each replica had counted when the warm-up was over.
    before: Vec<Tally>,
    /// What each counted from then on, until the clients were told to stop.
    counted: Vec<Tally>,
    /// Operations answered between the two.
    answered: u64,
    /// What the replicas worked between the two.
    cpu: Cpu,
}

/// Lets the clients work for their time.
async fn watch(
    plan: &Plan,
    turn: &Turn<'_>,
    cluster: &LocalCluster<Kv>,
    drive: &Drive<Replica<Kv>>,
) -> Watched {
    let length = (plan.warm_up + plan.time_of(turn.point)) / SLICES;
    let mut crash = plan.crash_in(turn.contender, turn.point);
    let (mut watched, mut counts) = (Watched::default(), false);
    for number in 1..=SLICES {
        let start = length * (number - 1);
        let end = length * number;
        if !counts && start >= plan.warm_up {
            // What came until now came in slices that are over.
            (watched.before, watched.cpu, counts) = (tallies(cluster).await, Cpu::start(), true);
        }
        if let Some(due) = crash.take_if(|crash| crash.at < end) {
            tokio::time::sleep(due.at.saturating_sub(drive.elapsed())).await;
            let as_leader = plan.crash.as_ref().is_some_and(|stop| stop.site.is_none());
            let leader = if as_leader { leader_of(cluster, |_| true).await } else { None };
            let site = leader.map_or(due.site, ReplicaId::index);
            watched.cpu.look();
            let at_s = drive.elapsed().as_secs_f64();
            cluster.crash(u8::try_from(site + 1).expect("few sites"));
            let site = plan.area.sites[site].clone();
            watched.crash = Some(Stopped { site, as_leader, at_s: round(at_s), back_s: None });
        }
        tokio::time::sleep(end.saturating_sub(drive.elapsed())).await;
        let slice = slice(end, length, &drive.recent());
        if counts {
            watched.answered += slice.1;
        }
        watched.over_time.push(slice.0);
    }
    watched.cpu.look();
    let now = tallies(cluster).await;
    let since = now.into_iter().zip(&watched.before).map(|(now, before)| now.since(before));
    watched.counted = since.collect();
    watched
}

/// To a hundredth.
fn round(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

/// A slice, and how many operations were answered in it.
fn slice(end: Duration, length: Duration, recent: &[Recent]) -> (Slice, u64) {
    let mut latency = Latency::default();
    recent.iter().for_each(|site| latency.add(&site.latency));
    let any = latency.count() > 0;
    let slice = Slice {
        at_s: end.as_secs_f64(),
        ops_s: latency.count() as f64 / length.as_secs_f64(),
        p50_ms: any.then(|| ms(latency.quantile(0.5))),
        max_ms: any.then(|| ms(latency.max())),
    };
    (slice, latency.count())
}

/// What a run is summed up from.
struct Summing<'a> {
    plan: &'a Plan,
    turn: &'a Turn<'a>,
    driven: &'a Driven,
    /// What each replica counted from the warm-up on, until all was answered.
    tallies: &'a [Tally],
    watched: &'a Watched,
    largest: Option<u64>,
}

impl Summing<'_> {
    /// `None` if nothing was answered.
    fn seen(&self) -> Option<Seen> {
        let Summing { plan, turn, driven, watched, largest, .. } = *self;
        let mut execute = Latency::default();
        driven.figures.iter().for_each(|figures| execute.add(&figures.latency()));
        let mut all = Tally::default();
        self.tallies.iter().for_each(|tally| all.add(tally));
        let answered = watched.answered.max(1) as f64;
        let counts = || watched.counted.iter().map(|tally| &tally.counts);
        let busiest = counts().map(|it| it.frames_in + it.frames_out).max();
        let cpu: Vec<f64> =
            watched.cpu.by_replica().values().map(|it| it.as_secs_f64() * 1e6 / answered).collect();
        let sites = plan.sites().into_iter().enumerate();
        Some(Seen {
            seconds: plan.time_of(turn.point).as_secs_f64(),
            operations: execute.count(),
            unanswered: driven.unanswered as u64 + driven.dropped,
            fast_share: (all.commands.total() > 0).then(|| all.commands.fast_share()),
            components: largest.map(|size| (size, 1)).into_iter().collect(),
            cpu_us: (!cpu.is_empty()).then(|| cpu.iter().sum()),
            busiest_cpu_us: cpu.iter().copied().reduce(f64::max),
            bytes: Some(counts().map(|it| it.bytes_out).sum::<u64>() as f64 / answered),
            messages: Some(counts().map(|it| it.frames_out).sum::<u64>() as f64 / answered),
            busiest: busiest.map(|frames| frames as f64 / answered),
            sites: sites.map(|(index, (name, bound))| self.site(index, name, bound)).collect(),
            all: Latencies { commit: spread(&all.commit), execute: spread(&execute)? },
            paths: Paths { fast: on_path(&all.fast), slow: on_path(&all.slow) },
            crash: watched.crash.clone(),
            over_time: watched.over_time.clone(),
        })
    }

    fn site(&self, index: usize, name: String, bound: f64) -> Site {
        let execute = self.driven.figures.get(index).and_then(|it| spread(&it.latency()));
        let commit = self.tallies.get(index).and_then(|it| spread(&it.commit));
        Site {
            name,
            bound_ms: (!self.plan.side_by_side).then_some(bound),
            latencies: execute.map(|execute| Latencies { commit, execute }),
        }
    }
}

fn on_path(latency: &PathLatency) -> Option<Latencies> {
    let (commit, execute) = (spread(&latency.commit), spread(&latency.execute)?);
    Some(Latencies { commit, execute })
}

fn spread(latency: &Latency) -> Option<Spread> {
    Spread::of(latency.count(), latency.mean(), |share| latency.quantile(share))
}
