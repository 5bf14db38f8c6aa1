//! `isonomy sim`: runs the simulator over many seeds, or shows one of them.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Unwritten, on_or_off};
use crate::protocol::ProtocolKind;
use crate::sim::{self, Changes, FaultSet, Options, Overrides, Summary};

/// Simulate clusters under faults, one world for each seed, and check every step.
///
/// Each seed makes a world: a cluster, its clients, its network, its disks, and what goes wrong.
/// The replicas run the same code as in production. The same seed gives the same world on every
/// machine. A world that breaks a promise is reported with its seed, after it was shrunk to a
/// smaller one.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  isonomy sim --seeds 1000
  isonomy sim --seeds 500 --replicas 5 --json
  isonomy sim --seeds 500 --restarts --without bit-flip,disk-full
  isonomy sim --seed 17 --trace
  isonomy sim --seeds 500 --changes --protocol multi-paxos

Exit codes:
  0  no violation, and every path of the protocol was taken
  1  a violation, a path that was never taken, or the result was not written
  2  wrong arguments")]
pub(super) struct Args {
    /// Number of seeds
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// First seed
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed_start: u64,
    /// Run only this seed
    #[arg(long, conflicts_with_all = ["seeds", "seed_start"])]
    seed: Option<u64>,
    /// Print every event in the world of --seed
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Protocol: epaxos, multi-paxos, fast-paxos or paxos
    #[arg(long, value_name = "NAME", default_value_t)]
    protocol: ProtocolKind,
    /// Number of replicas, 1 to 9 [default: chosen by each seed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    replicas: Option<u8>,
    /// Most clients in a world [default: as many as the seed chooses]
    #[arg(long, value_name = "N")]
    clients: Option<NonZeroUsize>,
    /// Most commands of each client [default: as many as the seed chooses]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    commands: Option<u64>,
    /// Simulated milliseconds with faults and new commands [default: chosen by each seed]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    millis: Option<u64>,
    /// Kinds of faults to leave out: a list such as drop,crash,power-failure. An unknown name is
    /// answered with the list of all
    #[arg(long, value_name = "FAULTS", default_value_t, hide_default_value = true)]
    without: FaultSet,
    /// Also restart replicas: one, several or all stop, lose what was not flushed, and come back
    #[arg(long)]
    restarts: bool,
    /// Change the members instead: replicas join, leave, are lost and are replaced, in worlds of
    /// their own. Only the seeds, --protocol, --threads and --json count then
    #[arg(long, conflicts_with_all = ["trace", "replicas", "clients", "commands", "millis",
        "without", "restarts", "silent_orphans", "reserved_slots", "no_shrink"])]
    changes: bool,
    /// Answer commands before their commits are durable [default: chosen by each seed with
    /// --restarts, off without]
    #[arg(long, value_name = "on|off", value_parser = on_or_off)]
    silent_orphans: Option<bool>,
    /// Send proposals before they are durable [default: as for --silent-orphans]
    #[arg(long, value_name = "on|off", value_parser = on_or_off)]
    reserved_slots: Option<bool>,
    /// Number of threads; the result does not depend on it [default: number of processors]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Report a failing world as it is, without shrinking it
    #[arg(long)]
    no_shrink: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    fn overrides(&self) -> Overrides {
        Overrides {
            protocol: self.protocol,
            replicas: self.replicas.map(usize::from),
            without: self.without,
            clients: self.clients.map(NonZeroUsize::get),
            commands: self.commands,
            millis: self.millis,
            restarts: self.restarts,
            silent_orphans: self.silent_orphans,
            reserved_slots: self.reserved_slots,
        }
    }

    fn options(&self) -> Options {
        let mut options = Options {
            start: self.seed.unwrap_or(self.seed_start),
            seeds: if self.seed.is_some() { 1 } else { self.seeds },
            overrides: self.overrides(),
            shrink: !self.no_shrink,
            ..Options::default()
        };
        options.threads = self.threads.unwrap_or(options.threads);
        options
    }
}

/// Runs the simulator.
///
/// # Errors
/// If standard output cannot be written to.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    Ok(simulate(args).map_err(Unwritten)?)
}

fn simulate(args: &Args) -> io::Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout().lock());
    if let (Some(seed), true) = (args.seed, args.trace) {
        let verdict = sim::run_seed(seed, &args.overrides(), Some(&mut out));
        if let Some(violation) = &verdict.violation {
            writeln!(out, "{violation}")?;
        }
        out.flush()?;
        return Ok(exit(verdict.violation.is_none()));
    }
    let options = args.options();
    let bar = progress_bar(options.seeds);
    let progress = |failed| {
        bar.inc(1);
        if failed {
            bar.set_message("a seed has failed");
        }
    };
    if args.changes {
        let changes = sim::run_changes(&options, progress);
        bar.finish_and_clear();
        print_changes(&changes, args, &mut out)?;
        out.flush()?;
        return Ok(exit(changes.is_good()));
    }
    let summary = sim::run(&options, progress);
    bar.finish_and_clear();
    if args.json {
        writeln!(out, "{:#}", summary.to_json())?;
    } else {
        print(&summary, &mut out)?;
    }
    out.flush()?;
    Ok(exit(summary.is_good()))
}

fn exit(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A progress bar on standard error, only if that is a terminal.
fn progress_bar(seeds: u64) -> ProgressBar {
    if !io::stderr().is_terminal() || seeds < 2 {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(seeds), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} seeds, {eta} left {msg}");
    bar.set_style(style.expect("the template is well formed"));
    bar
}

fn print(summary: &Summary, out: &mut impl Write) -> io::Result<()> {
    for (path, count) in &summary.paths {
        writeln!(out, "{count:>12}  {path}")?;
    }
    writeln!(
        out,
        "{} seeds, {} violations, {} operations; {:.2} simulated hours, {:.0} an hour of one core; \
         largest component {}; trace {:016x}",
        summary.seeds,
        summary.violations,
        summary.operations,
        summary.hours(),
        summary.hours_per_hour(),
        summary.largest_component,
        summary.trace,
    )?;
    for failure in &summary.failures {
        writeln!(out, "\nseed {}: {}", failure.seed, failure.violation)?;
        writeln!(out, "  again:   {}", failure.reproduce)?;
        if let Some((overrides, violation)) = &failure.shrunk {
            writeln!(out, "  smaller: {}", sim::reproduction(failure.seed, overrides))?;
            writeln!(out, "           {violation}")?;
        }
    }
    if !summary.never.is_empty() {
        writeln!(out, "\nnever reached: {}", summary.never.join(", "))?;
    }
    Ok(())
}

fn print_changes(changes: &Changes, args: &Args, out: &mut impl Write) -> io::Result<()> {
    if args.json {
        return writeln!(out, "{:#}", changes.to_json());
    }
    for (name, count) in &changes.counts {
        writeln!(out, "{count:>12}  {name}")?;
    }
    writeln!(out, "{} seeds, {} violations", changes.seeds, changes.violations)?;
    for (seed, violation) in &changes.failures {
        writeln!(out, "\nseed {seed}: {violation}")?;
        let protocol = args.protocol;
        writeln!(out, "  again:   isonomy sim --changes --protocol {protocol} --seed {seed}")?;
    }
    if !changes.never.is_empty() {
        writeln!(out, "\nnever reached: {}", changes.never.join(", "))?;
    }
    Ok(())
}
