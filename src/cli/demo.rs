//! `isonomy demo`: a cluster in this process, under load, with a crash, checked.

use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgAction, Args};
use indicatif::ProgressBar;

use super::config::DurabilityName;
use super::generate::{self, Scratch, create};
use super::{NO, on_or_off, say};
use crate::load::render::demo::Report;
use crate::load::result::Run;
use crate::load::runner::{Live, run};
use crate::load::scenario::wide_area::WideArea;
use crate::load::scenario::{LocalTarget, Scenario, Target};
use crate::load::workload::Workload;
use crate::protocol::ProtocolKind;
use crate::types::{Optimisations, Quorums, ReplicaId};

/// Run a whole cluster in this process for a few seconds, under load, and check what it did.
///
/// Starts the replicas, each with its own QUIC endpoint on loopback and throw-away certificates;
/// lets clients at every replica put, get, compare-and-swap and delete; crashes one replica
/// half-way, whose clients go on at the others; and then prints throughput, latencies, and whether
/// the replicas agree and the clients saw a linearizable history. Ctrl-C ends it early, with the
/// table so far.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy demo
  isonomy demo --replicas 5 --conflicts 25 --clients 200
  isonomy demo --durability fsync
  isonomy demo --wan bench-config/wan-5.toml --no-crash --seconds 20
  isonomy demo --json --history history.jsonl

Exit code 0 if all checks hold, 1 if one does not.")]
pub(super) struct Demo {
    /// Number of replicas [default: 3, or the number of sites with --wan]
    #[arg(long, value_name = "N")]
    replicas: Option<usize>,
    /// The protocol that the replicas run
    #[arg(long, value_name = "NAME", default_value_t)]
    protocol: ProtocolKind,
    /// How long the clients work
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Clients at each replica, each with one command under way
    #[arg(long, visible_alias = "outstanding", value_name = "N", default_value_t = 64)]
    clients: u32,
    /// Share of commands on one key that all clients use; the others are on clients' own keys
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
    conflicts: f64,
    /// Share of commands that only read; the others are put (8 in 10), cas and del
    #[arg(long, value_name = "PERCENT", default_value_t = 30.0)]
    reads: f64,
    /// Length of values, at least 16
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    value_size: usize,
    /// Seed of the workload and of an emulated network
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Crash no replica
    #[arg(long)]
    no_crash: bool,
    /// Emulate a wide area: sites and round trips, as in bench-config/wan-5.toml
    #[arg(long, value_name = "FILE")]
    wan: Option<PathBuf>,
    /// What a vote has to survive before its replica speaks of it
    #[arg(long, value_name = "MODE", value_enum, default_value_t = DurabilityName::Memory)]
    durability: DurabilityName,
    /// Whether proposals leave before they are durable, in slots reserved beforehand
    #[arg(long, value_name = "on|off", value_parser = on_or_off, action = ArgAction::Set)]
    #[arg(default_value = "on")]
    reserved_slots: bool,
    /// Whether commits are answered before they are durable
    #[arg(long, value_name = "on|off", value_parser = on_or_off, action = ArgAction::Set)]
    #[arg(default_value = "off")]
    silent_orphans: bool,
    /// Where to keep the data meanwhile, unless in memory: a directory that is not there yet and is
    /// removed afterwards [default: one in the system's directory for such]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Write what the clients asked and were told, one JSON object a line
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

impl Demo {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let time = Duration::try_from_secs_f64(self.seconds).unwrap_or_default();
        let mut scenario = self.scenario(time)?;
        let _scratch = Scratch::for_replicas(&mut scenario.target, self.data)?;
        // Opened first: better to fail before the run than after it.
        let history = self.history.as_deref().map(create).transpose()?;
        let held = hold(&scenario, time)?;
        if let Some(((path, file), record)) = history.zip(held.record.as_ref()) {
            let written = record.write(BufWriter::new(file));
            written.with_context(|| format!("cannot write {}", path.display()))?;
        }
        let report = Report::of(&scenario, &held).context("the demo has a cluster of its own")?;
        if self.json {
            say(serde_json::to_string(&report).context("the report has no JSON form")?)?;
        } else {
            say(&report)?;
        }
        Ok(if held.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
    }

    fn scenario(&self, time: Duration) -> anyhow::Result<Scenario> {
        let area = self.wan.as_deref().map(WideArea::read).transpose()?;
        let sites = area.as_ref().map(|area| area.sites.len());
        let replicas = self.replicas.or(sites).unwrap_or(3);
        if self.durability == DurabilityName::Memory && self.data.is_some() {
            bail!("--data is of no use in memory: add --durability fsync or os");
        }
        let workload = Workload::demo(self.conflicts, self.reads, self.value_size, self.seed);
        workload.check()?;
        let clients = self.clients;
        if !(1..=10_000).contains(&clients) {
            bail!("{clients} clients at each replica: take between 1 and 10000");
        }
        if !(0.1..=86_400.0).contains(&time.as_secs_f64()) {
            bail!("{time:?} is no time to run for: take between 0.1 and 86400 seconds");
        }
        if let Some(sites) = sites.filter(|sites| *sites < replicas) {
            bail!(
                "{replicas} replicas, but the wide area has {sites} sites: take fewer, or add sites"
            );
        }
        // Of so few that none can be spared, none is crashed.
        let can_crash = Quorums::new(replicas)?.f > 0 && !self.no_crash;
        let cluster = LocalTarget {
            protocol: self.protocol,
            replicas,
            leader: None,
            area,
            durability: self.durability.into(),
            optimisations: Optimisations {
                silent_orphans: self.silent_orphans,
                reserved_slots: if self.reserved_slots { Optimisations::RESERVED_BLOCK } else { 0 },
            },
            data_dir: None,
        };
        let crash = can_crash.then(|| ReplicaId::from_index(replicas - 1));
        Ok(Scenario::demo(cluster, workload, clients, time, crash))
    }
}

fn hold(scenario: &Scenario, time: Duration) -> anyhow::Result<Run> {
    let runtime = generate::runtime(generate::threads(&scenario.target))?;
    let length = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let bar = generate::progress_bar(length, "{bar:30} {msg}");
    let mut watch = |live: Live| show(&bar, scenario, &live);
    let held = runtime.block_on(async { run(scenario, 0, &mut watch, super::interrupted()).await });
    bar.finish_and_clear();
    Ok(held?)
}

fn show(bar: &ProgressBar, scenario: &Scenario, live: &Live) {
    let Live { seconds, rate, answered, stopped, .. } = live;
    if let Target::Local(cluster) = &scenario.target {
        let replicas = cluster.replicas - stopped;
        bar.set_message(format!("{answered} operations, {rate:.0}/s, {replicas} replicas"));
    }
    let elapsed = Duration::try_from_secs_f64(*seconds).unwrap_or_default();
    bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
}
