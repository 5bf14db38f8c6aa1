//! A mesh's configuration: its own identity, its peers, and all its bounds.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;

use super::credentials::Credentials;
use super::hello::UNSAID;
use super::resolve::Resolver;
use super::terms::Terms;
use super::wan::Wan;
use crate::types::Versions;
use crate::types::{Address, MemberId, Presence};

/// The configuration of [`Mesh::start`](super::Mesh::start).
#[derive(Debug)]
pub struct MeshConfig {
    /// The cluster's name: lower-case DNS labels. Part of every certificate and every hello.
    pub cluster: String,
    /// This replica's id.
    pub id: MemberId,
    /// What this replica says of itself to its peers. Its life changes at every start. Its
    /// directory is 0 if it keeps its records in memory. Each peer decides in
    /// [`Inbound::admit`](super::Inbound::admit) whether to accept it.
    pub presence: Presence,
    /// The backup that the cluster was restored from; 0, the default, if it was not restored. Peers
    /// with another origin are refused.
    pub origin: u64,
    /// What all replicas of the cluster must agree on; replicas with different terms refuse each
    /// other.
    pub terms: Terms,
    /// The versions of the frames of clients.
    pub client_frames: Versions,
    /// Where to listen for peers and clients. With port 0 the system chooses a port. A host name is
    /// resolved at the start.
    pub listen: Address,
    /// A bound socket to use instead of `listen`, for callers that must know the port before the
    /// start.
    pub socket: Option<UdpSocket>,
    /// The other replicas and their addresses. An entry for this replica is not dialled.
    pub peers: BTreeMap<MemberId, Address>,
    /// How to resolve host names; each dial resolves them again.
    pub resolver: Resolver,
    /// This replica's certificate and key, and the authorities it trusts.
    pub credentials: Credentials,
    /// Bounds on memory, time and the number of strangers.
    pub limits: ConnectionLimits,
    /// The congestion control of its connections.
    pub congestion: Congestion,
    /// Emulates a wide area network between this replica and the others.
    pub wan: Option<Wan>,
}

impl MeshConfig {
    /// A configuration with no peers, the default terms and limits, and a real network.
    pub fn new(
        cluster: impl Into<String>,
        id: MemberId,
        life: u64,
        listen: impl Into<Address>,
        credentials: Credentials,
    ) -> MeshConfig {
        MeshConfig {
            cluster: cluster.into(),
            id,
            presence: Presence { life, ..Presence::default() },
            origin: 0,
            terms: Terms::default(),
            client_frames: Versions::only(UNSAID),
            listen: listen.into(),
            socket: None,
            peers: BTreeMap::new(),
            resolver: Resolver::default(),
            credentials,
            limits: ConnectionLimits::default(),
            congestion: Congestion::default(),
            wan: None,
        }
    }
}

/// The bounds on what peers and clients may use, whatever they do.
///
/// Fill it in from its default: `ConnectionLimits { max_clients: 50, ..Default::default() }`. It is
/// not `#[non_exhaustive]` for that reason. A release may add a field, and gives it a default.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// The largest frame a peer may send, in bytes.
    pub peer_frame_bytes: usize,
    /// The largest frame to or from a client, in bytes.
    pub client_frame_bytes: usize,
    /// Bytes that may wait for one peer on one lane; further frames are dropped.
    pub peer_queue_bytes: usize,
    /// Bytes of answers that may wait for one client connection. From half of this on, its requests
    /// are not read. An answer that finds no room is replaced by a short one that tells the client
    /// to ask again.
    pub client_queue_bytes: usize,
    /// The same for all connections of one client certificate together.
    pub certificate_queue_bytes: usize,
    /// Bytes of incomplete frames, over all connections of one client certificate. The next long
    /// one is read when there is room again.
    pub certificate_frame_bytes: usize,
    /// Bytes that one lane may have under way to a peer: bandwidth times round trip.
    pub stream_window_bytes: u32,
    /// Bytes that one client may have sent and that are not read yet.
    pub client_window_bytes: u32,
    /// Client connections at a time.
    pub max_clients: usize,
    /// Client connections at a time with the same certificate.
    pub max_clients_per_certificate: usize,
    /// Handshakes with strangers at a time. One address can have three quarters of them while no
    /// other address needs any. When places are short, the address with most of them gives one up.
    pub max_handshakes: usize,
    /// A client is disconnected if it reads nothing for this long while answers wait, or if it
    /// sends nothing more of a request for this long.
    pub client_stall: Duration,
    /// A client that sends no request for this long is disconnected.
    pub client_idle: Duration,
    /// How long a handshake may take. A dialled replica allows half of it for TLS and half for the
    /// hello.
    pub handshake_timeout: Duration,
    /// A connection that receives nothing for this long is dead.
    pub idle_timeout: Duration,
    /// How often a quiet connection is probed; well below `idle_timeout`.
    pub keep_alive: Duration,
    /// The longest pause between two dials of a peer.
    pub max_backoff: Duration,
    /// The size of the kernel's socket buffers in bytes; the kernel may give less.
    pub socket_buffer_bytes: usize,
}

impl Default for ConnectionLimits {
    fn default() -> ConnectionLimits {
        ConnectionLimits {
            peer_frame_bytes: 16 << 20,
            // The longest command or answer, with its header.
            client_frame_bytes: (4 << 20) + (4 << 10),
            peer_queue_bytes: 32 << 20,
            client_queue_bytes: 8 << 20,
            certificate_queue_bytes: 32 << 20,
            certificate_frame_bytes: 16 << 20,
            // 8 MiB under way: 200 MB/s at 40 ms. QUIC's usual 1.25 MB gives 31 MB/s there.
            stream_window_bytes: 8 << 20,
            client_window_bytes: 1 << 20,
            max_clients: 1024,
            // It takes sixteen certificates to use all places.
            max_clients_per_certificate: 64,
            max_handshakes: 128,
            client_idle: Duration::from_secs(600),
            client_stall: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(3),
            keep_alive: Duration::from_millis(500),
            max_backoff: Duration::from_secs(1),
            socket_buffer_bytes: 4 << 20,
        }
    }
}

/// The congestion controller of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Congestion {
    /// RFC 9438: the safe choice, but slow on long paths with loss.
    #[default]
    Cubic,
    /// Far faster under random loss, but quinn marks it as experimental.
    Bbr,
}
