//! `isonomy demo`: runs a cluster in this process under load, with a crash, and checks the result.

use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
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

/// Run a cluster in this process under load, and check the result.
///
/// The demo starts replicas on loopback, each with its own QUIC endpoint and temporary
/// certificates. Clients at every replica put, get, delete, and compare and swap. Halfway, one
/// replica crashes, and its clients go on at the others. At the end the demo prints throughput and
/// latencies, and checks that all replicas have the same state and that the clients' history is
/// linearizable.
///
/// Ctrl-C ends the run early and prints the results so far.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy demo
  isonomy demo --replicas 5 --conflicts 25 --clients 200
  isonomy demo --durability fsync
  isonomy demo --wan bench-config/wan-5.toml --no-crash --seconds 20
  isonomy demo --json --history history.jsonl

Exit codes:
  0  all checks passed
  1  a check failed, or the result could not be written
  2  wrong arguments, or a file that cannot be used
  3  interrupted twice")]
pub(super) struct Demo {
    /// Number of replicas, 1 to 63 [default: 3, or the number of sites with --wan]
    #[arg(long, value_name = "N")]
    replicas: Option<usize>,
    /// Protocol: epaxos, multi-paxos, fast-paxos or paxos
    #[arg(long, value_name = "NAME", default_value_t)]
    protocol: ProtocolKind,
    /// Length of the run in seconds, 0.1 to 86400
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Clients at each replica, 1 to 10000; each has one command in flight
    #[arg(long, visible_alias = "outstanding", value_name = "N", default_value_t = 64)]
    clients: u32,
    /// Commands on one key that all clients share, in percent; all others use keys of one client
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
    conflicts: f64,
    /// Commands that only read, in percent; of the others, 8 in 10 are put, the rest cas and del
    #[arg(long, value_name = "PERCENT", default_value_t = 30.0)]
    reads: f64,
    /// Length of each value in bytes, 16 to 1048576
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    value_size: usize,
    /// Seed of the workload and of the emulated network
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Do not crash a replica
    #[arg(long)]
    no_crash: bool,
    /// Emulate a wide area: a file with sites and round trips, such as bench-config/wan-5.toml
    #[arg(long, value_name = "FILE")]
    wan: Option<PathBuf>,
    /// What a replica's vote must survive before the replica sends it
    #[arg(long, value_name = "MODE", value_enum, default_value_t = DurabilityName::Memory)]
    durability: DurabilityName,
    /// Send proposals before they are durable, in slots reserved beforehand
    #[arg(long, value_name = "on|off", value_parser = on_or_off, action = ArgAction::Set)]
    #[arg(default_value = "on")]
    reserved_slots: bool,
    /// Answer commands before their commits are durable
    #[arg(long, value_name = "on|off", value_parser = on_or_off, action = ArgAction::Set)]
    #[arg(default_value = "off")]
    silent_orphans: bool,
    /// Directory for the replicas' data, with --durability fsync or os: it must not exist yet, and
    /// is removed at the end [default: one in the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Write what the clients asked and were answered: one JSON object a line
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
        // Opened first: an error before the run is better than one after it.
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
            bail!("--data has no effect with --durability memory: add --durability fsync or os");
        }
        let workload = Workload::demo(self.conflicts, self.reads, self.value_size, self.seed);
        workload.check().map_err(|(_, what)| anyhow!(what))?;
        let clients = self.clients;
        if !(1..=10_000).contains(&clients) {
            bail!("--clients {clients}: take between 1 and 10000");
        }
        if !(0.1..=86_400.0).contains(&time.as_secs_f64()) {
            bail!("--seconds {}: take between 0.1 and 86400", self.seconds);
        }
        if let Some(sites) = sites.filter(|sites| *sites < replicas) {
            bail!(
                "{replicas} replicas, but the wide area has {sites} sites: take fewer, or add sites"
            );
        }
        // In a cluster that tolerates no failure, no replica is crashed.
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
    let mut watch = |live: Live<'_>| show(&bar, scenario, &live);
    let held = runtime.block_on(async { run(scenario, 0, &mut watch, super::interrupted()).await });
    bar.finish_and_clear();
    Ok(held?)
}

fn show(bar: &ProgressBar, scenario: &Scenario, live: &Live<'_>) {
    let Live { row, answered, stopped, .. } = live;
    let rate = row.rate;
    if let Target::Local(cluster) = &scenario.target {
        let replicas = cluster.replicas - stopped;
        bar.set_message(format!("{answered} operations, {rate:.0}/s, {replicas} replicas"));
    }
    let elapsed = Duration::try_from_secs_f64(row.at_s).unwrap_or_default();
    bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
}
