//! The state of a protocol and of its instances, as types with one variant for each protocol.
//! [`Status`] and [`Explanation`] contain them. Programs read the fields; people read what
//! `Display` prints.
//!
//! [`Status`]: super::Status
//! [`Explanation`]: super::Explanation

use std::fmt;

use crate::protocol::ProtocolKind;
use crate::protocol::epaxos::Phase;
use crate::types::{Ballot, Deps, MemberId, Slot};

/// The state of a replica's protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ProtocolStanding {
    /// EPaxos*: every replica leads its own instances.
    #[non_exhaustive]
    EPaxos {
        /// For each owner, the slot up to which every decision is known here.
        known: Deps,
        /// The number of instances that this replica is recovering.
        recoveries: usize,
    },
    /// Multi-Paxos.
    #[non_exhaustive]
    MultiPaxos {
        /// The leader, if known; it may be this replica.
        leader: Option<MemberId>,
        /// The highest ballot that the replica has promised.
        ballot: Ballot,
        /// The slot up to which every decision is known here.
        known: Slot,
        /// The slot up to which decisions are no longer kept.
        dropped: Slot,
        /// The number of slots kept.
        slots: usize,
        /// The number of this replica's proposals that are not known to be decided.
        undecided: usize,
    },
    /// Fast Paxos.
    #[non_exhaustive]
    FastPaxos {
        /// The coordinator, if known; it may be this replica.
        coordinator: Option<MemberId>,
        /// Whether the coordinator's ballot is fast; false while none is known.
        is_fast: bool,
        /// The slot up to which every decision is known here.
        known: Slot,
        /// The slot up to which decisions are no longer kept.
        dropped: Slot,
        /// The number of this replica's proposals that are not known to be decided.
        undecided: usize,
    },
    /// Paxos: every replica proposes for each slot.
    #[non_exhaustive]
    Paxos {
        /// The slot up to which every decision is known here.
        known: Slot,
        /// The slot up to which decisions are no longer kept.
        dropped: Slot,
        /// The number of this replica's proposals that are not known to be decided.
        undecided: usize,
    },
}

impl ProtocolStanding {
    /// The protocol.
    pub const fn protocol(&self) -> ProtocolKind {
        match self {
            ProtocolStanding::EPaxos { .. } => ProtocolKind::EPaxos,
            ProtocolStanding::MultiPaxos { .. } => ProtocolKind::MultiPaxos,
            ProtocolStanding::FastPaxos { .. } => ProtocolKind::FastPaxos,
            ProtocolStanding::Paxos { .. } => ProtocolKind::Paxos,
        }
    }

    /// The leader or coordinator, if the protocol has one and this replica knows it.
    pub const fn leader(&self) -> Option<MemberId> {
        match self {
            ProtocolStanding::MultiPaxos { leader, .. } => *leader,
            ProtocolStanding::FastPaxos { coordinator, .. } => *coordinator,
            ProtocolStanding::EPaxos { .. } | ProtocolStanding::Paxos { .. } => None,
        }
    }
}

impl fmt::Display for ProtocolStanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolStanding::EPaxos { known, recoveries } => write!(
                f,
                "every replica leads; knows the decisions up to {known:?}, recovers {recoveries}"
            ),
            ProtocolStanding::MultiPaxos { leader, ballot, known, dropped, slots, undecided } => {
                match leader {
                    Some(leader) => write!(f, "{leader} leads")?,
                    None => write!(f, "nobody is known to lead")?,
                }
                write!(
                    f,
                    "; promised {ballot:?}, knows the decisions up to slot {known}, has {slots} \
                     slots behind {dropped}, waits for {undecided} own proposals"
                )
            }
            ProtocolStanding::FastPaxos { coordinator, is_fast, known, dropped, undecided } => {
                match coordinator {
                    Some(it) if *is_fast => write!(f, "fast, coordinated by {it}")?,
                    Some(it) => write!(f, "classic, led by {it}")?,
                    None => write!(f, "nobody is known to coordinate")?,
                }
                write!(f, "; ")?;
                write_log(f, *known, *dropped, *undecided)
            }
            ProtocolStanding::Paxos { known, dropped, undecided } => {
                write!(f, "everybody proposes; ")?;
                write_log(f, *known, *dropped, *undecided)
            }
        }
    }
}

