//! A check for machines that keep their state on disk themselves: the engine's side of checkpoints,
//! with crashes at every step.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::thread;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Breach, Cases, Promise, Random, Stream, encode_command};
use crate::machine::{Checkpoint, MachineSource, StateMachine, decode};

/// How a source begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Begin {
    /// In an empty place.
    Anew,
    /// In the same place, after the process was killed: what was written is there.
    Killed,
    /// In the same place, after a loss of power: only what was flushed is surely there. If this
    /// cannot be simulated, treat it like [`Begin::Killed`]; then that part is not checked.
    PowerLost,
}

/// What a check of checkpoints tried before it ended without finding a breach.
#[must_use = "a check that saw no crash has shown little"]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct CheckpointsChecked {
    /// The crashes after which the machine was opened at a checkpoint.
    pub opened: usize,
    /// Those of them between the machine's part of a snapshot and the engine's.
    pub completed: usize,
    /// States restored from a stream that took the place of the machine.
    pub restored: usize,
}

/// One step of a case.
#[derive(Clone)]
enum Step {
    Apply(Bytes),
    /// Begins a checkpoint. One that is not written is given up.
    Freeze,
    /// The engine's part is durable, and the machine's part is written, while these commands are
    /// applied.
    Write(Vec<Bytes>),
    /// The engine's part counts.
    Adopt,
    /// A state is restored from a stream and takes the machine's place, or is dropped.
    Restore {
        takes: bool,
    },
    /// A stream breaks off, so far in thousandths.
    Break(u64),
    /// The process ends, and the next one begins.
    Crash(Begin),
}

/// Puts a source and its machines through random checkpoints, with crashes in between, and compares
/// what is opened afterwards with what was frozen. It keeps the order of
/// [`MachineSource`]: see there.
///
/// `source` begins a place anew, or continues with the last one after a crash. It is not called
/// while a machine is in use. `generate` makes a command, of few keys. `cases.prefix` is the number
/// of steps of a case.
///
/// # Errors
/// Returns the first breach found, with the fewest steps in which it shows.
pub fn check_checkpoints<P>(
    cases: Cases,
    mut source: impl FnMut(Begin) -> P,
    mut generate: impl FnMut(&mut Random) -> <P::Machine as StateMachine>::Command,
) -> Result<CheckpointsChecked, Box<Breach>>
where
    P: MachineSource,
    <P::Machine as StateMachine>::Command: Debug,
{
    let mut checked = CheckpointsChecked::default();
    for case in 0..cases.count {
        let mut random = Random(ChaCha8Rng::seed_from_u64(cases.seed));
        random.0.set_stream(case as u64);
        let mut steps = Vec::new();
        for _ in 0..cases.prefix {
            steps.push(draw::<P::Machine>(&mut random, &mut generate)?);
        }
        let Err(seen) = run(&steps, &mut source, &mut checked) else { continue };
        return Err(Box::new(shrink::<P>(steps, seen, &mut source)));
    }
    Ok(checked)
}

fn draw<S>(
    random: &mut Random,
    generate: &mut impl FnMut(&mut Random) -> S::Command,
) -> Result<Step, Box<Breach>>
where
    S: StateMachine,
    S::Command: Debug,
{
    let mut command = |random: &mut Random| encode_command::<S>(&generate(random));
    Ok(match random.below(20) {
        0..8 => Step::Apply(command(random)?),
        8..11 => Step::Freeze,
        11..14 => {
            let count = random.below(3);
            Step::Write((0..count).map(|_| command(random)).collect::<Result<_, _>>()?)
        }
        14..16 => Step::Adopt,
        16 => Step::Restore { takes: random.below(2) == 0 },
        17 => Step::Break(random.0.random_range(0..1000)),
        18 => Step::Crash(Begin::Killed),
        _ => Step::Crash(Begin::PowerLost),
    })
}

