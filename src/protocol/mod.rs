//! The agreement protocols, sans-IO: `(now, input) → effects`, nothing else.
//!
//! A protocol never waits, reads a clock, draws unseeded randomness or touches a socket or a disk.
//! It is handed what happened and the time, and says in [`Effects`] what has to follow. The
//! simulator and the node drive the same code.

mod context;
mod effects;
pub mod epaxos;
pub mod fast_paxos;
mod kind;
pub mod log;
pub mod multipaxos;
pub mod paxos;
mod rules;

pub use effects::{Effects, Outgoing, Path, Paths};
pub use kind::{ProtocolKind, UnknownProtocol};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::types::{
    Batch, Deps, Executed, ExecutionOrder, InstanceId, ReplicaId, ReplicaSet, Settings, Slot, Time,
};

/// What every agreement protocol is to the replica that runs it.
///
/// The caller's duties:
///
/// 1. Append `effects.records` to the log, in order, before anything else.
/// 2. Send what is held in `effects.messages` once the log is durable up to the position each
///    waits for; a message to oneself comes back through [`Protocol::on_message`].
/// 3. Execute `effects.decisions` likewise.
/// 4. Call [`Protocol::on_tick`] every [`Timing::tick`](crate::types::Timing::tick).
pub trait Protocol: Sized {
    /// What replicas say to each other.
    type Message: Clone + fmt::Debug + PartialEq + Send + 'static;
    /// What must survive a crash.
    type Record: Clone + fmt::Debug + PartialEq + Send + 'static;
    /// What a snapshot holds of the protocol for every replica alike.
    type Snapshot: Clone + fmt::Debug + PartialEq + Send + 'static;

    /// Its name in settings, in reports, in a data directory and between replicas.
    const NAME: &'static str;
    /// In which order its decisions are executed.
    const ORDER: ExecutionOrder;

    /// A replica that has never said anything.
    fn new(settings: Settings) -> Self;

    /// Proposes a batch, and says what the proposal is called: of this replica's proposals in this
    /// life no two have the same name. Where every instance has an owner, that is the instance.
    /// Else the name is this replica's and a count, and the protocol sees to it that what became
    /// of it is known here in the end: a decision of that name, or `effects.returned`. A decision
    /// may come twice, in two slots: whoever executes it sees to it that each command happens once.
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

    /// What a snapshot of a state machine that has executed `executed` has to hold besides: first
    /// what goes to other replicas too, then what is this replica's own alone: records from which
    /// [`Protocol::restore`] makes again whatever must not be forgotten (promises, votes, own
    /// proposals, decisions that others may still ask for).
    fn snapshot(&self, executed: &Executed) -> (Self::Snapshot, Vec<Self::Record>);

    /// An own snapshot of such a state is durable: the log before it may go.
    fn on_snapshot(&mut self, executed: &Executed);

    /// Starts a new replica from an own snapshot. The snapshot's own records come next, then those
    /// of the log after it, through [`Protocol::restore`].
    fn restore_snapshot(&mut self, shared: Self::Snapshot, executed: &Executed);

    /// Takes in a record of this replica's earlier life: all that are durable, in order, before
    /// anything else happens. No effect but decisions and payloads follows.
    fn restore(&mut self, record: Self::Record, fx: &mut Effects<Self::Message, Self::Record>);

    /// Whether another replica's snapshot may take the place of the state here, which stands for
    /// `here` (PROTOCOL.md §8a, Install).
    fn may_install(&self, executed: &Executed, here: &Executed) -> bool;

    /// Takes in another replica's snapshot, after [`Protocol::may_install`]. Every payload and
    /// decision that is still kept here and not in `executed` follows as an effect, once more.
    ///
    /// Where proposals have names of their own, the caller proposes again what was proposed here
    /// and is not known to be decided after the snapshot: under new names, so that the old ones
    /// may be forgotten.
    fn install(
        &mut self,
        view: &View,
        shared: Self::Snapshot,
        executed: &Executed,
        fx: &mut Effects<Self::Message, Self::Record>,
    );

    /// All records were restored: goes on where they end.
    fn resume(&mut self, view: &View, fx: &mut Effects<Self::Message, Self::Record>);

    /// About how many bytes of memory it keeps because some member may still need them.
    fn kept_bytes(&self) -> usize;

    /// Everything up to `executed` is executed here or decided `Nop`.
    fn on_executed(&mut self, executed: &Deps);

    /// Up to where the log has to be executed here so that a read is linearizable without being
    /// proposed, as for the holder of a lease. `None` if reads have to be proposed now. The caller
    /// has read the clock after the reads arrived.
    fn read_point(&self, view: &View) -> Option<Slot> {
        let _ = view;
        None
    }

    /// Until when such reads may be answered, on this replica's clock. Moves on while a lease is
    /// renewed. The caller reads the clock once more after it has read the state.
    fn lease_end(&self) -> Time {
        Time::ZERO
    }
}

/// The world as the replica sees it when it calls its protocol.
#[derive(Clone, Debug)]
pub struct View {
    /// Now.
    pub now: Time,
    /// The measured round trip to each replica, in the replicas' order; zero to oneself.
    pub round_trips: Vec<Duration>,
    /// How long a large message to each replica takes now until it is answered, as far as that is
    /// known: zero while none are sent. Small ones overtake them, so it may be far longer than the
    /// round trip.
    pub large_trips: Vec<Duration>,
    /// The replicas that have been silent, or have not answered, for too long. Often wrong, and
    /// safe when wrong.
    pub suspected: ReplicaSet,
    /// Of these, the ones that are still heard. They may be deaf to all, or to this replica alone.
    pub deaf: ReplicaSet,
}

impl View {
    /// Nobody suspected, nothing measured.
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

    /// The longest time that a message to a replica that is not suspected takes until it is
    /// answered, whatever its length. What is not answered by then may still be on its way over a
    /// connection that loses nothing: to send it again sooner only makes the way longer.
    pub fn slowest_trip(&self) -> Duration {
        self.slowest_round_trip().max(self.slowest_of(&self.large_trips))
    }

    fn slowest_of(&self, trips: &[Duration]) -> Duration {
        let live = |index: &usize| !self.suspected.contains(ReplicaId::from_index(*index));
        let trips = trips.iter().enumerate().filter(|(index, _)| live(index));
        trips.map(|(_, trip)| *trip).max().unwrap_or_default()
    }
}
