//! Random schedules: loss, reordering, duplication, partitions, crashes that lose what was not
//! flushed, clocks that drift apart, replicas that stall, snapshots and installs.
//!
//! At every step there is one decision a slot, and no replica answers stale reads alone. In the
//! end, once nothing fails any more, there is one leader with a lease; everything decided is
//! executed everywhere; and every proposal of a life that did not end is decided.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::Plant;
use super::stage::*;
use crate::protocol::multipaxos::Path;
use crate::protocol::{PathSet, Paths, Protocol};
use crate::types::{InstanceId, Retention};

/// What may go wrong in a schedule, as probabilities per step of about two milliseconds.
#[derive(Clone, Copy)]
struct Weather {
    loss: f64,
    crash: f64,
    cut: f64,
    /// The delay of the slowest messages, in milliseconds.
    slow: u64,
    flush: f64,
}

struct Chaos {
    rng: ChaCha8Rng,
    stage: Stage,
    weather: Weather,
    /// The replicas that are cut off, and those that are stalled.
    cut: Vec<bool>,
    stalled: Vec<bool>,
}

struct Outcome {
    paths: Paths,
    decided: u64,
    leases: usize,
}

impl Chaos {
    fn new(seed: u64, plant: Option<Plant>) -> Chaos {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let n = [3, 3, 5, 4, 2][rng.random_range(0..5)];
        let keep = if rng.random() { 20_000 } else { 1 << 20 };
        let retention = Retention { volatile: false, keep };
        let mut stage = Stage::with(n, seed, retention, plant);
        stage.saves_late = rng.random();
        for node in &mut stage.nodes {
            node.rate = rng.random_range(0.85..1.2);
        }
        let weather = Weather {
            loss: [0.0, 0.02, 0.1][rng.random_range(0..3)],
            crash: [0.0, 0.002, 0.006][rng.random_range(0..3)],
            cut: [0.0, 0.002, 0.004][rng.random_range(0..3)],
            slow: [20, 200, 1500][rng.random_range(0..3)],
            flush: [1.0, 0.3, 0.05][rng.random_range(0..3)],
        };
        Chaos { rng, stage, weather, cut: vec![false; n], stalled: vec![false; n] }
    }

    fn chance(&mut self, chance: f64) -> bool {
        self.rng.random_bool(chance)
    }

    fn anyone(&mut self) -> usize {
        self.rng.random_range(0..self.cut.len())
    }

    fn run(mut self, steps: usize) -> Result<Outcome, String> {
        for _ in 0..steps {
            self.step();
            if let Some(broken) = self.stage.broken.take() {
                return Err(broken);
            }
        }
        self.calm()?;
        let paths = self.stage.all_paths();
        let decided = self.stage.truth.len() as u64;
        Ok(Outcome { paths, decided, leases: self.stage.leases })
    }

    fn step(&mut self) {
        let by = self.rng.random_range(500..4000);
        self.stage.advance(std::time::Duration::from_micros(by));
        self.post();
        for at in 0..self.cut.len() {
            if self.stalled[at] {
                continue;
            }
            self.stage.tick(at);
            if self.chance(self.weather.flush) {
                self.stage.flush(at);
            }
        }
        if self.chance(0.15) {
            let at = self.anyone();
            if self.stage.nodes[at].up && !self.stalled[at] {
                self.stage.propose(at);
            }
        }
        if self.chance(0.004) {
            let at = self.anyone();
            self.stage.save(at);
        }
        if self.chance(0.01) {
            self.stage.fetch_snapshots();
        }
        self.fail();
        self.stage.check_leases();
    }

    /// The messages that are due arrive in any order, some twice or not at all.
    fn post(&mut self) {
        let now = self.stage.now;
        let network = std::mem::take(&mut self.stage.network);
        let (mut due, mut later) = (Vec::new(), Vec::new());
        for flying in network {
            let waits = flying.at > now || self.stalled[flying.to];
            if waits { later.push(flying) } else { due.push(flying) }
        }
        self.stage.network = later;
        while !due.is_empty() {
            let flying = due.swap_remove(self.rng.random_range(0..due.len()));
            let lost = self.cut[flying.from] || self.cut[flying.to];
            if lost || self.chance(self.weather.loss) {
                continue;
            }
            if self.chance(0.03) {
                let mut again = flying.clone();
                again.at = now + millis(self.rng.random_range(0..self.weather.slow));
                self.stage.network.push(again);
            }
            if self.chance(0.02) {
                let mut slow = flying;
                slow.at = now + millis(self.rng.random_range(0..self.weather.slow));
                self.stage.network.push(slow);
                continue;
            }
            self.stage.deliver(flying);
        }
    }

