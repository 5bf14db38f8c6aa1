//! A story for each promise of the protocol.

use std::time::Duration;

use super::super::{Message, Standing};
use super::stage::*;
use crate::protocol::Protocol;
use crate::protocol::multipaxos::Path;
use crate::types::{Ballot, InstanceId, MAX_SLOT, Retention, Time};

fn standing(stage: &Stage, at: usize) -> Standing {
    stage.nodes[at].protocol.standing()
}

/// How long until `at` knows that its own proposal is decided.
fn latency(stage: &mut Stage, at: usize) -> Duration {
    let begin = stage.now;
    stage.propose(at);
    assert!(stage.run_until(|s| s.nodes[at].protocol.pending() == 0), "it is decided");
    stage.now.since(begin)
}

#[test]
fn the_first_replica_leads_and_decides_in_two_delays_and_others_in_four() {
    for n in [1, 2, 3, 4, 5, 7] {
        let mut stage = led(n);
        let delays = if n == 1 { 0 } else { 2 };
        // A flush takes up to a millisecond here.
        let at_most = |delays: u32| stage_delay() * delays + millis(2);
        assert!(latency(&mut stage, 0) <= at_most(delays), "{n}");
        assert!(stage.nodes[0].own_commits.iter().all(|(_, fast)| *fast), "{n}");
        if n > 1 {
            let took = latency(&mut stage, n - 1);
            assert!(took <= at_most(4) && took > stage_delay() * 3, "{n}: {took:?}");
            assert!(stage.nodes[n - 1].own_commits.iter().all(|(_, fast)| !*fast), "{n}");
        }
        stage.run(millis(30));
        let last = stage.truth.len() as u64;
        assert!(stage.nodes.iter().all(|node| node.executed == last), "all hear soon: {n}");
    }
}

fn stage_delay() -> Duration {
    millis(5)
}

#[test]
fn who_is_wished_for_leads_a_new_cluster_and_mostly_follows_a_leader_that_stops() {
    for wished in 0..5 {
        let mut stage = Stage::wishing(5, 1, wished);
        assert!(stage.run_until(|s| s.leader().is_some()), "somebody is elected");
        stage.run(millis(4000));
        assert_eq!(stage.leader(), Some(wished));
        assert_eq!(stage.all_paths().count(Path::Elected), 1);
    }
    let mut followed = 0;
    for seed in 0..20 {
        let mut stage = Stage::wishing(5, seed, 3);
        // The preferred leader arrives too late to be first, and displaces no leader.
        stage.cut.insert(3);
        assert!(stage.run_until(|s| s.leader() == Some(0)), "another one is elected");
        stage.cut.clear();
        stage.run(millis(3000));
        assert_eq!(stage.leader(), Some(0));
        stage.crash(0, 0);
        assert!(stage.run_until(|s| s.leader().is_some()), "somebody follows");
        followed += usize::from(stage.leader() == Some(3));
    }
    assert!(followed >= 18, "{followed} of 20");
}

#[test]
fn a_follower_alone_learns_at_once_what_it_waits_for() {
    let mut stage = led(5);
    stage.propose(3);
    let told = |s: &Stage, who| {
        let commit = |it: &&Flying| matches!(it.message, Message::Commit { .. }) && it.to == who;
        s.network.iter().filter(commit).count()
    };
    assert!(stage.run_until(|s| told(s, 3) > 0), "who waits is told");
    assert_eq!((0..5).map(|who| told(&stage, who)).collect::<Vec<_>>(), [0, 0, 0, 1, 0]);
}

#[test]
fn many_proposals_are_pipelined_and_leave_in_runs() {
    let mut stage = led(3);
    for _ in 0..3000 {
        stage.propose(0);
    }
    assert!(stage.all_paths().count(Path::WindowFull) > 0);
    let accepts =
        |it: &Flying| matches!(&it.message, Message::Accept { entries, .. } if entries.len() > 1);
    assert!(stage.run_until(|s| s.network.iter().any(accepts)), "what waited leaves together");
    assert!(stage.run_until(|s| s.nodes[2].executed == 3000), "{}", stage.nodes[2].executed);
}

