//! Replicas in this process that stop and start again at fixed addresses. Each has a disk that
//! fails when the test tells it to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isonomy::Replica;
use isonomy::internals::storage::FaultyDisk;
use isonomy::machine::Kv;
use isonomy::network::Authority;
use isonomy::node::ProtocolKind;
use isonomy::node::{Durability, Limits, ReplicaBuilder, StartError};
use isonomy::types::MemberId;

use super::{PATIENCE, hasty};

/// The capacity of each disk, in bytes.
pub const ROOM: u64 = 256 << 20;

/// Replicas at fixed addresses, each with its own disk.
pub struct Machines {
    pub authority: Authority,
    pub addrs: Vec<SocketAddr>,
    pub disks: Vec<FaultyDisk>,
    pub limits: Limits,
    /// How many of them are the cluster's first members; the others join it.
    pub founders: u32,
    /// The protocol that all replicas run.
    pub protocol: ProtocolKind,
    /// Whether replicas store anything on their disks.
    pub durable: bool,
}

impl Machines {
    pub fn new(replicas: u64) -> Machines {
        Machines::named("again", replicas)
    }

    /// The same, of a cluster of this name.
    pub fn named(cluster: &str, replicas: u64) -> Machines {
        let sockets: Vec<_> =
            (0..replicas).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        Machines {
            authority: Authority::new(cluster).unwrap(),
            addrs: sockets.iter().map(|socket| socket.local_addr().unwrap()).collect(),
            disks: (0..replicas).map(|seed| FaultyDisk::new(seed, ROOM)).collect(),
            limits: Limits { segment_bytes: 8 << 20, ..Limits::default() },
            founders: u32::try_from(replicas).unwrap(),
            protocol: ProtocolKind::default(),
            durable: true,
        }
    }

    /// The builder of replica `number`, without a place for its data.
    pub fn builder(&self, number: u32) -> ReplicaBuilder<Kv> {
        let id = MemberId::new(number).unwrap();
        let joins = number > self.founders;
        let peers = (1..).zip(self.addrs.iter().copied());
        Replica::builder(Kv::new())
            .cluster(self.authority.cluster())
            .id(number)
            .peers(peers.filter(|(peer, _)| *peer <= self.founders || *peer == number))
            .join(joins)
            .tls(self.authority.issue_replica(id).unwrap().credentials().unwrap())
            .protocol(self.protocol)
            .limits(self.limits.clone())
            .timing(hasty())
    }

    pub async fn try_start(&self, number: u32) -> Result<Replica<Kv>, StartError> {
        let replica = self.builder(number);
        let replica = match self.durable {
            true => replica.disk(Arc::new(self.disks[number as usize - 1].clone())),
            false => replica.durability(Durability::Memory),
        };
        replica.start().await
    }

    pub async fn start(&self, number: u32) -> Replica<Kv> {
        let start = std::time::Instant::now();
        loop {
            match self.try_start(number).await {
                Ok(replica) => return replica,
                // The port of its last life takes a moment to become free.
                Err(StartError::Mesh(_)) if start.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub async fn start_all(&self) -> Vec<Replica<Kv>> {
        let mut replicas = Vec::new();
        for number in (1..).take(self.addrs.len()) {
            replicas.push(self.start(number).await);
        }
        replicas
    }

    /// Cuts the power of all replicas at the same time.
    pub async fn lose_power(&self, replicas: Vec<Replica<Kv>>) {
        self.disks.iter().for_each(FaultyDisk::lose_power);
        for replica in &replicas {
            replica.kill();
        }
        for replica in &replicas {
            replica.wait_stopped().await;
        }
        // What was written during the shutdown is lost too.
        self.disks.iter().for_each(FaultyDisk::lose_power);
    }
}
