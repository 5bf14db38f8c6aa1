//! A replica with a valid certificate that sends nonsense, and clients that send nonsense.
//!
//! `ISONOMY_INPUTS=N` sets the number of corrupted frames, for long runs.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::*;
use isonomy::Replica;
use isonomy::internals::mesh::{
    Authority, ClientConfig, ClientConnection, ClientEndpoint, Dropped, Inbound, Lane, Mesh,
    MeshConfig,
};
use isonomy::internals::protocol::epaxos::{CommitValue, Message};
use isonomy::internals::replica::PeerMessage;
use isonomy::internals::wire::{
    self, Ask, CLIENT_VERSIONS, Frame, Outcome, PEER_VERSIONS, Refusal, Request, SNAPSHOT_VERSIONS,
    decode_peer, decode_reply, encode_peer, encode_request,
};
use isonomy::machine::{Kv, KvOutput};
use isonomy::node::{Durability, ProposeError};
use isonomy::types::{
    Batch, ClientId, Command, Deps, Footprint, InstanceId, LogPosition, MemberId, ReplicaId,
    RequestId,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Ignores everything it receives, but keeps a few frames to corrupt.
struct Deaf(Mutex<Vec<Bytes>>);

impl Inbound for &'static Deaf {
    fn on_frames(&self, _: MemberId, frames: &mut Vec<Bytes>) {
        let mut kept = self.0.lock().unwrap();
        kept.extend(frames.drain(..).filter(|frame| frame.len() < 1000));
        let surplus = kept.len().saturating_sub(200);
        kept.drain(..surplus);
    }
    fn on_peer_up(&self, _: MemberId, _: isonomy::types::Presence) {}
    fn on_peer_down(&self, _: MemberId) {}
    fn on_client(&self, _: ClientConnection) {}
}

struct Setting {
    authority: Authority,
    addrs: Vec<SocketAddr>,
    replicas: Vec<Replica<Kv>>,
    /// The attacker's mesh, connected as replica 3.
    hostile: Mesh,
    heard: &'static Deaf,
}

/// Two replicas, and an attacker that has the certificate of the third.
async fn setting() -> Setting {
    let authority = Authority::new("hostile").unwrap();
    let sockets: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let addrs: Vec<SocketAddr> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
    let credentials = |n| authority.issue_replica(id(n)).unwrap().credentials().unwrap();
    let mut sockets = sockets.into_iter();
    let mut replicas = Vec::new();
    for (number, socket) in (1..=2).zip(sockets.by_ref()) {
        let builder = Replica::builder(Kv::new()).cluster("hostile").id(number).timing(hasty());
        let builder = builder.peers((1..).zip(addrs.iter().copied())).socket(socket);
        let builder = builder.durability(Durability::Memory);
        replicas.push(builder.tls(credentials(number)).start().await.unwrap());
    }
    let mut config = MeshConfig::new("hostile", id(3), 1, addrs[2], credentials(3));
    (config.terms.frames, config.terms.snapshots) = (PEER_VERSIONS, SNAPSHOT_VERSIONS);
    config.socket = sockets.next();
    config.peers = [(id(1), addrs[0].into()), (id(2), addrs[1].into())].into();
    let heard: &'static Deaf = Box::leak(Box::new(Deaf(Mutex::default())));
    let hostile = Mesh::start(config, heard).await.unwrap();
    for replica in &replicas {
        assert!(replica.wait_connected(2).await);
    }
    eventually("connected", async || hostile.peers().iter().all(|peer| peer.connected)).await;
    Setting { authority, addrs, replicas, hostile, heard }
}

impl Setting {
    fn send(&self, frame: &Bytes) {
        for peer in [id(1), id(2)] {
            self.hostile.send(peer, Lane::Consensus, frame.clone()).unwrap();
        }
    }

