//! Runs a plan. Under each load the contenders take turns again and again, so that disturbances of
//! the machine affect all alike. Each turn is a scenario and a run, in real or virtual time, and is
//! stored as soon as it ends.

use std::future::pending;
use std::time::Duration;

use super::keep::RunStore;
use super::kept::{Comparison, Demand, FORMAT, KeptOutcome, KeptRun, Point, Seen, Stopped};
use super::plan::{ComparisonPlan, Turn};
use crate::load::driver::{ArrivalProcess, Pace, Plan};
use crate::load::result::run::Run;
use crate::load::runner;
use crate::load::scenario::faults::{Fault, Who};
use crate::load::scenario::input::FileError;
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

/// Runs all turns and stores the results. A failed run is noted, and the next one follows. When
/// `go_on`, which is told the turn and how many were before it, returns false, no more are made.
/// Must be called within a tokio runtime.
///
/// If a run cannot be stored, no more are made, too. The comparison holds the results so far.
pub async fn run(
    plan: &ComparisonPlan,
    virtual_time: bool,
    mut store: Option<&mut RunStore>,
    mut go_on: impl FnMut(&Turn<'_>, usize) -> bool,
) -> (Comparison, Result<(), FileError>) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let machine = match virtual_time {
        // The real machine does not matter: the same plan gives the same bytes.
        true => "virtual time".into(),
        false => format!("{} {}, {cores} cores", std::env::consts::OS, std::env::consts::ARCH),
    };
    let mut comparison = Comparison {
        format: FORMAT,
        title: plan.title.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        machine,
        config: plan.text.clone(),
        runs: Vec::new(),
    };
    let mut kept = Ok(());
    for (done, turn) in plan.turns().iter().enumerate() {
        if kept.is_err() || !go_on(turn, done) {
            break;
        }
        let Turn { contender, point, repeat, seed } = *turn;
        let outcome = take(plan, turn, virtual_time).await;
        let who = contender.who.clone();
        let run = KeptRun { who, point, repeat, seed, virtual_time, outcome };
        kept = store.as_mut().map_or(Ok(()), |store| store.keep(&run));
        comparison.runs.push(run);
    }
    (comparison, kept)
}

/// Runs a turn.
async fn take(plan: &ComparisonPlan, turn: &Turn<'_>, virtual_time: bool) -> KeptOutcome {
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
    // Writes of one shared key or of each client's own keys.
    let workload = Workload {
        keys: Keys::Conflict { percent: point.conflict_percent, hot: 1, age: None },
        mix: Mix::reads(0.0),
        values: Sizes::Fixed(plan.value_bytes),
        seed,
        ..Workload::default()
    };
    let asking = Plan { pace, warm_up: plan.warm_up, ..Plan::closed(workload, 1, 0) };
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
    use super::super::kept::Latencies;
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

    #[tokio::test]
    async fn who_is_stopped_keeps_what_is_there() {
        let plan = plan("conflicts = [0, 50]\nclients = [2]\nrepeats = 2\nseconds = 0.1\n");
        let (comparison, kept) = run(&plan, true, None, |_, done| done < 3).await;
        assert_eq!((comparison.runs.len(), kept.is_ok()), (3, true));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_leader_that_was_wished_for_is_the_one_that_stops() {
        let plan = plan(
            "leaders = ['r2']\nconflicts = [0]\nclients = [2]\nrepeats = 1\nseconds = 0.2\n\
             crash = { site = 'leader', at_s = 1.0, rate = 300, seconds = 4.0 }\n",
        );
        assert_eq!(objection(&plan), None);
        for virtual_time in [true, false] {
            for turn in plan.turns().iter().filter(|turn| turn.point.crash) {
                let outcome = take(&plan, turn, virtual_time).await;
                let KeptOutcome::Seen(seen) = outcome else { panic!("it came to nothing") };
                let crash = seen.crash.expect("one stopped");
                assert_eq!((&crash.site[..], crash.as_leader), ("r2", true), "{virtual_time}");
                let after = seen.over_time.iter().filter(|slice| slice.at_s > 3.5);
                let answered = after.filter(|slice| slice.ops_s > 0.0).count();
                assert!(answered > 0, "{} goes on without it", turn.contender.who);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn real_time_sees_what_virtual_time_sees() {
        let plan = plan(
            "conflicts = [0]\nclients = [2]\nseconds = 0.3\n\
             crash = { site = 'r3', at_s = 0.05 }\n",
        );
        assert_eq!(objection(&plan), None);
        for turn in plan.turns().iter().take(2) {
            let KeptOutcome::Seen(seen) = take(&plan, turn, false).await else {
                panic!("{} came to nothing", turn.contender.who);
            };
            let Seen { operations, over_time, crash, sites, bytes, .. } = *seen;
            assert!(operations > 0 && bytes > Some(0.0) && crash.is_some());
            if cfg!(target_os = "linux") {
                let (all, most) = (seen.cpu_us.expect("it is known"), seen.busiest_cpu_us);
                assert!(most.is_some_and(|most| 0.0 < most && most < all && all < 3.0 * most));
            }
            let on = |path: &Option<Latencies>| path.as_ref().map_or(0, |it| it.execute.count);
            let (fast, slow) = (on(&seen.paths.fast), on(&seen.paths.slow));
            // The replicas count apart from the clients, so not from the same moment on.
            let counted = fast + slow;
            assert!(fast > 0 && operations / 2 < counted && counted < operations * 2);
            assert!(over_time.len() == 100 && over_time.iter().any(|slice| slice.ops_s > 0.0));
            assert!(sites[0].latencies.as_ref().is_some_and(|it| it.commit.is_some()));
        }
    }
}
