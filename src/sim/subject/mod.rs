//! A protocol as the simulator sees it: what its messages and records are about, as far as faults
//! aim at them and checks can use them. Used by all of a world; what is left out here is judged by
//! what replicas execute and answer alone, which is enough for a protocol that agrees on one
//! sequence.

mod epaxos;
mod logs;

use std::sync::Arc;

use bytes::BytesMut;

use crate::protocol::{Path, Protocol};
use crate::replica::{PeerMessage, Record};
use crate::types::{Ballot, Batch, Deps, InstanceId, ReplicaId, Slot, Value};
use crate::wire::Wire;

/// The one place that knows which type a kind stands for: `$body`, with `$P` for the type.
macro_rules! with_protocol {
    ($kind:expr, $P:ident => $body:expr) => {
        match $kind {
            ProtocolKind::EPaxos => {
                type $P = crate::protocol::epaxos::EPaxos;
                $body
            }
            ProtocolKind::MultiPaxos => {
                type $P = crate::protocol::multipaxos::MultiPaxos;
                $body
            }
            ProtocolKind::FastPaxos => {
                type $P = crate::protocol::fast_paxos::FastPaxos;
                $body
            }
            ProtocolKind::Paxos => {
                type $P = crate::protocol::paxos::Paxos;
                $body
            }
        }
    };
}
pub(super) use with_protocol;

/// The kinds of messages that a rule may pick out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// All of them.
    Any,
    /// Pings, pongs and marks: what is said when there is nothing to say.
    Signs,
    /// What proposes something new.
    PreAccept,
    /// All kinds of votes.
    Votes,
    Commit,
    /// Recover on its way to the instance's owner.
    RecoverToOwner,
    /// Whatever a recovery says or is told, but Recover to the owner.
    Recovery,
    /// Pieces of snapshots.
    Transfer,
}

impl Kind {
    /// Whether a message on its way to `to` is one of these.
    pub(super) fn matches<P: Subject>(
        self,
        to: ReplicaId,
        message: &PeerMessage<P::Message>,
    ) -> bool {
        match message {
            PeerMessage::Ping { .. }
            | PeerMessage::Pong { .. }
            | PeerMessage::Probe { .. }
            | PeerMessage::Probed { .. } => {
                matches!(self, Kind::Any | Kind::Signs)
            }
            PeerMessage::Transfer(_) => matches!(self, Kind::Any | Kind::Transfer),
            PeerMessage::Protocol(message) => match self {
                Kind::Any => true,
                Kind::Transfer => false,
                kind => P::is_a(message, kind, to),
            },
        }
    }
}

/// What a replica is about to say when it dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Moment {
    Proposing,
    Voting,
    Recovering,
}

/// A protocol that can be put into a world.
pub(super) trait Subject: Protocol<Message: Wire, Record: Wire, Snapshot: Wire> {
    /// Whether it relies on leases, and so on clocks that go at nearly the same rate; then it
    /// answers reads without a proposal.
    const HAS_LEASES: bool = false;

    /// Whether what it has executed is in its own log for good: then that counts as safe where the
    /// whole log is kept.
    const EXECUTES_WHAT_IS_DURABLE: bool = false;

    /// Whether a demanding run has to take this path.
    fn takes(path: Path) -> bool;

    /// What a record says.
    fn noted(record: &Self::Record) -> Noted<'_> {
        let _ = record;
        Noted::Nothing
    }

    /// Whether a fault that picks out such messages means this one, on its way to `to`. Not called
    /// with [`Kind::Any`] and [`Kind::Transfer`].
    fn is_a(message: &Self::Message, kind: Kind, to: ReplicaId) -> bool;

    /// Whether a replica says this at such a moment.
    fn comes_at(message: &Self::Message, moment: Moment) -> bool {
        let nobody = ReplicaId::from_index(0);
        let is_a = |kind| Self::is_a(message, kind, nobody);
        match moment {
            Moment::Proposing => is_a(Kind::PreAccept),
            Moment::Voting => is_a(Kind::Votes),
            Moment::Recovering => is_a(Kind::Recovery),
        }
    }

    /// Begins something that no other life of its replica may go on with.
    fn leads(message: &Self::Message) -> Option<(InstanceId, Ballot)> {
        let _ = message;
        None
    }

    /// The message in one word: enough to tell two worlds apart.
    fn digest(message: &Self::Message) -> u64 {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }

    /// The message for people.
    fn show(message: &Self::Message) -> String {
        format!("{message:?}")
    }

    /// The record for people.
    fn show_record(record: &Self::Record) -> String {
        format!("{record:?}")
    }

    /// How far an instance is, for people.
    fn explain(&self, id: InstanceId) -> String {
        let _ = id;
        String::new()
    }

    /// What is kept though every member has executed everything, if anything is.
    fn kept(&self) -> Option<String> {
        let bytes = self.kept_bytes();
        (bytes > 0).then(|| format!("{bytes} bytes"))
    }

    /// Up to where there are no records any more, and up to where what conflicts is forgotten.
    fn truncation(&self) -> Option<(&Deps, &Deps)> {
        None
    }

    /// Whether it is recovering something.
    fn is_recovering(&self) -> bool {
        false
    }

    /// Breaks one of its rules, if it is one of its rules.
    #[cfg(test)]
    fn plant(&mut self, plant: Plant) {
        let _ = plant;
    }
}

/// What a record says; nothing, if it is of what was heard of others.
pub(super) fn noted<P: Subject>(record: &Record<P::Record>) -> Noted<'_> {
    record.protocol().map_or(Noted::Nothing, P::noted)
}

/// What a record says to the checks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Noted<'a> {
    /// Nothing that they know of.
    Nothing,
    /// A vote for these commands at their owner's ballot; the owner's own is its proposal.
    Proposed(InstanceId, &'a Arc<Batch>),
    /// A vote at a ballot.
    Voted(InstanceId),
    /// A decision.
    Decided(InstanceId, &'a Value, &'a Deps),
    /// Own slots up to here are not used again.
    Reserved(Slot),
    /// Something else about an instance.
    About(InstanceId),
}

impl Noted<'_> {
    /// The instance it is about, if it is about one.
    pub(super) fn instance(&self) -> Option<InstanceId> {
        match self {
            Noted::Proposed(id, _)
            | Noted::Voted(id)
            | Noted::Decided(id, ..)
            | Noted::About(id) => Some(*id),
            Noted::Nothing | Noted::Reserved(_) => None,
        }
    }
}

/// A bug on purpose, of one of the protocols.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plant {
    EPaxos(crate::protocol::epaxos::Plant),
    MultiPaxos(crate::protocol::multipaxos::Plant),
    FastPaxos(crate::protocol::fast_paxos::Plant),
    Paxos(crate::protocol::paxos::Plant),
}
