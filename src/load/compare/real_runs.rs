//! Runs in real time: a cluster in this process, each replica with its own endpoint on loopback,
//! and the load generator's clients beside each.

use std::collections::BTreeMap;
use std::time::Duration;

use super::asking::workload;
use super::plan::Plan;
use super::run::{Asked, Latencies, Outcome, Seen, Site, Slice, Spread, Stopped, ms};
use super::series::Turn;
use crate::load::drive::{self, Drive, Driven, Pace, Recent};
use crate::machine::Kv;
use crate::node::{Latency, LocalCluster, Metrics, Replica};
use crate::protocol::ProtocolKind;
use crate::types::Consistency;

/// How many slices a run is cut into.
const SLICES: u32 = 50;

/// How long operations may take to be answered once the clients have been told to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// Operations under way at one site, in an open loop.
const OUTSTANDING: u32 = 10_000;

/// Why a plan can be run in virtual time alone, if that is so.
pub fn objection(plan: &Plan) -> Option<&'static str> {
    if plan.contenders.iter().any(|contender| contender.leader.is_some()) {
        Some("who leads can only be chosen with --virtual: leave `leaders` out")
    } else if plan.crash.is_some_and(|crash| crash.back.is_some()) {
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
    let mut cluster = LocalCluster::<Kv>::builder(plan.area.sites.len());
    cluster = cluster.configure(move |replica| replica.protocol(kind));
    if !plan.side_by_side {
        cluster = cluster.wan(plan.area.control(turn.seed));
    }
    let cluster =
        cluster.start().await.map_err(|it| format!("the cluster does not start: {it}"))?;
    let drive = Drive::start(&drive_plan(plan, turn), cluster.replicas().to_vec(), 1);
    let (over_time, cpu) = watch(plan, &cluster, &drive).await;
    let driven = drive.finish(PATIENCE).await;
    let mut metrics = BTreeMap::new();
    for (site, replica) in cluster.replicas().iter().enumerate() {
        metrics.extend(replica.metrics().await.map(|metrics| (site, metrics)));
    }
    cluster.shutdown().await;
    let seen = Summing { plan, driven: &driven, metrics: &metrics };
    seen.seen(over_time, cpu).ok_or_else(|| match driven.errors.first() {
        Some((why, count)) => format!("no operation was answered; {count} said: {why}"),
        None => "no operation was answered".into(),
    })
}

fn drive_plan(plan: &Plan, turn: &Turn<'_>) -> drive::Plan {
    let pace = match turn.point.load {
        Asked::Clients(clients) => Pace::Closed { clients, think: Duration::ZERO },
        Asked::Rate(rate) => {
            Pace::Open { rate, spread: drive::Spread::Poisson, outstanding: OUTSTANDING }
        }
    };
    drive::Plan {
        pace,
        reads: Consistency::Linearizable,
        warm_up: plan.warm_up,
        ..drive::Plan::closed(workload(plan, turn.point, turn.seed), 1, 0)
    }
}

/// Lets the clients work for their time; what came slice by slice, and the CPU it took.
async fn watch(
    plan: &Plan,
    cluster: &LocalCluster<Kv>,
    drive: &Drive<Replica<Kv>>,
) -> (Vec<Slice>, Option<Duration>) {
    let all = plan.warm_up + plan.time;
    let length = all / SLICES;
    let (mut slices, mut before, mut crash) = (Vec::new(), None, plan.crash);
    for number in 1..=SLICES {
        let end = length * number;
        if let Some(due) = crash.filter(|crash| crash.at < end) {
            tokio::time::sleep(due.at.saturating_sub(drive.elapsed())).await;
            cluster.crash(u8::try_from(due.site + 1).expect("few sites"));
            crash = None;
        }
        tokio::time::sleep(end.saturating_sub(drive.elapsed())).await;
        if before.is_none() && end >= plan.warm_up {
            before = Some(cpu());
        }
        slices.push(slice(end, length, &drive.recent()));
    }
    let before = before.flatten();
    (slices, before.and_then(|before| Some(cpu()?.saturating_sub(before))))
}

