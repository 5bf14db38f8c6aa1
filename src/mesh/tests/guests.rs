//! Peers that come and go while the mesh runs, and guests: replicas that are not dialled and
//! connect by themselves.

use std::collections::BTreeMap;

use super::handshake::{honest, stranger, tls as stranger_tls};
use super::*;
use crate::mesh::hello::PeerHello;
use crate::mesh::links::MAX_GUESTS;

/// A replica that dials these and is in no list.
async fn newcomer(number: u32, life: u64, dials: &[&Node]) -> Node {
    let mut config = config(number, life);
    config.peers = (1..).map(r).zip(dials.iter().map(|it| it.mesh.local_addr().into())).collect();
    Node::stranger(config).await
}

fn addresses(nodes: &[(u32, &Node)]) -> BTreeMap<MemberId, Address> {
    nodes.iter().map(|(number, node)| (r(*number), node.mesh.local_addr().into())).collect()
}

async fn a_frame_passes(from: &Node, to: (u32, &Node)) {
    let before = to.1.seen.frames();
    from.mesh.send(r(to.0), Lane::Consensus, number(7)).unwrap();
    eventually("a frame", || to.1.seen.frames() == before + 1).await;
}

fn events_of(node: &Node, peer: u32) -> Vec<Event> {
    let of_it =
        |event: &Event| matches!(event, Event::Up(it, _) | Event::Down(it) if *it == r(peer));
    node.seen.events().into_iter().filter(of_it).collect()
}

#[tokio::test]
async fn a_guest_connects_is_heard_and_leaves_nothing_behind() {
    let nodes = cluster(2, |_| {}).await;
    let guest = newcomer(9, 5, &[&nodes[0]]).await;
    eventually("up", || guest.connected() && nodes[0].find(r(9)).is_some_and(|it| it.connected))
        .await;
    assert_eq!(nodes[0].status(r(9)).addr, None, "it is not dialled");
    assert!(nodes[0].status(r(2)).addr.is_some());
    a_frame_passes(&guest, (1, &nodes[0])).await;
    a_frame_passes(&nodes[0], (9, &guest)).await;
    let carried = nodes[0].mesh.traffic();
    assert_eq!((carried.frames_received, carried.frames_sent), (1, 1));
    guest.mesh.shutdown().await;
    eventually("gone", || nodes[0].find(r(9)).is_none()).await;
    assert_eq!(nodes[0].mesh.traffic(), carried, "what it has carried counts");
    let sent = nodes[0].mesh.send(r(9), Lane::Consensus, number(1));
    assert_eq!(sent, Err(Dropped::UnknownPeer));
    assert_eq!(events_of(&nodes[0], 9), [Event::Up(r(9), 5), Event::Down(r(9))]);
    assert_eq!(events_of(&nodes[0], 2).len(), 1, "the peer was not disturbed");
}

/// The lower id forgets a guest's link, and which connections it has committed on it. The guest
/// does not.
#[tokio::test]
async fn a_guest_that_lost_its_connection_gets_another_in_the_same_life() {
    let nodes = cluster(2, |_| {}).await;
    let guest = newcomer(9, 5, &[&nodes[0]]).await;
    for times in 1..=3 {
        eventually("up", || events_of(&nodes[0], 9).len() == 2 * times - 1).await;
        eventually("up there", || guest.status(r(1)).connects == times as u64).await;
        nodes[0].mesh.disconnect(r(9), &Refusal::Internal);
        eventually("down", || events_of(&nodes[0], 9).len() >= 2 * times).await;
    }
}

