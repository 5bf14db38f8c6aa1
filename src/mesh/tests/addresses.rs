//! Host names, names with several addresses, and both address families.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A resolver's table of names that a test can change at any time.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeMap<String, Vec<SocketAddr>>>>);

impl Names {
    fn set(&self, name: &str, addresses: &[SocketAddr]) {
        self.0.lock().unwrap().insert(name.to_owned(), addresses.to_vec());
    }

    fn resolver(&self) -> Resolver {
        let names = self.clone();
        Resolver::new(move |name, _| {
            let known = names.0.lock().unwrap().get(name).cloned();
            known.ok_or_else(|| io::Error::other("nobody knows that name"))
        })
    }
}

fn named(name: &str) -> Address {
    Address::new(name, 7400).unwrap()
}

/// Replica 2, which cannot find replica 1 itself.
async fn two(incarnation: u64, listen: SocketAddr) -> Node {
    let mut config = config(2, incarnation);
    (config.listen, config.peers) = (listen.into(), [(r(1), nowhere(1))].into());
    if listen.is_ipv6() {
        config.peers = [(r(1), named("replica-1.invalid"))].into();
    }
    Node::start(config).await
}

/// Replica 1, which knows replica 2 by name.
async fn one(names: &Names) -> Node {
    let mut config = config(1, 1);
    config.peers = [(r(2), named("two.test"))].into();
    config.resolver = names.resolver();
    Node::start(config).await
}

async fn client(names: &Names) -> ClientEndpoint {
    let mut config = ClientConfig::new(CLUSTER, "alice", client_credentials("alice"));
    config.resolver = names.resolver();
    ClientEndpoint::bind(config).unwrap()
}

/// The IPv6 loopback address, if the system has one.
#[expect(clippy::print_stdout, reason = "a test that is left out says why")]
fn v6() -> Option<SocketAddr> {
    let loopback: SocketAddr = "[::1]:0".parse().unwrap();
    let bound = UdpSocket::bind(loopback);
    if let Err(error) = &bound {
        println!("skipped: {loopback} cannot be bound: {error}");
    }
    bound.is_ok().then_some(loopback)
}

#[tokio::test]
async fn a_name_is_looked_up_anew_at_each_dial() {
    let names = Names::default();
    let one = one(&names).await;
    eventually("a reason", || one.status(r(2)).last_error.is_some()).await;
    let why = one.status(r(2)).last_error.unwrap();
    assert_eq!(why, "cannot find two.test:7400: nobody knows that name");
    for incarnation in 1..4 {
        // A different address each time.
        let two = two(incarnation, loopback()).await;
        names.set("two.test", &[two.mesh.local_addr()]);
        eventually("connected", || one.connected()).await;
        let channel = client(&names).await.connect(named("two.test"), r(2)).await.unwrap();
        assert_eq!(channel.remote_addr(), two.mesh.local_addr());
        two.mesh.shutdown().await;
        eventually("down", || !one.connected()).await;
    }
}

#[tokio::test]
async fn each_address_of_a_name_is_tried() {
    let names = Names::default();
    let (two, three) = (two(1, loopback()).await, Node::start(config(3, 1)).await);
    // A socket that never answers, another replica, an unusable address, and the right one.
    let silent = UdpSocket::bind(loopback()).unwrap();
    names.set(
        "two.test",
        &[
            silent.local_addr().unwrap(),
            three.mesh.local_addr(),
            "[::1]:7400".parse().unwrap(),
            two.mesh.local_addr(),
        ],
    );
    let one = one(&names).await;
    eventually("connected", || one.connected()).await;
    let channel = client(&names).await.connect(named("two.test"), r(2)).await.unwrap();
    assert_eq!(channel.remote_addr(), two.mesh.local_addr());
    assert_eq!(three.mesh.clients(), 0);
}

#[tokio::test]
async fn when_no_address_answers_each_reason_is_told() {
    let names = Names::default();
    let (three, four) = (Node::start(config(3, 1)).await, Node::start(config(3, 1)).await);
    names.set("two.test", &[three.mesh.local_addr(), four.mesh.local_addr()]);
    let closed = client(&names).await.connect(named("two.test"), r(2)).await.err().unwrap();
    let why = closed.to_string();
    for node in [three, four] {
        assert!(why.contains(&format!("{}: ", node.mesh.local_addr())), "{why}");
    }
    names.set("two.test", &[]);
    let closed = client(&names).await.connect(named("two.test"), r(2)).await.err().unwrap();
    assert!(closed.to_string().contains("it has no address"), "{closed}");
}

