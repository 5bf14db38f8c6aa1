//! What a replica hears of others is durable no later than the records that rest on it.

use super::core_tests::Cluster;
use super::{Heard, Input, Limits, Memory, Record, Since};
use crate::types::{Durable, Footprint, Known, LogPosition, ReplicaId};

const HERE: usize = 0;

fn peer() -> ReplicaId {
    ReplicaId::from_index(1)
}

fn hear(cluster: &mut Cluster, life: u64, held: u64) {
    let began = Some(LogPosition::new(3));
    let known = Known { directory: 7, life, began, held: LogPosition::new(held) };
    cluster.step(ReplicaId::from_index(HERE), Input::Heard { peer: peer(), known });
}

fn news(life: Option<u64>, held: u64) -> Heard {
    let began = Some(LogPosition::new(3));
    let since = life.map(|life| Since { directory: 7, life, began });
    Heard { peer: peer(), since, held: LogPosition::new(held) }
}

fn heard(cluster: &Cluster) -> Vec<(usize, Vec<Heard>)> {
    let log = cluster.logs[HERE].iter().enumerate();
    let heard = log.filter_map(|(at, record)| match record {
        Record::Heard(news) => Some((at, news.clone())),
        Record::Protocol(_) => None,
    });
    heard.collect()
}

#[test]
fn it_goes_in_front_of_the_next_record_and_only_if_there_is_news() {
    let mut cluster = Cluster::new(3, Limits::default());
    hear(&mut cluster, 4, 5);
    hear(&mut cluster, 4, 9);
    assert!(cluster.logs[HERE].is_empty(), "nothing rests on it yet");
    cluster.propose(HERE, 1, Footprint::write(b"a"));
    let first = (0, vec![news(Some(4), 9)]);
    assert_eq!(heard(&cluster), std::slice::from_ref(&first));
    let length = cluster.logs[HERE].len();
    assert!(length > 1, "the vote comes behind it");
    cluster.propose(HERE, 2, Footprint::write(b"b"));
    assert_eq!(heard(&cluster), std::slice::from_ref(&first), "no news");
    let length = cluster.logs[HERE].len();
    hear(&mut cluster, 4, 12);
    cluster.propose(HERE, 3, Footprint::write(b"c"));
    assert_eq!(heard(&cluster), [first, (length, vec![news(None, 12)])]);
}

/// The record of what was heard takes a log position of its own, before the vote. A message
/// that waits for the vote waits for both.
#[test]
fn what_waits_for_a_record_behind_it_is_not_released_by_it() {
    let mut cluster = Cluster::new(3, Limits::default());
    let me = ReplicaId::from_index(HERE);
    cluster.held = Some(me);
    hear(&mut cluster, 4, 5);
    cluster.propose(HERE, 1, Footprint::write(b"a"));
    assert_eq!(cluster.logs[HERE].len(), 2);
    cluster.step(me, Input::Durable(Durable::flushed(LogPosition::new(1))));
    assert!(cluster.network.is_empty(), "the vote is not durable");
    cluster.step(me, Input::Durable(Durable::flushed(LogPosition::new(2))));
    assert!(!cluster.network.is_empty());
}

#[test]
fn it_outlives_a_restart_and_the_log_that_a_snapshot_stands_for() {
    let mut cluster = Cluster::new(3, Limits::default());
    hear(&mut cluster, 4, 5);
    cluster.propose(HERE, 1, Footprint::write(b"a"));
    cluster.run();
    hear(&mut cluster, 6, 7);
    cluster.propose(HERE, 2, Footprint::write(b"b"));
    cluster.run();
    let memory = cluster.cores[HERE].memory().clone();
    assert!(!memory.is_ahead());
    cluster.restart(HERE);
    assert_eq!(*cluster.cores[HERE].memory(), memory);
    let own = cluster.cores[HERE].checkpoint().own;
    let Some(Record::Heard(all)) = own.first() else { panic!("it comes first: {own:?}") };
    let mut restored = Memory::default();
    restored.restore(all);
    assert_eq!(restored, memory);
}
