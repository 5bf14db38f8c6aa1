//! How a replica is configured and started.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam::channel::bounded;
use tokio::sync::oneshot;

use super::error::StartError;
use super::limits::Limits;
use super::register::BeforeFirstPeer;
use super::runner::Pace;
use super::shared::ReplicaShared;
use super::start::{Data, Parts, Place, Plan};
use super::status::with_protocol;
use super::{Inner, Replica};
use crate::machine::{MAX_ANSWER, Machines, StateMachine};
use crate::mesh::{Congestion, Credentials, MeshConfig, Resolver, Votes, Wan};
use crate::protocol::ProtocolKind;
use crate::replica;
use crate::storage::{Disk, Durability, LogOptions, MAX_SEGMENT_BYTES};
use crate::types::{
    Address, ClientId, Command, MemberId, Numbering, Optimisations, Quorums, ReplicaId, RequestId,
    Retention, Settings, Timing, Versions,
};
use crate::wire::{CLIENT_HEADER_BYTES, CLIENT_VERSIONS, PEER_VERSIONS, SNAPSHOT_VERSIONS};

/// Sessions live at least this long.
const SHORTEST_IDLE: Duration = Duration::from_secs(1);
/// Bound on the steps of executions that wait between the core and the apply thread.
const WORK: usize = 1024;

/// The shortest segment of a log. The longest record fits into it, with room to spare.
const LEAST_SEGMENT: usize = 8 << 20;

/// Configures a replica and starts it. Required: [`id`](ReplicaBuilder::id),
/// [`tls`](ReplicaBuilder::tls), [`data_dir`](ReplicaBuilder::data_dir) unless
/// [`durability`](ReplicaBuilder::durability) is [`Durability::Memory`], and
/// [`peers`](ReplicaBuilder::peers) in a cluster of more than one.
#[derive(Debug)]
#[must_use = "nothing runs before `start`"]
pub struct ReplicaBuilder<S> {
    source: Machines<S>,
    id: Option<MemberId>,
    cluster: String,
    protocol: ProtocolKind,
    /// The versions of the frames that it understands, of replicas and of clients.
    frames: (Versions, Versions),
    peers: BTreeMap<u32, Address>,
    listen: Option<SocketAddr>,
    resolver: Resolver,
    socket: Option<UdpSocket>,
    credentials: Option<Credentials>,
    durability: Durability,
    optimisations: Optimisations,
    leases: bool,
    place: Option<Place>,
    timing: Timing,
    limits: Limits,
    congestion: Congestion,
    wan: Option<Wan>,
    propose_timeout: Duration,
    shutdown_patience: Duration,
    session_idle: Duration,
    skip: BTreeSet<RequestId>,
    before_first_peer: Option<BeforeFirstPeer>,
    joins: bool,
}

impl<S: StateMachine> ReplicaBuilder<S> {
    pub(super) fn new(source: Machines<S>) -> ReplicaBuilder<S> {
        ReplicaBuilder {
            source,
            id: None,
            cluster: "isonomy".to_owned(),
            protocol: ProtocolKind::default(),
            frames: (PEER_VERSIONS, CLIENT_VERSIONS),
            peers: BTreeMap::new(),
            listen: None,
            resolver: Resolver::default(),
            socket: None,
            credentials: None,
            durability: Durability::default(),
            optimisations: Optimisations::default(),
            leases: true,
            place: None,
            timing: Timing::default(),
            limits: Limits::default(),
            congestion: Congestion::default(),
            wan: None,
            propose_timeout: Duration::from_secs(10),
            shutdown_patience: Duration::from_secs(5),
            session_idle: Duration::from_secs(3600),
            skip: BTreeSet::new(),
            before_first_peer: None,
            joins: false,
        }
    }

    /// The replica's number. Replicas are numbered 1, 2, … n.
    pub fn id(mut self, number: u32) -> Self {
        self.id = MemberId::new(number);
        self
    }

