//! The mesh as `isonomy init` and `serve` use it. Certificates are written to files and read back,
//! and the replicas and a client know each other only from these files.
#![cfg(feature = "cli")]
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use isonomy::internals::mesh::{
    Authority, ClientConfig, ClientConnection, ClientEndpoint, Credentials, Inbound, Issued, Lane,
    Mesh, MeshConfig,
};
use isonomy::types::MemberId;

const CLUSTER: &str = "files";

/// Serves clients by passing each request on to every peer. Keeps what its peers pass on.
#[derive(Clone, Default)]
struct Gossip {
    mesh: Arc<Mutex<Option<Mesh>>>,
    heard: Arc<Mutex<Vec<Bytes>>>,
}

impl Inbound for Gossip {
    fn on_frames(&self, _: MemberId, frames: &mut Vec<Bytes>) {
        self.heard.lock().unwrap().append(frames);
    }

    fn on_peer_up(&self, _: MemberId, _: isonomy::types::Presence) {}

    fn on_peer_down(&self, _: MemberId) {}

    fn on_client(&self, mut client: ClientConnection) {
        let mesh = self.mesh.lock().unwrap().clone().expect("set before clients come");
        tokio::spawn(async move {
            let (mut requests, replies) = (Vec::new(), client.sender());
            while client.recv(&mut requests).await.is_ok() {
                for request in requests.drain(..) {
                    for peer in mesh.peers() {
                        mesh.send(peer.peer, Lane::Bulk, request.clone()).unwrap();
                    }
                    replies.send(request).unwrap();
                }
            }
        });
    }
}

fn write(dir: &Path, name: &str, issued: &Issued) {
    fs::write(dir.join(format!("{name}.pem")), issued.certificate_pem()).unwrap();
    fs::write(dir.join(format!("{name}.key")), issued.key_pem()).unwrap();
}

fn read(dir: &Path, name: &str) -> Credentials {
    let file = |name: String| -> PathBuf { dir.join(name) };
    Credentials::from_pem_files(
        &file("ca.pem".into()),
        &file(format!("{name}.pem")),
        &file(format!("{name}.key")),
    )
    .unwrap()
}

#[tokio::test]
async fn three_replicas_and_a_client_work_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let made = Authority::new(CLUSTER).unwrap();
    fs::write(dir.join("ca.pem"), made.certificate_pem()).unwrap();
    fs::write(dir.join("ca.key"), made.key_pem()).unwrap();
    for id in MemberId::all(3) {
        write(dir, &id.to_string(), &made.issue_replica(id).unwrap());
    }
    drop(made);
    // Later, in another place, the authority is read back to issue a certificate to one more
    // client.
    let file = |name| fs::read_to_string(dir.join(name)).unwrap();
    let authority = Authority::from_pem(CLUSTER, &file("ca.pem"), &file("ca.key")).unwrap();
    write(dir, "alice", &authority.issue_client("alice").unwrap());

    let sockets: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let peers: BTreeMap<MemberId, SocketAddr> =
        MemberId::all(3).zip(&sockets).map(|(id, s)| (id, s.local_addr().unwrap())).collect();
    let mut replicas = Vec::new();
    for (id, socket) in MemberId::all(3).zip(sockets) {
        let mut config = MeshConfig::new(CLUSTER, id, 1, peers[&id], read(dir, &id.to_string()));
        (config.socket, config.peers) =
            (Some(socket), peers.iter().map(|(id, at)| (*id, (*at).into())).collect());
        let gossip = Gossip::default();
        let mesh = Mesh::start(config, gossip.clone()).await.unwrap();
        *gossip.mesh.lock().unwrap() = Some(mesh.clone());
        replicas.push((mesh, gossip));
    }
    eventually(|| replicas.iter().all(|(mesh, _)| mesh.peers().iter().all(|p| p.connected))).await;

    let config = ClientConfig::new(CLUSTER, "alice", read(dir, "alice"));
    let endpoint = ClientEndpoint::bind(config).unwrap();
    let two = MemberId::new(2).unwrap();
    let mut channel = endpoint.connect(peers[&two], two).await.unwrap();
    channel.send(Bytes::from_static(b"hello")).unwrap();
    let mut replies = Vec::new();
    channel.recv(&mut replies).await.unwrap();
    assert_eq!(replies, [&b"hello"[..]]);
    let heard = |index: usize| replicas[index].1.heard.lock().unwrap().clone();
    eventually(|| !heard(0).is_empty() && !heard(2).is_empty()).await;
    assert_eq!((heard(0), heard(1).len(), heard(2)), (replies.clone(), 0, replies));
    for (mesh, _) in &replicas {
        mesh.shutdown().await;
    }
    assert!(channel.recv(&mut Vec::new()).await.is_err());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let authority = Authority::new(CLUSTER).unwrap();
    fs::write(dir.join("ca.pem"), authority.certificate_pem()).unwrap();
    write(dir, "r1", &authority.issue_replica(MemberId::new(1).unwrap()).unwrap());
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join("torn"), &authority.certificate_pem()[..100]).unwrap();
    let good = ["ca.pem", "r1.pem", "r1.key"];
    let cases = [
        (0, "missing", "cannot read"),
        (0, "empty", "is empty"),
        (1, "torn", "no usable certificate"),
        (1, "r1.key", "no certificate: are"),
        (2, "r1.pem", "no private key: are"),
    ];
    for (position, name, words) in cases {
        let mut files = good;
        files[position] = name;
        let [ca, chain, key] = files.map(|name| dir.join(name));
        let error = Credentials::from_pem_files(&ca, &chain, &key).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(words), "{error}");
    }
}

#[test]
fn an_authority_is_not_read_back_as_what_it_is_not() {
    let one = Authority::new(CLUSTER).unwrap();
    let two = Authority::new(CLUSTER).unwrap();
    assert!(Authority::from_pem(CLUSTER, one.certificate_pem(), &one.key_pem()).is_ok());
    let mixed = Authority::from_pem(CLUSTER, one.certificate_pem(), &two.key_pem());
    assert!(mixed.unwrap_err().to_string().contains("not the authority of cluster files"));
    assert!(Authority::from_pem("other", one.certificate_pem(), &one.key_pem()).is_err());
    assert!(Authority::from_pem(CLUSTER, "", &one.key_pem()).is_err());
    assert!(Authority::from_pem(CLUSTER, one.certificate_pem(), "nonsense").is_err());
    assert!(Authority::new("Not A Name").is_err());
    assert!(one.issue_client("r1.files").is_err());
}

async fn eventually(holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(30), "never came");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
