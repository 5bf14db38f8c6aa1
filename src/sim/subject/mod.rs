//! A protocol as the simulator sees it: what its messages and records are about, as far as faults
//! select them and checks use them. All of a world uses it. Anything left out here is judged only
//! by what replicas execute and answer, which is enough for a log-based protocol.

mod epaxos;
mod logs;

use std::sync::Arc;

use bytes::BytesMut;

use crate::protocol::{PathSet, Protocol};
use crate::replica::{PeerMessage, Record};
use crate::types::{Ballot, Batch, Deps, InstanceId, ReplicaId, Slot, Value};
use crate::wire::Wire;

/// Maps a kind to its protocol type, in this one place: expands to `$body` with `$P` as the type.
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

/// The kinds of messages that a rule can select.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// All of them.
    Any,
    /// Pings, pongs and marks: messages sent when there is no other.
    Signs,
    /// Messages that propose something new.
    PreAccept,
    /// All kinds of votes.
    Votes,
    Commit,
    /// Recover to the instance's owner.
    RecoverToOwner,
    /// All messages of a recovery except Recover to the owner.
    Recovery,
    /// Pieces of snapshots.
    Transfer,
}

impl Kind {
    /// Whether a message to `to` is of this kind.
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

/// What a replica is about to send when it dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Moment {
    Proposing,
    Voting,
    Recovering,
}

/// A protocol that can run in a world.
pub(super) trait Subject: Protocol<Message: Wire, Record: Wire, Snapshot: Wire> {
    /// Whether it relies on leases, and so on clocks with nearly the same rate. It then answers
    /// reads without a proposal.
    const HAS_LEASES: bool = false;

    /// Whether everything that it has executed is in its own log for good. Then that counts as safe
    /// if the whole log is kept.
    const EXECUTES_WHAT_IS_DURABLE: bool = false;

    /// Whether a long run must take the path of this name.
    fn demand(path: &str) -> Demand;

    /// What a record means to the checks.
    fn noted(record: &Self::Record) -> Noted<'_> {
        let _ = record;
        Noted::Nothing
    }

    /// Whether this message to `to` is of `kind`. Not called with [`Kind::Any`] or
    /// [`Kind::Transfer`].
    fn is_a(message: &Self::Message, kind: Kind, to: ReplicaId) -> bool;

    /// Whether a replica sends this message at such a moment.
    fn comes_at(message: &Self::Message, moment: Moment) -> bool {
        let nobody = ReplicaId::from_index(0);
        let is_a = |kind| Self::is_a(message, kind, nobody);
        match moment {
            Moment::Proposing => is_a(Kind::PreAccept),
            Moment::Voting => is_a(Kind::Votes),
            Moment::Recovering => is_a(Kind::Recovery),
        }
    }

    /// The instance and ballot of a recovery that this message starts, which no other life may
    /// continue.
    fn leads(message: &Self::Message) -> Option<(InstanceId, Ballot)> {
        let _ = message;
        None
    }

    /// The message as one number, to tell two worlds apart.
    fn digest(message: &Self::Message) -> u64 {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }

    /// The message as text.
    fn show(message: &Self::Message) -> String {
        format!("{message:?}")
    }

    /// The record as text.
    fn show_record(record: &Self::Record) -> String {
        format!("{record:?}")
    }

    /// The state of an instance as text.
    fn explain(&self, id: InstanceId) -> String {
        let _ = id;
        String::new()
    }

    /// What is still kept although every member has executed everything, if anything.
    fn kept(&self) -> Option<String> {
        let bytes = self.kept_bytes();
        (bytes > 0).then(|| format!("{bytes} bytes"))
    }

    /// Up to where there are no records, and up to where conflicts are forgotten.
    fn truncation(&self) -> Option<(&Deps, &Deps)> {
        None
    }

    /// Whether a recovery is under way.
    fn is_recovering(&self) -> bool {
        false
    }

    /// Plants a bug, if it is one of this protocol's.
    #[cfg(test)]
    fn plant(&mut self, plant: Plant) {
        let _ = plant;
    }
}

/// Whether a long run must take a path of its protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Demand {
    /// It must.
    Always,
    /// It must if replicas restart.
    WithRestarts,
    /// It takes the path a few times, or never.
    Seldom,
    /// It need not. The path is reported only if it was taken.
    Never,
}

/// Whether one of `paths` has this name.
fn is_one_of<P: PathSet>(paths: &[P], name: &str) -> bool {
    paths.iter().any(|path| path.name() == name)
}

/// What a record means to the checks; `Nothing` for a record of what was heard.
pub(super) fn noted<P: Subject>(record: &Record<P::Record>) -> Noted<'_> {
    record.protocol().map_or(Noted::Nothing, P::noted)
}

/// What a record means to the checks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Noted<'a> {
    /// Nothing of interest to the checks.
    Nothing,
    /// A vote for these commands at their owner's ballot. The owner's own vote is its proposal.
    Proposed(InstanceId, &'a Arc<Batch>),
    /// A vote at a ballot.
    Voted(InstanceId),
    /// A decision.
    Decided(InstanceId, &'a Value, &'a Deps),
    /// Own slots up to here are never used again.
    Reserved(Slot),
    /// Something else about an instance.
    About(InstanceId),
}

impl Noted<'_> {
    /// The instance that the record is about, if any.
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

/// A deliberate bug in one of the protocols.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plant {
    EPaxos(crate::protocol::epaxos::Plant),
    MultiPaxos(crate::protocol::multipaxos::Plant),
    FastPaxos(crate::protocol::fast_paxos::Plant),
    Paxos(crate::protocol::paxos::Plant),
}
