//! How a replica and its instances stand, for people.

use std::fmt;

use crate::mesh::PeerStatus;
use crate::protocol::epaxos::EPaxos;
use crate::protocol::fast_paxos::FastPaxos;
use crate::protocol::multipaxos::{self, MultiPaxos};
use crate::protocol::paxos::Paxos;
use crate::protocol::{Protocol, ProtocolKind};
use crate::replica::{Core, ReplicaStatus};
use crate::types::{InstanceId, ReplicaId};
use crate::wire::Wire;

/// How a replica stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The replica.
    pub id: ReplicaId,
    /// How many replicas the cluster has.
    pub replicas: usize,
    /// The protocol that they run.
    pub protocol: ProtocolKind,
    /// How the protocol stands, in its own words: where there is one, who leads.
    pub standing: String,
    /// What its core is doing.
    pub core: ReplicaStatus,
    /// Requests accepted here and not answered yet.
    pub under_way: usize,
    /// Commands that are decided and wait for the state machine.
    pub unapplied: usize,
    /// Bytes of records that are not durable yet.
    pub unflushed_bytes: usize,
    /// Whether the disk is too full for anything new to be proposed here.
    pub space_low: bool,
    /// Whether it stands still, because the disk has no room for its votes either.
    pub waits_for_room: bool,
    /// Its connections to the other replicas.
    pub peers: Vec<PeerStatus>,
    /// Clients connected.
    pub clients: usize,
}

/// What a replica knows about one instance.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// The instance.
    pub id: InstanceId,
    /// How far it is here.
    pub standing: Standing,
    /// An instance that has to be decided, or become known, before this one can be executed.
    pub waits_for: Option<InstanceId>,
}

/// How far an instance is at a replica.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Standing {
    /// Executed here, or decided to be a `Nop`.
    Executed,
    /// Nothing is known of it here.
    Unheard,
    /// Known; in the protocol's words.
    Known(String),
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.id)?;
        match &self.standing {
            Standing::Executed => write!(f, "executed here")?,
            Standing::Unheard => write!(f, "nothing is known of it here")?,
            Standing::Known(words) => write!(f, "{words}")?,
        }
        match self.waits_for {
            Some(blocker) => write!(f, "; waits for {blocker}"),
            None => Ok(()),
        }
    }
}

/// The one place that knows which type a kind stands for: `$body`, with `$P` for the type.
macro_rules! with_protocol {
    ($kind:expr, $P:ident => $body:expr) => {
        match $kind {
            $crate::protocol::ProtocolKind::EPaxos => {
                type $P = $crate::protocol::epaxos::EPaxos;
                $body
            }
            $crate::protocol::ProtocolKind::MultiPaxos => {
                type $P = $crate::protocol::multipaxos::MultiPaxos;
                $body
            }
            $crate::protocol::ProtocolKind::FastPaxos => {
                type $P = $crate::protocol::fast_paxos::FastPaxos;
                $body
            }
            $crate::protocol::ProtocolKind::Paxos => {
                type $P = $crate::protocol::paxos::Paxos;
                $body
            }
        }
    };
}
pub(super) use with_protocol;

/// A protocol that a replica can run: its messages and records have a form as bytes, and it can say
/// how far an instance is.
pub(super) trait NodeProtocol:
    Protocol<Message: Wire, Record: Wire, Snapshot: Wire>
{
    /// Its name as a choice.
    const KIND: ProtocolKind;

    /// In words, if anything is known of the instance.
    fn explain(&self, id: InstanceId) -> Option<String>;

    /// How it stands, in words.
    fn standing(&self) -> String;

    /// Who leads, as far as is known here, where one replica does.
    fn leader(&self) -> Option<ReplicaId> {
        None
    }
}

impl NodeProtocol for EPaxos {
    const KIND: ProtocolKind = ProtocolKind::EPaxos;

    fn standing(&self) -> String {
        let (known, recoveries) = (self.known(), self.footprint().recoveries);
        format!("every replica leads; knows the decisions up to {known:?}, recovers {recoveries}")
    }

    fn explain(&self, id: InstanceId) -> Option<String> {
        let seen = self.inspect(id)?;
        let recovery = if seen.recovering { ", being recovered from here" } else { "" };
        let (phase, ballot, deps) = (seen.phase, seen.ballot, seen.deps);
        Some(format!("{phase:?} at ballot {ballot:?}, covers {deps:?}{recovery}"))
    }
}

impl NodeProtocol for MultiPaxos {
    const KIND: ProtocolKind = ProtocolKind::MultiPaxos;

    fn explain(&self, id: InstanceId) -> Option<String> {
        let decided = id.replica == InstanceId::LOG && id.slot <= self.standing().commit;
        decided.then(|| "decided".to_owned())
    }

    fn standing(&self) -> String {
        let multipaxos::Standing { ballot, leader, commit, floor, slots } =
            MultiPaxos::standing(self);
        let leader =
            leader.map_or("nobody is known to lead".to_owned(), |it| format!("{it} leads"));
        let pending = self.pending();
        format!(
            "{leader}; promised {ballot:?}, knows the decisions up to slot {commit}, has {slots} \
             slots behind {floor}, waits for {pending} own proposals"
        )
    }

    fn leader(&self) -> Option<ReplicaId> {
        MultiPaxos::standing(self).leader
    }
}

impl NodeProtocol for FastPaxos {
    const KIND: ProtocolKind = ProtocolKind::FastPaxos;

    fn explain(&self, id: InstanceId) -> Option<String> {
        let decided = id.replica == InstanceId::LOG && id.slot <= self.known();
        decided.then(|| "decided".to_owned())
    }

    fn standing(&self) -> String {
        let leader = match FastPaxos::leader(self) {
            Some((who, true)) => format!("fast, coordinated by {who}"),
            Some((who, false)) => format!("classic, led by {who}"),
            None => "nobody is known to coordinate".to_owned(),
        };
        let (known, dropped, undecided) = (self.known(), self.dropped(), self.undecided());
        format!(
            "{leader}; knows the decisions up to slot {known}, has dropped those up to {dropped}, \
             waits for {undecided} own proposals"
        )
    }

    fn leader(&self) -> Option<ReplicaId> {
        FastPaxos::leader(self).map(|(who, _)| who)
    }
}

impl NodeProtocol for Paxos {
    const KIND: ProtocolKind = ProtocolKind::Paxos;

    fn explain(&self, id: InstanceId) -> Option<String> {
        let decided = id.replica == InstanceId::LOG && id.slot <= self.known();
        decided.then(|| "decided".to_owned())
    }

    fn standing(&self) -> String {
        let (known, dropped, undecided) = (self.known(), self.dropped(), self.undecided());
        format!(
            "everybody proposes; knows the decisions up to slot {known}, has dropped those up to \
             {dropped}, waits for {undecided} own proposals"
        )
    }
}

pub(super) fn explain<P: NodeProtocol>(
    core: &Core<P>,
    replicas: usize,
    id: InstanceId,
) -> Explanation {
    let is_member = id.replica.index() < replicas && id.slot > 0;
    let standing = if !is_member {
        Standing::Unheard
    } else if core.status().executed.covers(id) {
        Standing::Executed
    } else {
        core.protocol().explain(id).map_or(Standing::Unheard, Standing::Known)
    };
    let waits_for = is_member.then(|| core.waits_for(id)).flatten();
    Explanation { id, standing, waits_for }
}
