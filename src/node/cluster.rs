//! A whole cluster in one process: real QUIC on loopback, temporary certificates, any state
//! machine. For tests, examples and benchmarks.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::StartError;
use super::limits::Limits;
use super::shared::Lifecycle;
use super::{Replica, ReplicaBuilder};
use crate::machine::StateMachine;
use crate::mesh::{Authority, Credentials, CredentialsError, WanControl};
use crate::storage::Durability;
use crate::types::{Deps, MemberId, Timing};

/// How long the replicas may take to connect.
const CONNECT: Duration = Duration::from_secs(20);
/// How long they may take to converge.
const SETTLE: Duration = Duration::from_secs(20);
/// How often to check whether they have converged.
const LOOK: Duration = Duration::from_millis(5);

/// Replicas 1, 2, … n of a cluster, connected with each other.
///
/// A replica can be crashed, and started again if it has a data directory. Dropping the cluster
/// shuts down the replicas that still run.
#[derive(Debug)]
pub struct LocalCluster<S: StateMachine> {
    replicas: Vec<Replica<S>>,
    authority: Authority,
    peers: Vec<(u32, SocketAddr)>,
    plan: LocalClusterBuilder<S>,
}

/// Configures a local cluster and starts it.
#[must_use = "nothing runs before `start`"]
pub struct LocalClusterBuilder<S: StateMachine> {
    replicas: usize,
    machine: Box<dyn Fn(MemberId) -> S + Send + Sync>,
    configure: Box<dyn Fn(ReplicaBuilder<S>) -> ReplicaBuilder<S> + Send + Sync>,
    wan: Option<WanControl>,
    data: Option<(PathBuf, Durability)>,
}

/// The replicas did not converge in time. The text says how far each has executed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the replicas have not executed the same: {0}")]
pub struct NotConverged(String);

impl<S: StateMachine + Default> LocalCluster<S> {
    /// Starts `n` replicas with default settings, each from `S::default()`.
    ///
    /// # Errors
    /// As [`LocalClusterBuilder::start`].
    pub async fn start(n: usize) -> Result<LocalCluster<S>, StartError> {
        LocalCluster::builder(n).start().await
    }

    /// `n` replicas, each starting from `S::default()`. Configure and start them.
    pub fn builder(n: usize) -> LocalClusterBuilder<S> {
        LocalCluster::of(n, |_| S::default())
    }
}

impl<S: StateMachine> LocalCluster<S> {
    /// The cluster's name in the certificates.
    pub const NAME: &'static str = "local";

    /// `n` replicas, each starting from the state that `machine` returns. Configure and start them.
    pub fn of(
        n: usize,
        machine: impl Fn(MemberId) -> S + Send + Sync + 'static,
    ) -> LocalClusterBuilder<S> {
        LocalClusterBuilder {
            replicas: n,
            machine: Box::new(machine),
            configure: Box::new(|replica| replica),
            wan: None,
            data: None,
        }
    }

    /// Replica `number`, from 1; it may have crashed.
    ///
    /// # Panics
    /// If no replica has that number.
    pub fn replica(&self, number: u32) -> &Replica<S> {
        let index = usize::try_from(number).ok().and_then(|it| it.checked_sub(1));
        let replica = index.and_then(|index| self.replicas.get(index));
        replica.unwrap_or_else(|| panic!("replicas are numbered 1 to {}", self.replicas.len()))
    }

    /// All replicas in order, including crashed ones.
    pub fn replicas(&self) -> &[Replica<S>] {
        &self.replicas
    }

    /// The replicas that run.
    pub fn live(&self) -> impl Iterator<Item = &Replica<S>> {
        self.replicas
            .iter()
            .filter(|replica| replica.inner.shared.lifecycle() == Lifecycle::Running)
    }

    /// Each replica's address.
    pub fn addrs(&self) -> BTreeMap<MemberId, SocketAddr> {
        self.replicas.iter().map(|replica| (replica.id(), replica.local_addr())).collect()
    }

    /// Credentials for a client of this cluster; `name` is one lower-case DNS label.
    ///
    /// # Errors
    /// If the name is not valid in a certificate.
    pub fn client_credentials(&self, name: &str) -> Result<Credentials, CredentialsError> {
        self.authority.issue_client(name)?.credentials()
    }

    /// Stops replica `number` at once, without telling the others.
    ///
    /// # Panics
    /// If no replica has that number.
    pub fn crash(&self, number: u32) {
        self.replica(number).kill();
    }

    /// Starts replica `number` again after it has stopped, from its directory and at its old
    /// address. Completes when it listens. Old handles stay unusable.
    ///
    /// # Errors
    /// [`StartError`]. Without [`data_dirs`](LocalClusterBuilder::data_dirs) a replica must not
    /// restart.
    ///
    /// # Panics
    /// If no replica has that number.
    pub async fn restart(&mut self, number: u32) -> Result<(), StartError> {
        if self.plan.data.is_none() {
            return Err(StartError::Missing("data_dirs"));
        }
        self.replica(number).wait_stopped().await;
        let replica = self.plan.launch(&self.authority, &self.peers, number, None).await?;
        self.replicas[number as usize - 1] = replica;
        Ok(())
    }

