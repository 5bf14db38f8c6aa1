//! One turn of a comparison: its scenario, in real or virtual time, and what is stored of the
//! result.

use std::future::pending;
use std::time::Duration;

use super::kept::{Demand, KeptOutcome, Point, Seen, Stopped};
use super::plan::{ComparisonPlan, Turn};
use crate::load::driver::{ArrivalProcess, Pace, Plan};
use crate::load::result::run::Run;
use crate::load::runner;
use crate::load::scenario::faults::{Fault, Who};
use crate::load::scenario::{LocalTarget, Prices, Scenario, Target, leads};
use crate::load::workload::{Keys, Mix, Sizes, Workload};
use crate::node::Durability;
use crate::types::{Optimisations, ReplicaId};

/// How many slices a run is cut into.
const SLICES: u32 = 100;

/// The bound on operations under way at one site, in an open loop.
const OUTSTANDING: u32 = 10_000;

/// Why a plan can run only in virtual time, if it can.
pub fn objection(plan: &ComparisonPlan) -> Option<&'static str> {
    if plan.crash.as_ref().is_some_and(|crash| crash.back.is_some()) {
        Some("a replica comes back only with --virtual: leave `back_s` out")
    } else if !(plan.cpu.is_zero() && plan.flush.is_zero()) {
        Some("`cpu_us` and `flush_ms` are for --virtual: real ones take what they take")
    } else {
        None
    }
}

/// Runs a turn. Must be called within a tokio runtime.
pub async fn take(plan: &ComparisonPlan, turn: &Turn<'_>, virtual_time: bool) -> KeptOutcome {
    let scenario = scenario(plan, turn, virtual_time);
    let run = match runner::run(&scenario, 0, &mut |_| {}, pending()).await {
        Ok(run) => run,
        Err(error) => return KeptOutcome::Failed(error.to_string()),
    };
    match seen(plan, turn.point, &run, virtual_time) {
        Some(seen) => KeptOutcome::Seen(Box::new(seen)),
        None => KeptOutcome::Failed(match run.error_words.first() {
            Some((why, count)) => format!("no operation was answered; {count} said: {why}"),
            None if virtual_time => "no command was answered".into(),
            None => "no operation was answered".into(),
        }),
    }
}

/// The scenario of a turn.
fn scenario(plan: &ComparisonPlan, turn: &Turn<'_>, virtual_time: bool) -> Scenario {
    let Turn { contender, point, seed, .. } = *turn;
    let protocol = contender.protocol;
    // A leaderless protocol has a stand-in: its replica stops where other protocols lose their
    // leader.
    let leader = contender.leader.or((!leads(protocol)).then_some(plan.stand_in));
    let cluster = LocalTarget {
        protocol,
        replicas: plan.area.sites.len(),
        leader: leader.map(ReplicaId::from_index),
        area: (virtual_time || !plan.side_by_side).then(|| plan.area.clone()),
        durability: Durability::Memory,
        optimisations: Optimisations::default(),
        data_dir: None,
    };
    let pace = match point.load {
        Demand::Clients(clients) => Pace::Closed { clients, think: Duration::ZERO },
        Demand::Rate(rate) => {
            Pace::Open { rate, spread: ArrivalProcess::Poisson, outstanding: OUTSTANDING }
        }
    };
    let asking =
        Plan { pace, warm_up: plan.warm_up, ..Plan::closed(workload(plan, point, seed), 1, 0) };
    let target = match virtual_time {
        true => Target::Virtual(cluster, Prices { message: plan.cpu, flush: plan.flush }),
        false => Target::Local(cluster),
    };
    Scenario {
        duration: Some(plan.time_of(point)),
        interval: slice(plan, point),
        faults: faults(plan, point),
        ..Scenario::plain(target, asking)
    }
}

/// The clients' workload under a load: writes of one shared key or of each client's own keys.
fn workload(plan: &ComparisonPlan, point: Point, seed: u64) -> Workload {
    Workload {
        keys: Keys::Conflict { percent: point.conflict_percent, hot: 1, age: None },
        mix: Mix::reads(0.0),
        values: Sizes::Fixed(plan.value_bytes),
        seed,
        ..Workload::default()
    }
}

