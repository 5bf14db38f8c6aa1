//! `isonomy load`: generates load on a running or a new cluster, and shows the results.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args, ValueEnum};
use tokio::runtime::Runtime;

use super::config::{CLIENT_FILE, ClientFile, DurabilityName, read};
use super::generate::{self, Scratch, create};
use super::{NO, NO_ANSWER, complain, on_or_off, tell};
use crate::client::ClientConfig;
use crate::load::find::{at_rate, highest, next_rate};
use crate::load::render::csv::{write_csv, write_hdr};
use crate::load::result::{Found, Outcome, Row, Run, Step};
use crate::load::runner::{Live, RunError, run};
use crate::load::scenario::Scenario;
use crate::load::scenario::input::FileError;
use crate::load::scenario::settings::{ScenarioFile, Settings, Text, all_settings};
use crate::load::scenario::wide_area::WideArea;
use crate::mesh::check_addresses;
use crate::types::{Address, MemberId};

/// Generate load on a cluster, and measure what its clients see.
///
/// The load runs on a running cluster (--cluster), or on one started in this process (--local).
///
/// With --rate the load is an open loop: operations start on schedule even if answers are slow, and
/// latency counts from the scheduled start. A cluster that stalls is thus charged for every
/// operation that would have started meanwhile. With --clients it is a closed loop: each client has
/// one operation in flight. The default is a closed loop with 16 clients at each replica.
///
/// A TIME is a number with ms, s, m or h, such as 250ms or 30s; without a unit it is in seconds.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy load --rate 2000 --conflicts 25 --slo 'p99<50ms'
  isonomy load --cluster cluster --rate 500 --duration 30s --csv series.csv
  isonomy load --config bench-config/wan-5.toml --rate 200 --json
  isonomy load --local 5 --ycsb a --clients 32 --repeats 5
  isonomy load --local 3 --rate 1000 --fault 'kill 3 at 5s' --verify
  isonomy load --find-rate --slo 'p99<20ms' --duration 5s

