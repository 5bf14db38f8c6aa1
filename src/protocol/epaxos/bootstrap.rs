//! Bootstrap: the protocol state of a new cluster that starts from an old cluster's backup
//! (`isonomy restore`). Beside `snapshot`. No replica of the old cluster is a member of the new
//! one, and the two cannot exchange messages.
//!
//! All members begin with the same state and the same [`ProtocolSnapshot`]. In both, every slot up
//! to a bound W counts as executed by every member and forgotten. W is at or above every slot that
//! the backed-up replica knew of. A slot below W that it had not executed becomes a `Nop`. The new
//! cluster's history is the state it begins with, and nothing else is in that.
//!
//! 1. *No two decisions.* A decision about a slot up to W could come only from an old member's
//!    record or message. The new members have none: the snapshot holds no record of an instance,
//!    and the mesh refuses messages from another origin. Each new member answers every request
//!    about such a slot with "dropped".
//! 2. *No slot is used again* up to W: an owner continues after it, whatever was executed,
//!    promised, reserved or only heard of there. A slot above W may have been used in the old
//!    cluster, by an owner that the backed-up replica had not heard from. The new cluster has no
//!    trace of that use, so it cannot contradict it.
//! 3. *No dependency is lost.* Every proposal of the new members covers W (invariant of the
//!    conflict index: what is forgotten counts as covered), so it is ordered after the whole
//!    state. No undecided instance is left for which an old one could be a conflict, so the index
//!    of dropped instances is empty.
//! 4. *No hole stays.* The executed set of a replica may have holes: instances that it had not
//!    executed, below others that do not conflict with them. If they stayed, each would have to be
//!    recovered before any frontier could move. Here they lie below W.
//! 5. *Exactly once.* The effect of a command in such a hole is neither in the state nor in the
//!    command's session. A client that still waits for it retries, and it is executed once.

use super::{DroppedIndex, ProtocolSnapshot, Record};
use crate::types::{Deps, Executed, InstanceId, ReplicaId};

impl ProtocolSnapshot {
    /// The protocol state and the executed set with which all members of a new cluster begin. Its
    /// state is that of replica `me`, which had executed `executed` and kept the records `own`.
    pub fn bootstrap(
        self,
        me: ReplicaId,
        executed: &Executed,
        own: &[Record],
    ) -> (ProtocolSnapshot, Executed) {
        let n = executed.floor().len();
        let mut past = executed.floor().clone();
        for owner in ReplicaId::all(n) {
            past.raise(owner, executed.above(owner).last().map_or(0, |(_, last)| *last));
        }
        let ProtocolSnapshot { floor, cut, dropped, index, decisions } = self;
        let (any, _) = index.commands.overall();
        let (nops, _) = index.nops.overall();
        [&floor, &cut, &dropped, any, nops].into_iter().for_each(|deps| past.merge(deps));
        for decision in decisions {
            past.raise(decision.id.replica, decision.id.slot);
            past.merge(&decision.deps);
        }
        own.iter().for_each(|record| note(&mut past, me, record));
        let shared = ProtocolSnapshot {
            floor: past.clone(),
            cut: past.clone(),
            dropped: past.clone(),
            index: DroppedIndex::new(n),
            decisions: Vec::new(),
        };
        (shared, Executed::up_to(past))
    }
}

/// Raises `past` to every slot that a record names.
fn note(past: &mut Deps, me: ReplicaId, record: &Record) {
    let (id, deps): (&InstanceId, &[&Deps]) = match record {
        Record::PreAccepted { id, initial, deps, .. } => (id, &[initial, deps]),
        Record::Validated { id, initial, .. } => (id, &[initial]),
        Record::Accepted { id, deps, .. } | Record::Committed { id, deps, .. } => (id, &[deps]),
        Record::Joined { id, .. } | Record::Learned { id, .. } => (id, &[]),
        Record::Reserved { up_to } => (&InstanceId::new(me, *up_to), &[]),
        Record::Agreed { cut } => return past.merge(cut),
        // The limit of early commits says nothing about which slots exist.
        Record::EarlyCommit { .. } => return,
    };
    past.raise(id.replica, id.slot);
    deps.iter().for_each(|deps| past.merge(deps));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::epaxos::{ExecutedDecision, ExecutedValue};
    use crate::types::{Ballot, Value};

    #[test]
    fn the_past_ends_behind_every_slot_that_is_named_anywhere() {
        let replica = |number: usize| ReplicaId::from_index(number - 1);
        let id = |owner, slot| InstanceId::new(replica(owner), slot);
        let nop =
            |id, deps| Record::Accepted { id, ballot: Ballot::OWNER, value: Value::Nop, deps };
        let deps = Deps::from_slots;
        let shared = || ProtocolSnapshot {
            floor: deps([1, 0, 0]),
            cut: deps([2, 1, 0]),
            dropped: deps([2, 1, 0]),
            index: DroppedIndex::new(3),
            decisions: Vec::new(),
        };
        let mut executed = Executed::up_to(deps([3, 1, 0]));
        assert!(executed.extend(replica(2), 4, 6));
        let past = |shared: ProtocolSnapshot, own: &[Record]| {
            let (begun, past) = shared.bootstrap(replica(3), &executed, own);
            assert_eq!((&begun.floor, &begun.dropped), (past.floor(), past.floor()));
            assert!(begun.decisions.is_empty() && past.includes(&executed));
            past.floor().clone()
        };
        assert_eq!(past(shared(), &[]), deps([3, 6, 0]), "with what lies above a hole");
        let mut snapshot = shared();
        let value = ExecutedValue::Nop;
        snapshot.decisions.push(ExecutedDecision { id: id(1, 7), value, deps: deps([6, 8, 2]) });
        assert_eq!(past(snapshot, &[]), deps([7, 8, 2]));
        let reserved = Record::Reserved { up_to: 40 };
        let joined = Record::Joined { id: id(2, 9), ballot: Ballot::OWNER };
        let silent = Record::EarlyCommit { up_to: crate::types::MAX_SLOT };
        assert_eq!(past(shared(), &[reserved, joined, silent]), deps([3, 9, 40]));
        assert_eq!(past(shared(), &[nop(id(1, 5), deps([4, 0, 7]))]), deps([5, 6, 7]));
        assert_eq!(past(shared(), &[Record::Agreed { cut: deps([0, 0, 3]) }]), deps([3, 6, 3]));
    }
}
