//! Random schedules, with the protocol as it is and with a rule broken.

use crate::protocol::Protocol;
use crate::protocol::log::tests::chaos::{Tally, find, run, schedules};
use crate::protocol::paxos::{Path, Paxos, Plant};

#[test]
fn whatever_happens_all_decide_the_same_and_nothing_is_lost() {
    let mut all = Tally::default();
    for n in [1, 2, 3, 4, 5] {
        for seed in 0..schedules(60) {
            match run(n, seed, Paxos::new) {
                Ok(tally) => {
                    all.paths.add(&tally.paths);
                    all.crashes += tally.crashes;
                    all.proposed += tally.proposed;
                    all.twice += tally.twice;
                    all.installed += tally.installed;
                }
                Err(broken) => panic!("n = {n}, seed {seed}: {broken}"),
            }
        }
    }
    all.check_paths::<Path>();
    assert!(all.crashes > 100 && all.installed > 10, "{all:?}");
    assert!(all.twice * 20 < all.proposed, "too many are decided twice: {all:?}");
}

#[test]
fn each_planted_bug_is_found() {
    for plant in Plant::ALL {
        let found = find(&[3, 5], schedules(1500), move |settings| {
            let mut paxos = Paxos::new(settings);
            paxos.plant(plant);
            paxos
        });
        assert!(found.is_some(), "{plant:?} goes unnoticed");
    }
}
