//! Builds a scenario from settings: a load that can run on a new or a running cluster. Everything
//! is checked here, before anything is started.

mod asks;
pub mod faults;
pub mod input;
pub mod settings;
pub mod slo;
pub mod span;
pub mod wide_area;

use std::path::PathBuf;
use std::time::Duration;

use self::asks::{pace, workload};
use self::faults::{Action, Fault, Who};
use self::settings::{BadSetting, ScenarioFile, Settings, Text};
use self::slo::Slo;
use self::span::parse_time;
use self::wide_area::WideArea;
use crate::client::ClientConfig;
use crate::load::driver::Plan;
use crate::load::workload::{Flaw, Workload};
use crate::node::Durability;
use crate::protocol::ProtocolKind;
use crate::types::{Consistency, Optimisations, Quorums, ReplicaId};

/// The number of operations recorded for a check, about 60 bytes each; if there are more, only
/// those of some keys are.
const RECORD: usize = 2_000_000;

/// The same for the demo.
const DEMO_RECORD: usize = 1_000_000;

/// The shortest interval of the demo's series and the largest number of them; they show progress.
const DEMO_INTERVAL: Duration = Duration::from_millis(250);
const DEMO_INTERVALS: u32 = 1_000;

/// The shortest interval of a series.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);

/// A load that can be run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// All settings, including defaults.
    pub settings: Settings,
    /// The cluster.
    pub target: Target,
    /// The clients' operations and their pace.
    pub plan: Plan,
    /// The length of the counted time; `None` if the number of operations ends the run.
    pub duration: Option<Duration>,
    /// The number of repeats.
    pub repeats: u32,
    /// Whether the table is filled first.
    pub preload: bool,
    /// The length of an interval of the series.
    pub interval: Duration,
    /// Whether the history is checked.
    pub verify: bool,
    /// The objectives.
    pub slos: Vec<Slo>,
    /// The scheduled faults.
    pub faults: Vec<Fault>,
    /// Notes for people: corrections of the files, and settings without effect.
    pub notes: Vec<String>,
    /// How long operations may take once the clients have been told to stop.
    pub patience: Duration,
    /// Whether an operation without an answer is a failure and ends the run.
    pub must_answer: bool,
    /// Whether the result keeps the checked history.
    pub keeps_record: bool,
}

/// A cluster under load.
#[derive(Clone, Debug)]
pub enum Target {
    /// A new cluster in this process.
    Local(LocalTarget),
    /// A running cluster.
    Remote(Box<ClientConfig>),
    /// A cluster in virtual time, with given durations.
    Virtual(LocalTarget, Prices),
}

impl Target {
    /// The wide area network of the replicas, if known.
    pub fn area(&self) -> Option<&WideArea> {
        match self {
            Target::Local(cluster) | Target::Virtual(cluster, _) => cluster.area.as_ref(),
            Target::Remote(_) => None,
        }
    }
}

/// Durations in virtual time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prices {
    /// The CPU time of a message for its sender and for its receiver.
    pub message: Duration,
    /// The duration of a flush; zero for replicas in memory.
    pub flush: Duration,
}

/// Whether the protocol has a leader, even if only for collisions.
pub fn leads(protocol: ProtocolKind) -> bool {
    matches!(protocol, ProtocolKind::MultiPaxos | ProtocolKind::FastPaxos)
}

/// A cluster to start.
#[derive(Clone, Debug)]
pub struct LocalTarget {
    /// The replicas' protocol.
    pub protocol: ProtocolKind,
    /// The number of replicas.
    pub replicas: usize,
    /// The preferred leader; under a leaderless protocol, the target of faults for the leader.
    pub leader: Option<ReplicaId>,
    /// Their wide area network, if any.
    pub area: Option<WideArea>,
    /// How durable votes are.
    pub durability: Durability,
    /// Their optimisations for waiting less for flushes.
    pub optimisations: Optimisations,
    /// The parent of their data directories.
    pub data_dir: Option<PathBuf>,
}

