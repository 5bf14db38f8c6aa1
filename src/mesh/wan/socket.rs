//! The socket of an emulated wide area network. Packets wait in a heap until their time, and a
//! thread sends them then. A timer of the runtime would be late by milliseconds, the thread is late
//! by tenths of one.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::{Fate, Wan};

/// The most bytes of packets that wait in one socket; beyond that they are lost, as in a full
/// router.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// The pause before another try when the kernel's buffer is full, and the number of tries.
const RETRY: Duration = Duration::from_micros(50);
const RETRIES: usize = 20;

/// A socket whose packets take the emulated paths; the inner socket does the receiving.
#[derive(Debug)]
pub(in crate::mesh) struct WanSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    wan: Wan,
    line: Arc<Line>,
}

/// What the socket and its sending thread share.
#[derive(Debug, Default)]
struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: BinaryHeap<Packet>,
    bytes: usize,
    next: u64,
    closed: bool,
}

#[derive(Debug)]
struct Packet {
    at: Instant,
    /// Keeps packets that are due at the same time in the order of sending.
    number: u64,
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    src_ip: Option<IpAddr>,
    contents: Vec<u8>,
}

impl WanSocket {
    /// Wraps `inner`; `sender` is the same socket for the thread.
    pub(in crate::mesh) fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        sender: UdpSocket,
        wan: &Wan,
    ) -> io::Result<WanSocket> {
        let addr = inner.local_addr()?;
        wan.control().place(addr, wan.site());
        if addr.ip().is_unspecified() {
            // A socket bound to every address is reached at loopback from this machine.
            let loopback = match addr {
                SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
                SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
            };
            wan.control().place(SocketAddr::new(loopback, addr.port()), wan.site());
        }
        let state = UdpSocketState::new(UdpSockRef::from(&sender))?;
        let line = Arc::new(Line::default());
        let for_thread = Arc::clone(&line);
        thread::Builder::new()
            .name(format!("wan-{}", wan.site()))
            .spawn(move || for_thread.send_when_due(&state, &sender))?;
        Ok(WanSocket { inner, wan: wan.clone(), line })
    }
}

impl AsyncUdpSocket for WanSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysReady)
    }

    /// Always succeeds, because a packet lost on the way looks to QUIC like one sent.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let now = Instant::now();
        let at = match self.wan.fate(transmit.destination, now) {
            Fate::Lost => return Ok(()),
            // The thread waits for a full kernel buffer, because the poller here never waits.
            Fate::Now => match self.inner.try_send(transmit) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => now,
                sent => return sent,
            },
            Fate::At(at) => at,
        };
        self.line.push(at, transmit);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// One, so that each packet is lost or delayed on its own.
    fn max_transmit_segments(&self) -> usize {
        1
    }

    /// Delegated, because the kernel joins packets whether or not they were sent joined.
    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl Drop for WanSocket {
    fn drop(&mut self) {
        self.line.lock().closed = true;
        self.line.changed.notify_one();
    }
}

#[derive(Debug)]
struct AlwaysReady;

impl UdpPoller for AlwaysReady {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Line {
    fn push(&self, at: Instant, transmit: &Transmit<'_>) {
        let mut state = self.lock();
        if state.bytes + transmit.contents.len() > MAX_WAITING_BYTES {
            return;
        }
        state.bytes += transmit.contents.len();
        state.next += 1;
        let packet = Packet {
            at,
            number: state.next,
            destination: transmit.destination,
            ecn: transmit.ecn,
            src_ip: transmit.src_ip,
            contents: transmit.contents.to_vec(),
        };
        let first = state.waiting.peek().is_none_or(|next| packet.at < next.at);
        state.waiting.push(packet);
        drop(state);
        if first {
            self.changed.notify_one();
        }
    }

    /// The sending thread. It ends with the socket. Packets that still wait are lost, as in a host
    /// that goes down.
    fn send_when_due(&self, state: &UdpSocketState, socket: &UdpSocket) {
        while let Some(packet) = self.next_due() {
            packet.send(state, socket);
        }
    }

    fn next_due(&self) -> Option<Packet> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            let pause = state.waiting.peek().map(|next| next.at.saturating_duration_since(now));
            state = match pause {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    let packet = state.waiting.pop()?;
                    state.bytes -= packet.contents.len();
                    return Some(packet);
                }
                Some(pause) => {
                    let waited = self.changed.wait_timeout(state, pause);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The code under this lock cannot panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Packet {
    fn send(&self, state: &UdpSocketState, socket: &UdpSocket) {
        let transmit = Transmit {
            destination: self.destination,
            ecn: self.ecn,
            contents: &self.contents,
            segment_size: None,
            src_ip: self.src_ip,
        };
        for _ in 0..RETRIES {
            match state.try_send(UdpSockRef::from(socket), &transmit) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
                // Any other error loses the packet, which QUIC handles.
                _ => return,
            }
        }
    }
}

impl Ord for Packet {
    /// The heap returns the greatest element first; here that is the earliest packet.
    fn cmp(&self, other: &Packet) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Packet) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Packet {
    fn eq(&self, other: &Packet) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Packet {}
