//! Chaos: random schedules, beyond the stories. Replicas crash and lose any suffix of what was not
//! durable, restart, are suspected rightly and wrongly, write snapshots, and install those of
//! others. Messages are lost, duplicated and reordered, and several replicas propose at once. Each
//! schedule has a seed, so it can be repeated.
//!
//! In every schedule, all lives of all replicas decide the same in each slot, and only values that
//! were proposed. Once nothing fails any more, all execute the same prefix. It holds every proposal
//! that its replica did not lose in a crash.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::stage::Stage;
use crate::protocol::{PathSet, Paths, Protocol, log};
use crate::types::{Retention, Settings};

/// The driver's actions in one schedule before nothing fails any more.
const STEPS: usize = 600;
/// How long it may take after that until everything is executed.
const CALM: Duration = Duration::from_secs(60);

/// The outcome of some schedules.
#[derive(Default, Debug)]
pub(in crate::protocol) struct Tally {
    pub(in crate::protocol) paths: Paths,
    pub(in crate::protocol) crashes: usize,
    pub(in crate::protocol) proposed: usize,
    /// Proposals that were decided in more than one slot.
    pub(in crate::protocol) twice: usize,
    pub(in crate::protocol) installed: usize,
}

impl Tally {
    /// All of a protocol's own paths were taken, and those of the log that do not depend on how
    /// much is kept.
    #[track_caller]
    pub(in crate::protocol) fn check_paths<P: PathSet>(&self) {
        let own = P::ALL.iter().filter(|path| self.paths.count(**path) == 0);
        let own: Vec<_> = own.collect();
        let log = log::Path::ALL.iter().filter(|path| !log::Path::TRUNCATING.contains(path));
        let log: Vec<_> = log.filter(|path| self.paths.count(**path) == 0).collect();
        assert!(own.is_empty() && log.is_empty(), "never taken: {own:?} {log:?}");
    }
}

struct Chaos<P: Protocol> {
    rng: ChaCha8Rng,
    stage: Stage<P>,
    next_tag: u64,
    /// Lost messages, per mille.
    loss: u32,
    tally: Tally,
}

/// Runs one schedule to its end. Returns the violation, if there is one.
pub(in crate::protocol) fn run<P: Protocol + Debug + 'static>(
    n: usize,
    seed: u64,
    make: impl Fn(Settings) -> P + 'static,
) -> Result<Tally, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Half of the clusters drop decisions quickly.
    let keep = if rng.random() { 600 } else { 64 << 20 };
    let retention = Retention { volatile: false, keep };
    let loss = [0, 20, 200][rng.random_range(0..3)];
    let stage = Stage::new(n, retention, make);
    let chaos = Chaos { rng, stage, next_tag: 1, loss, tally: Tally::default() };
    let ended = catch_unwind(AssertUnwindSafe(|| chaos.play()));
    ended.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| "a panic".to_owned()))
    })
}

impl<P: Protocol + Debug> Chaos<P> {
    fn play(mut self) -> Result<Tally, String> {
        for _ in 0..STEPS {
            self.step();
            if let Some(broken) = self.stage.broken.take() {
                return Err(broken);
            }
        }
        self.calm()?;
        for tag in 1..self.next_tag {
            self.tally.twice += usize::from(self.stage.slots_of(tag).len() > 1);
        }
        self.tally.proposed = usize::try_from(self.next_tag - 1).expect("a few");
        self.tally.paths = self.stage.paths.clone();
        Ok(self.tally)
    }

    fn anyone(&mut self) -> usize {
        self.rng.random_range(1..=self.stage.n())
    }

    fn step(&mut self) {
        let at = self.anyone();
        match self.rng.random_range(0..1000) {
            0..60 => self.propose(at),
            60..75 => self.duel(),
            75..90 => self.crash(at),
            90..120 => self.revive(at),
            120..150 => self.stage.stall(at, true),
            150..180 => self.stage.stall(at, false),
            180..195 => self.stage.save(at),
            195..220 => {
                let from = self.anyone();
                self.install(at, from);
            }
            220..230 => {
                let is_suspected = self.rng.random();
                self.stage.suspect(at, is_suspected);
            }
            230..232 => self.absence(at),
            232..300 => {
                let ticks = self.rng.random_range(1..20);
                (0..ticks).for_each(|_| self.stage.tick(at));
            }
            _ => self.post(),
        }
    }

