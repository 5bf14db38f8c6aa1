//! Stories that need a whole world but no fault: a hot key on a wide area network, clients that ask
//! two replicas at once, and what remains when everything is done.

use std::time::Duration;

use super::plan::{Disk, Overrides, Plan, StoragePlan};
use super::report::Verdict;
use super::world::sabotage::Sabotage;
use super::world::state::World;
use crate::protocol::epaxos::EPaxos;

/// Five sites with the round trips of the EPaxos paper: Virginia, California, Oregon, Japan,
/// Ireland.
const SITES: [[u64; 5]; 5] = [
    [0, 599, 725, 1524, 705],
    [599, 0, 211, 1117, 1412],
    [725, 211, 0, 1009, 1273],
    [1524, 1117, 1009, 0, 2044],
    [705, 1412, 1273, 2044, 0],
];

/// A world of five sites without faults, in which every command writes one key.
fn hot_key(clients: usize, minutes: u64) -> Plan {
    let mut plan = Plan::draw(1, &Overrides { replicas: Some(5), ..Overrides::default() });
    plan.timing = crate::types::Timing::default();
    plan.faults.clear();
    plan.wire = false;
    plan.step = Duration::ZERO;
    plan.disks.fill(Disk::Instant);
    plan.clocks.iter_mut().for_each(|clock| clock.rate = 1024);
    plan.unrest = Duration::from_secs(60 * minutes);
    let links = &mut plan.links;
    (links.drop, links.duplicate, links.late, links.client_drop) = (0, 0, 0, 0);
    links.fifo = true;
    links.jitter = Duration::from_millis(1);
    for (from, row) in SITES.iter().enumerate() {
        for (to, tenths) in row.iter().enumerate() {
            links.delay[from][to] = Duration::from_micros(tenths * 50);
        }
    }
    let workload = &mut plan.workload;
    workload.clients = clients;
    workload.commands = u64::MAX;
    workload.window = 1;
    workload.burst = 1;
    workload.think = Duration::from_millis(20);
    workload.keys = 1;
    workload.mix = [0, 1, 0, 0, 0, 0];
    workload.timeout = Duration::from_secs(30);
    (workload.give_up, workload.double) = (0, 0);
    plan
}

fn run(plan: Plan) -> Verdict {
    let verdict = World::<EPaxos>::new(plan, Sabotage::default(), None).run();
    assert_eq!(verdict.violation, None);
    verdict
}

/// Without a countermeasure, a hot key keeps one component open for ever: nothing in it is executed
/// until the load ends. Admission bounds it (PROTOCOL.md §6b).
#[test]
fn a_hot_key_does_not_livelock() {
    let verdict = run(hot_key(50, 1));
    assert!(verdict.operations > 3_000, "{} operations", verdict.operations);
    assert!(verdict.largest_component <= 40, "components of {}", verdict.largest_component);
    assert!(verdict.slowest < Duration::from_secs(2), "an answer took {:?}", verdict.slowest);
}

/// A client asks two replicas at once, and both commit: the second execution finds the session's
/// entry.
#[test]
fn duplicates_at_two_replicas_happen_once() {
    let mut plan = hot_key(10, 1);
    plan.unrest = Duration::from_secs(5);
    plan.workload.mix = [1, 1, 4, 1, 0, 0];
    plan.workload.double = 255;
    let verdict = run(plan);
    let met_again = verdict.count("command_met_again");
    assert!(met_again > verdict.operations, "{met_again} of {}", verdict.operations);
}

/// What all have executed can only be forgotten once every replica's snapshot contains it. By
/// chance a replica once took no snapshot for longer than the last check waits. Here none is ever
/// taken by chance.
#[test]
fn what_all_have_executed_is_forgotten_when_nothing_happens_any_more() {
    let mut plan = hot_key(10, 1);
    plan.unrest = Duration::from_secs(5);
    plan.restarts = true;
    plan.disks.fill(Disk::Takes(Duration::from_millis(1)));
    plan.storage = Some(StoragePlan {
        segment_bytes: 64 * 1024,
        os: false,
        snapshots: Some(Duration::from_secs(1 << 30)),
        keep: 64 << 20,
        lies: false,
    });
    let verdict = run(plan);
    assert_eq!(verdict.count("all_trimmed_when_quiet"), 1);
    assert!((5..50).contains(&verdict.count("snapshot_taken")), "one each, or a few more");
}
