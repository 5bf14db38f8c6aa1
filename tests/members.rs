//! The members of a cluster change while it runs and while clients write to it.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::machines::Machines;
use common::members::Cluster;
use common::{create, eventually, get, id, put, value};
use isonomy::Replica;
use isonomy::client::{Client, ClientConfig};
use isonomy::machine::{Kv, KvOutput};
use isonomy::node::{Fault, NotChanged, ProposeError, ProtocolKind, Rejected, Role, StartError};
use isonomy::types::{Change, ClientId, RequestId};

impl Cluster {
    async fn start(protocol: ProtocolKind, members: u32, machines: u32) -> Cluster {
        let mut machines = Machines::new(u64::from(machines));
        (machines.protocol, machines.founders) = (protocol, members);
        Cluster::begin(machines).await
    }

    /// Asks a replica for a change until it is made or refused for good.
    async fn change(&self, at: u32, change: Change) -> Vec<u32> {
        let mut list = None;
        eventually("the change", async || {
            match self.replica(at).change_members(change.clone(), true).await {
                Ok(new) => list = Some(new),
                Err(
                    NotChanged::NotConnected(_)
                    | NotChanged::NotBegun(_)
                    | NotChanged::NoQuorum { .. }
                    | NotChanged::Rejected(Rejected::NoQuorum(_)),
                ) => {}
                Err(why) => panic!("{change:?}: {why}"),
            }
            list.is_some()
        })
        .await;
        list.unwrap().members().iter().map(|member| member.id.number()).collect()
    }

    async fn takes_part(&self, number: u32) {
        let replica = self.replica(number);
        eventually("it takes part", async || {
            assert!(replica.fault().is_none(), "{:?}", replica.fault());
            replica.members().await.is_some_and(|members| members.role == Role::Member)
        })
        .await;
    }

    /// All that run as members have the same state.
    async fn agree(&self) {
        eventually("the same state", async || {
            let mut digests = Vec::new();
            for replica in self.running.values().filter(|replica| replica.fault().is_none()) {
                digests.push(replica.digest().await);
            }
            digests.windows(2).all(|two| two[0] == two[1])
        })
        .await;
    }

    async fn retired(&mut self, number: u32) {
        let replica = self.running.remove(&number).expect("it runs");
        replica.wait_stopped().await;
        let fault = replica.fault().expect("it says why");
        assert!(matches!(fault, Fault::Removed { .. }), "{fault}");
        let again = self.machines.try_start(number).await;
        let why = again.map(drop).expect_err("its number is used up").to_string();
        assert!(why.contains("removed"), "{why}");
    }
}

