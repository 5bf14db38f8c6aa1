//! Effort and stack depth with many instances. Effort is counted, not timed: edges followed and
//! steps taken through the forest of waiting knots.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Learns everything first if `learn`, then decides in the given order. All must be executed at the
/// end. Returns the effort per instance.
fn effort(n: usize, decisions: &[Decision], learn: bool) -> (Executor, f64) {
    let mut executor = Executor::new(n);
    if learn {
        for decision in decisions {
            executor.on_learned(decision.id, decision.value.batch().expect("not a Nop"));
        }
    }
    let mut executed = 0;
    for decision in decisions {
        executor.on_committed(decision.clone());
        while let Some(component) = executor.next_ready() {
            executed += component.instances.len();
        }
    }
    assert_eq!((executed, executor.pending()), (decisions.len(), 0));
    assert!(executor.store.is_empty());
    #[expect(clippy::cast_precision_loss, reason = "a ratio to compare with a small bound")]
    let effort = executor.order.work() as f64 / decisions.len() as f64;
    (executor, effort)
}

/// One owner's writes of one key.
fn chain(len: Slot) -> Vec<Decision> {
    (1..=len).map(|slot| decided(id(0, slot), write(1), deps([slot - 1]))).collect()
}

fn shuffled(mut decisions: Vec<Decision>) -> Vec<Decision> {
    decisions.shuffle(&mut ChaCha8Rng::seed_from_u64(7));
    decisions
}

#[test]
fn a_chain_of_a_million_in_the_worst_order() {
    let mut decisions = chain(1_000_000);
    decisions.reverse();
    let (_, effort) = effort(1, &decisions, true);
    assert!(effort < 4.0, "{effort} steps an instance");
}

#[test]
fn a_chain_of_a_million_in_random_order() {
    let (_, effort) = effort(1, &shuffled(chain(1_000_000)), true);
    assert!(effort < 8.0, "{effort} steps an instance");
}

#[test]
fn a_chain_whose_neighbours_arrive_swapped_behind_a_stuck_head() {
    // Each pair joins an ever longer knot, and has to check that the knot does not wait for it.
    let mut decisions = chain(200_001);
    decisions[1..].chunks_mut(2).for_each(|pair| pair.reverse());
    decisions.rotate_left(1);
    let (_, effort) = effort(1, &decisions, true);
    assert!(effort < 8.0, "{effort} steps an instance");
}

#[test]
fn a_chain_that_is_not_known_before_it_is_decided() {
    let (_, effort) = effort(1, &shuffled(chain(200_000)), false);
    assert!(effort < 2.0, "{effort} steps an instance");
}

/// Five owners write one key. Each instance covers the others' up to about its own slot. The first
/// owner covers the second's one slot further, which makes all of them one component.
fn hot_key(rounds: Slot) -> Vec<Decision> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut decisions = Vec::new();
    for slot in 1..=rounds {
        for owner in 0..5 {
            let covered = (0..5usize).map(|other| match (owner, other) {
                (0, 1) => slot + 1,
                _ if owner <= other => slot - 1 + rng.random_range(0..=u64::from(owner < other)),
                _ => slot + rng.random_range(0..=1),
            });
            let covered = Deps::from_slots(covered.map(|slot| slot.min(rounds)));
            decisions.push(decided(id(owner, slot), write(1), covered));
        }
    }
    decisions
}

#[test]
fn one_component_of_ten_thousand_on_a_hot_key() {
    let in_order = hot_key(2_000);
    let mut reversed = in_order.clone();
    reversed.reverse();
    for decisions in [shuffled(in_order.clone()), in_order, reversed] {
        for learn in [true, false] {
            let (executor, effort) = effort(5, &decisions, learn);
            assert_eq!(executor.largest_component(), 10_000);
            assert!(effort < 40.0, "{effort} steps an instance");
        }
    }
}

#[test]
fn a_wide_fan_in_with_a_long_queue_behind_it() {
    // 5,000 writes of as many keys, then a barrier on all, then 5,000 that wait for the barrier.
    // The queue is not examined each time the barrier finds another instance to wait for.
    let mut decisions: Vec<_> =
        (1..=5_000).map(|slot| decided(id(0, slot), write(slot), deps([0, 0]))).collect();
    decisions.push(decided(id(1, 1), Footprint::Everything, deps([5_000, 0])));
    for slot in 2..=5_000 {
        decisions.push(decided(id(1, slot), write(1), deps([5_000, slot - 1])));
    }
    decisions.rotate_left(5_000);
    for decisions in [shuffled(decisions.clone()), decisions] {
        let (_, effort) = effort(2, &decisions, true);
        assert!(effort < 10.0, "{effort} steps an instance");
    }
}

#[test]
fn a_star_of_readers_and_the_write_behind_them() {
    // One write, 20,000 reads of it by another owner, 1,000 writes that cover all of them.
    let mut decisions = vec![decided(id(0, 1), write(1), deps([0, 0]))];
    for slot in 1..=20_000 {
        decisions.push(decided(id(1, slot), read(1), deps([1, 0])));
    }
    for slot in 2..=1_000 {
        decisions.push(decided(id(0, slot), write(1), deps([slot - 1, 20_000])));
    }
    let mut reversed = decisions.clone();
    reversed.reverse();
    for decisions in [shuffled(decisions.clone()), reversed, decisions] {
        let (_, effort) = effort(2, &decisions, true);
        assert!(effort < 10.0, "{effort} steps an instance");
    }
}

#[test]
fn readers_and_writers_in_one_component() {
    // The reads of one owner cover the last write of the other, whose writes cover all the reads.
    let writes = (1..=500).map(|slot| decided(id(0, slot), write(1), deps([slot - 1, 5_000])));
    let reads = (1..=5_000).map(|slot| decided(id(1, slot), read(1), deps([500, 0])));
    let decisions: Vec<_> = writes.chain(reads).collect();
    let (executor, effort) = effort(2, &shuffled(decisions), true);
    assert_eq!(executor.largest_component(), 5_500);
    assert!(effort < 20.0, "{effort} steps an instance");
}
