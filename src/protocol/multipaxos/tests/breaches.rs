//! Stories of what must not happen. Each is told twice: with the rule that prevents it, and with a
//! planted bug that breaks the rule and must show.

use super::super::{Message, Plant};
use super::stage::*;
use crate::protocol::Protocol;
use crate::types::Retention;

/// Whether a lost promise lets two leaders decide: 1 promises to 2 and stops.
fn promise_lost(plant: Option<Plant>) -> bool {
    let mut stage = led_with(3, plant);
    for at in [0, 2] {
        // Reserves names, so that later steps wait only for the flushes of the story.
        stage.propose(at);
        stage.run(millis(100));
    }
    stage.network.clear();
    stage.advance(millis(3000));
    stage.act(2, |it, view, fx| it.prepare_unasked(view, fx));
    stage.flush(2);
    stage.pass(2, 1);
    stage.crash(1, 0);
    stage.restart(1);
    stage.advance(millis(3000));
    // The old leader continues with 1, which knows of no other.
    stage.propose(0);
    stage.flush(0);
    stage.pass(0, 1);
    stage.flush(1);
    stage.pass(1, 0);
    assert_eq!(stage.nodes[0].executed, 3);
    // So does the new one, if 1 told it of the promise.
    stage.pass(1, 2);
    stage.propose(2);
    stage.flush(2);
    stage.pass(2, 1);
    stage.flush(1);
    stage.pass(1, 2);
    stage.broken.is_some()
}

#[test]
fn a_promise_is_durable_before_it_is_told() {
    assert!(!promise_lost(None));
    assert!(promise_lost(Some(Plant::EarlyPromise)), "the planted bug is noticed");
}

/// Whether a vote is dropped that may have decided. 0 decides with the vote of 1 and stops. 2 finds
/// that vote, tells 1 that it leads, and stops before proposing it again.
fn vote_dropped(plant: Option<Plant>) -> bool {
    let mut stage = led_with(3, plant);
    for at in 0..3 {
        stage.propose(at);
        stage.run(millis(100));
    }
    stage.network.clear();
    stage.propose(0);
    stage.flush(0);
    stage.pass(0, 1);
    stage.flush(1);
    stage.pass(1, 0);
    assert_eq!(stage.nodes[0].executed, 4);
    stage.network.clear();
    stage.crash(0, 0);
    stage.advance(millis(3000));
    stage.act(2, |it, view, fx| it.prepare_unasked(view, fx));
    stage.flush(2);
    stage.pass(2, 1);
    stage.flush(1);
    stage.pass(1, 2);
    stage.network.retain(|flying| matches!(flying.message, Message::Heartbeat { .. }));
    assert!(stage.pass(2, 1) > 0, "it leads");
    stage.crash(2, 0);
    stage.restart(2);
    stage.advance(millis(3000));
    stage.network.clear();
    stage.act(1, |it, view, fx| it.prepare_unasked(view, fx));
    stage.propose(1);
    for _ in 0..2 {
        stage.flush(1);
        stage.pass(1, 2);
        stage.flush(2);
        stage.pass(2, 1);
    }
    assert!(stage.nodes[1].executed >= 4);
    stage.broken.is_some()
}

#[test]
fn a_vote_that_may_have_decided_is_kept_until_it_is_proposed_again() {
    assert!(!vote_dropped(None));
    assert!(vote_dropped(Some(Plant::DropBelowBarrier)), "the planted bug is noticed");
}

/// Whether a leader reads overwritten values: its clock stops and it hears no replica while the
/// others elect another leader.
fn reads_with_a_stopped_clock(leases: bool) -> bool {
    let mut stage = led(3);
    stage.nodes[0].protocol.core.cx.settings.leases = leases;
    stage.run(millis(200));
    assert_eq!(stage.nodes[0].protocol.read_point(&stage.nodes[0].view).is_some(), leases);
    stage.nodes[0].rate = 0.0;
    stage.cut.insert(0);
    let before = stage.truth.len();
    stage.propose(1);
    stage.run(millis(5000));
    assert!(stage.truth.len() > before, "the others go on");
    stage.broken.is_some()
}

#[test]
fn without_leases_no_clock_matters() {
    assert!(!reads_with_a_stopped_clock(false));
    assert!(reads_with_a_stopped_clock(true), "this is what a lease cannot bear");
}

/// Whether a candidate that lost its ballot takes it again, and counts old votes for new values.
fn ballot_lost(plant: Option<Plant>) -> bool {
    let mut stage = led_with(3, plant);
    stage.propose(2);
    stage.run(millis(100));
    stage.network.clear();
    stage.crash(0, 0);
    stage.advance(millis(3000));
    stage.act(2, |it, view, fx| it.prepare_unasked(view, fx));
    stage.pass(2, 1);
    stage.flush(1);
    stage.pass(1, 2);
    // It leads with 1, if its Prepare left before the ballot was durable.
    stage.propose(2);
    stage.pass(2, 1);
    stage.flush(1);
    stage.crash(2, 0);
    stage.restart(2);
    stage.restart(0);
    stage.advance(millis(3000));
    let votes = std::mem::take(&mut stage.network);
    // In its next life it leads with 0.
    stage.act(2, |it, view, fx| it.prepare_unasked(view, fx));
    stage.flush(2);
    stage.pass(2, 0);
    stage.flush(0);
    stage.pass(0, 2);
    stage.propose(2);
    stage.flush(2);
    stage.network = votes;
    stage.pass(1, 2);
    stage.network.clear();
    // 0 and 1 continue without it.
    stage.cut.insert(2);
    stage.advance(millis(3000));
    stage.act(1, |it, view, fx| it.prepare_unasked(view, fx));
    stage.run(millis(100));
    stage.broken.is_some()
}

