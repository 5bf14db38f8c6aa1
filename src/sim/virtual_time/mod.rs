//! Measuring in virtual time: replicas on a table of delays, with clients at each, and exactly how
//! long everything took. The simulator proper looks for what breaks; this looks for what it costs.
//!
//! Nothing here is emulated or sampled: the replicas are the real ones, the clock is a number, and
//! a message arrives when the table says so. The same [`Setup`] gives the same [`Measured`] bit by
//! bit, in a small fraction of the time that passes in it. What it leaves out unless told
//! otherwise: the CPU, the disk, the state machine, lost messages, a carrier's headers.
//!
//! `world` lets it happen, `machine` is one replica in it, `measured` is what was seen.

mod machine;
mod measured;
#[cfg(test)]
mod tests;
mod world;

use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use measured::{Exact, Measured, Sample, Traffic};
pub use world::{measure, measure_kind};

use crate::types::{Footprint, Optimisations};

/// How long the replicas are by themselves before clients come: to measure each other, and to elect
/// a leader where they have one.
pub const SETTLING: Duration = Duration::from_secs(8);

/// By how much [`Setup::first`] is ahead of the others.
pub const HEAD_START: Duration = Duration::from_secs(4);

/// How long commands that are under way at the end may take to finish.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A measurement. Times are from the moment when clients come.
#[derive(Clone, PartialEq, Debug)]
pub struct Setup {
    /// How long a message takes from one site to another: a row for each that it is from, a column
    /// for each that it is to. One replica stands at each site, and its clients beside it. Between
    /// 1 and [`MAX_REPLICAS`](crate::types::MAX_REPLICAS) sites.
    pub one_way: Vec<Vec<Duration>>,
    /// A message is late by up to this much more, evenly spread; it overtakes none of its link.
    pub jitter: Duration,
    /// What it costs a replica to receive or to send one message, or to take in one command.
    pub cpu: Duration,
    /// What it costs to make records durable; if zero, they are kept in memory. One flush at a time
    /// covers all that was written before it began.
    pub flush: Duration,
    /// How the replicas are spared waiting for flushes.
    pub optimisations: Optimisations,
    /// How many clients ask how much.
    pub load: Load,
    /// What is asked this early is not counted.
    pub warm_up: Duration,
    /// For how long it is counted afterwards.
    pub time: Duration,
    /// A replica that stops.
    pub crash: Option<Crash>,
    /// The site, from 0, whose replica acts before all others, so that it leads where one does.
    pub first: Option<usize>,
    /// Decides the jitter, the arrivals, and what replicas draw for themselves.
    pub seed: u64,
}

impl Setup {
    /// A quiet network with these round trips, in milliseconds, and ten clients a site.
    ///
    /// # Panics
    /// If one is negative or not finite.
    pub fn from_rtt_ms(rtt_ms: &[Vec<f64>]) -> Setup {
        let one_way = |rtt: &f64| Duration::from_secs_f64(rtt / 2_000.0);
        Setup {
            one_way: rtt_ms.iter().map(|row| row.iter().map(one_way).collect()).collect(),
            jitter: Duration::ZERO,
            cpu: Duration::ZERO,
            flush: Duration::ZERO,
            optimisations: Optimisations::default(),
            load: Load::Closed { clients: 10, think: Duration::ZERO },
            warm_up: Duration::from_secs(2),
            time: Duration::from_secs(20),
            crash: None,
            first: None,
            seed: 1,
        }
    }
}

/// The load on each site.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Load {
    /// Clients that ask one thing at a time, and the next so long after the answer.
    Closed {
        /// How many.
        clients: u32,
        /// How long they think.
        think: Duration,
    },
    /// Commands that come whether the ones before are answered or not.
    Open {
        /// So many a second, above 0.
        rate: f64,
        /// Independently of each other; if not, at even distances.
        poisson: bool,
    },
}

/// A replica stops, and its clients with it: its site is gone.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Crash {
    /// The site, from 0.
    pub site: usize,
    /// When it stops.
    pub at: Duration,
    /// When it is back, after `at`, with all that was durable; if ever.
    pub back: Option<Duration>,
}

/// What clients ask.
pub trait Asking {
    /// What a client asks next, `elapsed` after clients have come: what it touches, and the
    /// command's bytes. Clients are numbered from 0, over all sites.
    fn next(&mut self, client: u32, elapsed: Duration) -> (Footprint, Bytes);
}

/// Writes of one key that all share, and of keys that one client alone uses: the load of the
/// EPaxos papers.
#[derive(Debug)]
pub struct SharedKey {
    share: f64,
    payload: Bytes,
    rng: ChaCha8Rng,
}

impl SharedKey {
    /// A share, from 0 to 1, of the commands writes the shared key; all have payloads of so many
    /// bytes.
    pub fn new(share: f64, payload_bytes: usize, seed: u64) -> SharedKey {
        let payload = vec![b'.'; payload_bytes].into();
        SharedKey { share, payload, rng: ChaCha8Rng::seed_from_u64(seed) }
    }
}

impl Asking for SharedKey {
    fn next(&mut self, client: u32, _: Duration) -> (Footprint, Bytes) {
        let footprint = match self.rng.random_bool(self.share) {
            true => Footprint::write(b"shared"),
            false => Footprint::write(format!("own-{client}").as_bytes()),
        };
        (footprint, self.payload.clone())
    }
}