/// A client that writes a key of its own over and over, at one replica after the other, each time
/// under one id until it is answered.
async fn write(replicas: Vec<Replica<Kv>>, client: u64, stop: Arc<AtomicBool>) -> (u64, String) {
    let mut last = (0, String::new());
    let mut next = 0;
    for round in 1u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("client {client} round {round}");
        let request = RequestId::new(ClientId(client), round);
        loop {
            let replica = &replicas[next % replicas.len()];
            match replica.submit(request, round, create(&key, "once")).await {
                // A second execution would find the key.
                Ok(KvOutput::Swapped) => break,
                Ok(other) => panic!("{key}: {other:?}"),
                Err(ProposeError::Rejected(Rejected::BadCommand(why))) => panic!("{why}"),
                Err(_) => {
                    next += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
        last = (round, key);
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_grows_to_five_and_shrinks_to_one() {
    for &protocol in ProtocolKind::ALL {
        let mut cluster = Cluster::start(protocol, 1, 5).await;
        assert_eq!(cluster.done(1, put("k", "1")).await, KvOutput::Done);
        for number in 2..=5 {
            cluster.run(number).await;
            // It is connected with those in its file.
            let list = cluster.change(1, Change::Add(cluster.member(number))).await;
            assert_eq!(list, (1..=number).collect::<Vec<_>>());
            cluster.takes_part(number).await;
            let text = number.to_string();
            assert_eq!(cluster.done(number, put("k", &text)).await, KvOutput::Done);
            assert_eq!(cluster.done(1, get("k")).await, value(&text));
        }
        cluster.agree().await;
        for number in 1..=4 {
            let list = cluster.change(5, Change::Remove(id(number))).await;
            assert_eq!(list, (number + 1..=5).collect::<Vec<_>>());
            cluster.retired(number).await;
            let text = format!("without {number}");
            assert_eq!(cluster.done(5, put("k", &text)).await, KvOutput::Done);
            assert_eq!(cluster.done(5, get("k")).await, value(&text));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_machine_is_replaced_under_load_and_nothing_is_lost_or_done_twice() {
    for &protocol in ProtocolKind::ALL {
        let mut cluster = Cluster::start(protocol, 3, 4).await;
        let stop = Arc::new(AtomicBool::new(false));
        let living: Vec<_> = [1, 2].map(|number| cluster.replica(number).clone()).into();
        let clients: Vec<_> = (1..=8)
            .map(|client| tokio::spawn(write(living.clone(), 1000 + client, Arc::clone(&stop))))
            .collect();
        let lost = cluster.running.remove(&3).unwrap();
        lost.kill();
        lost.wait_stopped().await;
        cluster.run(4).await;
        let change = Change::Replace { old: id(3), new: cluster.member(4) };
        assert_eq!(cluster.change(1, change).await, [1, 2, 4]);
        cluster.takes_part(4).await;
        // Now the other one of the first quorum may fail.
        let second = cluster.running.remove(&2).unwrap();
        second.kill();
        second.wait_stopped().await;
        assert_eq!(cluster.done(4, put("after", "it")).await, KvOutput::Done);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let (rounds, key) = client.await.unwrap();
            if rounds > 0 {
                assert_eq!(cluster.done(4, get(&key)).await, value("once"));
            }
        }
        cluster.agree().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_back_into_the_epoch_that_they_were_in() {
    for &protocol in ProtocolKind::ALL {
        let mut cluster = Cluster::start(protocol, 3, 4).await;
        assert_eq!(cluster.done(1, put("k", "v")).await, KvOutput::Done);
        cluster.run(4).await;
        let change = Change::Replace { old: id(3), new: cluster.member(4) };
        assert_eq!(cluster.change(1, change).await, [1, 2, 4]);
        cluster.takes_part(4).await;
        cluster.retired(3).await;
        assert_eq!(cluster.done(4, put("k", "w")).await, KvOutput::Done);
        let all: Vec<_> = std::mem::take(&mut cluster.running).into_values().collect();
        cluster.machines.lose_power(all).await;
        // Their files still name the first members.
        for number in [1, 2, 4] {
            cluster.run(number).await;
        }
        assert_eq!(cluster.done(2, get("k")).await, value("w"));
        let members = cluster.replica(1).members().await.unwrap();
        assert_eq!(members.list.unwrap().epoch(), 1);
        cluster.agree().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_away_goes_on_in_the_present_epoch() {
    for &protocol in ProtocolKind::ALL {
        let mut cluster = Cluster::start(protocol, 5, 7).await;
        assert_eq!(cluster.done(1, put("k", "v")).await, KvOutput::Done);
        let away = cluster.running.remove(&3).unwrap();
        away.kill();
        away.wait_stopped().await;
        for (old, number) in [(2, 6), (4, 7)] {
            cluster.run(number).await;
            let change = Change::Replace { old: id(old), new: cluster.member(number) };
            cluster.change(1, change).await;
            cluster.takes_part(number).await;
        }
        cluster.run(3).await;
        cluster.takes_part(3).await;
        assert_eq!(cluster.done(3, get("k")).await, value("v"));
        let list = cluster.replica(3).members().await.unwrap().list.unwrap();
        assert_eq!(list.epoch(), 2);
        assert_eq!(list.position(id(2)), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_refused_with_the_reason() {
    let mut cluster = Cluster::start(ProtocolKind::EPaxos, 3, 5).await;
    let one = cluster.replica(1).clone();
    let absent = one.change_members(Change::Add(cluster.member(4)), false).await;
    assert_eq!(absent, Err(NotChanged::NotConnected(id(4))));
    let used = one.change_members(Change::Add(cluster.member(2)), false).await;
    assert!(matches!(used, Err(NotChanged::Bad(_))), "{used:?}");
    let few = one.change_members(Change::Remove(id(3)), false).await;
    assert_eq!(few, Err(NotChanged::NoneMayFail { members: 2 }));
    // A replica that waits to be made a member takes no commands and says so.
    cluster.run(4).await;
    let waiting = cluster.replica(4);
    assert_eq!(waiting.members().await.unwrap().role, Role::Stranger);
    let refused = waiting.propose(put("k", "v")).await;
    assert_eq!(refused, Err(Rejected::NoMember.into()));
    let refused = waiting.change_members(Change::Remove(id(3)), true).await;
    assert_eq!(refused, Err(NotChanged::NoMember));
    // A second machine must not take the number of one that is a member.
    cluster.change(1, Change::Replace { old: id(3), new: cluster.member(4) }).await;
    cluster.takes_part(4).await;
    let taken = cluster.running.remove(&4).unwrap();
    taken.shutdown().await;
    cluster.machines.disks[3] = isonomy::internals::storage::FaultyDisk::new(99, 256 << 20);
    match cluster.machines.try_start(4).await {
        Err(StartError::Mesh(_)) | Err(StartError::Storage { .. }) => {}
        Err(why) => panic!("{why}"),
        Ok(other) => {
            other.wait_stopped().await;
            let fault = other.fault().expect("it was refused");
            assert!(matches!(fault, Fault::Outcast { .. }), "{fault}");
        }
    }
}

/// A member that was started a moment before it is added, or a moment after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_is_waited_for() {
    let mut cluster = Cluster::start(ProtocolKind::EPaxos, 3, 4).await;
    let authority = &cluster.machines.authority;
    let credentials = authority.issue_administrator("boss").unwrap().credentials().unwrap();
    let addresses = (1..=3).map(|number| (id(number), cluster.machines.addrs[number as usize - 1]));
    let mut config = ClientConfig::new(authority.cluster(), "boss", credentials, addresses);
    config.patience = common::PATIENCE;
    let client = Client::<Kv>::connect(config).await.unwrap();
    let add = Change::Add(cluster.member(4));
    let asked = tokio::spawn(async move { client.change_members(add, false).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!asked.is_finished(), "it is not refused at once");
    cluster.run(4).await;
    assert_eq!(asked.await.unwrap().unwrap().len(), 4);
    cluster.takes_part(4).await;
}