fn slice(plan: &ComparisonPlan, point: Point) -> Duration {
    (plan.warm_up + plan.time_of(point)) / SLICES
}

/// The replica that stops, and when it is back. If it is the leader, the runner finds out which.
fn faults(plan: &ComparisonPlan, point: Point) -> Vec<Fault> {
    let Some(stop) = plan.crash.as_ref().filter(|_| point.crash) else { return Vec::new() };
    let number = |site| ReplicaId::from_index(site).number();
    let who = stop.site.map_or(Who::Leader, |site| Who::Replica(number(site)));
    let back = stop.back.map(|back| Fault::restart(number(stop.site.unwrap_or_default()), back));
    [Fault::kill(who, stop.at)].into_iter().chain(back).collect()
}

/// The measurements of a run; `None` if no operation was answered.
fn seen(plan: &ComparisonPlan, point: Point, run: &Run, virtual_time: bool) -> Option<Seen> {
    let stop = run.events.iter().find_map(|event| event.stop);
    let stopped = stop.map(|stop| {
        let at_s = stop.at.as_secs_f64();
        Stopped {
            site: plan.area.sites[usize::from(stop.replica) - 1].clone(),
            as_leader: plan.crash.as_ref().is_some_and(|crash| crash.site.is_none()),
            // Real time is not exact, and reports show hundredths of a second.
            at_s: if virtual_time { at_s } else { (at_s * 100.0).round() / 100.0 },
            back_s: stop.back.map(|back| back.as_secs_f64()),
        }
    });
    let slices = (slice(plan, point), SLICES);
    Seen::of(run, &plan.area.sites, plan.time_of(point), stopped, slices)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::plan;
    use super::*;
    use crate::load::scenario::faults::Action;

    /// The leader or stand-in, and the faults, of each turn of a plan.
    fn turns(text: &str, virtual_time: bool) -> Vec<(Option<ReplicaId>, Vec<Action>)> {
        let start = "conflicts = [0]\nclients = [1]\nrepeats = 1\nseconds = 5\n";
        let plan = plan(&format!("{start}{text}"));
        let one = |turn: &Turn<'_>| {
            let made = scenario(&plan, turn, virtual_time);
            assert_eq!(made.interval * SLICES, plan.time_of(turn.point));
            let actions = made.faults.into_iter().map(|fault| fault.action).collect();
            match made.target {
                Target::Local(cluster) => {
                    assert!(cluster.area.is_none() && !virtual_time);
                    (cluster.leader, actions)
                }
                Target::Virtual(cluster, _) => {
                    assert!(cluster.area.is_some() && virtual_time);
                    (cluster.leader, actions)
                }
                Target::Remote(_) => panic!("a cluster is started"),
            }
        };
        plan.turns().iter().map(one).collect()
    }

    #[test]
    fn where_nobody_leads_another_stands_for_the_leader_that_stops() {
        let crash = "leaders = ['r2', 'r3']\n\
                     crash = { site = 'leader', at_s = 2, rate = 5, seconds = 5 }\n";
        let id = |number| ReplicaId::new(number);
        for virtual_time in [true, false] {
            let all = turns(crash, virtual_time);
            let leaders: Vec<_> = all.iter().map(|(leader, _)| *leader).collect();
            assert_eq!(leaders, [id(2), id(2), id(3)].repeat(2));
            let stops = [&[][..], &[Action::Kill(Who::Leader)]];
            assert!(all[..3].iter().all(|(_, actions)| actions == stops[0]));
            assert!(all[3..].iter().all(|(_, actions)| actions == stops[1]), "runs of their own");
        }
        let usual = turns("", false);
        assert_eq!(
            usual,
            [(id(1), Vec::new()), (None, Vec::new())],
            "who leads, it decides itself"
        );
    }

    #[test]
    fn who_stops_may_come_back() {
        let crash = "crash = { site = 'r3', at_s = 2, back_s = 3 }\n";
        let wanted = [Action::Kill(Who::Replica(3)), Action::Restart(3)];
        assert!(turns(crash, true).iter().all(|(_, actions)| *actions == wanted));
    }
}