    /// The digest of each live replica's state, once all have executed the same. Call it when
    /// nothing is being proposed.
    ///
    /// # Errors
    /// If they do not converge within twenty seconds.
    pub async fn digests(&self) -> Result<BTreeMap<MemberId, u64>, NotConverged> {
        let deadline = Instant::now() + SETTLE;
        while let Err(apart) = self.converged().await {
            if Instant::now() > deadline {
                return Err(apart);
            }
            tokio::time::sleep(LOOK).await;
        }
        let mut digests = BTreeMap::new();
        for replica in self.live() {
            if let Some(digest) = replica.digest().await {
                digests.insert(replica.id(), digest);
            }
        }
        Ok(digests)
    }

    async fn converged(&self) -> Result<(), NotConverged> {
        let mut all = Vec::new();
        for replica in self.live() {
            all.extend(replica.status().await);
        }
        let at_rest = all.iter().all(|it| {
            it.core.as_ref().is_some_and(|core| core.unexecuted == 0) && it.under_way == 0
        });
        if at_rest && all.windows(2).all(|two| executed(&two[0]) == executed(&two[1])) {
            return Ok(());
        }
        let far = all.iter().map(|it| {
            let left = it.core.as_ref().map_or(0, |core| core.unexecuted);
            let executed = executed(it);
            format!("{} up to {executed:?}, {left} decided beyond", it.id)
        });
        Err(NotConverged(far.collect::<Vec<_>>().join("; ")))
    }

    /// Shuts down all live replicas at the same time.
    pub async fn shutdown(&self) {
        for replica in &self.replicas {
            replica.inner.shared.advance(Lifecycle::Stopping);
        }
        for replica in &self.replicas {
            replica.wait_stopped().await;
        }
    }
}

impl<S: StateMachine> LocalClusterBuilder<S> {
    /// The replicas' timeouts and intervals.
    pub fn timing(self, timing: Timing) -> Self {
        self.configure(move |replica| replica.timing(timing.clone()))
    }

    /// The replicas' limits.
    pub fn limits(self, limits: Limits) -> Self {
        self.configure(move |replica| replica.limits(limits.clone()))
    }

    /// Sets any other option of each replica.
    pub fn configure(
        mut self,
        more: impl Fn(ReplicaBuilder<S>) -> ReplicaBuilder<S> + Send + Sync + 'static,
    ) -> Self {
        let before = self.configure;
        self.configure = Box::new(move |replica| more(before(replica)));
        self
    }

    /// Keeps the replicas' durable state below `dir`, in directories named by their numbers. By
    /// default it is in memory and is lost when they stop.
    pub fn data_dirs(mut self, dir: impl AsRef<Path>, durability: Durability) -> Self {
        self.data = Some((dir.as_ref().to_owned(), durability));
        self
    }

    /// Emulates a wide area network: replica `i` is at site `i - 1`.
    ///
    /// # Panics
    /// [`start`](LocalClusterBuilder::start) panics if there are fewer sites than replicas.
    pub fn wan(mut self, wan: WanControl) -> Self {
        self.wan = Some(wan);
        self
    }

    /// Starts the replicas. Completes when every replica is connected with every other.
    ///
    /// # Errors
    /// [`StartError`]: an unsupported number of replicas, settings that contradict each other, or
    /// sockets or threads that are not available.
    pub async fn start(self) -> Result<LocalCluster<S>, StartError> {
        let authority = Authority::new(LocalCluster::<S>::NAME)?;
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut sockets = Vec::new();
        for _ in 0..self.replicas {
            sockets.push(UdpSocket::bind(any_port)?);
        }
        let mut peers = Vec::new();
        for (number, socket) in (1..).zip(&sockets) {
            peers.push((number, socket.local_addr()?));
        }
        let mut replicas = Vec::new();
        for ((number, _), socket) in peers.iter().zip(sockets) {
            replicas.push(self.launch(&authority, &peers, *number, Some(socket)).await?);
        }
        let others = replicas.len().saturating_sub(1);
        for replica in &replicas {
            let connected = tokio::time::timeout(CONNECT, replica.wait_connected(others));
            if !connected.await.unwrap_or(false) {
                return Err(StartError::NotConnected(CONNECT));
            }
        }
        Ok(LocalCluster { replicas, authority, peers, plan: self })
    }

    /// Starts one replica, on this socket or at its address among the peers.
    async fn launch(
        &self,
        authority: &Authority,
        peers: &[(u32, SocketAddr)],
        number: u32,
        socket: Option<UdpSocket>,
    ) -> Result<Replica<S>, StartError> {
        let id = MemberId::new(number).ok_or(StartError::Missing("id"))?;
        let credentials = authority.issue_replica(id)?.credentials()?;
        let replica = Replica::builder((self.machine)(id)).durability(Durability::Memory);
        let mut replica = (self.configure)(replica)
            .id(number)
            .cluster(authority.cluster())
            .peers(peers.iter().copied())
            .tls(credentials);
        if let Some(socket) = socket {
            replica = replica.socket(socket);
        }
        if let Some((dir, durability)) = &self.data {
            replica = replica.data_dir(dir.join(number.to_string())).durability(*durability);
        }
        if let Some(wan) = &self.wan {
            replica = replica.wan(wan.at(id.number() as usize - 1));
        }
        replica.start().await
    }
}

impl<S: StateMachine> std::fmt::Debug for LocalClusterBuilder<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalClusterBuilder").field("replicas", &self.replicas).finish()
    }
}

/// What a replica has executed, by owner.
fn executed(status: &super::Status) -> Deps {
    status.core.as_ref().map_or(Deps::none(0), |core| core.executed.clone())
}
