//! Tests for embedders: they check that a [`StateMachine`] keeps the promises that replication
//! rests on.
//!
//! A footprint that forgets a key is the one mistake that nothing else finds. The cluster seems to
//! work until two replicas differ. So check it here, next to the state machine, before any cluster
//! runs.

mod checkpoints;

use std::fmt::{self, Debug};
use std::io::{self, Read, Write};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use checkpoints::{Begin, CheckpointsChecked, check_checkpoints};

use crate::machine::{StateMachine, decode, encode};

/// How much to try.
///
/// Fill it from its default: `Cases { seed: 7, ..Cases::default() }`. That is why it is not
/// `#[non_exhaustive]`: a later release may add a field, and will give it a default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cases {
    /// How many cases to try. A case is a state and a pair of commands.
    pub count: usize,
    /// The largest number of commands that build a state.
    pub prefix: usize,
    /// The same seed tries the same cases.
    pub seed: u64,
}

impl Default for Cases {
    fn default() -> Cases {
        Cases { count: 2_000, prefix: 16, seed: 0 }
    }
}

/// What a check tried before it ended without finding a breach.
#[must_use = "a check that saw no pair without conflict has shown little"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Checked {
    /// The number of cases.
    pub cases: usize,
    /// The number of cases whose two commands do not conflict and were run in both orders. If it is
    /// 0, the footprints were not tested: either no commands commute, or the generator uses too few
    /// keys.
    pub commuting: usize,
}

/// A seeded random source for a generator of commands.
#[derive(Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// A number from 0 to `bound - 1`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.random_range(0..bound)
    }

    /// A random one of these items.
    ///
    /// # Panics
    /// If the slice is empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.0.random_range(0..choices.len())]
    }
}

/// A promise of [`StateMachine`] that a check found broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Promise {
    /// The same commands gave a different result the second time.
    Deterministic,
    /// A command or an output changes when it is encoded and decoded, or a state changes when it
    /// goes through a snapshot.
    Encoding,
    /// A view does not write the state of the moment at which it was made, or a stream restores to
    /// another state.
    View,
    /// A command whose footprint writes nothing changed the state.
    ReadsOnly,
    /// The footprints of two commands do not conflict, but their order makes a difference.
    Commutes,
    /// A checkpoint has another state than was frozen, or was not there after a crash.
    Checkpoint,
}

/// The smallest breach found. Its `Debug` is the same as its `Display`, so that `unwrap` prints it
/// well.
#[non_exhaustive]
pub struct Breach {
    /// The promise that was broken.
    pub promise: Promise,
    /// The commands that lead from a new machine to the state.
    pub before: Vec<String>,
    /// The command, or the pair of commands, that is applied to this state.
    pub commands: Vec<String>,
    /// What the check saw.
    pub seen: String,
}

impl std::error::Error for Breach {}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.promise {
            Promise::Deterministic => "the machine is not deterministic",
            Promise::Encoding => "an encoding loses something",
            Promise::View => "a view is not of its moment, or is not restored",
            Promise::ReadsOnly => "a footprint says that its command only reads, but it writes",
            Promise::Checkpoint => "a checkpoint is lost, or not of its moment",
            Promise::Commutes => "the footprints do not conflict, but the order can be told",
        };
        writeln!(f, "{what}")?;
        if self.before.is_empty() {
            writeln!(f, "  in the new machine")?;
        } else {
            writeln!(f, "  in the state behind")?;
        }
        self.before.iter().try_for_each(|command| writeln!(f, "    {command}"))?;
        writeln!(f, "  with")?;
        self.commands.iter().try_for_each(|command| writeln!(f, "    {command}"))?;
        write!(f, "  {}", self.seen)
    }
}

impl Debug for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{self}")
    }
}

