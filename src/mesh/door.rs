//! Decides who may begin a handshake. A stranger costs memory and time before proving anything. So
//! only a bounded number of handshakes run at a time, and sources with many give up places to
//! sources with few. Before `accept`, which runs the handshakes. The caller passes the time.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// A younger handshake may still be in progress, so it does not make room for another of the same
/// address. An honest one on a good network takes less time.
const YOUNG: Duration = Duration::from_millis(100);
/// This many handshakes from a peer's address never make room for others; a peer needs one or two.
const KEPT_FOR_PEER: usize = 4;
/// The bits of an IPv6 address that name a network; one host can use all addresses in it.
const NETWORK_BITS: u32 = 64;

/// The source of packets, at the granularity that one host cannot choose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Source {
    /// The address of a configured peer.
    Peer(IpAddr),
    /// Any other IPv4 address or IPv6 network.
    Other(IpAddr),
}

impl Source {
    pub(super) fn new(address: IpAddr, is_peer: bool) -> Source {
        match address.to_canonical() {
            own if is_peer => Source::Peer(own),
            IpAddr::V6(own) => {
                let network = own.to_bits() >> NETWORK_BITS << NETWORK_BITS;
                Source::Other(Ipv6Addr::from_bits(network).into())
            }
            own @ IpAddr::V4(_) => Source::Other(own),
        }
    }
}

/// The decision about an attempt to connect.
pub(super) enum Verdict {
    /// Run the handshake; it has a place until the seat is dropped.
    Enter(Seat),
    /// Ask the other end to prove first that it receives at its address.
    Prove,
    /// Refuse it.
    Refuse,
}

/// The handshakes in progress.
pub(super) struct Door(Arc<Mutex<Seats>>);

/// Invariants:
/// 1. At most `most` seats are taken, and at most `share` by one source.
/// 2. `taken` is in order of arrival.
struct Seats {
    most: usize,
    share: usize,
    next: u64,
    taken: Vec<Taken>,
}

struct Taken {
    number: u64,
    source: Source,
    since: Instant,
    /// Dropping it tells the handshake that it has lost its place.
    _leave: oneshot::Sender<()>,
}

/// A place for one handshake.
pub(super) struct Seat {
    number: u64,
    door: Arc<Mutex<Seats>>,
    leave: oneshot::Receiver<()>,
}

impl Door {
    /// A door for at most `most` handshakes at a time.
    pub(super) fn new(most: usize) -> Door {
        // One address may have most of the places while no other needs them.
        let share = (most - most / 4).max(1);
        Door(Arc::new(Mutex::new(Seats { most, share, next: 0, taken: Vec::new() })))
    }

    /// Decides about an attempt from `source`; `proven` if that address is known to receive.
    pub(super) fn knock(&self, source: Source, proven: bool, now: Instant) -> Verdict {
        let mut seats = lock(&self.0);
        if !proven && seats.is_crowded(source) {
            return Verdict::Prove;
        }
        if !seats.make_room(source, now) {
            return Verdict::Refuse;
        }
        let (sender, leave) = oneshot::channel();
        let number = seats.next;
        seats.next += 1;
        seats.taken.push(Taken { number, source, since: now, _leave: sender });
        Verdict::Enter(Seat { number, door: Arc::clone(&self.0), leave })
    }
}

impl Seats {
    fn of(&self, source: Source) -> usize {
        self.taken.iter().filter(|taken| taken.source == source).count()
    }

    /// Whether unproven addresses have used up their part of the places.
    fn is_crowded(&self, source: Source) -> bool {
        self.taken.len() >= self.most / 4 || self.of(source) >= self.share / 4
    }

    /// Makes room for one more handshake of `source`; false if none gives way.
    fn make_room(&mut self, source: Source, now: Instant) -> bool {
        let own = self.of(source);
        let (from, may_be_young) = if own >= self.share {
            (source, false)
        } else if self.taken.len() >= self.most {
            match self.fullest() {
                // It has more places than the newcomer would have, which is reason enough.
                Some((from, count)) => (from, count > own + 1 || self.is_kept(source, own + 1)),
                None => return false,
            }
        } else {
            return true;
        };
        let Some(oldest) = self.taken.iter().position(|taken| taken.source == from) else {
            return false;
        };
        let stalled = now.saturating_duration_since(self.taken[oldest].since) >= YOUNG;
        if stalled || may_be_young {
            self.taken.remove(oldest);
        }
        stalled || may_be_young
    }

    /// The source with the most places among those that may have to give one up, and its number of
    /// places. Among equals, the one with the oldest handshake.
    fn fullest(&self) -> Option<(Source, usize)> {
        let mut fullest: Option<(Source, usize)> = None;
        for taken in &self.taken {
            let count = self.of(taken.source);
            let more = fullest.is_none_or(|(_, most)| count > most);
            if more && !self.is_kept(taken.source, count) {
                fullest = Some((taken.source, count));
            }
        }
        fullest
    }

    fn is_kept(&self, source: Source, count: usize) -> bool {
        matches!(source, Source::Peer(_)) && count <= KEPT_FOR_PEER.min(self.share)
    }
}

impl Seat {
    /// Waits until the place is given to another, which may be never.
    pub(super) async fn lost(&mut self) {
        // The sender is never used, only dropped.
        let _ = (&mut self.leave).await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.door).taken.retain(|taken| taken.number != self.number);
    }
}

