//! The state of a replica and of its instances, whichever protocol it runs.

use std::fmt;

use super::standing::{Progress, ProtocolStanding};
use crate::mesh::PeerStatus;
use crate::protocol::epaxos::{EPaxos, Inspection};
use crate::protocol::fast_paxos::{self, FastPaxos};
use crate::protocol::log::LogRecord;
use crate::protocol::multipaxos::{self, MultiPaxos};
use crate::protocol::paxos::{self, Paxos};
use crate::protocol::{Protocol, ProtocolKind};
use crate::replica::ReplicaStatus;
use crate::replica::epochs::Epochs;
use crate::types::{InstanceId, MemberId, Membership, Slot};
use crate::wire::Wire;

/// The state of a replica.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The replica.
    pub id: MemberId,
    /// The number of members of the cluster; 0 while the replica is none of them.
    pub replicas: usize,
    /// The protocol that they run.
    pub protocol: ProtocolKind,
    /// The protocol's state, including the leader if there is one; `None` while the replica is no
    /// member.
    pub standing: Option<ProtocolStanding>,
    /// The state of its core; `None` while the replica is no member.
    pub core: Option<ReplicaStatus>,
    /// Requests accepted here and not answered yet.
    pub under_way: usize,
    /// Decided commands that wait for the state machine.
    pub unapplied: usize,
    /// Bytes of records that are not durable yet.
    pub unflushed_bytes: usize,
    /// Whether the disk is too full for anything new to be proposed here.
    pub space_low: bool,
    /// Whether the replica takes no steps, because the disk has no room for its votes.
    pub waits_for_room: bool,
    /// Its connections to the other replicas.
    pub peers: Vec<PeerStatus>,
    /// Clients connected.
    pub clients: usize,
}

/// What a replica knows about one instance.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// The instance.
    pub id: InstanceId,
    /// How far the instance is at this replica.
    pub standing: Standing,
    /// An instance that must be decided, or become known here, before this one can be executed.
    pub waits_for: Option<InstanceId>,
}

/// How far an instance is at a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Standing {
    /// Executed here, or decided to be a `Nop`.
    Executed,
    /// Unknown here.
    Unheard,
    /// Known, but not executed yet.
    Known(Progress),
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.id)?;
        match &self.standing {
            Standing::Executed => write!(f, "executed here")?,
            Standing::Unheard => write!(f, "nothing is known of it here")?,
            Standing::Known(progress) => write!(f, "{progress}")?,
        }
        match self.waits_for {
            Some(blocker) => write!(f, "; waits for {blocker}"),
            None => Ok(()),
        }
    }
}

/// Maps a kind to its protocol type, in this one place: expands to `$body` with `$P` as the type.
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

/// A protocol that a replica can run: its messages and records have an encoding, and it can report
/// its state and that of an instance.
pub(super) trait NodeProtocol:
    Protocol<Message: Wire, Record: Wire, Snapshot: Wire>
{
    /// The kind that selects it.
    const KIND: ProtocolKind;

    /// How far an instance is; `None` if it is unknown.
    fn explain(&self, id: InstanceId) -> Option<Progress>;

    /// The protocol's state, in the epoch of this list.
    fn standing(&self, list: &Membership) -> ProtocolStanding;

    /// The instances that a record says something of.
    fn named_in(record: &Self::Record) -> Vec<InstanceId>;
}

impl NodeProtocol for EPaxos {
    const KIND: ProtocolKind = ProtocolKind::EPaxos;

    fn explain(&self, id: InstanceId) -> Option<Progress> {
        let Inspection { phase, ballot, deps, recovering } = self.inspect(id)?;
        Some(Progress::EPaxos { phase, ballot, deps, recovering })
    }

    fn standing(&self, _: &Membership) -> ProtocolStanding {
        let recoveries = self.footprint().recoveries;
        ProtocolStanding::EPaxos { known: self.known(), recoveries }
    }

    fn named_in(record: &Self::Record) -> Vec<InstanceId> {
        record.instance().into_iter().collect()
    }
}

