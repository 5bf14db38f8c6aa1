//! The agreement protocols, sans-IO: `(now, input) → effects`, nothing else.
//!
//! A protocol never waits, reads a clock, draws unseeded randomness or touches a socket or a disk.
//! It gets an event and the time, and returns in [`Effects`] what has to be done. The simulator and
//! the node drive the same code.

mod context;
mod effects;
pub mod epaxos;
pub mod fast_paxos;
mod kind;
pub mod log;
pub mod multipaxos;
mod paths;
pub mod paxos;
mod rules;

pub use effects::{Effects, Outgoing};
pub use kind::{ProtocolKind, UnknownProtocol};
pub use paths::{PathSet, Paths, RECOVERY, RESUBMITTED};
pub(crate) use rules::rules;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::types::{
    Batch, Deps, Executed, ExecutionOrder, InstanceId, ReplicaId, ReplicaSet, Settings, Slot, Time,
};

/// What every agreement protocol offers to the replica that runs it.
///
/// The caller's duties:
///
/// 1. Append `effects.records` to the log, in order, before anything else.
/// 2. Send each of `effects.messages` once the log is durable up to the position that the message
///    waits for. A message to the replica itself comes back through [`Protocol::on_message`].
/// 3. Execute `effects.decisions` under the same condition.
/// 4. Call [`Protocol::on_tick`] every [`Timing::tick`](crate::types::Timing::tick).
pub trait Protocol: Sized {
    /// The messages between replicas.
    type Message: Clone + fmt::Debug + PartialEq + Send + 'static;
    /// The records that must survive a crash.
    type Record: Clone + fmt::Debug + PartialEq + Send + 'static;
    /// The part of a snapshot that is the same for every replica.
    type Snapshot: Clone + fmt::Debug + PartialEq + Send + 'static;

    /// The protocol's name in settings, reports, data directories and handshakes.
    const NAME: &'static str;
    /// The order in which its decisions are executed.
    const ORDER: ExecutionOrder;

    /// The paths that it counts in its effects, none of them taken yet.
    fn paths() -> Paths;

    /// A new replica, with no history.
    fn new(settings: Settings) -> Self;

    /// Proposes a batch; returns an id that is unique since this replica started. If every instance
    /// has an owner, the id is that of the instance. Otherwise it consists of this replica and a
    /// count. In that case the id later appears in a decision or in `effects.returned`.
    ///
    /// A batch may be decided twice, in two slots. The executor runs each command once.
    fn propose(
        &mut self,
        view: &View,
        batch: Arc<Batch>,
        fx: &mut Effects<Self::Message, Self::Record>,
    ) -> InstanceId;

    /// A message arrived; `from` may be this replica itself.
    fn on_message(
        &mut self,
        view: &View,
        from: ReplicaId,
        message: Self::Message,
        fx: &mut Effects<Self::Message, Self::Record>,
    );

    /// Time passed.
    fn on_tick(&mut self, view: &View, fx: &mut Effects<Self::Message, Self::Record>);

    /// The protocol's part of a snapshot of a state machine that has executed `executed`.
    ///
    /// The first part also goes to other replicas. The second is for this replica alone: the
    /// records from which [`Protocol::restore`] rebuilds what must not be forgotten (promises,
    /// votes, own proposals, decisions that others may still ask for).
    fn snapshot(&self, executed: &Executed) -> (Self::Snapshot, Vec<Self::Record>);

    /// This replica's snapshot of `executed` is durable, and stands for all that the log says
    /// before it. (How much of the log is deleted is not for the protocol to say: older snapshots
    /// may be kept to fall back on.)
    fn on_snapshot(&mut self, executed: &Executed);

    /// Starts a new replica from its own snapshot. Call [`Protocol::restore`] next, with the
    /// snapshot's own records and then with those of the log after it.
    fn restore_snapshot(&mut self, shared: Self::Snapshot, executed: &Executed);

    /// Restores one record of an earlier life of this replica. Pass all durable records, in order,
    /// before anything else. The only effects are decisions and payloads.
    fn restore(&mut self, record: Self::Record, fx: &mut Effects<Self::Message, Self::Record>);

