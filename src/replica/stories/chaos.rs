//! Chaos: random schedules, beyond the stories. Replicas with the optimisations of PROTOCOL.md §7
//! crash, lose what was not durable, write snapshots, are cut off, return, and install the
//! snapshots of others. All of this happens far more often than in the simulator, which also
//! simulates clocks and disks.
//!
//! In every schedule, all lives of all replicas decide the same (Agreement), and of two conflicting
//! commands one covers the other (Visibility). Once nothing fails any more, every replica executes
//! everything that was decided or that its owner did not lose in a crash.

mod checks;

use std::collections::BTreeSet;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::stage::{Snapshot, Stage};
use crate::protocol::Paths;
use crate::protocol::epaxos::Plant;
use crate::types::{Decision, Deps, InstanceId, Optimisations, Quorums};
use checks::Truth;

/// The driver's actions in one schedule.
const STEPS: usize = 300;

/// What happened in a schedule.
#[derive(Default, Debug)]
struct Tally {
    paths: Paths,
    crashes: usize,
    /// Schedules at whose end full execution was not demanded.
    excused: usize,
}

/// One schedule: a cluster, and what is known about it.
struct Chaos {
    rng: ChaCha8Rng,
    stage: Stage,
    n: usize,
    /// By replica, from 1: its last own snapshot, and what it needs another replica's snapshot for.
    saved: Vec<Option<Snapshot>>,
    needs: Vec<Option<Deps>>,
    /// The replica that loses more messages than the others.
    unlucky: usize,
    proposed: Vec<InstanceId>,
    /// The instances that must be executed in the end.
    owed: BTreeSet<InstanceId>,
    truth: Truth,
    tally: Tally,
}

impl Chaos {
    fn new(n: usize, seed: u64, plant: Option<Plant>) -> Chaos {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let optimisations = Optimisations {
            silent_orphans: rng.random(),
            reserved_slots: if rng.random() { 2 } else { 0 },
        };
        Chaos {
            stage: Stage::chaotic(n, optimisations).with(plant),
            n,
            saved: vec![None; n + 1],
            needs: vec![None; n + 1],
            unlucky: rng.random_range(1..=n),
            proposed: Vec::new(),
            owed: BTreeSet::new(),
            truth: Truth::default(),
            tally: Tally::default(),
            rng,
        }
    }

    /// Runs the schedule to its end. Returns the violation, if there is one.
    fn run(mut self) -> Result<Tally, String> {
        for _ in 0..STEPS {
            self.step()?;
        }
        self.listen()?;
        let silent: BTreeSet<_> = self
            .proposed
            .iter()
            .filter(|id| self.stage.is_orphan(**id))
            .map(|id| id.replica)
            .collect();
        self.calm();
        self.listen()?;
        // The owner of an orphan counts as failed until the orphan is decided.
        let f = Quorums::new(self.n).expect("a supported size").f;
        match self.all_is_executed() {
            Err(_) if silent.len() > f => self.tally.excused += 1,
            ended => ended?,
        }
        self.tally.paths = self.stage.paths();
        Ok(self.tally)
    }

    fn anyone(&mut self) -> usize {
        self.rng.random_range(1..=self.n)
    }

    fn step(&mut self) -> Result<(), String> {
        let at = self.anyone();
        match self.rng.random_range(0..600) {
            0..50 => {
                let key = if self.rng.random_range(0..4) == 0 { "b" } else { "a" };
                let id = self.stage.propose(at, key);
                self.owe(id);
            }
            50..80 => self.recover(at),
            80..90 => self.save(at),
            90..100 => self.stage.wait(at),
            100..110 => self.cut(at),
            110..120 => self.stage.stall(at),
            120..140 => self.stage.flush(at),
            140..150 => self.crash(at)?,
            150..160 => {
                let from = self.anyone();
                self.install(at, from);
            }
            160..170 => self.serve(at),
            170..180 => self.stage.tell(at),
            180..184 => self.go_on_without_some(),
            184..200 => self.propose_again(at),
            _ => self.post(),
        }
        Ok(())
    }

    fn owe(&mut self, id: InstanceId) {
        self.proposed.push(id);
        self.owed.insert(id);
    }

    fn propose_again(&mut self, at: usize) {
        if self.stage.has_returned(at) {
            let id = self.stage.propose_again(at);
            self.owe(id);
        }
    }

    /// `at` recovers an instance that it has heard of, or one below it.
    fn recover(&mut self, at: usize) {
        if self.proposed.is_empty() {
            return;
        }
        let id = self.proposed[self.rng.random_range(0..self.proposed.len())];
        let mut behind =
            self.proposed.iter().filter(|p| p.replica == id.replica && p.slot >= id.slot);
        if behind.any(|p| self.stage.inspect(at, *p).is_some()) {
            self.stage.recover_open(at, id);
        }
    }

