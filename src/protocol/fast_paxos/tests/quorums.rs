//! Quorum sizes, and the rule by which a coordinator picks.

use crate::protocol::fast_paxos::Round;
use crate::protocol::fast_paxos::round::{Pick, Sizes, pick};
use crate::types::{Ballot, InstanceId, MAX_REPLICAS, ReplicaId};

fn name(number: u64) -> InstanceId {
    InstanceId::new(ReplicaId::from_index(0), number)
}

fn ballot(round: u32) -> Ballot {
    Ballot::new(round, ReplicaId::from_index(1)).expect("not round 0")
}

#[test]
fn sizes_are_the_papers() {
    let table = [
        (1, 1, 1),
        (2, 2, 2),
        (3, 2, 3),
        (4, 3, 3),
        (5, 3, 4),
        (6, 4, 5),
        (7, 4, 6),
        (9, 5, 7),
        (13, 7, 10),
    ];
    for (n, classic, fast) in table {
        assert_eq!(Sizes::new(n), Sizes { n, classic, fast }, "n = {n}");
    }
}

#[test]
fn quorums_meet_as_they_have_to_and_could_be_no_smaller() {
    for n in 1..=MAX_REPLICAS {
        let Sizes { classic, fast, .. } = Sizes::new(n);
        assert!(2 * classic > n && 2 * (classic - 1) <= n, "majorities of {n}");
        assert!(classic + 2 * fast > 2 * n, "a majority of {n} and two fast quorums");
        assert!(classic <= fast && fast <= n);
        // One less is not enough for any size: two values could look chosen to some majority.
        assert!(n < 3 || classic + 2 * (fast - 1) <= 2 * n, "fast quorums of {n}");
    }
}

/// Every way to vote for one of two values or not at all, and every majority that may be asked. If
/// a value has a fast quorum, or could still get one, it must be picked.
#[test]
fn what_may_have_been_chosen_is_picked_whoever_is_asked() {
    let round = Round::anybodys(ballot(1));
    for n in 1..=7_u32 {
        let sizes = Sizes::new(n as usize);
        for code in 0..3_u32.pow(n) {
            let votes: Vec<u32> = (0..n).map(|at| code / 3_u32.pow(at) % 3).collect();
            for asked in (0..1_u32 << n).filter(|a| a.count_ones() as usize == sizes.classic) {
                let is_asked = |at: u32| asked & (1 << at) != 0;
                let told = (0..n).filter(|at| is_asked(*at) && votes[*at as usize] > 0);
                let told: Vec<_> =
                    told.map(|at| (round, name(u64::from(votes[at as usize])))).collect();
                let picked = pick(sizes, sizes.classic, &told);
                for value in 1..=2 {
                    let most =
                        (0..n).filter(|at| !is_asked(*at) || votes[*at as usize] == value).count();
                    let is_forced = picked == Pick::Forced(name(u64::from(value)));
                    assert_eq!(is_forced, most >= sizes.fast, "n = {n} {votes:?} {asked:b}");
                }
            }
        }
    }
}

#[test]
fn only_the_highest_round_counts_and_a_coordinated_one_by_one_vote() {
    let sizes = Sizes::new(5);
    let (fast, second) = (Round::anybodys(ballot(1)), Round::coordinated(ballot(1)));
    assert!(fast < second && second < Round::anybodys(ballot(2)));
    let votes = [(fast, name(1)), (fast, name(1)), (second, name(2))];
    assert_eq!(pick(sizes, 3, &votes), Pick::Forced(name(2)));
    let votes = [(second, name(1)), (second, name(1)), (Round::anybodys(ballot(2)), name(2))];
    assert_eq!(pick(sizes, 3, &votes), Pick::Free(vec![name(2)]));
    assert_eq!(pick(sizes, 3, &[]), Pick::Free(Vec::new()));
    let votes = [(fast, name(2)), (fast, name(1)), (fast, name(2))];
    assert_eq!(pick(sizes, 3, &votes), Pick::Forced(name(2)));
    assert_eq!(pick(sizes, 4, &votes), Pick::Free(vec![name(2), name(1)]));
}