    /// Whether another replica's snapshot of `executed` may replace the state here, which has
    /// executed `here` (PROTOCOL.md §8a, Install).
    fn may_install(&self, executed: &Executed, here: &Executed) -> bool;

    /// Installs another replica's snapshot; call [`Protocol::may_install`] first. Every payload and
    /// decision that is still kept here and is not in `executed` appears in the effects again.
    ///
    /// If proposals have ids of their own, the caller proposes again each of its proposals that is
    /// not known to be decided after the snapshot. It gets a new id, so the old one may be
    /// forgotten.
    fn install(
        &mut self,
        view: &View,
        shared: Self::Snapshot,
        executed: &Executed,
        fx: &mut Effects<Self::Message, Self::Record>,
    );

    /// All records are restored: continues from there.
    fn resume(&mut self, view: &View, fx: &mut Effects<Self::Message, Self::Record>);

    /// The last command that this protocol decides is executed here, and the protocol is used no
    /// more. Writes what the records lack to lead to that command, and tells the others what they
    /// lack to execute it.
    fn on_end(&mut self, view: &View, fx: &mut Effects<Self::Message, Self::Record>) {
        // Most protocols record each decision, and have told all when it was made.
        let _ = (view, fx);
    }

    /// Roughly how many bytes of memory it keeps because some member may still need them.
    fn kept_bytes(&self) -> usize;

    /// Everything up to `executed` is executed here or decided `Nop`.
    fn on_executed(&mut self, executed: &Deps);

    /// The slot up to which this replica must execute before it may answer a read without proposing
    /// it, as a leaseholder may. `None` if reads have to be proposed now. The caller must have read
    /// the clock after the reads arrived: only then is the answer linearizable.
    fn read_point(&self, view: &View) -> Option<Slot> {
        let _ = view;
        None
    }

    /// The end of the lease that covers such reads, on this replica's clock. It moves forward as
    /// the lease is renewed. The caller reads the clock again after it has read the state, and
    /// answers only before this time.
    fn lease_end(&self) -> Time {
        Time::ZERO
    }
}

/// What the replica knows of the cluster when it calls its protocol.
#[derive(Clone, Debug)]
pub struct View {
    /// The current time.
    pub now: Time,
    /// The measured round trip to each replica, by replica index; zero to itself.
    pub round_trips: Vec<Duration>,
    /// How long a large message to each replica now takes to be answered; zero while none are sent.
    /// Small messages overtake large ones, so this may be far longer than the round trip.
    pub large_trips: Vec<Duration>,
    /// The replicas that have been silent, or have not answered, for too long. A suspicion is often
    /// wrong; safety does not depend on it.
    pub suspected: ReplicaSet,
    /// The suspected replicas that still send. They may receive nothing, or nothing from this one.
    pub deaf: ReplicaSet,
}

impl View {
    /// No suspicion and no measurement.
    pub fn new(n: usize) -> View {
        View {
            now: Time::ZERO,
            round_trips: vec![Duration::ZERO; n],
            large_trips: vec![Duration::ZERO; n],
            suspected: ReplicaSet::EMPTY,
            deaf: ReplicaSet::EMPTY,
        }
    }

    /// The longest round trip to a replica that is not suspected.
    pub fn slowest_round_trip(&self) -> Duration {
        self.slowest_of(&self.round_trips)
    }

    /// The longest time until a message of any size is answered by a replica that is not suspected.
    /// A later answer may still be on its way, over a connection that loses nothing. Resending
    /// earlier would only add to the queue.
    pub fn slowest_trip(&self) -> Duration {
        self.slowest_round_trip().max(self.slowest_of(&self.large_trips))
    }

    fn slowest_of(&self, trips: &[Duration]) -> Duration {
        let live = |index: &usize| !self.suspected.contains(ReplicaId::from_index(*index));
        let trips = trips.iter().enumerate().filter(|(index, _)| live(index));
        trips.map(|(_, trip)| *trip).max().unwrap_or_default()
    }
}