#[test]
fn a_proposal_outlives_the_leader_that_had_it() {
    let mut stage = led(3);
    let name = stage.propose(2);
    stage.pass(2, 0);
    stage.flush(0);
    // The leader stops before any replica heard of the proposal.
    stage.network.clear();
    stage.crash(0, 0);
    assert!(stage.run_until(|s| s.nodes[2].protocol.pending() == 0), "it goes to the next one");
    stage.restart(0);
    stage.run(millis(3000));
    assert!(stage.truth.values().any(|(decided, _)| *decided == name));
    assert!(stage.nodes.iter().all(|node| node.executed == stage.truth.len() as u64));
}

#[test]
fn a_lost_forward_is_sent_again_and_one_that_comes_twice_is_proposed_once() {
    let mut stage = led(3);
    stage.propose(1);
    stage.network.clear();
    assert!(stage.run_until(|s| s.nodes[1].protocol.pending() == 0), "it is sent again");
    stage.propose(1);
    let twice = stage.network.clone();
    stage.network.extend(twice);
    stage.run(millis(100));
    assert_eq!(stage.truth.len(), 2);
    assert_eq!(stage.all_paths().count(Path::Duplicate), 1);
}

#[test]
fn an_accept_that_is_overtaken_is_not_asked_for_and_one_that_is_lost_is() {
    for lost in [false, true] {
        let mut stage = led(3);
        let fetches = |stage: &Stage| stage.all_paths().count(Path::Fetch);
        let (before, fetched) = (standing(&stage, 2).commit, fetches(&stage));
        stage.propose(0);
        let is_late =
            |flying: &Flying| flying.to == 2 && matches!(flying.message, Message::Accept { .. });
        assert!(stage.run_until(|stage| stage.network.iter().any(is_late)), "it is sent");
        if lost {
            stage.network.retain(|flying| !is_late(flying));
        }
        for flying in stage.network.iter_mut().filter(|flying| is_late(flying)) {
            flying.at = flying.at + millis(40);
        }
        stage.run(millis(35));
        assert!(standing(&stage, 0).commit > before && standing(&stage, 2).commit == before);
        stage.run(millis(400));
        assert_eq!(standing(&stage, 2).commit, standing(&stage, 0).commit);
        assert_eq!(fetches(&stage) > fetched, lost);
    }
}

#[test]
fn who_was_cut_off_disturbs_no_leader() {
    let mut stage = led(3);
    let before = standing(&stage, 0).ballot;
    stage.cut.insert(2);
    stage.run(millis(5000));
    assert!(stage.all_paths().count(Path::AskedAgain) > 0, "it did stand");
    assert_eq!(standing(&stage, 2).ballot, before, "and took no ballot");
    stage.cut.clear();
    stage.run(millis(1000));
    assert_eq!(stage.leader(), Some(0));
    assert!((0..3).all(|at| standing(&stage, at).ballot == before));
    assert_eq!(stage.all_paths().count(Path::Elected), 1);
}

#[test]
fn a_leader_brings_back_who_has_promised_more() {
    let mut stage = led(3);
    let before = standing(&stage, 0).ballot;
    // A candidacy that failed.
    stage.act(2, |it, view, fx| it.prepare_unasked(view, fx));
    stage.network.clear();
    assert!(standing(&stage, 2).ballot > before);
    stage.propose(0);
    stage.propose(1);
    stage.run(millis(500));
    assert_eq!(stage.leader(), Some(0));
    assert_eq!(stage.all_paths().count(Path::LedAgain), 1);
    assert!((0..3).all(|at| standing(&stage, at).ballot == standing(&stage, 0).ballot));
    assert!(stage.nodes.iter().all(|node| node.executed == 2));
}

