//! Runs a scenario once. It starts or joins the cluster, fills the table, runs the clients of
//! `driver`, carries out the scheduled faults, and takes a sample at each interval. The result is a
//! [`Run`].

use std::future::Future;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriter, IntervalLogWriterBuilder};

use crate::client::ConnectError;
use crate::load::driver::{Drive, Endpoint, Figures, Manner, Trouble};
use crate::load::durations::Durations;
use crate::load::result::figures::{Event, Row, Stop};
use crate::load::result::gauge::Cpu;
use crate::load::result::run::{Costs, Counted, Run};
use crate::load::result::tally::Tally;
use crate::load::scenario::faults::{Action, Fault, Who};
use crate::load::scenario::{LocalTarget, Scenario, Target};
use crate::load::target::local::Local;
use crate::load::target::{connect, virtual_time};
use crate::load::workload::{Key, Written};
use crate::machine::{Kv, KvCommand};
use crate::mesh::WanControl;
use crate::node::{Durability, Latency, LocalCluster, StartError};
use crate::types::{ClientId, RequestId, Timing};

/// Bounds on a command that fills the table: its keys, and the bytes of keys and values. A longer
/// value is sent alone.
const FILL: usize = 100;
const FILL_BYTES: usize = 1 << 20;

/// The longest name of a key in a table, which is `k` with a number below 2^31.
const KEY_BYTES: usize = 11;

/// A load could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The cluster did not start.
    #[error("the cluster does not start: {0}")]
    Start(#[from] StartError),
    /// The cluster was not found.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// The table could not be filled.
    #[error("the table cannot be filled: {0}")]
    Preload(Trouble),
}

/// The progress of a run at the last interval.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Live<'a> {
    /// That interval.
    pub row: &'a Row,
    /// Operations without an answer in the whole run.
    pub errors: u64,
    /// Answered operations in the whole run.
    pub answered: u64,
    /// The number of stopped replicas.
    pub stopped: usize,
}

