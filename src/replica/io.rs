//! The inputs and outputs of a replica's step.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::freshness::Record;
use super::transfer::{Arrival, OwnSnapshot, SnapshotRead, Transfer, Wishes};
use crate::types::{
    Batch, Command, Durable, Executed, InstanceId, Known, LogPosition, ReplicaId, ReplicaSet,
    RequestId, Time,
};

/// The messages between replicas: those of the protocol, pings and probes, and snapshots.
#[derive(Clone, PartialEq, Debug)]
pub enum PeerMessage<M> {
    /// A ping, `sent` at this time on the sender's clock.
    Ping {
        /// The sender's clock.
        sent: Time,
    },
    /// The answer to a ping.
    Pong {
        /// The `sent` of the ping, on the asker's clock.
        echo: Time,
    },
    /// A probe on the lane of large messages. The receiver answers when it has received it, and so
    /// all large messages before it.
    Probe {
        /// The sender's clock.
        sent: Time,
    },
    /// The answer to a probe.
    Probed {
        /// The `sent` of the probe, on the asker's clock.
        echo: Time,
    },
    /// A message of a snapshot transfer.
    Transfer(Transfer),
    /// A message of the protocol.
    Protocol(M),
}

/// An input to a step.
#[derive(Clone, Debug)]
pub enum Input<M> {
    /// A client of this replica wants a command executed.
    Propose(Command),
    /// A peer's frame shows the peer's life and how far its log is durable. Comes before the
    /// messages of that frame.
    Heard {
        /// The peer.
        peer: ReplicaId,
        /// What is known of the peer now.
        known: Known,
    },
    /// A message from a peer arrived.
    Peer {
        /// The peer.
        from: ReplicaId,
        /// The message.
        message: PeerMessage<M>,
    },
    /// Messages to these replicas were so large that they went on a lane of their own. Small
    /// messages overtake them.
    SentLarge(ReplicaSet),
    /// The log is durable up to here.
    Durable(Durable),
    /// A snapshot of this replica is durable; also the one that a restarted replica began with.
    Snapshot(OwnSnapshot),
    /// A copy of an own snapshot was made for other replicas, which cannot read the snapshot
    /// itself. It may be older than the newest one.
    Lent(OwnSnapshot),
    /// The result of one of [`Output::snapshot_reads`]; each read gets exactly one. After a failure
    /// the snapshot is no longer offered.
    SnapshotRead {
        /// The read, as requested.
        read: SnapshotRead,
        /// Exactly as many bytes as requested; `None` if the read failed.
        bytes: Option<Bytes>,
    },
    /// [`Timing::tick`](crate::types::Timing::tick) passed.
    Tick,
}

/// What a snapshot holds besides the state of the state machine.
#[derive(Clone, PartialEq, Debug)]
pub struct Checkpoint<S, R> {
    /// The snapshot replaces all records before this position. They must be durable before it
    /// counts.
    pub position: LogPosition,
    /// What the state machine has executed.
    pub executed: Executed,
    /// The protocol state for every replica that starts from this snapshot.
    pub shared: S,
    /// The records for this replica alone.
    pub own: Vec<Record<R>>,
}

/// The effects of a step, to be carried out in this order: append the records, send the messages,
/// execute, read.
#[derive(Debug)]
pub struct Output<M, R> {
    /// To be appended to the log, in order. Answer with [`Input::Durable`].
    pub records: Vec<Record<R>>,
    /// May be sent at once: their records are durable.
    pub messages: Vec<(ReplicaSet, PeerMessage<M>)>,
    /// To be applied, in this order.
    pub execute: Vec<Execution>,
    /// Reads to be answered from the state after `execute`. Only this replica answers them, as if
    /// they had never been proposed: in no session, and not after [`Core::lease_end`].
    ///
    /// [`Core::lease_end`]: super::Core::lease_end
    pub reads: Vec<Command>,
    /// Commands that were rejected. They had no effect.
    pub rejected: Vec<(RequestId, Rejection)>,
    /// This replica's own instances whose decision became known.
    pub committed: Vec<Committed>,
    /// Another replica needs a newer snapshot than this one has: take one soon, unless one is
    /// already being taken.
    pub snapshot_wanted: bool,
    /// Reads from this replica's snapshots, each with its turn of the disk. Answer with
    /// [`Input::SnapshotRead`].
    pub snapshot_reads: Vec<SnapshotRead>,
    /// Progress of receiving another replica's snapshot, in order.
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
    /// Empties it, keeping its memory.
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

    /// Adds what the snapshot transfers want done.
    pub(super) fn add_wishes(&mut self, wishes: &mut Wishes) {
        let messages = wishes.messages.drain(..);
        self.messages.extend(messages.map(|(to, message)| (to, PeerMessage::Transfer(message))));
        self.snapshot_reads.append(&mut wishes.reads);
        self.snapshot_received.append(&mut wishes.received);
        self.snapshot_wanted |= std::mem::take(&mut wishes.wanted);
    }
}

/// An instance that may now be executed.
#[derive(Clone, PartialEq, Debug)]
pub struct Execution {
    /// The instance.
    pub id: InstanceId,
    /// Its commands.
    pub batch: Arc<Batch>,
    /// The last of its component. The state may be observed after it, but not inside a component.
    pub ends_component: bool,
    /// This replica, as the instance's epoch calls it: it answers the commands of this origin.
    pub me: ReplicaId,
}

/// An instance of this replica whose decision became known here.
#[derive(Clone, PartialEq, Debug)]
pub struct Committed {
    /// The instance.
    pub id: InstanceId,
    /// Its commands.
    pub batch: Arc<Batch>,
    /// Whether it took one round trip.
    pub fast: bool,
    /// The time from its proposal to its commit.
    pub took: Duration,
}

/// Why a command was rejected. It had no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// Too many commands are waiting: slow down and try again.
    #[error("the replica has too many commands waiting; slow down and try again")]
    Overloaded,
    /// Too much memory is in use for a member that does not execute.
    #[error(
        "a member of the cluster is away or far behind, and this replica keeps as much for it as \
         it may; bring that member back, or allow more memory"
    )]
    Full,
    /// No quorum has been reachable for a while, so the command could not be decided.
    #[error("no quorum can be reached from this replica, so nothing was proposed")]
    NoQuorum,
    /// The command is larger than peers accept.
    #[error(
        "a command names at most {} keys (beyond that, declare `Footprint::Everything`) and has at \
         most {} bytes",
        Command::MAX_KEYS,
        Command::MAX_BYTES
    )]
    TooLarge,
}
