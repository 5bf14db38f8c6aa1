//! Frames between replicas over QUIC with mutual TLS 1.3, and the same endpoint's side for clients.
//! This room transports bytes and knows the sender, but not what they mean.
//!
//! The way of a frame: [`Mesh::send`] → `queue` (bounded, one wake-up per drain) → `stream` (many
//! frames per write) → QUIC → `stream` (many frames per read) → `link` → [`Inbound::on_frames`].
//! The way of a connection: `dial` or `accept` → `hello` → `peer`; `arbiter` decides which of two
//! stays.
//!
//! Read the files in this order; each uses only those before it:
//!
//! 1. what both ends must agree on: `votes`, `refusal`, `terms`, `hello`;
//! 2. identities: `names`, `crypto`, `credentials`, `request`, `authority`;
//! 3. addresses: `addresses`, `resolve`, `wan`, `bind`; and settings: `config`, `tls`;
//! 4. frames: `framing`, `account`, `queue`, `stream`;
//! 5. peers: `arbiter`, `link`, `links`, what all tasks share (`tally`, `places`, `hub`), `peer`,
//!    `dial`;
//! 6. clients: `pipe`, and `client` for their own end; then `door` and `accept`, for both.
//!
//! Frames on one lane arrive in order and at most once while a connection lasts. Frames under way
//! on a lost connection, and frames that do not fit into their queue, are dropped and counted. The
//! protocol copes with lost messages in any case and sends again what it needs.

mod accept;
mod account;
mod addresses;
mod arbiter;
#[cfg(feature = "authority")]
mod authority;
mod bind;
mod client;
mod config;
mod credentials;
mod crypto;
mod dial;
mod door;
mod framing;
mod hello;
mod hub;
mod link;
mod links;
mod names;
mod peer;
mod pipe;
mod places;
mod queue;
mod refusal;
#[cfg(feature = "authority")]
mod request;
mod resolve;
mod stream;
mod tally;
mod terms;
mod tls;
mod votes;
mod wan;

#[cfg(test)]
#[cfg(feature = "authority")]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

pub use account::Account;
pub use addresses::{BadEntry, check_addresses};
#[cfg(feature = "authority")]
pub use authority::{Authority, Issued, Signed};
pub use client::{ClientChannel, ClientConfig, ClientEndpoint};
pub use config::{Congestion, ConnectionLimits, MeshConfig};
pub use credentials::{Credentials, CredentialsError, Expiring, WARN_DAYS, certificate_end};
use hub::Hub;
pub use link::PeerStatus;
pub use links::Traffic;
pub use names::BadName;
pub use pipe::{ClientConnection, FrameSender};
pub use refusal::{Closed, Refusal};
#[cfg(feature = "authority")]
pub use request::Request;
pub use resolve::Resolver;
pub use terms::Terms;
pub use votes::Votes;
pub use wan::{Wan, WanControl};

use crate::types::{Address, Known, LogPosition, MemberId, Presence};

/// The version of the hello and of the framing.
const VERSION: u16 = 7;

/// Which of the two streams to a peer a frame takes. Frames keep their order within a lane only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Small and urgent; sent before anything on the other lane.
    Consensus = 0,
    /// Large: payloads, fetches, snapshots.
    Bulk = 1,
}

impl Lane {
    const ALL: [Lane; 2] = [Lane::Consensus, Lane::Bulk];

    /// The first byte of the lane's stream.
    const fn tag(self) -> u8 {
        match self {
            Lane::Consensus => b'c',
            Lane::Bulk => b'b',
        }
    }

    /// QUIC sends from the stream with the higher priority first.
    const fn priority(self) -> i32 {
        match self {
            Lane::Consensus => 1,
            Lane::Bulk => 0,
        }
    }
}

/// What a replica says of itself and of others when a connection begins. It changes while the mesh
/// runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Introduction {
    /// How much of the local log is durable.
    pub held: LogPosition,
    /// What is remembered of replicas, in ascending order; at most as many as a cluster has.
    pub knows: Vec<(MemberId, Known)>,
    /// The epoch that the replica is in; `None` for a stranger, which has heard of none yet.
    pub epoch: Option<u32>,
    /// The members of that epoch, among which quorums are counted.
    pub members: BTreeSet<MemberId>,
}

