//! Frames arrive completely, in order, coalesced and within bounds.

use super::*;

/// Sends `count` numbered frames on both lanes from every node to every other.
async fn exchange(n: u32, count: u64) {
    let nodes = cluster(n, |_| {}).await;
    let all = || (1..=n).flat_map(|a| (1..=n).map(move |b| (a, b))).filter(|(a, b)| a != b);
    for (a, b) in all() {
        for index in 0..count {
            for lane in Lane::ALL {
                let frame = [&[lane.tag()], &*number(index)].concat();
                nodes[a as usize - 1].mesh.send(r(b), lane, frame.into()).unwrap();
            }
        }
    }
    let expected = usize::try_from(count).unwrap() * 2 * (n - 1) as usize;
    eventually("every frame", || nodes.iter().all(|node| node.seen.frames() >= expected)).await;
    for (a, b) in all() {
        let node = &nodes[b as usize - 1];
        for lane in Lane::ALL {
            let numbers: Vec<u64> = node.seen.with(|record| {
                let of_lane =
                    |(from, frame): &&(MemberId, Bytes)| *from == r(a) && frame[0] == lane.tag();
                let number = |(_, frame): &(MemberId, Bytes)| {
                    u64::from_le_bytes(frame[1..].try_into().unwrap())
                };
                record.frames.iter().filter(of_lane).map(number).collect()
            });
            assert!(numbers.into_iter().eq(0..count), "r{a} to r{b} on {lane:?}");
        }
        let status = node.status(r(a));
        assert_eq!((status.frames_dropped, status.connects), (0, 1));
        assert_eq!(status.frames_sent, 2 * count);
        assert_eq!(status.frames_received, 2 * count);
        assert_eq!(status.bytes_received, 2 * count * 9);
    }
    let batches = nodes[0].seen.with(|record| record.batches);
    assert!(batches < expected / 10, "{expected} frames came in {batches} batches");
}

