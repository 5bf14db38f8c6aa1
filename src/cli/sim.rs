//! `isonomy sim`: runs the simulator over many seeds, or shows one.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Unwritten, on_or_off};
use crate::protocol::ProtocolKind;
use crate::sim::{self, FaultSet, Options, Overrides, Summary};

/// Whole clusters in simulated worlds full of faults, each made from a seed, checked at every step.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed_start: u64,
    /// Run this seed alone.
    #[arg(long, conflicts_with_all = ["seeds", "seed_start"])]
    seed: Option<u64>,
    /// Write down everything that happens in the world of `--seed`.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// The protocol that the replicas run.
    #[arg(long, default_value_t)]
    protocol: ProtocolKind,
    /// The number of replicas; each seed's own choice if not given.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    replicas: Option<u8>,
    /// The most clients.
    #[arg(long)]
    clients: Option<NonZeroUsize>,
    /// The most commands of one client.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    commands: Option<u64>,
    /// How long faults and new commands go on, in simulated milliseconds.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    millis: Option<u64>,
    /// Kinds of faults that must not occur, with commas between.
    #[arg(long, value_name = "FAULTS", default_value_t)]
    without: FaultSet,
    /// Replicas also stop, one, several or all at once, lose what was not flushed, and come back.
    #[arg(long)]
    restarts: bool,
    /// Whether owners tell of fast-path commits before they are durable; each seed's own choice if
    /// not given, and no without restarts.
    #[arg(long, value_name = "on|off", value_parser = on_or_off)]
    silent_orphans: Option<bool>,
    /// Whether PreAccept leaves before its owner's record is durable; likewise.
    #[arg(long, value_name = "on|off", value_parser = on_or_off)]
    reserved_slots: Option<bool>,
    /// How many threads to use; all cores if not given. Makes no difference to what is found.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Don't look for smaller worlds that fail as well.
    #[arg(long)]
    no_shrink: bool,
    /// Print one JSON object.
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
/// When standard output cannot be written to.
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
    let summary = sim::run(&options, |failed| {
        bar.inc(1);
        if failed {
            bar.set_message("a seed has failed");
        }
    });
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

/// On standard error, and only for people.
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
