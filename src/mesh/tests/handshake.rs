//! Which handshakes are refused and with which errors: the list in reliability.md. No stranger may
//! change anything in the cluster.

use std::time::SystemTime;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint};
use rcgen::ExtendedKeyUsagePurpose as Usage;
use rustls::RootCertStore;

use super::*;
use crate::mesh::Votes;
use crate::mesh::hello::{ClientHello, PeerHello};
use crate::types::Presence;

/// A QUIC client that follows none of our rules, with the given TLS settings.
pub(super) fn stranger(tls: rustls::ClientConfig) -> (Endpoint, quinn::ClientConfig) {
    let endpoint = Endpoint::client(loopback()).unwrap();
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    (endpoint, quinn::ClientConfig::new(Arc::new(crypto)))
}

pub(super) fn tls(credentials: Option<&Credentials>, alpn: &[u8]) -> rustls::ClientConfig {
    let roots = Arc::clone(&replica_credentials(1).roots);
    let builder = rustls::ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match credentials {
        None => builder.with_no_client_auth(),
        Some(c) => builder.with_client_auth_cert(c.chain.clone(), c.key.clone_key()).unwrap(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

/// Connects to replica 2 with `credentials`, sends `hello`, and returns how the connection ends.
async fn attempt(
    target: &Node,
    credentials: Option<&Credentials>,
    alpn: &[u8],
    hello: &[u8],
) -> Closed {
    let (endpoint, config) = stranger(tls(credentials, alpn));
    let connecting = endpoint.connect_with(config, target.mesh.local_addr(), "r2.alpha").unwrap();
    let connection = match connecting.await {
        Ok(connection) => connection,
        Err(error) => return error.into(),
    };
    tokio::time::timeout(PATIENCE, answer_to(&connection, hello)).await.expect("an end")
}

async fn answer_to(connection: &Connection, hello: &[u8]) -> Closed {
    // Either step may fail if the refusal is quicker; the connection has the reason.
    if let Ok((mut tx, mut rx)) = connection.open_bi().await {
        let _ = hello::send(&mut tx, hello).await;
        if hello::receive(&mut rx).await.is_ok() {
            // The lower id sends its commit.
            let _ = hello::send(&mut tx, &1u64.to_le_bytes()).await;
        }
    }
    connection.closed().await.into()
}

/// The hello that replica 1 would send to replica 2.
pub(super) fn honest() -> PeerHello {
    PeerHello {
        cluster: CLUSTER.into(),
        from: r(1),
        to: r(2),
        shown: Presence { life: 77, ..Presence::default() },
        knows: Vec::new(),
        origin: 0,
        epoch: Some(0),
        members: MemberId::all(3).collect(),
        lost_life: 0,
        lost_generation: 0,
        generation: 0,
        terms: Terms::default(),
    }
}

fn client_hello() -> ClientHello {
    ClientHello {
        cluster: CLUSTER.into(),
        to: r(2),
        name: "alice".into(),
        frames: crate::types::Versions::only(2),
    }
}

fn issue(authority: &Authority, name: &str, ends: SystemTime) -> Credentials {
    let uses = [Usage::ServerAuth, Usage::ClientAuth];
    authority.issue(name, &uses, ends).unwrap().credentials().unwrap()
}

fn in_an_hour() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

fn is_tls_failure(closed: &Closed) -> bool {
    // Codes from 0x100 on are TLS alerts in QUIC.
    match closed {
        Closed::Connection(ConnectionError::ConnectionClosed(close)) => {
            u64::from(close.error_code) >= 0x100
        }
        Closed::Connection(ConnectionError::TransportError(error)) => {
            u64::from(error.code) >= 0x100
        }
        _ => false,
    }
}

/// Checks that the cluster still carries frames, over the same connections as before.
async fn unaffected(nodes: &[Node]) {
    let before = nodes[1].seen.frames();
    nodes[0].mesh.send(r(2), Lane::Consensus, number(1)).unwrap();
    eventually("a frame", || nodes[1].seen.frames() == before + 1).await;
    for node in nodes {
        assert_eq!(node.seen.events().len(), nodes.len() - 1, "nobody went up or down");
        assert_eq!(node.mesh.clients(), 0);
    }
}

#[tokio::test]
async fn who_fails_tls_is_refused() {
    let nodes = cluster(3, |_| {}).await;
    let other = Authority::new(CLUSTER).unwrap();
    let yesterday = SystemTime::now() - Duration::from_secs(24 * 3600);
    let replica = issue(authority(), "r1.alpha", in_an_hour());
    let cases = [
        ("no certificate", None, tls::PEER_ALPN),
        ("wrong CA", Some(issue(&other, "r1.alpha", in_an_hour())), tls::PEER_ALPN),
        ("expired", Some(issue(authority(), "r1.alpha", yesterday)), tls::PEER_ALPN),
        ("wrong ALPN", Some(replica.clone()), b"h3"),
        ("no certificate, as a client", None, tls::CLIENT_ALPN),
    ];
    for (what, credentials, alpn) in cases {
        let closed = attempt(&nodes[1], credentials.as_ref(), alpn, &honest().encode()).await;
        assert!(is_tls_failure(&closed), "{what}: {closed:?}");
    }
    // The same stranger with valid credentials gets past TLS, and is refused because replica 1 is
    // connected.
    let closed = attempt(&nodes[1], Some(&replica), tls::PEER_ALPN, &honest().encode()).await;
    assert_eq!(closed.code(), Some(0x18), "{closed}");
    unaffected(&nodes).await;
}

#[tokio::test]
async fn tls_1_2_cannot_even_be_tried() {
    let nodes = cluster(2, |_| {}).await;
    let tls12 = rustls::ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    // QUIC has no TLS 1.2, so no such client can be built.
    let name = || "r2.alpha".to_owned().try_into().unwrap();
    let version = rustls::quic::Version::V1;
    let over_quic =
        rustls::quic::ClientConnection::new(Arc::new(tls12.clone()), version, name(), vec![]);
    assert!(over_quic.is_err());
    // TLS 1.2 over UDP is not a QUIC packet, and gets no answer.
    let mut client = rustls::ClientConnection::new(Arc::new(tls12), name()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    assert!(!hello.is_empty());
    let socket = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
    socket.send_to(&hello, nodes[1].mesh.local_addr()).await.unwrap();
    let mut room = [0; 2000];
    let answer = socket.recv(&mut room);
    assert!(tokio::time::timeout(Duration::from_millis(200), answer).await.is_err());
    unaffected(&nodes).await;
}

#[tokio::test]
async fn whose_hello_is_wrong_is_refused_with_a_code_of_its_own() {
    let nodes = cluster(3, |_| {}).await;
    let own = replica_credentials(1);
    let named = |name| issue(authority(), name, in_an_hour());
    let (client, stranger) = (client_credentials("alice"), named("r4.alpha"));
    let hello = |change: fn(&mut PeerHello)| {
        let mut hello = honest();
        change(&mut hello);
        hello.encode().to_vec()
    };
    let mut version = hello(|_| {});
    version[4] = 9;
    let with_r4 = hello(|it| (it.from, it.members) = (r(4), MemberId::all(4).collect()));
    let other_list_later = |hello: &mut PeerHello| {
        (hello.epoch, hello.members) = (Some(1), MemberId::all(5).collect());
    };
    // Replica 1 is connected, so a hello in which all is right is refused with 0x18.
    let cases = [
        ("wrong name", &named("r3.alpha"), hello(|_| {}), 0x16),
        ("other cluster's name", &named("r1.beta"), hello(|_| {}), 0x16),
        ("client as peer", &client, hello(|_| {}), 0x16),
        ("wrong cluster", &own, hello(|hello| hello.cluster = "beta".into()), 0x13),
        ("other origin", &own, hello(|hello| hello.origin = 7), 0x1c),
        ("other protocol", &own, hello(|hello| hello.terms.protocol = "paxos".into()), 0x1d),
        ("other list", &own, hello(|it| it.members = MemberId::all(5).collect()), 0x1f),
        ("other list, in another epoch", &own, hello(other_list_later), 0x18),
        ("no list", &own, hello(|it| (it.epoch, it.members) = (None, BTreeSet::new())), 0x18),
        ("other idle time", &own, hello(|it| it.terms.session_idle /= 2), 0x28),
        ("other skips", &own, hello(|it| it.terms.skipped = 1), 0x2b),
        ("other durability", &own, hello(|it| it.terms.votes = Votes::Flushed), 0x29),
        ("other frames", &own, hello(|it| it.terms.frames = crate::types::Versions::only(1)), 0x2a),
        ("other list, not in ours", &stranger, with_r4, 0x1f),
        ("wrong replica", &own, hello(|hello| hello.to = r(3)), 0x14),
        ("itself", &named("r2.alpha"), hello(|hello| hello.from = r(2)), 0x15),
        ("another process", &own, hello(|_| {}), 0x18),
        ("other version", &own, version, 0x12),
        ("garbage", &own, vec![0xff; 100], 0x11),
        ("nothing", &own, vec![], 0x11),
        ("too long", &own, vec![b'i'; 2000], 0x11),
        ("a client's hello", &own, client_hello().encode().to_vec(), 0x11),
    ];
    for (what, credentials, hello, code) in cases {
        let closed = attempt(&nodes[1], Some(credentials), tls::PEER_ALPN, &hello).await;
        assert_eq!(closed.code(), Some(code), "{what}: {closed}");
        assert!(matches!(closed, Closed::There { .. }), "{what}: {closed:?}");
    }
    unaffected(&nodes).await;
}

#[tokio::test]
async fn whose_client_hello_is_wrong_is_refused_too() {
    let nodes = cluster(2, |_| {}).await;
    let alice = client_credentials("alice");
    let hello = |change: fn(&mut ClientHello)| {
        let mut hello = client_hello();
        change(&mut hello);
        hello.encode().to_vec()
    };
    let cases = [
        ("peer as client", &replica_credentials(1), hello(|_| {}), 0x16),
        ("another client", &alice, hello(|hello| hello.name = "bob".into()), 0x16),
        ("a replica's name", &alice, hello(|hello| hello.name = "r1".into()), 0x16),
        ("wrong cluster", &alice, hello(|hello| hello.cluster = "beta".into()), 0x13),
        ("wrong replica", &alice, hello(|hello| hello.to = r(1)), 0x14),
        ("a peer's hello", &alice, honest().encode().to_vec(), 0x11),
    ];
    for (what, credentials, hello, code) in cases {
        let closed = attempt(&nodes[1], Some(credentials), tls::CLIENT_ALPN, &hello).await;
        assert_eq!(closed.code(), Some(code), "{what}: {closed}");
    }
    unaffected(&nodes).await;
}

#[tokio::test]
async fn a_silent_stranger_is_cut_off() {
    let short = Duration::from_millis(300);
    let nodes = cluster(2, |config| config.limits.handshake_timeout = short).await;
    let (endpoint, config) = stranger(tls(Some(&replica_credentials(1)), tls::PEER_ALPN));
    let addr = nodes[1].mesh.local_addr();
    let connection = endpoint.connect_with(config, addr, "r2.alpha").unwrap().await.unwrap();
    tokio::time::timeout(PATIENCE, connection.closed()).await.expect("cut off");
    unaffected(&nodes).await;
}

#[tokio::test]
async fn a_replica_dials_nobody_who_is_not_the_one_it_wants() {
    // Replica 3 answers at the address where replica 1 expects replica 2.
    let three = Node::start(config(3, 1)).await;
    let mut config = config(1, 1);
    config.peers = [(r(2), three.mesh.local_addr().into())].into();
    let one = Node::start(config).await;
    eventually("a complaint", || one.status(r(2)).last_error.is_some()).await;
    assert!(!one.connected());
    let why = one.status(r(2)).last_error.unwrap();
    assert!(why.contains("certificate") || why.contains("name"), "{why}");
}

#[tokio::test]
async fn a_mesh_refuses_to_start_under_a_certificate_that_peers_would_refuse() {
    let mut wrong = config(1, 1);
    wrong.credentials = replica_credentials(2);
    let error = Mesh::start(wrong, Recorder::default()).await.unwrap_err();
    assert!(error.to_string().contains("r1.alpha"), "{error}");
    let mut expired = config(1, 1);
    let yesterday = SystemTime::now() - Duration::from_secs(24 * 3600);
    expired.credentials = issue(authority(), "r1.alpha", yesterday);
    let error = Mesh::start(expired, Recorder::default()).await.unwrap_err();
    assert!(error.to_string().contains("xpired"), "{error}");
    let mut other = config(1, 1);
    other.cluster = "Alpha".into();
    assert!(matches!(Mesh::start(other, Recorder::default()).await, Err(MeshError::Name(_))));
}
