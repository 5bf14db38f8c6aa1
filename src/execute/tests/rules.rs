//! Each rule of execution, by hand.

use super::*;

/// An executor of two owners.
fn two() -> Executor {
    Executor::new(2)
}

#[test]
fn a_chain_runs_in_order_however_it_arrives() {
    for arrival in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [3, 1, 2]] {
        let mut executor = two();
        let mut order = Vec::new();
        for slot in arrival {
            executor.on_committed(decided(id(0, slot), write(1), deps([slot - 1, 0])));
            order.append(&mut drain(&mut executor));
        }
        assert_eq!(order, [[id(0, 1)], [id(0, 2)], [id(0, 3)]], "arrived as {arrival:?}");
        assert_eq!((executor.pending(), executor.executed()), (0, &deps([3, 0])));
        assert!(executor.store.is_empty(), "what is executed has left");
    }
}

#[test]
fn a_component_runs_by_slot_then_owner() {
    let mut executor = two();
    executor.on_committed(decided(id(1, 1), write(1), deps([2, 0])));
    executor.on_committed(decided(id(0, 2), write(1), deps([1, 1])));
    assert_eq!(drain(&mut executor), Vec::<Vec<_>>::new());
    executor.on_committed(decided(id(0, 1), write(1), deps([0, 1])));
    assert_eq!(drain(&mut executor), [[id(0, 1), id(1, 1), id(0, 2)]]);
    assert_eq!(executor.largest_component(), 3);
}

#[test]
fn what_does_not_conflict_is_not_waited_for() {
    let mut executor = two();
    executor.on_learned(id(1, 1), &batch(id(1, 1), write(2)));
    executor.on_learned(id(1, 2), &batch(id(1, 2), read(1)));
    executor.on_committed(decided(id(0, 1), read(1), deps([0, 2])));
    assert_eq!(drain(&mut executor), [[id(0, 1)]]);
    assert_eq!(executor.pending(), 0);
}

#[test]
fn an_unknown_payload_is_waited_for_until_it_is_known() {
    let mut executor = two();
    executor.on_learned(id(1, 2), &batch(id(1, 2), write(2)));
    executor.on_committed(decided(id(0, 1), write(1), deps([0, 2])));
    assert_eq!(drain(&mut executor), Vec::<Vec<_>>::new());
    assert_eq!(executor.blocker(id(0, 1)), Some(id(1, 1)));
    assert_eq!(executor.blockers().collect::<Vec<_>>(), [id(1, 1)]);
    executor.on_learned(id(1, 1), &batch(id(1, 1), write(2)));
    assert_eq!(drain(&mut executor), [[id(0, 1)]]);
    assert_eq!(executor.blockers().count(), 0);
}

#[test]
fn a_known_conflicting_one_is_waited_for_until_it_is_decided() {
    let mut executor = two();
    executor.on_committed(decided(id(0, 1), write(1), deps([0, 1])));
    executor.on_learned(id(1, 1), &batch(id(1, 1), read(1)));
    assert_eq!(drain(&mut executor), Vec::<Vec<_>>::new());
    assert_eq!(executor.blocker(id(0, 1)), Some(id(1, 1)));
    assert_eq!(executor.blocker(id(1, 1)), None, "it is not committed");
    assert_eq!(executor.blockers().collect::<Vec<_>>(), [id(1, 1)]);
    executor.on_committed(decided(id(1, 1), read(1), deps([0, 0])));
    assert_eq!(drain(&mut executor), [[id(1, 1)], [id(0, 1)]]);
    assert_eq!(executor.blockers().count(), 0);
}

#[test]
fn behind_a_nop_the_next_lower_one_counts() {
    let mut executor = two();
    for slot in 1..=3 {
        executor.on_learned(id(1, slot), &batch(id(1, slot), write(1)));
    }
    executor.on_committed(decided(id(0, 1), write(1), deps([0, 3])));
    assert_eq!(executor.blocker(id(0, 1)), Some(id(1, 3)));
    executor.on_committed(nop(id(1, 3), 2));
    assert_eq!(executor.blocker(id(0, 1)), Some(id(1, 2)));
    executor.on_committed(nop(id(1, 1), 2));
    assert_eq!(drain(&mut executor), Vec::<Vec<_>>::new());
    executor.on_committed(nop(id(1, 2), 2));
    assert_eq!(drain(&mut executor), [[id(0, 1)]]);
    assert_eq!(executor.executed(), &deps([1, 3]));
}

