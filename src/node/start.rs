//! How a replica's threads start and end. The replica restores its directory first and then
//! connects. It sits after `builder`, which collects the settings.
//!
//! The order is this. The directory is opened. Certificates are checked and the address is bound,
//! so that a failure there begins no life in the directory. The apply thread starts. The snapshot
//! and the log are read into the core, which hands decisions on to the apply thread meanwhile, so
//! that memory stays bounded. The next life begins. The log thread starts. The mesh starts last,
//! because from then on other replicas can hear this one.

mod replay;
mod state;
mod words;

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam::channel::Receiver;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tracing::{info, warn};

use replay::Replay;
use state::open_new;
use words::{say_end, say_privacy};

use super::apply;
use super::clients::Service;
use super::error::{Fault, StartError};
use super::inbox::Inbox;
use super::journal::Journal;
use super::panics::{lock, panic_text};
use super::register::{BeforeFirstPeer, Register};
use super::runner::{Driven, Pace, Runner};
use super::shared::ReplicaShared;
use super::snapshot::{First, Readable, SnapshotStore, Snapshots, Where};
use super::status::NodeProtocol;
use super::work::Work;
use crate::machine::{Applier, Machines, StateMachine};
use crate::mesh::{Mesh, MeshConfig};
use crate::replica::epochs::{self, Epochs};
use crate::replica::{self, OwnSnapshot};
use crate::storage::{
    Disk, FileDisk, LastCommand, LogOptions, MemoryLog, Opening, SnapshotInfo, SnapshotOptions,
    Store, StoreOptions, Trail, add_skipped, read_skipped,
};
use crate::types::{Address, Member, MemberId, Membership, RequestId, Settings, UnsupportedSize};
use crate::wire::ServerInfo;

/// Where records are kept.
#[derive(Debug)]
pub(super) enum Place {
    Directory(PathBuf),
    Disk(Arc<dyn Disk>),
}

/// Where and how records are kept.
pub(super) struct Data {
    pub(super) place: Place,
    pub(super) log: LogOptions,
}

/// Everything that the core thread needs.
pub(super) struct Plan<S, P: NodeProtocol> {
    pub(super) parts: Parts<S>,
    pub(super) protocol: PhantomData<fn() -> P>,
}

/// The part that is the same for every protocol.
pub(super) struct Parts<S> {
    pub(super) pace: Pace,
    /// The members of the first epoch, or for a replica that joins, itself and those that it
    /// connects with.
    pub(super) members: BTreeSet<MemberId>,
    /// The replica waits to be made a member, if its directory is new.
    pub(super) joins: bool,
    pub(super) settings: Settings,
    /// The core's own.
    pub(super) limits: replica::Limits,
    pub(super) config: MeshConfig,
    /// `None` if everything is kept in memory.
    pub(super) data: Option<Data>,
    pub(super) shared: Arc<ReplicaShared>,
    pub(super) source: Machines<S>,
    /// Requests that the operator has excluded from execution.
    pub(super) skip: BTreeSet<RequestId>,
    pub(super) before_first_peer: Option<BeforeFirstPeer>,
    pub(super) queue: Receiver<(Work, usize)>,
}

/// The parts of a running replica.
struct Running<P: NodeProtocol> {
    runtime: Runtime,
    runner: Runner<P>,
    apply: JoinHandle<()>,
}

