//! The client's side of a connection: an endpoint, and a channel of frames to one replica.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, Endpoint};
use tokio::time::{sleep, timeout};

use super::addresses::Reach;
use super::config::{Congestion, ConnectionLimits};
use super::credentials::{Credentials, Role};
use super::dial::first_to_answer;
use super::hello::{self, ClientHello};
use super::names::{check_client, check_cluster, client_name, replica_name};
use super::pipe::{FrameSender, Pipe};
use super::queue::Outbox;
use super::refusal::{Closed, Refusal};
use super::resolve::Resolver;
use super::wan::Wan;
use super::{Dropped, MeshError, bind, tls};
use crate::types::Versions;
use crate::types::{Address, MemberId};

/// How long [`ClientEndpoint::shutdown`] waits until the replicas have been told.
const FAREWELL: Duration = Duration::from_millis(500);
/// How often to check whether they have been told.
const LOOK: Duration = Duration::from_millis(1);

/// The settings of a [`ClientEndpoint`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The cluster's name.
    pub cluster: String,
    /// The client's name in its certificate.
    pub name: String,
    /// The client's certificate and key, and the authorities it trusts.
    pub credentials: Credentials,
    /// The local address. It reaches only replicas of its own family, or of both if it is `[::]`.
    /// By default any address of the family it dials.
    pub local: Option<SocketAddr>,
    /// How to resolve host names; each dial resolves them again.
    pub resolver: Resolver,
    /// Bounds; only the ones for clients and the times apply.
    pub limits: ConnectionLimits,
    /// The congestion control of its connections.
    pub congestion: Congestion,
    /// Emulates a wide area network between this client and the replicas.
    pub wan: Option<Wan>,
    /// The versions of the frames that it understands.
    #[doc(hidden)]
    pub frames: Versions,
}

impl ClientConfig {
    /// A configuration with any local address, default limits and a real network.
    pub fn new(
        cluster: impl Into<String>,
        name: impl Into<String>,
        credentials: Credentials,
    ) -> ClientConfig {
        ClientConfig {
            cluster: cluster.into(),
            name: name.into(),
            credentials,
            local: None,
            resolver: Resolver::default(),
            limits: ConnectionLimits::default(),
            congestion: Congestion::default(),
            wan: None,
            frames: Versions::only(hello::UNSAID),
        }
    }
}

/// A client's sockets, which connect to any number of replicas. Cheap to clone.
#[derive(Clone)]
pub struct ClientEndpoint {
    sockets: Arc<Sockets>,
    resolver: Resolver,
    dialling: quinn::ClientConfig,
    /// Established connections; some may have closed since.
    established: Arc<Mutex<Vec<Connection>>>,
    cluster: Arc<str>,
    name: Arc<str>,
    limits: Arc<ConnectionLimits>,
    frames: Versions,
}

