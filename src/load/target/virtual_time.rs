//! A cluster in virtual time as the target of a load: the same streams of commands and a result of
//! the same form, with exact latencies.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::load::driver::{ArrivalProcess, Pace};
use crate::load::result::figures::{Event, Row, Stop};
use crate::load::result::run::{Cluster, Costs, OnPath, Run, Site};
use crate::load::result::tally::Counts;
use crate::load::scenario::faults::{Action, Who};
use crate::load::scenario::{LocalTarget, Prices, Scenario, leads};
use crate::load::workload::{Population, Stream, Workload};
use crate::machine::{Kv, StateMachine, encode};
use crate::node::FastSlow;
use crate::sim::virtual_time::{
    Asking, Crash, Exact, Load, Measured, Sample, Setup, Traffic, measure_kind,
};
use crate::types::{Footprint, ReplicaId};

/// Runs a scenario with the delays of the cluster's wide area network.
pub(in crate::load) fn run(scenario: &Scenario, cluster: &LocalTarget, prices: Prices) -> Run {
    let workload = &scenario.plan.workload;
    let population = Population::of(&workload.keys);
    let mut streams = Streams { workload, population, streams: FxHashMap::default() };
    let setup = setup(scenario, cluster, prices);
    let measured = measure_kind(cluster.protocol, &setup, &mut streams);
    Run {
        sites: sites(&measured, cluster),
        series: series(&measured.over_time, setup.warm_up, setup.time, scenario.interval),
        events: setup.crash.map(|crash| event(crash, setup.warm_up)).into_iter().collect(),
        ..of(&measured)
    }
}

fn setup(scenario: &Scenario, cluster: &LocalTarget, prices: Prices) -> Setup {
    let quiet = Setup::from_rtt_ms(cluster.area.as_ref().map_or(&[], |area| &area.rtt_ms));
    let load = match scenario.plan.pace {
        Pace::Closed { clients, think } => Load::Closed { clients, think },
        Pace::Open { rate, spread, .. } => {
            let rate = rate / quiet.one_way.len() as f64;
            Load::Open { rate, poisson: spread == ArrivalProcess::Poisson }
        }
    };
    let jitter_ms = cluster.area.as_ref().map_or(0.0, |area| area.jitter_ms);
    Setup {
        jitter: Duration::from_secs_f64(jitter_ms / 1_000.0),
        cpu: prices.message,
        flush: prices.flush,
        optimisations: cluster.optimisations,
        load,
        warm_up: scenario.plan.warm_up,
        time: scenario.duration.unwrap_or_default(),
        crash: crash(scenario, cluster),
        first: cluster.leader.filter(|_| leads(cluster.protocol)).map(ReplicaId::index),
        seed: scenario.plan.workload.seed,
        ..quiet
    }
}

/// The replica that stops, and when it is back. Virtual time supports no other faults.
fn crash(scenario: &Scenario, cluster: &LocalTarget) -> Option<Crash> {
    let mut crash: Option<Crash> = None;
    for fault in &scenario.faults {
        match (&fault.action, &mut crash) {
            (Action::Kill(who), None) => {
                let site = match who {
                    Who::Replica(number) => usize::from(*number) - 1,
                    Who::Leader => cluster.leader.map_or(0, ReplicaId::index),
                };
                crash = Some(Crash { site, at: fault.at, back: None });
            }
            (Action::Restart(_), Some(crash)) => crash.back = Some(fault.at),
            _ => {}
        }
    }
    crash
}

fn event(Crash { site, at, back }: Crash, warm_up: Duration) -> Event {
    let replica = ReplicaId::from_index(site).number();
    Event {
        at_s: at.as_secs_f64() - warm_up.as_secs_f64(),
        what: format!("kill {replica}"),
        stop: Some(Stop { replica, at, back, answered: 0 }),
        ..Event::default()
    }
}

