//! An emulated wide area network that needs no help of the kernel. Each socket sends through
//! emulated paths between sites, with delay, jitter, loss and cuts that may change at any time.
//!
//! All sockets of a process share a [`WanControl`], which holds the paths. A [`Wan`] is one site's
//! view of it, for a mesh or a client endpoint. `socket` carries the packets.

mod socket;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(super) use socket::WanSocket;

/// The paths between all sites; a cheap handle. Sites are numbered from 0.
///
/// What happens to a packet depends on the seed and on how many packets its path has carried, and
/// not on other paths or the time. But how many packets QUIC sends does depend on the time.
#[derive(Clone)]
pub struct WanControl(Arc<Mutex<Map>>);

/// The wide area network as seen from one site.
#[derive(Clone, Debug)]
pub struct Wan {
    control: WanControl,
    site: usize,
}

struct Map {
    sites: usize,
    /// The path from `a` to `b` is at `a * sites + b`.
    paths: Vec<Path>,
    /// The site of each socket address. Packets to an unknown address are not affected.
    addresses: HashMap<SocketAddr, usize>,
}

/// One direction between two sites.
struct Path {
    delay: Duration,
    jitter: Duration,
    loss: f64,
    cut: bool,
    rng: ChaCha8Rng,
    /// The arrival time of the last packet: a path keeps packets in order, as real ones nearly do.
    last: Option<Instant>,
}

/// What happens to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Now,
    At(Instant),
    Lost,
}

impl WanControl {
    /// Sites with these round-trip times in milliseconds. `rtt_ms[a][b]` is between `a` and `b`,
    /// half of it each way; missing entries are 0.
    pub fn from_rtt_ms(seed: u64, rtt_ms: &[Vec<f64>]) -> WanControl {
        let sites = rtt_ms.len();
        let paths = (0..sites * sites)
            .map(|index| {
                let rtt = rtt_ms[index / sites].get(index % sites).copied().unwrap_or(0.0);
                Path {
                    delay: Duration::try_from_secs_f64(rtt / 2000.0).unwrap_or_default(),
                    jitter: Duration::ZERO,
                    loss: 0.0,
                    cut: false,
                    rng: path_rng(seed, index),
                    last: None,
                }
            })
            .collect();
        WanControl(Arc::new(Mutex::new(Map { sites, paths, addresses: HashMap::new() })))
    }

    /// `sites` sites with the same one-way delay between any two, and none within a site.
    pub fn uniform(seed: u64, sites: usize, one_way: Duration) -> WanControl {
        let control = WanControl::from_rtt_ms(seed, &vec![Vec::new(); sites]);
        for (a, b) in (0..sites).flat_map(|a| (0..sites).map(move |b| (a, b))) {
            if a != b {
                control.set_delay(a, b, one_way);
            }
        }
        control
    }

    /// The number of sites.
    pub fn sites(&self) -> usize {
        self.lock().sites
    }

    /// The wide area network as seen from `site`.
    ///
    /// # Panics
    /// If there is no such site. This is true of all methods here that take one.
    pub fn at(&self, site: usize) -> Wan {
        assert!(site < self.sites(), "there is no site {site}");
        Wan { control: self.clone(), site }
    }

    /// Places the socket at `addr` at `site`. Sockets of this process are placed automatically; use
    /// this for those of other processes.
    pub fn place(&self, addr: SocketAddr, site: usize) {
        let mut map = self.lock();
        assert!(site < map.sites, "there is no site {site}");
        map.addresses.insert(addr, site);
    }

    /// Sets the one-way delay of packets from one site to another, from now on.
    pub fn set_delay(&self, from: usize, to: usize, delay: Duration) {
        self.lock().path(from, to).delay = delay;
    }

    /// Adds a uniformly random time from 0 to `jitter` to the delay. Packets stay in order.
    pub fn set_jitter(&self, from: usize, to: usize, jitter: Duration) {
        self.lock().path(from, to).jitter = jitter;
    }

    /// Loses packets at random with this probability, from 0 to 1.
    pub fn set_loss(&self, from: usize, to: usize, loss: f64) {
        self.lock().path(from, to).loss = loss.clamp(0.0, 1.0);
    }

    /// Loses every packet from one site to another; the other direction is unaffected.
    pub fn cut(&self, from: usize, to: usize) {
        self.lock().path(from, to).cut = true;
    }

