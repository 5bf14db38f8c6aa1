//! The world that a seed stands for. Each seed draws its own cluster, network, disks, clocks,
//! workload, and a subset of faults with their own rates (PROTOCOL.md §9). After the options,
//! before the world.
//!
//! Overrides do not change what is drawn, so that a world can be made smaller without becoming a
//! different one.

use std::fmt;
use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::subject::Subject;
use crate::protocol::ProtocolKind;
use crate::types::{Optimisations, Quorums, ReplicaId, Retention, Timing};

mod fault;
mod storage;

pub use fault::{Fault, FaultSet, UnknownFault};
use storage::{draw_absences, draw_older, draw_storage};

/// The sources of randomness. They are separate, so that more draws from one do not change another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Plan = 1,
    Network,
    Faults,
    Clients,
    Disks,
    Restarts,
    Optimisations,
    /// Whether and how the real storage is used, and its disks' faults.
    Storage = 16,
    /// What those faults do.
    Rooms,
    /// Whether members are absent for long.
    Absences,
    /// Whether eras end.
    Eras,
    /// Which leader is preferred.
    Leader,
    /// Whether leaders hold leases.
    Leases,
    /// Whether replicas that never come back take snapshots for others.
    Memory,
    /// Which clients use ids twice.
    Twins,
    /// Where sessions are closed instead of ending an era.
    Closes,
    /// Whether and with which older copies of their disks replicas come back.
    OlderDisks,
}

/// The randomness of one source for one seed.
pub(super) fn stream(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream as u64);
    rng
}

/// Changes to the world that a seed draws. Unset fields keep the seed's choice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Overrides {
    /// The replicas' protocol. It does not affect what the seed draws.
    pub protocol: ProtocolKind,
    /// The number of replicas.
    pub replicas: Option<usize>,
    /// The kinds of faults that must not occur.
    pub without: FaultSet,
    /// The most clients.
    pub clients: Option<usize>,
    /// The most commands that each client starts.
    pub commands: Option<u64>,
    /// How long faults and new commands last, in simulated milliseconds.
    pub millis: Option<u64>,
    /// Whether replicas also stop, lose unflushed data and come back.
    pub restarts: bool,
    /// Whether fast-path commits are announced before they are durable.
    pub silent_orphans: Option<bool>,
    /// Whether PreAccept is sent before its record is durable.
    pub reserved_slots: Option<bool>,
}

impl fmt::Display for Overrides {
    /// Formats them as command-line options, each preceded by a space.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol != ProtocolKind::default() {
            write!(f, " --protocol {}", self.protocol)?;
        }
        if let Some(replicas) = self.replicas {
            write!(f, " --replicas {replicas}")?;
        }
        if self.restarts {
            write!(f, " --restarts")?;
        }
        let switch = |on: bool| if on { "on" } else { "off" };
        if let Some(on) = self.silent_orphans {
            write!(f, " --silent-orphans {}", switch(on))?;
        }
        if let Some(on) = self.reserved_slots {
            write!(f, " --reserved-slots {}", switch(on))?;
        }
        if let Some(clients) = self.clients {
            write!(f, " --clients {clients}")?;
        }
        if let Some(commands) = self.commands {
            write!(f, " --commands {commands}")?;
        }
        if let Some(millis) = self.millis {
            write!(f, " --millis {millis}")?;
        }
        if !self.without.is_empty() {
            write!(f, " --without {}", self.without)?;
        }
        Ok(())
    }
}