fn lock(seats: &Mutex<Seats>) -> MutexGuard<'_, Seats> {
    // The code under this lock cannot panic.
    seats.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u8) -> Source {
        Source::new(IpAddr::from([10, 0, 0, number]), false)
    }

    fn peer(number: u8) -> Source {
        Source::new(IpAddr::from([10, 1, 0, number]), true)
    }

    struct Scene {
        door: Door,
        start: Instant,
        seats: Vec<Seat>,
    }

    impl Scene {
        fn new(most: usize) -> Scene {
            Scene { door: Door::new(most), start: Instant::now(), seats: Vec::new() }
        }

        /// One attempt; returns the verdict as a letter.
        fn knock(&mut self, source: Source, proven: bool, ms: u64) -> char {
            match self.door.knock(source, proven, self.start + Duration::from_millis(ms)) {
                Verdict::Enter(seat) => {
                    self.seats.push(seat);
                    'e'
                }
                Verdict::Prove => 'p',
                Verdict::Refuse => 'r',
            }
        }

        fn crowd(&mut self, source: Source, count: usize, ms: u64) -> String {
            (0..count).map(|_| self.knock(source, true, ms)).collect()
        }

        /// The number of seats that have lost their place since the last call; removes them.
        fn lost(&mut self) -> usize {
            let before = self.seats.len();
            self.seats.retain_mut(|seat| {
                seat.leave.try_recv() == Err(oneshot::error::TryRecvError::Empty)
            });
            before - self.seats.len()
        }

        fn holds(&self, source: Source) -> usize {
            lock(&self.door.0).of(source)
        }
    }

    #[test]
    fn made_up_addresses_get_a_part_of_the_places_and_then_have_to_be_proven() {
        let mut scene = Scene::new(16);
        let unproven: String = (0..6).map(|n| scene.knock(host(n), false, 0)).collect();
        assert_eq!(unproven, "eeeepp");
        assert_eq!(scene.knock(host(9), true, 0), 'e');
        let mut scene = Scene::new(16);
        let unproven: String = (0..5).map(|_| scene.knock(host(1), false, 0)).collect();
        assert_eq!(unproven, "eeepp", "a quarter of one address's share");
    }

    #[test]
    fn an_address_that_stalls_makes_room_for_itself_and_only_when_it_stalls() {
        let mut scene = Scene::new(16);
        assert_eq!(scene.crowd(host(1), 13, 0), "eeeeeeeeeeeer");
        assert_eq!(scene.knock(host(1), true, 99), 'r');
        assert_eq!((scene.knock(host(1), true, 100), scene.lost()), ('e', 1));
        assert_eq!(scene.holds(host(1)), 12);
        // None of this costs any other address a place.
        assert_eq!(scene.crowd(host(2), 4, 100), "eeee");
    }

    #[test]
    fn whoever_holds_many_makes_room_at_once_for_whoever_holds_few() {
        let mut scene = Scene::new(16);
        assert_eq!(scene.crowd(host(1), 12, 0), "e".repeat(12));
        assert_eq!(scene.crowd(host(2), 8, 0), "eeeeeeee", "half each");
        assert_eq!((scene.holds(host(1)), scene.holds(host(2)), scene.lost()), (8, 8, 4));
        assert_eq!(scene.knock(host(2), true, 0), 'r');
        assert_eq!((scene.knock(host(3), true, 0), scene.holds(host(1))), ('e', 7));
    }

    #[test]
    fn a_thousand_addresses_do_not_keep_a_peer_out_nor_take_its_place() {
        let mut scene = Scene::new(16);
        assert_eq!(scene.knock(peer(1), true, 0), 'e');
        for n in 0..100 {
            assert_eq!(scene.knock(host(n), true, 200 * u64::from(n)), 'e');
        }
        assert_eq!(scene.holds(peer(1)), 1);
        let now = 200 * 99;
        assert_eq!(scene.knock(host(200), true, now + 1), 'e', "the oldest stalls");
        assert_eq!(scene.crowd(peer(2), 5, now + 1), "eeeee");
        assert_eq!((scene.holds(peer(1)), scene.holds(peer(2))), (1, 5));
    }

    #[test]
    fn whoever_has_a_peers_address_has_no_more_than_others_beyond_a_few() {
        let mut scene = Scene::new(16);
        assert_eq!(scene.crowd(peer(1), 12, 0), "e".repeat(12));
        assert_eq!(scene.crowd(host(2), 8, 0), "e".repeat(8));
        assert_eq!((scene.holds(peer(1)), scene.holds(host(2))), (8, 8));
    }

    #[test]
    fn a_place_is_free_again_once_its_handshake_is_over() {
        let mut scene = Scene::new(4);
        assert_eq!(scene.crowd(host(1), 4, 0), "eeer");
        scene.seats.pop();
        assert_eq!(scene.knock(host(1), true, 0), 'e');
        scene.seats.clear();
        assert_eq!(scene.holds(host(1)), 0);
        assert_eq!(Scene::new(1).crowd(host(1), 2, 0), "er", "even if there is only one");
    }

    #[test]
    fn addresses_that_one_host_can_choose_among_are_one_source() {
        let source = |text: &str| Source::new(text.parse().unwrap(), false);
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
    }
}
