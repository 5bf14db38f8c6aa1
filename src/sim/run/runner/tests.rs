//! The simulator itself: the same seed gives the same world, and deliberate bugs are noticed.

use super::*;

fn options(seeds: u64, threads: usize) -> Options {
    let threads = NonZeroUsize::new(threads).expect("at least one");
    Options { seeds, threads, ..Options::default() }
}

#[test]
fn seeds_pass() {
    let summary = run(&options(40, 1), |_| {});
    assert!(summary.is_good(), "{}", summary.to_json());
    assert!(summary.operations > 1000, "a world in which nothing happens shows nothing");
}

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in 0..25 {
        let [once, again] = [0; 2].map(|_| run_seed(seed, &Overrides::default(), None));
        assert_eq!(once, again);
    }
}

#[test]
fn threads_make_no_difference() {
    let [one, many] = [1, 3].map(|threads| run(&options(12, threads), |_| {}));
    assert_eq!((one.trace, &one.paths), (many.trace, &many.paths));
}

#[test]
fn a_panic_is_a_violation_and_says_where() {
    let said = catch(|| panic!("an invariant of {}", "mine")).expect_err("it panics");
    assert!(said.contains("an invariant of mine") && said.contains("tests.rs"), "{said}");
    assert_eq!(catch(|| 7), Ok(7));
}