impl NodeProtocol for MultiPaxos {
    const KIND: ProtocolKind = ProtocolKind::MultiPaxos;

    fn explain(&self, id: InstanceId) -> Option<Progress> {
        decided(id, MultiPaxos::standing(self).commit)
    }

    fn standing(&self, list: &Membership) -> ProtocolStanding {
        let multipaxos::Standing { ballot, leader, commit: known, floor: dropped, slots } =
            MultiPaxos::standing(self);
        let (leader, undecided) = (leader.and_then(|at| list.at(at)), self.pending());
        ProtocolStanding::MultiPaxos { leader, ballot, known, dropped, slots, undecided }
    }

    fn named_in(record: &Self::Record) -> Vec<InstanceId> {
        match record {
            multipaxos::Record::Accepted { first, entries, .. }
            | multipaxos::Record::Decided { first, entries } => {
                (*first..).zip(entries).map(|(slot, _)| in_log(slot)).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl NodeProtocol for FastPaxos {
    const KIND: ProtocolKind = ProtocolKind::FastPaxos;

    fn explain(&self, id: InstanceId) -> Option<Progress> {
        decided(id, self.known())
    }

    fn standing(&self, list: &Membership) -> ProtocolStanding {
        let leader = self.leader();
        ProtocolStanding::FastPaxos {
            coordinator: leader.and_then(|(at, _)| list.at(at)),
            is_fast: leader.is_some_and(|(_, is_fast)| is_fast),
            known: self.known(),
            dropped: self.dropped(),
            undecided: self.undecided(),
        }
    }

    fn named_in(record: &Self::Record) -> Vec<InstanceId> {
        match record {
            fast_paxos::Record::Voted { slot, .. } => vec![in_log(*slot)],
            fast_paxos::Record::Log(record) => decided_in(record),
            fast_paxos::Record::Promised { .. } => Vec::new(),
        }
    }
}

impl NodeProtocol for Paxos {
    const KIND: ProtocolKind = ProtocolKind::Paxos;

    fn explain(&self, id: InstanceId) -> Option<Progress> {
        decided(id, self.known())
    }

    fn standing(&self, _: &Membership) -> ProtocolStanding {
        ProtocolStanding::Paxos {
            known: self.known(),
            dropped: self.dropped(),
            undecided: self.undecided(),
        }
    }

    fn named_in(record: &Self::Record) -> Vec<InstanceId> {
        match record {
            paxos::Record::Voted { slot, .. } | paxos::Record::Promised { slot, .. } => {
                vec![in_log(*slot)]
            }
            paxos::Record::Log(record) => decided_in(record),
        }
    }
}

fn in_log(slot: Slot) -> InstanceId {
    InstanceId::new(InstanceId::LOG, slot)
}

/// The slot that a record common to several protocols says is decided.
fn decided_in(record: &LogRecord) -> Vec<InstanceId> {
    match record {
        LogRecord::Decided { slot, .. } => vec![in_log(*slot)],
        LogRecord::Reserved { .. } => Vec::new(),
    }
}

/// How far a slot of the single log is, whose decisions are known up to `known`.
fn decided(id: InstanceId, known: Slot) -> Option<Progress> {
    let is_decided = id.replica == InstanceId::LOG && id.slot <= known;
    is_decided.then_some(Progress::Decided)
}

pub(super) fn explain<P: NodeProtocol>(epochs: &Epochs<P>, id: InstanceId) -> Explanation {
    let replicas = epochs.list().map_or(0, Membership::len);
    let core = epochs.present().filter(|_| id.replica.index() < replicas && id.slot > 0);
    let Some(core) = core else {
        return Explanation { id, standing: Standing::Unheard, waits_for: None };
    };
    let standing = if core.status().executed.covers(id) {
        Standing::Executed
    } else {
        core.protocol().explain(id).map_or(Standing::Unheard, Standing::Known)
    };
    Explanation { id, standing, waits_for: core.waits_for(id) }
}
