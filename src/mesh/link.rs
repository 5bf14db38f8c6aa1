//! One peer as this end sees it: the current connection, the queues for it, and the order in which
//! the node learns about it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::arbiter::Arbiter;
use super::config::ConnectionLimits;
use super::queue::Outbox;
use super::refusal::Refusal;
use super::stream::{Counters, count};
use super::{Dropped, Inbound, Lane};
use crate::types::{Address, MemberId, Presence};

/// One peer.
///
/// Invariants:
/// 1. For one peer the node hears up, frames, down, up, … in this order; `told` guards that, and is
///    the outer of the two locks.
/// 2. At most one connection is current; the state holds its serial, which opens both queues.
pub(super) struct Link {
    pub(super) peer: MemberId,
    pub(super) counters: Counters,
    /// The version of the frames that was agreed on for the current connection, or the last one.
    frames: AtomicU8,
    lanes: [Outbox; Lane::ALL.len()],
    /// The serial of the connection that the node was told is up; 0 if none. Locked during the
    /// callbacks.
    told: Mutex<u64>,
    state: Mutex<LinkState>,
    up: watch::Sender<bool>,
    /// The ticket of the task that dials it; 0 if it is not dialled.
    ticket: watch::Sender<u64>,
}

struct LinkState {
    /// Where it is dialled; `None` if it is not.
    address: Option<Address>,
    /// The hosts that the address resolved to at the last dial.
    hosts: Vec<IpAddr>,
    arbiter: Arbiter,
    /// The number of connections that became current.
    serial: u64,
    connection: Option<quinn::Connection>,
    last_error: Option<String>,
    /// Why a connection that the peer dialled was last refused.
    last_refusal: Option<String>,
    /// Whether it was logged that exactly one of the two ends flushes.
    told_flushing: bool,
}

/// What a replica knows about its connection to one peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The peer.
    pub peer: MemberId,
    /// The address at which it is dialled. `None` if it is not dialled: it is no member here, and
    /// has connected by itself.
    pub addr: Option<Address>,
    /// Whether frames can pass.
    pub connected: bool,
    /// Its life, while connected; it changes at each of its starts.
    pub life: Option<u64>,
    /// QUIC's estimate of the round trip, while connected.
    pub rtt: Option<Duration>,
    /// Frames written to connections. Some may be lost with a connection.
    pub frames_sent: u64,
    /// Bytes written, including frame headers.
    pub bytes_sent: u64,
    /// Frames handed to the node.
    pub frames_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Frames that were refused by the queue or discarded with a lost connection.
    pub frames_dropped: u64,
    /// Connections established; all but the first are reconnects.
    pub connects: u64,
    /// Why the last attempt or connection failed.
    pub last_error: Option<String>,
}

impl Link {
    /// A link that is not dialled yet. Generations up to `committed` were used before it.
    pub(super) fn new(peer: MemberId, limits: &ConnectionLimits, committed: u64) -> Link {
        let arbiter = Arbiter::after(committed);
        Link {
            peer,
            counters: Counters::default(),
            frames: AtomicU8::new(0),
            lanes: Lane::ALL.map(|_| Outbox::new(limits.peer_queue_bytes, limits.peer_frame_bytes)),
            told: Mutex::new(0),
            state: Mutex::new(LinkState {
                address: None,
                hosts: Vec::new(),
                arbiter,
                serial: 0,
                connection: None,
                last_error: None,
                last_refusal: None,
                told_flushing: false,
            }),
            up: watch::Sender::new(false),
            ticket: watch::Sender::new(0),
        }
    }

    /// The version of the frames for the current connection, or the last one; 0 before the first.
    pub(super) fn frames(&self) -> u8 {
        self.frames.load(Ordering::Acquire)
    }

    /// Sets what the peer's address resolves to now.
    pub(super) fn note_hosts(&self, addresses: &[SocketAddr]) {
        let hosts = addresses.iter().map(|addr| addr.ip().to_canonical());
        self.state().hosts = hosts.collect();
    }

