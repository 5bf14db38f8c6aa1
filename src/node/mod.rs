//! A running replica: the clock, the threads and the queues around the sans-IO core, and the handle
//! with which a program embeds it. It sits after `replica`, `storage` and `mesh`, and joins them.
//!
//! The way of a command: [`Replica::propose`] (or a client's request in `clients`) → `turns`, while
//! callers compete → `pending`, where the caller waits → the queue of proposals → `runner`, the
//! core thread, which takes one step over everything that has arrived → the mesh, and back through
//! `inbox` → the core decides and orders → `apply`, the apply thread → `pending` answers. Every
//! queue has a bound; [`Limits`] says what happens at each.
//!
//! Threads: the core thread runs one event loop with the network and the core. The log thread
//! (`journal`) flushes all records that arrived during the last flush together. The apply thread
//! runs the state machine. A worker does the slow parts of a `snapshot`. `start` starts and ends
//! them. Callers may be on any thread, in any runtime or in none.
//!
//! Read the files in this order; each uses only those before it:
//!
//! 1. what a user sees: `limits`, `poison`, `error`, `members`, `latency`, `metrics`, `status`;
//! 2. fairness and waiting: `clock`, `panics`, `rota`, `window`, `turns`, `flow`, `pending`,
//!    `fetched`;
//! 3. what the threads share: `work`, `shared`;
//! 4. each thread's own part: `apply`, `journal`, `records`, `reminder`, `snapshot`;
//! 5. input from the network: `register`, `quotas`, `clients`, `inbox`;
//! 6. the whole: `meeting`, `runner`, `start`, `builder`, `cluster`.
//!
//! `session` builds on the handle in this file. `inspect` needs only a directory, and so does
//! `backup`, except for a replica that runs.

mod apply;
mod backup;
mod builder;
mod clients;
mod clock;
#[cfg(feature = "authority")]
mod cluster;
mod error;
mod fetched;
mod flow;
mod inbox;
mod inspect;
mod journal;
mod latency;
mod limits;
mod meeting;
mod members;
mod metrics;
mod panics;
mod pending;
mod poison;
mod quotas;
mod records;
mod register;
mod reminder;
mod rota;
mod runner;
mod session;
mod shared;
mod snapshot;
mod standing;
mod start;
mod status;
mod turns;
mod window;
mod work;

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::oneshot;

pub use backup::{Backup, BackupError, BackupOptions, RestoreOptions, Source, backup, restore};
pub(crate) use backup::{Fetched, check_name as check_backup_name};
pub use builder::ReplicaBuilder;
#[cfg(feature = "authority")]
pub use cluster::{LocalCluster, LocalClusterBuilder, NotConverged};
pub use error::{Fault, ProposeError, Rejected, SnapshotError, StartError, Unknown};
pub use latency::Latency;
pub use limits::Limits;
pub use members::NotChanged;
pub use metrics::{FastSlow, LogMetrics, Metrics, PathLatency, Restored, SnapshotMetrics};
pub use poison::PoisonedCommand;
pub use session::{Session, Unanswered};
pub use standing::{Progress, ProtocolStanding};
pub use status::{Explanation, Standing, Status};

// From private rooms, because public signatures here use them.
pub use crate::mesh::PeerStatus;
pub use crate::protocol::epaxos::Phase;
pub use crate::protocol::{Paths, ProtocolKind, UnknownProtocol};
pub use crate::replica::{Reach, Receiving, ReplicaStatus, Silence};
pub use crate::storage::{Durability, SnapshotInfo, StorageError};
pub use crate::wire::{Members, Role};

// For the command `isonomy`; not part of the public API.
#[doc(hidden)]
pub use inspect::{Inspection, OwnersInstances, SharedContents, SnapshotContents};

use crate::machine::{Given, MachineSource, StateMachine, decode, encode};
use crate::types::{
    Change, ClientId, Consistency, Era, InstanceId, MemberId, Membership, Numbering, RequestId,
};
use fetched::Asker;
use panics::lock;
use pending::{Answer, Waiter};
use shared::{Question, ReplicaShared};