Faults (R: a replica's number, T: a time after the warm-up, D: a duration):
  kill R at T                   stop it as if its process were killed
  restart R at T                start it again, from its directory
  pause R at T [for D]          freeze it, for D or until it is resumed
  resume R at T                 let a paused replica go on
  partition R.. from R.. at T   drop all packets between two groups
  slow R by D at T              delay all that it sends and receives by D
  link R-R by D [loss P%] at T  delay a link, and drop P% of its packets
  heal at T                     end all partitions, delays and losses
  To kill or pause the leader, write `leader` for R: kill leader at 5s

Exit codes:
  0  success
  1  an objective was missed, a check failed, nothing was answered, or a file
     was not written
  2  wrong arguments, or a file that cannot be used
  3  the cluster cannot be reached, or interrupted twice")]
pub(super) struct Load {
    /// Scenario file; flags take precedence over its settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    flags: Flags,
    /// Find the highest rate that meets all --slo, to within 5%; starts at --rate [default: 100]
    #[arg(long, help_heading = "Pace")]
    find_rate: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
struct TargetArgs {
    /// Use a running cluster: its directory, as written by `isonomy init`
    #[arg(long, value_name = "DIR", conflicts_with_all = ["local", "wan", "protocol"])]
    cluster: Option<PathBuf>,
    /// Replicas of --cluster to use, and their addresses if they differ from the directory's: a
    /// list such as 1,2 or 1=HOST:PORT,2=HOST:PORT [default: all]
    #[arg(long, value_name = "N[=ADDR],..", value_delimiter = ',', requires = "cluster")]
    endpoints: Vec<String>,
    /// Start N replicas in this process, 1 to 63 [default: 3]
    #[arg(long, value_name = "N")]
    local: Option<usize>,
    /// Emulate a wide area between them: a file such as bench-config/wan-5.toml
    #[arg(long, value_name = "FILE")]
    wan: Option<PathBuf>,
}

macro_rules! flags {
    ($($(#[$help:meta])* $name:ident: $kind:ty [$($flag:tt)*],)*) => {
        /// The flags that are settings of a scenario.
        #[derive(Debug, Args)]
        #[group(skip)]
        struct Flags {
            $($(#[$help])* #[arg($($flag)*)] $name: Option<$kind>,)*
        }

        impl Flags {
            fn settings(&self) -> Settings {
                Settings { $($name: self.$name.clone(),)* }
            }
        }
    };
}
all_settings!(flags);

/// Places of two flags in the help, counted over all flags: the settings are in another order.
const AFTER_COUNT: usize = 17;
const AFTER_SLO: usize = 36;

#[derive(Debug, Args)]
#[command(next_help_heading = "Output", next_display_order = 100)]
struct OutputArgs {
    /// Print one JSON object instead of the text
    #[arg(long)]
    json: bool,
    /// Write the time series as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the time series as an HdrHistogram log, version 2
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,
}

impl Load {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let file = self.config.as_deref().map(ScenarioFile::read).transpose()?.unwrap_or_default();
        let area = self.target.wan.as_deref().map(WideArea::read).transpose()?;
        let flags = self.settings();
        let remote = self.target.remote()?;
        let mut scenario = Scenario::new(&flags, &file, area, remote)?;
        if self.find_rate && scenario.slos.is_empty() {
            bail!("--find-rate needs an objective: add one, such as --slo 'p99<50ms'");
        }
        if self.find_rate && scenario.repeats > 1 {
            bail!("--repeats cannot be used with --find-rate, which tries each rate once");
        }
        scenario.notes.iter().for_each(|note| complain(format_args!("note: {note}")));
        let _scratch = Scratch::for_replicas(&mut scenario.target, None)?;
        // Opened first: an error before the run is better than one after it.
        let csv = self.output.csv.as_deref().map(create).transpose()?;
        if let Some(path) = self.output.hdr.as_deref() {
            create(path)?;
        }
        let ran = self.measure(&scenario)?;
        let outcome = match ran {
            Ok(outcome) => outcome,
            Err(RunError::Connect(error)) => {
                complain(format_args!("error: the cluster cannot be reached: {error}"));
                return Ok(ExitCode::from(NO_ANSWER));
            }
            Err(error) => return Err(error.into()),
        };
        // Print the results even if the files cannot be written.
        let told = match self.output.json {
            true => tell(serde_json::to_string(&outcome).context("the outcome has no JSON form")?),
            false => tell(&outcome),
        };
        let mut is_good = told && outcome.is_good();
        let csv = csv.map(|(path, file)| {
            let written = write_csv(&outcome, file);
            written.map_err(|error| FileError::system("write", path, &error))
        });
        let hdr = self.output.hdr.as_deref().map(|path| write_hdr(&outcome.runs, path));
        for error in [csv, hdr].into_iter().flatten().filter_map(Result::err) {
            complain(format_args!("error: {error}"));
            is_good = false;
        }
        Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::from(NO) })
    }

    /// Makes all repeats, or all runs of a search, until one fails or is interrupted. A failure
    /// after the first run is only reported, because the runs so far are worth something.
    fn measure(&self, scenario: &Scenario) -> anyhow::Result<Result<Outcome, RunError>> {
        let runtime = generate::runtime(generate::threads(&scenario.target))?;
        let (mut runs, mut steps) = (Vec::new(), self.find_rate.then(Vec::new));
        while let Some((next, name, of)) = next_run(scenario, &runs, steps.as_deref()) {
            let repeat = if self.find_rate { 0 } else { runs.len() };
            let repeat = u32::try_from(repeat).expect("at most 1000 repeats");
            match once(&runtime, &next, repeat, &format!("{name}{of}")) {
                // A rate that was not offered to the end proves nothing.
                Ok(ran) if ran.interrupted && self.find_rate => break,
                Ok(ran) => {
                    let interrupted = ran.interrupted;
                    steps.iter_mut().for_each(|steps| steps.push(Step::of(&next, &ran)));
                    runs.push(ran);
                    if interrupted {
                        break;
                    }
                }
                Err(error) if !runs.is_empty() => {
                    complain(format_args!("error: {name}: {error}"));
                    break;
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        let found = steps.map(|steps| Found { rate: highest(&steps), steps });
        Ok(Ok(Outcome::new(scenario, runs, found)))
    }

    fn settings(&self) -> Settings {
        let mut settings = self.flags.settings();
        settings.replicas = self.target.local;
        // A search starts at this rate, so the load is an open loop.
        settings.rate = settings.rate.or(self.find_rate.then_some(100.0));
        // A file may switch these on where the flags do not.
        let Settings { uniform, local_reads, preload, verify, .. } = &mut settings;
        for switch in [uniform, local_reads, preload, verify] {
            *switch = switch.filter(|is_on| *is_on);
        }
        settings
    }
}

/// The names of durabilities.
fn durability() -> PossibleValuesParser {
    let names = DurabilityName::value_variants().iter();
    names.filter_map(ValueEnum::to_possible_value).collect::<Vec<_>>().into()
}

impl TargetArgs {
    /// The running cluster, if one is named.
    fn remote(&self) -> anyhow::Result<Option<ClientConfig>> {
        let Some(dir) = &self.cluster else { return Ok(None) };
        let path = dir.join(CLIENT_FILE);
        let file: ClientFile = read(&path)?;
        let known = file.replicas().with_context(|| path.display().to_string())?;
        let mut replicas = if self.endpoints.is_empty() { known.clone() } else { BTreeMap::new() };
        for endpoint in &self.endpoints {
            let (number, addr) = match endpoint.split_once('=') {
                Some((number, addr)) => (number, Some(addr)),
                None => (endpoint.as_str(), None),
            };
            let wrong = || format!("--endpoints {endpoint}: write 1=127.0.0.1:7401, or 1 alone");
            let id = number.trim().parse().ok().and_then(MemberId::new).with_context(wrong)?;
            let address: Address = match addr {
                Some(addr) => addr.trim().parse().with_context(wrong)?,
                None => known.get(&id).cloned().with_context(|| {
                    format!("--endpoints {endpoint}: {} has no such replica", path.display())
                })?,
            };
            if replicas.insert(id, address).is_some() {
                bail!("--endpoints names replica {} twice", id.number());
            }
        }
        check_addresses(&replicas, None).context("--endpoints")?;
        let credentials = file.tls.credentials(&path)?;
        for certificate in credentials.expiring(SystemTime::now()) {
            complain(format_args!("warning: {certificate} (isonomy cert renew)"));
        }
        Ok(Some(ClientConfig::new(file.cluster, file.client, credentials, replicas)))
    }
}

/// The scenario of the next run, its name, and how many runs are planned; `None` after the last.
fn next_run(
    scenario: &Scenario,
    runs: &[Run],
    steps: Option<&[Step]>,
) -> Option<(Scenario, String, String)> {
    let number = runs.len() + 1;
    match (steps, scenario.repeats as usize) {
        (Some(steps), _) => {
            let rate = next_rate(scenario.settings.rate?, steps)?;
            Some((at_rate(scenario, rate), format!("at {rate:.0}/s"), " ".to_owned()))
        }
        (None, many) if number > many => None,
        (None, 1) => Some((scenario.clone(), String::new(), String::new())),
        (None, many) => Some((scenario.clone(), format!("run {number}"), format!(" of {many} "))),
    }
}

/// One run, with a line that shows its progress.
fn once(runtime: &Runtime, scenario: &Scenario, repeat: u32, label: &str) -> Result<Run, RunError> {
    let line = generate::progress_bar(1, "{msg}");
    let mut watch = |Live { row, errors, .. }: Live<'_>| {
        let Row { at_s, rate, p50_ms, p99_ms, .. } = row;
        let phase = if *at_s <= 0.0 { "warming up, " } else { "" };
        line.set_message(format!(
            "{label}{phase}{at_s:.0} s: {rate:.0}/s, p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms, \
             {errors} errors"
        ));
    };
    let ran =
        runtime.block_on(async { run(scenario, repeat, &mut watch, super::interrupted()).await });
    line.finish_and_clear();
    ran
}