/// Tries random commands on random states and compares what must be equal: two runs of the same
/// commands, a run with a snapshot half way, a view that is written while commands are applied and
/// the snapshot of the same state, the state before and after a command that only reads, and both
/// orders of two commands whose footprints do not conflict.
///
/// `new` makes a machine, always in the same state. `generate` makes a command. It should use few
/// keys, so that commands often touch the same key.
///
/// ```
/// use isonomy::machine::{Kv, KvCommand};
/// use isonomy::testkit::{Cases, check_footprint};
///
/// let checked = check_footprint(Cases::default(), Kv::new, |random| {
///     let key = vec![b'a' + random.below(3) as u8].into();
///     match random.below(2) {
///         0 => KvCommand::Get { key },
///         _ => KvCommand::Put { key, value: vec![random.below(4) as u8].into() },
///     }
/// });
/// assert!(checked.unwrap().commuting > 100);
/// ```
///
/// # Errors
/// Returns the first breach found, with the shortest state in which it shows.
pub fn check_footprint<S>(
    cases: Cases,
    new: impl Fn() -> S,
    mut generate: impl FnMut(&mut Random) -> S::Command,
) -> Result<Checked, Box<Breach>>
where
    S: StateMachine,
    S::Command: Debug,
    S::Output: Debug,
{
    let bench = Bench { new };
    let mut checked = Checked { cases: cases.count, commuting: 0 };
    for case in 0..cases.count {
        // Each case has its own seed, so that cases do not depend on each other.
        let mut random = Random(ChaCha8Rng::seed_from_u64(cases.seed));
        random.0.set_stream(case as u64);
        let length = random.0.random_range(0..=cases.prefix);
        let mut draw = || encode_command::<S>(&generate(&mut random));
        let before = (0..length).map(|_| draw()).collect::<Result<Vec<_>, _>>()?;
        let first = draw()?;
        let mut second = draw()?;
        // A pair that conflicts shows less, so look for another pair a few times.
        for _ in 0..8 {
            if !bench.conflict(&first, &second) {
                break;
            }
            second = draw()?;
        }
        let pair = [first, second];
        if let Some((promise, _)) = bench.breach(&before, &pair) {
            return Err(Box::new(bench.shrink(promise, before, &pair)));
        }
        checked.commuting += usize::from(!bench.conflict(&pair[0], &pair[1]));
    }
    Ok(checked)
}

/// A command's bytes. The check keeps these, because a command need not be `Clone`.
fn encode_command<S>(command: &S::Command) -> Result<Bytes, Box<Breach>>
where
    S: StateMachine,
    S::Command: Debug,
{
    let shown = format!("{command:?}");
    let breach = |seen: String| {
        let commands = vec![shown.clone()];
        Box::new(Breach { promise: Promise::Encoding, before: Vec::new(), commands, seen })
    };
    let bytes = encode(command).map_err(|error| breach(error.to_string()))?;
    let back: S::Command = decode(&bytes).map_err(|error| breach(error.to_string()))?;
    let returned = format!("{back:?}");
    if returned == shown { Ok(bytes) } else { Err(breach(format!("comes back as {returned}"))) }
}

/// What it takes to run machines.
struct Bench<N> {
    new: N,
}

/// What can be observed from outside.
struct Seen<O> {
    /// The encoded outputs of the pair of commands, for comparison.
    encoded: Vec<Bytes>,
    /// The same outputs, as text for the report.
    outputs: Vec<O>,
    snapshot: Vec<u8>,
}

/// How a run gets from the state to the pair of commands.
#[derive(Clone, Copy, PartialEq)]
enum Through {
    Memory,
    Snapshot,
}