/// A handle to a replica that runs in this process. Cloning it is cheap. When the last handle is
/// dropped, including those in sessions, the replica shuts down as with [`Replica::shutdown`].
pub struct Replica<S: StateMachine> {
    inner: Arc<Inner>,
    machine: PhantomData<fn() -> S>,
}

struct Inner {
    shared: Arc<ReplicaShared>,
    cluster: String,
    local_addr: SocketAddr,
    /// The session of callers that name none.
    client: ClientId,
    numbers: Mutex<Numbering>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.advance(shared::Lifecycle::Stopping);
    }
}

impl<S: StateMachine> Replica<S> {
    /// Builds a replica of `machine`: configure it and start it.
    pub fn builder(machine: S) -> ReplicaBuilder<S> {
        ReplicaBuilder::new(Arc::new(Given::new(machine)))
    }

    /// Builds a replica whose state machine keeps its state on disk itself. Its machines come from
    /// `source`, at the start and when another replica's state arrives.
    pub fn builder_from(source: impl MachineSource<Machine = S>) -> ReplicaBuilder<S> {
        ReplicaBuilder::new(Arc::new(source))
    }

    /// Executes a command and returns its output. Linearizable: every later read, at any replica,
    /// sees the effect.
    ///
    /// One handle may have many commands under way; they are executed in any order. If the future
    /// is dropped, the command may still be executed.
    ///
    /// # Errors
    /// [`ProposeError`], by what the caller may conclude about the command. To be able to retry
    /// after `Unknown`, use a [`Session`].
    pub async fn propose(&self, command: S::Command) -> Result<S::Output, ProposeError> {
        let payload = encode_command::<S>(&command)?;
        let footprint = S::footprint(&command);
        loop {
            let (sequence, floor) = self.inner.shared.next_of(&self.inner.numbers);
            // No caller can retry this sequence, so it is finished in any case.
            let _finish = Finish { numbers: &self.inner.numbers, sequence };
            let request = RequestId::new(self.inner.client, sequence);
            let (footprint, payload) = (footprint.clone(), payload.clone());
            let cost = turns::cost(payload.len());
            let submit = |waiter| {
                self.inner.shared.submit(request, floor, footprint, payload, waiter);
            };
            match self.answered(cost, submit).await {
                // No attempt had an effect. The next one is numbered in the new era.
                Err(ProposeError::Rejected(Rejected::Expired(era))) if era > Era::of(sequence) => {}
                answer => return answer,
            }
        }
    }

    /// Answers a command that writes nothing.
    ///
    /// A `Linearizable` read is proposed like any other command (a round trip to a majority, for
    /// now). A `Local` read is answered from this replica's current state, which may be stale.
    ///
    /// # Errors
    /// [`Rejected::Writes`] if its footprint writes, and as [`Replica::propose`]. A read that ends
    /// as `Unknown` can be repeated.
    pub async fn read(
        &self,
        command: S::Command,
        consistency: Consistency,
    ) -> Result<S::Output, ProposeError> {
        if !S::footprint(&command).is_read_only() {
            return Err(Rejected::Writes.into());
        }
        match consistency {
            Consistency::Linearizable => self.propose(command).await,
            Consistency::Local => {
                let payload = encode_command::<S>(&command)?;
                let cost = turns::cost(payload.len());
                self.answered(cost, |waiter| self.inner.shared.read_local(payload, waiter)).await
            }
        }
    }

    /// A new session. Its id must never have been used before: each of two sessions with one id
    /// would get the other's answers. Network clients never use ids below 2^40 nor those of
    /// [`ClientId::local`].
    pub fn session(&self, id: ClientId) -> Session<S> {
        self.session_from(id, 1)
    }

    /// Continues a session from elsewhere that has finished every sequence below `next`.
    pub fn session_from(&self, id: ClientId, next: u64) -> Session<S> {
        Session::new(self.clone(), id, Numbering::starting_at(next))
    }