/// The node's handlers. The mesh calls them on its own tasks: never block.
///
/// For one peer the calls come one at a time and in this order: up, frames, down, up, … Calls for
/// different peers may overlap. Every method may call [`Mesh::send`] and [`Mesh::peers`].
pub trait Inbound: Send + Sync + 'static {
    /// Frames from a peer, in order within a lane. Take them out of `frames`. Frames left in it are
    /// offered again after a millisecond. Until then nothing more is read from that lane, so the
    /// peer is held back and no frame is dropped.
    ///
    /// A frame shares the memory of the packets it came in, up to 64 KiB: copy what you keep for
    /// long.
    fn on_frames(&self, from: MemberId, frames: &mut Vec<Bytes>);

    /// What to tell others in a hello. By default nothing: the replica is a stranger.
    fn introduce(&self) -> Introduction {
        Introduction::default()
    }

    /// Whether `peer` may connect with the state in `shown`. It need not be among those that are
    /// dialled: every replica of this cluster may connect. It has proven its id and agrees on the
    /// terms; `knows` is what it remembers of this replica and of others. Called before each
    /// connection, on a thread that may block; possibly more than once, and for several peers at a
    /// time. By default every peer may connect.
    ///
    /// # Errors
    /// The reason, which the peer is told.
    fn admit(
        &self,
        peer: MemberId,
        shown: Presence,
        knows: &[(MemberId, Known)],
    ) -> Result<(), Refusal> {
        let _ = (peer, shown, knows);
        Ok(())
    }

    /// This replica has refused `peer`, or `peer` has refused it. May be called repeatedly.
    fn on_refused(&self, peer: MemberId, why: &Closed) {
        let _ = (peer, why);
    }

    /// Frames can now pass to and from `peer`, which has described itself in `shown`. Earlier
    /// frames to it may have been lost.
    fn on_peer_up(&self, peer: MemberId, shown: Presence);

    /// The connection to `peer` is lost; the mesh dials it again, if it dials it at all.
    fn on_peer_down(&self, peer: MemberId);

    /// A client has connected and proven its name.
    fn on_client(&self, client: ClientConnection);
}

/// Why a frame was dropped instead of sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Dropped {
    /// There is no connection to that peer or client now.
    #[error("not connected")]
    NotConnected,
    /// The queue is full.
    #[error("the queue is full")]
    Full,
    /// The frame is larger than the other end allows.
    #[error("a frame of {bytes} bytes is above the limit of {limit}")]
    TooLarge {
        /// The frame's length.
        bytes: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// That replica is neither dialled nor connected, or is this one.
    #[error("no such peer")]
    UnknownPeer,
}

/// The mesh could not start; its configuration or this machine is to blame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// The cluster's or client's name is not valid in a certificate.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// TLS refuses the certificate or key.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The host name to listen at resolves to no address of this machine.
    #[error("cannot listen at {address}: {why}. Set `listen` to an address of this machine")]
    Listen {
        /// The host and the port.
        address: Address,
        /// Why.
        why: String,
    },
    /// The list of peers cannot work.
    #[error(transparent)]
    Peers(#[from] BadEntry),
    /// The address cannot be bound.
    #[error("cannot listen on {addr}: {source}{}", remedy(source))]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A time or size that QUIC cannot express, or that contradicts another.
    #[error("limits: {0}")]
    Limits(&'static str),
}

/// The remedy for an address that cannot be bound.
fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrNotAvailable => {
            ". It is none of this machine's addresses: set `listen` to one"
        }
        std::io::ErrorKind::AddrInUse => ". Does another process run at it?",
        _ => "",
    }
}

/// A running mesh. Cheap to clone. When the last clone is dropped, every connection is closed at
/// once (see [`Mesh::shutdown`] for the graceful way). An [`Inbound`] that holds a clone keeps its
/// mesh alive; then only `shutdown` ends it.
#[derive(Clone)]
pub struct Mesh {
    hub: Arc<Hub>,
    _stop: Arc<StopOnDrop>,
}