    /// The cluster's name, as in the certificates: lower-case DNS labels. `isonomy` by default.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster = name.into();
        self
    }

    /// The protocol that all replicas of the cluster run. [`ProtocolKind::EPaxos`] by default. A
    /// data directory remembers its protocol and cannot be used with another one.
    pub fn protocol(mut self, protocol: ProtocolKind) -> Self {
        self.protocol = protocol;
        self
    }

    /// The replicas of the cluster and their addresses: socket addresses, or an [`Address`] with a
    /// host name, which is looked up at each dial. The list may contain this replica. It then
    /// listens at that address unless [`listen`](ReplicaBuilder::listen) sets another.
    pub fn peers(mut self, peers: impl IntoIterator<Item = (u32, impl Into<Address>)>) -> Self {
        self.peers.extend(peers.into_iter().map(|(number, address)| (number, address.into())));
        self
    }

    /// This replica joins a cluster that runs. It connects with the replicas among its
    /// [`peers`](ReplicaBuilder::peers), one of which is enough, and waits until a member is asked
    /// to take it in ([`Replica::change_members`]). Until then it executes nothing and answers
    /// nothing. It has no effect on a replica that has a directory already.
    pub fn join(mut self, joins: bool) -> Self {
        self.joins = joins;
        self
    }

    /// Where to listen. By default at its own entry among the peers, or at any free port of
    /// loopback. `[::]` also accepts IPv4 and reaches peers of both families. Any other address
    /// reaches only peers of its own family.
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        self.listen = Some(addr);
        self
    }

    /// How to resolve host names; each dial resolves them again. The system's resolver by default.
    pub fn resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = resolver;
        self
    }

    /// A bound UDP socket to listen on, for callers that must know the port before the start.
    pub fn socket(mut self, socket: UdpSocket) -> Self {
        self.socket = Some(socket);
        self
    }

    /// The replica's certificate and key, and the authorities that it trusts. TLS cannot be turned
    /// off.
    pub fn tls(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// The directory where the replica keeps its durable state. It belongs to this replica alone,
    /// and is made if it does not exist. A replica that was started before continues from its
    /// directory. The other replicas refuse one that has lost its directory, for good.
    pub fn data_dir(mut self, path: impl AsRef<Path>) -> Self {
        self.place = Some(Place::Directory(path.as_ref().to_owned()));
        self
    }

    /// A disk to use instead of a directory of the file system. This repository's tests use one
    /// that fails.
    #[doc(hidden)]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.place = Some(Place::Disk(disk));
        self
    }

    /// How durable a vote must be before it is sent. [`Durability::Fsync`] by default. With
    /// [`Durability::Memory`] there is no [`data_dir`](ReplicaBuilder::data_dir), and the replica
    /// must not be started again after it has stopped: the others refuse it.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Which optimisations avoid waiting for the disk, and their trade-offs. By default slots are
    /// reserved ([`Optimisations::reserved_slots`]) and [`Optimisations::silent_orphans`] is off.
    /// It may change at every start. It has no effect with [`Durability::Memory`].
    pub fn optimisations(mut self, optimisations: Optimisations) -> Self {
        self.optimisations = optimisations;
        self
    }

    /// Whether a leader answers reads alone while it holds a lease. Applies to Multi-Paxos; on by
    /// default. Turn it off where all clocks of a machine may stop while it is suspended, as those
    /// of a paused virtual machine may. Reads are then proposed like writes and depend on no clock.
    pub fn leases(mut self, leases: bool) -> Self {
        self.leases = leases;
        self
    }

    /// The replica's timeouts and intervals.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Never executes this request, whatever instance contains it. Use it when a state machine
    /// panics at a command ([`Fault::Poisoned`](super::Fault::Poisoned)) or aborts its process: the
    /// command fails at every replica, and again at every replay of the log. Its client is told
    /// that the request is refused.
    ///
    /// Give every replica the same setting before it executes the request. If one replica has
    /// executed it, the states differ from there on. Replicas that skip different requests refuse
    /// each other. The data directory remembers the setting, so one start with it is enough.
    /// Skipping a command that was answered takes back what its client was told.
    pub fn skip(mut self, request: RequestId) -> Self {
        self.skip.insert(request);
        self
    }

    /// With [`Durability::Memory`]: calls `note` before it admits the first peer, and admits none
    /// until `note` has succeeded. Record there durably that this replica must not be started
    /// again. Until then no other replica has heard from it, so a restart is still safe. `note` may
    /// block, and is called again after an error.
    pub fn before_first_peer(
        mut self,
        note: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.before_first_peer = Some(BeforeFirstPeer::new(note));
        self
    }

    /// The bounds on memory, disk and requests.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The congestion control of its connections.
    pub fn congestion(mut self, congestion: Congestion) -> Self {
        self.congestion = congestion;
        self
    }

    /// Emulates a wide area network between this replica and the others.
    pub fn wan(mut self, wan: Wan) -> Self {
        self.wan = Some(wan);
        self
    }

    /// How long a caller waits before it is told that the outcome is unknown; precise to a quarter
    /// of a second. 10 seconds by default.
    pub fn propose_timeout(mut self, timeout: Duration) -> Self {
        self.propose_timeout = timeout;
        self
    }

    /// How long a shutdown waits for pending answers. 5 seconds by default.
    pub fn shutdown_patience(mut self, patience: Duration) -> Self {
        self.shutdown_patience = patience;
        self
    }

    /// How long a session must be unused before it may be forgotten, with everything known about
    /// its commands. A retry after that is refused, so no command is executed twice. The session is
    /// forgotten within twice this time. At least one second; one hour by default. The whole
    /// cluster shares it: replicas with different settings refuse each other. To change it, stop
    /// all replicas and start them with the new value.
    pub fn session_idle(mut self, idle: Duration) -> Self {
        self.session_idle = idle;
        self
    }

    /// Understands only the oldest versions of all frames, like a replica of an earlier release.
    #[doc(hidden)]
    pub fn oldest_frames(mut self) -> Self {
        let (peers, clients) = (PEER_VERSIONS.oldest, CLIENT_VERSIONS.oldest);
        self.frames = (Versions::only(peers), Versions::only(clients));
        self
    }

    /// Starts the replica's threads. Completes when the replica has restored its directory and
    /// listens. It then looks for its peers by itself. Commands proposed before it reaches a
    /// majority wait.
    ///
    /// # Errors
    /// [`StartError`], if a setting is missing or contradicts another, or a resource is not
    /// available.
    pub async fn start(mut self) -> Result<Replica<S>, StartError> {
        let id = self.id.ok_or(StartError::Missing("id"))?;
        let credentials = self.credentials.clone().ok_or(StartError::Missing("tls"))?;
        let mut members: BTreeSet<MemberId> =
            self.peers.keys().filter_map(|it| MemberId::new(*it)).collect();
        members.insert(id);
        let quorums = Quorums::new(members.len())?;
        self.check(&members)?;
        let data = self.take_data()?;
        let (sender, queue) = bounded(WORK);
        let limits = self.limits.clone();
        let shared = Arc::new(ReplicaShared::new(id, limits, self.propose_timeout, sender));
        let settings = Settings {
            // These two follow from the list of members.
            me: ReplicaId::from_index(0),
            quorums,
            seed: rand::random(),
            timing: self.timing.clone(),
            // In memory there is no disk to wait for and no state to come back with.
            optimisations: data.as_ref().map_or(Optimisations::NONE, |_| self.optimisations),
            retention: Retention {
                volatile: data.is_none(),
                keep: self.limits.keep_for_absent_bytes,
            },
            leases: self.leases,
        };
        let mut config = self.mesh_config(id, credentials);
        config.socket = self.socket;
        let cluster = config.cluster.clone();
        let (started, has_started) = oneshot::channel();
        let pace = Pace {
            tick: self.timing.tick,
            shutdown_patience: self.shutdown_patience,
            session_idle: self.session_idle,
        };
        let (limits, source, skip) = (core_limits(&self.limits), self.source, self.skip);
        let before_first_peer = self.before_first_peer;
        let shared_too = Arc::clone(&shared);
        let parts = Parts {
            pace,
            members,
            joins: self.joins,
            settings,
            limits,
            config,
            data,
            shared: shared_too,
            source,
            skip,
            before_first_peer,
            queue,
        };
        let thread = thread::Builder::new().name(format!("isonomy-{id}"));
        with_protocol!(self.protocol, P => {
            let plan = Plan::<S, P> { parts, protocol: PhantomData };
            thread.spawn(move || plan.run(started))?
        });
        let gone = || StartError::Threads(std::io::Error::other("the core thread is gone"));
        let local_addr = has_started.await.unwrap_or_else(|_| Err(gone()))?;
        let inner = Inner {
            shared,
            cluster,
            local_addr,
            client: ClientId::local(rand::random()),
            numbers: Mutex::new(Numbering::default()),
        };
        Ok(Replica { inner: Arc::new(inner), machine: std::marker::PhantomData })
    }

    /// Where records are kept; `None` if they are not.
    fn take_data(&mut self) -> Result<Option<Data>, StartError> {
        match (self.durability, self.place.take()) {
            (Durability::Memory, None) if self.source.is_on_disk() => Err(StartError::UnusedSource),
            (Durability::Memory, None) => Ok(None),
            (Durability::Memory, Some(_)) => Err(StartError::UnusedDataDir),
            (durability, None) => Err(StartError::NoDataDir(durability)),
            (durability, Some(place)) => {
                let (segment_bytes, keep_free) =
                    (self.limits.segment_bytes, self.limits.keep_free_bytes);
                Ok(Some(Data { place, log: LogOptions { segment_bytes, keep_free, durability } }))
            }
        }
    }

    fn check(&self, members: &BTreeSet<MemberId>) -> Result<(), StartError> {
        check(&self.limits, &self.timing)?;
        if self.timing.leader.is_some_and(|leader| !members.contains(&MemberId::of(leader))) {
            return Err(StartError::Limits("`leader` is none of the replicas"));
        }
        if self.optimisations.reserved_slots > Optimisations::MOST_RESERVED {
            return Err(StartError::Limits("`reserved_slots` is above 65536"));
        }
        if self.propose_timeout.is_zero() {
            return Err(StartError::Limits("`propose_timeout` must not be 0: nothing is so fast"));
        }
        if self.session_idle < SHORTEST_IDLE {
            return Err(StartError::Limits("`session_idle` is below a second"));
        }
        Ok(())
    }

    fn mesh_config(&self, id: MemberId, credentials: Credentials) -> MeshConfig {
        let own = || self.peers.get(&id.number()).cloned();
        let loopback = || Address::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listen = self.listen.map(Address::from).or_else(own).unwrap_or_else(loopback);
        let cluster = self.cluster.clone();
        let mut config = MeshConfig::new(cluster, id, 0, listen, credentials);
        let peers = self.peers.iter();
        let peers = peers.filter_map(|(id, addr)| Some((MemberId::new(*id)?, addr.clone())));
        config.peers = peers.collect();
        config.limits = self.limits.mesh.clone();
        config.congestion = self.congestion;
        config.resolver = self.resolver.clone();
        config.terms.session_idle = self.session_idle;
        config.terms.votes = match self.durability {
            Durability::Fsync => Votes::Flushed,
            Durability::Os => Votes::HandedOver,
            Durability::Memory => Votes::InMemory,
        };
        (config.terms.frames, config.client_frames) = self.frames;
        config.terms.snapshots = SNAPSHOT_VERSIONS;
        config.wan = self.wan.clone();
        config
    }
}

