//! Frames to and fro on one bidirectional stream between a client and a replica. Many requests are
//! under way at a time; replies go back in whatever order the node has them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::hello::{self, ClientHello};
use super::names::client_name;
use super::queue::Outbox;
use super::refusal::{Closed, Refusal};
use super::stream::{Counters, FrameStream, write_frames};
use super::{Dropped, Hub, peer};

/// A pipe's queue feeds one connection in its life.
const SERIAL: u64 = 1;
/// How long what is queued for a client may take to be sent once the node has let go of it.
const FLUSH: Duration = Duration::from_secs(1);

/// Answers the hello of a client and hands it to the node.
pub(super) async fn welcome(hub: &Arc<Hub>, connection: &Connection) -> Result<(), Closed> {
    let (mut tx, mut rx) = connection.accept_bi().await?;
    let theirs = ClientHello::decode(&hello::receive(&mut rx).await?)?;
    peer::check_addressee(hub, &theirs.cluster, theirs.to)?;
    peer::check_certificate(connection, client_name(&hub.cluster, &theirs.name))?;
    let limits = &hub.limits;
    let outbox = Arc::new(Outbox::new(limits.client_queue_bytes, limits.client_frame_bytes));
    let place = Place::take(hub, &outbox).ok_or(Refusal::TooManyClients)?;
    hello::send(&mut tx, &theirs.encode()).await?;
    debug!(us = %hub.id, client = %theirs.name, remote = %connection.remote_address(), "connected");
    let name = theirs.name;
    let max_frame = limits.client_frame_bytes;
    let pipe = Pipe::start(connection.clone(), tx, rx, outbox, max_frame, place);
    let idle = limits.client_idle;
    hub.inbound.on_client(ClientConnection { pipe, name, idle });
    Ok(())
}

/// One end of the stream. Dropping it sends what is queued and closes the connection.
pub(super) struct Pipe {
    incoming: FrameStream,
    sender: FrameSender,
}

/// Sends frames to the other end of a client's connection. Cheap to clone, usable on any thread.
#[derive(Clone)]
pub struct FrameSender {
    outbox: Arc<Outbox>,
    connection: Connection,
    /// Why this end has closed the connection: QUIC remembers only that it did.
    ended: Arc<OnceLock<Refusal>>,
}

impl Pipe {
    /// Starts the writing half; `place` is dropped when it is over with the connection.
    pub(super) fn start(
        connection: Connection,
        mut tx: SendStream,
        rx: RecvStream,
        outbox: Arc<Outbox>,
        max_frame: usize,
        place: impl Send + 'static,
    ) -> Pipe {
        outbox.open(SERIAL);
        let sender = FrameSender { outbox, connection, ended: Arc::default() };
        let writing = sender.clone();
        tokio::spawn(async move {
            let counters = Counters::default();
            tokio::select! {
                _ = write_frames(&writing.outbox, SERIAL, &mut tx, &counters) => {
                    writing.end(Refusal::Done);
                }
                _ = writing.connection.closed() => {}
            }
            writing.outbox.close(SERIAL);
            drop(place);
        });
        Pipe { incoming: FrameStream::new(rx, max_frame), sender }
    }

    /// See [`ClientConnection::recv`].
    pub(super) async fn recv(&mut self, frames: &mut Vec<Bytes>) -> Result<(), Closed> {
        let why = match self.incoming.read(frames).await {
            Ok(true) => return Ok(()),
            Ok(false) => Closed::Here(Refusal::Done),
            Err(why) => why,
        };
        if let Closed::Here(refusal) = &why {
            self.sender.end(refusal.clone());
        }
        self.sender.outbox.close(SERIAL);
        Err(self.sender.closed().unwrap_or(why))
    }

    pub(super) fn sender(&self) -> &FrameSender {
        &self.sender
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let sender = self.sender.clone();
        sender.outbox.finish();
        // Outside a runtime there is nobody to send the rest.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                if timeout(FLUSH, sender.connection.closed()).await.is_err() {
                    sender.end(Refusal::Done);
                }
            })),
            Err(_) => sender.end(Refusal::Done),
        }
    }
}