#[test]
fn a_leader_that_hears_no_majority_gives_up_and_another_is_elected() {
    let mut stage = led(5);
    let name = stage.propose(0);
    stage.network.clear();
    stage.cut.insert(0);
    stage.run(millis(4000));
    assert!(!stage.nodes[0].leads(), "it may not answer, so it had better not lead");
    let leader = stage.leader().expect("the others elect one");
    stage.cut.clear();
    stage.run(millis(2000));
    assert_eq!(stage.leader(), Some(leader), "whose term goes on");
    assert!(stage.truth.values().any(|(decided, _)| *decided == name), "{name} went there");
}

#[test]
fn votes_of_many_pages_are_all_found() {
    let mut stage = led(3);
    // 0 and 1 decide without 2, and 1 is not told of the last decision.
    for _ in 0..5 {
        for _ in 0..1000 {
            stage.propose(0);
        }
        stage.pass(0, 1);
        stage.flush(1);
        stage.network.retain(|it| it.from == 1);
        stage.pass(1, 0);
        stage.flush(0);
    }
    let decided = stage.nodes[0].executed;
    let told = standing(&stage, 1).commit;
    assert!(decided > 4000 && told < decided, "{told} of {decided}");
    stage.network.clear();
    stage.crash(0, 0);
    stage.advance(millis(3000));
    stage.act(2, |it, view, fx| it.prepare_unasked(view, fx));
    stage.run(millis(500));
    assert_eq!(stage.leader(), Some(2));
    assert_eq!((stage.nodes[1].executed, stage.nodes[2].executed), (decided, decided));
    assert!(stage.all_paths().count(Path::NextPage) >= 3);
    assert!(stage.all_paths().count(Path::ProposedAgain) > 0);
}

#[test]
fn far_away_a_leader_stays_and_keeps_its_lease() {
    let mut stage = Stage::new(5, 3);
    stage.delay = millis(150);
    for (at, node) in stage.nodes.iter_mut().enumerate() {
        node.view.round_trips = vec![millis(300); 5];
        node.view.round_trips[at] = Duration::ZERO;
        // The clocks differ by up to a fifth.
        node.rate = 0.9 + at as f64 / 20.0;
    }
    assert!(stage.run_until(|s| s.leader().is_some()));
    stage.run(millis(2000));
    let (leader, asked) = (stage.leader().expect("there is one"), stage.leases);
    let elected = stage.all_paths().count(Path::Elected);
    for step in 0..40 {
        stage.propose(step % 5);
        stage.run(millis(500));
    }
    stage.run(millis(1000));
    assert_eq!((stage.leader(), stage.broken.take()), (Some(leader), None));
    assert_eq!(stage.leases - asked, 21_000, "at no moment without its lease");
    assert_eq!(stage.all_paths().count(Path::Elected), elected);
    assert!(stage.nodes.iter().all(|node| node.protocol.pending() == 0));
}

#[test]
fn a_restart_brings_back_what_was_decided_voted_and_promised() {
    let mut stage = led(3);
    for _ in 0..50 {
        stage.propose(0);
        stage.run(millis(5));
    }
    stage.run(millis(200));
    stage.save(1);
    stage.run(millis(200));
    let before: Vec<_> = (0..3).map(|at| standing(&stage, at)).collect();
    (0..3).for_each(|at| stage.crash(at, 0));
    (0..3).for_each(|at| stage.restart(at));
    for (at, before) in before.iter().enumerate() {
        let after = standing(&stage, at);
        assert_eq!((after.ballot, after.commit), (before.ballot, before.commit), "{at}");
        assert_eq!((after.slots, after.floor, stage.nodes[at].executed), (50, 0, 50), "{at}");
    }
    assert!(stage.run_until(|s| s.leader().is_some()));
    stage.propose(1);
    stage.run(millis(500));
    assert!(stage.nodes.iter().all(|node| node.executed == 51));
}