    /// Sends to both replicas, as soon as there is room in the queues.
    async fn send_patiently(&self, frame: &Bytes) {
        for peer in [id(1), id(2)] {
            while let Err(dropped) = self.hostile.send(peer, Lane::Consensus, frame.clone()) {
                assert_eq!(dropped, Dropped::Full, "nonsense costs no connection");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn assert_well(&self, key: &str) {
        for replica in &self.replicas {
            assert!(replica.fault().is_none(), "{:?}", replica.fault());
        }
        assert_eq!(self.replicas[0].propose(put(key, "v")).await, Ok(KvOutput::Done));
        assert_eq!(self.replicas[1].propose(get(key)).await, Ok(value("v")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_without_sense_are_dropped_and_counted() {
    let setting = setting().await;
    for frame in ["", "\u{1}", "GET / HTTP/1.1\r\n\r\n", "\u{1}\u{1}\u{10}", "\u{2}\u{1}\u{1}"] {
        setting.send(&bytes(frame));
    }
    let mut epoch = BytesMut::new();
    let ping = PeerMessage::<Message>::Ping { sent: isonomy::types::Time::ZERO };
    encode_peer(9, LogPosition::default(), &ping, &mut epoch);
    setting.send(&epoch.freeze());
    eventually("all counted", async || {
        let mut wrong = Vec::new();
        for replica in &setting.replicas {
            wrong.push(replica.metrics().await.unwrap().wrong_frames);
        }
        // A frame of an epoch that is not known here is none of these.
        wrong == [5, 5]
    })
    .await;
    setting.assert_well("a").await;
}

/// Whether the corrupted frame can still be decoded. Then it counts as the replica's word, and the
/// others have to believe it: see [`a_decision_that_contradicts_another_fences_the_replica`].
fn is_word(frame: &Bytes) -> bool {
    let message = decode_peer::<Message>(frame.clone(), &wire::Limits::new(3));
    matches!(message, Ok(Frame { message: PeerMessage::Protocol(_), .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bent_frames_do_not_hurt() {
    let setting = setting().await;
    setting.assert_well("first").await;
    let heard = async || setting.heard.0.lock().unwrap().len() > 4;
    eventually("frames to bend", heard).await;
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let asked = std::env::var("ISONOMY_INPUTS").ok();
    let frames = asked.map_or(20_000, |asked| asked.parse().expect("ISONOMY_INPUTS is a number"));
    for _ in 0..frames {
        let mut frame = {
            let kept = setting.heard.0.lock().unwrap();
            kept[rng.random_range(0..kept.len())].to_vec()
        };
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..frame.len());
            match rng.random_range(0..3) {
                0 => frame[at] = rng.random(),
                1 => frame.truncate(at.max(1)),
                _ => frame.insert(at, rng.random()),
            }
        }
        let frame = frame.into();
        if !is_word(&frame) {
            setting.send_patiently(&frame).await;
        }
    }
    setting.assert_well("last").await;
    let metrics = setting.replicas[0].metrics().await.unwrap();
    assert!(metrics.wrong_frames > frames / 4, "{} of {frames}", metrics.wrong_frames);
}

/// A decision for replica 3's first instance.
fn commit(payload: &'static [u8]) -> Bytes {
    let command = Command {
        request: RequestId::new(ClientId(1), 1),
        floor: u64::MAX,
        origin: ReplicaId::from_index(0),
        footprint: Footprint::write(b"a"),
        payload: Bytes::from_static(payload),
    };
    let message = PeerMessage::Protocol(Message::Commit {
        id: InstanceId::new(ReplicaId::from_index(2), 1),
        value: CommitValue::Batch(Batch::new(vec![command])),
        deps: Deps::none(3),
    });
    let mut frame = BytesMut::new();
    encode_peer(1, LogPosition::default(), &message, &mut frame);
    frame.freeze()
}

#[tokio::test]
async fn a_decision_that_contradicts_another_fences_the_replica() {
    let setting = setting().await;
    setting.send(&commit(b"one"));
    setting.send(&commit(b"another"));
    let [one, _] = &setting.replicas[..] else { panic!("two replicas") };
    one.wait_stopped().await;
    let fault = one.fault().unwrap().to_string();
    assert!(fault.starts_with("an invariant is broken: "), "{fault}");
    assert_eq!(one.propose(get("a")).await, Err(ProposeError::Fatal(fault)));
}

#[tokio::test]
async fn a_commit_of_made_up_commands_is_refused_by_the_state_machine_alone() {
    let setting = setting().await;
    setting.send(&commit(b"no command of the store"));
    eventually("executed", async || setting.replicas[0].metrics().await.unwrap().executed == 1)
        .await;
    setting.assert_well("a").await;
}

#[tokio::test]
async fn a_client_without_sense_is_cut_off_and_one_without_measure_slowed_down() {
    let setting = setting().await;
    let credentials = setting.authority.issue_client("eve").unwrap().credentials().unwrap();
    let endpoint = ClientEndpoint::bind(ClientConfig::new("hostile", "eve", credentials)).unwrap();
    let mut channel = endpoint.connect(setting.addrs[0], id(1)).await.unwrap();
    channel.send(Bytes::from_static(b"nonsense")).unwrap();
    let mut frames = Vec::new();
    while channel.recv(&mut frames).await.is_ok() {
        for frame in frames.drain(..) {
            assert!(decode_reply(frame).unwrap().greeting().is_some(), "no answer to nonsense");
        }
    }
    let metrics = setting.replicas[0].metrics().await.unwrap();
    assert_eq!(metrics.bad_requests, 1);

    let mut channel = endpoint.connect(setting.addrs[0], id(1)).await.unwrap();
    let mut outcomes = BTreeMap::new();
    for sequence in 1..=2 {
        let ask = Ask::Execute(Bytes::from_static(b"\xff\xff"));
        let request = Request { request: RequestId::new(ClientId(9), sequence), floor: 0, ask };
        let mut frame = BytesMut::new();
        encode_request(CLIENT_VERSIONS.newest, &request, &mut frame);
        channel.send(frame.freeze()).unwrap();
    }
    while outcomes.len() < 2 {
        channel.recv(&mut frames).await.unwrap();
        for frame in frames.drain(..) {
            let reply = decode_reply(frame).unwrap();
            if reply.greeting().is_none() {
                outcomes.insert(reply.request.sequence, reply.outcome);
            }
        }
    }
    for outcome in outcomes.values() {
        assert!(matches!(outcome, Outcome::Rejected(Refusal::BadRequest(_))), "{outcome:?}");
    }
    setting.assert_well("a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_comes_back_without_its_memory_is_not_listened_to() {
    let Setting { authority, addrs, replicas, hostile, .. } = setting().await;
    hostile.shutdown().await;
    for replica in &replicas {
        eventually("gone", async || !replica.connected().contains(&id(3))).await;
    }
    let credentials = authority.issue_replica(id(3)).unwrap().credentials().unwrap();
    // Use another port: the old one may take a moment to become free.
    let addr: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut config = MeshConfig::new("hostile", id(3), 2, addr, credentials);
    (config.terms.frames, config.terms.snapshots) = (PEER_VERSIONS, SNAPSHOT_VERSIONS);
    config.peers = [(id(1), addrs[0].into()), (id(2), addrs[1].into())].into();
    let heard: &'static Deaf = Box::leak(Box::new(Deaf(Mutex::default())));
    let again = Mesh::start(config, heard).await.unwrap();
    eventually("refused by both", async || {
        let forgot = |why: &String| why.contains("r3 was restarted and has forgotten its votes");
        again.peers().iter().all(|peer| peer.last_error.as_ref().is_some_and(forgot))
    })
    .await;
    let one = &replicas[0];
    assert!(!one.connected().contains(&id(3)));
    assert_eq!(one.propose(put("a", "1")).await, Ok(KvOutput::Done));
}
