//! Histories by hand: each violation that a store can commit, and cases that only look like one.

use super::*;

/// Checks a story. The general search and the definition must agree with the verdict.
fn verdict(story: &str) -> Verdict {
    let history = history(story);
    let verdict = check(&history, BUDGET);
    assert_eq!(verdict == Verdict::Linearizable, brute_force(&history), "{story}: {verdict:?}");
    verdict
}

#[track_caller]
fn right(story: &str) {
    assert_eq!(verdict(story), Verdict::Linearizable, "{story}");
}

#[track_caller]
fn wrong(story: &str, reason: &str) -> Violation {
    match verdict(story) {
        Verdict::Violation(violation) => {
            assert_eq!(violation.reason, reason, "{story}\n{violation}");
            *violation
        }
        other => panic!("{story}: {other:?}"),
    }
}

const SPLIT: &str = "a value, written once, was there both before and after something else";
const LATE: &str = "the first was answered before the other was called, but can only come after it";
const STUCK: &str = "no order explains the answers; the longest attempt ends here";

#[test]
fn one_after_the_other() {
    right("");
    right("0..1 get -");
    right("0..1 put a; 2..3 get a; 4..5 cas a b; 6..7 cas a c no b; 8..9 del; 10..11 del none");
    right("0..1 cas - a; 2..3 get a; 4..5 del; 6..7 cas - b; 8..9 get b");
}

#[test]
fn overlapping_operations_may_come_in_any_order() {
    right("0..9 put a; 1..2 get -; 3..4 get a");
    right("0..9 put a; 0..9 put b; 1..2 get b; 3..4 get a");
    right("0..9 put a; 0..9 put b; 1..2 get b; 3..4 get a; 10..11 get a");
    right("0..5 put a; 3..9 del none; 6..9 get a; 0..1 get -");
    // Equal times of return and call do not order the operations.
    right("0..1 put a; 1..2 get -");
}

#[test]
fn a_stale_read() {
    let violation = wrong("0..1 put a; 2..3 put b; 4..5 get a", SPLIT);
    assert_eq!(
        violation.to_string(),
        "key \"x\": a value, written once, was there both before and after something else\n  \
         0..1 client 1: put a: done\n  2..3 client 2: put b: done\n  4..5 client 3: get: a"
    );
    wrong("0..1 put a; 2..3 cas a b; 4..5 get a", LATE);
    wrong("0..1 put a; 2..3 del; 4..5 get a", SPLIT);
}

#[test]
fn a_lost_write() {
    wrong("0..1 put a; 2..3 get -", STUCK);
    wrong("0..1 put a; 2..3 cas - b", STUCK);
    wrong("0..1 put a; 2..3 del none", STUCK);
    wrong("0..1 put a; 2..3 put b; 4..5 del; 6..7 get b", SPLIT);
}

#[test]
fn reads_that_go_back_and_forth() {
    wrong("0..9 put a; 0..9 put b; 1..2 get a; 3..4 get b; 5..6 get a", SPLIT);
    wrong("0..9 put a; 1..2 get a; 3..4 get -", STUCK);
    // Two values, each seen before and after the other.
    wrong("0..9 put a; 0..9 put b; 1..2 get a; 3..4 get b; 3..4 get b; 5..6 get a", SPLIT);
}

#[test]
fn a_value_from_nowhere() {
    let violation = wrong("0..1 put a; 2..3 get b", "the value b was never written");
    assert_eq!(violation.operations.len(), 1);
    wrong("0..1 put a; 2..3 cas b c", "the value b was never written");
    wrong("0..1 get a; 2..3 put a", LATE);
}

#[test]
fn a_swap_that_happened_twice() {
    wrong(
        "0..1 put a; 2..3 cas a b; 2..3 cas a c",
        "the value a, written once, was replaced twice",
    );
    // The retry of a swap that was undone by hand is executed again.
    wrong("0..1 put a; 2..3 cas a b; 4..5 put c; 6..7 get b", SPLIT);
    right("0..1 put a; 2..3 cas a b; 2.. cas a c; 4..5 get b");
    wrong(
        "0..1 put a; 2..3 cas a b; 2.. cas a c; 4..5 get c",
        "the value a, written once, was replaced twice",
    );
    let circle = "each of these replaced what another wrote, in a circle";
    assert_eq!(wrong("0..9 cas a b; 0..9 cas b a; 0..9 put c", circle).operations.len(), 2);
    wrong("0..9 cas a a", circle);
}

