//! The connecting half for clients: an endpoint, and a channel of frames to one replica.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, Endpoint};
use tokio::time::timeout;

use super::config::{Congestion, Limits};
use super::credentials::Credentials;
use super::hello::{self, ClientHello};
use super::names::{check_client, check_cluster, client_name, replica_name};
use super::pipe::{FrameSender, Pipe};
use super::queue::Outbox;
use super::refusal::{Closed, Refusal};
use super::wan::Wan;
use super::{Dropped, MeshError, bind, tls};
use crate::types::ReplicaId;

/// How long [`ClientEndpoint::shutdown`] waits for the replicas to hear of it.
const FAREWELL: Duration = Duration::from_millis(500);

/// What a [`ClientEndpoint`] needs to know.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The cluster's name.
    pub cluster: String,
    /// The client's name, as in its certificate.
    pub name: String,
    /// The client's certificate and key, and the authorities it trusts.
    pub credentials: Credentials,
    /// The local address. An IPv4 address reaches only IPv4 replicas, an IPv6 one only IPv6.
    pub local: SocketAddr,
    /// Bounds; those named after clients and the times apply.
    pub limits: Limits,
    /// How sending adapts to the network.
    pub congestion: Congestion,
    /// An emulated wide area between this client and the replicas.
    pub wan: Option<Wan>,
}

impl ClientConfig {
    /// A configuration with any local IPv4 address, default limits and a real network.
    pub fn new(
        cluster: impl Into<String>,
        name: impl Into<String>,
        credentials: Credentials,
    ) -> ClientConfig {
        ClientConfig {
            cluster: cluster.into(),
            name: name.into(),
            credentials,
            local: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            limits: Limits::default(),
            congestion: Congestion::default(),
            wan: None,
        }
    }
}

/// A client's socket, from which it connects to any number of replicas. Cheap to clone.
#[derive(Clone)]
pub struct ClientEndpoint {
    endpoint: Endpoint,
    dialling: quinn::ClientConfig,
    cluster: Arc<str>,
    name: Arc<str>,
    limits: Arc<Limits>,
}

impl ClientEndpoint {
    /// Binds the socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`MeshError`] if a name, certificate or address can't be used.
    pub fn bind(config: ClientConfig) -> Result<ClientEndpoint, MeshError> {
        check_cluster(&config.cluster)?;
        check_client(&config.name)?;
        let (limits, congestion) = (config.limits, config.congestion);
        config.credentials.check_own(&client_name(&config.cluster, &config.name), false)?;
        let dialling =
            tls::client_config(&config.credentials, &limits, congestion, tls::CLIENT_ALPN)?;
        let socket = bind::socket(config.local)?;
        let buffers = limits.socket_buffer_bytes;
        let endpoint = bind::endpoint(socket, None, config.wan.as_ref(), buffers)
            .map_err(|source| MeshError::Bind { addr: config.local, source })?;
        Ok(ClientEndpoint {
            endpoint,
            dialling,
            cluster: config.cluster.into(),
            name: config.name.into(),
            limits: Arc::new(limits),
        })
    }

    /// Connects to `replica` at `addr`; done when that replica has proven its name and accepted
    /// this client's.
    ///
    /// # Errors
    /// [`Closed`]: no answer within `limits.handshake_timeout`, TLS failed, or the replica's
    /// refusal in its own words.
    pub async fn connect(
        &self,
        addr: SocketAddr,
        replica: ReplicaId,
    ) -> Result<ClientChannel, Closed> {
        let connecting = self
            .endpoint
            .connect_with(self.dialling.clone(), addr, &replica_name(&self.cluster, replica))
            .map_err(|e| Closed::Dial(e.to_string()))?;
        let attempt = async { self.greet(connecting.await?, replica).await };
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
        let max_frame = self.limits.client_frame_bytes;
        let outbox = Arc::new(Outbox::new(self.limits.client_queue_bytes, max_frame));
        Ok(ClientChannel { pipe: Pipe::start(connection, tx, rx, outbox, max_frame, ()) })
    }

    /// Closes every channel at once, and waits until the replicas have heard or half a second is
    /// over.
    pub async fn shutdown(&self) {
        let why = Refusal::Done;
        self.endpoint.close(quinn::VarInt::from_u32(why.code()), why.to_string().as_bytes());
        let _ = timeout(FAREWELL, self.endpoint.wait_idle()).await;
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