#[test]
fn what_an_absent_member_lacks_is_dropped_beyond_the_limit_and_it_installs_a_snapshot() {
    let mut stage = Stage::with(3, 1, Retention { volatile: false, keep: 10_000 }, None);
    assert!(stage.run_until(|s| s.leader() == Some(0)));
    stage.crash(2, 0);
    for round in 0..300 {
        stage.propose(round % 2);
        stage.run(millis(3));
    }
    stage.run(millis(100));
    (0..2).for_each(|at| stage.save(at));
    stage.run(millis(100));
    for at in 0..2 {
        let (floor, bytes) = (standing(&stage, at).floor, stage.nodes[at].protocol.kept_bytes());
        assert!(floor > 200 && bytes <= 10_000, "{at}: {floor}, {bytes}");
    }
    stage.restart(2);
    // A proposal at a replica that lags behind.
    let name = stage.propose(2);
    stage.run(millis(3000));
    assert!(stage.nodes.iter().all(|node| node.executed == stage.truth.len() as u64));
    assert_eq!(stage.all_paths().count(Path::Installed), 1);
    assert!(stage.nodes[2].protocol.pending() == 0, "{name} is decided, or was proposed anew");
    (0..3).for_each(|at| stage.save(at));
    stage.run(millis(300));
    assert!((0..3).all(|at| standing(&stage, at).slots == 0), "all have all: nothing is kept");
}

#[test]
fn messages_that_make_no_sense_change_nothing() {
    let mut stage = led(3);
    stage.propose(0);
    stage.run(millis(100));
    let before = standing(&stage, 1);
    let ballot = before.ballot;
    let foreign = Ballot::new(900, replica(2)).expect("a round above 0");
    let far = MAX_SLOT;
    let (sent, lease) = (Time::from_nanos(u64::MAX), Duration::MAX);
    let entries = stage
        .truth
        .values()
        .map(|(proposal, value)| super::super::Entry { proposal: *proposal, value: value.clone() });
    let entries: Vec<_> = entries.collect();
    let name = InstanceId::new(replica(2), 5);
    let batch = entries[0].value.batch().expect("a batch was decided").clone();
    let messages = [
        Message::PreVote { ballot: foreign, commit: far },
        Message::PreVoteOk { ballot },
        Message::Prepare { ballot: foreign, first: far },
        Message::Prepare { ballot, first: 0 },
        Message::Promise { ballot, first: far, commit: far, votes: Vec::new(), next: 0 },
        Message::Accept { ballot, commit: 0, first: far, entries: entries.clone() },
        Message::Accept { ballot, commit: 0, first: 0, entries: entries.clone() },
        Message::Accept { ballot, commit: 1, first: 1, entries: Vec::new() },
        Message::AcceptOk { ballot, first: far, last: 1 },
        Message::AcceptOk { ballot, first: 0, last: u64::MAX },
        Message::Heartbeat { ballot, commit: 1, forget: far, barrier: far, sent, lease },
        Message::HeartbeatOk { ballot, sent, lease, saved: far },
        Message::Forward { proposals: vec![super::super::Proposal { name, batch }] },
        Message::Fetch { first: 0 },
        Message::Fetch { first: far },
        Message::Decided { first: far, entries: entries.clone() },
        Message::Decided { first: 0, entries },
        Message::Truncated { floor: u64::MAX },
        Message::Commit { ballot: Ballot::OWNER, commit: 1 },
    ];
    for message in messages {
        for (from, to) in [(0, 1), (1, 0), (2, 1), (0, 2)] {
            let at = stage.now;
            stage.deliver(Flying { at, from, to, message: message.clone() });
        }
    }
    assert_eq!(standing(&stage, 1), before);
    stage.propose(1);
    stage.run(millis(200));
    assert_eq!((stage.truth.len(), stage.leader(), stage.broken.take()), (2, Some(0), None));
}