/// One simulated world before it starts.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) replicas: usize,
    pub(super) timing: Timing,
    pub(super) links: Links,
    pub(super) disks: Vec<Disk>,
    pub(super) clocks: Vec<Clock>,
    /// How long a step keeps a replica busy. Everything that arrives meanwhile is taken in one
    /// step.
    pub(super) step: Duration,
    /// Whether messages go through the codec.
    pub(super) wire: bool,
    pub(super) workload: Workload,
    /// Whether replicas stop and come back.
    pub(super) restarts: bool,
    /// The replicas' optimisations.
    pub(super) optimisations: Optimisations,
    /// Whether leaders answer reads alone. If not, clocks may run at any rate.
    pub(super) leases: bool,
    /// Whether replicas come back with older copies of their disks. Only then do they meet and
    /// remember.
    pub(super) older_disks: bool,
    /// How records are stored on a faulty disk; if `None`, they are kept in a list.
    pub(super) storage: Option<StoragePlan>,
    /// The kinds of faults that occur, with the mean time between two of the same kind.
    pub(super) faults: Vec<(Fault, Duration)>,
    /// How long faults and new commands last.
    pub(super) unrest: Duration,
    /// How long it may take until nothing is pending.
    pub(super) patience: Duration,
}

/// The network without faults, and its steady faults.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// One-way delays between all pairs.
    pub(super) delay: Vec<Vec<Duration>>,
    /// The mean of the additional random delay.
    pub(super) jitter: Duration,
    /// Whether the messages of one link stay in order.
    pub(super) fifo: bool,
    /// Out of 65,536.
    pub(super) drop: u16,
    /// Out of 65,536.
    pub(super) duplicate: u16,
    /// Out of 65,536: messages delayed by up to `tail`.
    pub(super) late: u16,
    pub(super) tail: Duration,
    /// Out of 65,536: requests and answers of clients that are lost.
    pub(super) client_drop: u16,
}

/// How the real storage is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StoragePlan {
    /// The length of a segment.
    pub(super) segment_bytes: usize,
    /// Data handed to the system counts as durable, and the power never fails.
    pub(super) os: bool,
    /// The mean time between two snapshots of a replica. If `None`, everything executed is safe at
    /// once, and the whole log is kept.
    pub(super) snapshots: Option<Duration>,
    /// Bytes kept for members that make no progress, if there are snapshots.
    pub(super) keep: usize,
    /// A deliberate bug: the power fails anyway, and the checks do not expect it.
    pub(super) lies: bool,
}

/// How long a flush takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Disk {
    /// Memory mode: everything is durable when it is appended.
    Instant,
    /// About this long each time.
    Takes(Duration),
}

/// A replica's clock: `local = offset + time × rate / 1024`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) offset: u64,
    pub(super) rate: u64,
}

/// What clients do.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) clients: usize,
    /// The most commands of one client in all.
    pub(super) commands: u64,
    /// The most commands of one client at a time.
    pub(super) window: usize,
    /// The pause between an answer and the next command.
    pub(super) think: Duration,
    /// How many commands follow each other without a pause.
    pub(super) burst: u64,
    pub(super) keys: u64,
    /// Out of 256: commands on one of the first two keys.
    pub(super) hot: u8,
    /// Relative weights of get, put, cas, del, several keys, everything.
    pub(super) mix: [u16; 6],
    /// How long a client waits before it retries.
    pub(super) timeout: Duration,
    /// Out of 256: clients that give up instead and come back with a new session.
    pub(super) give_up: u8,
    /// Out of 256: clients that ask a second replica at once.
    pub(super) double: u8,
    /// Out of 256: commands whose id is also used for another command.
    pub(super) twins: u8,
}