impl FrameSender {
    /// Queues a frame; never blocks.
    ///
    /// # Errors
    /// [`Dropped::NotConnected`] once the connection is closed, [`Dropped::TooLarge`], and
    /// [`Dropped::Full`], which also closes the connection: an end that doesn't read what it asked
    /// for must not hold memory, and a gap in the frames would be worse than no connection.
    pub fn send(&self, frame: Bytes) -> Result<(), Dropped> {
        self.outbox.push(frame).inspect_err(|dropped| {
            if *dropped == Dropped::Full {
                self.end(Refusal::TooSlow);
                self.outbox.close(SERIAL);
            }
        })
    }

    /// Why the connection is closed, or `None` while it is open.
    pub fn closed(&self) -> Option<Closed> {
        match self.ended.get() {
            Some(refusal) => Some(Closed::Here(refusal.clone())),
            None => self.connection.close_reason().map(Closed::from),
        }
    }

    /// Closes the connection, unless it is closed already.
    fn end(&self, refusal: Refusal) {
        if self.connection.close_reason().is_none() && self.ended.set(refusal.clone()).is_ok() {
            if !refusal.is_routine() {
                warn!(remote = %self.connection.remote_address(), %refusal, "closing");
            }
            refusal.close(&self.connection);
        }
    }

    /// QUIC's estimate of the round trip.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl std::fmt::Debug for FrameSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FrameSender").field(&self.connection.remote_address()).finish()
    }
}

/// A client as the node sees it. Dropping it sends the replies still queued (for at most a second)
/// and closes the connection.
pub struct ClientConnection {
    pipe: Pipe,
    name: String,
    idle: Duration,
}

impl ClientConnection {
    /// The client's name, proven by its certificate.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the client is.
    pub fn remote_addr(&self) -> SocketAddr {
        self.pipe.sender.connection.remote_address()
    }

    /// Where replies go; it may outlive this value, and then says `NotConnected`.
    pub fn sender(&self) -> FrameSender {
        self.pipe.sender.clone()
    }

    /// Waits for requests and appends all that have arrived to `frames`, at least one. While it
    /// isn't called the client is held back by QUIC. May be cancelled without loss.
    ///
    /// # Errors
    /// [`Closed`] when the connection is over, by whichever end: also after
    /// `limits.client_idle` without a request, or a frame above the limit.
    pub async fn recv(&mut self, frames: &mut Vec<Bytes>) -> Result<(), Closed> {
        match timeout(self.idle, self.pipe.recv(frames)).await {
            Ok(received) => received,
            Err(_) => {
                self.pipe.sender.end(Refusal::Idle);
                self.pipe.sender.outbox.close(SERIAL);
                Err(Refusal::Idle.into())
            }
        }
    }
}

impl std::fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConnection").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A client's place among the clients, free again when this is dropped.
struct Place {
    hub: Arc<Hub>,
    number: u64,
}

impl Place {
    fn take(hub: &Arc<Hub>, outbox: &Arc<Outbox>) -> Option<Place> {
        let number = hub.clients.enter(Arc::clone(outbox))?;
        Some(Place { hub: Arc::clone(hub), number })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hub.clients.leave(self.number);
    }
}

/// The clients connected to one mesh: counted, bounded, and told when the mesh shuts down.
pub(super) struct Clients {
    limit: usize,
    state: Mutex<ClientsState>,
    left: Notify,
}

#[derive(Default)]
struct ClientsState {
    next: u64,
    connected: HashMap<u64, Arc<Outbox>>,
}

impl Clients {
    pub(super) fn new(limit: usize) -> Clients {
        Clients { limit, state: Mutex::default(), left: Notify::new() }
    }

    /// Takes a place for a client, or `None` if all are taken.
    fn enter(&self, outbox: Arc<Outbox>) -> Option<u64> {
        let mut state = self.lock();
        if state.connected.len() >= self.limit {
            return None;
        }
        state.next += 1;
        let number = state.next;
        state.connected.insert(number, outbox);
        Some(number)
    }

    fn leave(&self, number: u64) {
        self.lock().connected.remove(&number);
        self.left.notify_waiters();
    }

    pub(super) fn count(&self) -> usize {
        self.lock().connected.len()
    }

    /// Lets every client's writer end once what is queued has been sent.
    pub(super) fn finish(&self) {
        self.lock().connected.values().for_each(|outbox| outbox.finish());
    }

    /// Waits until the last client has left.
    pub(super) async fn wait_none(&self) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            left.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, ClientsState> {
        // Nothing that can panic runs while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