    fn fail(&mut self) {
        let at = self.anyone();
        if self.chance(self.weather.crash) && self.stage.nodes[at].up {
            let kept = self.rng.random_range(0..=self.stage.nodes[at].unflushed());
            self.stage.crash(at, kept);
            // Often it is back before any replica noticed.
            if self.chance(0.5) {
                self.stage.restart(at);
            }
        }
        let at = self.anyone();
        if self.chance(0.01) && !self.stage.nodes[at].up {
            self.stage.restart(at);
        }
        let at = self.anyone();
        let healed = if self.cut[at] { 0.01 } else { self.weather.cut };
        if self.chance(healed) {
            self.cut[at] = !self.cut[at];
        }
        let at = self.anyone();
        let moved = if self.stalled[at] { 0.03 } else { self.weather.cut };
        if self.chance(moved) {
            self.stalled[at] = !self.stalled[at];
        }
    }

    /// From now on nothing fails; checks how everything ends.
    fn calm(&mut self) -> Result<(), String> {
        let n = self.cut.len();
        for at in 0..n {
            if !self.stage.nodes[at].up {
                self.stage.restart(at);
            }
            self.stage.save(at);
        }
        for _ in 0..6 {
            self.stage.run(millis(1000));
            (0..n).for_each(|at| self.stage.save(at));
        }
        if let Some(broken) = self.stage.broken.take() {
            return Err(broken);
        }
        let leaders: Vec<_> = (0..n).filter(|at| self.stage.nodes[*at].leads()).collect();
        let [leader] = leaders[..] else { return Err(format!("{leaders:?} lead")) };
        let stage = &self.stage;
        let last = stage.truth.len() as u64;
        if stage.truth.last_key_value().is_some_and(|(slot, _)| *slot != last) {
            return Err("there is a gap".to_owned());
        }
        let node = &stage.nodes[leader];
        if node.protocol.read_point(&node.view) != Some(last) {
            return Err(format!("{leader} leads, and may not read at {last}"));
        }
        for (at, node) in stage.nodes.iter().enumerate() {
            if node.executed != last {
                return Err(format!("{at} executed {} of {last}", node.executed));
            }
            if node.protocol.pending() > 0 {
                return Err(format!("{at} waits for {} proposals", node.protocol.pending()));
            }
            let decided =
                |name: &&InstanceId| stage.truth.values().any(|(proposal, _)| proposal == *name);
            let lost = node.proposed.iter().find(|name| !decided(name));
            if let Some(lost) = lost {
                return Err(format!("{lost} is lost"));
            }
            let floor = node.protocol.standing().floor;
            if floor != last {
                return Err(format!("{at} keeps what is behind {floor} of {last}"));
            }
        }
        Ok(())
    }
}

fn outcome(seed: u64, steps: usize, plant: Option<Plant>) -> Result<Outcome, String> {
    // A replica that finds a contradiction panics.
    catch_unwind(AssertUnwindSafe(|| Chaos::new(seed, plant).run(steps)))
        .unwrap_or_else(|_| Err("a replica found a contradiction".to_owned()))
}

#[test]
fn whatever_happens_one_log_is_agreed_on_and_all_goes_on_in_the_end() {
    let seeds = std::env::var("ISONOMY_SEEDS").map_or(40, |seeds| seeds.parse().expect("a number"));
    let (mut paths, mut decided, mut leases) = (Paths::default(), 0, 0);
    for seed in 0..seeds {
        match outcome(seed, 4000, None) {
            Ok(outcome) => {
                paths.add(&outcome.paths);
                decided += outcome.decided;
                leases += outcome.leases;
            }
            Err(broken) => panic!("seed {seed}: {broken}"),
        }
    }
    assert!(decided > 1000 && leases > 10_000, "{decided} decided, {leases} reads");
    let all = [Path::USUAL, Path::TRUNCATING, Path::RARE].concat();
    let apart = [Path::NextPage, Path::WindowFull, Path::LedAgain];
    let missing: Vec<_> = all
        .into_iter()
        .filter(|path| !apart.contains(path) && paths.count(*path) == 0)
        .map(Path::name)
        .collect();
    assert!(missing.is_empty(), "never taken: {missing:?} of {paths:?}");
}

#[test]
fn one_seed_is_one_schedule() {
    let of = |seed| outcome(seed, 1500, None).map(|outcome| (outcome.paths, outcome.decided));
    assert_eq!(of(3), of(3));
}

/// The bugs that random schedules find soon; `stories` has the others.
#[test]
fn planted_bugs_are_noticed() {
    let plants =
        [Plant::EarlyVote, Plant::IgnoreAccepted, Plant::CommitAnyBallot, Plant::NoBarrier];
    for plant in plants {
        let noticed = (0..300).any(|seed| outcome(seed, 4000, Some(plant)).is_err());
        assert!(noticed, "{plant:?}");
    }
}
