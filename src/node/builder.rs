//! How a replica is configured and started.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, bounded};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::apply::{self, Work};
use super::clients::Service;
use super::error::StartError;
use super::inbox::Inbox;
use super::runner::{Pace, Runner};
use super::shared::{Limits, Shared, lock, panic_text};
use super::status::Explain;
use super::{Inner, Replica};
use crate::machine::StateMachine;
use crate::mesh::{Congestion, Credentials, Mesh, MeshConfig, Wan};
use crate::protocol::epaxos::EPaxos;
use crate::replica::{self, Core};
use crate::storage::Durability;
use crate::types::{
    ClientId, Command, Numbering, Optimisations, Quorums, ReplicaId, Settings, Timing,
};
use crate::wire::{ServerInfo, Wire};

/// Steps of executions between the core and the apply thread.
const WORK: usize = 1024;

/// A replica to be. What has to be set: [`id`](ReplicaBuilder::id), [`tls`](ReplicaBuilder::tls)
/// and, in a cluster of more than one, [`peers`](ReplicaBuilder::peers).
#[derive(Debug)]
#[must_use = "nothing runs before `start`"]
pub struct ReplicaBuilder<S> {
    machine: S,
    id: Option<ReplicaId>,
    cluster: String,
    peers: BTreeMap<u8, SocketAddr>,
    listen: Option<SocketAddr>,
    socket: Option<UdpSocket>,
    credentials: Option<Credentials>,
    durability: Durability,
    timing: Timing,
    limits: Limits,
    congestion: Congestion,
    wan: Option<Wan>,
    propose_timeout: Duration,
    shutdown_patience: Duration,
}

impl<S: StateMachine> ReplicaBuilder<S> {
    pub(super) fn new(machine: S) -> ReplicaBuilder<S> {
        ReplicaBuilder {
            machine,
            id: None,
            cluster: "isonomy".to_owned(),
            peers: BTreeMap::new(),
            listen: None,
            socket: None,
            credentials: None,
            durability: Durability::default(),
            timing: Timing::default(),
            limits: Limits::default(),
            congestion: Congestion::default(),
            wan: None,
            propose_timeout: Duration::from_secs(10),
            shutdown_patience: Duration::from_secs(5),
        }
    }

    /// Which replica this is: replicas are numbered 1, 2, … n.
    pub fn id(mut self, number: u8) -> Self {
        self.id = ReplicaId::new(number);
        self
    }

    /// The cluster's name, as in the certificates: lower-case DNS labels. By default `isonomy`.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster = name.into();
        self
    }

    /// The replicas of the cluster and where they listen. This one's own entry may be among them,
    /// and is then where it listens unless [`listen`](ReplicaBuilder::listen) says otherwise.
    pub fn peers(mut self, peers: impl IntoIterator<Item = (u8, SocketAddr)>) -> Self {
        self.peers.extend(peers);
        self
    }

    /// Where to listen. By default at its own entry among the peers, or at any free port of
    /// loopback.
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        self.listen = Some(addr);
        self
    }

    /// A bound UDP socket to listen on, for who must know the port beforehand.
    pub fn socket(mut self, socket: UdpSocket) -> Self {
        self.socket = Some(socket);
        self
    }

    /// The replica's certificate and key, and the authorities it trusts. There is no way to run
    /// without.
    pub fn tls(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// What has to have happened to a vote before it is spoken of. So far replicas run in memory
    /// only: with anything else [`ReplicaBuilder::start`] refuses.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long the replica waits for what.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// The bounds it keeps.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How sending adapts to the network.
    pub fn congestion(mut self, congestion: Congestion) -> Self {
        self.congestion = congestion;
        self
    }

    /// An emulated wide area between this replica and the others.
    pub fn wan(mut self, wan: Wan) -> Self {
        self.wan = Some(wan);
        self
    }

    /// After how long without an answer a caller is told that the outcome is unknown, give or take
    /// a quarter of a second. 10 seconds by default.
    pub fn propose_timeout(mut self, timeout: Duration) -> Self {
        self.propose_timeout = timeout;
        self
    }

    /// How long a shutdown waits for the answers to what is under way. 5 seconds by default.
    pub fn shutdown_patience(mut self, patience: Duration) -> Self {
        self.shutdown_patience = patience;
        self
    }

    /// Starts the replica's threads; done when it listens. It looks for its peers by itself, and
    /// what is proposed before a majority is connected waits.
    ///
    /// # Errors
    /// [`StartError`], if something isn't set, contradicts itself, or can't be had.
    pub async fn start(self) -> Result<Replica<S>, StartError> {
        let id = self.id.ok_or(StartError::Missing("id"))?;
        let credentials = self.credentials.clone().ok_or(StartError::Missing("tls"))?;
        let quorums = self.quorums(id)?;
        check(&self.limits, &self.timing)?;
        if self.durability != Durability::Memory {
            return Err(StartError::Durability(self.durability));
        }
        let (sender, queue) = bounded(WORK);
        let limits = self.limits.clone();
        let shared = Arc::new(Shared::new(id, limits, self.propose_timeout, sender));
        let settings = Settings {
            me: id,
            quorums,
            seed: rand::random(),
            timing: self.timing.clone(),
            optimisations: Optimisations::NONE,
        };
        let mut config = self.mesh_config(id, credentials);
        config.socket = self.socket;
        let (started, has_started) = oneshot::channel();
        let plan = Plan {
            core: Core::new(settings.clone(), core_limits(&self.limits), EPaxos::new(settings)),
            pace: Pace {
                replicas: quorums.n,
                tick: self.timing.tick,
                shutdown_patience: self.shutdown_patience,
            },
            config,
            shared: Arc::clone(&shared),
            machine: self.machine,
            queue,
        };
        let thread = thread::Builder::new().name(format!("isonomy-{id}"));
        thread.spawn(move || plan.run(started))?;
        let gone = || StartError::Threads(std::io::Error::other("the core thread is gone"));
        let local_addr = has_started.await.unwrap_or_else(|_| Err(gone()))?;
        let inner = Inner {
            shared,
            local_addr,
            client: ClientId(rand::random()),
            numbers: Mutex::new(Numbering::default()),
        };
        Ok(Replica { inner: Arc::new(inner), machine: std::marker::PhantomData })
    }

    fn quorums(&self, id: ReplicaId) -> Result<Quorums, StartError> {
        let mut numbers: Vec<u8> = self.peers.keys().copied().collect();
        if !numbers.contains(&id.number()) {
            numbers.push(id.number());
            numbers.sort_unstable();
        }
        if !numbers.iter().copied().eq((1..=u8::MAX).take(numbers.len())) {
            return Err(StartError::Numbers { found: numbers });
        }
        Ok(Quorums::new(numbers.len())?)
    }

    fn mesh_config(&self, id: ReplicaId, credentials: Credentials) -> MeshConfig {
        let own = self.peers.get(&id.number()).copied();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listen = self.listen.or(own).unwrap_or(loopback);
        let cluster = self.cluster.clone();
        let mut config = MeshConfig::new(cluster, id, incarnation(), listen, credentials);
        let peers = self.peers.iter();
        config.peers = peers.filter_map(|(id, addr)| Some((ReplicaId::new(*id)?, *addr))).collect();
        config.limits = self.limits.mesh.clone();
        config.congestion = self.congestion;
        config.wan = self.wan.clone();
        config
    }
}