impl Scenario {
    /// One run of a plan with default settings.
    pub fn plain(target: Target, plan: Plan) -> Scenario {
        Scenario {
            settings: Settings::default(),
            target,
            plan,
            duration: None,
            repeats: 1,
            preload: false,
            interval: Duration::from_secs(1),
            verify: false,
            slos: Vec::new(),
            faults: Vec::new(),
            notes: Vec::new(),
            patience: Duration::from_secs(20),
            must_answer: false,
            keeps_record: false,
        }
    }

    /// The demo on this cluster: a checked workload and `clients` clients at each replica. If a
    /// replica is named, it crashes half-way.
    pub fn demo(
        cluster: LocalTarget,
        workload: Workload,
        clients: u32,
        time: Duration,
        crash: Option<ReplicaId>,
    ) -> Scenario {
        let faults = crash.map(|id| Fault::kill(Who::Replica(id.number()), time / 2));
        Scenario {
            duration: Some(time),
            interval: DEMO_INTERVAL.max(time / DEMO_INTERVALS),
            verify: true,
            faults: faults.into_iter().collect(),
            must_answer: true,
            keeps_record: true,
            ..Scenario::plain(Target::Local(cluster), Plan::closed(workload, clients, DEMO_RECORD))
        }
    }

    /// Builds a scenario from `flags`, and from `file` where a flag is not given. `remote` is the
    /// running cluster, if that is the target; otherwise a cluster is started, by default of three
    /// replicas.
    ///
    /// # Errors
    /// The first invalid setting, with its flag or line.
    pub fn new(
        flags: &Settings,
        file: &ScenarioFile,
        area: Option<WideArea>,
        remote: Option<ClientConfig>,
    ) -> Result<Scenario, BadSetting> {
        Scenario::of(flags, file, area, remote).map_err(|(name, what)| file.bad(flags, name, what))
    }

    fn of(
        flags: &Settings,
        file: &ScenarioFile,
        area: Option<WideArea>,
        remote: Option<ClientConfig>,
    ) -> Result<Scenario, Flaw> {
        let settings = file.under(flags).or(Settings::usual(&file.under(flags)));
        let time = |name: &'static str, value: &Option<Text>| {
            let value = value.as_ref().map(|text| parse_time(&text.to_string()));
            value.transpose().map_err(|what| (name, what))
        };
        let workload = workload(&settings)?;
        workload.check()?;
        let target = match remote {
            Some(config) => Target::Remote(Box::new(config)),
            None => Target::Local(local(&settings, area.or_else(|| file.area.clone()))?),
        };
        let mut faults = faults(&settings, &target).map_err(|what| ("fault", what))?;
        let slos = settings.slo.iter().flatten().map(|text| text.parse());
        let slos = slos.collect::<Result<_, String>>().map_err(|what| ("slo", what))?;
        let timeout = time("timeout", &settings.timeout)?.unwrap_or(Duration::from_secs(10));
        let plan = Plan {
            pace: pace(&settings, time("think", &settings.think)?)?,
            reads: match settings.local_reads {
                Some(true) => Consistency::Local,
                _ => Consistency::Linearizable,
            },
            timeout,
            // Clients of a running cluster retry at other replicas by themselves.
            attempt: match &target {
                Target::Remote(_) => timeout + Duration::from_secs(60),
                _ => timeout.min(Duration::from_secs(2)),
            },
            warm_up: time("warm_up", &settings.warm_up)?.unwrap_or_default(),
            count: settings.count,
            distance: distance(&target),
            record: if workload.checked { RECORD } else { 0 },
            ..Plan::closed(workload, 1, 0)
        };
        faults.iter_mut().for_each(|fault| fault.at += plan.warm_up);
        let scenario = Scenario {
            notes: notes(file, flags, &target, &faults)?,
            duration: time("duration", &settings.duration)?,
            repeats: settings.repeats.unwrap_or(1),
            preload: settings.preload == Some(true),
            interval: time("interval", &settings.interval)?.unwrap_or(Duration::from_secs(1)),
            verify: settings.verify == Some(true),
            patience: timeout + Duration::from_secs(2),
            slos,
            faults,
            settings,
            ..Scenario::plain(target, plan)
        };
        scenario.check().map_err(|(name, what)| (name, what.to_owned()))?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let is_no_time = |time: Duration| time < Duration::from_millis(100);
        if self.settings.count == Some(0) || self.duration.is_some_and(is_no_time) {
            return Err(("duration", "this is too short: at least 0.1 seconds, or one operation"));
        }
        if self.plan.timeout.is_zero() {
            return Err(("timeout", "operations take some time: give them more than none"));
        }
        if self.interval < LEAST_INTERVAL {
            return Err(("interval", "at least 10ms"));
        }
        if !(1..=1_000).contains(&self.repeats) {
            return Err(("repeats", "take between 1 and 1000"));
        }
        if self.preload && self.verify {
            return Err(("preload", "not with `verify`: the check begins with an empty store"));
        }
        if self.preload && self.plan.workload.keys.table() == 0 {
            return Err(("preload", "there is no table of keys: choose zipf, uniform or hot_spot"));
        }
        Ok(())
    }
}

