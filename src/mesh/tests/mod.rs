//! The mesh on loopback: real sockets and certificates, several meshes in one process.

mod addresses;
mod certificates;
mod clients;
mod crowd;
mod guests;
mod handshake;
mod hostile;
mod reconnect;
mod traffic;
mod wan;

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::*;

/// Long enough for any step on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const CLUSTER: &str = "alpha";

pub(super) use crate::types::member_id as r;

pub(super) fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::new(CLUSTER).unwrap())
}

pub(super) fn replica_credentials(number: u32) -> Credentials {
    authority().issue_replica(r(number)).unwrap().credentials().unwrap()
}

pub(super) fn client_credentials(name: &str) -> Credentials {
    authority().issue_client(name).unwrap().credentials().unwrap()
}

pub(super) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// An address where nothing listens; each number has its own.
pub(super) fn nowhere(number: u32) -> Address {
    SocketAddr::from(([127, 0, 0, 1], u16::try_from(number).unwrap())).into()
}

/// Limits that make failures show quickly.
pub(super) fn limits() -> ConnectionLimits {
    ConnectionLimits { max_backoff: Duration::from_millis(200), ..ConnectionLimits::default() }
}

pub(super) fn config(number: u32, life: u64) -> MeshConfig {
    let credentials = replica_credentials(number);
    let mut config = MeshConfig::new(CLUSTER, r(number), life, loopback(), credentials);
    config.limits = limits();
    config
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    Up(MemberId, u64),
    Down(MemberId),
}

/// An [`Inbound`] that records everything and checks the order of the calls.
#[derive(Clone, Default)]
pub(super) struct Recorder(Arc<Mutex<Record>>);

#[derive(Default)]
pub(super) struct Record {
    pub(super) frames: Vec<(MemberId, Bytes)>,
    pub(super) batches: usize,
    pub(super) events: Vec<Event>,
    pub(super) clients: Vec<ClientConnection>,
    pub(super) introduction: Introduction,
    /// How many frames to leave in `frames`, as a node without room does.
    pub(super) refuse: usize,
    up: Vec<MemberId>,
}

impl Recorder {
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Record) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    pub(super) fn frames(&self) -> usize {
        self.with(|record| record.frames.len())
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.with(|record| record.events.clone())
    }

    pub(super) async fn client(&self) -> ClientConnection {
        eventually("a client", || self.with(|record| !record.clients.is_empty())).await;
        self.with(|record| record.clients.remove(0))
    }
}

impl Inbound for Recorder {
    fn introduce(&self) -> Introduction {
        self.with(|record| record.introduction.clone())
    }

    fn on_frames(&self, from: MemberId, frames: &mut Vec<Bytes>) {
        self.with(|record| {
            assert!(record.up.contains(&from), "frames only between up and down");
            record.batches += 1;
            let take = frames.len().saturating_sub(record.refuse);
            record.frames.extend(frames.drain(..take).map(|frame| (from, frame)));
        });
    }

    fn on_peer_up(&self, peer: MemberId, shown: crate::types::Presence) {
        self.with(|record| {
            assert!(!record.up.contains(&peer), "up and down alternate");
            record.up.push(peer);
            record.events.push(Event::Up(peer, shown.life));
        });
    }

    fn on_peer_down(&self, peer: MemberId) {
        self.with(|record| {
            assert!(record.up.contains(&peer), "up and down alternate");
            record.up.retain(|up| *up != peer);
            record.events.push(Event::Down(peer));
        });
    }

    fn on_client(&self, client: ClientConnection) {
        self.with(|record| record.clients.push(client));
    }
}

pub(super) struct Node {
    pub(super) mesh: Mesh,
    pub(super) seen: Recorder,
}

impl Node {
    /// A replica in epoch 0, with its peers as the other members.
    pub(super) async fn start(config: MeshConfig) -> Node {
        let seen = Recorder::default();
        let members = config.peers.keys().copied().chain([config.id]).collect();
        let introduction = Introduction { epoch: Some(0), members, ..Introduction::default() };
        seen.with(|record| record.introduction = introduction);
        let mesh = Mesh::start(config, seen.clone()).await.unwrap();
        Node { mesh, seen }
    }

    /// A replica that has heard of no epoch yet.
    pub(super) async fn stranger(config: MeshConfig) -> Node {
        let seen = Recorder::default();
        let mesh = Mesh::start(config, seen.clone()).await.unwrap();
        Node { mesh, seen }
    }

    pub(super) fn status(&self, peer: MemberId) -> PeerStatus {
        self.find(peer).unwrap()
    }

    pub(super) fn find(&self, peer: MemberId) -> Option<PeerStatus> {
        self.mesh.peers().into_iter().find(|status| status.peer == peer)
    }

    pub(super) fn status_of_other(&self) -> PeerStatus {
        self.mesh.peers().remove(0)
    }

    pub(super) fn connected(&self) -> bool {
        self.mesh.peers().iter().all(|status| status.connected)
    }
}

/// `n` connected meshes that know each other's addresses; `adapt` changes each configuration first.
pub(super) async fn cluster(n: u32, adapt: impl Fn(&mut MeshConfig)) -> Vec<Node> {
    let sockets: Vec<UdpSocket> = (0..n).map(|_| UdpSocket::bind(loopback()).unwrap()).collect();
    let peers: std::collections::BTreeMap<MemberId, Address> =
        (1..=n).map(r).zip(sockets.iter().map(|s| s.local_addr().unwrap().into())).collect();
    let mut nodes = Vec::new();
    for (number, socket) in (1..=n).zip(sockets) {
        let mut config = config(number, 1);
        (config.socket, config.peers) = (Some(socket), peers.clone());
        adapt(&mut config);
        nodes.push(Node::start(config).await);
    }
    eventually("all connected", || nodes.iter().all(Node::connected)).await;
    nodes
}

pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never came: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

pub(super) fn number(index: u64) -> Bytes {
    Bytes::copy_from_slice(&index.to_le_bytes())
}
