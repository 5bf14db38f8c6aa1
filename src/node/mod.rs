//! A running replica: the clock, the threads and the queues around the sans-IO core, and the
//! handle by which a program embeds it. After `replica`, `storage` and `mesh`, which it joins.
//!
//! A command's way: [`Replica::propose`] (or a client's request in `clients`) → `turns`, while
//! callers compete → `pending`, where the caller waits → the queue of proposals → `runner`, the
//! core thread: one step over all that has arrived → the mesh, and back through `inbox` → the core
//! decides and orders → `apply`, the apply thread → `pending` answers. Every queue has a bound;
//! what happens at each is said in [`Limits`].
//!
//! Threads: the core thread runs one event loop with the network and the core; the log thread
//! (`journal`) flushes its records, everything that has come meanwhile at once; the apply thread
//! runs the state machine; a worker does what is slow about a `snapshot`. `start` begins and ends
//! them. Callers may be on any thread, in any
//! runtime or in none.
//!
//! To read in this order, each file using only those before it:
//!
//! 1. what a user sees: `limits`, `poison`, `error`, `latency`, `metrics`, `status`;
//! 2. fairness and waiting: `clock`, `panics`, `rota`, `window`, `turns`, `flow`, `pending`;
//! 3. what the threads share: `work`, `shared`;
//! 4. each thread's own: `apply`, `journal`, `reminder`, `snapshot`;
//! 5. what comes in: `register`, `quotas`, `clients`, `inbox`;
//! 6. all together: `meeting`, `runner`, `start`, `builder`, `cluster`.
//!
//! `session` is a handle on this file's; `inspect` and `backup` work on a directory alone.

mod apply;
mod backup;
mod builder;
mod clients;
mod clock;
#[cfg(feature = "authority")]
mod cluster;
mod error;
mod flow;
mod inbox;
mod inspect;
mod journal;
mod latency;
mod limits;
mod meeting;
mod metrics;
mod panics;
mod pending;
mod poison;
mod quotas;
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

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::oneshot;

pub use backup::{Backup, BackupError, BackupOptions, Source, backup, restore};
pub use builder::ReplicaBuilder;
#[cfg(feature = "authority")]
pub use cluster::{LocalCluster, LocalClusterBuilder, NotConverged};
pub use error::{Fault, ProposeError, Rejected, SnapshotError, StartError, Unknown};
pub use latency::Latency;
pub use limits::Limits;
pub use metrics::{FastSlow, LogMetrics, Metrics, PathLatency, Restored, SnapshotMetrics};
pub use poison::PoisonedCommand;
pub use session::{Session, Unanswered};
pub use standing::{Progress, ProtocolStanding};
pub use status::{Explanation, Standing, Status};

// From private rooms, for the signatures here.
pub use crate::mesh::PeerStatus;
pub use crate::protocol::epaxos::Phase;
pub use crate::protocol::{Path, Paths, ProtocolKind, UnknownProtocol};
pub use crate::replica::{Reach, Receiving, ReplicaStatus, Silence};
pub use crate::storage::{Durability, SnapshotInfo, StorageError};

// For the command `isonomy`: no part of the public API.
#[doc(hidden)]
pub use inspect::{Inspection, OwnersInstances, SharedContents, SnapshotContents};

use crate::machine::{StateMachine, decode, encode};
use crate::types::{
    ClientId, Consistency, Era, InstanceId, Numbering, ReplicaId, ReplicaSet, RequestId,
};
use panics::lock;
use pending::{Answer, Waiter};
use shared::{Question, ReplicaShared};

/// The cluster's membership never changes yet, so there is one epoch.
const EPOCH: u32 = 1;

/// A handle to a replica that runs in this process. Cheap to clone; when the last one is dropped,
/// sessions' included, the replica shuts down by itself, as by [`Replica::shutdown`].
pub struct Replica<S: StateMachine> {
    inner: Arc<Inner>,
    machine: PhantomData<fn() -> S>,
}

struct Inner {
    shared: Arc<ReplicaShared>,
    local_addr: SocketAddr,
    /// The session of those who don't name one.
    client: ClientId,
    numbers: Mutex<Numbering>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.advance(shared::Phase::Stopping);
    }
}

impl<S: StateMachine> Replica<S> {
    /// A replica of `machine`, to be configured and started.
    pub fn builder(machine: S) -> ReplicaBuilder<S> {
        ReplicaBuilder::new(machine)
    }

    /// Executes a command, and answers with its output: some replica of the cluster may be behind,
    /// but whoever asks later, anywhere, sees its effect.
    ///
    /// Many may be under way from one handle; they are executed in any order. If the future is
    /// dropped, the command may still be executed.
    ///
    /// # Errors
    /// [`ProposeError`], by what may be concluded about the command. To be able to try again after
    /// `Unknown`, use a [`Session`].
    pub async fn propose(&self, command: S::Command) -> Result<S::Output, ProposeError> {
        let payload = encode_command::<S>(&command)?;
        let footprint = S::footprint(&command);
        loop {
            let (sequence, floor) = self.inner.shared.next_of(&self.inner.numbers);
            // Nobody can try it again, so that whatever happens, it is finished.
            let _finish = Finish { numbers: &self.inner.numbers, sequence };
            let request = RequestId::new(self.inner.client, sequence);
            let (footprint, payload) = (footprint.clone(), payload.clone());
            let cost = turns::cost(payload.len());
            let submit = |waiter| {
                self.inner.shared.submit(request, floor, footprint, payload, waiter);
            };
            match self.answered(cost, submit).await {
                // No attempt had an effect, and the next is numbered in the era it is.
                Err(ProposeError::Rejected(Rejected::Expired(era))) if era > Era::of(sequence) => {}
                answer => return answer,
            }
        }
    }