/// The engine's side.
struct Engine<P: MachineSource> {
    source: P,
    machine: P::Machine,
    /// All commands, which are durable.
    log: Vec<Bytes>,
    /// The state and the length of the log at each checkpoint.
    frozen: BTreeMap<u64, (Vec<u8>, usize)>,
    checkpoint: Option<(u64, Checkpoint)>,
    /// The snapshot that counts.
    counts: Option<u64>,
    /// Snapshots whose engine's part is durable and does not count yet.
    prepared: Vec<u64>,
    /// The newest checkpoint that the machine has said to be durable.
    said: Option<u64>,
}

/// Runs a case. An error tells what was seen.
fn run<P: MachineSource>(
    steps: &[Step],
    source: &mut impl FnMut(Begin) -> P,
    checked: &mut CheckpointsChecked,
) -> Result<(), String> {
    let place = source(Begin::Anew);
    let machine = place.open(None).map_err(|error| format!("a new machine: {error}"))?;
    let mut engine = Engine {
        source: place,
        machine,
        log: Vec::new(),
        frozen: BTreeMap::new(),
        checkpoint: None,
        counts: None,
        prepared: Vec::new(),
        said: None,
    };
    for step in steps {
        match step {
            Step::Apply(command) => engine.apply(command),
            Step::Freeze => engine.freeze()?,
            Step::Write(commands) => engine.write(commands)?,
            Step::Adopt => engine.adopt(),
            Step::Restore { takes } => {
                engine.restore(*takes)?;
                checked.restored += usize::from(*takes);
            }
            Step::Break(thousandths) => engine.cut(*thousandths)?,
            Step::Crash(how) => engine = engine.restart(*how, source, checked)?,
        }
    }
    engine.restart(Begin::Killed, source, checked).map(drop)
}

impl<P: MachineSource> Engine<P> {
    fn apply(&mut self, command: &Bytes) {
        self.machine.apply(decode(command).expect("decoded once already, when it was drawn"));
        self.log.push(command.clone());
    }

    fn freeze(&mut self) -> Result<(), String> {
        self.checkpoint = None;
        let number = self.frozen.last_key_value().map_or(7, |(last, _)| last + 1);
        let state = self.machine.snapshot();
        let checkpoint = self.machine.freeze(number).ok_or("a machine on disk is not frozen")?;
        if self.machine.snapshot() != state {
            return Err(format!("the state is another one after checkpoint {number} was frozen"));
        }
        self.frozen.insert(number, (state, self.log.len()));
        self.checkpoint = Some((number, checkpoint));
        Ok(())
    }

    /// Whatever `write` returns, the engine's part stays until it is known which one the machine
    /// has.
    fn write(&mut self, commands: &[Bytes]) -> Result<(), String> {
        let Some((number, checkpoint)) = self.checkpoint.take() else { return Ok(()) };
        self.prepared.push(number);
        let written = thread::scope(|scope| {
            let written = scope.spawn(|| checkpoint.write());
            commands.iter().for_each(|command| self.apply(command));
            written.join()
        });
        match written {
            Ok(Ok(())) => self.said = Some(number),
            Ok(Err(error)) => return Err(format!("checkpoint {number} was not written: {error}")),
            Err(_) => return Err(format!("writing checkpoint {number} panicked")),
        }
        Ok(())
    }

    fn adopt(&mut self) {
        if let Some(number) = self.said {
            self.counts = Some(number);
            self.prepared.retain(|prepared| *prepared > number);
        }
    }

    fn view(&self) -> Result<Vec<u8>, String> {
        let mut state = Vec::new();
        self.machine.view().write_to(&mut state).map_err(|error| format!("a view: {error}"))?;
        Ok(state)
    }

    fn restore(&mut self, takes: bool) -> Result<(), String> {
        let state = self.view()?;
        let mut stream = Stream { left: &state, breaks: false };
        let restored = self.source.restore_from(&mut stream);
        let restored = restored.map_err(|error| format!("a view is not restored: {error}"))?;
        if restored.snapshot() != state {
            return Err("what is restored from a stream has another snapshot".to_owned());
        }
        if takes {
            self.checkpoint = None;
            self.machine = restored;
        }
        Ok(())
    }