impl Plan {
    /// The plan that a seed draws.
    pub(super) fn draw(seed: u64, overrides: &Overrides) -> Plan {
        let mut rng = stream(seed, Stream::Plan);
        let drawn = *pick(&mut rng, &[3, 3, 4, 5, 5, 5, 7]);
        let replicas = overrides.replicas.unwrap_or(drawn);
        let wide = rng.random_ratio(1, 5);
        let mut timing = draw_timing(&mut rng, wide);
        timing.leader = draw_leader(seed, replicas);
        let quiet = rng.random_ratio(1, 16);
        let mut faults = draw_faults(&mut rng, timing.suspect, quiet);
        let restarts = overrides.restarts;
        if restarts {
            faults.append(&mut draw_restarts(seed, timing.suspect));
            faults.extend(draw_older(seed, timing.suspect).map(|mean| (Fault::OlderDisk, mean)));
        }
        let (mut storage, mut more) = draw_storage(seed, timing.suspect, overrides);
        faults.append(&mut more);
        let eras = draw_eras(seed, timing.suspect).filter(|_| restarts || storage.is_none());
        let absences = storage.as_mut().and_then(|it| draw_absences(seed, &mut timing, it));
        faults.extend(eras.map(|mean| (Fault::EndEra, mean)));
        faults.extend(absences.map(|mean| (Fault::Absence, mean)));
        faults.retain(|(fault, _)| !overrides.without.contains(*fault));
        let on = |fault| faults.iter().any(|(it, _)| *it == fault);
        let links = draw_links(&mut rng, wide, timing.suspect, &on);
        let mut disks = draw_disks(&mut rng, &timing);
        let mut clocks = draw_clocks(&mut rng);
        // Data that is durable at once cannot be lost.
        let losing = restarts && !overrides.without.contains(Fault::SlowDisk);
        if !losing && !on(Fault::SlowDisk) {
            disks.fill(Disk::Instant);
        }
        if !on(Fault::Clock) {
            clocks.iter_mut().for_each(|clock| clock.rate = 1024);
        }
        let step = *pick(&mut rng, &[0, 0, 5, 50, 400]);
        let wire = rng.random_ratio(1, 4);
        let mut workload = draw_workload(&mut rng, &timing, wide);
        workload.twins = draw_twins(seed);
        workload.clients = workload.clients.min(overrides.clients.unwrap_or(usize::MAX));
        workload.commands = workload.commands.min(overrides.commands.unwrap_or(u64::MAX));
        let unrest = timing.suspect * rng.random_range(10..60);
        // Long enough for several absences.
        let unrest = if absences.is_some() { unrest + timing.patience * 10 } else { unrest };
        let unrest = overrides.millis.map_or(unrest, Duration::from_millis);
        let slowest = links.delay.iter().flatten().max().copied().unwrap_or_default();
        let slowest_clock = clocks.iter().map(|clock| clock.rate).min().unwrap_or(1024);
        // Ten seconds on a local network. Distant replicas need more round trips, and slow clocks
        // more time.
        let patience = Duration::from_secs(10) + slowest * 100 + timing.patience * 2;
        let patience = patience.mul_f64(1024.0 / slowest_clock as f64);
        Plan {
            seed,
            replicas,
            timing,
            links,
            disks,
            clocks,
            step: Duration::from_micros(step),
            wire,
            workload,
            restarts,
            older_disks: on(Fault::OlderDisk),
            optimisations: draw_optimisations(seed, replicas, overrides),
            leases: !stream(seed, Stream::Leases).random_ratio(1, 8),
            storage,
            faults,
            unrest,
            patience,
        }
    }
}

impl Plan {
    /// What replicas keep for others. Replicas that restart without a snapshot have their whole
    /// log, but it may not contain everything they had executed.
    pub(super) fn retention<P: Subject>(&self) -> Retention {
        let storage = self.storage.filter(|storage| storage.snapshots.is_some());
        let (usual, forgetful) = (Retention::default(), !P::EXECUTES_WHAT_IS_DURABLE);
        match storage {
            Some(storage) => Retention { volatile: !self.restarts, keep: storage.keep },
            None => Retention { volatile: !(self.restarts && forgetful), ..usual },
        }
    }

    /// Whether replicas take snapshots.
    pub(super) fn has_snapshots(&self) -> bool {
        self.storage.is_some_and(|storage| storage.snapshots.is_some())
    }
}

/// The largest cluster for which a place is drawn.
pub(super) const MOST_REPLICAS: usize = 9;

pub(super) fn pick<'a, T>(rng: &mut impl Rng, choices: &'a [T]) -> &'a T {
    &choices[rng.random_range(0..choices.len())]
}

fn millis(rng: &mut impl Rng, from: u64, to: u64) -> Duration {
    Duration::from_micros(rng.random_range(from * 1000..=to * 1000))
}

