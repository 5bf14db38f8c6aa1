//! Power failures at every boundary of a run: within each operation that changes a replica's disk,
//! once for that replica alone and once for all together. The replicas restart from what is left
//! (sometimes that start is interrupted, too) and continue. The world's checks then say whether
//! anything was lost: agreement, visibility, order, linearizability, every durable record, every
//! answered command.

use std::time::Duration;

use super::plan::Fault;
use super::plan::{Disk, Overrides, Plan, StoragePlan, Stream, stream};
use super::report::Verdict;
use super::world::sabotage::Sabotage;
use super::world::state::World;
use crate::protocol::epaxos::EPaxos;
use crate::types::{ReplicaId, Timing};

/// Three replicas, four clients that send `operations` commands in all, and no random faults.
fn workload(operations: u64) -> Plan {
    let overrides = Overrides { replicas: Some(3), restarts: true, ..Overrides::default() };
    let mut plan = Plan::draw(1, &overrides);
    plan.timing = Timing::default();
    plan.timing.suspect = Duration::from_millis(100);
    plan.timing.patience = Duration::from_millis(200);
    plan.optimisations = crate::types::Optimisations::NONE;
    // Enabled, but with a mean beyond the world's end: this only permits interrupted starts.
    plan.faults = vec![(Fault::StopStarting, Duration::from_secs(1 << 30))];
    plan.storage = Some(StoragePlan {
        segment_bytes: 16 * 1024,
        os: false,
        snapshots: None,
        keep: 0,
        lies: false,
    });
    plan.wire = false;
    plan.step = Duration::ZERO;
    plan.disks.fill(Disk::Takes(Duration::from_millis(1)));
    plan.clocks.iter_mut().for_each(|clock| clock.rate = 1024);
    let links = &mut plan.links;
    (links.drop, links.duplicate, links.late, links.client_drop) = (0, 0, 0, 0);
    links.fifo = true;
    links.jitter = Duration::from_micros(100);
    links.delay.iter_mut().flatten().for_each(|delay| *delay = Duration::from_micros(300));
    let workload = &mut plan.workload;
    (workload.clients, workload.commands, workload.window) = (4, operations / 4, 1);
    (workload.think, workload.burst) = (Duration::from_millis(1), 1);
    (workload.keys, workload.hot, workload.mix) = (4, 0, [2, 3, 2, 1, 1, 0]);
    (workload.give_up, workload.double, workload.twins) = (0, 0, 0);
    workload.timeout = Duration::from_millis(50);
    plan.unrest = Duration::from_millis(10 * operations / 4) + Duration::from_secs(2);
    plan
}

/// The disk of `victim` dies within the operation after the next `boundary` ones.
fn run(operations: u64, victim: usize, boundary: u64, all: bool) -> Verdict {
    let mut world = World::<EPaxos>::new(workload(operations), Sabotage::default(), None);
    // The surviving data differs between boundaries.
    world.room_rng = stream(boundary, Stream::Rooms);
    world.one_mains = all;
    let room = world.hosts[victim].room.as_mut().expect("the plan says so");
    room.die_after(boundary);
    world.run()
}

/// Runs every `step`-th boundary of every replica, to the end of the run. Returns the number of
/// runs.
fn every_boundary(operations: u64, step: u64) -> u64 {
    let mut states = 0;
    for victim in ReplicaId::all(3).map(ReplicaId::index) {
        for all in [false, true] {
            for boundary in (0..).step_by(usize::try_from(step).expect("a small number")) {
                let verdict = run(operations, victim, boundary, all);
                let what = format!("operation {boundary} of replica {victim}, all: {all}");
                assert_eq!(verdict.violation, None, "{what}");
                assert_eq!(verdict.operations, operations, "{what}");
                if verdict.count("restart") == 0 {
                    break;
                }
                states += 1;
            }
        }
    }
    states
}

#[test]
fn power_loss_at_boundaries_of_a_run() {
    let states = every_boundary(100, 19);
    assert!(states > 60, "only {states} states");
}

/// For the published figure: every boundary of 1,000 operations.
#[test]
#[ignore = "takes many minutes in release: for the figures"]
fn power_loss_at_every_boundary_of_1000_operations() {
    use std::io::Write as _;
    let states = every_boundary(1000, 1);
    writeln!(std::io::stderr(), "{states} states").expect("standard error can be written to");
    assert!(states > 2000, "only {states} states");
}
