//! One peer as this end sees it: the connection of the moment, the queues before it, and the order
//! in which the node hears of it all.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::arbiter::Arbiter;
use super::config::Limits;
use super::queue::Outbox;
use super::refusal::Refusal;
use super::stream::{Counters, count};
use super::{Dropped, Inbound, Lane};
use crate::types::{Address, Presence, ReplicaId};

/// One peer.
///
/// Invariants:
/// 1. The node hears, for one peer: up, frames, down, up, … and nothing out of turn; `told` guards
///    it and is the outer of the two locks.
/// 2. At most one connection is current; its serial is the state's, and opens both queues.
pub(super) struct Link {
    pub(super) peer: ReplicaId,
    pub(super) counters: Counters,
    lanes: [Outbox; Lane::ALL.len()],
    /// The serial of the connection the node was told is up; 0 if none. Held while telling.
    told: Mutex<u64>,
    state: Mutex<State>,
    up: watch::Sender<bool>,
}

struct State {
    addr: Address,
    /// What that stood for at the last dial.
    hosts: Vec<IpAddr>,
    arbiter: Arbiter,
    /// Counts the connections that became current.
    serial: u64,
    connection: Option<quinn::Connection>,
    last_error: Option<String>,
    /// Why a connection that the peer dialled was refused last.
    last_refusal: Option<String>,
    /// Whether it was said that the peer flushes where this end does not, or the other way round.
    told_flushing: bool,
}

/// What a replica knows of its connection to one peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The peer.
    pub peer: ReplicaId,
    /// Where it is dialled.
    pub addr: Address,
    /// Whether frames can pass.
    pub connected: bool,
    /// Its life, while connected: another number after each of its starts.
    pub life: Option<u64>,
    /// QUIC's estimate of the round trip, while connected.
    pub rtt: Option<Duration>,
    /// Frames written to connections. Those under way when a connection is lost may not arrive.
    pub frames_sent: u64,
    /// Bytes written, with the frames' headers.
    pub bytes_sent: u64,
    /// Frames handed to the node.
    pub frames_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Frames that were not queued, or were discarded with a lost connection.
    pub frames_dropped: u64,
    /// Connections established; all but the first are reconnects.
    pub connects: u64,
    /// Why the last attempt or connection failed.
    pub last_error: Option<String>,
}

impl Link {
    pub(super) fn new(peer: ReplicaId, addr: Address, limits: &Limits) -> Link {
        let arbiter = Arbiter::default();
        Link {
            peer,
            counters: Counters::default(),
            lanes: Lane::ALL.map(|_| Outbox::new(limits.peer_queue_bytes, limits.peer_frame_bytes)),
            told: Mutex::new(0),
            state: Mutex::new(State {
                hosts: addr.socket().iter().map(|addr| addr.ip().to_canonical()).collect(),
                addr,
                arbiter,
                serial: 0,
                connection: None,
                last_error: None,
                last_refusal: None,
                told_flushing: false,
            }),
            up: watch::Sender::new(false),
        }
    }

    /// Notes what the peer's address stands for now.
    pub(super) fn note_hosts(&self, addresses: &[SocketAddr]) {
        let hosts = addresses.iter().map(|addr| addr.ip().to_canonical());
        self.state().hosts = hosts.collect();
    }

    /// Whether the peer was at this host when it was dialled last.
    pub(super) fn is_at(&self, host: IpAddr) -> bool {
        self.state().hosts.contains(&host.to_canonical())
    }

    pub(super) fn send(&self, lane: Lane, frame: Bytes) -> Result<(), Dropped> {
        self.lanes[lane as usize]
            .push(frame)
            .inspect_err(|_| count(&self.counters.frames_dropped, 1))
    }

    pub(super) fn outbox(&self, lane: Lane) -> &Outbox {
        &self.lanes[lane as usize]
    }

    /// Lets the writers end once what is queued has been sent.
    pub(super) fn finish(&self) {
        self.lanes.iter().for_each(Outbox::finish);
    }

