//! Bootstrap: what a new cluster knows of the protocol that begins with the state of an old one
//! (`isonomy restore`). Beside `snapshot`; no replica of the old cluster is among its members, and
//! none of them can talk to one.
//!
//! All members begin with the very same state and the very same [`ProtocolSnapshot`]. So the past
//! is as if every member had executed it and forgotten it: all slots up to some bound W, which is
//! at or above every slot of which the replica that was backed up knew anything, count as executed.
//! What of them was not executed there is a `Nop` by this very act: the new cluster's history is
//! the state it begins with, and nothing else is in that.
//!
//! 1. *No two decisions.* A decision about a slot up to W could come only from an old member's
//!    record or message. The new members have none: no record of an instance is in the snapshot,
//!    and a message from another origin is refused by the mesh. To whatever is asked about such a
//!    slot, each of them answers that it is dropped.
//! 2. *No slot is used again* up to W: an owner goes on after it, whatever was executed,
//!    promised, reserved or only heard of there. A slot above W may have been used in the old
//!    cluster, by an owner that the replica had not heard from. Nobody in the new one knows of that
//!    use, so there is nothing that the new one could contradict.
//! 3. *No dependency is lost.* Whatever the new members propose covers W (invariant of the
//!    conflict index: what is forgotten counts as covered), so it comes after all of the state.
//!    No undecided instance is left that anything old could speak for or against, so the index of
//!    dropped instances is empty.
//! 4. *No hole stays.* The executed set of a replica may have holes: instances that it had not
//!    executed, below others that do not conflict with them. Left as they are, each would have to
//!    be recovered before any frontier could move. Here they lie below W.
//! 5. *Exactly once.* What a command in such a hole would have done is not in the state, and not
//!    in its session either. A client that still waits for it tries it again, and it happens once.

use super::{DroppedIndex, ProtocolSnapshot, Record};
use crate::types::{Deps, Executed, InstanceId, ReplicaId};

impl ProtocolSnapshot {
    /// What all members of a new cluster begin with whose state is that of replica `me`, which had
    /// executed `executed` and noted `own` besides; and what counts as executed there.
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

/// Every slot that a record names.
fn note(past: &mut Deps, me: ReplicaId, record: &Record) {
    let (id, deps): (&InstanceId, &[&Deps]) = match record {
        Record::PreAccepted { id, initial, deps, .. } => (id, &[initial, deps]),
        Record::Validated { id, initial, .. } => (id, &[initial]),
        Record::Accepted { id, deps, .. } | Record::Committed { id, deps, .. } => (id, &[deps]),
        Record::Joined { id, .. } | Record::Learned { id, .. } => (id, &[]),
        Record::Reserved { up_to } => (&InstanceId::new(me, *up_to), &[]),
        Record::Agreed { cut } => return past.merge(cut),
        // How far it goes says nothing about what there is.
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
