//! The connecting half for clients: an endpoint, and a channel of frames to one replica.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, Endpoint};
use tokio::time::{sleep, timeout};

use super::addresses::Reach;
use super::config::{Congestion, Limits};
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
use crate::types::{Address, ReplicaId};

/// How long [`ClientEndpoint::shutdown`] may take to tell the replicas.
const FAREWELL: Duration = Duration::from_millis(500);
/// Between two looks whether they have been told.
const LOOK: Duration = Duration::from_millis(1);

/// What a [`ClientEndpoint`] needs to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The cluster's name.
    pub cluster: String,
    /// The client's name, as in its certificate.
    pub name: String,
    /// The client's certificate and key, and the authorities it trusts.
    pub credentials: Credentials,
    /// The local address, which reaches only replicas of its own family, or both if it is `[::]`.
    /// By default any of the family of whom it dials.
    pub local: Option<SocketAddr>,
    /// How host names become addresses, at each dial anew.
    pub resolver: Resolver,
    /// Bounds; those named after clients and the times apply.
    pub limits: Limits,
    /// How sending adapts to the network.
    pub congestion: Congestion,
    /// An emulated wide area between this client and the replicas.
    pub wan: Option<Wan>,
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
            limits: Limits::default(),
            congestion: Congestion::default(),
            wan: None,
        }
    }
}

/// A client's sockets, from which it connects to any number of replicas. Cheap to clone.
#[derive(Clone)]
pub struct ClientEndpoint {
    sockets: Arc<Sockets>,
    resolver: Resolver,
    dialling: quinn::ClientConfig,
    /// The connections that were established and are open, or were a while ago.
    established: Arc<Mutex<Vec<Connection>>>,
    cluster: Arc<str>,
    name: Arc<str>,
    limits: Arc<Limits>,
}

impl ClientEndpoint {
    /// Binds the socket, if `local` says where. Must be called within a tokio runtime.
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
        })
    }

    /// Connects to `replica` at `address`; done when that replica has proven its name and accepted
    /// this client's. A name is looked up, and each of its addresses is tried.
    ///
    /// # Errors
    /// [`Closed`]: no answer within `limits.handshake_timeout`, TLS failed, or the replica's
    /// refusal in its own words.
    pub async fn connect(
        &self,
        address: impl Into<Address>,
        replica: ReplicaId,
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
        replica: ReplicaId,
    ) -> Result<ClientChannel, Closed> {
        let (mut tx, mut rx) = connection.open_bi().await?;
        let ours = ClientHello {
            cluster: self.cluster.to_string(),
            to: replica,
            name: self.name.to_string(),
        };
        hello::send(&mut tx, &ours.encode()).await?;
        if ClientHello::decode(&hello::receive(&mut rx).await?)? != ours {
            Refusal::BadHello.close(&connection);
            return Err(Refusal::BadHello.into());
        }
        self.keep(&connection);
        let max_frame = self.limits.client_frame_bytes;
        let outbox = Outbox::new(self.limits.client_queue_bytes, max_frame);
        Ok(ClientChannel { pipe: Pipe::of_client(connection, tx, rx, outbox, max_frame) })
    }

    /// Closes every channel at once, and waits until all connected replicas have been told, for
    /// half a second at most.
    pub async fn shutdown(&self) {
        let why = Refusal::Done;
        let to_tell = self.to_tell();
        for endpoint in self.sockets.all() {
            endpoint.close(quinn::VarInt::from_u32(why.code()), why.to_string().as_bytes());
        }
        // What a closed connection still sends is why.
        let all_told = async {
            while to_tell.iter().any(|(connection, before)| sent(connection) == *before) {
                sleep(LOOK).await;
            }
        };
        let _ = timeout(FAREWELL, all_told).await;
    }

    /// The open connections, and how many packets each has sent. Without those that are only
    /// dialled: a dead replica would take all the time there is.
    pub(super) fn to_tell(&self) -> Vec<(Connection, u64)> {
        let established = self.lock();
        let open = established.iter().filter(|it| it.close_reason().is_none());
        open.map(|it| (it.clone(), sent(it))).collect()
    }

    /// Keeps a connection for the farewell.
    fn keep(&self, connection: &Connection) {
        let mut established = self.lock();
        established.retain(|it| it.close_reason().is_none());
        established.push(connection.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Nothing that can panic runs under it.
        self.established.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many packets a connection has sent.
fn sent(connection: &Connection) -> u64 {
    connection.stats().udp_tx.datagrams
}

/// The sockets of one client: at the given address, or one of each family, bound when it is first
/// needed.
struct Sockets {
    local: Option<SocketAddr>,
    wan: Option<Wan>,
    buffers: usize,
    /// By the address they were asked for at.
    bound: Mutex<Vec<(SocketAddr, Endpoint)>>,
}

impl Sockets {
    fn reach(&self) -> Reach {
        self.local.map_or(Reach::Both, Reach::of)
    }

    /// One from which `addr` can be reached.
    fn towards(&self, addr: SocketAddr) -> Result<Endpoint, MeshError> {
        let any = match addr {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        self.from(self.local.unwrap_or(any))
    }

    fn from(&self, local: SocketAddr) -> Result<Endpoint, MeshError> {
        // Nothing that can panic runs under it.
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

/// Frames to and from one replica. Dropping it sends what is queued (for at most a second) and
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

    /// The sending half, for use elsewhere; it may outlive the channel.
    pub fn sender(&self) -> FrameSender {
        self.pipe.sender().clone()
    }

    /// Waits for frames and appends all that have arrived to `frames`, at least one. May be
    /// cancelled without loss.
    ///
    /// # Errors
    /// [`Closed`] when the connection is over.
    pub async fn recv(&mut self, frames: &mut Vec<Bytes>) -> Result<(), Closed> {
        self.pipe.recv(frames).await
    }

    /// QUIC's estimate of the round trip.
    pub fn rtt(&self) -> Duration {
        self.pipe.sender().rtt()
    }

    /// Why the connection is closed, or `None` while it is open.
    pub fn closed(&self) -> Option<Closed> {
        self.pipe.sender().closed()
    }

    /// Where the replica is.
    pub fn remote_addr(&self) -> SocketAddr {
        self.pipe.sender().connection().remote_address()
    }
}

impl std::fmt::Debug for ClientChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ClientChannel").field(&self.remote_addr()).finish()
    }
}
