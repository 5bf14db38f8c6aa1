//! The replicas' own counters, as far as results show them. They can be added and subtracted.

use serde::Serialize;

use crate::node::{FastSlow, Latency, Metrics, PathLatency};

/// A replica's counters.
#[derive(Clone, Debug, Default)]
pub(in crate::load) struct Tally {
    /// From the call at a replica to the commit.
    pub(in crate::load) commit: Latency,
    /// From the call at a replica to the answer.
    pub(in crate::load) execute: Latency,
    /// The commands committed after one round trip.
    pub(in crate::load) fast: PathLatency,
    /// The other commands.
    pub(in crate::load) slow: PathLatency,
    /// Commands by path.
    pub(in crate::load) commands: FastSlow,
    /// From handing a record to the log until it is known to be durable.
    pub(in crate::load) durable: Latency,
    /// Instances in the largest component executed since the start, if known.
    pub(in crate::load) largest_component: Option<u64>,
    /// Further counters.
    pub(in crate::load) counts: Counts,
}

/// Plain counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// Instances proposed; one instance holds a batch of commands.
    pub instances: u64,
    /// How many of them took more than one round trip.
    pub slow_instances: u64,
    /// Recoveries started.
    pub recoveries: u64,
    /// Commands proposed again because their instance was decided as a `Nop`.
    pub resubmitted: u64,
    /// Messages from other replicas.
    pub frames_in: u64,
    /// Messages to other replicas.
    pub frames_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// How often a log was written and, depending on its durability, flushed.
    pub flushes: u64,
    /// The bytes of its records.
    #[serde(skip)]
    pub log_bytes: u64,
}

impl Counts {
    fn each(&mut self, other: &Counts, change: impl Fn(&mut u64, u64)) {
        change(&mut self.instances, other.instances);
        change(&mut self.slow_instances, other.slow_instances);
        change(&mut self.recoveries, other.recoveries);
        change(&mut self.resubmitted, other.resubmitted);
        change(&mut self.frames_in, other.frames_in);
        change(&mut self.frames_out, other.frames_out);
        change(&mut self.bytes_out, other.bytes_out);
        change(&mut self.flushes, other.flushes);
        change(&mut self.log_bytes, other.log_bytes);
    }

    /// Adds another replica's counters.
    pub(in crate::load) fn add(&mut self, other: &Counts) {
        self.each(other, |own, others| *own += others);
    }
}

impl Tally {
    /// The counters in a replica's metrics.
    pub(in crate::load) fn of(metrics: &Metrics) -> Tally {
        Tally {
            commit: metrics.commit.clone(),
            execute: metrics.execute.clone(),
            fast: metrics.fast.clone(),
            slow: metrics.slow.clone(),
            commands: metrics.commands,
            durable: metrics.log.latency.clone(),
            largest_component: Some(metrics.largest_component as u64),
            counts: Counts {
                instances: metrics.instances.total(),
                slow_instances: metrics.instances.slow,
                recoveries: metrics.recoveries,
                resubmitted: metrics.resubmitted,
                frames_in: metrics.frames_in,
                frames_out: metrics.frames_out,
                bytes_out: metrics.bytes_out,
                flushes: metrics.log.flushes,
                log_bytes: metrics.log.bytes,
            },
        }
    }

    /// Adds another replica's counters.
    pub(in crate::load) fn add(&mut self, other: &Tally) {
        self.each_latency(other, |own, others| own.add(others));
        self.commands.fast += other.commands.fast;
        self.commands.slow += other.commands.slow;
        self.largest_component = self.largest_component.max(other.largest_component);
        self.counts.add(&other.counts);
    }

    /// The growth since `before`, an earlier state of these counters.
    pub(in crate::load) fn since(mut self, before: &Tally) -> Tally {
        self.each_latency(before, |own, others| own.subtract(others));
        self.commands.fast = self.commands.fast.saturating_sub(before.commands.fast);
        self.commands.slow = self.commands.slow.saturating_sub(before.commands.slow);
        self.counts.each(&before.counts, |own, others| *own = own.saturating_sub(others));
        self
    }

    fn each_latency(&mut self, other: &Tally, change: impl Fn(&mut Latency, &Latency)) {
        change(&mut self.commit, &other.commit);
        change(&mut self.execute, &other.execute);
        change(&mut self.durable, &other.durable);
        for (own, others) in [(&mut self.fast, &other.fast), (&mut self.slow, &other.slow)] {
            change(&mut own.commit, &others.commit);
            change(&mut own.execute, &others.execute);
        }
    }
}