#[test]
fn a_nop_counts_as_executed_at_once_known_before_or_not() {
    let mut executor = two();
    executor.on_committed(nop(id(0, 2), 2));
    assert!(executor.is_executed(id(0, 2)) && !executor.is_executed(id(0, 1)));
    assert_eq!(executor.executed(), &deps([0, 0]));
    executor.on_learned(id(0, 1), &batch(id(0, 1), write(1)));
    executor.on_committed(nop(id(0, 1), 2));
    assert_eq!((executor.executed(), executor.pending()), (&deps([2, 0]), 0));
    assert!(executor.store.is_empty());
}

#[test]
fn a_write_waits_for_each_read_behind_the_last_write() {
    let mut executor = two();
    // r1: read, write, read, read; the write covers the read before it.
    let footprints = [read(1), write(1), read(1), read(1)];
    for (slot, footprint) in (1..).zip(&footprints) {
        executor.on_learned(id(0, slot), &batch(id(0, slot), footprint.clone()));
    }
    executor.on_committed(decided(id(1, 1), write(1), deps([4, 0])));
    executor.on_committed(decided(id(0, 2), write(1), deps([1, 0])));
    executor.on_committed(decided(id(0, 4), read(1), deps([2, 0])));
    assert_eq!(drain(&mut executor), Vec::<Vec<_>>::new());
    executor.on_committed(decided(id(0, 1), read(1), deps([0, 0])));
    assert_eq!(drain(&mut executor), [[id(0, 1)], [id(0, 2)], [id(0, 4)]]);
    assert_eq!(executor.blocker(id(1, 1)), Some(id(0, 3)));
    executor.on_committed(decided(id(0, 3), read(1), deps([2, 0])));
    assert_eq!(drain(&mut executor), [[id(0, 3)], [id(1, 1)]]);
}

#[test]
fn what_touches_everything_orders_everything() {
    let mut executor = two();
    executor.on_committed(decided(id(0, 2), Footprint::Everything, deps([1, 2])));
    executor.on_learned(id(0, 1), &batch(id(0, 1), Footprint::nothing()));
    executor.on_learned(id(1, 1), &batch(id(1, 1), read(1)));
    executor.on_learned(id(1, 2), &batch(id(1, 2), write(2)));
    executor.on_committed(decided(id(1, 3), read(9), deps([2, 2])));
    for (other, footprint) in
        [(id(1, 2), write(2)), (id(1, 1), read(1)), (id(0, 1), Footprint::nothing())]
    {
        assert_eq!(executor.blocker(id(1, 3)), executor.blocker(id(0, 2)));
        executor.on_committed(decided(other, footprint, deps([0, 0])));
    }
    let order = drain(&mut executor).concat();
    assert_eq!(order[3..], [id(0, 2), id(1, 3)]);
}

#[test]
fn an_instance_never_waits_for_itself_or_its_owners_later_ones() {
    let mut executor = two();
    executor.on_committed(decided(id(0, 1), write(1), deps([7, 0])));
    assert_eq!(drain(&mut executor), [[id(0, 1)]]);
}

#[test]
fn huge_slots_cost_nothing() {
    let mut executor = Executor::new(3);
    executor.on_committed(decided(id(0, 1), write(1), deps([0, 1 << 60, 0])));
    executor.on_committed(decided(id(2, 1 << 60), Footprint::Everything, deps([0, 0, 0])));
    executor.on_committed(decided(id(1, Slot::MAX), write(1), deps([0, 0, 0])));
    executor.on_committed(decided(id(1, 1 << 59), write(3), deps([u64::MAX; 3])));
    assert_eq!(drain(&mut executor), [[id(2, 1 << 60)], [id(1, Slot::MAX)]]);
    assert_eq!(executor.blocker(id(0, 1)), Some(id(1, 1)));
    assert_eq!(executor.blocker(id(1, 1 << 59)), Some(id(0, 2)));
    assert_eq!(executor.blockers().count(), 2 * 64);
    executor.on_learned(id(0, 0), &batch(id(0, 1), write(1)));
    executor.on_committed(nop(id(0, 0), 3));
    assert!(executor.is_executed(id(0, 0)), "slot 0 stands for none");
    assert_eq!(executor.pending(), 2);
}