fn draw_timing(rng: &mut impl Rng, wide: bool) -> Timing {
    let quick = rng.random_ratio(2, 3);
    let drawn = Timing {
        tick: millis(rng, 5, 10),
        gossip: millis(rng, 15, 60),
        retransmit: millis(rng, 20, 100),
        suspect: millis(rng, 60, 400),
        patience: millis(rng, 150, 2000),
        leader: None,
    };
    if quick && !wide { drawn } else { Timing::default() }
}

/// In one cluster of four, all replicas prefer the same leader; this must not affect safety.
fn draw_leader(seed: u64, replicas: usize) -> Option<ReplicaId> {
    let mut rng = stream(seed, Stream::Leader);
    let leader = ReplicaId::from_index(rng.random_range(0..replicas));
    rng.random_ratio(1, 4).then_some(leader)
}

fn draw_faults(rng: &mut impl Rng, unit: Duration, quiet: bool) -> Vec<(Fault, Duration)> {
    let mean =
        |rng: &mut dyn Rng, spread: f64| unit.mul_f64(0.5 * spread.powf(rng.random::<f64>()));
    if rng.random_ratio(1, 6) {
        // One duel after the other and nothing else: few messages, all in unusual orders.
        return vec![(Fault::Duel, mean(rng, 16.0) * 2), (Fault::Late, unit)];
    }
    // With few kinds at a time each has its effect; many kinds hide each other's effects.
    let share = *pick(rng, &[2, 3, 5]);
    let draw = |fault: &Fault| {
        let on = rng.random_ratio(share, 8);
        let mean = mean(rng, 32.0);
        (on && !quiet).then_some((*fault, mean))
    };
    let special = |fault: &&Fault| {
        let kinds: [&[Fault]; 3] = [&Fault::RESTARTS, &Fault::DISKS, &Fault::TRUNCATING];
        matches!(fault, Fault::EndEra | Fault::OlderDisk)
            || kinds.iter().any(|kind| kind.contains(fault))
    };
    let usual = Fault::ALL.iter().filter(|fault| !special(fault));
    usual.filter_map(draw).collect()
}

/// At least one kind of restart. From a source of its own, so that the rest of the world is the
/// same.
fn draw_restarts(seed: u64, unit: Duration) -> Vec<(Fault, Duration)> {
    let mut rng = stream(seed, Stream::Restarts);
    let sure = *pick(&mut rng, &Fault::RESTARTS);
    let draw = |fault: Fault| {
        let on = rng.random_ratio(1, 3) || fault == sure;
        let mean = unit.mul_f64(1.0 * 16f64.powf(rng.random::<f64>()));
        on.then_some((fault, mean))
    };
    Fault::RESTARTS.into_iter().filter_map(draw).collect()
}

/// In worlds with restarts, a quarter each has none, one, the other, or both optimisations. They
/// matter only to replicas that come back. From a source of its own, so that the rest of the world
/// is the same.
fn draw_optimisations(seed: u64, replicas: usize, overrides: &Overrides) -> Optimisations {
    let mut rng = stream(seed, Stream::Optimisations);
    let silent_orphans = rng.random_ratio(1, 2) && overrides.restarts;
    let reserves = rng.random_ratio(1, 2) && overrides.restarts;
    // Small blocks end often; large ones leave many unused slots.
    let block = *pick(&mut rng, &[1, 1, 2, 5, 16, 40]);
    let quorums = Quorums::new(replicas).expect("a supported size");
    Optimisations {
        silent_orphans: overrides.silent_orphans.unwrap_or(silent_orphans) && quorums.f > 0,
        reserved_slots: if overrides.reserved_slots.unwrap_or(reserves) { block } else { 0 },
    }
}

/// In a quarter of the worlds, the mean time between two ends of eras.
fn draw_eras(seed: u64, unit: Duration) -> Option<Duration> {
    let mut rng = stream(seed, Stream::Eras);
    rng.random_ratio(1, 4).then(|| unit.mul_f64(2.0 * 8f64.powf(rng.random::<f64>())))
}