/// Larger at every start: the time of day, which outlives a replica that keeps nothing else.
fn incarnation() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX).max(1)
}

/// The core's own bounds: what the desk lets in fits, with room for those whose callers have given
/// up waiting.
fn core_limits(limits: &Limits) -> replica::Limits {
    replica::Limits {
        commands: limits.commands.saturating_mul(2),
        bytes: limits.bytes.saturating_mul(2),
        kept_bytes: limits.kept_bytes,
        ..replica::Limits::default()
    }
}

fn check(limits: &Limits, timing: &Timing) -> Result<(), StartError> {
    if limits.commands == 0 || limits.client_requests == 0 || limits.unapplied == 0 {
        return Err(StartError::Limits("no number may be 0"));
    }
    if limits.command_bytes > limits.bytes {
        return Err(StartError::Limits("`command_bytes` must not be above `bytes`"));
    }
    if limits.command_bytes > Command::MAX_BYTES {
        return Err(StartError::Limits("`command_bytes` is above what replicas tell each other"));
    }
    if timing.tick.is_zero() || timing.gossip.is_zero() {
        return Err(StartError::Limits("`tick` and `gossip` must not be 0"));
    }
    Ok(())
}

/// All that the core thread needs.
struct Plan<S, P: Explain<Message: Wire>> {
    core: Core<P>,
    pace: Pace,
    config: MeshConfig,
    shared: Arc<Shared>,
    machine: S,
    queue: Receiver<Work>,
}

impl<S, P> Plan<S, P>
where
    S: StateMachine,
    P: Explain<Message: Wire>,
{
    /// The core thread, from its start to its end.
    fn run(self, started: oneshot::Sender<Result<SocketAddr, StartError>>) {
        let shared = Arc::clone(&self.shared);
        match self.start() {
            Ok((runtime, runner, apply)) => {
                let _ = started.send(Ok(runner.local_addr()));
                drive(runtime, runner, &shared);
                // An error says that it has ended already, and its panic is known.
                let _ = shared.work.send(Work::Stop);
                let _ = apply.join();
            }
            Err(error) => drop(started.send(Err(error))),
        }
        shared.stopped.send_replace(true);
    }

    fn start(self) -> Result<(Runtime, Runner<P>, thread::JoinHandle<()>), StartError> {
        let Plan { core, pace, config, shared, machine, queue } = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let info = ServerInfo {
            cluster: config.cluster.clone(),
            replica: config.id,
            replicas: u8::try_from(pace.replicas).unwrap_or(u8::MAX),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let service = Arc::new(Service::new::<S>(Arc::clone(&shared), info));
        let inbox = Arc::new(Inbox::new(Arc::clone(&shared), service, pace.replicas));
        let mesh = runtime.block_on(Mesh::start(config, Arc::clone(&inbox)))?;
        let apply = thread::Builder::new().name(format!("isonomy-{}-apply", shared.id)).spawn({
            let shared = Arc::clone(&shared);
            move || apply::run(machine, &shared, &queue)
        })?;
        Ok((runtime, Runner::new(core, pace, shared, inbox, mesh), apply))
    }
}

/// Runs a replica to its end, and sees to it that nobody waits for it any longer.
fn drive<P: Explain<Message: Wire>>(runtime: Runtime, mut runner: Runner<P>, shared: &Shared) {
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(runner.run())));
    if let Err(panic) = ended {
        shared.fail(format!("an invariant is broken: {}", panic_text(&*panic)));
    }
    *lock(&shared.last) = Some(runner.metrics());
    let (inside, after) = shared.end();
    shared.desk.close(&inside, after);
    // In this order: after a crash nobody is told, so the network stops before the mesh could.
    drop(runtime);
    drop(runner);
}
