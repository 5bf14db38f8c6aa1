//! Frames in both directions on one stream between a client and a replica. Many requests are under
//! way at a time, and replies come in any order.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::account::Account;
use super::hello::{self, ClientHello};
use super::names::{administrator_name, client_name};
use super::places::Place;
use super::queue::Outbox;
use super::refusal::{Closed, Refusal};
use super::stream::{Counters, FrameStream, Measure, write_frames};
use super::tally::Tally;
use super::{Dropped, Hub, peer};

/// A pipe's queue feeds only one connection.
const SERIAL: u64 = 1;
/// How long a client's queued frames may take to be sent once the node has dropped it.
const FLUSH: Duration = Duration::from_secs(1);

/// Answers a client's hello and passes the client to the node.
pub(super) async fn welcome(
    hub: &Arc<Hub>,
    connection: &Connection,
    place: Place,
) -> Result<(), Closed> {
    let (mut tx, mut rx) = connection.accept_bi().await?;
    let theirs = ClientHello::decode(&hello::receive(&mut rx).await?)?;
    peer::check_addressee(hub, &theirs.cluster, theirs.to)?;
    peer::check_certificate(connection, client_name(&hub.cluster, &theirs.name))?;
    let as_administrator = administrator_name(&hub.cluster, &theirs.name);
    let is_administrator = peer::check_certificate(connection, as_administrator).is_ok();
    let limits = &hub.limits;
    let max_frame = limits.client_frame_bytes;
    let account = Arc::clone(&place.account);
    let outbox = Outbox::of(Arc::clone(&account), limits.client_queue_bytes, max_frame);
    let outbox = Arc::new(outbox);
    place.attach(&outbox);
    let ours = hub.client_frames;
    let Some(version) = ours.agreed(theirs.frames) else {
        return Err(Refusal::OtherClient { ours, theirs: theirs.frames }.into());
    };
    let answer = ClientHello { frames: ours, ..theirs.clone() };
    hello::send(&mut tx, &answer.encode()).await?;
    debug!(us = %hub.id, client = %theirs.name, remote = %connection.remote_address(), "connected");
    let stall = limits.client_stall;
    let measure = Measure { room: Arc::clone(account.half_frames()), stall };
    let incoming = FrameStream::measured(rx, max_frame, measure);
    let sender =
        FrameSender::new(connection.clone(), version, outbox, Some(Arc::clone(&hub.cut_off)));
    let pipe = Pipe::start(sender, tx, incoming, Some(stall), place);
    let (name, idle) = (theirs.name, limits.client_idle);
    hub.inbound.on_client(ClientConnection { pipe, name, is_administrator, account, idle });
    Ok(())
}

/// One end of the stream. Dropping it sends queued frames and closes the connection.
pub(super) struct Pipe {
    incoming: FrameStream,
    sender: FrameSender,
}

/// Sends frames to the other end of a client's connection. Cheap to clone, usable on any thread.
#[derive(Clone)]
pub struct FrameSender(Arc<Sending>);

struct Sending {
    outbox: Arc<Outbox>,
    connection: Connection,
    /// The version of the frames that was agreed on.
    version: u8,
    /// Why this end closed the connection; QUIC remembers only that it did.
    ended: OnceLock<Refusal>,
    /// Bounds the log lines about it, on the side where clients could flood the log.
    tally: Option<Arc<Tally>>,
}

impl Pipe {
    /// Starts the writing half; the other end must not stall for longer than `stall`. `place` is
    /// dropped when the connection ends.
    pub(super) fn start(
        sender: FrameSender,
        mut tx: SendStream,
        incoming: FrameStream,
        stall: Option<Duration>,
        place: impl Send + 'static,
    ) -> Pipe {
        sender.0.outbox.open(SERIAL);
        let writing = sender.clone();
        tokio::spawn(async move {
            let Sending { outbox, connection, .. } = &*writing.0;
            let counters = Counters::default();
            tokio::select! {
                written = write_frames(outbox, SERIAL, &mut tx, &counters, stall) => {
                    writing.end(match written {
                        Err(Closed::Here(refusal)) => refusal,
                        _ => Refusal::Done,
                    });
                }
                _ = connection.closed() => {}
            }
            outbox.close(SERIAL);
            drop(place);
        });
        Pipe { incoming, sender }
    }

    /// A client's end; its frames come from `rx`.
    pub(super) fn of_client(
        connection: Connection,
        version: u8,
        (tx, rx): (SendStream, RecvStream),
        outbox: Outbox,
        max_frame: usize,
    ) -> Pipe {
        let sender = FrameSender::new(connection, version, Arc::new(outbox), None);
        Pipe::start(sender, tx, FrameStream::new(rx, max_frame), None, ())
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
        self.sender.0.outbox.close(SERIAL);
        Err(self.sender.closed().unwrap_or(why))
    }

