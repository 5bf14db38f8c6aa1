//! What all tasks of one mesh share, and how they end together. `Mesh::start` starts the tasks.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::{Endpoint, VarInt};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::info;

use super::addresses::{Reach, check_addresses};
use super::config::{ConnectionLimits, MeshConfig};
use super::credentials::Role;
use super::links::Links;
use super::names::{check_cluster, replica_name};
use super::places::Places;
use super::refusal::Refusal;
use super::resolve::Resolver;
use super::tally::Tally;
use super::{Inbound, MeshError, Terms, bind, tls};
use crate::types::Versions;
use crate::types::{Address, MemberId, Presence};

/// How long queued frames may take to be sent at shutdown.
const FLUSH: Duration = Duration::from_secs(1);
/// How long the other ends get to learn that connections close.
const FAREWELL: Duration = Duration::from_millis(500);

pub(super) struct Hub {
    pub(super) cluster: String,
    pub(super) id: MemberId,
    /// What this replica says of itself.
    pub(super) presence: Presence,
    pub(super) origin: u64,
    pub(super) terms: Terms,
    /// The versions of the frames of clients.
    pub(super) client_frames: Versions,
    pub(super) limits: ConnectionLimits,
    pub(super) inbound: Arc<dyn Inbound>,
    pub(super) local_addr: SocketAddr,
    /// What the socket can reach.
    pub(super) reach: Reach,
    pub(super) resolver: Resolver,
    pub(super) dialling: quinn::ClientConfig,
    pub(super) places: Arc<Places>,
    /// Bounds the log lines about refused strangers.
    pub(super) refused: Arc<Tally>,
    /// Bounds the log lines about guests that come and go.
    pub(super) guests: Arc<Tally>,
    /// Bounds the log lines about clients that were cut off.
    pub(super) cut_off: Arc<Tally>,
    pub(super) links: Arc<Links>,
    /// Shutdown has begun.
    closing: AtomicBool,
    /// Both are removed at the end, because they keep the socket open.
    endpoint: Mutex<Option<Endpoint>>,
    tasks: Mutex<Option<JoinSet<()>>>,
}

impl Hub {
    /// Binds the socket, unless it is bound already. Nothing is accepted or dialled yet.
    pub(super) async fn open(
        config: MeshConfig,
        inbound: Arc<dyn Inbound>,
    ) -> Result<Hub, MeshError> {
        check(&config)?;
        let MeshConfig { cluster, id, presence, listen, socket, peers, resolver, .. } = config;
        let MeshConfig {
            credentials, limits, congestion, wan, origin, terms, client_frames, ..
        } = config;
        // Then the configured peers are checked. Others that the cluster has agreed on since must
        // not keep a replica from starting.
        let is_prepared = socket.is_some();
        let server = tls::server_config(&credentials, &limits, congestion)?;
        let dialling = tls::client_config(&credentials, &limits, congestion, tls::PEER_ALPN)?;
        let socket = match socket {
            Some(socket) => socket,
            None => bind::listen(&listen, &resolver).await?,
        };
        let unusable = |error: std::io::Error| MeshError::Listen {
            address: listen.clone(),
            why: error.to_string(),
        };
        let local_addr = socket.local_addr().map_err(unusable)?;
        if !is_prepared {
            check_addresses(&peers, Some((id, Some(local_addr))))?;
        }
        let others: Vec<Address> =
            peers.iter().filter(|(peer, _)| **peer != id).map(|(_, addr)| addr.clone()).collect();
        bind::warn_of_loopback(id, &listen, local_addr, &others);
        let buffers = limits.socket_buffer_bytes;
        let endpoint =
            bind::endpoint(socket, Some(server), wan.as_ref(), buffers).map_err(unusable)?;
        let hub = Hub {
            places: Arc::new(Places::new(&limits)),
            links: Arc::new(Links::new(&limits)),
            refused: Arc::default(),
            guests: Arc::default(),
            cut_off: Arc::default(),
            id,
            presence,
            origin,
            terms,
            client_frames,
            limits,
            cluster,
            inbound,
            local_addr,
            reach: Reach::of(local_addr),
            resolver,
            dialling,
            closing: AtomicBool::new(false),
            endpoint: Mutex::new(Some(endpoint)),
            tasks: Mutex::new(Some(JoinSet::new())),
        };
        info!(us = %hub.id, addr = %local_addr, cluster = %hub.cluster, "listening");
        Ok(hub)
    }