impl<S, P> Plan<S, P>
where
    S: StateMachine,
    P: NodeProtocol,
{
    /// The core thread, from start to end.
    pub(super) fn run(self, started: oneshot::Sender<Result<SocketAddr, StartError>>) {
        let shared = Arc::clone(&self.parts.shared);
        let start = catch_unwind(AssertUnwindSafe(|| self.start()));
        let start = start.unwrap_or_else(|panic| {
            let what = format!("an invariant is broken: {}", panic_text(&*panic));
            // No one else can tell the apply thread, if it runs, to stop.
            let _ = shared.try_work(Work::Stop);
            Err(StartError::Restore(Fault::Bug(what)))
        });
        match start {
            Ok(Running { runtime, runner, apply }) => {
                let _ = started.send(Ok(runner.local_addr()));
                drive(runtime, runner, &shared);
                // Errors mean that it has ended already; its panic has been reported.
                shared.send_work(Work::Stop);
                let _ = apply.join();
            }
            Err(error) => drop(started.send(Err(error))),
        }
        shared.stopped.send_replace(true);
    }

    fn start(self) -> Result<Running<P>, StartError> {
        let Parts { pace, members, joins, settings, limits, .. } = self.parts;
        let Parts { mut config, data, shared, source, skip, before_first_peer, queue, .. } =
            self.parts;
        if let Some(request) = skip.iter().find(|it| it.client.is_internal()) {
            return Err(StartError::CannotSkip { request: *request });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        config.terms.protocol = P::NAME.to_owned();
        let kept = data.map(|data| open(data, &config, &members, joins)).transpose()?;
        runtime.block_on(Mesh::prepare(&mut config))?;
        let founders = kept.as_ref().map_or(&members, |kept| kept.founders(&members));
        let first_list = first_list(founders, &config)?;
        let in_memory = Register::in_memory(&config.cluster, P::NAME, config.id)
            .before_first_peer(before_first_peer);
        let (directory, joins) = match &kept {
            Some(kept) => (kept.opening.identity.directory, kept.opening.identity.joins),
            None => (in_memory.presence().life, joins),
        };
        let list = (!joins).then(|| first_list.clone());
        let mut epochs = Epochs::<P>::new(config.id, directory, list, settings, limits);
        let mut out = replica::Output::default();
        let (kept, first) = match kept {
            Some(kept) => {
                let (begun, applier) = kept.begin(&*source, &mut epochs, &first_list, &mut out)?;
                let applier = applier.keyed(shared.content_key);
                let (skipped, trail) = begun.kept.skip(&applier, &skip, shared.id)?;
                config.terms.skipped = skipped_hash(&skipped);
                (Some(begun), apply::First { applier, skipped, trail })
            }
            None => {
                let applier = Applier::new(open_new(&*source)?).keyed(shared.content_key);
                config.terms.skipped = skipped_hash(&skip);
                (None, apply::First { applier, skipped: skip, trail: None })
            }
        };
        let apply = thread::Builder::new().name(format!("isonomy-{}-apply", shared.id)).spawn({
            let shared = Arc::clone(&shared);
            move || apply::run(first, &shared, &queue)
        })?;
        let begin = || {
            let restarted = match kept {
                Some(kept) => kept.restore(&mut epochs, &members, &shared, &mut out)?,
                None => Restarted {
                    out: epochs::Output::default(),
                    journal: Journal::Memory(MemoryLog::new()),
                    kept_snapshots: SnapshotStore::Memory,
                    first: None,
                    next: 0,
                    register: in_memory,
                },
            };
            restarted.connect(&source, epochs, first_list, (config, pace), &shared, &runtime)
        };
        match begin() {
            Ok(runner) => Ok(Running { runtime, runner, apply }),
            Err(error) => {
                shared.send_work(Work::Stop);
                let _ = apply.join();
                Err(error)
            }
        }
    }
}

/// Runs a replica to its end, and then answers every caller that still waits.
fn drive<P: NodeProtocol>(runtime: Runtime, mut runner: Runner<P>, shared: &ReplicaShared) {
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(runner.run())));
    if let Err(panic) = ended {
        let what = format!("an invariant is broken: {}", panic_text(&*panic));
        shared.fail(Fault::Bug(what));
    }
    *lock(&shared.last) = Some(runner.metrics());
    let (inside, after) = shared.end();
    shared.pending.close(&inside, after);
    // In this order: after a crash no peer is told, so the network must stop before the mesh can
    // close its connections.
    drop(runtime);
    runner.end();
}

/// A directory that is open and not yet read.
struct Kept {
    opening: Opening,
    name: String,
    log: LogOptions,
    disk: Arc<dyn Disk>,
    /// Whether commands leave a [`Trail`]. They do not on a disk that replaces the directory: it
    /// may not expect such extra writes.
    trailed: bool,
    cluster: String,
}

/// The directory after the core has taken its state from the snapshot, if there is one.
struct Begun {
    kept: Kept,
    first: Option<FirstSnapshot>,
    /// The number of the state machine's next checkpoint.
    next: u64,
}

/// The snapshot that a replica starts from.
struct FirstSnapshot {
    epoch: u32,
    own: OwnSnapshot,
    info: SnapshotInfo,
    state_bytes: u64,
}

