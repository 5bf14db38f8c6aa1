//! What a mesh is told at its start: who it is, whom to reach, and every bound it keeps.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;

use super::credentials::Credentials;
use super::resolve::Resolver;
use super::terms::Terms;
use super::wan::Wan;
use crate::types::{Address, Presence, ReplicaId};

/// Everything [`Mesh::start`](super::Mesh::start) needs to know.
#[derive(Debug)]
pub struct MeshConfig {
    /// The cluster's name: lower-case DNS labels. Part of every certificate and every hello.
    pub cluster: String,
    /// Which replica of the cluster this is.
    pub id: ReplicaId,
    /// What this replica says of itself to its peers. Its life is another at every start; its
    /// directory is 0 if it keeps its records in memory. What becomes of it is up to the peers'
    /// [`Inbound::admit`](super::Inbound::admit).
    pub presence: Presence,
    /// The backup that the cluster was restored from; 0, the default, if it began with nothing.
    /// Peers that began with anything else are refused.
    pub origin: u64,
    /// What all replicas of the cluster have to agree on: those that do not refuse each other. The
    /// members are filled in from `peers`.
    pub terms: Terms,
    /// Where to listen, for peers and clients alike. Port 0 lets the system choose; a name is
    /// looked up at the start.
    pub listen: Address,
    /// A bound socket to use instead of binding `listen`, for who must know the port beforehand.
    pub socket: Option<UdpSocket>,
    /// The other replicas and where each is reached. This replica's own entry is not dialled.
    pub peers: BTreeMap<ReplicaId, Address>,
    /// How host names become addresses, at each dial anew.
    pub resolver: Resolver,
    /// This replica's certificate and key, and the authorities it trusts.
    pub credentials: Credentials,
    /// Bounds on memory, time and the number of strangers.
    pub limits: Limits,
    /// How sending adapts to the network.
    pub congestion: Congestion,
    /// An emulated wide area between this replica and the others.
    pub wan: Option<Wan>,
}

impl MeshConfig {
    /// A configuration with no peers, the default terms and limits, and a real network.
    pub fn new(
        cluster: impl Into<String>,
        id: ReplicaId,
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
            listen: listen.into(),
            socket: None,
            peers: BTreeMap::new(),
            resolver: Resolver::default(),
            credentials,
            limits: Limits::default(),
            congestion: Congestion::default(),
            wan: None,
        }
    }
}

/// The bounds on what peers and clients may take, whatever they do.
///
/// To be filled from its default: `Limits { max_clients: 50, ..Limits::default() }`. That is why it
/// is not `#[non_exhaustive]`; a release may add a field, and gives it a default.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest frame a peer may send, in bytes.
    pub peer_frame_bytes: usize,
    /// The largest frame a client may send or be sent, in bytes.
    pub client_frame_bytes: usize,
    /// What may wait for one peer on one lane, in bytes; frames beyond it are dropped.
    pub peer_queue_bytes: usize,
    /// Answers that may wait for one client connection, in bytes. From half of it on no more of its
    /// requests are read; an answer that finds no room is replaced by a word to ask again.
    pub client_queue_bytes: usize,
    /// The same for all connections of one client certificate together.
    pub certificate_queue_bytes: usize,
    /// Frames that have come in part, over all connections of one client certificate, in bytes; the
    /// next long one is read when there is room again.
    pub certificate_frame_bytes: usize,
    /// What one lane may have under way to a peer, in bytes: bandwidth times round trip.
    pub stream_window_bytes: u32,
    /// What one client may have sent that was not read yet, in bytes.
    pub client_window_bytes: u32,
    /// Client connections at a time.
    pub max_clients: usize,
    /// How many of them may have the same certificate.
    pub max_clients_per_certificate: usize,
    /// Handshakes of strangers under way at a time. One address can have three quarters of them
    /// while nobody else wants in; when places are short, whoever holds most makes room.
    pub max_handshakes: usize,
    /// A client that reads no answer for this long while some wait for it, or sends nothing more of
    /// a request that it has begun, is disconnected.
    pub client_stall: Duration,
    /// A client that sends no request for this long is disconnected.
    pub client_idle: Duration,
    /// How long a handshake may take. A replica that is dialled gives half of it to TLS, and half
    /// to the hello.
    pub handshake_timeout: Duration,
    /// A connection that hears nothing for this long is dead.
    pub idle_timeout: Duration,
    /// A quiet connection is probed this often; well below `idle_timeout`.
    pub keep_alive: Duration,
    /// The longest pause between two attempts to reach a peer.
    pub max_backoff: Duration,
    /// The kernel's buffers for the socket, in bytes; the kernel may give less.
    pub socket_buffer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            peer_frame_bytes: 16 << 20,
            // The longest command or answer, and what goes before it.
            client_frame_bytes: (4 << 20) + (4 << 10),
            peer_queue_bytes: 32 << 20,
            client_queue_bytes: 8 << 20,
            certificate_queue_bytes: 32 << 20,
            certificate_frame_bytes: 16 << 20,
            // 8 MiB under way: 200 MB/s at 40 ms. QUIC's usual 1.25 MB gives 31 MB/s there.
            stream_window_bytes: 8 << 20,
            client_window_bytes: 1 << 20,
            max_clients: 1024,
            // Sixteen certificates are needed to take all places.
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
    /// RFC 9438: the safe choice, and slow on lossy long paths.
    #[default]
    Cubic,
    /// Far faster under random loss; its implementation is marked experimental.
    Bbr,
}
