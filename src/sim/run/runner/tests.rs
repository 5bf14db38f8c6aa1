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

/// A report has both in one table, and the name tells them apart.
#[test]
fn no_sight_has_the_name_of_a_path() {
    for &protocol in ProtocolKind::ALL {
        for (path, _) in with_protocol!(protocol, P => P::paths()).iter() {
            assert!(Counter::ALL.iter().all(|counter| counter.name() != path), "{path}");
        }
    }
}

/// What was never taken is in a report if it has to be, and nothing of other protocols is.
#[test]
fn a_report_has_the_paths_of_its_protocol() {
    for &protocol in ProtocolKind::ALL {
        let overrides = Overrides { protocol, ..Overrides::default() };
        let summary = run(&Options { overrides, ..options(1, 1) }, |_| {});
        let reported = |name| summary.paths.contains_key(name);
        for &other in ProtocolKind::ALL {
            for (path, _) in with_protocol!(other, P => P::paths()).iter() {
                let own = with_protocol!(protocol, P => P::paths()).named(path).is_some();
                let demanded = own && demand(path, protocol) != Demand::Never;
                assert!(own || !reported(path), "{protocol} reports {path}");
                assert!(!demanded || reported(path), "{protocol} does not report {path}");
            }
        }
    }
}

#[test]
fn a_panic_is_a_violation_and_says_where() {
    let said = catch(|| panic!("an invariant of {}", "mine")).expect_err("it panics");
    assert!(said.contains("an invariant of mine") && said.contains("tests.rs"), "{said}");
    assert_eq!(catch(|| 7), Ok(7));
}