    fn cut(&mut self, thousandths: u64) -> Result<(), String> {
        let state = self.view()?;
        let cut = state.len() * usize::try_from(thousandths).expect("a thousand") / 1000;
        let mut stream = Stream { left: &state[..cut], breaks: true };
        match self.source.restore_from(&mut stream) {
            Ok(_) => Err(format!("a state is restored from {cut} of {} bytes", state.len())),
            Err(_) => Ok(()),
        }
    }

    /// Ends the process, and begins the next one as the engine does.
    fn restart(
        self,
        how: Begin,
        source: &mut impl FnMut(Begin) -> P,
        checked: &mut CheckpointsChecked,
    ) -> Result<Engine<P>, String> {
        let Engine { source: old, machine, checkpoint, log, mut frozen, said, .. } = self;
        let (mut counts, prepared) = (self.counts, self.prepared);
        let whole = machine.snapshot();
        drop((checkpoint, machine, old));
        let place = source(how);
        let held = place.checkpoints().map_err(|error| format!("its checkpoints: {error}"))?;
        if let Some(said) = said.filter(|said| !held.contains(said)) {
            return Err(format!("checkpoint {said} was said to be durable; there are {held:?}"));
        }
        if let Some(number) = prepared.into_iter().rev().find(|it| held.contains(it)) {
            counts = Some(number);
            checked.completed += 1;
        }
        let opened = place.open(counts);
        let mut machine = opened.map_err(|error| match counts {
            Some(number) => format!("checkpoint {number} counts and cannot be opened: {error}"),
            None => format!("a new machine cannot be opened: {error}"),
        })?;
        let from = match counts {
            None => 0,
            Some(number) => {
                checked.opened += 1;
                let (state, from) = &frozen[&number];
                if machine.snapshot() != *state {
                    return Err(format!("checkpoint {number} has another state than was frozen"));
                }
                *from
            }
        };
        for command in &log[from..] {
            machine.apply(decode(command).expect("decoded once already"));
        }
        if machine.snapshot() != whole {
            return Err("the log after the checkpoint leads to another state".to_owned());
        }
        // Numbers that were given up are not used again.
        let last = frozen.last_key_value().map(|(number, _)| *number);
        frozen.retain(|number, _| Some(*number) == counts || Some(*number) == last);
        let (checkpoint, prepared) = (None, Vec::new());
        let said = counts;
        Ok(Engine { source: place, machine, log, frozen, checkpoint, counts, prepared, said })
    }
}

/// Leaves out every step that the breach does not need.
fn shrink<P: MachineSource>(
    mut steps: Vec<Step>,
    mut seen: String,
    source: &mut impl FnMut(Begin) -> P,
) -> Breach
where
    <P::Machine as StateMachine>::Command: Debug,
{
    let mut at = 0;
    while at < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        match run(&fewer, source, &mut CheckpointsChecked::default()) {
            Err(still) => {
                (steps, seen) = (fewer, still);
                at = 0;
            }
            Ok(()) => at += 1,
        }
    }
    let command = |bytes: &Bytes| {
        let command: <P::Machine as StateMachine>::Command =
            decode(bytes).expect("decoded once already");
        format!("{command:?}")
    };
    let show = |step: &Step| match step {
        Step::Apply(bytes) => command(bytes),
        Step::Freeze => "freeze".to_owned(),
        Step::Write(commands) if commands.is_empty() => "write the checkpoint".to_owned(),
        Step::Write(commands) => {
            let commands: Vec<String> = commands.iter().map(command).collect();
            format!("write the checkpoint, and meanwhile {}", commands.join(", "))
        }
        Step::Adopt => "let the snapshot count".to_owned(),
        Step::Restore { takes: true } => "restore a state from a stream, and take it".to_owned(),
        Step::Restore { takes: false } => "restore a state from a stream, and drop it".to_owned(),
        Step::Break(_) => "restore a state from a stream that breaks off".to_owned(),
        Step::Crash(Begin::PowerLost) => "lose power".to_owned(),
        Step::Crash(_) => "kill the process".to_owned(),
    };
    let mut before: Vec<String> = steps.iter().map(show).collect();
    let commands = before.pop().into_iter().collect();
    Breach { promise: Promise::Checkpoint, before, commands, seen }
}

#[cfg(test)]
mod tests;