impl Settings {
    /// The defaults, which may depend on other settings.
    fn usual(said: &Settings) -> Settings {
        let is_open = said.rate.is_some();
        let has_keys = said.zipf.is_some()
            || said.uniform.is_some()
            || said.hot_spot.is_some()
            || said.ycsb.is_some();
        Settings {
            protocol: Some(ProtocolKind::default().to_string()),
            durability: Some("memory".to_owned()),
            arrivals: is_open.then(|| "poisson".to_owned()),
            outstanding: is_open.then_some(10_000),
            clients: (!is_open).then_some(16),
            warm_up: Some("2s".into()),
            duration: if said.count.is_none() { Some("10s".into()) } else { None },
            seed: Some(1),
            repeats: Some(1),
            conflicts: (!has_keys).then_some(2.0),
            hot_keys: (!has_keys).then_some(1),
            records: has_keys.then_some(1_000),
            reads: said.ycsb.is_none().then_some(50.0),
            keys_per_command: Some(1),
            value_size: Some(Text::Whole(if said.ycsb.is_some() { 1_000 } else { 16 })),
            preload: Some(said.ycsb.is_some() && said.verify != Some(true)),
            timeout: Some("10s".into()),
            interval: Some("1s".into()),
            verify: Some(false),
            local_reads: Some(false),
            ..Settings::default()
        }
    }
}

/// Notes for people before the run. A file may serve other loads, too, so its settings without
/// effect are only noted. A flag is meant for this load, so one without effect is refused.
fn notes(
    file: &ScenarioFile,
    flags: &Settings,
    target: &Target,
    faults: &[Fault],
) -> Result<Vec<String>, Flaw> {
    let mut notes = target.area().map_or(Vec::new(), |area| area.notes.clone());
    for (name, what) in unused(&file.under(flags), target, faults) {
        match flags.has(name) {
            true => return Err((name, what)),
            false => notes.push(file.bad(flags, name, what).to_string()),
        }
    }
    Ok(notes)
}

/// The settings of `said` that have no effect on this load, and why.
fn unused(said: &Settings, target: &Target, faults: &[Fault]) -> Vec<Flaw> {
    let mut unused = Vec::new();
    let mut add = |names: &[&'static str], what: &str| {
        let given = names.iter().filter(|name| said.has(name));
        unused.extend(given.map(|name| (*name, what.to_owned())));
    };
    let waiting = ["reserved_slots", "silent_orphans"];
    match target {
        Target::Remote(_) => {
            let own = ["replicas", "protocol", "leader", "durability"];
            let what = "only for a cluster that is started here: one that runs has its own";
            add(&[&own[..], &waiting].concat(), what);
        }
        Target::Local(cluster) | Target::Virtual(cluster, _) => {
            let LocalTarget { protocol, durability, .. } = cluster;
            // Without a leader, this names the target of faults for the leader.
            if !leads(*protocol) && !faults.iter().any(|fault| fault.action.is_about_the_leader()) {
                add(&["leader"], &format!("nobody leads under {protocol}: leave it out"));
            }
            if *protocol != ProtocolKind::EPaxos {
                add(&waiting, &format!("makes no difference under {protocol}: leave it out"));
            } else if *durability == Durability::Memory {
                add(&waiting, "makes no difference in memory: choose durability os or fsync");
            }
        }
    }
    if said.rate.is_none() {
        add(&["arrivals", "outstanding"], "only an open loop has it: give a rate");
    }
    let has_table = said.zipf.is_some()
        || said.uniform == Some(true)
        || said.hot_spot.is_some()
        || said.ycsb.is_some();
    match has_table {
        true => add(&["hot_keys"], "only with conflicts: the keys are those of a table"),
        false => add(&["records"], "there is no table of keys: choose zipf, uniform or hot_spot"),
    }
    unused
}