/// The result of a measurement over all sites.
fn of(measured: &Measured) -> Run {
    let seconds = measured.time.as_secs_f64();
    let fast = measured.samples.iter().filter(|sample| sample.fast).count() as u64;
    let counts = |it: &Traffic| Counts {
        frames_in: it.received,
        frames_out: it.messages,
        bytes_out: it.bytes,
        ..Counts::default()
    };
    let mut all = Counts::default();
    measured.traffic.iter().for_each(|it| all.add(&counts(it)));
    let components = measured.components.iter();
    Run {
        seconds,
        offered: measured.answered + measured.unanswered,
        answered: measured.answered,
        throughput_ops_s: measured.throughput(),
        unanswered: usize::try_from(measured.unanswered).unwrap_or(usize::MAX),
        latency: measured.execute(None).into(),
        cluster: Some(Cluster {
            commit: measured.commit(None).into(),
            execute: measured.execute(None).into(),
            commands: FastSlow { fast, slow: measured.samples.len() as u64 - fast },
            fast_path: on_path(measured, true),
            slow_path: on_path(measured, false),
            counts: all,
            components: components.map(|(size, count)| (*size as u64, *count)).collect(),
            ..Cluster::default()
        }),
        answered_in_time: measured.over_time.len() as u64,
        costs: Some(Costs {
            answered: measured.answered,
            replicas: measured.traffic.iter().map(|it| (counts(it), it.busy)).collect(),
        }),
        ..Run::default()
    }
}

fn on_path(measured: &Measured, fast: bool) -> OnPath {
    let of = |what: fn(&Sample) -> Duration| {
        let on_it = measured.samples.iter().filter(|sample| sample.fast == fast);
        Exact::new(on_it.map(what).collect()).into()
    };
    OnPath { commit: of(|it| it.commit), execute: of(|it| it.execute) }
}

fn sites(measured: &Measured, cluster: &LocalTarget) -> Vec<Site> {
    let Some(area) = &cluster.area else { return Vec::new() };
    let one = |(index, name): (usize, &String)| Site {
        replica: index + 1,
        site: Some(name.clone()),
        latency: measured.execute(Some(index)).into(),
        commit: Some(measured.commit(Some(index)).into()),
        execute: Some(measured.execute(Some(index)).into()),
        lower_bound_ms: Some(area.lower_bound_ms(index, area.sites.len())),
        ..Site::default()
    };
    area.sites.iter().enumerate().map(one).collect()
}

/// Cuts a run into intervals of equal length, including silent ones. Later answers are left out.
fn series(
    answers: &[(Duration, Duration)],
    warm_up: Duration,
    time: Duration,
    interval: Duration,
) -> Vec<Row> {
    let mut intervals: BTreeMap<u128, Vec<Duration>> = BTreeMap::new();
    for (at, took) in answers {
        intervals.entry(at.as_nanos() / interval.as_nanos()).or_default().push(*took);
    }
    let count = (warm_up + time).as_nanos() / interval.as_nanos();
    let mut end = Duration::ZERO;
    let row = |index| {
        end += interval;
        let exact = Exact::new(intervals.remove(&index).unwrap_or_default());
        Row::of(warm_up, end, interval, &exact.into(), 0, Vec::new())
    };
    (0..count).map(row).collect()
}

/// The clients of virtual time, each with its own stream.
struct Streams<'a> {
    workload: &'a Workload,
    population: Population,
    streams: FxHashMap<u32, Stream>,
}

impl Asking for Streams<'_> {
    fn next(&mut self, client: u32, elapsed: Duration) -> (Footprint, Bytes) {
        let new = || self.workload.client(client, &self.population);
        let stream = self.streams.entry(client).or_insert_with(new);
        let op = stream.next(elapsed);
        let command = stream.command(&op.asks);
        let payload = encode(&command).expect("a command of ours has an encoding");
        (Kv::footprint(&command), payload)
    }
}