impl ClientEndpoint {
    /// Binds the socket, if `local` is set. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`MeshError`] if a name, certificate or address can't be used.
    pub fn bind(config: ClientConfig) -> Result<ClientEndpoint, MeshError> {
        check_cluster(&config.cluster)?;
        check_client(&config.name)?;
        let (limits, congestion) = (config.limits, config.congestion);
        let name = client_name(&config.cluster, &config.name);
        config.credentials.check_own(&name, Role::Client)?;
        let dialling =
            tls::client_config(&config.credentials, &limits, congestion, tls::CLIENT_ALPN)?;
        let buffers = limits.socket_buffer_bytes;
        let sockets =
            Sockets { local: config.local, wan: config.wan, buffers, bound: Mutex::default() };
        if let Some(local) = config.local {
            sockets.from(local)?;
        }
        Ok(ClientEndpoint {
            sockets: Arc::new(sockets),
            resolver: config.resolver,
            dialling,
            established: Arc::default(),
            cluster: config.cluster.into(),
            name: config.name.into(),
            limits: Arc::new(limits),
            frames: config.frames,
        })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Connects to `replica` at `address`. Completes when the replica has proven its name and
    /// accepted this client's. A host name is resolved, and each of its addresses is tried.
    ///
    /// # Errors
    /// [`Closed`]: no answer within `limits.handshake_timeout`, a failure of TLS, or the replica's
    /// refusal.
    pub async fn connect(
        &self,
        address: impl Into<Address>,
        replica: MemberId,
    ) -> Result<ClientChannel, Closed> {
        let address = address.into();
        let name = replica_name(&self.cluster, replica);
        let attempt = async {
            let addresses = self.resolver.resolve(&address, self.sockets.reach()).await?;
            let connection = first_to_answer(&addresses, |addr| {
                let endpoint = self.sockets.towards(addr).map_err(|e| Closed::Dial(e.to_string()));
                let dialling = self.dialling.clone();
                endpoint?
                    .connect_with(dialling, addr, &name)
                    .map_err(|e| Closed::Dial(e.to_string()))
            });
            self.greet(connection.await?, replica).await
        };
        timeout(self.limits.handshake_timeout, attempt).await.unwrap_or(Err(Closed::Timeout))
    }

    async fn greet(
        &self,
        connection: Connection,
        replica: MemberId,
    ) -> Result<ClientChannel, Closed> {
        let (mut tx, mut rx) = connection.open_bi().await?;
        let ours = ClientHello {
            cluster: self.cluster.to_string(),
            to: replica,
            name: self.name.to_string(),
            frames: self.frames,
        };
        hello::send(&mut tx, &ours.encode()).await?;
        let theirs = ClientHello::decode(&hello::receive(&mut rx).await?)?;
        if theirs != (ClientHello { frames: theirs.frames, ..ours }) {
            Refusal::BadHello.close(&connection);
            return Err(Refusal::BadHello.into());
        }
        let Some(version) = self.frames.agreed(theirs.frames) else {
            let refusal = Refusal::OtherClient { ours: theirs.frames, theirs: self.frames };
            refusal.close(&connection);
            return Err(refusal.into());
        };
        self.keep(&connection);
        let max_frame = self.limits.client_frame_bytes;
        let outbox = Outbox::new(self.limits.client_queue_bytes, max_frame);
        Ok(ClientChannel {
            pipe: Pipe::of_client(connection, version, (tx, rx), outbox, max_frame),
        })
    }

    /// Closes every channel at once, and waits at most half a second until all connected replicas
    /// have been told.
    pub async fn shutdown(&self) {
        let why = Refusal::Done;
        let to_tell = self.to_tell();
        for endpoint in self.sockets.all() {
            endpoint.close(quinn::VarInt::from_u32(why.code()), why.to_string().as_bytes());
        }
        // The next packet that a closed connection sends carries the reason.
        let all_told = async {
            while to_tell.iter().any(|(connection, before)| sent(connection) == *before) {
                sleep(LOOK).await;
            }
        };
        let _ = timeout(FAREWELL, all_told).await;
    }

    /// The open connections, with the number of packets that each has sent. It leaves out
    /// unfinished dials, because a dead replica would take all the time.
    pub(super) fn to_tell(&self) -> Vec<(Connection, u64)> {
        let established = self.lock();
        let open = established.iter().filter(|it| it.close_reason().is_none());
        open.map(|it| (it.clone(), sent(it))).collect()
    }

    /// Remembers a connection for the shutdown.
    fn keep(&self, connection: &Connection) {
        let mut established = self.lock();
        established.retain(|it| it.close_reason().is_none());
        established.push(connection.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        // The code under this lock cannot panic.
        self.established.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of packets that a connection has sent.
fn sent(connection: &Connection) -> u64 {
    connection.stats().udp_tx.datagrams
}

/// One client's sockets: one at the given address, or one for each family, bound at its first use.
struct Sockets {
    local: Option<SocketAddr>,
    wan: Option<Wan>,
    buffers: usize,
    /// By the address to which they were to be bound.
    bound: Mutex<Vec<(SocketAddr, Endpoint)>>,
}

impl Sockets {
    fn reach(&self) -> Reach {
        self.local.map_or(Reach::Both, Reach::of)
    }

    /// A socket that can reach `addr`.
    fn towards(&self, addr: SocketAddr) -> Result<Endpoint, MeshError> {
        let any = match addr {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        self.from(self.local.unwrap_or(any))
    }

    fn from(&self, local: SocketAddr) -> Result<Endpoint, MeshError> {
        // The code under this lock cannot panic.
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, endpoint)) = bound.iter().find(|(addr, _)| *addr == local) {
            return Ok(endpoint.clone());
        }
        let endpoint = bind::endpoint(bind::socket(local)?, None, self.wan.as_ref(), self.buffers)
            .map_err(|source| MeshError::Bind { addr: local, source })?;
        bound.push((local, endpoint.clone()));
        Ok(endpoint)
    }

    fn all(&self) -> Vec<Endpoint> {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        bound.iter().map(|(_, endpoint)| endpoint.clone()).collect()
    }
}

impl std::fmt::Debug for ClientEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientEndpoint").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Frames to and from one replica. Dropping it sends queued frames (for at most a second) and
/// closes the connection.
pub struct ClientChannel {
    pipe: Pipe,
}

impl ClientChannel {
    /// Queues a frame; never blocks.
    ///
    /// # Errors
    /// As [`FrameSender::send`].
    pub fn send(&self, frame: Bytes) -> Result<(), Dropped> {
        self.pipe.sender().send(frame)
    }

    /// The sending half, which may outlive the channel.
    pub fn sender(&self) -> FrameSender {
        self.pipe.sender().clone()
    }

    /// Waits for frames and appends all that have arrived to `frames`, at least one. It is cancel
    /// safe.
    ///
    /// # Errors
    /// [`Closed`] when the connection has ended.
    pub async fn recv(&mut self, frames: &mut Vec<Bytes>) -> Result<(), Closed> {
        self.pipe.recv(frames).await
    }

    /// QUIC's estimate of the round trip.
    pub fn rtt(&self) -> Duration {
        self.pipe.sender().rtt()
    }

    /// Why the connection is closed; `None` while it is open.
    pub fn closed(&self) -> Option<Closed> {
        self.pipe.sender().closed()
    }

    /// The replica's address.
    pub fn remote_addr(&self) -> SocketAddr {
        self.pipe.sender().connection().remote_address()
    }
}

impl std::fmt::Debug for ClientChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ClientChannel").field(&self.remote_addr()).finish()
    }
}