    /// Executes a command under an id and a sequence that the caller chooses. `floor` is the lowest
    /// sequence of that client that may still be retried. [`Session`] does both. A new client's
    /// sequences start at the [`era`](Replica::era)'s first.
    ///
    /// # Errors
    /// As [`Replica::propose`].
    pub async fn submit(
        &self,
        request: RequestId,
        floor: u64,
        command: S::Command,
    ) -> Result<S::Output, ProposeError> {
        let payload = encode_command::<S>(&command)?;
        let footprint = S::footprint(&command);
        self.answered(turns::cost(payload.len()), |waiter| {
            self.inner.shared.submit(request, floor, footprint, payload, waiter);
        })
        .await
    }

    async fn answered(
        &self,
        cost: u64,
        ask: impl FnOnce(Waiter),
    ) -> Result<S::Output, ProposeError> {
        let turn = self.inner.shared.turns.take(turns::LOCAL, cost).await;
        let (sender, receiver) = oneshot::channel::<Answer>();
        ask(Waiter::Local(sender, Some(turn)));
        let output = receiver.await.unwrap_or_else(|_| Err(self.inner.shared.end().0))?;
        decode(&output).map_err(|error| Unknown::BadOutput(error.to_string()).into())
    }

    /// This replica's id.
    pub fn id(&self) -> MemberId {
        self.inner.shared.id
    }

    /// The address where it listens for peers and clients.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// The peers that are connected now.
    pub fn connected(&self) -> BTreeSet<MemberId> {
        self.inner.shared.connected.borrow().clone()
    }

    /// Waits until at least `peers` other replicas are connected; false if this one stops first.
    pub async fn wait_connected(&self, peers: usize) -> bool {
        let shared = &self.inner.shared;
        let mut connected = shared.connected.subscribe();
        let mut stopped = shared.stopped.subscribe();
        tokio::select! {
            enough = connected.wait_for(|now| now.len() >= peers) => enough.is_ok(),
            _ = stopped.wait_for(|stopped| *stopped) => false,
        }
    }

    /// The replica's state; `None` once it has stopped.
    pub async fn status(&self) -> Option<Status> {
        self.inner.shared.ask(Question::Status).await
    }

    /// The figures so far; after a stop, the last ones.
    pub async fn metrics(&self) -> Option<Metrics> {
        match self.inner.shared.ask(Question::Metrics).await {
            Some(metrics) => Some(metrics),
            None => lock(&self.inner.shared.last).clone(),
        }
    }

    /// How far an instance is here and what it waits for; `None` once the replica has stopped.
    pub async fn explain(&self, instance: InstanceId) -> Option<Explanation> {
        self.inner.shared.ask(|sender| Question::Explain(instance, sender)).await
    }

    /// Takes a snapshot of everything executed here so far, and waits until it is durable. The
    /// replica also takes snapshots by itself (`Limits::snapshot_every`).
    ///
    /// # Errors
    /// [`SnapshotError`]. A failed snapshot does the replica no harm.
    pub async fn snapshot(&self) -> Result<SnapshotInfo, SnapshotError> {
        let ask = |asker| Question::Snapshot(Asker::Snapshot(asker));
        let asked = self.inner.shared.ask(ask).await;
        asked.unwrap_or(Err(SnapshotError::Stopped))
    }

    /// Writes a backup of this replica to `file`, from which [`restore`] makes directories of a new
    /// cluster, while both go on. The backup has everything that was answered anywhere in the
    /// cluster before this was called.
    ///
    /// # Errors
    /// [`BackupError`]. After an error no part of the new file remains, and an existing file is
    /// unchanged.
    pub async fn backup(
        &self,
        file: impl AsRef<Path>,
        overwrite: bool,
    ) -> Result<Backup, BackupError> {
        self.inner.shared.backup(&self.inner.cluster, file.as_ref(), overwrite).await
    }

    /// The members of the cluster as this replica knows them; `None` once it has stopped.
    pub async fn members(&self) -> Option<Members> {
        self.inner.shared.ask(Question::Members).await
    }

    /// What this replica is to the cluster. Only a [`Role::Member`] takes part; a
    /// [`Role::Observer`] answers local reads.
    pub fn role(&self) -> Role {
        *self.inner.shared.role.borrow()
    }

