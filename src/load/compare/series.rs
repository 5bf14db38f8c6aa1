//! Runs a plan: everyone in turn under each load, over and over, so that whatever disturbs the
//! machine disturbs all alike. Each run is kept as it ends.

use super::keep::{KeepError, Keeper};
use super::plan::{Contender, Plan};
use super::run::{Comparison, FORMAT, Outcome, Point, Run};

/// One run that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// Who.
    pub contender: &'a Contender,
    /// Under which load.
    pub point: Point,
    /// The so-many-th time, from 1.
    pub repeat: u32,
    /// With this seed.
    pub seed: u64,
    /// How many have been before.
    pub done: usize,
    /// How many there are.
    pub of: usize,
}

impl Plan {
    /// All turns, in order: A B A B under the first load, then under the next.
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

    /// A comparison that nothing has been seen of yet.
    pub fn comparison(&self, virtual_time: bool) -> Comparison {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let machine = match virtual_time {
            // What ran it makes no difference, and the same plan gives the same bytes.
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

/// Takes all turns, and keeps what they come to. A run that fails is noted, and the next one made;
/// when `go_on` says no, there are no more.
///
/// # Errors
/// When a run cannot be kept: no more are made. What was seen until then is in the comparison.
pub fn run(
    plan: &Plan,
    comparison: &mut Comparison,
    virtual_time: bool,
    mut keeper: Option<&mut Keeper>,
    mut take: impl FnMut(&Turn<'_>) -> Outcome,
    mut go_on: impl FnMut(&Turn<'_>) -> bool,
) -> Result<(), KeepError> {
    for turn in plan.turns() {
        if !go_on(&turn) {
            break;
        }
        let Turn { contender, point, repeat, seed, .. } = turn;
        let outcome = take(&turn);
        let who = contender.who.clone();
        let run = Run { who, point, repeat, seed, virtual_time, outcome };
        let kept = keeper.as_mut().map_or(Ok(()), |keeper| keeper.keep(&run));
        comparison.runs.push(run);
        kept?;
    }
    Ok(())
}