    /// The endpoint to dial from, until shutdown begins.
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        if self.closing.load(Ordering::Acquire) { None } else { lock(&self.endpoint).clone() }
    }

    /// Starts a task that ends with the mesh at the latest.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = &mut *lock(&self.tasks) {
            // Remove ended tasks, or the set would grow without bound.
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }

    /// Closes everything at once.
    pub(super) fn stop(&self) {
        self.closing.store(true, Ordering::Release);
        // A guest's link goes with its task.
        let links = self.links.all();
        let tasks = lock(&self.tasks).take();
        if let Some(mut tasks) = tasks {
            tasks.abort_all();
        }
        let endpoint = lock(&self.endpoint).take();
        if let Some(endpoint) = endpoint {
            close(&endpoint);
            links.iter().for_each(|link| link.close(&*self.inbound));
        }
    }

    /// Sends queued frames, then closes everything.
    pub(super) async fn shutdown(&self) {
        let Some(endpoint) = self.endpoint() else { return };
        // From here on no new connection is accepted, and an ended one is not dialled again.
        self.closing.store(true, Ordering::Release);
        endpoint.set_server_config(None);
        let links = self.links.all();
        links.iter().for_each(|link| link.finish());
        self.places.finish();
        let flushed = async {
            for link in &links {
                let _ = link.up().wait_for(|up| !up).await;
            }
            self.places.wait_none().await;
        };
        let _ = timeout(FLUSH, flushed).await;
        close(&endpoint);
        let _ = timeout(FAREWELL, endpoint.wait_idle()).await;
        drop(endpoint);
        let tasks = lock(&self.tasks).take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
        links.iter().for_each(|link| link.close(&*self.inbound));
        drop(lock(&self.endpoint).take());
        // QUIC's own task releases the socket when it next runs.
        tokio::task::yield_now().await;
    }
}

fn close(endpoint: &Endpoint) {
    let why = Refusal::ShuttingDown;
    endpoint.close(VarInt::from_u32(why.code()), why.to_string().as_bytes());
}

/// Whether a mesh can start with this configuration, as far as can be checked beforehand.
pub(super) fn check(config: &MeshConfig) -> Result<(), MeshError> {
    check_cluster(&config.cluster)?;
    check_limits(&config.limits)?;
    Ok(config.credentials.check_own(&replica_name(&config.cluster, config.id), Role::Replica)?)
}

fn check_limits(limits: &ConnectionLimits) -> Result<(), MeshError> {
    let largest = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
    if limits.peer_frame_bytes > largest || limits.client_frame_bytes > largest {
        return Err(MeshError::Limits("frames have lengths of 32 bits"));
    }
    if limits.keep_alive >= limits.idle_timeout {
        return Err(MeshError::Limits("`keep_alive` must be below `idle_timeout`"));
    }
    if quinn::IdleTimeout::try_from(limits.idle_timeout).is_err() {
        return Err(MeshError::Limits("`idle_timeout` is too long"));
    }
    if limits.stream_window_bytes == 0 || limits.client_window_bytes == 0 {
        return Err(MeshError::Limits("windows must not be 0"));
    }
    if limits.max_handshakes == 0 {
        return Err(MeshError::Limits("`max_handshakes` must not be 0"));
    }
    if limits.max_clients_per_certificate == 0 {
        return Err(MeshError::Limits("`max_clients_per_certificate` must not be 0"));
    }
    if limits.client_stall.is_zero() || limits.client_idle.is_zero() {
        return Err(MeshError::Limits("`client_stall` and `client_idle` must not be 0"));
    }
    if limits.max_clients == 0 {
        return Err(MeshError::Limits("`max_clients` must not be 0"));
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The code under these locks cannot panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