    pub(super) fn sender(&self) -> &FrameSender {
        &self.sender
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let sender = self.sender.clone();
        sender.0.outbox.finish();
        // Outside a runtime nothing can send the rest.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                if timeout(FLUSH, sender.0.connection.closed()).await.is_err() {
                    sender.end(Refusal::Done);
                }
            })),
            Err(_) => sender.end(Refusal::Done),
        }
    }
}

impl FrameSender {
    fn new(
        connection: Connection,
        version: u8,
        outbox: Arc<Outbox>,
        tally: Option<Arc<Tally>>,
    ) -> FrameSender {
        let ended = OnceLock::new();
        FrameSender(Arc::new(Sending { outbox, connection, version, ended, tally }))
    }

    /// The version of the frames that both ends agreed on.
    pub fn version(&self) -> u8 {
        self.0.version
    }

    /// Queues a frame; never blocks.
    ///
    /// # Errors
    /// [`Dropped::NotConnected`] once the connection is closed; [`Dropped::TooLarge`]; and
    /// [`Dropped::Full`] while the other end reads more slowly than this one sends. A replica can
    /// still send short frames then.
    pub fn send(&self, frame: Bytes) -> Result<(), Dropped> {
        self.0.outbox.push(frame)
    }

    /// The number of bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        self.0.outbox.queued()
    }

    /// Completes when fewer bytes wait than at the call, or when the connection has ended. To miss
    /// nothing, `enable` it before you check [`FrameSender::queued`].
    pub fn room(&self) -> Notified<'_> {
        self.0.outbox.room()
    }

    /// Waits until either end has closed the connection.
    pub async fn over(&self) {
        self.0.connection.closed().await;
    }

    /// Why the connection is closed; `None` while it is open.
    pub fn closed(&self) -> Option<Closed> {
        match self.0.ended.get() {
            Some(refusal) => Some(Closed::Here(refusal.clone())),
            None => self.0.connection.close_reason().map(Closed::from),
        }
    }

    /// Closes the connection, unless it is already closed.
    fn end(&self, refusal: Refusal) {
        let Sending { connection, ended, tally, .. } = &*self.0;
        if connection.close_reason().is_some() || ended.set(refusal.clone()).is_err() {
            return;
        }
        let admits = tally.as_ref().is_none_or(|tally| tally.admits(Instant::now()));
        if !refusal.is_routine() && admits {
            warn!(remote = %connection.remote_address(), %refusal, "closing");
        }
        refusal.close(connection);
    }

    /// QUIC's estimate of the round trip.
    pub fn rtt(&self) -> Duration {
        self.0.connection.rtt()
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.0.connection
    }
}

impl std::fmt::Debug for FrameSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FrameSender").field(&self.0.connection.remote_address()).finish()
    }
}

/// A client as the node sees it. Dropping it sends queued replies (for at most a second) and closes
/// the connection.
pub struct ClientConnection {
    pipe: Pipe,
    name: String,
    is_administrator: bool,
    account: Arc<Account>,
    idle: Duration,
}

impl ClientConnection {
    /// The client's name, proven by its certificate.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its certificate is an administrator's.
    pub fn is_administrator(&self) -> bool {
        self.is_administrator
    }

    /// What all connections of the client's certificate use together.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The client's address.
    pub fn remote_addr(&self) -> SocketAddr {
        self.pipe.sender.connection().remote_address()
    }

    /// Closes the connection because the client sent something invalid; `why` is logged.
    pub fn cut_off(self, why: &str) {
        let tally = self.pipe.sender.0.tally.as_ref();
        if tally.is_none_or(|tally| tally.admits(Instant::now())) {
            warn!(client = self.name, remote = %self.remote_addr(), why, "cut off");
        }
    }

    /// The sender of replies. It may outlive this value, and then returns `NotConnected`.
    pub fn sender(&self) -> FrameSender {
        self.pipe.sender.clone()
    }

    /// Waits for requests and appends all that have arrived to `frames`, at least one. Between
    /// calls, QUIC holds the client back. It is cancel safe.
    ///
    /// # Errors
    /// [`Closed`] when either end has closed the connection. That includes `limits.client_idle`
    /// without a request, and a frame above the limit.
    pub async fn recv(&mut self, frames: &mut Vec<Bytes>) -> Result<(), Closed> {
        match timeout(self.idle, self.pipe.recv(frames)).await {
            Ok(received) => received,
            Err(_) => {
                self.pipe.sender.end(Refusal::Idle);
                self.pipe.sender.0.outbox.close(SERIAL);
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