    /// A message arrives or is lost.
    fn post(&mut self) {
        let count = self.stage.under_way().count();
        if count == 0 {
            return;
        }
        let index = self.rng.random_range(0..count);
        let (from, to, _) = self.stage.under_way().nth(index).expect("there are so many");
        let unlucky = *from == self.unlucky || *to == self.unlucky;
        let lost = self.rng.random_ratio(1, 12) || unlucky && self.rng.random_ratio(1, 3);
        self.stage.happen(index, lost);
    }

    fn save(&mut self, at: usize) {
        if let Some(snapshot) = self.stage.try_save(at) {
            self.saved[at] = Some(snapshot);
        }
    }

    fn cut(&mut self, at: usize) {
        if let Some(snapshot) = &self.saved[at] {
            self.stage.cut(at, snapshot.executed.floor().clone());
        }
    }

    fn crash(&mut self, at: usize) -> Result<(), String> {
        // The crash loses some of what the replica knew, but none of its decisions.
        self.listen()?;
        self.stage.crash(at, self.saved[at].as_ref());
        self.needs[at] = None;
        self.tally.crashes += 1;
        self.owed.retain(|id| !self.stage.is_forgotten(*id));
        Ok(())
    }

    /// `at` installs the last snapshot of `from`, if it may. It may write its own later.
    fn install(&mut self, at: usize, from: usize) -> bool {
        let Some(snapshot) = self.saved[from].clone().filter(|_| from != at) else { return false };
        let installed = self.stage.install(at, &snapshot);
        if installed {
            self.needs[at] = None;
            if self.rng.random() {
                self.save(at);
            }
        }
        installed
    }

    /// `at` gets a snapshot that holds what it asked for, if there is one.
    fn serve(&mut self, at: usize) {
        if let Some(more) = self.stage.wanted(at) {
            self.needs[at].get_or_insert_with(|| Deps::none(self.n)).merge(&more);
        }
        let Some(needed) = self.needs[at].clone() else { return };
        let has = |from: &usize| {
            let snapshot = self.saved[*from].as_ref();
            snapshot.is_some_and(|snapshot| snapshot.executed.floor().includes(&needed))
        };
        if let Some(from) = (1..=self.n).filter(|from| *from != at).find(has) {
            self.install(at, from);
        }
    }

    /// Some replicas finish and drop what they can. A replica that was not among them needs a
    /// snapshot. Messages to or from the others may arrive later.
    fn go_on_without_some(&mut self) {
        let quorums = Quorums::new(self.n).expect("a supported size");
        let mut among: Vec<usize> = (1..=self.n).collect();
        for _ in 0..self.rng.random_range(1..=quorums.f) {
            let index = self.rng.random_range(0..among.len());
            among.swap_remove(index);
        }
        among.iter().for_each(|at| self.stage.flush(*at));
        let time = Duration::from_millis(self.rng.random_range(0..1500));
        self.stage.pass(&among, time);
        among.iter().for_each(|at| self.save(*at));
        self.cut(among[0]);
        self.stage.deliver_among(&among);
        for _ in 0..2 {
            among.iter().for_each(|at| self.stage.tell(*at));
            self.stage.deliver_among(&among);
        }
    }

    /// From now on nothing fails.
    fn calm(&mut self) {
        let all: Vec<usize> = (1..=self.n).collect();
        all.iter().for_each(|at| self.stage.flush(*at));
        for round in 0..16 {
            self.stage.pass(&all, Duration::from_secs(if round < 2 { 5 } else { 2 }));
            for at in &all {
                self.propose_again(*at);
                self.serve(*at);
            }
            for at in &all {
                // Own snapshots do not count while another replica's is needed.
                if self.needs[*at].is_none() {
                    self.save(*at);
                }
            }
            if round > 0 && self.all_is_executed().is_ok() {
                return;
            }
        }
    }

    /// Checks that the decisions since the last check agree with the earlier ones.
    fn listen(&mut self) -> Result<(), String> {
        for at in 1..=self.n {
            let decisions: &[Decision] = self.stage.decisions(at);
            decisions.iter().try_for_each(|decision| self.truth.hear(at, decision))?;
        }
        Ok(())
    }

    fn all_is_executed(&self) -> Result<(), String> {
        let owed = self.owed.iter().chain(self.truth.ids());
        for id in owed {
            if let Some(at) = (1..=self.n).find(|at| !self.stage.is_done(*at, *id)) {
                return Err(format!("{id} never ends at r{at}"));
            }
        }
        match (1..=self.n).find(|at| self.stage.has_returned(*at)) {
            Some(at) => Err(format!("r{at} never proposes again what came back")),
            None => Ok(()),
        }
    }
}

fn schedule(n: usize, seed: u64, plant: Option<Plant>) -> Result<Tally, String> {
    Chaos::new(n, seed, plant).run()
}