#[test]
fn to_hear_it_twice_changes_nothing() {
    let mut executor = two();
    let first = decided(id(0, 1), write(1), deps([0, 1]));
    executor.on_committed(first.clone());
    executor.on_committed(first.clone());
    executor.on_learned(id(0, 1), &batch(id(0, 1), write(1)));
    assert_eq!(executor.pending(), 1);
    executor.on_committed(nop(id(1, 1), 2));
    executor.on_committed(nop(id(1, 1), 2));
    executor.on_committed(first.clone());
    assert_eq!(drain(&mut executor), [[id(0, 1)]]);
    executor.on_committed(first);
    executor.on_learned(id(0, 1), &batch(id(0, 1), write(1)));
    assert_eq!((drain(&mut executor).len(), executor.pending()), (0, 0));
}

#[test]
fn a_component_is_executed_when_it_is_taken() {
    let mut executor = two();
    executor.on_committed(decided(id(0, 1), write(1), deps([0, 0])));
    assert!(!executor.is_executed(id(0, 1)));
    assert_eq!((executor.executed(), executor.pending()), (&deps([0, 0]), 1));
    assert_eq!(drain(&mut executor), [[id(0, 1)]]);
    assert!(executor.is_executed(id(0, 1)));
    assert_eq!((executor.executed(), executor.pending()), (&deps([1, 0]), 0));
}

#[test]
fn a_blocked_cycle_grows_and_closes() {
    // r1.1 and r2.1 cover each other and wait for r3.1, which then turns out to cover r2.1. So it
    // is part of the cycle that waits for it.
    let mut executor = Executor::new(3);
    for owner in 0..3 {
        executor.on_learned(id(owner, 1), &batch(id(owner, 1), write(1)));
    }
    executor.on_committed(decided(id(0, 1), write(1), deps([0, 1, 1])));
    executor.on_committed(decided(id(1, 1), write(1), deps([1, 0, 0])));
    assert_eq!(executor.blocker(id(1, 1)), Some(id(2, 1)));
    executor.on_committed(decided(id(2, 1), write(1), deps([0, 1, 0])));
    assert_eq!(drain(&mut executor), [[id(0, 1), id(1, 1), id(2, 1)]]);
}

#[test]
fn a_stuck_graph_can_be_drawn() {
    let mut executor = two();
    executor.on_learned(id(1, 1), &batch(id(1, 1), write(1)));
    executor.on_committed(decided(id(0, 1), write(1), deps([0, 1])));
    let dot = executor.dot();
    assert!(dot.starts_with("digraph"), "{dot}");
    assert!(dot.contains("r1.1\"") && dot.contains("r2.1?\"") && dot.contains("0 -> 1"), "{dot}");
}

#[test]
#[should_panic(expected = "decided once (Agreement)")]
fn two_vectors_for_one_instance_are_refused() {
    let mut executor = two();
    executor.on_committed(decided(id(0, 1), write(1), deps([0, 1])));
    executor.on_committed(decided(id(0, 1), write(1), deps([0, 2])));
}

#[test]
#[should_panic(expected = "decided once (Agreement)")]
fn a_nop_for_a_committed_command_is_refused() {
    let mut executor = two();
    executor.on_committed(decided(id(0, 1), write(1), deps([0, 1])));
    executor.on_committed(Decision::owned(id(0, 1), Value::Nop, deps([0, 1])));
}

#[test]
#[should_panic(expected = "one payload, its owner's (Integrity)")]
fn another_payload_is_refused() {
    let mut executor = two();
    executor.on_learned(id(0, 1), &batch(id(0, 1), write(1)));
    executor.on_committed(decided(id(0, 1), write(2), deps([0, 0])));
}

#[test]
#[should_panic(expected = "covers its own earlier conflicting ones")]
fn an_owner_that_forgets_its_own_is_refused() {
    let mut executor = two();
    executor.on_learned(id(0, 1), &batch(id(0, 1), write(1)));
    executor.on_committed(decided(id(0, 2), write(1), deps([0, 0])));
}
