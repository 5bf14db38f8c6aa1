//! Clients: requests and replies pipelined on one stream, bounded whatever a client does.

use super::*;

async fn endpoint(name: &str) -> ClientEndpoint {
    endpoint_of(name, &client_credentials(name))
}

fn endpoint_of(name: &str, credentials: &Credentials) -> ClientEndpoint {
    let mut config = ClientConfig::new(CLUSTER, name, credentials.clone());
    config.local = Some(loopback());
    ClientEndpoint::bind(config).unwrap()
}

async fn connect(node: &Node) -> (ClientEndpoint, ClientChannel, ClientConnection) {
    let endpoint = endpoint("alice").await;
    let channel = endpoint.connect(node.mesh.local_addr(), r(1)).await.unwrap();
    (endpoint, channel, node.seen.client().await)
}

#[tokio::test]
async fn many_requests_are_under_way_at_once_and_answered_in_any_order() {
    const REQUESTS: u64 = 20_000;
    let node = Node::start(config(1, 1)).await;
    let (_endpoint, mut channel, mut client) = connect(&node).await;
    assert_eq!(client.name(), "alice");
    assert_eq!(node.mesh.clients(), 1);
    let server = tokio::spawn(async move {
        let (mut requests, mut held) = (Vec::new(), Vec::new());
        while held.len() < usize::try_from(REQUESTS).unwrap() {
            client.recv(&mut requests).await.unwrap();
            held.append(&mut requests);
        }
        let replies = client.sender();
        for request in held.into_iter().rev() {
            replies.send(request).unwrap();
        }
        // Dropped while replies are queued: they are sent before the connection closes.
    });
    for index in 0..REQUESTS {
        channel.send(number(index)).unwrap();
    }
    let mut replies = Vec::new();
    while replies.len() < usize::try_from(REQUESTS).unwrap() {
        channel.recv(&mut replies).await.unwrap();
    }
    server.await.unwrap();
    assert!(replies.into_iter().eq((0..REQUESTS).rev().map(number)));
    let end = channel.recv(&mut Vec::new()).await.unwrap_err();
    assert_eq!(end.code(), Some(0), "{end}");
    assert_eq!(channel.send(number(1)), Err(Dropped::NotConnected));
    eventually("the place is free", || node.mesh.clients() == 0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_little_memory_and_is_cut_off_in_the_end() {
    let mut config = config(1, 1);
    config.limits.client_queue_bytes = 100_000;
    config.limits.client_stall = Duration::from_millis(300);
    let node = Node::start(config).await;
    let (_endpoint, channel, client) = connect(&node).await;
    let replies = client.sender();
    let mut taken = 0;
    let dropped = loop {
        match replies.send(Bytes::from(vec![0; 1000])) {
            Ok(()) => taken += 1000,
            Err(dropped) => break dropped,
        }
        // The writer may write as fast as it can; the client's windows stop it.
        if taken % 50_000 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert_eq!(dropped, Dropped::Full);
    // The send window (1 MiB), the queue, and one write under way.
    assert!(taken < 2 << 20, "{taken} bytes were taken in");
    assert_eq!(replies.send(number(1)), Ok(()), "there is room for a few words");
    eventually("told", || channel.closed().is_some_and(|why| why.code() == Some(0x22))).await;
    eventually("the place is free", || node.mesh.clients() == 0).await;
    assert_eq!(replies.send(number(1)), Err(Dropped::NotConnected));
    assert_eq!(client.account().waiting(), 0, "all of it is given back");
}

#[tokio::test]
async fn a_slow_client_is_waited_for_as_long_as_it_reads() {
    let mut config = config(1, 1);
    config.limits.client_queue_bytes = 10 << 20;
    config.limits.client_stall = Duration::from_secs(3);
    let node = Node::start(config).await;
    let mut client_config = ClientConfig::new(CLUSTER, "alice", client_credentials("alice"));
    client_config.limits.stream_window_bytes = 50_000;
    let endpoint = ClientEndpoint::bind(client_config).unwrap();
    let mut channel = endpoint.connect(node.mesh.local_addr(), r(1)).await.unwrap();
    let client = node.seen.client().await;
    for _ in 0..3 {
        client.sender().send(Bytes::from(vec![7; 3 << 20])).unwrap();
    }
    // Each frame takes some sixty round trips.
    let mut frames = Vec::new();
    while frames.len() < 3 {
        channel.recv(&mut frames).await.unwrap();
    }
    assert!(channel.closed().is_none());
}

#[tokio::test]
async fn a_client_is_held_back_while_the_node_does_not_read() {
    let mut config = config(1, 1);
    config.limits.client_window_bytes = 100_000;
    let node = Node::start(config).await;
    let mut client_config = ClientConfig::new(CLUSTER, "alice", client_credentials("alice"));
    client_config.limits.client_queue_bytes = 200_000;
    let endpoint = ClientEndpoint::bind(client_config).unwrap();
    let channel = endpoint.connect(node.mesh.local_addr(), r(1)).await.unwrap();
    let mut client = node.seen.client().await;
    let mut taken = 0;
    while channel.send(Bytes::from(vec![0; 1000])).is_ok() {
        taken += 1000;
        if taken % 50_000 == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(taken < 600_000, "{taken} bytes went into 100 kB of window and 200 kB of queue");
    let sender = channel.sender();
    let room = sender.room();
    let mut frames = Vec::new();
    while frames.len() * 1000 < taken {
        client.recv(&mut frames).await.unwrap();
    }
    room.await;
    channel.send(Bytes::from(vec![1; 1000])).unwrap();
    frames.clear();
    client.recv(&mut frames).await.unwrap();
    assert_eq!(frames, [Bytes::from(vec![1; 1000])]);
}

#[tokio::test]
async fn only_so_many_clients_are_let_in() {
    let mut config = config(1, 1);
    config.limits.max_clients = 2;
    let node = Node::start(config).await;
    let endpoint = endpoint("alice").await;
    let addr = node.mesh.local_addr();
    let first = endpoint.connect(addr, r(1)).await.unwrap();
    let _second = endpoint.connect(addr, r(1)).await.unwrap();
    let refused = endpoint.connect(addr, r(1)).await.unwrap_err();
    assert_eq!(refused.code(), Some(0x19), "{refused}");
    drop(first);
    eventually("a place", || node.mesh.clients() == 1).await;
    endpoint.connect(addr, r(1)).await.unwrap();
}

#[tokio::test]
async fn one_certificate_does_not_take_the_places_of_others() {
    let mut config = config(1, 1);
    (config.limits.max_clients, config.limits.max_clients_per_certificate) = (4, 3);
    let node = Node::start(config).await;
    let addr = node.mesh.local_addr();
    let (alice, bob) = (endpoint("alice").await, endpoint("bob").await);
    let mut channels = Vec::new();
    for _ in 0..3 {
        channels.push(alice.connect(addr, r(1)).await.unwrap());
    }
    let refused = alice.connect(addr, r(1)).await.unwrap_err();
    assert_eq!(refused.code(), Some(0x24), "{refused}");
    assert!(refused.to_string().contains("max_clients_per_certificate"), "{refused}");
    bob.connect(addr, r(1)).await.unwrap();
    channels.pop();
    eventually("Bob is gone, and one of Alice's", || node.mesh.clients() == 2).await;
    alice.connect(addr, r(1)).await.unwrap();
}

#[tokio::test]
async fn halves_of_frames_hold_up_their_own_certificate_alone_and_not_for_ever() {
    const LONG: usize = 100_000;
    let mut config = config(1, 1);
    config.limits.client_frame_bytes = LONG;
    config.limits.certificate_frame_bytes = 2 * LONG;
    config.limits.client_stall = Duration::from_secs(1);
    let node = Node::start(config).await;
    let addr = node.mesh.local_addr();
    // Two of Alice's connections begin a long frame and do not continue.
    let alice = client_credentials("alice");
    let half = async || {
        let tls = super::handshake::tls(Some(&alice), tls::CLIENT_ALPN);
        let (endpoint, config) = super::handshake::stranger(tls);
        let connection = endpoint.connect_with(config, addr, "r1.alpha").unwrap().await.unwrap();
        let (mut tx, mut rx) = connection.open_bi().await.unwrap();
        let hello = hello::ClientHello {
            cluster: CLUSTER.into(),
            to: r(1),
            name: "alice".into(),
            frames: crate::types::Versions::only(2),
        };
        hello::send(&mut tx, &hello.encode()).await.unwrap();
        hello::receive(&mut rx).await.unwrap();
        tx.write_all(&u32::try_from(LONG).unwrap().to_le_bytes()).await.unwrap();
        tx.write_all(&[0; 100]).await.unwrap();
        (endpoint, connection, tx)
    };
    let halves = [half().await, half().await];
    let mut reading = Vec::new();
    for _ in &halves {
        let mut client = node.seen.client().await;
        reading.push(tokio::spawn(async move { client.recv(&mut Vec::new()).await }));
    }
    let long = Bytes::from(vec![1; LONG]);
    let bob = endpoint("bob").await.connect(addr, r(1)).await.unwrap();
    let mut of_bob = node.seen.client().await;
    bob.send(long.clone()).unwrap();
    let mut frames = Vec::new();
    of_bob.recv(&mut frames).await.unwrap();
    let third = endpoint_of("alice", &alice).connect(addr, r(1)).await.unwrap();
    let mut of_third = node.seen.client().await;
    third.send(long.clone()).unwrap();
    of_third.recv(&mut frames).await.unwrap();
    assert_eq!(frames, [long.clone(), long]);
    assert!(reading.iter().any(|reading| reading.is_finished()), "one of them was cut off before");
    for reading in reading {
        let end = reading.await.unwrap().unwrap_err();
        assert_eq!(end.code(), Some(0x22), "{end}");
    }
    drop(halves);
}

#[tokio::test]
async fn an_idle_client_is_disconnected() {
    let mut config = config(1, 1);
    config.limits.client_idle = Duration::from_millis(100);
    let node = Node::start(config).await;
    let (_endpoint, mut channel, mut client) = connect(&node).await;
    let ended = client.recv(&mut Vec::new()).await.unwrap_err();
    assert!(matches!(ended, Closed::Here(Refusal::Idle)), "{ended}");
    let told = channel.recv(&mut Vec::new()).await.unwrap_err();
    assert_eq!(told.code(), Some(0x23), "{told}");
}

#[tokio::test]
async fn oversized_frames_are_stopped_at_either_end() {
    let mut config = config(1, 1);
    config.limits.client_frame_bytes = 1000;
    let node = Node::start(config).await;
    let (_endpoint, mut channel, mut client) = connect(&node).await;
    let too_large = client.sender().send(Bytes::from(vec![0; 1001]));
    assert_eq!(too_large, Err(Dropped::TooLarge { bytes: 1001, limit: 1000 }));
    // The client's own limit is higher, so it is the replica that refuses.
    channel.send(Bytes::from(vec![0; 1001])).unwrap();
    let end = client.recv(&mut Vec::new()).await.unwrap_err();
    assert!(matches!(end, Closed::Here(Refusal::FrameTooLarge { bytes: 1001, limit: 1000 })));
    let told = channel.recv(&mut Vec::new()).await.unwrap_err();
    assert_eq!(told.code(), Some(0x20), "{told}");
}

#[tokio::test]
async fn a_client_tells_a_wrong_replica_and_a_silent_address() {
    let node = Node::start(config(1, 1)).await;
    let endpoint = endpoint("alice").await;
    let wrong = endpoint.connect(node.mesh.local_addr(), r(2)).await.unwrap_err();
    assert!(matches!(wrong, Closed::Connection(_)), "{wrong:?}");
    let silent = UdpSocket::bind(loopback()).unwrap();
    let mut config = ClientConfig::new(CLUSTER, "bob", client_credentials("bob"));
    config.limits.handshake_timeout = Duration::from_millis(200);
    let hasty = ClientEndpoint::bind(config).unwrap();
    let end = hasty.connect(silent.local_addr().unwrap(), r(1)).await.unwrap_err();
    assert!(matches!(end, Closed::Timeout), "{end:?}");
    let mut config = ClientConfig::new(CLUSTER, "carol", client_credentials("bob"));
    config.local = Some(loopback());
    assert!(matches!(ClientEndpoint::bind(config), Err(MeshError::Credentials(_))));
}

#[tokio::test]
async fn shutdown_sends_the_replies_that_are_queued() {
    let node = Node::start(config(1, 1)).await;
    let (_endpoint, mut channel, client) = connect(&node).await;
    for index in 0..1000 {
        client.sender().send(number(index)).unwrap();
    }
    let mut replies = Vec::new();
    let read = async { while channel.recv(&mut replies).await.is_ok() {} };
    tokio::join!(node.mesh.shutdown(), read);
    assert_eq!(replies.len(), 1000);
}

#[tokio::test]
async fn a_farewell_is_said_to_who_is_connected_and_waits_for_nobody_who_never_answered() {
    let node = Node::start(config(1, 1)).await;
    let (endpoint, _channel, mut client) = connect(&node).await;
    let silent = UdpSocket::bind(loopback()).unwrap();
    let dialling = tokio::spawn({
        let (endpoint, addr) = (endpoint.clone(), silent.local_addr().unwrap());
        async move { endpoint.connect(addr, r(2)).await.err() }
    });
    // The dial is under way: its first packet has arrived.
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    tokio::task::spawn_blocking(move || silent.recv(&mut [0; 2000]).unwrap()).await.unwrap();
    let to_tell = endpoint.to_tell();
    let ports: Vec<_> = to_tell.iter().map(|(it, _)| it.remote_address().port()).collect();
    assert_eq!(ports, [node.mesh.local_addr().port()]);
    endpoint.shutdown().await;
    let closed = client.recv(&mut Vec::new()).await.unwrap_err();
    assert!(matches!(closed, Closed::There { code: 0, .. }), "{closed}");
    assert!(dialling.await.unwrap().is_some());
}
