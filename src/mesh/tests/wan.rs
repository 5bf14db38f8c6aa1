//! Meshes and clients over the emulated wide area network. Only minimum times are checked: a busy
//! machine may be slow, but never faster than the path.

use super::*;

const ONE_WAY: Duration = Duration::from_millis(20);

async fn far_apart(control: &WanControl, n: u32) -> Vec<Node> {
    cluster(n, |config| {
        config.wan = Some(control.at(config.id.number() as usize - 1));
        // Cuts must be noticed quickly.
        config.limits.idle_timeout = Duration::from_millis(800);
        config.limits.keep_alive = Duration::from_millis(200);
    })
    .await
}

/// The time from sending a frame from 1 to 2 until its answer has arrived.
async fn round_trip(nodes: &[Node]) -> Duration {
    let frames = |index: usize| nodes[index].seen.frames();
    let before = (frames(0), frames(1));
    let start = Instant::now();
    nodes[0].mesh.send(r(2), Lane::Consensus, number(1)).unwrap();
    eventually("a frame", || frames(1) > before.1).await;
    nodes[1].mesh.send(r(1), Lane::Consensus, number(2)).unwrap();
    eventually("an answer", || frames(0) > before.0).await;
    start.elapsed()
}

#[tokio::test]
async fn a_path_takes_its_time_each_way() {
    let control = WanControl::uniform(1, 2, ONE_WAY);
    let nodes = far_apart(&control, 2).await;
    assert!(round_trip(&nodes).await >= 2 * ONE_WAY);
    assert!(nodes[0].status(r(2)).rtt.unwrap() >= 2 * ONE_WAY);
    control.set_delay(0, 1, 4 * ONE_WAY);
    assert!(round_trip(&nodes).await >= 5 * ONE_WAY);
    assert_eq!(nodes[0].status(r(2)).connects, 1);
}

#[tokio::test]
async fn what_is_lost_and_late_is_sent_again_in_order() {
    const FRAMES: u64 = 2000;
    let control = WanControl::uniform(2, 2, Duration::from_millis(2));
    let nodes = far_apart(&control, 2).await;
    for (a, b) in [(0, 1), (1, 0)] {
        control.set_loss(a, b, 0.05);
        control.set_jitter(a, b, Duration::from_millis(3));
    }
    for index in 0..FRAMES {
        nodes[0].mesh.send(r(2), Lane::Consensus, number(index)).unwrap();
        if index % 50 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    let expected = usize::try_from(FRAMES).unwrap();
    eventually("every frame", || nodes[1].seen.frames() == expected).await;
    nodes[1].seen.with(|record| {
        assert!(record.frames.iter().map(|(_, f)| f.clone()).eq((0..FRAMES).map(number)));
    });
}

#[tokio::test]
async fn a_partition_takes_peers_down_and_healing_brings_them_back() {
    let control = WanControl::uniform(3, 3, Duration::from_millis(1));
    let nodes = far_apart(&control, 3).await;
    control.isolate(2);
    eventually("cut off", || {
        let (one, two) = (nodes[0].status(r(3)), nodes[1].status(r(3)));
        !one.connected && !two.connected && nodes[2].mesh.peers().iter().all(|p| !p.connected)
    })
    .await;
    assert!(nodes[0].status(r(2)).connected, "the majority stays together");
    control.heal();
    eventually("all connected", || nodes.iter().all(Node::connected)).await;
    assert_eq!(nodes[0].status(r(2)).connects, 1);
    round_trip(&nodes).await;
}

#[tokio::test]
async fn a_cut_in_one_direction_ends_the_connection_too() {
    let control = WanControl::uniform(4, 2, Duration::from_millis(1));
    let nodes = far_apart(&control, 2).await;
    control.cut(1, 0);
    eventually("down at both ends", || nodes.iter().all(|node| !node.connected())).await;
    control.heal();
    eventually("all connected", || nodes.iter().all(Node::connected)).await;
    round_trip(&nodes).await;
}

#[tokio::test]
async fn a_client_has_a_site_too() {
    let control = WanControl::uniform(5, 2, ONE_WAY);
    let mut config = config(1, 1);
    config.wan = Some(control.at(0));
    let node = Node::start(config).await;
    let mut config = ClientConfig::new(CLUSTER, "alice", client_credentials("alice"));
    // Bound to every address, as clients are by default.
    config.wan = Some(control.at(1));
    let endpoint = ClientEndpoint::bind(config).unwrap();
    let mut channel = endpoint.connect(node.mesh.local_addr(), r(1)).await.unwrap();
    let mut client = node.seen.client().await;
    let start = Instant::now();
    channel.send(number(1)).unwrap();
    let mut frames = Vec::new();
    client.recv(&mut frames).await.unwrap();
    client.sender().send(frames.remove(0)).unwrap();
    channel.recv(&mut frames).await.unwrap();
    assert!(start.elapsed() >= 2 * ONE_WAY);
    assert!(channel.rtt() >= 2 * ONE_WAY);
}