    /// Whether the peer's address resolved to this host at the last dial.
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

    /// Lets the writers end once the queues are empty.
    pub(super) fn finish(&self) {
        self.lanes.iter().for_each(Outbox::finish);
    }

    /// Makes `connection` current if `decide` allows it, and closes the one before. Returns its
    /// serial and the result of `decide`.
    pub(super) fn install<T>(
        &self,
        connection: &quinn::Connection,
        frames: u8,
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
        // A frame for the connection before, in another version, is refused by the peer like any
        // that makes no sense, and lost.
        self.frames.store(frames, Ordering::Release);
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

    /// The connection with this serial has ended. Does nothing if another has replaced it.
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

    /// Ends the current connection, if any: the mesh shuts down.
    pub(super) fn close(&self, inbound: &dyn Inbound) {
        let serial = self.state().serial;
        if serial != 0 {
            self.uninstall(serial, inbound, Refusal::ShuttingDown.to_string());
        }
    }

    /// Passes frames of connection `serial` to the node, unless it is no longer current.
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

    /// Tells whether the peer is connected, and notifies of changes.
    pub(super) fn up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// The current connection, and the peer's life in it.
    pub(super) fn current(&self) -> Option<(quinn::Connection, u64)> {
        let state = self.state();
        state.connection.clone().zip(state.arbiter.life())
    }

    /// Stores why the peer was refused; true if the reason differs from the last one.
    pub(super) fn note_refusal(&self, why: String) -> bool {
        let mut state = self.state();
        let news = state.last_refusal.as_ref() != Some(&why);
        state.last_refusal = Some(why);
        news
    }

    /// True at the first call only, so that the warning is logged once.
    pub(super) fn tell_flushing(&self) -> bool {
        !std::mem::replace(&mut self.state().told_flushing, true)
    }

    /// The newest connection that has ended, for the hello.
    pub(super) fn lost(&self) -> (u64, u64) {
        self.state().arbiter.lost()
    }

    /// The highest generation committed here.
    pub(super) fn committed(&self) -> u64 {
        self.state().arbiter.committed()
    }

    /// Where it is dialled; `None` if it is not.
    pub(super) fn address(&self) -> Option<Address> {
        self.state().address.clone()
    }

    /// Sets another address from the next attempt on.
    pub(super) fn set_address(&self, address: Address) {
        let mut state = self.state();
        state.hosts = address.socket().iter().map(|it| it.ip().to_canonical()).collect();
        state.address = Some(address);
    }

    /// It is dialled from now on, by the task with this ticket.
    pub(super) fn begin_dialling(&self, address: Address, ticket: u64) {
        self.set_address(address);
        self.ticket.send_replace(ticket);
    }

    /// It is not dialled any longer. A connection stays.
    pub(super) fn end_dialling(&self) {
        {
            let mut state = self.state();
            (state.address, state.hosts) = (None, Vec::new());
        }
        self.ticket.send_replace(0);
    }

    pub(super) fn is_dialled(&self) -> bool {
        *self.ticket.borrow() != 0
    }

    pub(super) fn is_dialled_by(&self, ticket: u64) -> bool {
        *self.ticket.borrow() == ticket
    }

    /// Waits until the task with this ticket is not to dial any longer.
    pub(super) async fn dialled_no_longer_by(&self, ticket: u64) {
        // The sender lives as long as this link.
        let _ = self.ticket.subscribe().wait_for(|now| *now != ticket).await;
    }

    /// Closes the current connection, if any, with this reason.
    pub(super) fn refuse(&self, why: &Refusal) {
        if let Some(connection) = &self.state().connection {
            why.close(connection);
        }
    }

    /// Stores the error for the status; true if it differs from the last one.
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
            addr: state.address.clone(),
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

    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