/// What a replica continues with once its core is restored.
struct Restarted<P: NodeProtocol> {
    out: epochs::Output<P::Message, P::Record>,
    journal: Journal,
    kept_snapshots: SnapshotStore,
    first: Option<First>,
    next: u64,
    register: Register,
}

impl<P: NodeProtocol> Restarted<P> {
    /// Starts everything that the core drives; the network last.
    fn connect<S: StateMachine>(
        self,
        source: &Machines<S>,
        epochs: Epochs<P>,
        first_list: Membership,
        (mut config, pace): (MeshConfig, Pace),
        shared: &Arc<ReplicaShared>,
        runtime: &Runtime,
    ) -> Result<Runner<P>, StartError> {
        let Restarted { out, journal, kept_snapshots, first, next, register } = self;
        (config.presence, config.origin) = (register.presence(), register.origin());
        // One that waits to be made a member knows only those that it was told of.
        if epochs.lists().next().is_some() {
            config.peers = epochs.reaches();
        }
        let cluster = config.cluster.clone();
        let replicas = first_list.len();
        let place = Where { cluster, replicas, store: kept_snapshots, next };
        let snapshots = Snapshots::start(place, first, source, shared)?;
        let info = ServerInfo {
            cluster: config.cluster.clone(),
            replica: config.id,
            list: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let service = Arc::new(Service::new::<S>(Arc::clone(shared), info));
        let inbox = Arc::new(Inbox::new(Arc::clone(shared), service, register));
        // The first hello already says which epoch it is. Nobody is connected yet.
        let lists: Vec<Membership> = epochs.lists().cloned().collect();
        inbox.set_lists(epochs.list(), &lists);
        let mesh = runtime.block_on(Mesh::start(config, Arc::clone(&inbox)))?;
        let driven = Driven { inbox, mesh, journal, snapshots };
        Ok(Runner::new(epochs, first_list, out, pace, Arc::clone(shared), driven))
    }
}

/// Opens the directory. A new one is that of a member of the first epoch, or of a replica that
/// `joins`.
fn open(
    data: Data,
    config: &MeshConfig,
    members: &BTreeSet<MemberId>,
    joins: bool,
) -> Result<Kept, StartError> {
    let Data { place, log } = data;
    let name = match &place {
        Place::Directory(path) => path.display().to_string(),
        Place::Disk(_) => "the disk".to_owned(),
    };
    let trailed = matches!(place, Place::Directory(_));
    let failed = |error| StartError::Storage { directory: name.clone(), error };
    let disk: Arc<dyn Disk> = match place {
        Place::Directory(path) => {
            let disk = FileDisk::open(path).map_err(failed)?;
            say_privacy(config.id, &name, disk.privacy());
            Arc::new(disk)
        }
        Place::Disk(disk) => disk,
    };
    let options = StoreOptions {
        cluster: config.cluster.clone(),
        replica: config.id,
        protocol: config.terms.protocol.clone(),
        members: members.clone(),
        joins,
        log,
        snapshots: SnapshotOptions::default(),
    };
    let opening = Store::open(Arc::clone(&disk), &options).map_err(failed)?;
    let identity = &opening.identity;
    let (us, directory) = (identity.replica, &name);
    info!(%us, directory, incarnation = identity.incarnation + 1, "opened the data directory");
    for error in &opening.damaged {
        warn!(%us, directory, %error, "a snapshot cannot be used");
    }
    let cluster = config.cluster.clone();
    Ok(Kept { opening, name, log, disk, trailed, cluster })
}

/// The list of the first epoch. Its members are those that the directory was made for, and their
/// addresses are as configured: they are compared once the epoch is known.
fn first_list(
    founders: &BTreeSet<MemberId>,
    config: &MeshConfig,
) -> Result<Membership, StartError> {
    let own = config.socket.as_ref().and_then(|socket| socket.local_addr().ok());
    let unknown = || SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into();
    let members = founders.iter().map(|id| {
        let own = own.filter(|_| *id == config.id).map(Address::from);
        let address = config.peers.get(id).cloned().or(own).unwrap_or_else(unknown);
        Member { id: *id, address, directory: 0 }
    });
    Membership::first(members.collect()).map_err(|_| UnsupportedSize(founders.len()).into())
}

impl Kept {
    /// The members of the first epoch, if these are configured.
    fn founders<'a>(&'a self, members: &'a BTreeSet<MemberId>) -> &'a BTreeSet<MemberId> {
        let kept = &self.opening.identity.members;
        if kept.is_empty() { members } else { kept }
    }
}

impl Kept {
    /// Stores which requests are never executed, and opens the trail.
    fn skip<S: StateMachine>(
        &self,
        applier: &Applier<S>,
        more: &BTreeSet<RequestId>,
        us: MemberId,
    ) -> Result<(BTreeSet<RequestId>, Option<Trail>), StartError> {
        let failed = |error| StartError::Storage { directory: self.name.clone(), error };
        let known = read_skipped(&*self.disk).map_err(failed)?;
        let is_executed = |it: &&RequestId| applier.sessions().is_used(**it);
        if let Some(request) = more.difference(&known).find(is_executed) {
            return Err(StartError::TooLateToSkip { request: *request });
        }
        let skipped = add_skipped(&*self.disk, more).map_err(failed)?;
        if !skipped.is_empty() {
            let requests = skipped.iter().map(RequestId::to_string).collect::<Vec<_>>().join(" ");
            warn!(%us, requests, "these are not executed here, and must not be at any replica");
        }
        if !self.trailed {
            return Ok((skipped, None));
        }
        let trail = Trail::begin(&*self.disk).map_err(failed)?;
        if let Some(last) = trail.last().filter(|last| !skipped.contains(&last.request)) {
            let LastCommand { request, instance, bytes, digest, lives } = last;
            let digest = format!("{digest:016x}");
            warn!(
                %us, %request, instance, bytes, digest, lives,
                "the process ended while it executed this command: if it ends there every time, \
                 the command must be skipped at all replicas"
            );
        }
        Ok((skipped, Some(trail)))
    }
}

/// The hash of skipped requests that replicas compare: equal for equal sets, 0 for none.
fn skipped_hash(skipped: &BTreeSet<RequestId>) -> u64 {
    let lines: String = skipped.iter().map(|request| format!("{request}\n")).collect();
    if lines.is_empty() { 0 } else { xxhash_rust::xxh3::xxh3_64(lines.as_bytes()).max(1) }
}

impl Begun {
    /// Restores the core from the records after the snapshot, and continues the log where they end.
    fn restore<P: NodeProtocol>(
        self,
        epochs: &mut Epochs<P>,
        members: &BTreeSet<MemberId>,
        shared: &Arc<ReplicaShared>,
        out: &mut replica::Output<P::Message, P::Record>,
    ) -> Result<Restarted<P>, StartError> {
        let Begun { kept: Kept { opening, name, log, disk, .. }, first, next } = self;
        let failed = |error| StartError::Storage { directory: name.clone(), error };
        let mut replay = Replay::new(epochs, shared, out);
        replay.restored.snapshot_bytes = first.as_ref().map_or(0, |first| first.info.bytes);
        let store = opening.replay(&mut |position, record| replay.take(position, record));
        if let Some(fault) = shared.fault() {
            return Err(StartError::Restore(fault));
        }
        let store = store.map_err(failed)?;
        let restored = replay.finish().ok_or_else(|| {
            let gone = || Fault::Bug("the apply thread is gone".to_owned());
            StartError::Restore(shared.fault().unwrap_or_else(gone))
        })?;
        if epochs.list().is_some_and(|list| list.epoch() == 0) {
            store.identity.check_members(members).map_err(failed)?;
        }
        if store.identity.incarnation > 1 {
            say_end(shared.id, &name, store.log.found_end());
        }
        let durable = store.log.durable();
        let mut out = epochs::Output::default();
        epochs.resume(shared.clock.now(), durable, &mut out);
        let first = match (first, store.snapshots.newest().map_err(failed)?) {
            (Some(FirstSnapshot { epoch, own, info, state_bytes }), Some(reader)) => {
                let readable = (own.bytes > 0).then_some(Readable::File(reader));
                Some(First { epoch, own, info, readable, state_bytes })
            }
            _ => None,
        };
        let leave_free = log.keep_free.saturating_add(log.segment_bytes as u64);
        let memory = epochs.memory().into_iter().collect();
        let register = Register::on_disk(store.identity, Arc::clone(&disk), memory);
        let kept_snapshots = SnapshotStore::Disk { snapshots: store.snapshots, disk, leave_free };
        let journal = Journal::start(store.log, log.durability, restored, shared);
        let journal = journal.map_err(failed)?;
        Ok(Restarted { out, journal, kept_snapshots, first, next, register })
    }
}