struct StopOnDrop(Arc<Hub>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Mesh {
    /// Binds the socket, starts to accept, and dials the peers in the background. Must be called
    /// within a tokio runtime, which then runs the mesh's tasks.
    ///
    /// # Errors
    /// [`MeshError`] if a name, certificate, limit or address cannot be used. Unreachable peers are
    /// no error: see [`Mesh::peers`].
    pub async fn start(config: MeshConfig, inbound: impl Inbound) -> Result<Mesh, MeshError> {
        let (own_dates, authorities) = config.credentials.dates();
        let peers = config.peers.clone();
        let hub = Arc::new(Hub::open(config, Arc::new(inbound)).await?);
        hub.spawn(accept::keep_accepting(Arc::clone(&hub)));
        hub.spawn(credentials::keep_warning(hub.id, own_dates, authorities));
        dial::set_peers(&hub, peers);
        Ok(Mesh { _stop: Arc::new(StopOnDrop(Arc::clone(&hub))), hub })
    }

    /// Checks a configuration and binds its address. Call it before anything that a failed start
    /// should not leave changed. [`Mesh::start`] uses the bound socket.
    ///
    /// # Errors
    /// As [`Mesh::start`].
    pub async fn prepare(config: &mut MeshConfig) -> Result<(), MeshError> {
        hub::check(config)?;
        if config.socket.is_none() {
            config.socket = Some(bind::listen(&config.listen, &config.resolver).await?);
        }
        let own = config.socket.as_ref().and_then(|socket| socket.local_addr().ok());
        check_addresses(&config.peers, Some((config.id, own)))?;
        Ok(())
    }

    /// Queues a frame for a peer. Never blocks; callable from any thread.
    ///
    /// # Errors
    /// [`Dropped`], which is also counted, if the peer is not connected, the lane's queue is full,
    /// or the frame is larger than `limits.peer_frame_bytes`.
    pub fn send(&self, to: MemberId, lane: Lane, frame: Bytes) -> Result<(), Dropped> {
        self.hub.links.get(to).ok_or(Dropped::UnknownPeer)?.send(lane, frame)
    }

    /// The version in which a peer's frames are to be encoded: the one that was agreed on for its
    /// connection. `None` if it has never been connected.
    pub fn frames(&self, to: MemberId) -> Option<u8> {
        self.hub.links.get(to).map(|link| link.frames()).filter(|version| *version > 0)
    }

    /// The address where this mesh listens, with the port that the system chose if none was given.
    pub fn local_addr(&self) -> SocketAddr {
        self.hub.local_addr
    }

    /// The status of every peer, and of every guest: a replica of this cluster that is not dialled
    /// and has connected by itself. In order of their numbers.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.hub.links.all().iter().map(|link| link.status()).collect()
    }

    /// What was carried to and from all of them, including those that are gone.
    pub fn traffic(&self) -> Traffic {
        self.hub.links.traffic()
    }

    /// The number of connected clients.
    pub fn clients(&self) -> usize {
        self.hub.places.count()
    }

    /// Dials these replicas from now on, and no others. An entry for this replica is not dialled.
    /// Connections stay: that of a replica that is dialled at another address from now on, and that
    /// of one that is not dialled any longer, which is a guest as long as it lasts.
    ///
    /// Call it within a tokio runtime, as [`Mesh::start`].
    pub fn set_peers(&self, peers: BTreeMap<MemberId, Address>) {
        dial::set_peers(&self.hub, peers);
    }

    /// Closes the connection to `peer`, if there is one, with this reason. It is dialled again if
    /// it is a peer that is dialled at all.
    pub fn disconnect(&self, peer: MemberId, why: &Refusal) {
        if let Some(link) = self.hub.links.get(peer) {
            link.refuse(why);
        }
    }

    /// Accepts nothing more, sends queued frames (for at most a second) and closes every connection
    /// with a reason. The port is free within a second after this returns.
    pub async fn shutdown(&self) {
        self.hub.shutdown().await;
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh")
            .field("id", &self.hub.id)
            .field("local_addr", &self.hub.local_addr)
            .finish_non_exhaustive()
    }
}