/// The core's own bounds. They are twice the limits, because a command stays pending after its
/// caller has given up waiting.
fn core_limits(limits: &Limits) -> replica::Limits {
    replica::Limits {
        commands: limits.commands.saturating_mul(2),
        bytes: limits.bytes.saturating_mul(2),
        kept_bytes: limits.kept_bytes,
        snapshot_bytes: limits.snapshot_bytes,
        ..replica::Limits::default()
    }
}

fn check(limits: &Limits, timing: &Timing) -> Result<(), StartError> {
    let numbers = [
        (limits.commands, "`commands` must not be 0: no command would be let in"),
        (limits.command_bytes, "`command_bytes` must not be 0: no command would be let in"),
        (limits.client_requests, "`client_requests` must not be 0: no client would be served"),
        (limits.inbox_bytes, "`inbox_bytes` must not be 0: peers would be held back for ever"),
        (limits.unapplied, "`unapplied` must not be 0: nothing would be proposed"),
        (limits.unapplied_bytes, "`unapplied_bytes` must not be 0: nothing would be proposed"),
        (limits.kept_bytes, "`kept_bytes` must not be 0: no command would be let in"),
        (limits.log_queue_bytes, "`log_queue_bytes` must not be 0: nothing would be proposed"),
    ];
    if let Some((_, why)) = numbers.into_iter().find(|(number, _)| *number == 0) {
        return Err(StartError::Limits(why));
    }
    if limits.snapshot_bytes == 0 {
        let why = "`snapshot_bytes` must not be 0: a replica that was away could not catch up";
        return Err(StartError::Limits(why));
    }
    if limits.snapshot_every < Limits::LEAST_SNAPSHOT_EVERY {
        return Err(StartError::Limits("`snapshot_every` must not be below 16 KiB"));
    }
    if limits.client_sessions == 0 || limits.sessions == 0 {
        return Err(StartError::Limits("`client_sessions` and `sessions` must not be 0"));
    }
    if limits.command_bytes > limits.bytes {
        return Err(StartError::Limits("`command_bytes` must not be above `bytes`"));
    }
    if limits.mesh.client_frame_bytes < MAX_ANSWER + CLIENT_HEADER_BYTES {
        return Err(StartError::Limits("`mesh.client_frame_bytes` is below the longest answer"));
    }
    if limits.command_bytes > Command::MAX_BYTES {
        return Err(StartError::Limits("`command_bytes` is above what replicas tell each other"));
    }
    if !(LEAST_SEGMENT..=MAX_SEGMENT_BYTES).contains(&limits.segment_bytes) {
        return Err(StartError::Limits("`segment_bytes` must be between 8 MiB and 1 GiB"));
    }
    if timing.tick.is_zero() || timing.gossip.is_zero() {
        return Err(StartError::Limits("`tick` and `gossip` must not be 0"));
    }
    Ok(())
}
