//! Executes the decisions of one sequence in slot order. The graph of the parent module is for
//! protocols that agree on dependencies; this is for the others.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use crate::types::{Decision, Deps, Executed, InstanceId, Slot, Value};

/// The decision of one slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InLog {
    /// The slot, as an instance of [`InstanceId::LOG`].
    pub id: InstanceId,
    /// The id that its proposer gave the proposal.
    pub proposal: InstanceId,
    /// The decided value.
    pub value: Value,
}

/// Orders decided slots for execution: by number, without a gap.
///
/// Invariants:
///
/// 1. `ready` holds the decided slots directly after `executed`.
/// 2. `ahead` holds the decided slots past the first gap.
#[derive(Debug)]
pub struct LogExecutor {
    executed: Deps,
    ready: VecDeque<InLog>,
    ahead: BTreeMap<Slot, InLog>,
    /// How many of all these are not `Nop`.
    pending: usize,
}

impl LogExecutor {
    /// An executor for a cluster of `n` replicas that has executed nothing.
    pub fn new(n: usize) -> LogExecutor {
        LogExecutor::starting_from(&Executed::none(n))
    }

    /// An executor that continues from a snapshot that has executed `executed`.
    ///
    /// # Panics
    /// If `executed` has a gap: a sequence is executed without one.
    pub fn starting_from(executed: &Executed) -> LogExecutor {
        assert!(executed.above(InstanceId::LOG).is_empty(), "a sequence is executed without a gap");
        LogExecutor {
            executed: executed.floor().clone(),
            ready: VecDeque::new(),
            ahead: BTreeMap::new(),
            pending: 0,
        }
    }

    /// Everything taken by [`LogExecutor::next_ready`].
    pub fn done(&self) -> Executed {
        Executed::up_to(self.executed.clone())
    }

    /// A slot was decided.
    ///
    /// # Panics
    /// If the decision contradicts an earlier one for the same slot that is not yet executed. The
    /// protocol has then broken a promise, and replicas would diverge silently.
    pub fn on_committed(&mut self, decision: Decision) {
        let Decision { id, proposal, value, .. } = decision;
        assert_eq!(id.replica, InstanceId::LOG, "a sequence has one name");
        let next = self.next();
        if id.slot < next {
            // Too late to compare with executed slots: they are forgotten here.
            if let Some(before) = id.slot.checked_sub(self.executed_slot() + 1) {
                let place = usize::try_from(before).expect("it is in memory");
                let before = &self.ready[place].value;
                assert_eq!(*before, value, "slot {} is decided once (Agreement)", id.slot);
            }
            return;
        }
        let batch = usize::from(!value.is_nop());
        let decided = InLog { id, proposal, value };
        if id.slot > next {
            match self.ahead.entry(id.slot) {
                Entry::Vacant(empty) => {
                    empty.insert(decided);
                    self.pending += batch;
                }
                Entry::Occupied(before) => {
                    let same = before.get().value == decided.value;
                    assert!(same, "slot {} is decided once (Agreement)", id.slot);
                }
            }
            return;
        }
        self.pending += batch;
        self.ready.push_back(decided);
        while self.ahead.first_key_value().is_some_and(|(first, _)| *first == self.next()) {
            self.ready.extend(self.ahead.pop_first().map(|(_, decided)| decided));
        }
    }

    /// The next slot, which then counts as executed; it may be a `Nop`. `None` until more is
    /// decided.
    pub fn next_ready(&mut self) -> Option<InLog> {
        let decided = self.ready.pop_front()?;
        self.pending -= usize::from(!decided.value.is_nop());
        self.executed.set(InstanceId::LOG, decided.id.slot);
        Some(decided)
    }

    /// Everything up to here was taken by [`LogExecutor::next_ready`]. Only the entry of
    /// [`InstanceId::LOG`] is used; the others are 0.
    pub fn executed(&self) -> &Deps {
        &self.executed
    }

    /// Whether the slot was taken by [`LogExecutor::next_ready`].
    pub fn is_executed(&self, id: InstanceId) -> bool {
        self.executed.covers(id)
    }

    /// The first missing slot, if a decided `id` waits for it.
    pub fn blocker(&self, id: InstanceId) -> Option<InstanceId> {
        let waits = id.replica == InstanceId::LOG && self.ahead.contains_key(&id.slot);
        waits.then(|| InstanceId::new(InstanceId::LOG, self.next()))
    }