#[test]
fn a_put_that_happened_twice() {
    wrong("0..1 put a; 2..3 put b; 4..5 get b; 6..7 get a", SPLIT);
    wrong("0.. put a; 2..3 get a; 4..5 put b; 6..7 get a", SPLIT);
    wrong("0.. put a; 2..3 get a; 4..5 del; 6..7 del", STUCK);
}

#[test]
fn what_nobody_knows_may_have_happened_late_or_never() {
    right("0.. put a; 1..2 get -; 3..4 get -");
    right("0.. put a; 1..2 get -; 3..4 get a");
    right("0.. put a; 1..2 put b; 3..4 get b; 5..6 get a");
    right("0..1 put a; 2.. del; 3..4 get a; 5..6 get -; 7..8 del none");
    right("0..1 put a; 2.. cas a b; 3..4 get a; 5..6 get b");
    right("0..1 put a; 2.. cas z b; 3..4 get a");
    wrong("0.. put a; 1..2 get a; 3..4 get -", STUCK);
    wrong("1..2 get a; 3.. put a", LATE);
    wrong(
        "0..1 put a; 2.. del; 3..4 del; 5..6 put b; 7..8 get -; 9..10 put c; 11..12 get -",
        STUCK,
    );
}

#[test]
fn a_write_that_nobody_saw_explains_a_deletion() {
    right("0.. put a; 1..2 del");
    right("0.. cas - a; 1..2 del; 3..4 get -");
    right("0.. put a; 0.. put b; 1..2 del; 3..4 del");
    wrong("0.. put a; 1..2 del; 3..4 del", STUCK);
    wrong("0..1 put a; 2.. cas a b; 3..4 del; 5..6 del", STUCK);
}

#[test]
fn what_failed_has_not_happened() {
    right("0..1 put a fail; 2..3 get -");
    let reason = "the value a was written only by what is said to have failed";
    let violation = wrong("0..1 put a fail; 2..3 get a", reason);
    assert_eq!(violation.operations.len(), 2);
    wrong("0..1 put b; 2..3 cas b a fail; 4..5 get a", reason);
    wrong("0..1 put a; 2..3 del fail; 4..5 get -", STUCK);
}

#[test]
fn answers_that_contradict_themselves() {
    wrong("0..1 cas a b no a", "it found what it expected");
    let mut mixed = history("0..1 get -");
    mixed[0].outcome = Outcome::Ok(Answer::Done);
    assert!(matches!(check(&mixed, BUDGET), Verdict::Violation(_)));
}

#[test]
fn values_that_are_written_twice_are_decided_too() {
    right("0..1 put a; 2..3 put b; 4..5 put a; 6..7 get a");
    right("0..1 put a; 2..3 cas a a; 4..5 get a");
    right("0..1 put a; 2..3 put b; 2..9 put a; 4..5 get b; 6..7 get a");
    wrong("0..1 put a; 2..3 put a; 4..5 put b; 6..7 get a", STUCK);
    wrong("0..1 put a; 2..3 del; 2.. put a; 4..5 get a; 6..7 get -; 8..9 get a", STUCK);
}

#[test]
fn keys_are_independent_and_the_wrong_one_is_named() {
    let mut both = history("0..1 put a; 2..3 get a");
    let mut other = history("0..1 put a; 2..3 get -");
    other.iter_mut().for_each(|operation| operation.key = Bytes::from_static(b"y"));
    both.extend(other);
    let Verdict::Violation(violation) = check(&both, BUDGET) else { panic!("not caught") };
    assert_eq!(violation.key, "y");
}

#[test]
fn the_explanation_is_from_where_it_first_goes_wrong() {
    let mut story = "0..1 put a; 2..3 get -;".to_owned();
    for time in 2..200 {
        story += &format!("{}..{} put v{time}; {0}..{1} get -;", time * 2, time * 2 + 1);
    }
    let Verdict::Violation(violation) = check(&history(&story), BUDGET) else {
        panic!("not caught")
    };
    assert_eq!(violation.operations, history("0..1 put a; 2..3 get -")[1..]);
}

#[test]
fn a_budget_is_kept() {
    let puts: String = (0..30).map(|it| format!("0..9 put v{};", it % 15)).collect();
    let gets = "10..11 get v0; 10..11 get v1;";
    let history = history(&(puts + gets));
    assert_eq!(check(&history, 1_000), Verdict::TooHard { key: "x".into() });
}