#[tokio::test]
async fn two_peers_exchange_100k_frames_in_order_on_each_lane() {
    exchange(2, 100_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_peers_exchange_100k_frames_on_several_threads() {
    exchange(3, 100_000).await;
}

#[tokio::test]
async fn frames_of_every_size_up_to_the_limit_arrive_whole() {
    let nodes = cluster(2, |config| config.limits.peer_frame_bytes = 1 << 20).await;
    let sizes = [0, 1, 1023, 1024, 1025, 65_536, 200_000, (1 << 20) - 1, 1 << 20];
    let frame = |size: usize| {
        Bytes::from((0..size).map(|i| u8::try_from((i ^ size) % 251).unwrap()).collect::<Vec<_>>())
    };
    for size in sizes {
        nodes[0].mesh.send(r(2), Lane::Bulk, frame(size)).unwrap();
    }
    let too_large = nodes[0].mesh.send(r(2), Lane::Bulk, frame((1 << 20) + 1));
    assert_eq!(too_large, Err(Dropped::TooLarge { bytes: (1 << 20) + 1, limit: 1 << 20 }));
    eventually("every frame", || nodes[1].seen.frames() == sizes.len()).await;
    nodes[1].seen.with(|record| {
        for ((_, read), size) in record.frames.iter().zip(sizes) {
            assert!(*read == frame(size), "frame of {size} bytes");
        }
    });
}

#[tokio::test]
async fn a_node_without_room_holds_the_peer_back_and_loses_nothing() {
    let nodes = cluster(2, |config| {
        config.limits.stream_window_bytes = 100_000;
        config.limits.peer_queue_bytes = 1 << 20;
    })
    .await;
    nodes[1].seen.with(|record| record.refuse = usize::MAX);
    let frame = Bytes::from(vec![7; 1000]);
    let mut sent = 0;
    // Until the queue is full: neither end holds more than its share.
    loop {
        match nodes[0].mesh.send(r(2), Lane::Bulk, frame.clone()) {
            Ok(()) => sent += 1,
            Err(Dropped::Full) => {
                // The stream's window accepts a little more, which makes room once more.
                sleep(Duration::from_millis(100)).await;
                match nodes[0].mesh.send(r(2), Lane::Bulk, frame.clone()) {
                    Ok(()) => sent += 1,
                    Err(_) => break,
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(sent * 1000 < 3 << 20, "{sent} frames of 1000 bytes were taken in");
    // The other lane is not held back by this one.
    let both = nodes[0].mesh.send(r(2), Lane::Consensus, number(1));
    assert_eq!(both, Ok(()));
    assert_eq!(nodes[1].seen.frames(), 0);
    nodes[1].seen.with(|record| record.refuse = 0);
    eventually("all that was taken in", || nodes[1].seen.frames() == sent + 1).await;
    assert_eq!(nodes[0].status(r(2)).frames_dropped, 2);
}

#[tokio::test]
async fn shutdown_sends_what_is_queued_and_frees_the_port() {
    let nodes = cluster(2, |_| {}).await;
    // A connection this old would be dialled again at once if it were lost instead of shut down.
    sleep(Duration::from_millis(1100)).await;
    for index in 0..10_000 {
        nodes[0].mesh.send(r(2), Lane::Bulk, number(index)).unwrap();
    }
    nodes[0].mesh.shutdown().await;
    eventually("every frame", || nodes[1].seen.frames() == 10_000).await;
    eventually("down", || nodes[1].seen.events().len() == 2).await;
    assert_eq!(nodes[1].seen.events(), [Event::Up(r(1), 1), Event::Down(r(1))]);
    let said = nodes[1].status(r(1)).last_error.unwrap();
    assert!(said.contains("shutting down"), "{said}");
    assert_eq!(nodes[0].seen.events(), [Event::Up(r(2), 1), Event::Down(r(2))]);
    let gone = nodes[0].mesh.send(r(2), Lane::Bulk, number(1));
    assert_eq!(gone, Err(Dropped::NotConnected));
    eventually("the port is free", || UdpSocket::bind(nodes[0].mesh.local_addr()).is_ok()).await;
}

#[tokio::test]
async fn unknown_peers_and_the_own_id_are_told_apart_from_lost_connections() {
    let mut config = config(1, 1);
    config.peers = [(r(1), nowhere(1)), (r(2), nowhere(2))].into();
    let node = Node::start(config).await;
    let send = |to| node.mesh.send(to, Lane::Consensus, number(0));
    assert_eq!(send(r(1)), Err(Dropped::UnknownPeer));
    assert_eq!(send(r(3)), Err(Dropped::UnknownPeer));
    assert_eq!(send(r(2)), Err(Dropped::NotConnected));
    assert_eq!(node.status(r(2)).frames_dropped, 1);
}

#[tokio::test]
async fn the_other_congestion_controller_works_too() {
    let nodes = cluster(2, |config| config.congestion = Congestion::Bbr).await;
    for index in 0..10_000 {
        nodes[0].mesh.send(r(2), Lane::Consensus, number(index)).unwrap();
    }
    eventually("every frame", || nodes[1].seen.frames() == 10_000).await;
}

#[tokio::test]
async fn frames_may_be_sent_from_any_thread() {
    let nodes = cluster(2, |_| {}).await;
    let threads: Vec<_> = (0..4)
        .map(|thread: u64| {
            let mesh = nodes[0].mesh.clone();
            std::thread::spawn(move || {
                for index in 0..10_000 {
                    mesh.send(r(2), Lane::Consensus, number(thread << 32 | index)).unwrap();
                }
            })
        })
        .collect();
    eventually("every frame", || nodes[1].seen.frames() == 40_000).await;
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut next = [0; 4];
    nodes[1].seen.with(|record| {
        for (_, frame) in &record.frames {
            let number = u64::from_le_bytes(frame[..].try_into().unwrap());
            let expected = &mut next[usize::try_from(number >> 32).unwrap()];
            assert_eq!(number & 0xffff_ffff, *expected, "in the order of its thread");
            *expected += 1;
        }
    });
}
