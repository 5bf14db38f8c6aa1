//! Strangers that begin handshakes and do not continue.

use std::collections::BTreeSet;

use tokio::net::UdpSocket as Socket;

use super::handshake::{stranger, tls as stranger_tls};
use super::*;

/// Forwards a client's packets to a replica, but returns only those that ask the client to prove
/// its address. So each handshake stops after the replica's answer.
struct Deafness {
    addr: SocketAddr,
    /// The connections whose answers were held back, by the client's id for each.
    open: Arc<Mutex<BTreeSet<Vec<u8>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Deafness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The first byte of a packet that asks for a proof, and its mask (RFC 9000, §17.2.5).
const RETRY: (u8, u8) = (0xf0, 0xf0);

async fn deafness(replica: SocketAddr) -> Deafness {
    let (near, far) = (Socket::bind(loopback()).await.unwrap(), Socket::bind(loopback()).await);
    let far = far.unwrap();
    far.connect(replica).await.unwrap();
    let addr = near.local_addr().unwrap();
    let open = Arc::new(Mutex::new(BTreeSet::new()));
    let held_back = Arc::clone(&open);
    let task = tokio::spawn(async move {
        let (mut one, mut other) = (vec![0; 65_536], vec![0; 65_536]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((length, from)) = near.recv_from(&mut one) => {
                    client = Some(from);
                    let _ = far.send(&one[..length]).await;
                }
                Ok(length) = far.recv(&mut other) => {
                    let packet = &other[..length];
                    if packet[0] & RETRY.1 == RETRY.0 {
                        let _ = near.send_to(packet, client.unwrap()).await;
                    } else if packet[0] & 0x80 != 0 {
                        let name = &packet[6..6 + usize::from(packet[5])];
                        held_back.lock().unwrap().insert(name.to_vec());
                    }
                }
            }
        }
    });
    Deafness { addr, open, task }
}

#[tokio::test]
async fn half_open_handshakes_keep_neither_peers_nor_clients_out() {
    const HALF_OPEN: usize = 300;
    let mut first = config(1, 1);
    // Long enough that none of them times out.
    first.limits.handshake_timeout = Duration::from_secs(600);
    let socket = UdpSocket::bind(loopback()).unwrap();
    first.peers = [(r(2), socket.local_addr().unwrap().into())].into();
    let share = first.limits.max_handshakes * 3 / 4;
    let node = Node::start(first).await;
    let addr = node.mesh.local_addr();
    let deafness = deafness(addr).await;
    // It shares its address with the peers and the clients.
    let (endpoint, config_of_stranger) = stranger(stranger_tls(None, tls::CLIENT_ALPN));
    let mut held = Vec::new();
    for _ in 0..HALF_OPEN {
        let config = config_of_stranger.clone();
        held.push(endpoint.connect_with(config, deafness.addr, "r1.alpha").unwrap());
        sleep(Duration::from_millis(1)).await;
    }
    let open = || deafness.open.lock().unwrap().len();
    eventually("all places taken", || open() >= share).await;
    let mut second = config(2, 1);
    (second.socket, second.peers) = (Some(socket), [(r(1), addr.into())].into());
    let second = Node::start(second).await;
    eventually("the peer is in", || second.connected() && node.connected()).await;
    let mut client = ClientConfig::new(CLUSTER, "alice", client_credentials("alice"));
    client.local = Some(loopback());
    let client = ClientEndpoint::bind(client).unwrap();
    let mut attempts = 0;
    let channel = loop {
        match client.connect(addr, r(1)).await {
            Ok(channel) => break channel,
            Err(why) => {
                attempts += 1;
                assert!(attempts < 50, "{why}");
                sleep(Duration::from_millis(20)).await;
            }
        }
    };
    assert!(channel.closed().is_none());
    drop(held);
}