fn draw_links(
    rng: &mut impl Rng,
    wide: bool,
    unit: Duration,
    on: &impl Fn(Fault) -> bool,
) -> Links {
    let (low, high) = if wide { (5_000, 100_000) } else { *pick(rng, &[(50, 500), (500, 5000)]) };
    let mut delay = vec![vec![Duration::ZERO; MOST_REPLICAS]; MOST_REPLICAS];
    for (a, b) in (0..MOST_REPLICAS).flat_map(|a| (0..a).map(move |b| (a, b))) {
        let one_way = Duration::from_micros(rng.random_range(low..=high));
        delay[a][b] = one_way;
        delay[b][a] = one_way;
    }
    let jitter = Duration::from_micros(*pick(rng, &[0, low / 4, low, high]));
    // The product of three: mostly a few percent, sometimes half of all.
    let rate = |rng: &mut dyn Rng, fault: Fault, worst: u64| {
        let drawn = (0..3).fold(worst, |rate, _| (rate * u64::from(rng.random::<u16>())) >> 16);
        if on(fault) { u16::try_from(drawn).unwrap_or(u16::MAX) } else { 0 }
    };
    let reorder = rng.random_ratio(3, 4);
    Links {
        delay,
        jitter,
        fifo: !(reorder && on(Fault::Late)),
        drop: rate(rng, Fault::Drop, 40_000),
        duplicate: rate(rng, Fault::Duplicate, 40_000),
        late: rate(rng, Fault::Late, 25_000),
        tail: unit.mul_f64(4.0 * rng.random::<f64>()),
        client_drop: rate(rng, Fault::ClientDrop, 25_000),
    }
}

fn draw_disks(rng: &mut impl Rng, timing: &Timing) -> Vec<Disk> {
    let slow = u64::try_from(timing.retransmit.as_micros()).unwrap_or(u64::MAX);
    let draw = |_| match rng.random_range(0..4) {
        0 => Disk::Instant,
        1 => Disk::Takes(Duration::from_micros(rng.random_range(100..1000))),
        2 => Disk::Takes(Duration::from_micros(rng.random_range(1000..10_000))),
        _ => Disk::Takes(Duration::from_micros(rng.random_range(slow / 2..slow * 3))),
    };
    (0..MOST_REPLICAS).map(draw).collect()
}

fn draw_clocks(rng: &mut impl Rng) -> Vec<Clock> {
    let draw = |_| Clock {
        offset: rng.random_range(0..1 << 50),
        rate: *pick(rng, &[512, 900, 1000, 1024, 1050, 1300, 2048]),
    };
    (0..MOST_REPLICAS).map(draw).collect()
}

fn draw_workload(rng: &mut impl Rng, timing: &Timing, wide: bool) -> Workload {
    let mut mix: [u16; 6] = [0, 4, 0, 0, 0, 0];
    let most = [8, 8, 4, 4, 3, 1];
    for (weight, most) in mix.iter_mut().zip(most) {
        *weight += if rng.random_ratio(1, 2) { rng.random_range(0..=most) * 8 } else { 0 };
    }
    // Commands that conflict with everything must be rare, or little else is tested.
    mix[5] /= 8;
    let think = if wide { millis(rng, 10, 300) } else { millis(rng, 1, 100) };
    Workload {
        clients: rng.random_range(2..=12),
        commands: *pick(rng, &[5, 20, 60]),
        window: *pick(rng, &[1, 1, 2, 4]),
        think,
        burst: *pick(rng, &[1, 1, 3, 10]),
        keys: *pick(rng, &[1, 1, 2, 4, 16, 200]),
        hot: *pick(rng, &[0, 64, 200]),
        mix,
        timeout: timing.suspect.mul_f64(0.3 + 6.0 * rng.random::<f64>()),
        give_up: *pick(rng, &[0, 0, 0, 30]),
        double: *pick(rng, &[0, 0, 10, 100]),
        twins: 0,
    }
}

/// In a quarter of the worlds clients misuse ids: this many of 256 commands have a twin. From a
/// source of its own, so that the other worlds are the same.
fn draw_twins(seed: u64) -> u8 {
    let mut rng = stream(seed, Stream::Twins);
    *pick(&mut rng, &[0, 0, 0, 0, 0, 0, 20, 120])
}