    /// Makes `connection` the current one if `decide` allows it, and closes the one before.
    /// Returns its serial and what `decide` returned.
    pub(super) fn install<T>(
        &self,
        connection: &quinn::Connection,
        inbound: &dyn Inbound,
        shown: Presence,
        decide: impl FnOnce(&mut Arbiter) -> Result<T, Refusal>,
    ) -> Result<(u64, T), Refusal> {
        let mut told = self.told();
        let (before, serial, decided) = {
            let mut state = self.state();
            let decided = decide(&mut state.arbiter)?;
            state.serial += 1;
            let before = state.connection.replace(connection.clone());
            state.last_refusal = None;
            (before, state.serial, decided)
        };
        if let Some(before) = before {
            Refusal::Replaced.close(&before);
        }
        for lane in &self.lanes {
            count(&self.counters.frames_dropped, lane.open(serial));
        }
        count(&self.counters.connects, 1);
        if *told != 0 {
            inbound.on_peer_down(self.peer);
        }
        *told = serial;
        inbound.on_peer_up(self.peer, shown);
        self.up.send_replace(true);
        Ok((serial, decided))
    }

    /// The connection with this serial is gone; nothing happens if another has taken its place.
    pub(super) fn uninstall(&self, serial: u64, inbound: &dyn Inbound, why: String) {
        let mut told = self.told();
        for lane in &self.lanes {
            count(&self.counters.frames_dropped, lane.close(serial));
        }
        {
            let mut state = self.state();
            state.last_error = Some(why);
            if state.serial == serial {
                state.connection = None;
                state.arbiter.end();
            }
        }
        if *told == serial {
            *told = 0;
            inbound.on_peer_down(self.peer);
            self.up.send_replace(false);
        }
    }

    /// Whatever connection is current, it is gone: the mesh shuts down.
    pub(super) fn close(&self, inbound: &dyn Inbound) {
        let serial = self.state().serial;
        if serial != 0 {
            self.uninstall(serial, inbound, Refusal::ShuttingDown.to_string());
        }
    }

    /// Hands frames of connection `serial` to the node, unless it isn't current any more.
    pub(super) fn deliver(&self, serial: u64, inbound: &dyn Inbound, frames: &mut Vec<Bytes>) {
        let told = self.told();
        if *told != serial {
            frames.clear();
            return;
        }
        let (count_before, bytes): (usize, usize) =
            (frames.len(), frames.iter().map(Bytes::len).sum());
        inbound.on_frames(self.peer, frames);
        let left: usize = frames.iter().map(Bytes::len).sum();
        count(&self.counters.frames_received, count_before.saturating_sub(frames.len()));
        count(&self.counters.bytes_received, bytes.saturating_sub(left));
    }

    /// Follows whether the peer is connected.
    pub(super) fn up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// The connection that is current, and the peer's life in it.
    pub(super) fn current(&self) -> Option<(quinn::Connection, u64)> {
        let state = self.state();
        state.connection.clone().zip(state.arbiter.life())
    }

    /// Keeps why the peer was refused; true if it was refused for something else before.
    pub(super) fn note_refusal(&self, why: String) -> bool {
        let mut state = self.state();
        let news = state.last_refusal.as_ref() != Some(&why);
        state.last_refusal = Some(why);
        news
    }

    /// True once: for something that has to be said of this peer.
    pub(super) fn tell_flushing(&self) -> bool {
        !std::mem::replace(&mut self.state().told_flushing, true)
    }

    /// The newest connection that has ended, for the hello.
    pub(super) fn lost(&self) -> (u64, u64) {
        self.state().arbiter.lost()
    }

    pub(super) fn addr(&self) -> Address {
        self.state().addr.clone()
    }

    pub(super) fn set_addr(&self, addr: Address) {
        self.state().addr = addr;
    }

    /// Keeps the error for the status; true if it differs from the one before.
    pub(super) fn note_error(&self, error: String) -> bool {
        let mut state = self.state();
        let news = state.last_error.as_ref() != Some(&error);
        state.last_error = Some(error);
        news
    }

    pub(super) fn status(&self) -> PeerStatus {
        let state = self.state();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        PeerStatus {
            peer: self.peer,
            addr: state.addr.clone(),
            connected: state.connection.is_some(),
            life: state.arbiter.life(),
            rtt: state.connection.as_ref().map(quinn::Connection::rtt),
            frames_sent: load(&self.counters.frames_sent),
            bytes_sent: load(&self.counters.bytes_sent),
            frames_received: load(&self.counters.frames_received),
            bytes_received: load(&self.counters.bytes_received),
            frames_dropped: load(&self.counters.frames_dropped),
            connects: load(&self.counters.connects),
            last_error: state.last_error.clone(),
        }
    }

    fn told(&self) -> MutexGuard<'_, u64> {
        // Poisoned if the node's callback panicked: the serial is still right.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
