//! What goes into a replica's step and what comes out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::freshness::Record;
use super::transfer::{Arrival, OwnSnapshot, SnapshotRead, Transfer, Wishes};
use crate::types::{
    Batch, Command, Durable, Executed, InstanceId, Known, LogPosition, ReplicaId, ReplicaSet,
    RequestId, Time,
};

/// What replicas say to each other: the protocol's messages, signs of life, and snapshots.
#[derive(Clone, PartialEq, Debug)]
pub enum PeerMessage<M> {
    /// "I am here; it was `sent` on my clock."
    Ping {
        /// The sender's clock.
        sent: Time,
    },
    /// The answer, with the moment on the clock of who asked.
    Pong {
        /// The asker's clock when it asked.
        echo: Time,
    },
    /// "Say when you have this, and so all large messages before it; it was `sent` on my clock." On
    /// the same lane as those.
    Probe {
        /// The sender's clock.
        sent: Time,
    },
    /// The answer to a probe, with the moment on the clock of who asked.
    Probed {
        /// The asker's clock when it asked.
        echo: Time,
    },
    /// About snapshots.
    Transfer(Transfer),
    /// For the protocol.
    Protocol(M),
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<M> {
    /// A client of this replica wants a command executed.
    Propose(Command),
    /// A frame of a peer says in which life it is, and how far its log is durable. Comes before
    /// what that frame says.
    Heard {
        /// The peer.
        peer: ReplicaId,
        /// What is known of it now.
        known: Known,
    },
    /// A peer said something.
    Peer {
        /// The peer.
        from: ReplicaId,
        /// What it said.
        message: PeerMessage<M>,
    },
    /// Messages to these were so large that they went on a lane of their own, which small ones
    /// overtake.
    SentLarge(ReplicaSet),
    /// The log is durable up to here.
    Durable(Durable),
    /// An own snapshot is durable. Also the one that a restarted replica began with.
    Snapshot(OwnSnapshot),
    /// What was read for one of [`Output::snapshot_reads`], or that it could not be: then that
    /// snapshot is offered no more. Each read is answered once.
    SnapshotRead {
        /// As it was asked for.
        read: SnapshotRead,
        /// As many bytes as were asked for.
        bytes: Option<Bytes>,
    },
    /// [`Timing::tick`](crate::types::Timing::tick) passed.
    Tick,
}

/// What a snapshot holds besides the state of the state machine.
#[derive(Clone, PartialEq, Debug)]
pub struct Checkpoint<S, R> {
    /// It stands for all records before this position: those must be durable before it counts.
    pub position: LogPosition,
    /// What the state machine has executed.
    pub executed: Executed,
    /// What every replica has to know that starts from this state.
    pub shared: S,
    /// What only this replica has to know.
    pub own: Vec<Record<R>>,
}

/// What has to follow, in this order: append the records; send the messages; execute; read.
#[derive(Debug)]
pub struct Output<M, R> {
    /// To be appended to the log, in order. Answer with [`Input::Durable`].
    pub records: Vec<Record<R>>,
    /// Released already: may be sent at once.
    pub messages: Vec<(ReplicaSet, PeerMessage<M>)>,
    /// To be applied, in this order.
    pub execute: Vec<Execution>,
    /// Reads to be answered from the state after all that: by this replica alone, and as if they
    /// had never been proposed. In no session, and not after [`Core::lease_end`].
    ///
    /// [`Core::lease_end`]: super::Core::lease_end
    pub reads: Vec<Command>,
    /// Commands that surely had no effect.
    pub rejected: Vec<(RequestId, Rejection)>,
    /// This replica's own instances whose decision became known.
    pub committed: Vec<Committed>,
    /// Another replica needs a snapshot that is newer than all own ones: take one soon, unless one
    /// is being taken already.
    pub snapshot_wanted: bool,
    /// To be read from own snapshots, each within its turn. Answer with [`Input::SnapshotRead`].
    pub snapshot_reads: Vec<SnapshotRead>,
    /// What came of another replica's snapshot, in this order.
    pub snapshot_received: Vec<Arrival>,
}

impl<M, R> Default for Output<M, R> {
    fn default() -> Output<M, R> {
        Output {
            records: Vec::new(),
            messages: Vec::new(),
            execute: Vec::new(),
            reads: Vec::new(),
            rejected: Vec::new(),
            committed: Vec::new(),
            snapshot_wanted: false,
            snapshot_reads: Vec::new(),
            snapshot_received: Vec::new(),
        }
    }
}

impl<M, R> Output<M, R> {
    /// Empties it, keeping the memory.
    pub fn clear(&mut self) {
        self.records.clear();
        self.messages.clear();
        self.execute.clear();
        self.reads.clear();
        self.rejected.clear();
        self.committed.clear();
        self.snapshot_wanted = false;
        self.snapshot_reads.clear();
        self.snapshot_received.clear();
    }

    /// Takes over what the transfers of snapshots want done.
    pub(super) fn add_wishes(&mut self, wishes: &mut Wishes) {
        let messages = wishes.messages.drain(..);
        self.messages.extend(messages.map(|(to, message)| (to, PeerMessage::Transfer(message))));
        self.snapshot_reads.append(&mut wishes.reads);
        self.snapshot_received.append(&mut wishes.received);
        self.snapshot_wanted |= std::mem::take(&mut wishes.wanted);
    }
}

/// An instance whose turn has come.
#[derive(Clone, PartialEq, Debug)]
pub struct Execution {
    /// The instance.
    pub id: InstanceId,
    /// Its commands.
    pub batch: Arc<Batch>,
    /// The last of its component: the state may be observed after it, not inside.
    pub ends_component: bool,
}

/// An own instance whose decision became known here.
#[derive(Clone, PartialEq, Debug)]
pub struct Committed {
    /// The instance.
    pub id: InstanceId,
    /// Its commands.
    pub batch: Arc<Batch>,
    /// Whether it took one round trip.
    pub fast: bool,
    /// From the proposal of the instance to its commit.
    pub took: Duration,
}

/// Why a command was turned away. It surely had no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// Too much is waiting already: slow down and try again.
    #[error("the replica has too many commands waiting; slow down and try again")]
    Overloaded,
    /// Too much is kept in memory for a member that does not execute it.
    #[error(
        "a member of the cluster is away or far behind, and this replica keeps as much for it as \
         it may; bring that member back, or allow more memory"
    )]
    Full,
    /// No quorum has been reached for a while, so it could not be decided.
    #[error("no quorum can be reached from this replica, so nothing was proposed")]
    NoQuorum,
    /// The command is larger than a peer would take.
    #[error(
        "a command names at most {} keys (beyond that, declare `Footprint::Everything`) and has at \
         most {} bytes",
        Command::MAX_KEYS,
        Command::MAX_BYTES
    )]
    TooLarge,
}
