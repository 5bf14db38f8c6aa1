//! Measures in virtual time: replicas with a table of delays, clients at each, and exact durations.
//! The simulator proper looks for bugs; this measures latency.
//!
//! Nothing here is emulated or sampled: the replicas are the real ones, the clock is a number, and
//! a message arrives when the table says so. The same [`Setup`] gives exactly the same
//! [`Measured`], in a small fraction of the simulated time. By default it leaves out the CPU, the
//! disk, the state machine, lost messages and headers of a carrier.
//!
//! `world` runs it, `machine` is one replica in it, and `measured` is the result.

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

/// How long the replicas run alone before clients start, to measure each other and elect a leader
/// if they have one.
pub const SETTLING: Duration = Duration::from_secs(8);

/// How much earlier [`Setup::first`] starts than the others.
pub const HEAD_START: Duration = Duration::from_secs(4);

/// How long commands under way at the end may take to finish.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A measurement. Times count from the clients' start.
#[derive(Clone, PartialEq, Debug)]
pub struct Setup {
    /// How long a message takes from one site (row) to another (column). Each site has one replica
    /// and its clients. Between 1 and [`MAX_REPLICAS`](crate::types::MAX_REPLICAS) sites.
    pub one_way: Vec<Vec<Duration>>,
    /// A uniformly random extra delay of at most this much; messages of a link stay in order.
    pub jitter: Duration,
    /// How long a replica takes to receive or send one message, or to take in one command.
    pub cpu: Duration,
    /// How long a flush takes; if zero, records are kept in memory. One flush at a time covers
    /// everything written before it began.
    pub flush: Duration,
    /// The replicas' optimisations.
    pub optimisations: Optimisations,
    /// The load of the clients.
    pub load: Load,
    /// Commands sent this early are not counted.
    pub warm_up: Duration,
    /// The length of the counted time after the warm-up.
    pub time: Duration,
    /// A replica that stops.
    pub crash: Option<Crash>,
    /// The site, from 0, whose replica starts before all others, so that it becomes leader if there
    /// is one.
    pub first: Option<usize>,
    /// The seed of the jitter, the arrivals, and the replicas' own randomness.
    pub seed: u64,
}

impl Setup {
    /// A network without faults and with these round trips in milliseconds, and ten clients per
    /// site.
    ///
    /// # Panics
    /// If a round trip is negative or not finite.
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
    /// Clients that send one command at a time, and the next one `think` after the answer.
    Closed {
        /// The number of clients.
        clients: u32,
        /// The pause after an answer.
        think: Duration,
    },
    /// Commands that arrive whether or not earlier ones are answered.
    Open {
        /// Commands per second, above 0.
        rate: f64,
        /// Whether they arrive independently of each other; otherwise at equal intervals.
        poisson: bool,
    },
}

/// A replica stops together with its clients: its site is gone.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Crash {
    /// The site, from 0.
    pub site: usize,
    /// When it stops.
    pub at: Duration,
    /// When it is back, counted from `at`, with everything durable; `None` if never.
    pub back: Option<Duration>,
}

/// The commands of clients.
pub trait Asking {
    /// A client's next command, `elapsed` after the clients' start: its footprint and its bytes.
    /// Clients are numbered from 0 over all sites.
    fn next(&mut self, client: u32, elapsed: Duration) -> (Footprint, Bytes);
}

/// Writes of one key that all clients share, and of keys that only one client uses: the load of the
/// EPaxos papers.
#[derive(Debug)]
pub struct SharedKey {
    share: f64,
    payload: Bytes,
    rng: ChaCha8Rng,
}

impl SharedKey {
    /// `share`, from 0 to 1, of the commands writes the shared key. All payloads have
    /// `payload_bytes` bytes.
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