/// Runs a scenario. Must be called within a tokio runtime. `watch` is called with the progress at
/// each interval. The run ends early when `interrupt` completes. `repeat`, from 0, distinguishes
/// runs on the same cluster, each of which has different random numbers.
///
/// # Errors
/// If the cluster cannot be started or reached. Errors under load are in the result.
pub async fn run(
    scenario: &Scenario,
    repeat: u32,
    watch: &mut dyn FnMut(Live<'_>),
    interrupt: impl Future<Output = ()>,
) -> Result<Run, RunError> {
    let mut scenario = scenario.clone();
    scenario.plan.workload.seed = scenario.plan.workload.seed.wrapping_add(repeat.into());
    match &scenario.target {
        Target::Remote(config) => {
            if scenario.verify {
                // The check needs keys that were never written before.
                scenario.plan.workload.namespace = rand::random_range(1..u64::MAX);
            }
            let endpoints = connect(config).await?;
            let ran = session(&scenario, endpoints.clone(), None, watch, interrupt).await;
            for endpoint in endpoints {
                endpoint.close().await;
            }
            ran
        }
        Target::Local(target) => {
            let mut local = start(&scenario, target).await?;
            let places = local.places.clone();
            let mut ran = session(&scenario, places, Some(&mut local), watch, interrupt).await?;
            if scenario.verify {
                local.resume_all();
                ran.judge_digests(local.cluster.digests().await);
            }
            local.cluster.shutdown().await;
            Ok(ran)
        }
        Target::Virtual(cluster, prices) => Ok(virtual_time::run(&scenario, cluster, *prices)),
    }
}

async fn start(scenario: &Scenario, target: &LocalTarget) -> Result<Local, StartError> {
    let seed = scenario.plan.workload.seed;
    let (protocol, optimisations) = (target.protocol, target.optimisations);
    let timing = Timing { leader: target.leader, ..Timing::default() };
    let mut cluster = LocalCluster::<Kv>::builder(target.replicas).timing(timing);
    cluster =
        cluster.configure(move |replica| replica.protocol(protocol).optimisations(optimisations));
    if target.durability != Durability::Memory
        && let Some(dir) = &target.data_dir
    {
        // Each start has its own directories, because earlier starts have left theirs.
        let own = format!("{:016x}", rand::random::<u64>());
        cluster = cluster.data_dirs(dir.join(own), target.durability);
    }
    let needs_network = scenario.faults.iter().any(|it| it.action.is_about_the_network());
    let network = match &target.area {
        Some(area) => Some(area.control(seed)),
        None if needs_network => Some(WanControl::uniform(seed, target.replicas, Duration::ZERO)),
        None => None,
    };
    if let Some(network) = &network {
        cluster = cluster.wan(network.clone());
    }
    Ok(Local::new(cluster.start().await?, network, target.clone()))
}

/// One run on an existing cluster.
async fn session<E: Endpoint + Clone>(
    scenario: &Scenario,
    endpoints: Vec<E>,
    mut local: Option<&mut Local>,
    watch: &mut dyn FnMut(Live<'_>),
    interrupt: impl Future<Output = ()>,
) -> Result<Run, RunError> {
    if scenario.preload {
        fill(scenario, &endpoints[0]).await?;
    }
    let drive = Drive::start(&scenario.plan, endpoints, 1 << 32);
    let (mut log, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let mut writer = begin_log(&mut log, &mut serializer, scenario.plan.warm_up);
    let mut logged_s = 0.0;
    let mut looks = Looks::new(scenario, &drive);
    let mut schedule = Schedule::new(scenario.faults.clone());
    tokio::pin!(interrupt);
    let mut interrupted = false;
    loop {
        let next = looks.next_moment().min(schedule.next_moment());
        tokio::select! {
            () = &mut interrupt => interrupted = true,
            () = drive.exhausted(), if scenario.plan.count.is_some() => {}
            () = tokio::time::sleep(next.saturating_sub(drive.elapsed())) => {}
        }
        interrupted |= scenario.must_answer && drive.failed() > 0 && !looks.is_over(&drive);
        let is_last = interrupted || looks.is_over(&drive);
        if is_last {
            // Before the last sample: no operation may start while it is taken.
            drive.stop();
        }
        if looks.ends_warm_up(&drive) {
            looks.begin(local.as_deref()).await;
        }
        if let Some(local) = local.as_deref_mut() {
            schedule.act(&drive, local, &mut looks).await;
        }
        if looks.is_due(&drive) || (interrupted && looks.is_under_way(&drive)) {
            let (row, latency) = looks.look(drive.elapsed(), &drive.recent());
            write_row(&mut writer, &mut logged_s, &row, &latency);
            watch(looks.live(&drive, &row));
            looks.run.series.push(row);
        }
        if is_last {
            break;
        }
    }
    let mut ended = drive.stop();
    looks.costs(local.as_deref()).await;
    if let Some(local) = local.as_deref_mut() {
        local.resume_all();
    }
    let driven = drive.finish(scenario.patience).await;
    if scenario.duration.is_none() && !interrupted {
        // A limited run ends with its last operation, which belongs to the series, too.
        ended = driven.ended;
        let (row, latency) = looks.look(ended, &driven.rest);
        if latency.count() > 0 || row.errors > 0 {
            write_row(&mut writer, &mut logged_s, &row, &latency);
            looks.run.series.push(row);
        }
    }
    let counted = looks.counted(local.as_deref()).await;
    drop(writer);
    let seen = Run { interrupted, hdr_log: log, ..looks.run };
    Ok(seen.complete(scenario, ended, driven, counted))
}

type IntervalLog<'a, 'b> = IntervalLogWriter<'a, 'b, Vec<u8>, V2DeflateSerializer>;

/// Starts the log of intervals; its times count from the end of the warm-up.
fn begin_log<'a, 'b>(
    log: &'a mut Vec<u8>,
    serializer: &'b mut V2DeflateSerializer,
    warm_up: Duration,
) -> IntervalLog<'a, 'b> {
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment(concat!("isonomy ", env!("CARGO_PKG_VERSION")));
    builder.add_comment("values in microseconds; the maximum of each line in milliseconds");
    let start = SystemTime::now() + warm_up;
    builder.with_start_time(start).with_base_time(start).with_max_value_divisor(1_000.0);
    builder.begin_log_with(log, serializer).expect("memory takes whatever is written to it")
}

/// Adds an interval to the log, unless it is in the warm-up. It starts where the last one ended,
/// because readers of the log add intervals up.
fn write_row(writer: &mut IntervalLog<'_, '_>, logged_s: &mut f64, row: &Row, latency: &Latency) {
    if !row.counts() {
        return;
    }
    let from = Duration::from_secs_f64((row.at_s - row.seconds).max(*logged_s));
    let took = Duration::from_secs_f64(row.at_s).saturating_sub(from);
    *logged_s = row.at_s;
    // Writing to memory cannot fail.
    let _ = writer.write_histogram(latency.histogram(), from, took, None);
}

/// Writes a value to every key of the table.
async fn fill<E: Endpoint>(scenario: &Scenario, endpoint: &E) -> Result<(), RunError> {
    let workload = &scenario.plan.workload;
    let entry = |index: u32| {
        (Key::of_table(index).name(), Written(u64::from(index) + 1).value(&workload.values))
    };
    let most = (FILL_BYTES / (KEY_BYTES + workload.values.most())).clamp(1, FILL);
    let mut keys = 0..workload.keys.table();
    for sequence in 1.. {
        let entries: Vec<_> = keys.by_ref().take(most).map(entry).collect();
        if entries.is_empty() {
            break;
        }
        let command = KvCommand::PutMany { entries };
        let done = endpoint.ask(command, Manner::Once(RequestId::new(ClientId(1), sequence))).await;
        done.map_err(RunError::Preload)?;
    }
    Ok(())
}

/// The samples of a run.
struct Looks {
    warm_up: Duration,
    interval: Duration,
    end: Duration,
    /// The end of the next row.
    next: Duration,
    last: Duration,
    /// The CPU time since the warm-up; `None` during it.
    cpu: Option<Cpu>,
    before: Option<Vec<Tally>>,
    /// What is seen while the clients work: series, events, costs.
    run: Run,
}

impl Looks {
    fn new<E: Endpoint>(scenario: &Scenario, drive: &Drive<E>) -> Looks {
        let warm_up = scenario.plan.warm_up;
        Looks {
            warm_up,
            interval: scenario.interval,
            end: scenario.duration.map_or(Duration::MAX, |duration| warm_up + duration),
            // So that a row ends with the warm-up.
            next: first_row(warm_up, scenario.interval),
            last: drive.elapsed(),
            cpu: None,
            before: None,
            run: Run::default(),
        }
    }

    fn is_over<E: Endpoint>(&self, drive: &Drive<E>) -> bool {
        drive.elapsed() >= self.end || drive.is_exhausted()
    }

    fn next_moment(&self) -> Duration {
        let warm_up = if self.cpu.is_some() { Duration::MAX } else { self.warm_up };
        self.next.min(self.end).min(warm_up)
    }

    /// Whether an interval in the counted time has begun.
    fn is_under_way<E: Endpoint>(&self, drive: &Drive<E>) -> bool {
        self.cpu.is_some() && drive.elapsed() > self.last
    }

    fn ends_warm_up<E: Endpoint>(&self, drive: &Drive<E>) -> bool {
        self.cpu.is_none() && drive.elapsed() >= self.warm_up
    }

    async fn begin(&mut self, local: Option<&Local>) {
        if let Some(local) = local {
            self.before = Some(local.tallies().await);
        }
        self.cpu = Some(Cpu::start());
    }

    /// Takes the costs of operations since the warm-up: the generator's, and the replicas'.
    async fn costs(&mut self, local: Option<&Local>) {
        let Some(cpu) = &mut self.cpu else { return };
        cpu.look();
        self.run.generator.busy = cpu.busy();
        let (Some(local), cpu) = (local, cpu.by_replica()) else { return };
        let tallies = self.since_warm_up(local.tallies().await);
        let work = |(number, tally): (u8, &Tally)| {
            (tally.counts, cpu.get(&number).copied().unwrap_or_default())
        };
        let rows = self.run.series.iter().filter(|row| row.counts());
        self.run.costs = Some(Costs {
            answered: rows.map(|row| row.answers).sum(),
            replicas: (1..).zip(&tallies).map(work).collect(),
        });
    }

    fn is_due<E: Endpoint>(&self, drive: &Drive<E>) -> bool {
        let now = drive.elapsed();
        now >= self.next || now >= self.end
    }

    /// The row of an interval that ends `now`, and the latencies in it.
    fn look(&mut self, now: Duration, recent: &[Figures]) -> (Row, Latency) {
        let (mut latency, mut sites) = (Latency::default(), Vec::new());
        for one in recent.iter().map(Figures::latency) {
            sites.push(one.count());
            latency.add(&one);
        }
        let errors = recent.iter().map(|one| one.errors).sum();
        let length = now.saturating_sub(self.last);
        self.last = now;
        while self.next <= now {
            self.next += self.interval;
        }
        let answers = Durations::from(latency.clone());
        (Row::of(self.warm_up, now, length, &answers, errors, sites), latency)
    }

    fn live<'a, E: Endpoint>(&self, drive: &Drive<E>, row: &'a Row) -> Live<'a> {
        let stopped = self.run.events.iter().filter(|event| event.stop.is_some()).count();
        Live { row, errors: drive.failed(), answered: drive.answered(), stopped }
    }

    /// The replicas' counters since the warm-up, at the end.
    async fn counted(&self, local: Option<&Local>) -> Option<Counted> {
        let local = local?;
        Some((self.since_warm_up(local.tallies().await), local.leader().await))
    }

    fn since_warm_up(&self, after: Vec<Tally>) -> Vec<Tally> {
        match &self.before {
            Some(before) => {
                after.into_iter().zip(before).map(|(it, then)| it.since(then)).collect()
            }
            None => after,
        }
    }
}

/// The end of the first row, chosen so that a row ends with the warm-up.
fn first_row(warm_up: Duration, interval: Duration) -> Duration {
    let rest = warm_up.as_nanos() % interval.as_nanos();
    let rest = Duration::from_nanos(u64::try_from(rest).expect("less than an interval"));
    if rest.is_zero() { interval } else { rest }
}

/// The faults that are still due, the last one first.
struct Schedule {
    left: Vec<Fault>,
}

impl Schedule {
    fn new(faults: Vec<Fault>) -> Schedule {
        let mut left = faults;
        left.sort_by_key(|fault| std::cmp::Reverse(fault.at));
        Schedule { left }
    }

    fn next_moment(&self) -> Duration {
        self.left.last().map_or(Duration::MAX, |fault| fault.at)
    }

    /// Carries out all faults that are due.
    async fn act<E: Endpoint>(&mut self, drive: &Drive<E>, local: &mut Local, looks: &mut Looks) {
        while self.next_moment() <= drive.elapsed() {
            let Some(Fault { at, mut action, text: what }) = self.left.pop() else { return };
            let start = Instant::now();
            let mut replica = None;
            if action.is_about_the_leader() {
                let leader = local.leader_or_stand_in().await;
                (action, replica) = (action.about(leader), Some(leader));
            }
            let stops = matches!(action, Action::Kill(_));
            if let Some(cpu) = looks.cpu.as_mut().filter(|_| stops) {
                cpu.look();
            }
            let (now, answered) = (drive.elapsed(), drive.answered());
            let at_s = match now.checked_sub(looks.warm_up) {
                Some(after) => after.as_secs_f64(),
                None => -(looks.warm_up - now).as_secs_f64(),
            };
            let stop = |replica| Stop { replica, at: now, back: None, answered };
            let stop = action.replicas().first().filter(|_| stops).map(|one| stop(*one));
            let failed = local.act(&action).await.err().map(|error| error.to_string());
            if let Action::Pause(Who::Replica(one), Some(time)) = action {
                // Scheduled only now, because the leader's number is known only now.
                self.left.push(Fault::resume(one, at + time));
                *self = Schedule::new(std::mem::take(&mut self.left));
            }
            let took_s = start.elapsed().as_secs_f64();
            looks.run.events.push(Event { at_s, what, replica, took_s, failed, stop });
        }
    }
}

#[cfg(test)]
mod tests;