fn slice(end: Duration, length: Duration, recent: &[Recent]) -> Slice {
    let mut latency = Latency::default();
    recent.iter().for_each(|site| latency.add(&site.latency));
    let any = latency.count() > 0;
    Slice {
        at_s: end.as_secs_f64(),
        ops_s: latency.count() as f64 / length.as_secs_f64(),
        p50_ms: any.then(|| ms(latency.quantile(0.5))),
        max_ms: any.then(|| ms(latency.max())),
    }
}

/// What a run is summed up from.
struct Summing<'a> {
    plan: &'a Plan,
    driven: &'a Driven,
    /// Of those that live, by site.
    metrics: &'a BTreeMap<usize, Metrics>,
}

impl Summing<'_> {
    /// `None` if nothing was answered.
    fn seen(&self, over_time: Vec<Slice>, cpu: Option<Duration>) -> Option<Seen> {
        let Summing { plan, driven, metrics } = *self;
        let (mut execute, mut commit) = (Latency::default(), Latency::default());
        driven.figures.iter().for_each(|figures| execute.add(&figures.latency()));
        metrics.values().for_each(|it| commit.add(&it.commit));
        // Replicas count from their start, so their counts are for all that was ever answered.
        let answered = driven.answered.max(1) as f64;
        let (fast, slow) = (
            metrics.values().map(|it| it.commands.fast).sum::<u64>(),
            metrics.values().map(|it| it.commands.slow).sum::<u64>(),
        );
        let sum = |of: fn(&Metrics) -> u64| metrics.values().map(of).sum::<u64>() as f64 / answered;
        let busiest = metrics.values().map(|it| it.frames_in + it.frames_out).max();
        let largest = metrics.values().map(|it| it.largest_component as u64).max();
        let counted = execute.count();
        let sites = plan.sites().into_iter().enumerate();
        Some(Seen {
            seconds: plan.time.as_secs_f64(),
            operations: counted,
            unanswered: driven.unanswered as u64 + driven.dropped,
            fast_share: (fast + slow > 0).then(|| fast as f64 / (fast + slow) as f64),
            components: largest.map(|size| (size, 1)).into_iter().collect(),
            cpu_us: cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / counted.max(1) as f64),
            bytes: Some(sum(|it| it.bytes_out)),
            messages: Some(sum(|it| it.frames_out)),
            busiest: busiest.map(|frames| frames as f64 / answered),
            sites: sites.map(|(index, (name, bound))| self.site(index, name, bound)).collect(),
            all: Latencies { commit: spread(&commit), execute: spread(&execute)? },
            crash: plan.crash.map(|crash| Stopped {
                site: plan.area.sites[crash.site].clone(),
                at_s: crash.at.as_secs_f64(),
                back_s: None,
            }),
            over_time,
        })
    }

    fn site(&self, index: usize, name: String, bound: f64) -> Site {
        let execute = self.driven.figures.get(index).and_then(|it| spread(&it.latency()));
        let commit = self.metrics.get(&index).and_then(|it| spread(&it.commit));
        Site {
            name,
            bound_ms: (!self.plan.side_by_side).then_some(bound),
            latencies: execute.map(|execute| Latencies { commit, execute }),
        }
    }
}

fn spread(latency: &Latency) -> Option<Spread> {
    Spread::of(latency.count(), latency.mean(), |share| latency.quantile(share))
}

/// The CPU that this process has taken so far, but for the threads of the load generator. `None`
/// where that cannot be told.
fn cpu() -> Option<Duration> {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        // A thread that has ended in the meantime is no longer counted.
        let Ok(stat) = std::fs::read_to_string(task.ok()?.path().join("stat")) else { continue };
        // The name stands in parentheses and may hold anything; the 12th and 13th field behind it
        // are the ticks in user and in kernel mode, a hundred a second.
        let (front, fields) = stat.rsplit_once(')')?;
        let name = front.split_once('(')?.1;
        if !name.starts_with(drive::THREAD) {
            let taken = fields.split_ascii_whitespace().skip(11).take(2);
            ticks += taken.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
        }
    }
    Some(Duration::from_millis(10 * ticks))
}