    /// Cuts both directions between every site in `one` and every site in `other`.
    pub fn partition(&self, one: &[usize], other: &[usize]) {
        for (&a, &b) in one.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
            self.cut(a, b);
            self.cut(b, a);
        }
    }

    /// Cuts `site` off from all other sites.
    pub fn isolate(&self, site: usize) {
        let others: Vec<usize> = (0..self.sites()).filter(|&other| other != site).collect();
        self.partition(&[site], &others);
    }

    /// Ends every cut. Delay, jitter and loss stay.
    pub fn heal(&self) {
        self.lock().paths.iter_mut().for_each(|path| path.cut = false);
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        // A panic because of a wrong site leaves the map unchanged.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for WanControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WanControl").field("sites", &self.sites()).finish_non_exhaustive()
    }
}

impl Wan {
    /// The handle with which to change the paths.
    pub fn control(&self) -> &WanControl {
        &self.control
    }

    /// The site of this view.
    pub fn site(&self) -> usize {
        self.site
    }

    fn fate(&self, to: SocketAddr, now: Instant) -> Fate {
        let mut map = self.control.lock();
        let Some(&site) = map.addresses.get(&to) else { return Fate::Now };
        map.path(self.site, site).fate(now)
    }
}

impl Map {
    fn path(&mut self, from: usize, to: usize) -> &mut Path {
        assert!(from < self.sites && to < self.sites, "there is no site {}", from.max(to));
        &mut self.paths[from * self.sites + to]
    }
}

impl Path {
    fn fate(&mut self, now: Instant) -> Fate {
        // Draw even if unused, so that a packet's draws do not depend on the packets before it.
        let (lost, late) = (self.rng.random::<f64>() < self.loss, self.rng.random::<f64>());
        if self.cut || lost {
            return Fate::Lost;
        }
        let delay = self.delay + self.jitter.mul_f64(late);
        let overtaken = self.last.filter(|&last| last > now);
        if delay.is_zero() && overtaken.is_none() {
            return Fate::Now;
        }
        let at = overtaken.map_or(now + delay, |last| last.max(now + delay));
        self.last = Some(at);
        Fate::At(at)
    }
}

/// Each path draws from its own stream.
fn path_rng(seed: u64, index: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index as u64);
    rng
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_matrix_of_round_trips_is_half_each_way() {
        let control = WanControl::from_rtt_ms(1, &[vec![0.0, 60.0], vec![60.0]]);
        control.place(addr(1), 0);
        control.place(addr(2), 1);
        let now = Instant::now();
        let wan = control.at(0);
        assert_eq!(wan.fate(addr(2), now), Fate::At(now + Duration::from_millis(30)));
        assert_eq!(wan.fate(addr(1), now), Fate::Now, "within the site");
        assert_eq!(wan.fate(addr(9), now), Fate::Now, "a stranger to the map");
    }

    #[test]
    fn the_same_seed_loses_and_delays_the_same_packets_in_order() {
        let fates = |seed| -> Vec<Fate> {
            let control = WanControl::uniform(seed, 3, Duration::from_millis(5));
            control.place(addr(2), 1);
            control.place(addr(3), 2);
            control.set_loss(0, 1, 0.3);
            control.set_jitter(0, 1, Duration::from_millis(5));
            let now = NOW.with(|now| *now);
            // Traffic on another path changes nothing.
            if seed == 7 {
                control.at(0).fate(addr(3), now);
            }
            (0..200).map(|_| control.at(0).fate(addr(2), now)).collect()
        };
        thread_local!(static NOW: Instant = Instant::now());
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
        let lost = fates(7).iter().filter(|fate| **fate == Fate::Lost).count();
        assert!((30..90).contains(&lost), "{lost} of 200 at 30%");
        let times: Vec<Instant> = fates(7)
            .into_iter()
            .filter_map(|fate| match fate {
                Fate::At(at) => Some(at),
                _ => None,
            })
            .collect();
        assert!(times.is_sorted());
    }

    #[test]
    fn cuts_are_per_direction_and_heal() {
        let control = WanControl::uniform(1, 3, Duration::ZERO);
        for site in 0..3u16 {
            control.place(addr(site), site.into());
        }
        let fates = || -> Vec<bool> {
            let pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
            pairs.map(|(a, b)| control.at(a).fate(addr(b), Instant::now()) == Fate::Now).to_vec()
        };
        control.cut(0, 1);
        assert_eq!(fates(), [false, true, true, true, true, true]);
        control.isolate(2);
        assert_eq!(fates(), [false, true, false, false, false, false]);
        control.heal();
        assert_eq!(fates(), [true; 6]);
    }
}
