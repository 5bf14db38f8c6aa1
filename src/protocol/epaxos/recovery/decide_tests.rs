//! Checks `decide` over every small set of replies, against a literal reading of the rules.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::decide::{Choice, Verdict, decide_recovery, decide_validation, must_yield};
use crate::protocol::epaxos::{Phase, Report, Standing};
use crate::types::{
    Ballot, Batch, ClientId, Command, Deps, Footprint, InstanceId, Quorums, ReplicaId, ReplicaSet,
    RequestId, Value,
};
use std::sync::Arc;

fn replica(index: usize) -> ReplicaId {
    ReplicaId::from_index(index)
}

fn batch() -> Arc<Batch> {
    Batch::new(vec![Command {
        request: RequestId::new(ClientId(1), 1),
        floor: 0,
        origin: replica(0),
        footprint: Footprint::write(b"k"),
        payload: Bytes::new(),
    }])
}

/// Every report about an undecided instance that makes a difference to the decision.
fn reports(n: usize) -> Vec<Report> {
    let (batch, initial) = (batch(), Deps::none(n));
    let other = Deps::from_slots((0..n).map(|_| 1));
    let value = |deps: &Deps| Some((Value::Batch(batch.clone()), deps.clone()));
    let seen = Some((batch.clone(), initial.clone()));
    let accepted = |round: u32, value: Value, deps: &Deps| Report {
        phase: Phase::Accepted,
        accepted: match round {
            0 => Ballot::OWNER,
            round => Ballot::new(round, replica(1)).expect("a recovery's round"),
        },
        value: Some((value, deps.clone())),
        initial: None,
    };
    let undecided =
        |phase, value, initial| Report { phase, accepted: Ballot::OWNER, value, initial };
    vec![
        undecided(Phase::Initial, None, None),
        // Learned from an earlier recovery's Validate.
        undecided(Phase::Initial, None, seen.clone()),
        undecided(Phase::PreAccepted, value(&initial), seen.clone()),
        undecided(Phase::PreAccepted, value(&other), seen.clone()),
        accepted(0, Value::Batch(batch.clone()), &other),
        accepted(2, Value::Nop, &initial),
    ]
}

/// PROTOCOL.md §5.3, clause by clause; deliberately not in the code's form.
fn by_the_book(q: Quorums, owner: ReplicaId, replies: &BTreeMap<ReplicaId, Report>) -> Choice {
    let highest = replies.values().map(|r| r.accepted).max().expect("some replied");
    let adopted = replies.values().find(|r| r.accepted == highest && r.phase == Phase::Accepted);
    if let Some(report) = adopted {
        let (value, deps) = report.value.clone().expect("accepted");
        return Choice::Adopt(value, deps);
    }
    if replies.keys().any(|r| *r == owner) {
        return Choice::OwnerNop;
    }
    let mut rmax = BTreeSet::new();
    for (who, report) in replies {
        if report.phase != Phase::PreAccepted {
            continue;
        }
        let initial = &report.initial.as_ref().expect("pre-accepted").1;
        if report.value.as_ref().expect("pre-accepted").1 == *initial {
            rmax.insert(*who);
        }
    }
    if !rmax.is_empty() && rmax.len() as i64 >= replies.len() as i64 - q.e as i64 {
        let deps = Deps::none(q.n);
        return Choice::Validate { batch: batch(), deps, fast_votes: rmax.len() };
    }
    Choice::Nop
}

#[test]
fn every_small_set_of_replies_is_decided_by_the_book() {
    let mut decided = BTreeMap::<&str, u64>::new();
    for n in [1, 2, 3, 4, 5] {
        let quorums = Quorums::new(n).expect("a supported size");
        let kinds = reports(n);
        for owner in 0..n {
            for members in 0u32..1 << n {
                let members: Vec<_> = (0..n).filter(|r| members & 1 << r != 0).collect();
                if members.len() < quorums.slow() {
                    continue;
                }
                for code in 0..kinds.len().pow(u32::try_from(members.len()).expect("small")) {
                    let mut code = code;
                    let mut replies = BTreeMap::new();
                    for member in &members {
                        replies.insert(replica(*member), kinds[code % kinds.len()].clone());
                        code /= kinds.len();
                    }
                    let choice = decide_recovery(quorums, replica(owner), &replies);
                    assert_eq!(choice, by_the_book(quorums, replica(owner), &replies));
                    *decided.entry(name(&choice)).or_default() += 1;
                }
            }
        }
    }
    assert_eq!(decided.len(), 4, "every choice was made: {decided:?}");
}

fn name(choice: &Choice) -> &'static str {
    match choice {
        Choice::Adopt(..) => "adopt",
        Choice::OwnerNop => "owner",
        Choice::Validate { .. } => "validate",
        Choice::Nop => "nop",
    }
}

#[test]
fn no_vote_for_the_fast_path_is_never_validated() {
    // With e = |Q| the bound alone would let an empty Rmax through.
    for n in 1..=9 {
        let quorums = Quorums::new(n).expect("a supported size");
        let replies: BTreeMap<_, _> =
            (1..=quorums.slow().min(n - 1)).map(|r| (replica(r), reports(n)[0].clone())).collect();
        if replies.len() >= quorums.slow() {
            assert_eq!(decide_recovery(quorums, replica(0), &replies), Choice::Nop, "n = {n}");
        }
    }
}

#[test]
fn the_highest_accepted_ballot_wins() {
    let quorums = Quorums::new(5).expect("a supported size");
    let kinds = reports(5);
    let replies = BTreeMap::from([
        (replica(0), kinds[4].clone()),
        (replica(1), kinds[5].clone()),
        (replica(2), kinds[2].clone()),
    ]);
    let choice = decide_recovery(quorums, replica(0), &replies);
    assert_eq!(choice, Choice::Adopt(Value::Nop, Deps::none(5)));
}

#[test]
fn what_interferes_decides_a_validation() {
    let quorums = Quorums::new(5).expect("a supported size");
    let quorum: ReplicaSet = [1, 2, 3].into_iter().map(replica).collect();
    let id = |r, s| InstanceId::new(replica(r), s);
    let decide = |votes, interfering: &[(InstanceId, Standing)]| {
        decide_validation(quorums, quorum, votes, &interfering.iter().copied().collect())
    };
    assert_eq!(decide(1, &[]), Verdict::Clean);
    assert_eq!(
        decide(3, &[(id(2, 1), Standing::Open), (id(3, 1), Standing::Committed)]),
        Verdict::Committed
    );
    // One vote is |Q| - e here: no vote to spare for an owner outside the quorum.
    assert_eq!(decide(1, &[(id(4, 1), Standing::Open)]), Verdict::OwnerOutside);
    assert_eq!(decide(2, &[(id(4, 1), Standing::Open)]), Verdict::Wait);
    assert_eq!(decide(1, &[(id(2, 1), Standing::Open)]), Verdict::Wait);
    assert_eq!(decide(1, &[(id(2, 1), Standing::Unknown)]), Verdict::Wait);
}

#[test]
fn a_waiting_recovery_yields_only_to_more_than_n_minus_f_minus_e_votes() {
    let quorums = Quorums::new(5).expect("a supported size");
    assert!(!must_yield(quorums, 1));
    assert!(must_yield(quorums, 2));
}
