//! Seeds whose worlds once showed a bug of a protocol or of the simulator, and now pass.

use super::plan::Overrides;
use super::run::run_seed;
use crate::protocol::ProtocolKind;

#[track_caller]
fn pass(protocol: ProtocolKind, restarts: bool, seeds: &[u64]) {
    let overrides = Overrides { protocol, restarts, ..Overrides::default() };
    for seed in seeds {
        assert_eq!(run_seed(*seed, &overrides, None).violation, None, "seed {seed}");
    }
}

/// A replica that needed a snapshot kept asking a dead one for its own.
#[test]
fn epaxos_leaves_a_dead_sender() {
    pass(ProtocolKind::EPaxos, true, &[50_011_718, 50_018_538]);
}

/// Worlds in memory, where members are absent until they need a snapshot.
#[test]
fn who_was_away_in_memory_comes_back() {
    pass(ProtocolKind::EPaxos, false, &[4, 29, 31, 34, 81, 111, 115, 121]);
}

/// A decision came with one snapshot, was missing in the next, and was never in the log. After a
/// restart the checks did not know that it was decided.
#[test]
fn what_only_a_snapshot_holds_is_decided() {
    pass(ProtocolKind::EPaxos, true, &[50_015_611, 50_038_409]);
}

/// A disk was to die within a snapshot, but the snapshot failed first. The disk then died in a
/// later operation, unnoticed.
#[test]
fn a_disk_outlives_a_snapshot_that_failed() {
    pass(ProtocolKind::EPaxos, true, &[50_045_331]);
}

/// Distant proposers kept waiting for collisions that were decided long ago, while retries piled
/// up.
#[test]
fn paxos_gets_through_a_backlog() {
    pass(ProtocolKind::Paxos, false, &[199, 440, 634, 940]);
}

/// Dozens of abandoned slots were closed only a few at a time.
#[test]
fn paxos_closes_many_gaps() {
    pass(ProtocolKind::Paxos, true, &[115, 169, 570, 971]);
}

/// A vote that no other replica heard of was kept for ever.
#[test]
fn fast_paxos_forgets_every_vote() {
    pass(ProtocolKind::FastPaxos, false, &[651, 400_133, 400_226, 400_373]);
    pass(ProtocolKind::FastPaxos, true, &[400_188]);
}

/// A leader's last votes had no effect, its successor found none of them, and their slots were
/// never proposed again: the votes were kept for ever.
#[test]
fn multi_paxos_forgets_votes_that_came_to_nothing() {
    pass(ProtocolKind::MultiPaxos, true, &[60_000_654, 60_000_975, 7_500_001_572]);
}

/// The log had no room to be divided at the first snapshot of an installed state, but the snapshot
/// was finished anyway. An older one could have replaced it.
#[test]
fn fast_paxos_divides_the_log_before_a_snapshot_that_needs_it() {
    pass(ProtocolKind::FastPaxos, true, &[251]);
}

/// A command was executed in another replica's snapshot, proposed again and refused because of its
/// age; it was taken for never executed. And a batch of everything that waited exceeded a simulated
/// segment.
#[test]
fn multi_paxos_tells_unknown_from_refused() {
    pass(ProtocolKind::MultiPaxos, true, &[1165, 20_000_567]);
}
