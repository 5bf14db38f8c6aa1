//! One story for each promise.

use super::stage::*;

/// Three replicas, the first of which leads.
fn led(n: usize) -> Stage {
    let mut stage = Stage::new(n, 1);
    assert!(stage.run_until(|s| s.leader() == Some(0)), "somebody is elected");
    stage.run(millis(200));
    stage
}

#[test]
fn the_first_replica_leads_a_new_cluster_and_decides_in_two_delays() {
    for n in [1, 2, 3, 4, 5, 7] {
        let mut stage = led(n);
        let name = stage.propose(0);
        let begin = stage.now;
        assert!(stage.run_until(|s| s.nodes[0].executed == 1), "{n}");
        let trip = if n == 1 { millis(1) } else { millis(10) };
        assert!(stage.now.since(begin) <= trip + millis(1), "{n}: {:?}", stage.now.since(begin));
        assert_eq!(stage.nodes[0].own_commits, [(name, true)]);
        stage.run(millis(20));
        assert!(stage.nodes.iter().all(|node| node.executed == 1), "{n}");
    }
}
