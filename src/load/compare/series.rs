//! Runs a plan. Under each load the contenders take turns again and again, so that disturbances of
//! the machine affect all alike. Each run is stored as soon as it ends.

use super::keep::{KeepError, RunStore};
use super::kept::{Comparison, FORMAT, KeptOutcome, KeptRun, Point};
use super::plan::{ComparisonPlan, Contender};

/// One planned run.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// The contender.
    pub contender: &'a Contender,
    /// The load.
    pub point: Point,
    /// The number of the repeat, from 1.
    pub repeat: u32,
    /// The seed.
    pub seed: u64,
    /// The number of turns before this one.
    pub done: usize,
    /// The number of turns in all.
    pub of: usize,
}

impl ComparisonPlan {
    /// All turns in order: A B A B under the first load, then under the next.
    pub fn turns(&self) -> Vec<Turn<'_>> {
        let mut turns = Vec::new();
        let of = self.points.len() * self.contenders.len() * self.repeats as usize;
        for point in &self.points {
            for repeat in 1..=self.repeats {
                for contender in &self.contenders {
                    let seed = self.seed.wrapping_add(u64::from(repeat) - 1);
                    let done = turns.len();
                    turns.push(Turn { contender, point: *point, repeat, seed, done, of });
                }
            }
        }
        turns
    }

    /// A comparison without runs.
    pub fn comparison(&self, virtual_time: bool) -> Comparison {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let machine = match virtual_time {
            // The real machine does not matter: the same plan gives the same bytes.
            true => "virtual time".into(),
            false => format!("{} {}, {cores} cores", std::env::consts::OS, std::env::consts::ARCH),
        };
        Comparison {
            format: FORMAT,
            title: self.title.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            machine,
            config: self.text.clone(),
            runs: Vec::new(),
        }
    }
}

/// Runs all turns and stores the results. A failed run is noted, and the next one follows. When
/// `go_on` returns false, no more are made.
///
/// # Errors
/// If a run cannot be stored: no more are made. The comparison holds the results so far.
pub fn run(
    plan: &ComparisonPlan,
    comparison: &mut Comparison,
    virtual_time: bool,
    mut store: Option<&mut RunStore>,
    mut take: impl FnMut(&Turn<'_>) -> KeptOutcome,
    mut go_on: impl FnMut(&Turn<'_>) -> bool,
) -> Result<(), KeepError> {
    for turn in plan.turns() {
        if !go_on(&turn) {
            break;
        }
        let Turn { contender, point, repeat, seed, .. } = turn;
        let outcome = take(&turn);
        let who = contender.who.clone();
        let run = KeptRun { who, point, repeat, seed, virtual_time, outcome };
        let kept = store.as_mut().map_or(Ok(()), |store| store.keep(&run));
        comparison.runs.push(run);
        kept?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::kept::{Latencies, Seen};
    use super::super::turn::{knows, objection, take};
    use super::*;

    /// Two protocols, side by side.
    fn plan(seconds: f64) -> ComparisonPlan {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("plan.toml");
        let text = format!(
            "title = 't'\nreplicas = 3\nprotocols = ['epaxos', 'multi-paxos']\n\
             conflicts = [0, 50]\nclients = [2]\nrepeats = 2\nseconds = {seconds}\n\
             crash = {{ site = 'r3', at_s = 0.05 }}\n"
        );
        std::fs::write(&path, text).expect("written");
        ComparisonPlan::read(&path, knows).expect("a good plan")
    }

    #[test]
    fn all_take_turns() {
        let plan = plan(0.1);
        let turns = plan.turns();
        let order: Vec<(&str, f64, u32)> = turns
            .iter()
            .map(|it| (&it.contender.protocol[..], it.point.conflict_percent, it.repeat))
            .collect();
        let (a, b) = ("epaxos", "multi-paxos");
        let under = |load| [(a, load, 1), (b, load, 1), (a, load, 2), (b, load, 2)];
        assert_eq!(order, [under(0.0), under(50.0)].concat());
        assert!(turns.iter().all(|it| it.seed == u64::from(it.repeat) && it.of == 8));
    }

    #[test]
    fn who_is_stopped_keeps_what_is_there() {
        let plan = plan(0.1);
        let mut comparison = plan.comparison(true);
        let fail = |_: &Turn<'_>| KeptOutcome::Failed("no".into());
        run(&plan, &mut comparison, true, None, fail, |turn| turn.done < 3).expect("there is room");
        assert_eq!(comparison.runs.len(), 3);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_leader_that_was_wished_for_is_the_one_that_stops() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("plan.toml");
        let text = "title = 't'\nreplicas = 3\nprotocols = ['epaxos', 'multi-paxos']\n\
             leaders = ['r2']\nconflicts = [0]\nclients = [2]\nrepeats = 1\nseconds = 0.2\n\
             crash = { site = 'leader', at_s = 1.0, rate = 300, seconds = 4.0 }\n";
        std::fs::write(&path, text).expect("written");
        let plan = ComparisonPlan::read(&path, knows).expect("a good plan");
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
        let plan = plan(0.3);
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
