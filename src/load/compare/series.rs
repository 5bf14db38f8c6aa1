//! Runs a plan. Under each load the contenders take turns again and again, so that disturbances of
//! the machine affect all alike. Each run is stored as soon as it ends.

use super::keep::RunStore;
use super::kept::{Comparison, FORMAT, KeptRun};
use super::plan::{ComparisonPlan, Turn};
use super::turn::take;
use crate::load::scenario::input::FileError;

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

#[cfg(test)]
mod tests {
    use super::super::fixture::plan;
    use super::super::kept::{KeptOutcome, Latencies, Seen};
    use super::super::turn::objection;
    use super::*;

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