fn local(settings: &Settings, area: Option<WideArea>) -> Result<LocalTarget, Flaw> {
    let protocol = settings.protocol.as_deref().map(str::parse::<ProtocolKind>).transpose();
    let protocol = protocol.map_err(|error| ("protocol", error.to_string()))?.unwrap_or_default();
    let sites = area.as_ref().map(|area| area.sites.len());
    let replicas = settings.replicas.or(sites).unwrap_or(3);
    Quorums::new(replicas).map_err(|error| ("replicas", error.to_string()))?;
    if let Some(sites) = sites.filter(|sites| *sites < replicas) {
        let what = format!("{replicas} replicas, but the wide area has {sites} sites");
        return Err(("replicas", what));
    }
    let durability = match settings.durability.as_deref() {
        None | Some("memory") => Durability::Memory,
        Some("os") => Durability::Os,
        Some("fsync") => Durability::Fsync,
        Some(other) => {
            return Err(("durability", format!("{other:?} is none of memory, os and fsync")));
        }
    };
    let usual = Optimisations::default();
    let optimisations = Optimisations {
        silent_orphans: settings.silent_orphans.unwrap_or(usual.silent_orphans),
        reserved_slots: match settings.reserved_slots {
            Some(false) => 0,
            _ => Optimisations::RESERVED_BLOCK,
        },
    };
    let leader = settings.leader.as_ref().map(|text| leader(text, replicas, area.as_ref()));
    let leader = leader.transpose().map_err(|what| ("leader", what))?;
    let data_dir = None;
    Ok(LocalTarget { protocol, replicas, leader, area, durability, optimisations, data_dir })
}

/// The replica with this number, or at the site with this name.
fn leader(text: &Text, replicas: usize, area: Option<&WideArea>) -> Result<ReplicaId, String> {
    let text = text.to_string();
    let sites = area.map_or(&[][..], |area| &area.sites[..replicas]);
    let named = sites.iter().position(|site| *site == text).map(ReplicaId::from_index);
    let number = || text.parse().ok().and_then(ReplicaId::new);
    let found = named.or_else(number).filter(|id| id.index() < replicas);
    found.ok_or_else(|| match sites {
        [] => format!("{text:?}: name a replica, from 1 to {replicas}"),
        sites => format!("{text:?}: name a replica, from 1 to {replicas}, or a site of {sites:?}"),
    })
}

/// The faults, with times after the end of the warm-up.
fn faults(settings: &Settings, target: &Target) -> Result<Vec<Fault>, String> {
    let mut faults = Vec::new();
    for text in settings.fault.iter().flatten() {
        let fault: Fault = text.parse().map_err(|error| format!("{error}"))?;
        allow(&fault, target).map_err(|what| format!("{}: {what}", fault.text))?;
        faults.push(fault);
    }
    faults.sort_by_key(|fault| fault.at);
    Ok(faults)
}

/// Whether this fault is possible in that cluster.
fn allow(fault: &Fault, target: &Target) -> Result<(), String> {
    let Target::Local(local) = target else {
        return Err("faults are for clusters that are started here".to_owned());
    };
    if let Some(none) = fault.action.replicas().iter().find(|it| usize::from(**it) > local.replicas)
    {
        return Err(format!("there is no replica {none}, only {}", local.replicas));
    }
    if matches!(fault.action, Action::Restart(_)) && local.durability == Durability::Memory {
        return Err("in memory a replica cannot come back: take durability os or fsync".to_owned());
    }
    Ok(())
}

/// How long clients take to reach another site's replica.
fn distance(target: &Target) -> Option<Vec<Vec<Duration>>> {
    let area = target.area()?;
    let one_way = |rtt_ms: &f64| Duration::from_secs_f64(rtt_ms / 2_000.0);
    Some(area.rtt_ms.iter().map(|row| row.iter().map(one_way).collect()).collect())
}

#[cfg(test)]
mod tests;
