//! Large messages that small ones overtake are not sent twice because of that.

use std::time::Duration;

use super::core_tests::{Cluster, replica};
use super::{Input, Limits, PeerMessage};
use crate::protocol::epaxos::{Message, Path};
use crate::types::{Footprint, ReplicaId, ReplicaSet, Time};

type Flying = (ReplicaId, ReplicaId, PeerMessage<Message>);

fn is_payload((.., message): &Flying) -> bool {
    matches!(message, PeerMessage::Protocol(Message::PreAccept { .. }))
}

fn is_probe((.., message): &Flying) -> bool {
    matches!(message, PeerMessage::Probe { .. })
}

/// Lets time pass, and holds back the messages for which `slow` is true.
fn pass(cluster: &mut Cluster, ms: u64, slow: impl Fn(&Flying) -> bool) -> Vec<Flying> {
    let mut held = Vec::new();
    for _ in 0..ms / 10 {
        cluster.now = cluster.now + Duration::from_millis(10);
        for me in ReplicaId::all(cluster.cores.len()) {
            cluster.step(me, Input::Tick);
        }
        while let Some(flying) = cluster.network.pop_front() {
            if slow(&flying) {
                held.push(flying);
            } else {
                let (from, to, message) = flying;
                cluster.step(to, Input::Peer { from, message });
            }
        }
    }
    held
}

#[test]
fn a_payload_that_its_commit_overtakes_is_not_asked_for_and_one_that_is_lost_is() {
    for lost in [false, true] {
        let mut cluster = Cluster::new(3, Limits::default());
        pass(&mut cluster, 100, |_| false);
        let late = replica(2);
        cluster.propose(0, 1, Footprint::write(b"k"));
        let slow = |flying: &Flying| flying.1 == late && is_payload(flying);
        let held = pass(&mut cluster, 30, slow);
        assert_eq!((held.len(), cluster.executed[1].len(), cluster.executed[2].len()), (1, 1, 0));
        if !lost {
            let votes = cluster.logs[2].len();
            held.into_iter().for_each(|flying| cluster.network.push_back(flying));
            cluster.run();
            assert_eq!(cluster.executed[2].len(), 1, "it is decided as soon as it is there");
            assert_eq!(cluster.logs[2].len(), votes + 1, "and not voted for");
        }
        pass(&mut cluster, 300, |_| false);
        let fetches = cluster.cores[2].paths().count(Path::Fetch);
        assert_eq!((cluster.executed[2].len(), fetches > 0), (1, lost));
    }
}

#[test]
fn what_may_still_be_under_way_is_not_sent_again_and_what_is_lost_is() {
    let mut cluster = Cluster::new(3, Limits::default());
    pass(&mut cluster, 100, |_| false);
    let others = ReplicaSet::from_iter([replica(1), replica(2)]);
    cluster.propose(0, 1, Footprint::write(b"k"));
    cluster.step(replica(0), Input::SentLarge(others));
    // The network holds back both the payload and the probes, and delivers everything else.
    let slow = |flying: &Flying| flying.0 == replica(0) && (is_payload(flying) || is_probe(flying));
    let held = pass(&mut cluster, 5000, slow);
    let payloads = held.iter().filter(|flying| is_payload(flying)).count();
    assert_eq!(payloads, 2, "one for each of the others");
    assert!(cluster.executed.iter().all(Vec::is_empty));
    // The probes arrive; the payload before them was lost.
    held.into_iter().filter(is_probe).for_each(|flying| cluster.network.push_back(flying));
    cluster.run();
    pass(&mut cluster, 1000, |_| false);
    assert!(cluster.executed.iter().all(|executed| executed.len() == 1));
}

#[test]
fn who_comes_back_is_not_taken_for_one_whose_lane_is_slow() {
    let mut cluster = Cluster::new(3, Limits::default());
    pass(&mut cluster, 100, |_| false);
    let others = ReplicaSet::from_iter([replica(1), replica(2)]);
    cluster.propose(0, 1, Footprint::write(b"k"));
    cluster.network.clear();
    cluster.step(replica(0), Input::SentLarge(others));
    cluster.away = others;
    pass(&mut cluster, 5000, |_| false);
    cluster.away = ReplicaSet::EMPTY;
    let back: Time = cluster.now;
    while cluster.executed[0].is_empty() {
        pass(&mut cluster, 10, |_| false);
        assert!(cluster.now.since(back) < Duration::from_secs(2), "it is sent again soon");
    }
}