impl<S, N> Bench<N>
where
    S: StateMachine,
    S::Command: Debug,
    S::Output: Debug,
    N: Fn() -> S,
{
    fn command(bytes: &Bytes) -> S::Command {
        decode(bytes).expect("decoded once already, when it was drawn")
    }

    fn conflict(&self, a: &Bytes, b: &Bytes) -> bool {
        let [a, b] = [a, b].map(|bytes| S::footprint(&Self::command(bytes)));
        a.conflicts(&b)
    }

    /// Builds the state and applies the commands. Returns what was observed, or why the run stopped
    /// early.
    fn run(
        &self,
        before: &[Bytes],
        commands: &[&Bytes],
        through: Through,
    ) -> Result<Seen<S::Output>, String> {
        let mut machine = (self.new)();
        for command in before {
            machine.apply(Self::command(command));
        }
        if through == Through::Snapshot {
            machine = S::restore(&machine.snapshot()).map_err(|error| error.to_string())?;
        }
        let apply = |bytes: &&Bytes| machine.apply(Self::command(bytes));
        let outputs: Vec<S::Output> = commands.iter().map(apply).collect();
        let encoded = outputs.iter().map(encode).collect::<Result<Vec<_>, _>>();
        let encoded = encoded.map_err(|error| error.to_string())?;
        Ok(Seen { encoded, outputs, snapshot: machine.snapshot() })
    }

    /// The first promise that these commands break in this state, and what was observed.
    fn breach(&self, before: &[Bytes], pair: &[Bytes; 2]) -> Option<(Promise, String)> {
        self.find(before, pair).err()
    }

    fn find(&self, before: &[Bytes], [a, b]: &[Bytes; 2]) -> Result<(), (Promise, String)> {
        let run = |commands: &[&Bytes], through| {
            self.run(before, commands, through).map_err(|error| (Promise::Encoding, error))
        };
        let straight = run(&[a, b], Through::Memory)?;
        let again = run(&[a, b], Through::Memory)?;
        compare(&straight, &again, "in another run").map_err(|it| (Promise::Deterministic, it))?;
        let restored = run(&[a, b], Through::Snapshot)?;
        compare(&straight, &restored, "behind a restored snapshot")
            .map_err(|it| (Promise::Encoding, it))?;
        let alone = run(&[], Through::Memory)?.snapshot;
        self.write_view(before, [a, b], &alone).map_err(|it| (Promise::View, it))?;
        for command in [a, b] {
            if S::footprint(&Self::command(command)).is_read_only()
                && run(&[command], Through::Memory)?.snapshot != alone
            {
                let seen = format!("{:?} changed the snapshot", Self::command(command));
                return Err((Promise::ReadsOnly, seen));
            }
        }
        if self.conflict(a, b) {
            return Ok(());
        }
        let mut swapped = run(&[b, a], Through::Memory)?;
        swapped.encoded.reverse();
        swapped.outputs.reverse();
        compare(&straight, &swapped, "in the other order").map_err(|it| (Promise::Commutes, it))
    }

    /// Writes a view of the state while commands are applied, and restores the state from a stream.
    /// `alone` is the snapshot of that state.
    fn write_view(&self, before: &[Bytes], pair: [&Bytes; 2], alone: &[u8]) -> Result<(), String> {
        let mut machine = (self.new)();
        for command in before {
            machine.apply(Self::command(command));
        }
        let view = machine.view();
        let mut apply = |command: &Bytes| drop(machine.apply(Self::command(command)));
        pair.into_iter().for_each(&mut apply);
        let (mut next, mut written) = (pair.into_iter().cycle(), Vec::new());
        let take = |bytes: &[u8]| {
            written.extend_from_slice(bytes);
            next.next().into_iter().for_each(&mut apply);
        };
        view.write_to(&mut Taken(take)).map_err(|error| format!("a view failed: {error}"))?;
        if written != alone {
            return Err("a view wrote other bytes than the snapshot of its moment".to_owned());
        }
        let mut stream = Stream { left: alone, breaks: false };
        let restored = S::restore_from(&mut stream).map_err(|error| error.to_string())?;
        if !stream.left.is_empty() {
            return Err(format!("{} bytes were not read when it was restored", stream.left.len()));
        }
        if restored.snapshot() != alone {
            return Err("what is restored from a stream has another snapshot".to_owned());
        }
        let cut = alone.len() / 2;
        if cut > 0 && S::restore_from(&mut Stream { left: &alone[..cut], breaks: true }).is_ok() {
            return Err("a state is restored from a stream that broke off half-way".to_owned());
        }
        Ok(())
    }

    /// Leaves out every command that the breach does not need, until no more can be left out.
    fn shrink(&self, promise: Promise, mut before: Vec<Bytes>, pair: &[Bytes; 2]) -> Breach {
        let breaks = |before: &[Bytes]| {
            self.breach(before, pair).filter(|(it, _)| *it == promise).map(|(_, seen)| seen)
        };
        let mut at = 0;
        while at < before.len() {
            let mut shorter = before.clone();
            shorter.remove(at);
            if breaks(&shorter).is_some() {
                before = shorter;
                at = 0;
            } else {
                at += 1;
            }
        }
        // A machine that is not deterministic may keep its promise on the next try.
        let seen = breaks(&before).unwrap_or_else(|| "not every run shows it".to_owned());
        let show = |bytes: &Bytes| format!("{:?}", Self::command(bytes));
        Breach {
            promise,
            before: before.iter().map(show).collect(),
            commands: pair.iter().map(show).collect(),
            seen,
        }
    }
}

/// A writer that calls a function.
struct Taken<F>(F);

impl<F: FnMut(&[u8])> Write for Taken<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // As a file may: a view has to use `write_all`.
        let now = &bytes[..bytes.len().div_ceil(2)];
        (self.0)(now);
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that returns a few bytes at a time, and may fail at the end.
struct Stream<'a> {
    left: &'a [u8],
    breaks: bool,
}

impl Read for Stream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() && self.breaks && !into.is_empty() {
            return Err(io::Error::other("the stream broke off"));
        }
        let bytes = self.left.len().min(into.len()).min(7);
        self.left.read(&mut into[..bytes])
    }
}

/// The first place where two runs differ that must be equal.
fn compare<O: Debug>(one: &Seen<O>, other: &Seen<O>, how: &str) -> Result<(), String> {
    for (at, which) in ["first", "second"].into_iter().enumerate() {
        if one.encoded[at] != other.encoded[at] {
            let (one, other) = (&one.outputs[at], &other.outputs[at]);
            return Err(format!("the {which} answers {one:?}, and {how} {other:?}"));
        }
    }
    if one.snapshot != other.snapshot {
        return Err(format!("the snapshot {how} is another"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