#[tokio::test]
async fn a_peer_is_added_moved_and_removed_while_the_mesh_runs() {
    let nodes = cluster(2, |_| {}).await;
    // It dials nobody that is there, so that only the others can make the connection.
    let third = newcomer(3, 5, &[]).await;
    let all = addresses(&[(1, &nodes[0]), (2, &nodes[1]), (3, &third)]);
    for node in &nodes {
        node.mesh.set_peers(all.clone());
        assert_eq!(node.find(r(3)).unwrap().addr, all.get(&r(3)).cloned());
    }
    eventually("connected", || nodes.iter().all(|node| node.status(r(3)).connected)).await;
    a_frame_passes(&nodes[0], (3, &third)).await;
    third.mesh.shutdown().await;
    drop(third);
    let third = newcomer(3, 6, &[]).await;
    let moved = addresses(&[(1, &nodes[0]), (2, &nodes[1]), (3, &third)]);
    nodes.iter().for_each(|node| node.mesh.set_peers(moved.clone()));
    eventually("at its new address", || nodes.iter().all(|node| node.status(r(3)).life == Some(6)))
        .await;
    let kept = addresses(&[(1, &nodes[0]), (2, &nodes[1])]);
    nodes.iter().for_each(|node| node.mesh.set_peers(kept.clone()));
    assert_eq!(nodes[0].status(r(3)).addr, None);
    a_frame_passes(&nodes[0], (3, &third)).await;
    a_frame_passes(&third, (2, &nodes[1])).await;
    third.mesh.shutdown().await;
    eventually("gone", || nodes.iter().all(|node| node.find(r(3)).is_none())).await;
    for node in &nodes {
        let [up, down] = [5, 6].map(|life| [Event::Up(r(3), life), Event::Down(r(3))]);
        assert_eq!(events_of(node, 3), [up, down].concat());
    }
    assert!(nodes.iter().all(|node| node.connected() && node.status_of_other().connects == 1));
}

/// A removed peer that is not connected is not dialled, even if it can be reached later.
#[tokio::test]
async fn who_is_not_wanted_any_longer_is_not_dialled() {
    let nodes = cluster(2, |_| {}).await;
    let (mut with, without) = (addresses(&[(2, &nodes[1])]), addresses(&[(2, &nodes[1])]));
    let socket = UdpSocket::bind(loopback()).unwrap();
    socket.set_nonblocking(true).unwrap();
    with.insert(r(3), socket.local_addr().unwrap().into());
    nodes[0].mesh.set_peers(with.clone());
    eventually("an attempt", || socket.peek(&mut [0; 2000]).is_ok()).await;
    nodes[0].mesh.set_peers(without);
    eventually("the attempt is given up", || nodes[0].find(r(3)).is_none()).await;
    let mut config = config(3, 5);
    config.socket = Some(socket);
    let third = Node::stranger(config).await;
    sleep(nodes[0].mesh.hub.limits.max_backoff * 3).await;
    assert_eq!(third.seen.events(), []);
    nodes[0].mesh.set_peers(with);
    eventually("dialled again", || nodes[0].status(r(3)).connected).await;
}

#[tokio::test]
async fn a_hundred_guests_leave_room_for_peers_and_for_each_other() {
    let nodes = cluster(2, |_| {}).await;
    let target = nodes[1].mesh.local_addr();
    let (mut inside, mut refused) = (Vec::new(), 0);
    for number in 3..103 {
        let own = replica_credentials(number);
        let (endpoint, config) = stranger(stranger_tls(Some(&own), tls::PEER_ALPN));
        let connection = endpoint.connect_with(config, target, "r2.alpha").unwrap().await.unwrap();
        let (mut tx, mut rx) = connection.open_bi().await.unwrap();
        let hello = PeerHello { from: r(number), epoch: None, ..honest() };
        hello::send(&mut tx, &hello.encode()).await.unwrap();
        match hello::receive(&mut rx).await {
            Ok(_) => inside.push((endpoint, connection, tx, rx)),
            Err(why) => {
                assert_eq!(why.code(), Some(0x2d), "{why}");
                refused += 1;
            }
        }
    }
    assert_eq!((inside.len(), refused), (MAX_GUESTS, 100 - MAX_GUESTS));
    // Whoever is to be dialled gets in.
    let third = newcomer(500, 5, &[]).await;
    nodes[1].mesh.set_peers(addresses(&[(1, &nodes[0]), (500, &third)]));
    eventually("a new peer", || nodes[1].status(r(500)).connected).await;
    assert_eq!(nodes[1].mesh.peers().len(), MAX_GUESTS + 2);
    drop(inside);
    eventually("all are gone", || nodes[1].mesh.peers().len() == 2).await;
    assert!(nodes[1].connected());
    assert_eq!(events_of(&nodes[1], 1).len(), 1, "the peer was not disturbed");
}