    /// Waits until the replica takes part, or observes. Only one that
    /// [joins](ReplicaBuilder::join), or that stopped while it did, has to wait. False if it stops
    /// first.
    pub async fn wait_member(&self) -> bool {
        let shared = &self.inner.shared;
        let mut role = shared.role.subscribe();
        let mut stopped = shared.stopped.subscribe();
        tokio::select! {
            member = role.wait_for(|role| matches!(role, Role::Member | Role::Observer)) => {
                member.is_ok()
            }
            _ = stopped.wait_for(|stopped| *stopped) => false,
        }
    }

    /// Changes the members while the cluster runs, and returns the new list once this replica has
    /// begun to work by it. A member that is added gets its number and its address from
    /// [`Change`]; it has to be running and connected ([`ReplicaBuilder::join`]).
    ///
    /// With `force`, two members are accepted where neither may fail.
    ///
    /// # Errors
    /// [`NotChanged`], by what the caller may conclude.
    pub async fn change_members(
        &self,
        change: Change,
        force: bool,
    ) -> Result<Membership, NotChanged> {
        let ask = |asker| Question::ChangeMembers(change, force, asker);
        self.inner.shared.ask(ask).await.unwrap_or(Err(NotChanged::Stopped))
    }

    /// A hash of the replicated state after everything executed here so far. It is the same at
    /// every replica that has executed the same. `None` once the replica has stopped.
    pub async fn digest(&self) -> Option<u64> {
        self.inner.shared.ask(Question::Digest).await
    }

    /// The current era here. One of the cluster's own commands ends an era for all sessions
    /// together. Commands of an era are numbered from its [first sequence](Era::first_sequence) on.
    pub fn era(&self) -> Era {
        self.inner.shared.era()
    }

    /// Why the replica has failed; `None` if it has not.
    pub fn fault(&self) -> Option<Fault> {
        self.inner.shared.fault()
    }

    /// Refuses new commands, answers pending ones for at most the builder's `shutdown_patience`,
    /// closes its connections and stops. Callers still without an answer get `Unknown`.
    pub async fn shutdown(&self) {
        self.inner.shared.advance(shared::Lifecycle::Stopping);
        self.wait_stopped().await;
    }

    /// Stops at once, as if the process had been killed. Neither peers nor clients are told;
    /// callers in this process get `Unknown`.
    pub fn kill(&self) {
        self.inner.shared.advance(shared::Lifecycle::Killed);
    }

    /// Pauses the replica, as a debugger or a swapping machine would: it receives, sends and
    /// decides nothing until the result is dropped. Callers wait meanwhile. `None` if the replica
    /// has stopped for good.
    #[doc(hidden)]
    pub async fn pause(&self) -> Option<Pause> {
        let (sender, receiver) = crossbeam::channel::bounded(0);
        self.inner.shared.ask(|told| Question::Pause(receiver, told)).await?;
        Some(Pause(sender))
    }

    /// Waits until the replica has stopped, for any reason.
    pub async fn wait_stopped(&self) {
        let mut stopped = self.inner.shared.stopped.subscribe();
        // The sender lives as long as this handle.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// A paused replica; it continues when this is dropped.
#[doc(hidden)]
#[derive(Debug)]
#[must_use = "the replica goes on when this is dropped"]
pub struct Pause(
    #[expect(dead_code, reason = "its end is what counts")] crossbeam::channel::Sender<()>,
);

fn encode_command<S: StateMachine>(command: &S::Command) -> Result<Bytes, Rejected> {
    S::check(command).map_err(Rejected::BadCommand)?;
    encode(command).map_err(|error| Rejected::BadCommand(error.to_string()))
}

/// Finishes a sequence when it is dropped, also if the future that holds it is dropped.
struct Finish<'a> {
    numbers: &'a Mutex<Numbering>,
    sequence: u64,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        lock(self.numbers).finish(self.sequence);
    }
}

impl<S: StateMachine> Clone for Replica<S> {
    fn clone(&self) -> Replica<S> {
        Replica { inner: Arc::clone(&self.inner), machine: PhantomData }
    }
}

impl<S: StateMachine> std::fmt::Debug for Replica<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("id", &self.inner.shared.id)
            .field("local_addr", &self.inner.local_addr)
            .finish_non_exhaustive()
    }
}
