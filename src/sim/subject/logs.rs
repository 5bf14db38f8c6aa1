//! The log-based protocols in the simulator.

use super::{Demand, Kind, Moment, Subject, is_one_of};
use crate::protocol::fast_paxos::{self, FastPaxos};
use crate::protocol::log::{self, Upkeep};
use crate::protocol::multipaxos::{self, MultiPaxos};
use crate::protocol::paxos::{self, Paxos};
use crate::types::{Ballot, InstanceId, ReplicaId};

/// Whether a long run must take a path of a protocol that uses the shared log.
fn demand_of_log(path: &str) -> Demand {
    let truncates = is_one_of(log::Path::TRUNCATING, path);
    if truncates { Demand::Never } else { Demand::Always }
}

impl Subject for MultiPaxos {
    const HAS_LEASES: bool = true;

    fn demand(path: &str) -> Demand {
        let is_usual = is_one_of(multipaxos::Path::USUAL, path);
        if is_usual { Demand::Always } else { Demand::Never }
    }

    fn is_a(message: &multipaxos::Message, kind: Kind, _: ReplicaId) -> bool {
        use multipaxos::Message;
        match kind {
            Kind::Signs => {
                matches!(message, Message::Heartbeat { .. } | Message::HeartbeatOk { .. })
            }
            Kind::PreAccept => matches!(message, Message::Accept { .. } | Message::Forward { .. }),
            Kind::Votes => matches!(message, Message::AcceptOk { .. }),
            Kind::Commit => matches!(message, Message::Commit { .. } | Message::Decided { .. }),
            Kind::Recovery => matches!(
                message,
                Message::PreVote { .. }
                    | Message::PreVoteOk { .. }
                    | Message::Prepare { .. }
                    | Message::Promise { .. }
            ),
            Kind::Any | Kind::Transfer | Kind::RecoverToOwner => false,
        }
    }

    fn comes_at(message: &multipaxos::Message, moment: Moment) -> bool {
        use multipaxos::Message;
        match moment {
            Moment::Proposing => {
                matches!(message, Message::Accept { .. } | Message::Forward { .. })
            }
            Moment::Voting => matches!(
                message,
                Message::AcceptOk { .. } | Message::Promise { .. } | Message::HeartbeatOk { .. }
            ),
            Moment::Recovering => matches!(message, Message::Prepare { .. }),
        }
    }

    fn leads(message: &multipaxos::Message) -> Option<(InstanceId, Ballot)> {
        match message {
            multipaxos::Message::Prepare { ballot, .. } => {
                Some((InstanceId::new(InstanceId::LOG, 1), *ballot))
            }
            _ => None,
        }
    }

    #[cfg(test)]
    fn plant(&mut self, plant: super::Plant) {
        if let super::Plant::MultiPaxos(plant) = plant {
            MultiPaxos::plant(self, plant);
        }
    }
}

impl Subject for FastPaxos {
    fn demand(path: &str) -> Demand {
        demand_of_log(path)
    }

    fn is_a(message: &fast_paxos::Message, kind: Kind, _: ReplicaId) -> bool {
        use fast_paxos::Message;
        match kind {
            Kind::Signs => {
                matches!(message, Message::Open { .. } | Message::Upkeep(Upkeep::Marks { .. }))
            }
            Kind::PreAccept => matches!(message, Message::Propose { .. }),
            Kind::Votes => matches!(message, Message::Voted { .. }),
            Kind::Commit => matches!(message, Message::Upkeep(Upkeep::Decided { .. })),
            Kind::Recovery => matches!(
                message,
                Message::Prepare { .. }
                    | Message::Promise { .. }
                    | Message::Report { .. }
                    | Message::Suggest { .. }
                    | Message::Accept { .. }
            ),
            Kind::Any | Kind::Transfer | Kind::RecoverToOwner => false,
        }
    }

    fn leads(message: &fast_paxos::Message) -> Option<(InstanceId, Ballot)> {
        match message {
            fast_paxos::Message::Prepare { ballot } => {
                Some((InstanceId::new(InstanceId::LOG, 1), *ballot))
            }
            _ => None,
        }
    }

    #[cfg(test)]
    fn plant(&mut self, plant: super::Plant) {
        if let super::Plant::FastPaxos(plant) = plant {
            FastPaxos::plant(self, plant);
        }
    }
}

impl Subject for Paxos {
    fn demand(path: &str) -> Demand {
        demand_of_log(path)
    }

    fn is_a(message: &paxos::Message, kind: Kind, _: ReplicaId) -> bool {
        use paxos::Message;
        match kind {
            Kind::Signs => matches!(message, Message::Upkeep(Upkeep::Marks { .. })),
            Kind::PreAccept => matches!(message, Message::Accept { .. }),
            Kind::Votes => matches!(message, Message::Accepted { .. }),
            Kind::Commit => matches!(message, Message::Upkeep(Upkeep::Decided { .. })),
            Kind::Recovery => {
                matches!(message, Message::Prepare { .. } | Message::Promise { .. })
            }
            Kind::Any | Kind::Transfer | Kind::RecoverToOwner => false,
        }
    }

    fn leads(message: &paxos::Message) -> Option<(InstanceId, Ballot)> {
        match message {
            paxos::Message::Prepare { slot, ballot } => {
                Some((InstanceId::new(InstanceId::LOG, *slot), *ballot))
            }
            _ => None,
        }
    }

    #[cfg(test)]
    fn plant(&mut self, plant: super::Plant) {
        if let super::Plant::Paxos(plant) = plant {
            Paxos::plant(self, plant);
        }
    }
}
