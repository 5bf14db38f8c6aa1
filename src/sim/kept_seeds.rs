//! Worlds in which a protocol, or the simulator, once did not do what it has to, and does now.

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

/// A replica that needed a snapshot went on asking a dead one for its own.
#[test]
fn epaxos_leaves_a_dead_sender() {
    pass(ProtocolKind::EPaxos, true, &[50_011_718, 50_018_538]);
}

/// Worlds in memory, where members stay away until they need a snapshot.
#[test]
fn who_was_away_in_memory_comes_back() {
    pass(ProtocolKind::EPaxos, false, &[4, 29, 31, 34, 81, 111, 115, 121]);
}

/// What came with one snapshot and is not in the next was never in the log, only in snapshots: the
/// checks did not know after a restart that it is decided.
#[test]
fn what_only_a_snapshot_holds_is_decided() {
    pass(ProtocolKind::EPaxos, true, &[50_015_611, 50_038_409]);
}

/// A disk that was to die within a snapshot, which failed before that, died of anything later, and
/// nobody noticed.
#[test]
fn a_disk_outlives_a_snapshot_that_failed() {
    pass(ProtocolKind::EPaxos, true, &[50_045_331]);
}

/// Proposers far apart waited out collisions that were long decided, while retries piled up.
#[test]
fn paxos_gets_through_a_backlog() {
    pass(ProtocolKind::Paxos, false, &[199, 440, 634, 940]);
}

/// Slots that were left behind in dozens were closed a few at a time.
#[test]
fn paxos_closes_many_gaps() {
    pass(ProtocolKind::Paxos, true, &[115, 169, 570, 971]);
}

/// Nobody heard of a vote, and it was kept for ever.
#[test]
fn fast_paxos_forgets_every_vote() {
    pass(ProtocolKind::FastPaxos, false, &[651, 400_133, 400_226, 400_373]);
    pass(ProtocolKind::FastPaxos, true, &[400_188]);
}

/// A leader's last votes came to nothing, its successor found none of them, and nobody proposed
/// anything in their slots any more: they were kept for ever.
#[test]
fn multi_paxos_forgets_votes_that_came_to_nothing() {
    pass(ProtocolKind::MultiPaxos, true, &[60_000_654, 60_000_975, 7_500_001_572]);
}

/// The log had no room to be divided where an installed state's first snapshot stood, and that was
/// finished all the same: an older one could have taken its place.
#[test]
fn fast_paxos_divides_the_log_before_a_snapshot_that_needs_it() {
    pass(ProtocolKind::FastPaxos, true, &[251]);
}

/// What was executed in another replica's snapshot, proposed again and refused for its age was
/// taken for never executed; and a batch of all that waited was longer than a simulated segment.
#[test]
fn multi_paxos_tells_unknown_from_refused() {
    pass(ProtocolKind::MultiPaxos, true, &[1165, 20_000_567]);
}