    /// Answers a command that writes nothing.
    ///
    /// A `Linearizable` read travels like any other command (a round trip to a majority, for now);
    /// a `Local` one is answered from this replica's state as it is, which may be behind.
    ///
    /// # Errors
    /// [`Rejected::Writes`] if its footprint writes, and as [`Replica::propose`]; a read that ends
    /// as `Unknown` can be asked again.
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

    /// A new session. Its id must be one that was never used: two sessions of one id would take
    /// each other's commands for their own. Ids below 2^40, and those of [`ClientId::local`], are
    /// never used by clients on the network.
    pub fn session(&self, id: ClientId) -> Session<S> {
        self.session_from(id, 1)
    }

    /// A session that was begun elsewhere, and has finished every sequence below `next`.
    pub fn session_from(&self, id: ClientId, next: u64) -> Session<S> {
        Session::new(self.clone(), id, Numbering::starting_at(next))
    }

    /// Executes a command under an id chosen by the caller, who also numbers: `floor` is the lowest
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

    /// Which replica this is.
    pub fn id(&self) -> ReplicaId {
        self.inner.shared.id
    }

    /// Where it listens, for peers and clients alike.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// The peers that frames pass to and from at the moment.
    pub fn connected(&self) -> ReplicaSet {
        *self.inner.shared.connected.borrow()
    }

    /// Waits until at least `peers` of the others are connected; false if the replica stops before.
    pub async fn wait_connected(&self, peers: usize) -> bool {
        let shared = &self.inner.shared;
        let mut connected = shared.connected.subscribe();
        let mut stopped = shared.stopped.subscribe();
        tokio::select! {
            enough = connected.wait_for(|now| now.len() >= peers) => enough.is_ok(),
            _ = stopped.wait_for(|stopped| *stopped) => false,
        }
    }

    /// How the replica stands; `None` once it has stopped.
    pub async fn status(&self) -> Option<Status> {
        self.inner.shared.ask(Question::Status).await
    }

    /// What it has done so far; once it has stopped, the last figures.
    pub async fn metrics(&self) -> Option<Metrics> {
        match self.inner.shared.ask(Question::Metrics).await {
            Some(metrics) => Some(metrics),
            None => lock(&self.inner.shared.last).clone(),
        }
    }

    /// How far an instance is here, and what it waits for; `None` once the replica has stopped.
    pub async fn explain(&self, instance: InstanceId) -> Option<Explanation> {
        self.inner.shared.ask(|sender| Question::Explain(instance, sender)).await
    }

    /// Takes a snapshot of everything executed here so far, and waits until it is durable. The
    /// replica takes them by itself, too (`Limits::snapshot_every`).
    ///
    /// # Errors
    /// [`SnapshotError`]; that no snapshot could be written does the replica no harm.
    pub async fn snapshot(&self) -> Result<SnapshotInfo, SnapshotError> {
        let asked = self.inner.shared.ask(Question::Snapshot).await;
        asked.unwrap_or(Err(SnapshotError::Stopped))
    }

    /// A hash of the replicated state after everything executed here so far: the same at every
    /// replica that has executed the same. `None` once the replica has stopped.
    pub async fn digest(&self) -> Option<u64> {
        self.inner.shared.ask(Question::Digest).await
    }

    /// The era that it is here: ended, for all sessions together, by a command of the cluster's
    /// own. Commands are numbered from the [first sequence](Era::first_sequence) of an era on.
    pub fn era(&self) -> Era {
        self.inner.shared.era()
    }

    /// Why the replica has failed, if it has.
    pub fn fault(&self) -> Option<Fault> {
        self.inner.shared.fault()
    }

    /// Takes nothing new, answers what is under way as far as that is possible within the builder's
    /// `shutdown_patience`, says good-bye to peers and clients, and stops. Whoever is still without
    /// an answer then gets `Unknown`.
    pub async fn shutdown(&self) {
        self.inner.shared.advance(shared::Phase::Stopping);
        self.wait_stopped().await;
    }

    /// Stops at once, as if the process had been killed: nobody is told, neither peers nor clients;
    /// callers in this process get `Unknown`.
    pub fn kill(&self) {
        self.inner.shared.advance(shared::Phase::Killed);
    }

    /// Makes the replica stand still, as if its process had been stopped by a debugger or by a
    /// machine that swaps: it neither hears nor says nor decides anything until what this returns
    /// is dropped. Callers wait meanwhile. `None` if it has stopped for good.
    #[doc(hidden)]
    pub async fn pause(&self) -> Option<Pause> {
        let (sender, receiver) = crossbeam::channel::bounded(0);
        self.inner.shared.ask(|told| Question::Pause(receiver, told)).await?;
        Some(Pause(sender))
    }

    /// Waits until the replica has stopped, for whatever reason.
    pub async fn wait_stopped(&self) {
        let mut stopped = self.inner.shared.stopped.subscribe();
        // The sender lives as long as this handle.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// A replica that stands still; it goes on when this is dropped.
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

/// Finishes a sequence when it is dropped, with the future that holds it if need be.
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