fn write_log(
    f: &mut fmt::Formatter<'_>,
    known: Slot,
    dropped: Slot,
    undecided: usize,
) -> fmt::Result {
    write!(
        f,
        "knows the decisions up to slot {known}, has dropped those up to {dropped}, waits for \
         {undecided} own proposals"
    )
}

/// The state of an instance that the protocol knows and the replica has not executed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Progress {
    /// An instance of EPaxos*.
    #[non_exhaustive]
    EPaxos {
        /// Its phase at this replica.
        phase: Phase,
        /// The highest ballot that this replica has joined for it.
        ballot: Ballot,
        /// Its dependencies as known here; final once it is committed.
        deps: Deps,
        /// Whether this replica is recovering it.
        recovering: bool,
    },
    /// A decided slot of a protocol with one log.
    Decided,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Progress::EPaxos { phase, ballot, deps, recovering } => {
                let recovery = if *recovering { ", being recovered from here" } else { "" };
                write!(f, "{phase:?} at ballot {ballot:?}, covers {deps:?}{recovery}")
            }
            Progress::Decided => write!(f, "decided"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::member_id as replica;

    fn ballot() -> Ballot {
        let second = crate::types::ReplicaId::from_index(1);
        Ballot::new(3, second).expect("a round above 0")
    }

    fn log(leader: Option<MemberId>) -> ProtocolStanding {
        ProtocolStanding::MultiPaxos {
            leader,
            ballot: ballot(),
            known: 9,
            dropped: 4,
            slots: 5,
            undecided: 1,
        }
    }

    fn fast(coordinator: Option<MemberId>, is_fast: bool) -> ProtocolStanding {
        ProtocolStanding::FastPaxos { coordinator, is_fast, known: 9, dropped: 4, undecided: 1 }
    }

    #[test]
    fn each_protocol_says_how_it_stands_and_who_leads() {
        let known = Deps::from_slots([1, 0, 7]);
        let of_log = "knows the decisions up to slot 9, has dropped those up to 4, waits for 1 \
                      own proposals";
        let leads = "promised b3/2, knows the decisions up to slot 9, has 5 slots behind 4, \
                     waits for 1 own proposals";
        let cases = [
            (
                ProtocolStanding::EPaxos { known: known.clone(), recoveries: 2 },
                format!("every replica leads; knows the decisions up to {known:?}, recovers 2"),
                None,
            ),
            (log(Some(replica(2))), format!("r2 leads; {leads}"), Some(replica(2))),
            (log(None), format!("nobody is known to lead; {leads}"), None),
            (
                fast(Some(replica(3)), true),
                format!("fast, coordinated by r3; {of_log}"),
                Some(replica(3)),
            ),
            (
                fast(Some(replica(3)), false),
                format!("classic, led by r3; {of_log}"),
                Some(replica(3)),
            ),
            (fast(None, false), format!("nobody is known to coordinate; {of_log}"), None),
            (
                ProtocolStanding::Paxos { known: 9, dropped: 4, undecided: 1 },
                format!("everybody proposes; {of_log}"),
                None,
            ),
        ];
        for (standing, words, leader) in cases {
            assert_eq!(standing.to_string(), words);
            assert_eq!(standing.leader(), leader, "{standing}");
        }
    }

    #[test]
    fn progress_reads_as_one_line() {
        let deps = Deps::from_slots([1, 0, 7]);
        let at = |recovering| Progress::EPaxos {
            phase: Phase::PreAccepted,
            ballot: ballot(),
            deps: deps.clone(),
            recovering,
        };
        let words = format!("PreAccepted at ballot b3/2, covers {deps:?}");
        assert_eq!(at(false).to_string(), words);
        assert_eq!(at(true).to_string(), format!("{words}, being recovered from here"));
        assert_eq!(Progress::Decided.to_string(), "decided");
    }
}