#[test]
fn no_ballot_is_led_in_two_lives() {
    assert!(!ballot_lost(None));
    assert!(ballot_lost(Some(Plant::EarlyPrepare)), "the planted bug is noticed");
}

/// Whether a late answer to a Heartbeat gives a lease for a time that has passed.
fn late_grant(plant: Option<Plant>) -> bool {
    let mut stage = led_with(3, plant);
    stage.network.clear();
    stage.advance(millis(60));
    stage.tick(0);
    stage.pass(0, 1);
    stage.flush(1);
    stage.advance(millis(3000));
    let late = std::mem::take(&mut stage.network);
    // 1 and 2 elect another leader, which decides.
    stage.act(2, |it, view, fx| it.prepare_unasked(view, fx));
    stage.cut.insert(0);
    for _ in 0..20 {
        stage.advance(millis(1));
        stage.network.retain(|it| it.to != 0);
        (1..3).for_each(|at| stage.flush(at));
        stage.pass(1, 2);
        stage.pass(2, 1);
    }
    assert!(stage.nodes[2].leads() && stage.nodes[0].leads(), "two of different ballots");
    stage.propose(2);
    for _ in 0..3 {
        stage.flush(2);
        stage.pass(2, 1);
        stage.flush(1);
        stage.pass(1, 2);
    }
    assert!(stage.broken.is_none() && stage.nodes[2].executed == 1);
    late.into_iter().filter(|it| it.to == 0).for_each(|it| stage.deliver(it));
    stage.check_leases();
    stage.broken.is_some()
}

#[test]
fn a_lease_counts_from_when_it_was_asked_for() {
    assert!(!late_grant(None));
    assert!(late_grant(Some(Plant::LeaseFromReceipt)), "the planted bug is noticed");
}

/// Whether a restarted replica votes although it had granted a lease: 0 leads with 1 alone.
fn grant_forgotten(plant: Option<Plant>) -> bool {
    let mut stage = led_with(3, plant);
    stage.cut.insert(2);
    stage.run(millis(2000));
    let until = stage.nodes[0].protocol.lease_end();
    assert!(until > stage.now, "it holds its lease");
    stage.network.clear();
    stage.crash(1, 0);
    stage.restart(1);
    stage.act(2, |it, view, fx| it.prepare_unasked(view, fx));
    for _ in 0..3 {
        stage.flush(2);
        stage.pass(2, 1);
        stage.flush(1);
        stage.pass(1, 2);
    }
    stage.propose(2);
    for _ in 0..3 {
        stage.flush(2);
        stage.pass(2, 1);
        stage.flush(1);
        stage.pass(1, 2);
    }
    stage.check_leases();
    stage.broken.is_some()
}

#[test]
fn a_grant_outlives_a_restart() {
    assert!(!grant_forgotten(None));
    assert!(grant_forgotten(Some(Plant::ForgetGrants)), "the planted bug is noticed");
}

/// Whether an installed snapshot that is lost in a crash lets a superseded vote count as decided.
fn install_lost(plant: Option<Plant>) -> bool {
    let mut stage = Stage::with(3, 1, Retention { volatile: false, keep: 0 }, plant);
    stage.saves_late = true;
    assert!(stage.run_until(|s| s.leader() == Some(0)));
    // Reserves names, so that later steps wait only for the flushes of the story.
    stage.propose(0);
    stage.run(millis(200));
    // Only 2 votes for a proposal that its proposer forgets.
    stage.propose(0);
    stage.pass(0, 2);
    stage.flush(2);
    stage.network.clear();
    stage.cut.insert(2);
    stage.crash(0, 0);
    stage.restart(0);
    assert!(stage.run_until(|s| s.leader().is_some()), "0 and 1 go on");
    for _ in 0..20 {
        stage.propose(0);
        stage.run(millis(20));
    }
    (0..2).for_each(|at| stage.save(at));
    stage.run(millis(100));
    stage.cut.clear();
    assert!(stage.run_until(|s| s.nodes[2].executed >= 20), "it installs a snapshot");
    stage.propose(0);
    stage.run(millis(100));
    stage.crash(2, 0);
    stage.restart(2);
    assert!(plant.is_some() || stage.nodes[2].executed == 1, "the rest is lost");
    stage.run(millis(2000));
    assert!(plant.is_some() || stage.nodes.iter().all(|node| node.executed >= 21));
    stage.broken.is_some()
}

#[test]
fn what_was_voted_for_below_a_lost_snapshot_is_not_taken_for_decided() {
    assert!(!install_lost(None));
    let lost = std::panic::catch_unwind(|| install_lost(Some(Plant::NoHole)));
    assert!(lost.unwrap_or(true), "the planted bug is noticed, if only by the replica itself");
}