    fn propose(&mut self, at: usize) {
        if self.stage.at(at).is_up {
            self.stage.propose(at, self.next_tag);
            self.next_tag += 1;
        }
    }

    /// All replicas propose at once.
    fn duel(&mut self) {
        (1..=self.stage.n()).for_each(|at| self.propose(at));
    }

    fn crash(&mut self, at: usize) {
        if self.stage.at(at).is_up {
            let kept = self.rng.random_range(0..4);
            self.stage.crash(at, kept);
            self.tally.crashes += 1;
            match self.rng.random_range(0..4) {
                0 => self.stage.suspect(at, true),
                1 => {}
                // It is back at once, and messages sent to it before arrive.
                _ => self.revive(at),
            }
        }
    }

    /// `at` is away while the others make progress and drop what they can.
    fn absence(&mut self, at: usize) {
        if !self.stage.at(at).is_up || self.stage.n() < 3 {
            return;
        }
        self.stage.crash(at, 0);
        self.tally.crashes += 1;
        self.stage.suspect(at, true);
        for _ in 0..3 {
            self.duel();
            self.stage.pass(Duration::from_millis(300));
        }
        (1..=self.stage.n()).for_each(|other| self.stage.save(other));
        self.stage.pass(Duration::from_millis(200));
        self.revive(at);
    }

    fn revive(&mut self, at: usize) {
        if !self.stage.at(at).is_up {
            self.stage.restart(at);
            self.stage.suspect(at, false);
        }
    }

    fn install(&mut self, at: usize, from: usize) {
        if at != from && self.stage.at(from).is_up {
            self.tally.installed += usize::from(self.stage.install(at, from));
        }
    }

    /// Some messages arrive, mostly older ones; some arrive twice, some never.
    fn post(&mut self) {
        for _ in 0..self.rng.random_range(1..8) {
            if self.stage.post.is_empty() {
                return;
            }
            let late = self.rng.random_range(0..10) == 0;
            let window = self.stage.post.len().min(if late { 200 } else { 12 });
            let index = self.rng.random_range(0..window);
            if self.rng.random_range(0..1000) < self.loss {
                self.stage.post.remove(index);
            } else if self.rng.random_range(0..20) == 0 {
                let (from, to, message) = self.stage.post[index].clone();
                self.stage.hear(from, to, message);
            } else {
                self.stage.deliver(index);
            }
        }
    }

    /// From now on nothing fails, and every replica gets what it needs.
    fn calm(&mut self) -> Result<(), String> {
        for at in 1..=self.stage.n() {
            self.revive(at);
            self.stage.stall(at, false);
            self.stage.suspect(at, false);
        }
        let step = Duration::from_millis(500);
        for _ in 0..CALM.as_millis() / step.as_millis() {
            self.stage.pass(step);
            for at in 1..=self.stage.n() {
                self.stage.save(at);
                (1..=self.stage.n()).for_each(|from| self.install(at, from));
            }
            if let Some(broken) = self.stage.broken.take() {
                return Err(broken);
            }
            if self.is_done() {
                return Ok(());
            }
        }
        let executed: Vec<_> = (1..=self.stage.n()).map(|at| self.stage.executed(at)).collect();
        let pending = self.stage.pending();
        let last = self.stage.truth.last_key_value();
        let states: Vec<_> = self.stage.actors.iter().map(|actor| &actor.protocol).collect();
        Err(format!("executed {executed:?} of {last:?}, pending {pending:?}: {states:#?}"))
    }

    fn is_done(&self) -> bool {
        let last = self.stage.truth.last_key_value().map_or(0, |(slot, _)| *slot);
        let executed = (1..=self.stage.n()).all(|at| self.stage.executed(at) == last);
        executed && self.stage.truth.len() as u64 == last && self.stage.pending().is_empty()
    }
}

/// How many schedules a test runs; the environment variable `CHAOS` overrides it.
pub(in crate::protocol) fn schedules(usual: u64) -> u64 {
    std::env::var("CHAOS").ok().and_then(|many| many.parse().ok()).unwrap_or(usual)
}

/// The first schedule that shows a bug, if any does.
pub(in crate::protocol) fn find<P: Protocol + Debug + 'static>(
    sizes: &[usize],
    schedules: u64,
    make: impl Fn(Settings) -> P + Clone + 'static,
) -> Option<(usize, u64, String)> {
    for seed in 0..schedules {
        for n in sizes {
            if let Err(broken) = run(*n, seed, make.clone()) {
                return Some((*n, seed, broken));
            }
        }
    }
    None
}
