//! Observers follow a cluster while everything else goes on: they read locally, are fed by whoever
//! is left, and hold nobody up.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::machines::Machines;
use common::members::Cluster;
use common::{eventually, get, id, put, value};
use isonomy::machine::KvOutput;
use isonomy::node::{Fault, NotChanged, ProtocolKind, Rejected, Role};
use isonomy::types::{Change, Consistency};

impl Cluster {
    /// Three members; the machines after them join later.
    async fn start(protocol: ProtocolKind, machines: u64, durable: bool) -> Cluster {
        let mut machines = Machines::new(machines);
        (machines.protocol, machines.founders, machines.durable) = (protocol, 3, durable);
        Cluster::begin(machines).await
    }

    async fn kill(&mut self, number: u32) {
        let replica = self.running.remove(&number).expect("it runs");
        replica.kill();
        replica.wait_stopped().await;
    }

    async fn change(&self, at: u32, change: Change) {
        eventually("the change", async || {
            match self.replica(at).change_members(change.clone(), false).await {
                Ok(_) => true,
                Err(
                    NotChanged::NotConnected(_)
                    | NotChanged::NotBegun(_)
                    | NotChanged::NoQuorum { .. }
                    // It was asked before it heard of the change before.
                    | NotChanged::Superseded(_)
                    // It begins the next epoch.
                    | NotChanged::NoMember
                    | NotChanged::Rejected(Rejected::NoQuorum(_)),
                ) => false,
                Err(why) => panic!("{change:?}: {why}"),
            }
        })
        .await;
    }

    async fn observe(&mut self, number: u32) {
        self.run(number).await;
        self.change(1, Change::Observe(self.member(number))).await;
        self.is(number, Role::Observer).await;
    }

    async fn is(&self, number: u32, role: Role) {
        let replica = self.replica(number);
        eventually("its role", async || {
            assert!(replica.fault().is_none(), "{:?}", replica.fault());
            replica.role() == role
        })
        .await;
    }

    async fn write(&self, at: u32, key: &str, text: &str) {
        assert_eq!(self.done(at, put(key, text)).await, KvOutput::Done);
    }

    /// A local read sees the value sooner or later.
    async fn sees(&self, at: u32, key: &str, text: &str) {
        let replica = self.replica(at);
        eventually("the value", async || {
            let read = replica.read(get(key), Consistency::Local).await;
            assert!(replica.fault().is_none(), "{:?}", replica.fault());
            read == Ok(value(text))
        })
        .await;
    }

    async fn agree(&self) {
        eventually("the same state", async || {
            let mut digests = Vec::new();
            for replica in self.running.values() {
                digests.push(replica.digest().await);
            }
            digests.windows(2).all(|two| two[0] == two[1])
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_follows_whoever_is_left_and_ends_when_it_is_removed() {
    for &protocol in ProtocolKind::ALL {
        let mut cluster = Cluster::start(protocol, 4, true).await;
        cluster.write(1, "before", "it was there").await;
        cluster.observe(4).await;
        cluster.sees(4, "before", "it was there").await;
        let observer = cluster.replica(4);
        let refused = Err(Rejected::Observes.into());
        assert_eq!(observer.propose(put("k", "v")).await, refused.clone().map(|()| KvOutput::Done));
        let read = observer.read(get("before"), Consistency::Linearizable).await;
        assert_eq!(read, refused.map(|()| KvOutput::Done));
        let list = observer.members().await.unwrap();
        assert_eq!((list.role, list.list.as_ref().unwrap().len()), (Role::Observer, 3));
        assert_eq!(list.list.unwrap().observers()[0].id, id(4));
        // Each of these feeds it for a while, and is killed.
        for number in 1..=3 {
            cluster.kill(number).await;
            let other = number % 3 + 1;
            cluster.write(other, "without", &format!("{number}")).await;
            cluster.sees(4, "without", &format!("{number}")).await;
            cluster.run(number).await;
        }
        // It was away, or lost its power.
        cluster.kill(4).await;
        cluster.write(2, "away", "it goes on").await;
        cluster.run(4).await;
        cluster.sees(4, "away", "it goes on").await;
        cluster.agree().await;
        let all: Vec<_> = std::mem::take(&mut cluster.running).into_values().collect();
        cluster.machines.lose_power(all).await;
        for number in 1..=4 {
            cluster.run(number).await;
        }
        cluster.write(3, "power", "is back").await;
        cluster.sees(4, "power", "is back").await;
        // The epoch changes; it goes on.
        let moved = Change::Move { id: id(4), address: "10.9.9.9:7400".parse().unwrap() };
        cluster.change(1, moved).await;
        cluster.write(1, "epoch", "2").await;
        cluster.sees(4, "epoch", "2").await;
        cluster.change(2, Change::Remove(id(4))).await;
        let observer = cluster.running.remove(&4).expect("it runs");
        observer.wait_stopped().await;
        let fault = observer.fault().expect("it says why");
        assert!(matches!(fault, Fault::Removed { .. }), "{fault}");
        let again = cluster.machines.try_start(4).await;
        let why = again.map(drop).expect_err("its number is used up").to_string();
        assert!(why.contains("removed"), "{why}");
        cluster.write(1, "after", "it").await;
        cluster.agree().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_and_changes_need_no_observer() {
    for &protocol in ProtocolKind::ALL {
        let mut cluster = Cluster::start(protocol, 6, false).await;
        cluster.observe(4).await;
        cluster.observe(5).await;
        cluster.kill(4).await;
        cluster.kill(5).await;
        for number in 1..=3 {
            cluster.write(number, "k", &format!("{number}")).await;
        }
        // As many members may fail as ever.
        cluster.kill(3).await;
        cluster.write(1, "k", "of two").await;
        cluster.run(6).await;
        cluster.change(1, Change::Replace { old: id(3), new: cluster.member(6) }).await;
        cluster.is(6, Role::Member).await;
        cluster.change(2, Change::Remove(id(4))).await;
        cluster.change(6, Change::Remove(id(5))).await;
        cluster.write(6, "k", "all is well").await;
        cluster.agree().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_that_is_promoted_votes() {
    for &protocol in ProtocolKind::ALL {
        let mut cluster = Cluster::start(protocol, 5, true).await;
        cluster.write(1, "k", "before").await;
        cluster.observe(4).await;
        cluster.observe(5).await;
        cluster.change(1, Change::Promote(id(4))).await;
        cluster.is(4, Role::Member).await;
        cluster.change(1, Change::Promote(id(5))).await;
        cluster.is(5, Role::Member).await;
        // Three of five are enough, and two of the three were observers.
        cluster.kill(1).await;
        cluster.kill(2).await;
        cluster.write(4, "k", "after").await;
        assert_eq!(cluster.replica(5).propose(get("k")).await, Ok(value("after")));
        cluster.kill(5).await;
        cluster.run(5).await;
        cluster.write(5, "k", "again").await;
        cluster.agree().await;
    }
}
