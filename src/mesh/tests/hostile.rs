//! Peers with a valid certificate that misbehave.

use quinn::{Connection, SendStream};

use super::handshake::{honest, stranger, tls as stranger_tls};
use super::*;
use crate::types::Presence;

/// An adversary's replica 1, connected and committed to the mesh of replica 2.
async fn impostor(target: &Node, session: u64) -> (quinn::Endpoint, Connection) {
    let own = replica_credentials(1);
    let (endpoint, config) = stranger(stranger_tls(Some(&own), tls::PEER_ALPN));
    let addr = target.mesh.local_addr();
    let connection = endpoint.connect_with(config, addr, "r2.alpha").unwrap().await.unwrap();
    let (mut tx, mut rx) = connection.open_bi().await.unwrap();
    let mut hello = honest();
    hello.shown.life = session;
    hello::send(&mut tx, &hello.encode()).await.unwrap();
    hello::receive(&mut rx).await.unwrap();
    hello::send(&mut tx, &1u64.to_le_bytes()).await.unwrap();
    eventually("up", || target.status(r(1)).life == Some(session)).await;
    (endpoint, connection)
}

async fn lane(connection: &Connection, tag: u8) -> SendStream {
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&[tag]).await.unwrap();
    stream
}

/// Replicas 2 and 3, connected, with a peer 1 that never dials.
async fn pair_and_absent() -> Vec<Node> {
    let sockets = [2, 3].map(|number| (number, UdpSocket::bind(loopback()).unwrap()));
    let mut peers: std::collections::BTreeMap<MemberId, Address> =
        sockets.iter().map(|(number, s)| (r(*number), s.local_addr().unwrap().into())).collect();
    peers.insert(r(1), nowhere(1));
    let mut nodes = Vec::new();
    for (number, socket) in sockets {
        let mut config = config(number, 1);
        (config.socket, config.peers) = (Some(socket), peers.clone());
        nodes.push(Node::start(config).await);
    }
    eventually("connected", || nodes[0].status(r(3)).connected && nodes[1].status(r(2)).connected)
        .await;
    nodes
}

#[tokio::test]
async fn violations_close_only_the_connection_they_come_on() {
    let nodes = pair_and_absent().await;
    let limit = nodes[0].mesh.hub.limits.peer_frame_bytes;
    let oversized = u32::try_from(limit + 1).unwrap().to_le_bytes();
    let cases: [(&str, u8, Vec<u8>, u64); 3] = [
        ("an oversized frame", b'c', oversized.to_vec(), 0x20),
        ("garbage", b'b', vec![0xff; 5000], 0x20),
        ("no such lane", b'x', vec![], 0x21),
    ];
    for (session, (what, tag, bytes, code)) in (10..).zip(cases) {
        let (_endpoint, connection) = impostor(&nodes[0], session).await;
        let mut stream = lane(&connection, tag).await;
        // The connection may be closed before everything is written.
        let _ = stream.write_all(&bytes).await;
        let closed = tokio::time::timeout(PATIENCE, connection.closed()).await.expect("cut off");
        let closed = Closed::from(closed);
        assert_eq!(closed.code(), Some(code), "{what}: {closed}");
        eventually("down", || !nodes[0].status(r(1)).connected).await;
    }
    assert_eq!(nodes[0].seen.frames(), 0);
    nodes[1].mesh.send(r(2), Lane::Consensus, number(1)).unwrap();
    eventually("a frame", || nodes[0].seen.frames() == 1).await;
    assert_eq!(nodes[0].status(r(3)).connects, 1);
}

#[tokio::test]
async fn half_a_frame_and_an_end_leave_nothing_behind() {
    let nodes = pair_and_absent().await;
    let (_endpoint, connection) = impostor(&nodes[0], 10).await;
    let mut stream = lane(&connection, b'c').await;
    stream.write_all(&[3, 0, 0, 0, 1, 2, 3, 100, 0, 0, 0, 1, 2]).await.unwrap();
    eventually("the whole frame", || nodes[0].seen.frames() == 1).await;
    stream.finish().unwrap();
    connection.close(0u32.into(), b"");
    eventually("down", || !nodes[0].status(r(1)).connected).await;
    assert_eq!(nodes[0].seen.frames(), 1);
}

/// A killed process closes nothing, and QUIC notices only after its idle timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_killed_gives_way_to_the_next_before_it_is_missed() {
    let nodes = pair_and_absent().await;
    std::thread::scope(|scope| {
        let target = &nodes[0];
        let killed = scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap();
            // It stops running, and nothing is closed.
            std::mem::forget(runtime.block_on(impostor(target, 10)));
            std::mem::forget(runtime);
        });
        tokio::task::block_in_place(|| killed.join().unwrap());
    });
    let began = std::time::Instant::now();
    let (_two, _second) = impostor(&nodes[0], 11).await;
    assert!(began.elapsed() < nodes[0].mesh.hub.limits.idle_timeout, "it did not wait for that");
    let of_one = |event: &Event| matches!(event, Event::Up(id, _) | Event::Down(id) if *id == r(1));
    let events: Vec<Event> = nodes[0].seen.events().into_iter().filter(of_one).collect();
    assert_eq!(events, [Event::Up(r(1), 10), Event::Down(r(1)), Event::Up(r(1), 11)]);
}

#[tokio::test]
async fn a_node_that_panics_over_a_frame_loses_the_connection_not_the_frames_of_others() {
    struct Fragile(Recorder);
    impl Inbound for Fragile {
        fn on_frames(&self, from: MemberId, frames: &mut Vec<Bytes>) {
            assert!(frames.iter().all(|frame| !frame.is_empty()), "planted");
            self.0.on_frames(from, frames);
        }
        fn on_peer_up(&self, peer: MemberId, shown: Presence) {
            self.0.on_peer_up(peer, shown);
        }
        fn on_peer_down(&self, peer: MemberId) {
            self.0.on_peer_down(peer);
        }
        fn on_client(&self, _: ClientConnection) {}
    }
    let seen = Recorder::default();
    let (mut fragile, mut other) = (config(1, 1), config(2, 1));
    // Replica 1 cannot dial replica 2 and is dialled by it.
    fragile.peers = [(r(2), nowhere(2))].into();
    let fragile = Mesh::start(fragile, Fragile(seen.clone())).await.unwrap();
    other.peers = [(r(1), fragile.local_addr().into())].into();
    let node = Node::start(other).await;
    eventually("up", || node.connected()).await;
    node.mesh.send(r(1), Lane::Consensus, Bytes::new()).unwrap();
    eventually("down", || node.seen.events().contains(&Event::Down(r(1)))).await;
    eventually("up again", || node.connected() && node.status(r(1)).connects == 2).await;
    node.mesh.send(r(1), Lane::Consensus, number(1)).unwrap();
    eventually("a frame", || seen.frames() == 1).await;
}
