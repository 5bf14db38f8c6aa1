//! Connections end and are replaced; exactly one stays.

use super::*;

/// Starts a mesh at an address that another has just left.
async fn restart(mut config: MeshConfig, addr: SocketAddr) -> Node {
    eventually("the port is free", || match UdpSocket::bind(addr) {
        Ok(socket) => {
            config.socket = Some(socket);
            true
        }
        Err(_) => false,
    })
    .await;
    Node::start(config).await
}

async fn one_frame_each_way(nodes: &[&Node], ids: [u32; 2]) {
    for (from, to) in [(0, 1), (1, 0)] {
        let before = nodes[to].seen.frames();
        nodes[from].mesh.send(r(ids[to]), Lane::Consensus, number(5)).unwrap();
        eventually("a frame", || nodes[to].seen.frames() > before).await;
    }
}

async fn restart_of(number: u32) {
    let mut nodes = cluster(2, |_| {}).await;
    let other = 3 - number;
    let stays = nodes.remove(other as usize - 1);
    let goes = nodes.remove(0);
    let addr = goes.mesh.local_addr();
    goes.mesh.shutdown().await;
    drop(goes);
    eventually("down", || !stays.connected()).await;
    let mut config = config(number, 2);
    config.peers = [(r(other), stays.mesh.local_addr().into())].into();
    let back = restart(config, addr).await;
    eventually("up again", || stays.connected() && back.connected()).await;
    let up = |life| Event::Up(r(number), life);
    assert_eq!(stays.seen.events(), [up(1), Event::Down(r(number)), up(2)]);
    assert_eq!(stays.status(r(number)).life, Some(2));
    assert_eq!(stays.status(r(number)).connects, 2);
    one_frame_each_way(&[&stays, &back], [other, number]).await;
}

#[tokio::test]
async fn the_lower_id_comes_back_in_another_life() {
    restart_of(1).await;
}

#[tokio::test]
async fn the_higher_id_comes_back_in_another_life() {
    restart_of(2).await;
}

/// Neither end sends frames here, so only QUIC can tell that the first process is alive.
#[tokio::test]
async fn a_second_process_of_a_replica_is_refused_while_the_first_is_there() {
    let nodes = cluster(2, |_| {}).await;
    let mut second = config(2, 7);
    second.peers = [(r(1), nodes[0].mesh.local_addr().into())].into();
    let second = Node::start(second).await;
    eventually("a complaint", || {
        let why = second.status(r(1)).last_error;
        why.is_some_and(|why| why.contains("another process runs as r2"))
    })
    .await;
    assert!(!second.connected() && nodes[0].connected() && nodes[1].connected());
    assert_eq!(nodes[0].seen.events(), [Event::Up(r(2), 1)], "the first was not disturbed");
    one_frame_each_way(&[&nodes[0], &nodes[1]], [1, 2]).await;
}

#[tokio::test]
async fn frames_for_a_lost_peer_are_bounded_dropped_and_counted() {
    let mut nodes = cluster(2, |config| config.limits.peer_queue_bytes = 100_000).await;
    let (two, one) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    // No await in between, so nothing is written while the queue fills.
    let frame = Bytes::from(vec![0; 1000]);
    let taken =
        (0..1000).filter(|_| one.mesh.send(r(2), Lane::Bulk, frame.clone()).is_ok()).count();
    assert!((90..100).contains(&taken), "{taken} frames of 1000 bytes in 100 kB");
    assert_eq!(one.status(r(2)).frames_dropped, 1000 - taken as u64);
    two.mesh.shutdown().await;
    eventually("down", || !one.connected()).await;
    let before = one.status(r(2)).frames_dropped;
    for _ in 0..10 {
        let sent = one.mesh.send(r(2), Lane::Consensus, frame.clone());
        assert_eq!(sent, Err(Dropped::NotConnected));
    }
    assert_eq!(one.status(r(2)).frames_dropped, before + 10);
}

#[tokio::test]
async fn two_dials_that_cross_leave_one_connection() {
    // With 20 ms one way, the lower id's hello is answered after 80 ms. The higher id has dialled
    // after its head start of 50 ms. So every round refuses one duplicate.
    for round in 0..5 {
        let control = WanControl::uniform(round, 2, Duration::from_millis(20));
        let nodes = cluster(2, |config| {
            config.wan = Some(control.at(config.id.number() as usize - 1));
        })
        .await;
        let dials = || nodes.iter().map(|node| node.status_of_other().connects).collect::<Vec<_>>();
        one_frame_each_way(&[&nodes[0], &nodes[1]], [1, 2]).await;
        sleep(Duration::from_millis(200)).await;
        assert!(nodes.iter().all(Node::connected));
        assert_eq!(dials(), [1, 1], "no flapping");
    }
}

#[tokio::test]
async fn of_many_peers_restarting_in_turn_all_pairs_end_connected_once() {
    const N: u32 = 4;
    let mut nodes: Vec<Option<Node>> = cluster(N, |_| {}).await.into_iter().map(Some).collect();
    let addrs: Vec<SocketAddr> =
        nodes.iter().map(|node| node.as_ref().unwrap().mesh.local_addr()).collect();
    for round in 2..4 {
        for number in 1..=N {
            let index = number as usize - 1;
            let old = nodes[index].take().unwrap();
            old.mesh.shutdown().await;
            drop(old);
            let mut config = config(number, round);
            config.peers =
                (1..=N).map(r).zip(addrs.iter().map(|addr| Address::from(*addr))).collect();
            nodes[index] = Some(restart(config, addrs[index]).await);
        }
    }
    let nodes: Vec<Node> = nodes.into_iter().flatten().collect();
    eventually("all connected", || nodes.iter().all(Node::connected)).await;
    let connects = || -> Vec<u64> {
        nodes.iter().flat_map(|node| node.mesh.peers()).map(|status| status.connects).collect()
    };
    sleep(Duration::from_millis(100)).await;
    let settled = connects();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(connects(), settled, "connections stay once made");
    assert!(nodes.iter().all(Node::connected));
}

#[tokio::test]
async fn a_dropped_mesh_closes_its_connections() {
    let mut nodes = cluster(2, |_| {}).await;
    let (two, one) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    drop(two);
    eventually("down", || one.seen.events() == [Event::Up(r(2), 1), Event::Down(r(2))]).await;
}
