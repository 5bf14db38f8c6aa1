//! EPaxos* in the simulator.

use super::{Demand, Kind, Moment, Noted, Subject, is_one_of};
use crate::protocol::epaxos::{CommitValue, EPaxos, Message, Path, Record};
use crate::types::{Ballot, Deps, InstanceId, ReplicaId};

/// A recovery validates a command while a conflicting command, which does not cover it, is already
/// executed and dropped in a cut. Usually the recovery has ended long before. The stories of
/// `replica::stories::truncation` cover each of them.
const SELDOM: [Path; 3] = [Path::DroppedReported, Path::DroppedInterferes, Path::DroppedHarmless];

impl Subject for EPaxos {
    const EXECUTES_WHAT_IS_DURABLE: bool = true;

    fn demand(path: &str) -> Demand {
        if is_one_of(&SELDOM, path) {
            Demand::Seldom
        } else if is_one_of(Path::OPTIMISED, path) || is_one_of(Path::TRUNCATING, path) {
            Demand::WithRestarts
        } else {
            Demand::Always
        }
    }

    fn noted(record: &Record) -> Noted<'_> {
        match record {
            Record::PreAccepted { id, batch, .. } => Noted::Proposed(*id, batch),
            Record::Accepted { id, .. } => Noted::Voted(*id),
            Record::Committed { id, value, deps } => Noted::Decided(*id, value, deps),
            Record::Reserved { up_to } => Noted::Reserved(*up_to),
            other => other.instance().map_or(Noted::Nothing, Noted::About),
        }
    }

    fn is_a(message: &Message, kind: Kind, to: ReplicaId) -> bool {
        match kind {
            Kind::Any => true,
            Kind::Transfer => false,
            Kind::Signs => matches!(message, Message::Marks { .. }),
            Kind::PreAccept => matches!(message, Message::PreAccept { .. }),
            Kind::Votes => {
                matches!(message, Message::PreAcceptOk { .. } | Message::AcceptOk { .. })
            }
            Kind::Commit => matches!(message, Message::Commit { .. }),
            Kind::RecoverToOwner => {
                matches!(message, Message::Recover { id, .. } if id.replica == to)
            }
            Kind::Recovery => matches!(
                message,
                Message::RecoverOk { .. }
                    | Message::Validate { .. }
                    | Message::ValidateOk { .. }
                    | Message::Waiting { .. }
                    | Message::Accept { .. }
            ),
        }
    }

    fn comes_at(message: &Message, moment: Moment) -> bool {
        match moment {
            Moment::Proposing => matches!(message, Message::PreAccept { .. }),
            Moment::Voting => matches!(
                message,
                Message::PreAcceptOk { .. }
                    | Message::AcceptOk { .. }
                    | Message::RecoverOk { .. }
                    | Message::ValidateOk { .. }
            ),
            Moment::Recovering => match message {
                Message::Recover { .. } | Message::Validate { .. } | Message::Waiting { .. } => {
                    true
                }
                Message::Accept { ballot, .. } => !ballot.is_owner(),
                _ => false,
            },
        }
    }

    /// Another life never continues a recovery (PROTOCOL.md §5.1), because promises to one life
    /// would count for the other.
    fn leads(message: &Message) -> Option<(InstanceId, Ballot)> {
        match message {
            Message::Recover { id, ballot } => Some((*id, *ballot)),
            _ => None,
        }
    }

    fn digest(message: &Message) -> u64 {
        let about = |kind: u64, id: InstanceId, ballot: Ballot| {
            let ballot =
                u64::from(ballot.round()) << 8 | u64::from(ballot.leader(id.replica).number());
            kind << 56 ^ u64::from(id.replica.number()) << 48 ^ id.slot << 20 ^ ballot
        };
        match message {
            Message::PreAccept { id, .. } => about(1, *id, Ballot::OWNER),
            Message::PreAcceptOk { id, .. } => about(2, *id, Ballot::OWNER),
            Message::Accept { id, ballot, .. } => about(3, *id, *ballot),
            Message::AcceptOk { id, ballot } => about(4, *id, *ballot),
            Message::Commit { id, .. } => about(5, *id, Ballot::OWNER),
            Message::Recover { id, ballot } => about(6, *id, *ballot),
            Message::RecoverOk { id, ballot, .. } => about(7, *id, *ballot),
            Message::Validate { id, ballot, .. } => about(8, *id, *ballot),
            Message::ValidateOk { id, ballot, .. } => about(9, *id, *ballot),
            Message::Waiting { id, fast_votes } => {
                about(10, *id, Ballot::OWNER) ^ u64::from(*fast_votes)
            }
            Message::Reject { id, ballot } => about(11, *id, *ballot),
            Message::Marks { proposed, known, executed, by_all, cut } => {
                let slots = [known, executed, &**by_all, cut].into_iter().flat_map(Deps::as_slots);
                slots.fold(12 ^ proposed, |hash: u64, slot| {
                    hash.wrapping_mul(31).wrapping_add(*slot)
                })
            }
            Message::Fetch { owner, from, to } => {
                about(13, InstanceId::new(*owner, *from), Ballot::OWNER) ^ to
            }
            Message::Truncated { id } => about(14, *id, Ballot::OWNER),
            Message::Cut { cut } | Message::CutOk { cut } => {
                let kind = if matches!(message, Message::Cut { .. }) { 15 } else { 16 };
                cut.as_slots()
                    .iter()
                    .fold(kind, |hash, slot| hash.wrapping_mul(31).wrapping_add(*slot))
            }
        }
    }

    fn show(message: &Message) -> String {
        match message {
            Message::PreAccept { id, deps, .. } => format!("PreAccept {id} {deps:?}"),
            Message::Accept { id, ballot, value, deps } => {
                format!("Accept {id} {ballot:?} {} {deps:?}", kind(value.is_nop()))
            }
            Message::Commit { id, value, deps } => {
                format!("Commit {id} {} {deps:?}", kind(*value == CommitValue::Nop))
            }
            Message::RecoverOk { id, ballot, report } => {
                let value = report.value.as_ref().map(|(value, deps)| (kind(value.is_nop()), deps));
                let initial = report.initial.as_ref().map(|(_, deps)| deps);
                let (phase, accepted) = (report.phase, report.accepted);
                format!(
                    "RecoverOk {id} {ballot:?} {phase:?} at {accepted:?} value {value:?} initial \
                     {initial:?}"
                )
            }
            Message::Validate { id, ballot, deps, .. } => {
                format!("Validate {id} {ballot:?} {deps:?}")
            }
            other => format!("{other:?}"),
        }
    }

    fn show_record(record: &Record) -> String {
        match record {
            Record::PreAccepted { id, initial, deps, .. } => {
                format!("PreAccepted {id} initial {initial:?} deps {deps:?}")
            }
            Record::Accepted { id, ballot, value, deps } => {
                format!("Accepted {id} {ballot:?} {} {deps:?}", kind(value.is_nop()))
            }
            Record::Reserved { up_to } => format!("Reserved up to {up_to}"),
            Record::EarlyCommit { up_to } => format!("EarlyCommit up to {up_to}"),
            Record::Agreed { cut } => format!("Agreed {cut:?}"),
            Record::Learned { id, .. } => format!("Learned {id}"),
            Record::Joined { id, ballot } => format!("Joined {id} {ballot:?}"),
            Record::Validated { id, ballot, initial, .. } => {
                format!("Validated {id} {ballot:?} {initial:?}")
            }
            Record::Committed { id, value, deps } => {
                format!("Committed {id} {} {deps:?}", kind(value.is_nop()))
            }
        }
    }

    fn explain(&self, id: InstanceId) -> String {
        format!("{:?}", self.inspect(id))
    }

    fn kept(&self) -> Option<String> {
        let sizes = self.footprint();
        let kept = sizes.instances + sizes.keys + sizes.recoveries;
        (kept > 0).then(|| format!("{sizes:?}"))
    }

    fn truncation(&self) -> Option<(&Deps, &Deps)> {
        Some((self.dropped(), self.forgotten()))
    }

    fn is_recovering(&self) -> bool {
        self.footprint().recoveries > 0
    }

    #[cfg(test)]
    fn plant(&mut self, plant: super::Plant) {
        if let super::Plant::EPaxos(plant) = plant {
            EPaxos::plant(self, plant);
        }
    }
}

fn kind(nop: bool) -> &'static str {
    if nop { "Nop" } else { "batch" }
}