#[tokio::test]
async fn a_lookup_that_hangs_is_not_begun_again() {
    let begun = Arc::new(AtomicUsize::new(0));
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let count = Arc::clone(&begun);
    let mut hasty = ClientConfig::new(CLUSTER, "alice", client_credentials("alice"));
    hasty.limits.handshake_timeout = Duration::from_millis(20);
    hasty.resolver = Resolver::new(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        let _ = held.lock().unwrap().recv();
        Err(io::Error::other("in vain"))
    });
    let endpoint = ClientEndpoint::bind(hasty).unwrap();
    for _ in 0..10 {
        let closed = endpoint.connect(named("two.test"), r(2)).await.err().unwrap();
        assert!(matches!(closed, Closed::Timeout), "{closed}");
    }
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    drop(release);
    let mut closed = Closed::Timeout;
    while matches!(closed, Closed::Timeout) {
        closed = endpoint.connect(named("two.test"), r(2)).await.err().unwrap();
    }
    assert!(closed.to_string().contains("in vain"), "{closed}");
}

#[tokio::test]
async fn a_client_reaches_both_families() {
    let Some(v6) = v6() else { return };
    let (four, six) = (two(1, loopback()).await, two(1, v6).await);
    let client = client(&Names::default()).await;
    for node in [four, six] {
        let addr = node.mesh.local_addr();
        let channel = client.connect(addr, r(2)).await.unwrap();
        assert_eq!(channel.remote_addr(), addr);
    }
    client.shutdown().await;
}

#[tokio::test]
async fn who_listens_everywhere_reaches_both_families_and_is_reached() {
    let Some(v6) = v6() else { return };
    let every = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
    let of_three = |number, listen, other| {
        let mut config = config_at(number, listen);
        config.peers.insert(r(other), named("nobody.invalid"));
        config
    };
    let two = Node::start(of_three(2, loopback(), 3)).await;
    let mut nodes = vec![two, Node::start(of_three(3, v6, 2)).await];
    let mut config = config_at(1, every);
    config.peers = [2, 3].map(|n| (r(n), nodes[n as usize - 2].mesh.local_addr().into())).into();
    nodes.push(Node::start(config).await);
    eventually("connected", || nodes[2].connected()).await;
    let port = nodes[2].mesh.local_addr().port();
    for ip in ["127.0.0.1", "::1"] {
        let client = client(&Names::default()).await;
        client.connect(SocketAddr::new(ip.parse().unwrap(), port), r(1)).await.unwrap();
    }
}

/// A replica whose only peer is replica 1, which it cannot find itself.
fn config_at(number: u32, listen: SocketAddr) -> MeshConfig {
    let mut config = config(number, 1);
    config.listen = listen.into();
    config.peers = [(r(1), named("replica-1.invalid"))].into();
    config
}

#[tokio::test]
async fn a_name_of_the_other_family_says_so() {
    let names = Names::default();
    names.set("two.test", &["[::1]:7400".parse().unwrap()]);
    let one = one(&names).await;
    eventually("a reason", || one.status(r(2)).last_error.is_some()).await;
    let why = one.status(r(2)).last_error.unwrap();
    assert!(why.contains("only addresses such as ::1"), "{why}");
}

#[tokio::test]
async fn a_replica_listens_at_its_own_name() {
    let names = Names::default();
    let mut config = config(1, 1);
    (config.listen, config.resolver) = (named("one.test"), names.resolver());
    // One of another machine, and one of this machine.
    names.set("one.test", &["192.0.2.1:0".parse().unwrap(), loopback()]);
    let node = Node::start(config).await;
    assert_eq!(node.mesh.local_addr().ip(), loopback().ip());
    let mut config = super::config(1, 1);
    (config.listen, config.resolver) = (named("one.test"), names.resolver());
    names.set("one.test", &["192.0.2.1:7400".parse().unwrap()]);
    let refused = Mesh::start(config, Recorder::default()).await.unwrap_err().to_string();
    for words in ["cannot listen at one.test:7400", "192.0.2.1", "Set `listen`"] {
        assert!(refused.contains(words), "{refused}");
    }
}

#[tokio::test]
async fn a_list_that_cannot_work_is_no_mesh() {
    let mut config = config(1, 1);
    config.peers = [(r(2), "[::1]:7402".parse().unwrap())].into();
    let refused = Mesh::start(config, Recorder::default()).await.unwrap_err();
    assert!(matches!(refused, MeshError::Peers(_)), "{refused}");
}