    /// How many decided slots that are not `Nop` were not yet taken by [`LogExecutor::next_ready`].
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// The slots decided and not executed, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &InLog> + '_ {
        self.ready.iter().chain(self.ahead.values())
    }

    /// The slots decided and not executed, in Graphviz's language. A question mark marks the gap
    /// they wait for. For diagnosis of a blocked replica.
    pub fn dot(&self) -> String {
        let mut dot = String::from("digraph {\n");
        let mut before = self.executed_slot();
        for InLog { id, .. } in self.waiting() {
            let mark = if id.slot == before + 1 { "" } else { "?" };
            // Writing to a string does not fail.
            let _ = writeln!(dot, "    \"{}\" -> \"{}{mark}\"", id.slot, id.slot - 1);
            before = id.slot;
        }
        dot.push_str("}\n");
        dot
    }

    fn executed_slot(&self) -> Slot {
        self.executed.slot(InstanceId::LOG)
    }

    /// The first slot not decided here.
    fn next(&self) -> Slot {
        self.executed_slot() + 1 + self.ready.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Batch, ClientId, Command, Footprint, ReplicaId, RequestId};

    fn id(slot: Slot) -> InstanceId {
        InstanceId::new(InstanceId::LOG, slot)
    }

    fn batch(sequence: u64) -> Value {
        Value::Batch(Batch::new(vec![Command {
            request: RequestId::new(ClientId(1), sequence),
            floor: 0,
            origin: ReplicaId::from_index(2),
            footprint: Footprint::Everything,
            payload: bytes::Bytes::new(),
        }]))
    }

    fn decide(log: &mut LogExecutor, slot: Slot, value: Value) {
        let proposal = InstanceId::new(ReplicaId::from_index(2), slot + 100);
        log.on_committed(Decision { id: id(slot), proposal, value, deps: Deps::none(3) });
    }

    fn take(log: &mut LogExecutor) -> Vec<Slot> {
        std::iter::from_fn(|| log.next_ready()).map(|decided| decided.id.slot).collect()
    }

    #[test]
    fn slots_leave_in_order_whatever_order_they_came_in() {
        let mut log = LogExecutor::new(3);
        for slot in [3, 2, 5] {
            decide(&mut log, slot, batch(slot));
        }
        assert_eq!((take(&mut log), log.pending()), (vec![], 3));
        assert_eq!(log.blocker(id(5)), Some(id(1)));
        decide(&mut log, 1, Value::Nop);
        assert_eq!((log.blocker(id(2)), log.blocker(id(5))), (None, Some(id(4))));
        assert_eq!(take(&mut log), [1, 2, 3]);
        assert_eq!((log.executed(), log.pending()), (&Deps::from_slots([3, 0, 0]), 1));
        assert!(log.is_executed(id(3)) && !log.is_executed(id(4)));
        decide(&mut log, 2, batch(99));
        decide(&mut log, 4, batch(4));
        assert_eq!(take(&mut log), [4, 5], "what is executed is not looked at again");
        assert_eq!(log.done(), Executed::up_to(Deps::from_slots([5, 0, 0])));
    }

    #[test]
    fn it_starts_where_a_snapshot_ends() {
        let mut log = LogExecutor::starting_from(&Executed::up_to(Deps::from_slots([7, 0, 0])));
        decide(&mut log, 7, batch(7));
        decide(&mut log, 9, batch(9));
        assert!(take(&mut log).is_empty());
        assert_eq!(log.dot(), "digraph {\n    \"9\" -> \"8?\"\n}\n");
        decide(&mut log, 8, batch(8));
        assert_eq!(take(&mut log), [8, 9]);
    }

    #[test]
    fn a_slot_far_ahead_takes_the_room_of_one() {
        let mut log = LogExecutor::new(3);
        decide(&mut log, crate::types::MAX_SLOT, batch(1));
        assert_eq!((take(&mut log), log.waiting().count()), (vec![], 1));
    }

    #[test]
    #[should_panic(expected = "slot 2 is decided once")]
    fn two_decisions_behind_a_gap_contradict_each_other() {
        let mut log = LogExecutor::new(3);
        decide(&mut log, 2, batch(1));
        decide(&mut log, 2, batch(2));
    }

    #[test]
    #[should_panic(expected = "slot 1 is decided once")]
    fn two_decisions_that_are_ready_contradict_each_other() {
        let mut log = LogExecutor::new(3);
        decide(&mut log, 1, batch(1));
        decide(&mut log, 1, Value::Nop);
    }
}
